/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/network.h"

#include "dataplane/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THIEF_IP 0x0a4900ffu
#define KEPT     64 /* earlier frames that may be replayed */

struct frame {
    uint64_t at_ns, number; /* equal times: in order of sending */
    uint32_t len;
    uint8_t bytes[];
};

struct side {
    struct port port; /* first: the port is the side */
    struct network *network;
    struct frame **heap; /* under way to this side, earliest first */
    size_t n, room;
    bool peer_lost; /* not told yet */
};

struct network {
    struct network_params p;
    struct dice dice;
    struct side sides[2];
    uint64_t now_ns, number;
    struct frame *kept[KEPT];
    uint16_t nat_port; /* 0: no NAT */
    uint64_t misled;
};

uint64_t dice_next(struct dice *d)
{
    uint64_t z = d->state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t dice_below(struct dice *d, uint64_t n)
{
    return dice_next(d) % n;
}

uint64_t dice_between(struct dice *d, uint64_t a, uint64_t b)
{
    return a + dice_below(d, b - a + 1);
}

bool dice_chance(struct dice *d, double p)
{
    return (double)(dice_next(d) >> 11) * 0x1p-53 < p;
}

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "simulation: out of memory\n");
        abort();
    }
    return p;
}

/* --- frames under way ------------------------------------------------------------------------- */

static bool earlier(const struct frame *a, const struct frame *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->number < b->number);
}

static void swap(struct frame **a, struct frame **b)
{
    struct frame *t = *a;

    *a = *b;
    *b = t;
}

