/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/netem.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_DEFAULT 4u
#define NS_PER_S      UINT64_C(1000000000)

struct frame {
    struct netem_frame seen; /* first: what callers get */
    struct frame *next;
    uint64_t index;  /* which of the frames put in */
    uint64_t out_ns; /* not before */
    uint64_t after;  /* a late one: when the frames before this index have left */
    uint8_t bytes[];
};

struct list {
    struct frame *head, **end;
};

/* Who waits for the bottleneck, for the queue's length: a ring. */
struct waiting {
    uint64_t start_ns;
    uint32_t len;
};

struct netem_line {
    struct netem_params params;
    uint32_t keep_bytes;
    uint64_t n_put;
    uint64_t begun_ns; /* the first frame entered */
    uint32_t next_change;
    bool bad;             /* state of the Markov chain */
    uint64_t busy_ns;     /* the bottleneck is free from then on, */
    uint64_t busy_rest;   /* and this many parts of a nanosecond, of rate_bit_per_s */
    uint64_t last_out_ns; /* of the frame before: order is kept */
    struct waiting *ring;
    uint32_t ring_room, ring_head, n_waiting; /* ring_room: a power of two */
    uint64_t waiting_bytes;
    struct list in_order; /* by index, and so by out_ns */
    struct list late;     /* held back; by out_ns too */
    struct frame *leaving;
    uint64_t stop_waiting; /* late ones of a smaller index wait no more */
    uint64_t held_bytes;
    struct netem_stats stats;
};

/* --- fates ---------------------------------------------------------------------------------------
 */

enum {
    DRAW_DROP,
    DRAW_DUPLICATE,
    DRAW_REORDER,
    DRAW_BACK,
    DRAW_CORRUPT,
    DRAW_BIT,
    DRAW_JITTER,
    DRAWS
};

static uint64_t hash64(uint64_t x) /* the finaliser of splitmix64 */
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The k-th random number of frame i. */
static uint64_t draw(const struct netem_line *l, uint64_t i, unsigned k)
{
    return hash64(hash64(l->params.seed) + (i * DRAWS + k + 1) * 0x9e3779b97f4a7c15u);
}

static bool chance(const struct netem_line *l, uint64_t i, unsigned k, double fraction)
{
    return (double)(draw(l, i, k) >> 11) * 0x1p-53 < fraction;
}

/* Whether frame i is lost; *bad: the state after it, of the one before it. */
static bool is_dropped(const struct netem_line *l, uint64_t i, bool *bad)
{
    const double drop = l->params.drop, burst = l->params.burst;
    if (burst == 0 || drop == 1)
        return chance(l, i, DRAW_DROP, drop);
    const double leave = 1 / burst, enter = leave * drop / (1 - drop);
    *bad = *bad ? !chance(l, i, DRAW_DROP, leave) : chance(l, i, DRAW_DROP, enter);
    return *bad;
}

/* --- the bottleneck ------------------------------------------------------------------------------
 */

static void let_start(struct netem_line *l, uint64_t now_ns)
{
    while (l->n_waiting > 0 && l->ring[l->ring_head].start_ns <= now_ns) {
        l->waiting_bytes -= l->ring[l->ring_head].len;
        l->ring_head = (l->ring_head + 1) & (l->ring_room - 1);
        l->n_waiting--;
    }
}

static bool is_full(const struct netem_line *l, uint32_t len)
{
    const struct netem_params *p = &l->params;
    return (p->queue_bytes && l->waiting_bytes + len > p->queue_bytes) ||
           (p->queue_packets && l->n_waiting + 1 > p->queue_packets);
}

