/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a link is over a path with a bottleneck, and how long it makes the queue there; what each
 * class gets of it; how long a lone message takes that is lost, and how many go twice for nothing. Two
 * links and two netem lines under a virtual clock. Each case says what it asks for; the figures are
 * printed.
 *
 *   sim_rate [--seed N] [--runs R | --seconds S]
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link.h"
#include "dataplane/netem.h"
#include "tests/sim/seeds.h"

#define MS         UINT64_C(1000000)
#define S          (1000 * MS)
#define POOL       16384u
#define ROOM       1514u
#define FRAGMENT   (ROOM - WIRE_OVERHEAD - LINK_PREFIX_BYTES)
#define STEP_NS    (50 * UINT64_C(1000)) /* how late an owner looks at its link, at least */
#define SAMPLE_NS  MS
#define TRICKLE_NS (20 * MS)
#define SAMPLES    40000u
#define START_NS   (2 * S) /* the queue of start-up, which has to find the rate, is told apart: so long, */
#define START_RTTS 20      /* and so many round trips */
#define WAITING    200u    /* packets of each class that wait or are under way, where all want to go */

struct rate_case {
    const char *name, *there, *back; /* netem */
    uint32_t fragments, sessions;    /* of a message; that it is spread over */
    uint64_t bytes;                  /* in all; 0: for run_ns */
    uint64_t run_ns;
    uint64_t away_ns;     /* the receiver's owner comes so seldom */
    double least_share;   /* of the rate, as goodput of frames */
    double queue_rtt_p99; /* the queue in round trips, 99 % of the time */
    uint64_t trickle_ns;  /* before that: a packet now and then, for so long */
    bool all_classes;     /* decode, prefill and replay, each more than the path takes */
    uint64_t step_ns;     /* how late the owners look, at least; 0: STEP_NS */
    double start_max_ms;  /* the queue of start-up; 0: as long as it likes */
};

/* A message of a packet now and then, without replies. */
struct lone_case {
    const char *name, *there, *back;
    uint64_t every_ns;
    double sleep;         /* chance that the receiver's owner sleeps when it is through, for */
    uint64_t sleep_ns;
    double late_ms;       /* of 200 all but one come at most so long after the path's time */
    double needless;      /* of a hundred messages so many go twice for nothing, at most */
};

struct way {
    struct netem_params p;
    struct netem_line *line;
};

static struct seeds seeds = {.seed = 1, .runs = 3};

struct mark { /* a message's first bytes */
    uint64_t sent_ns;
    uint32_t serial;
};

struct sim {
    const struct rate_case *c;
    const struct lone_case *lone;
    struct pkt_pool *pool;
    struct link *from, *to;
    struct way there, back;
    uint64_t now_ns, sent_bytes, came_bytes, came_packets;
    uint64_t came_by_class[4];
    uint32_t next_session, serials[64];
    uint32_t next_serial[64];
    uint64_t next_trickle_ns;
    uint64_t queue_free_ns; /* when the bottleneck is done, as a line's owner sees it */
    uint64_t delays[SAMPLES];
    uint32_t n_delays;
    uint64_t start_max_ns;
    uint64_t dice;
};

static void fail(const struct rate_case *c, const char *what, double is, double limit)
{
    fprintf(stderr, "FAILED: %s: %s: %g, not %g\n", c->name, what, is, limit);
    seeds_failed();
}

