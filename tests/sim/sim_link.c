/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two links over a simulated network under a virtual clock. Random messages both ways, random
 * impairments, owners that go away for a while, tiny budgets; with keys or without, keys that are
 * soon worn, restarts with new keys while the old frames are still about. What must hold, for any
 * seed:
 *
 *   every message arrives whole, unchanged, exactly once, in order within its session;
 *   packets in flight, packets held for the receiver and packets held in all stay within their
 *   bounds;
 *   when sending stops, everything is soon acknowledged, and no packet is left anywhere;
 *   through a NAT that forgets, nothing goes to who sends copies of a peer's frames;
 *   no nonce of any key seals two different byte strings (ledger.h);
 *   where the path takes less than the ports, or comes to do so, all of that holds, too; but for
 *   probes nothing is longer than what the path is known to take, and that is found.
 *
 *   sim_link [--seed N] [--runs R | --seconds S] [--steps M]
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link.h"
#include "tests/sim/ledger.h"
#include "tests/sim/network.h"
#include "tests/sim/seeds.h"

#define SESSIONS   24u
#define MS         1000000ull
#define POOL       8192u
#define MTU        700u
#define MTU_LONG   4000u
#define MTU_SURE   1280u
#define SETTLE_NS  (600ull * 1000 * MS) /* virtual: far more than needed at 50 % loss */
#define MARK_BYTES 20u
#define LONG_BYTES 12000u /* of payload, beyond any of the ports' packets */
#define LONG_POOL  1024u
#define PIECES     128u /* most that a link has to send */

static struct seeds seeds = {.seed = 1, .runs = 40};
static uint32_t steps = 4000;

static void fail(const char *what, uint64_t a, uint64_t b)
{
    fprintf(stderr, "FAILED: %s (%" PRIu64 ", %" PRIu64 ")\n", what, a, b);
    seeds_failed();
}

struct peer {
    struct link *link;
    struct port *port;
    struct pkt_pool *long_pool; /* of packets longer than the port's */
    struct link_params params;
    struct keys_params keys;
    uint64_t away_until_ns;      /* the owner computes and does not call the link */
    double recv_chance;          /* how eagerly it takes messages */
    bool probes;                 /* the path may take less than the port */
    uint32_t sent[SESSIONS];     /* messages so far, by session */
    uint32_t received[SESSIONS]; /* by session */
    uint64_t n_sent, n_received, n_sent_packets, n_taken_packets;
    uint32_t longest; /* message that was sent, in packets */
    uint32_t held_max, in_flight_max;
};

static uint8_t pattern(uint32_t session, uint32_t ordinal, uint32_t fragment, uint32_t i)
{
    return (uint8_t)((session * 131 + ordinal * 31 + fragment * 7 + i) * 0x9d + (ordinal >> 8));
}

/* Where the path is looked for, sometimes all that fits, or more: as the tiles of a history do. */
static uint32_t fragment_bytes(const struct peer *p, struct dice *d)
{
    const uint32_t room = wire_payload_max(p->probes ? link_mtu(p->link) : MTU);

    if (p->probes && link_heard(p->link) && p->long_pool->n_free && dice_chance(d, .02))
        return (uint32_t)dice_between(d, MARK_BYTES, LONG_BYTES);
    if (p->probes && dice_chance(d, .3))
        return room - LINK_REPLY_PREFIX_BYTES;
    return MARK_BYTES + (uint32_t)dice_below(d, 500);
}

/* Mark: session, ordinal within the session, fragment, fragments, bytes; then their pattern. */
static void write_fragment(uint8_t *p, uint32_t session, uint32_t ordinal, uint32_t fragment,
                           uint32_t n, uint32_t bytes)
{
    uint32_t mark[5] = {session, ordinal, fragment, n, bytes};

    memcpy(p, mark, sizeof mark);
    for (uint32_t i = MARK_BYTES; i < bytes; i++)
        p[i] = pattern(session, ordinal, fragment, i);
}