static int ring_reserve(struct netem_line *l)
{
    if (l->n_waiting < l->ring_room)
        return 0;
    const uint32_t room = l->ring_room ? 2 * l->ring_room : 64;
    struct waiting *ring = calloc(room, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    for (uint32_t i = 0; i < l->n_waiting; i++)
        ring[i] = l->ring[(l->ring_head + i) & (l->ring_room - 1)];
    free(l->ring);
    l->ring = ring;
    l->ring_room = room;
    l->ring_head = 0;
    return 0;
}

static void wait_in_queue(struct netem_line *l, uint64_t start_ns, uint32_t len)
{
    l->ring[(l->ring_head + l->n_waiting++) & (l->ring_room - 1)] = (struct waiting){start_ns, len};
    l->waiting_bytes += len;
    if (l->stats.queue_max_packets < l->n_waiting)
        l->stats.queue_max_packets = l->n_waiting;
    if (l->stats.queue_max_bytes < l->waiting_bytes)
        l->stats.queue_max_bytes = l->waiting_bytes;
}

/* Through the bottleneck: when its last bit leaves. */
static uint64_t serialize(struct netem_line *l, uint64_t now_ns, uint32_t len)
{
    const uint64_t rate = l->params.rate_bit_per_s;
    if (!rate)
        return now_ns;
    if (l->busy_ns < now_ns) {
        l->busy_ns = now_ns;
        l->busy_rest = 0;
    } else if (l->busy_ns > now_ns) {
        wait_in_queue(l, l->busy_ns, len);
    }
    const uint64_t parts = (uint64_t)len * 8 * NS_PER_S + l->busy_rest;
    l->busy_ns += parts / rate;
    l->busy_rest = parts % rate;
    return l->busy_ns;
}

/* --- the way -------------------------------------------------------------------------------------
 */

static void append(struct list *list, struct frame *f)
{
    f->next = NULL;
    *list->end = f;
    list->end = &f->next;
}

static struct frame *take(struct list *list, struct frame **at)
{
    struct frame *f = *at;
    *at = f->next;
    if (list->end == &f->next)
        list->end = at;
    return f;
}

static struct frame *copy(const uint8_t *bytes, uint32_t len, uint64_t index)
{
    struct frame *f = malloc(sizeof *f + len);
    if (!f)
        return NULL;
    memcpy(f->bytes, bytes, len);
    *f = (struct frame){.seen = {len, f->bytes}, .index = index};
    return f;
}

static void flip_a_bit(struct netem_line *l, uint64_t i, struct frame *f)
{
    if (f->seen.len <= l->keep_bytes)
        return;
    const uint64_t bit = draw(l, i, DRAW_BIT) % ((uint64_t)(f->seen.len - l->keep_bytes) * 8);
    f->bytes[l->keep_bytes + bit / 8] ^= (uint8_t)(1u << bit % 8);
    l->stats.corrupted++;
}

static uint64_t delayed(struct netem_line *l, uint64_t i, uint64_t start_ns)
{
    const uint64_t jitter_ns = l->params.jitter_ns;
    uint64_t out_ns = start_ns + l->params.delay_ns;
    if (jitter_ns)
        out_ns = out_ns - jitter_ns + draw(l, i, DRAW_JITTER) % (2 * jitter_ns + 1);
    if (out_ns < l->last_out_ns)
        out_ns = l->last_out_ns;
    l->last_out_ns = out_ns;
    return out_ns;
}

static void change(struct netem_line *l, uint64_t now_ns)
{
    struct netem_params *p = &l->params;

    if (!l->n_put)
        l->begun_ns = now_ns;
    for (; l->next_change < p->n_changes; l->next_change++) {
        const struct netem_change *c = &p->changes[l->next_change];

        if (now_ns - l->begun_ns < c->at_ns)
            return;
        *(c->what == NETEM_DELAY ? &p->delay_ns
          : c->what == NETEM_MTU ? &p->mtu_bytes
                                 : &p->rate_bit_per_s) = c->value;
        l->busy_rest = 0; /* less than a nanosecond */
    }
}

int netem_line_put(struct netem_line *l, uint64_t now_ns, const uint8_t *bytes, uint32_t len)
{
    const uint64_t i = l->n_put;
    bool bad = l->bad;
    const bool drop = is_dropped(l, i, &bad);
    const bool twice = chance(l, i, DRAW_DUPLICATE, l->params.duplicate);
    const bool reorder = chance(l, i, DRAW_REORDER, l->params.reorder);
    struct frame *f = NULL, *second = NULL;

    change(l, now_ns);
    let_start(l, now_ns);
    const bool too_long = l->params.mtu_bytes && len > l->params.mtu_bytes + ETH_HLEN;
    const bool overflow = l->held_bytes + 2 * (uint64_t)len > NETEM_HELD_MAX_BYTES ||
                          (l->busy_ns > now_ns && is_full(l, len));
    if (!too_long && !overflow) {
        f = drop ? NULL : copy(bytes, len, i);
        second = drop || !twice ? NULL : copy(bytes, len, i);
        if (ring_reserve(l) < 0 || (!drop && !f) || (!drop && twice && !second)) {
            free(f);
            free(second);
            return -ENOMEM;
        }
    }
    l->n_put++;
    l->bad = bad;
    l->stats.packets++;
    l->stats.bytes += len;
    if (too_long) {
        l->stats.too_long++;
        return 0;
    }
    if (overflow) {
        l->stats.overflowed++;
        return 0;
    }
    const uint64_t start_ns = serialize(l, now_ns, len);
    if (drop) {
        l->stats.dropped++;
        return 0;
    }
    if (chance(l, i, DRAW_CORRUPT, l->params.corrupt)) {
        flip_a_bit(l, i, f);
        if (second)
            memcpy(second->bytes, f->bytes, len);
    }
    f->out_ns = delayed(l, i, start_ns);
    l->held_bytes += len;
    if (reorder) {
        f->after = i + 2 + draw(l, i, DRAW_BACK) % l->params.reorder_depth;
        l->stats.reordered++;
    }
    append(reorder ? &l->late : &l->in_order, f);
    if (second) { /* of a reordered frame one leaves in order */
        second->out_ns = f->out_ns;
        l->held_bytes += len;
        l->stats.duplicated++;
        append(&l->in_order, second);
    }
    return 0;
}

/* Whether those that were to overtake f have done so. */
static bool is_overtaken(const struct netem_line *l, const struct frame *f)
{
    const uint64_t left = l->in_order.head ? l->in_order.head->index : l->n_put;
    return left >= f->after || f->index < l->stop_waiting;
}

/* When a late frame leaves, as things are. */
static uint64_t late_ns(const struct netem_line *l, const struct frame *f)
{
    return is_overtaken(l, f) ? f->out_ns : f->out_ns + NETEM_REORDER_MAX_NS;
}

const struct netem_frame *netem_line_due(struct netem_line *l, uint64_t now_ns)
{
    if (l->leaving)
        return &l->leaving->seen;
    const struct frame *first = l->in_order.head;
    struct frame **at = &l->late.head;
    for (; *at && (*at)->out_ns <= now_ns; at = &(*at)->next) {
        /* By what is due, not by when we are asked: a caller that came late sees the same order. */
        const uint64_t ns = late_ns(l, *at);
        if (ns <= now_ns && (!first || ns <= first->out_ns || is_overtaken(l, *at))) {
            l->leaving = take(&l->late, at);
            return &l->leaving->seen;
        }
    }
    if (first && first->out_ns <= now_ns)
        l->leaving = take(&l->in_order, &l->in_order.head);
    return l->leaving ? &l->leaving->seen : NULL;
}

void netem_line_pop(struct netem_line *l)
{
    l->stats.out_packets++;
    l->stats.out_bytes += l->leaving->seen.len;
    l->held_bytes -= l->leaving->seen.len;
    free(l->leaving);
    l->leaving = NULL;
}

uint64_t netem_line_next_ns(const struct netem_line *l)
{
    if (l->leaving)
        return l->leaving->out_ns;
    uint64_t best_ns = l->in_order.head ? l->in_order.head->out_ns : UINT64_MAX;
    for (const struct frame *f = l->late.head; f && f->out_ns < best_ns; f = f->next) {
        const uint64_t ns = late_ns(l, f);
        best_ns = ns < best_ns ? ns : best_ns;
    }
    return best_ns;
}

void netem_line_stop_waiting(struct netem_line *l)
{
    l->stop_waiting = l->n_put;
}

const struct netem_stats *netem_line_stats(const struct netem_line *l)
{
    return &l->stats;
}

int netem_line_open(const struct netem_params *p, uint32_t keep_bytes, struct netem_line **out)
{
    char err[NETEM_ERR];
    if (netem_check(p, err) < 0)
        return -EINVAL;
    struct netem_line *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->params = *p;
    l->keep_bytes = keep_bytes;
    if (!p->reorder_depth)
        l->params.reorder_depth = DEPTH_DEFAULT;
    if (!p->queue_bytes && !p->queue_packets)
        l->params.queue_packets = NETEM_QUEUE_PACKETS;
    l->in_order.end = &l->in_order.head;
    l->late.end = &l->late.head;
    *out = l;
    return 0;
}

static void free_all(struct frame *f)
{
    while (f) {
        struct frame *next = f->next;
        free(f);
        f = next;
    }
}

void netem_line_close(struct netem_line *l)
{
    if (!l)
        return;
    free_all(l->in_order.head);
    free_all(l->late.head);
    free(l->leaving);
    free(l->ring);
    free(l);
}