static void push(struct side *s, struct frame *f)
{
    size_t i = s->n++;

    if (s->n > s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->heap = must(realloc(s->heap, s->room * sizeof s->heap[0]));
    }
    for (s->heap[i] = f; i && earlier(s->heap[i], s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&s->heap[i], &s->heap[(i - 1) / 2]);
}

static struct frame *pop(struct side *s)
{
    struct frame *first = s->heap[0];
    size_t i = 0, child;

    s->heap[0] = s->heap[--s->n];
    while ((child = 2 * i + 1) < s->n) {
        if (child + 1 < s->n && earlier(s->heap[child + 1], s->heap[child]))
            child++;
        if (!earlier(s->heap[child], s->heap[i]))
            break;
        swap(&s->heap[i], &s->heap[child]);
        i = child;
    }
    return first;
}

static struct frame *copy_frame(const uint8_t *bytes, uint32_t len)
{
    struct frame *f = must(malloc(sizeof *f + len));

    f->len = len;
    memcpy(f->bytes, bytes, len);
    return f;
}

static void depart(struct network *n, struct side *to, struct frame *f)
{
    f->number = n->number++;
    f->at_ns = n->now_ns + dice_between(&n->dice, n->p.delay_min_ns, n->p.delay_max_ns);
    push(to, f);
}

static void from(struct frame *f, uint32_t ip, uint16_t port)
{
    struct wire_path back, path;

    outer_way_back(f->bytes, &back);
    path = (struct wire_path){.src_ip = ip ? ip : back.dst_ip,
                              .dst_ip = back.src_ip,
                              .src_port = port,
                              .dst_port = back.src_port};
    memcpy(path.src_mac, back.dst_mac, 6);
    memcpy(path.dst_mac, back.src_mac, 6);
    outer_readdress(f->bytes, &path);
}

static void to_inside(struct frame *f)
{
    struct wire_path back, path;

    outer_way_back(f->bytes, &back);
    path = (struct wire_path){.src_ip = back.dst_ip,
                              .dst_ip = wire_path_edge.src_ip,
                              .src_port = back.dst_port,
                              .dst_port = wire_path_edge.src_port};
    memcpy(path.src_mac, back.dst_mac, 6);
    memcpy(path.dst_mac, back.src_mac, 6);
    outer_readdress(f->bytes, &path);
}

/* By the NAT: the frame as it is beyond; NULL: it goes nowhere. */
static struct frame *translate(struct network *n, struct side *to, struct frame *f)
{
    struct wire_path back;

    if (!n->p.rebind && !n->p.steal && !n->nat_port)
        return f;
    if (!n->nat_port || dice_chance(&n->dice, n->p.rebind))
        n->nat_port = (uint16_t)dice_between(&n->dice, 20000, 60000);
    if (to == &n->sides[1]) {
        if (dice_chance(&n->dice, n->p.steal)) {
            struct frame *stolen = copy_frame(f->bytes, f->len);

            from(stolen, THIEF_IP, 666);
            stolen->number = n->number++;
            stolen->at_ns = n->now_ns;
            push(to, stolen);
        }
        from(f, 0, n->nat_port);
        return f;
    }
    outer_way_back(f->bytes, &back);
    if (back.src_ip == THIEF_IP)
        n->misled += (f->bytes[WIRE_L2L4_BYTES] & 15) < WIRE_CHALLENGE;
    if (back.src_port == n->nat_port && back.src_ip != THIEF_IP) {
        to_inside(f);
        return f;
    }
    free(f);
    return NULL;
}

static void send_copies(struct network *n, struct side *to, const struct frame *p)
{
    struct frame **kept = &n->kept[dice_below(&n->dice, KEPT)];

    if (!dice_chance(&n->dice, n->p.drop))
        depart(n, to, copy_frame(p->bytes, p->len));
    if (dice_chance(&n->dice, n->p.duplicate))
        depart(n, to, copy_frame(p->bytes, p->len));
    if (dice_chance(&n->dice, n->p.flip)) {
        struct frame *f = copy_frame(p->bytes, p->len);
        uint64_t bit = dice_below(&n->dice, (uint64_t)f->len * 8);

        f->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        depart(n, to, f);
    }
    if (dice_chance(&n->dice, n->p.noise)) {
        struct frame *f = copy_frame(p->bytes, (uint32_t)dice_between(&n->dice, 1, p->len));
        uint32_t from = dice_chance(&n->dice, .5) ? 0 : (uint32_t)dice_below(&n->dice, f->len);

        for (uint32_t i = from; i < f->len; i++)
            f->bytes[i] = (uint8_t)dice_next(&n->dice);
        depart(n, to, f);
    }
    if (*kept && dice_chance(&n->dice, n->p.replay)) /* perhaps back to its own sender */
        depart(n, to, copy_frame((*kept)->bytes, (*kept)->len));
    free(*kept);
    *kept = copy_frame(p->bytes, p->len);
}

static void send_one(struct network *n, struct side *to, const struct pkt *p)
{
    struct frame *f;

    if (n->p.mtu_bytes && p->len > n->p.mtu_bytes + OUTER_ETHERNET_BYTES)
        return;
    f = translate(n, to, copy_frame(p->data, p->len));

    if (f)
        send_copies(n, to, f);
    free(f);
}

/* --- ports ------------------------------------------------------------------------------------ */

static int side_rx(struct port *port, struct pkt **pkts, int count)
{
    struct side *s = (struct side *)port;
    int got = 0;

    while (got < count && s->n && s->heap[0]->at_ns <= s->network->now_ns) {
        struct pkt *p = pkt_alloc(port->pool);
        struct frame *f;

        if (!p)
            break;
        f = pop(s);
        memcpy(p->data, f->bytes, f->len);
        p->len = f->len;
        pkts[got++] = p;
        free(f);
    }
    return got;
}

static int side_tx(struct port *port, struct pkt **pkts, int count)
{
    struct side *s = (struct side *)port;
    struct network *n = s->network;

    for (int i = 0; i < count; i++) {
        if (dice_chance(&n->dice, n->p.refuse))
            return i;
        send_one(n, &n->sides[s == &n->sides[0]], pkts[i]);
    }
    return count;
}

static int side_wait(struct port *port, uint64_t deadline_ns)
{
    return 0;
}

static int side_alive(struct port *port)
{
    struct side *s = (struct side *)port;
    bool lost = s->peer_lost;

    s->peer_lost = false;
    return lost ? -EPIPE : 1;
}

static void side_close(struct port *port)
{
}

static const struct port_ops side_ops = {side_rx, side_tx, side_wait, side_alive, side_close};

struct network *network_open(uint64_t seed, const struct network_params *p, uint32_t pool_packets,
                             uint32_t mtu_bytes)
{
    struct network *n = must(calloc(1, sizeof *n));

    n->p = *p;
    n->dice.state = seed;
    for (int i = 0; i < 2; i++) {
        n->sides[i].network = n;
        n->sides[i].port.ops = &side_ops;
        n->sides[i].port.caps = (struct port_caps){.name = "simulated",
                                                   .mtu_bytes = mtu_bytes,
                                                   .mtu_sure_bytes = p->mtu_sure_bytes,
                                                   .burst = 32,
                                                   .tells_loss = true};
        n->sides[i].port.pool = must(pkt_pool_heap(pool_packets, mtu_bytes + 14));
    }
    return n;
}

void network_clear(struct network *n)
{
    for (int i = 0; i < 2; i++) {
        while (n->sides[i].n)
            free(pop(&n->sides[i]));
    }
    for (int i = 0; i < KEPT; i++) {
        free(n->kept[i]);
        n->kept[i] = NULL;
    }
}

void network_drain(struct network *n, int side)
{
    struct side *s = &n->sides[side];

    while (s->n && s->heap[0]->at_ns <= n->now_ns)
        free(pop(s));
}

void network_close(struct network *n)
{
    network_clear(n);
    for (int i = 0; i < 2; i++) {
        if (n->sides[i].port.pool->n_free != n->sides[i].port.pool->n_total) {
            fprintf(stderr, "simulation: side %d leaked %u packets\n", i,
                    n->sides[i].port.pool->n_total - n->sides[i].port.pool->n_free);
            abort();
        }
        pkt_pool_heap_close(n->sides[i].port.pool);
        free(n->sides[i].heap);
    }
    free(n);
}

uint64_t network_misled(const struct network *n)
{
    return n->misled;
}

void network_set_params(struct network *n, const struct network_params *p)
{
    n->p = *p;
}

void network_set_now(struct network *n, uint64_t now_ns)
{
    n->now_ns = now_ns;
}

uint64_t network_now(const struct network *n)
{
    return n->now_ns;
}

uint64_t network_next(const struct network *n, int side)
{
    return n->sides[side].n ? n->sides[side].heap[0]->at_ns : UINT64_MAX;
}

void network_lose_peer(struct network *n, int side)
{
    n->sides[side].peer_lost = true;
}

struct port *network_port(struct network *n, int side)
{
    return &n->sides[side].port;
}