static void check_message(struct peer *to, struct link_message *m)
{
    if (m->session >= SESSIONS)
        fail("unknown session", m->session, 0);
    uint32_t ordinal = to->received[m->session]++;

    for (uint16_t i = 0; i < m->n_fragments; i++) {
        size_t len;
        const uint8_t *p = link_message_payload(m, i, &len);
        uint32_t mark[5];

        if (len < MARK_BYTES)
            fail("length", m->session, ordinal);
        memcpy(mark, p, sizeof mark);
        if (mark[4] != len)
            fail("length, so order or content", m->session, ordinal);
        if (mark[0] != m->session || mark[1] != ordinal || mark[2] != i ||
            mark[3] != m->n_fragments)
            fail("order within a session", ordinal, mark[1]);
        for (uint32_t k = MARK_BYTES; k < len; k++) {
            if (p[k] != pattern(m->session, ordinal, i, k))
                fail("content", m->session, ordinal);
        }
    }
    to->n_received++;
    to->n_taken_packets += m->n_fragments;
}

static uint32_t message_size(struct dice *d, bool small)
{
    if (dice_chance(d, .7))
        return 1;
    if (small || dice_chance(d, .9))
        return (uint32_t)dice_between(d, 2, 40);
    return (uint32_t)dice_between(d, 41, LINK_FRAGMENTS_MAX);
}

static void send_message(struct peer *p, struct dice *d, int64_t reply_to)
{
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];
    uint32_t session = (uint32_t)dice_below(d, SESSIONS),
             n = message_size(d, p->params.window_packets < 16);
    int64_t number;

    if ((n > 1 || dice_chance(d, .9)) && link_window_left(p->link) == 0)
        return; /* as a pipeline does; a little beyond the window must do no harm */
    if (p->port->pool->n_free < POOL / 2 + n)
        return;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t offset = link_payload_offset(reply_to >= 0, i);

        bytes[i] = (uint16_t)fragment_bytes(p, d);
        pkts[i] = bytes[i] + offset + WIRE_OVERHEAD > p->port->pool->room
                      ? pkt_alloc(p->long_pool)
                      : pkt_alloc(p->port->pool);
        write_fragment(pkts[i]->data + WIRE_PAYLOAD_AT + offset, session, p->sent[session], i, n,
                       bytes[i]);
    }
    number = link_send(p->link, session, (enum wire_class)dice_below(d, 4), reply_to, pkts, bytes,
                       (uint16_t)n);
    if (number == -ENOBUFS || number == -ENOTCONN)
        return;
    if (number <= 0)
        fail("link_send", (uint64_t)-number, n);
    p->sent[session]++;
    p->n_sent++;
    p->n_sent_packets += n;
    if (n > p->longest)
        p->longest = n;
}

/* Between two calls a side holds what it sent and is not acknowledged, and what came and is not
 * taken. Beyond the budget there is only the oldest message, without which nothing would go on, and
 * pieces to be sent. */
static void check_bounds(struct peer *p, const struct peer *other)
{
    struct link_stats s;
    const struct pkt_pool *pool = p->port->pool, *longs = p->long_pool;
    uint32_t window = p->params.window_packets;
    uint32_t used = pool->n_total - pool->n_free + longs->n_total - longs->n_free;
    uint32_t sent = link_unacknowledged(p->link), held;

    link_stats(p->link, &s);
    if (s.in_flight_packets > window + 8)
        fail("in flight above the window", s.in_flight_packets, window);
    if (s.in_flight_packets > p->in_flight_max)
        p->in_flight_max = s.in_flight_packets;
    if (sent > used)
        fail("packets to send that are not held", sent, used);
    held = used - sent;
    if (held > p->params.rx_budget_packets + other->longest + (p->probes ? PIECES : 0))
        fail("packets held above the budget", held, p->params.rx_budget_packets);
    if (held > p->held_max)
        p->held_max = held;
}

static void check_length(const struct peer *p, const struct pkt *f)
{
    if ((f->data[WIRE_L2L4_BYTES] & 15) != WIRE_PROBE &&
        f->len - OUTER_ETHERNET_BYTES > link_mtu(p->link))
        fail("longer than the path is known to take", f->len, link_mtu(p->link));
}