static void open_way(struct way *w, const char *text, uint64_t number)
{
    char err[NETEM_ERR];

    if (netem_parse(text, &w->p, err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
    w->p.seed = seeds.seed * 2 + number;
    if (netem_line_open(&w->p, OUTER_BYTES, &w->line))
        abort();
}

static void deliver(struct sim *s, struct way *w, struct link *to)
{
    const struct netem_frame *f;

    while ((f = netem_line_due(w->line, s->now_ns))) {
        struct pkt *p = pkt_alloc(s->pool);

        if (!p)
            fail(s->c, "packets held", POOL, POOL);
        memcpy(p->data, f->bytes, f->len);
        p->len = f->len;
        netem_line_pop(w->line);
        (void)link_input(to, p, s->now_ns);
    }
}

static void take(struct sim *s)
{
    struct link_message m;

    while (link_recv(s->to, &m)) {
        size_t len;
        struct mark mark;

        memcpy(&mark, link_message_payload(&m, 0, &len), sizeof mark);
        if (mark.serial != s->next_serial[m.session]++)
            fail(s->c, "order", mark.serial, s->next_serial[m.session] - 1);
        if (s->lone && s->n_delays < SAMPLES)
            s->delays[s->n_delays++] = s->now_ns - mark.sent_ns;
        s->came_packets += m.n_fragments;
        s->came_by_class[m.cls] += m.n_fragments;
        s->came_bytes += m.n_fragments * (uint64_t)FRAGMENT;
        link_message_free(&m);
    }
}

static bool send_message(struct sim *s, uint32_t session, enum wire_class cls, uint32_t fragments)
{
    const struct mark mark = {s->now_ns, s->serials[session]};
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];

    for (uint32_t i = 0; i < fragments; i++) {
        pkts[i] = pkt_alloc(s->pool);
        memset(pkts[i]->data, 0, ROOM);
        bytes[i] = FRAGMENT;
    }
    memcpy(pkts[0]->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES, &mark, sizeof mark);
    if (link_send(s->from, session, cls, -1, pkts, bytes, (uint16_t)fragments) < 0)
        return false;
    s->serials[session]++;
    s->sent_bytes += fragments * (uint64_t)FRAGMENT;
    return true;
}

/* All classes want more than the path takes. */
static void feed_classes(struct sim *s)
{
    static const enum wire_class classes[] = {WIRE_REPLAY, WIRE_PREFILL, WIRE_DECODE};

    for (unsigned i = 0; i < 3; i++) {
        const uint32_t n = classes[i] == WIRE_DECODE ? 1 : s->c->fragments;

        while ((s->serials[i] - s->next_serial[i]) * n < WAITING && send_message(s, i, classes[i], n))
            ;
    }
}

static void feed_lone(struct sim *s)
{
    if (s->now_ns < s->next_trickle_ns)
        return;
    s->next_trickle_ns = s->now_ns + s->lone->every_ns;
    if (!send_message(s, s->next_session++ % s->c->sessions, WIRE_DECODE, 1))
        abort();
}

static void feed(struct sim *s)
{
    if (s->lone) {
        feed_lone(s);
        return;
    }
    if (s->c->all_classes) {
        feed_classes(s);
        return;
    }
    if (s->now_ns < s->c->trickle_ns && s->now_ns < s->next_trickle_ns)
        return;
    s->next_trickle_ns = s->now_ns + TRICKLE_NS;
    while (link_window_left(s->from) && (!s->c->bytes || s->sent_bytes < s->c->bytes) &&
           s->pool->n_free > POOL / 2) {
        const bool trickle = s->now_ns < s->c->trickle_ns;
        const uint32_t fragments = trickle ? 1 : s->c->fragments;

        if (!send_message(s, s->next_session++ % s->c->sessions, WIRE_PREFILL, fragments) || trickle)
            break;
    }
}

/* What the line does, told from outside. */
static void enter_queue(struct sim *s, const struct netem_params *p, uint32_t bytes)
{
    if (s->queue_free_ns < s->now_ns)
        s->queue_free_ns = s->now_ns;
    if ((s->queue_free_ns - s->now_ns) * p->rate_bit_per_s / 8 / S <= p->queue_bytes)
        s->queue_free_ns += (uint64_t)bytes * 8 * S / p->rate_bit_per_s;
}

static void send_out(struct sim *s, struct link *l, struct way *w, bool measured)
{
    struct pkt *pkts[32];
    uint64_t deadline;
    int n;

    if (link_tick(l, s->now_ns, &deadline))
        fail(s->c, link_why_dead(l), 0, 0);
    while ((n = link_output(l, pkts, 32, s->pool, s->now_ns)) > 0) {
        for (int i = 0; i < n; i++) {
            if (measured && w->p.rate_bit_per_s)
                enter_queue(s, &w->p, pkts[i]->len);
            if (netem_line_put(w->line, s->now_ns, pkts[i]->data, pkts[i]->len))
                abort();
            pkt_unref(pkts[i]);
        }
    }
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool more(const struct sim *s)
{
    return s->c->bytes ? s->came_bytes < s->c->bytes : s->now_ns < s->c->run_ns;
}

static double round_trip_ns(const struct sim *s)
{
    return (double)(s->there.p.delay_ns + s->back.p.delay_ns);
}

static uint64_t start_ns(const struct sim *s)
{
    const uint64_t rtts = START_RTTS * (uint64_t)round_trip_ns(s);

    return rtts > START_NS ? rtts : START_NS;
}

/* So long the receiver's owner is not there. */
static uint64_t away_ns(struct sim *s)
{
    if (!s->lone)
        return s->c->away_ns;
    s->dice = s->dice * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (double)(s->dice >> 11) * 0x1p-53 < s->lone->sleep ? s->lone->sleep_ns : 0;
}

/* Virtual time from the first byte to the last. */
static void run(const struct rate_case *c, const struct lone_case *lone, struct sim *s)
{
    const struct link_params from = {.path = &wire_path_edge, .initiator = true, .connection = 5};
    const struct link_params to = {.path = &wire_path_cloud};
    const uint64_t step_ns = c->step_ns ? c->step_ns : STEP_NS;
    uint64_t next_sample = 0, away_until = 0;

    *s = (struct sim){.c = c, .lone = lone, .dice = seeds.seed, .pool = pkt_pool_heap(POOL, ROOM)};
    open_way(&s->there, c->there, 0);
    open_way(&s->back, c->back, 1);
    if (link_open(&from, 0, &s->from) || link_open(&to, 0, &s->to))
        abort();
    while (more(s)) {
        uint64_t next;

        seeds.n_steps++;
        deliver(s, &s->back, s->from);
        feed(s);
        send_out(s, s->from, &s->there, true);
        if (s->now_ns >= away_until) {
            deliver(s, &s->there, s->to);
            take(s);
            send_out(s, s->to, &s->back, false);
            away_until = s->now_ns + away_ns(s);
        }
        if (!lone && s->now_ns >= next_sample && s->n_delays < SAMPLES) {
            const uint64_t queue_ns =
                s->queue_free_ns > s->now_ns ? s->queue_free_ns - s->now_ns : 0;

            next_sample = s->now_ns + SAMPLE_NS;
            if (s->now_ns < start_ns(s) && !c->bytes)
                s->start_max_ns = queue_ns > s->start_max_ns ? queue_ns : s->start_max_ns;
            else
                s->delays[s->n_delays++] = queue_ns;
        }
        next = earlier(link_deadline(s->from), link_deadline(s->to));
        next = earlier(next, netem_line_next_ns(s->back.line));
        next = earlier(next, netem_line_next_ns(s->there.line));
        if (away_until > s->now_ns && next < away_until)
            next = earlier(earlier(away_until, link_deadline(s->from)), netem_line_next_ns(s->back.line));
        if (lone)
            next = earlier(next, s->next_trickle_ns);
        s->now_ns = next > s->now_ns + step_ns ? next : s->now_ns + step_ns;
        if (s->now_ns > 600 * S + c->run_ns)
            fail(c, "no progress: bytes", (double)s->came_bytes, (double)c->bytes);
    }
}

static void end(struct sim *s)
{
    link_close(s->from);
    link_close(s->to);
    netem_line_close(s->there.line);
    netem_line_close(s->back.line);
    pkt_pool_heap_close(s->pool);
}

static void check_shares(const struct sim *s)
{
    const double all = (double)s->came_packets, decode = (double)s->came_by_class[WIRE_DECODE] / all,
                 prefill = (double)s->came_by_class[WIRE_PREFILL] / all,
                 replay = (double)s->came_by_class[WIRE_REPLAY] / all;

    printf("    decode %.1f %%, prefill %.1f %%, replay %.1f %%\n", 100 * decode, 100 * prefill, 100 * replay);
    if (decode < .7)
        fail(s->c, "share of decode", decode, .7);
    if (prefill < .08)
        fail(s->c, "share of prefill", prefill, .08);
    if (replay < .08)
        fail(s->c, "share of replay", replay, .08);
}

static double seconds(const struct rate_case *c)
{
    static struct sim s;
    struct link_stats st, rt;
    double rate, p50, p99, top, took;

    run(c, NULL, &s);
    link_stats(s.from, &st);
    link_stats(s.to, &rt);
    qsort(s.delays, s.n_delays, sizeof s.delays[0], by_size);
    took = (double)(s.now_ns - c->trickle_ns);
    rate = (double)s.came_packets * ROOM * 8e9 / took / (double)s.there.p.rate_bit_per_s;
    p50 = (double)s.delays[s.n_delays / 2] / round_trip_ns(&s);
    p99 = (double)s.delays[s.n_delays * 99 / 100] / round_trip_ns(&s);
    top = (double)s.delays[s.n_delays - 1] / round_trip_ns(&s);
    printf("seed %" PRIu64
           " %s: %.3f s, %.1f %% of the rate; queue p50 %.3f p99 %.3f max %.3f, of start-up "
           "%.3f round trips; %" PRIu64 " of %" PRIu64 " packets again, %" PRIu64
           " needless, %" PRIu64 " over budget\n",
           seeds.seed, c->name, took * 1e-9, 100 * rate, p50, p99, top,
           (double)s.start_max_ns / round_trip_ns(&s), st.retransmits, st.tx_packets, rt.duplicates,
           rt.over_budget);
    if (rate < c->least_share)
        fail(c, "share of the rate", rate, c->least_share);
    if (p99 > c->queue_rtt_p99)
        fail(c, "queue, p99 in round trips", p99, c->queue_rtt_p99);
    if (c->start_max_ms && (double)s.start_max_ns * 1e-6 > c->start_max_ms)
        fail(c, "queue of start-up in ms", (double)s.start_max_ns * 1e-6, c->start_max_ms);
    if (c->all_classes)
        check_shares(&s);
    end(&s);
    return took * 1e-9;
}

static void lone(const struct lone_case *c)
{
    static struct sim s;
    const struct rate_case as = {
        .name = c->name, .there = c->there, .back = c->back, .sessions = 64, .run_ns = 2000 * c->every_ns};
    struct link_stats st, rt;
    double late_ms, needless;

    run(&as, c, &s);
    link_stats(s.from, &st);
    link_stats(s.to, &rt);
    qsort(s.delays, s.n_delays, sizeof s.delays[0], by_size);
    late_ms = ((double)s.delays[s.n_delays * 199 / 200] - (double)s.there.p.delay_ns) * 1e-6;
    needless = 100 * (double)rt.duplicates / s.n_delays;
    printf("seed %" PRIu64 " %s: of %" PRIu32 " messages p50 %.3f ms, p99.5 %.3f, max %.3f, %" PRIu64
           " packets again, %" PRIu64 " needless\n",
           seeds.seed, c->name, s.n_delays, (double)s.delays[s.n_delays / 2] * 1e-6,
           (double)s.delays[s.n_delays * 199 / 200] * 1e-6, (double)s.delays[s.n_delays - 1] * 1e-6,
           st.retransmits, rt.duplicates);
    if (late_ms > c->late_ms)
        fail(&as, "ms after the path's time", late_ms, c->late_ms);
    if (needless > c->needless)
        fail(&as, "needless copies of 100 messages", needless, c->needless);
    end(&s);
}

#define LONG      "rate=100mbit,queue=5MB,delay=50ms"
#define LONG_BACK "delay=50ms"
#define NEAR      "rate=100mbit,queue=1MB,delay=10ms"
#define NEAR_BACK "delay=10ms"

static const struct rate_case cases[] = {
    {"100 Mbit/s, 100 ms, .1 %", LONG ",drop=.1%", LONG_BACK ",drop=.1%", 45, 16, 0, 20 * S, 0, .9,
     .5},
    {"the same, one session", LONG ",drop=.1%", LONG_BACK ",drop=.1%", 45, 1, 0, 20 * S, 0, .85,
     .5},
    {"the same, messages of a packet", LONG ",drop=.1%", LONG_BACK, 1, 16, 0, 20 * S, 0, .85, .5},
    {"5 %", NEAR ",drop=5%", NEAR_BACK ",drop=5%", 45, 16, 0, 10 * S, 0, .8, .5},
    {"jitter", "rate=50mbit,queue=1MB,delay=20ms,jitter=5ms", "delay=20ms,jitter=5ms", 20, 8, 0,
     10 * S, 0, .8, 1.2},
    {"a short queue", "rate=50mbit,queue=40kB,delay=10ms", NEAR_BACK, 20, 8, 0, 10 * S, 0, .8, .5},
    {"1 Mbit/s", "rate=1mbit,queue=1MB,delay=25ms", "delay=25ms", 4, 4, 0, 20 * S, 0, .85, 2},
    {"reordered", NEAR ",reorder=2%", NEAR_BACK ",reorder=2%", 45, 16, 0, 10 * S, 0, .85, .5},
    {"a receiver that looks every 15 ms", NEAR, NEAR_BACK, 45, 16, 0, 10 * S, 15 * MS, .8, 1},
    {"4 MB after a trickle, the same", NEAR, NEAR_BACK, 45, 16, 4000000, 0, 15 * MS, .5, 2, 5 * S},
    {"50 Mbit/s, 300 ms, .1 %", "rate=50mbit,queue=5MB,delay=150ms,drop=.1%", "delay=150ms,drop=.1%", 45, 16,
     0, 30 * S, 0, .9, .5},
    /* Next door: queues in round trips are long there. The last number is start-up's, in ms. */
    {"100 Mbit/s, 20 us", "rate=100mbit,queue=5MB,delay=10us", "delay=10us", 45, 16, 0, 10 * S, 0, .9, 300,
     .start_max_ms = 10},
    {"1 Gbit/s, 20 us", "rate=1000mbit,queue=5MB,delay=10us", "delay=10us", 45, 16, 0, 3 * S, 0, .9, 150,
     .start_max_ms = 5, .step_ns = 3000},
    {"all classes at once", NEAR, NEAR_BACK, 20, 3, 0, 10 * S, 0, .85, 1, .all_classes = true},
};

static const struct lone_case lone_cases[] = {
    {"lone, 10 us", "delay=5us,drop=1%", "delay=5us", 30 * MS, 0, 0, 13, .2},
    {"lone, 10 us, losses both ways", "delay=5us,drop=1%", "delay=5us,drop=1%", 30 * MS, 0, 0, 22, 2},
    {"lone, 300 ms", "delay=150ms,drop=1%", "delay=150ms,drop=1%", 700 * MS, 0, 0, 330, 3},
    {"lone, 500 ms, jitter", "delay=250ms,jitter=20ms,drop=1%", "delay=250ms,jitter=20ms", 1100 * MS, 0, 0, 650,
     3},
    {"lone, 10 us, a receiver that sleeps 8 ms", "delay=5us", "delay=5us", 30 * MS, .2, 8 * MS, 9, 3},
    {"lone, 10 us, a receiver that sleeps 25 ms", "delay=5us", "delay=5us", 30 * MS, .2, 25 * MS, 26, 30},
};

int main(int argc, char **argv)
{
    static const struct option options[] = {SEEDS_OPTIONS, {0}};
    int c;

    seeds.argv = argv;
    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (!seeds_option(&seeds, c, optarg))
            return 2;
    }
    while (seeds_next(&seeds)) {
        for (unsigned i = 0; i < sizeof lone_cases / sizeof lone_cases[0]; i++)
            lone(&lone_cases[i]);
        const struct rate_case whole = {
            "4 MB in messages of 700 kB, no losses", NEAR, NEAR_BACK, 500, 1, 4000000, 0, 0, .5, 2};
        struct rate_case lossy = whole;

        for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
            (void)seconds(&cases[i]);
        lossy.name = "the same at 1 %";
        lossy.there = NEAR ",drop=1%";
        lossy.back = NEAR_BACK ",drop=1%";
        lossy.least_share = 0;
        double ratio = seconds(&lossy) / seconds(&whole);
        printf("4 MB at 1 %%: %.2f x\n", ratio);
        if (ratio > 2)
            fail(&lossy, "times lossless", ratio, 2);
    }
    seeds_report(&seeds);
    return 0;
}