/* One call of the owner: packets in, messages out, time, packets out. The next deadline. */
static uint64_t service(struct peer *p, const struct peer *other, struct dice *d, uint64_t now)
{
    struct link_message m;
    struct pkt *pkts[32];
    uint64_t deadline;
    int n, taken;

    while ((n = port_rx(p->port, pkts, 32)) > 0) {
        for (int i = 0; i < n; i++)
            (void)link_input(p->link, pkts[i], now);
    }
    while (dice_chance(d, p->recv_chance) && link_recv(p->link, &m)) {
        check_message(p, &m);
        if (dice_chance(d, .5))
            send_message(p, d, m.message);
        link_message_free(&m);
    }
    if (link_tick(p->link, now, &deadline))
        fail(link_why_dead(p->link), now, 0);
    do {
        n = link_output(p->link, pkts, 32, p->port->pool, now);
        for (int i = 0; i < n; i++)
            check_length(p, pkts[i]);
        taken = port_tx(p->port, pkts, n);
        for (int i = 0; i < taken; i++)
            pkt_unref(pkts[i]);
        for (int i = taken; i < n; i++)
            link_output_refused(p->link, pkts[i], now);
    } while (n && taken == n);
    check_bounds(p, other);
    return n ? now + MS / 10 : link_deadline(p->link); /* the port was full: soon again */
}

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Let virtual time pass to the next thing that happens. */
static uint64_t step(struct network *net, struct peer *peers, struct dice *d)
{
    uint64_t now = network_now(net), next = UINT64_MAX;

    seeds.n_steps++;
    for (int i = 0; i < 2; i++) {
        struct peer *p = &peers[i];

        if (p->away_until_ns > now) {
            next = min64(next, p->away_until_ns);
            continue;
        }
        next = min64(next, service(p, &peers[!i], d, now));
        next = min64(next, network_next(net, i));
        if (p->recv_chance < 1)
            next = min64(next, now + MS);
    }
    for (int i = 0; i < 2; i++) { /* what the second sent to the first just now */
        if (peers[i].away_until_ns <= now)
            next = min64(next, network_next(net, i));
    }
    if (next == UINT64_MAX)
        return now;
    if (next <= now)
        next = now + 1000;
    network_set_now(net, next);
    return next;
}

/* Links of a fresh connection, with fresh keys where there are any. */
static void connect_peers(struct peer *peers, struct dice *d, bool keyed, uint64_t now)
{
    uint8_t secrets[2][KEYS_SECRET_BYTES];

    for (unsigned i = 0; i < 2 * KEYS_SECRET_BYTES; i++)
        secrets[i / KEYS_SECRET_BYTES][i % KEYS_SECRET_BYTES] = (uint8_t)dice_next(d);
    peers[0].params.connection = (uint32_t)dice_between(d, 1, UINT32_MAX);
    for (int i = 0; i < 2; i++) {
        struct peer *p = &peers[i];

        if (keyed && (keys_open(&p->keys, &p->params.keys) ||
                      keys_set(p->params.keys, secrets[0], secrets[1])))
            fail("keys_open", (uint64_t)i, 0);
        if (link_open(&p->params, now, &p->link))
            fail("link_open", (uint64_t)i, 0);
    }
}

static void disconnect(struct peer *p)
{
    link_close(p->link);
    keys_close(p->params.keys);
    p->link = NULL;
    p->params.keys = NULL;
}

/* Both forget everything, as after a crash; frames under way stay so. */
static void restart(struct peer *peers, struct dice *d, uint64_t now)
{
    for (int i = 0; i < 2; i++) {
        struct peer *p = &peers[i];

        disconnect(p);
        memset(p->sent, 0, sizeof p->sent);
        memset(p->received, 0, sizeof p->received);
        p->n_sent = p->n_received = p->n_sent_packets = p->n_taken_packets = 0;
        p->away_until_ns = 0;
        p->longest = 0;
    }
    connect_peers(peers, d, true, now);
}

static bool settled(const struct peer *a, const struct peer *b)
{
    return link_idle(a->link) && link_idle(b->link) && a->n_sent == b->n_received &&
           b->n_sent == a->n_received;
}

/* When it takes what it did for so long, and nothing is lost, that is known. */
static void find_mtu(struct network *net, struct peer *peers, struct dice *d, uint32_t mtu)
{
    static const uint32_t usual[] = {1280, 1400, 1420, 1440, 1450, 1460, 1480,
                                     1492, 1500, 2000, MTU_LONG};
    const uint64_t end = network_now(net) + 1300ull * 1000 * MS; /* it looks anew in this time */
    uint32_t most = 0;

    peers[0].recv_chance = peers[1].recv_chance = 1; /* no need to look each millisecond */
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        most = usual[i] <= mtu ? usual[i] : most;
    while (network_now(net) < end) {
        const uint64_t before = network_now(net);

        if (step(net, peers, d) == before)
            network_set_now(net, before + 100 * MS);
    }
    for (int i = 0; i < 2; i++) {
        if (link_heard(peers[i].link) && link_mtu(peers[i].link) != most)
            fail("the path's MTU is not found", link_mtu(peers[i].link), most);
    }
}

static uint32_t any_mtu(struct dice *d)
{
    return (uint32_t)(dice_chance(d, .5) ? dice_between(d, MTU_SURE, 1600)
                                         : dice_between(d, MTU_SURE, MTU_LONG));
}

static void run(void)
{
    struct dice d = {seeds.seed};
    static const double drops[] = {0, .01, .2, .5};
    struct network_params np = {
        .drop = drops[dice_below(&d, 4)],
        .duplicate = dice_chance(&d, .5) ? .2 : 0,
        .flip = dice_chance(&d, .3) ? .05 : 0,
        .noise = dice_chance(&d, .3) ? .05 : 0,
        .replay = dice_chance(&d, .3) ? .1 : 0,
        .refuse = dice_chance(&d, .3) ? .1 : 0,
        .delay_min_ns = dice_below(&d, 2) ? 5000 : 2 * MS,
        .rebind = dice_chance(&d, .3) ? .01 : 0,
    };
    np.delay_max_ns = np.delay_min_ns * dice_between(&d, 1, 8);
    double steal = dice_chance(&d, .3) ? .05 : 0;
    double away_chance = dice_chance(&d, .5) ? .01 : 0, send_chance = dice_chance(&d, .5) ? .3 : 1;
    bool tiny = dice_chance(&d, .3), keyed = dice_chance(&d, .6);
    double restart_chance = keyed && dice_chance(&d, .5) ? .001 : 0;
    /* Who sends nothing but acknowledgements does not learn that all frames of a key went to where
     * a NAT no longer listens; real keys last for more of them than can be lost in a row. */
    uint64_t worn_least = np.rebind > 0 ? 2000 : 200;
    uint64_t worn_packets =
        dice_chance(&d, .7) ? dice_between(&d, worn_least, worn_least + 2800) : 0;
    const bool probes = dice_chance(&d, .5);
    const double change = probes && dice_chance(&d, .5) ? .002 : 0;
    uint32_t restarts = 0;

    np.mtu_bytes = probes ? any_mtu(&d) : 0;
    np.mtu_sure_bytes = probes ? MTU_SURE : 0;
    struct network *net = network_open(dice_next(&d), &np, POOL, probes ? MTU_LONG : MTU);
    struct peer peers[2] = {0};
    uint64_t deadline = 0;

    for (int i = 0; i < 2; i++) {
        struct peer *p = &peers[i];

        p->port = network_port(net, i);
        p->long_pool =
            pkt_pool_heap(LONG_POOL, LONG_BYTES + WIRE_OVERHEAD + LINK_REPLY_PREFIX_BYTES);
        p->recv_chance = dice_chance(&d, .3) ? .3 : 1;
        p->probes = probes;
        p->params = (struct link_params){
            .path = i ? &wire_path_cloud : &wire_path_edge,
            .initiator = i == 0,
            .epoch = i ? 0 : 7,
            .window_packets = tiny ? (uint32_t)dice_between(&d, 1, 8) : 512,
            .rx_budget_packets =
                (uint32_t)(tiny ? dice_between(&d, 1, 16) : dice_between(&d, 64, 1024)),
            .dead_after_ns = 1000000 * MS,
            .mtu_bytes = probes ? MTU_LONG : MTU,
            .mtu_sure_bytes = np.mtu_sure_bytes,
        };
        p->keys = (struct keys_params){.initiator = i == 0, .worn_packets = worn_packets};
    }
    connect_peers(peers, &d, keyed, 0);

    for (uint32_t i = 0; i < steps; i++) {
        struct peer *p = &peers[dice_below(&d, 2)];

        if (dice_chance(&d, send_chance) && p->away_until_ns <= network_now(net))
            send_message(p, &d, -1);
        if (dice_chance(&d, away_chance))
            p->away_until_ns = network_now(net) + dice_below(&d, 400 * MS);
        if (dice_chance(&d, restart_chance)) {
            restart(peers, &d, network_now(net));
            restarts++;
        }
        if (dice_chance(&d, change))
            np.mtu_bytes = any_mtu(&d);
        np.steal = link_heard(peers[1].link) ? steal : 0; /* its first word is believed here */
        network_set_params(net, &np);
        step(net, peers, &d);
    }
    for (deadline = network_now(net) + SETTLE_NS; !settled(&peers[0], &peers[1]);) {
        if (step(net, peers, &d) > deadline)
            fail("no progress", peers[0].n_sent - peers[1].n_received,
                 peers[1].n_sent - peers[0].n_received);
    }
    if (probes && np.drop == 0 && np.flip == 0) {
        np.rebind = np.steal = 0;
        network_set_params(net, &np);
        find_mtu(net, peers, &d, np.mtu_bytes);
    }
    if (network_misled(net))
        fail("sent where the peer never was", network_misled(net), 0);
    for (int i = 0; i < 2; i++) {
        struct link_stats s;

        if (peers[!i].n_taken_packets != peers[i].n_sent_packets)
            fail("packets taken, packets sent", peers[!i].n_taken_packets, peers[i].n_sent_packets);
        link_stats(peers[i].link, &s);
        printf("seed %" PRIu64 " side %d: drop %.2f tiny %d keyed %d restarts %u epoch %u: %" PRIu64
               " messages, %" PRIu64 " packets, %" PRIu64 " again, %" PRIu64 " duplicates, %" PRIu64
               " over budget, %" PRIu64
               " bad, %u in flight and %u held of %u at most, %.3f s, rtt p50 %.3f ms, mtu %" PRIu32
               " of %" PRIu32 ", %" PRIu64 " falls, %" PRIu64 " cut\n",
               seeds.seed, i, np.drop, tiny, keyed, restarts, s.epoch, s.tx_messages, s.tx_packets,
               s.retransmits, s.duplicates, s.over_budget, s.bad_frames, peers[i].in_flight_max,
               peers[i].held_max, peers[i].params.rx_budget_packets,
               (double)network_now(net) * 1e-9, (double)s.rtt_p50_ns * 1e-6, s.mtu_bytes,
               np.mtu_bytes, s.mtu_falls, s.cut);
        disconnect(&peers[i]);
        pkt_pool_heap_close(peers[i].long_pool);
    }
    network_close(net);
    ledger_clear();
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        SEEDS_OPTIONS,
        {"steps", required_argument, NULL, 'n'},
        {0},
    };
    int c;

    seeds.argv = argv;
    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (c == 'n')
            steps = (uint32_t)strtoul(optarg, NULL, 0);
        else if (!seeds_option(&seeds, c, optarg))
            return 2;
    }
    while (seeds_next(&seeds))
        run();
    seeds_report(&seeds);
    printf("nonce ledger: %" PRIu64 " seals, %" PRIu64 " of a nonce used before\n", ledger_seals(),
           ledger_repeats());
    return 0;
}
