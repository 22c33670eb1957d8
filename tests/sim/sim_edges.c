/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several edges at one cloud over simulated networks, everything chosen by the seed: edges,
 * sessions, limits, impairments, encryption; edges that are killed and start again, a cloud that is
 * killed, that drains and that gets another list of edges. Whoever was not killed gets the tokens
 * of an unsplit run, nobody hangs, nothing is left, the cloud's packets never run out, no nonce
 * seals twice.
 *
 *   sim_edges [--seed N] [--runs R | --seconds S]
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/ledger.h"
#include "tests/sim/seeds.h"
#include "tests/unit/pipeline/crowd.h"

#define SECOND   (1000 * RIG_MS)
#define REQUESTS 5u /* of each edge */
#define EDGES    6u

static struct seeds seeds = {.seed = 1, .runs = 40};

struct world {
    struct crowd c;
    struct dice d;
    struct rig_request q[EDGES][REQUESTS];
    uint32_t submitted[EDGES];
    uint64_t edge_back_ns[EDGES], cloud_back_ns, drained_until_ns; /* 0: it is there */
    uint32_t kills, cloud_kills, drains, lists, refused, cancelled;
    uint32_t least_free;
};

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "FAILED: %s: %s\n", what, detail);
    seeds_failed();
}

static struct crowd_params choose(struct dice *d)
{
    static const double drops[] = {0, .02, .2};
    static const char *const limits[] = {"", "sessions=1", "kv=2400", "rate=2000rows/s",
                                         "rate=500kB/s"};
    static const uint32_t chunks[] = {3, 16, 64}, pools[] = {256, 2048};
    struct crowd_params p = {
        .edge = {.network = {.drop = drops[dice_below(d, 3)],
                             .duplicate = dice_chance(d, .3) ? .2 : 0,
                             .flip = dice_chance(d, .3) ? .1 : 0,
                             .replay = dice_chance(d, .3) ? .1 : 0,
                             .noise = dice_chance(d, .3) ? .2 : 0,
                             .delay_min_ns = 5000},
                 .edge_stage = {.run_ns = dice_below(d, RIG_MS)},
                 .sessions = (uint32_t)dice_between(d, 1, 3),
                 .lingering = (uint32_t)dice_below(d, 3),
                 .chunk_tokens = chunks[dice_below(d, 3)],
                 .hook = dice_chance(d, .7),
                 .rejoin = {.timeout_ns = 3600 * SECOND, .history_bytes = 1 << 24},
                 .seed = dice_next(d)},
        .cloud_stage = {.run_ns = dice_below(d, 3 * RIG_MS)},
        .cloud_link = {.dead_after_ns = 3 * SECOND},
        .n_edges = (uint32_t)dice_between(d, 2, EDGES),
        .cloud_lingering = (uint32_t)dice_below(d, 4),
        .pool_packets = pools[dice_below(d, 2)],
        .secure = dice_chance(d, .6),
    };

    p.edge.network.delay_max_ns = dice_chance(d, .5) ? 20000 : 5 * RIG_MS;
    p.cloud_sessions = p.n_edges * p.edge.sessions;
    for (uint32_t i = 0; i < p.n_edges; i++)
        p.limits[i] = dice_chance(d, .4) ? limits[dice_below(d, 5)] : "";
    return p;
}

static void ask(struct world *w, uint32_t edge, uint32_t i)
{
    struct rig_request *q = &w->q[edge][i];

    rig_request(q, dice_next(&w->d), (uint32_t)dice_between(&w->d, 1, 150),
                (uint32_t)dice_between(&w->d, 1, 100));
    if (dice_chance(&w->d, .5))
        rig_begin_like(q, dice_below(&w->d, 2), (uint32_t)dice_between(&w->d, 1, 120));
    if (dice_chance(&w->d, .3)) {
        q->sampler.temp = .8f;
        q->sampler.seed = dice_next(&w->d);
    }
}

static void submit(struct world *w)
{
    for (uint32_t e = 0; e < w->c.p.n_edges; e++) {
        while (w->c.edges[e].edge && w->submitted[e] < REQUESTS &&
               rig_submit(&w->c.edges[e], &w->q[e][w->submitted[e]]) > 0)
            w->submitted[e]++;
    }
}

static bool all_done(const struct world *w)
{
    for (uint32_t e = 0; e < w->c.p.n_edges; e++) {
        if (w->submitted[e] < REQUESTS || !w->c.edges[e].edge)
            return false;
        for (uint32_t i = 0; i < REQUESTS; i++) {
            if (!w->q[e][i].done)
                return false;
        }
    }
    return w->c.cloud;
}

/* The same edges; their order, and so where each one's entry lies, is another's. */
static void another_list(struct world *w)
{
    struct authorized *list = crowd_list(&w->c.p, (1u << w->c.p.n_edges) - 1);

    cloud_set_peers(w->c.cloud, list);
    authorized_close(w->c.list);
    w->c.list = list;
    w->lists++;
}

/* An edge that never met a cloud takes a denial for an answer. */
static bool all_met(const struct world *w)
{
    for (uint32_t e = 0; e < w->c.p.n_edges; e++) {
        struct edge_stats s;

        if (!w->c.edges[e].edge)
            continue;
        edge_stats(w->c.edges[e].edge, &s);
        if (!s.link.rx_messages && !s.reconnections)
            return false;
    }
    return true;
}

static void play_fate(struct world *w)
{
    struct crowd *c = &w->c;
    const uint32_t e = (uint32_t)dice_below(&w->d, c->p.n_edges);

    if (c->edges[e].edge && w->kills < 4 && dice_chance(&w->d, .001)) {
        crowd_kill_edge(c, e);
        w->kills++;
        w->edge_back_ns[e] = c->now_ns + 1 + dice_below(&w->d, 4 * SECOND);
    }
    for (uint32_t i = 0; i < c->p.n_edges; i++) {
        if (w->edge_back_ns[i] && c->now_ns >= w->edge_back_ns[i]) {
            w->edge_back_ns[i] = 0;
            crowd_start_edge(c, i);
        }
    }
    if (c->cloud && w->cloud_kills < 3 && dice_chance(&w->d, .0005) && all_met(w)) {
        crowd_kill_cloud(c);
        w->cloud_kills++;
        w->drained_until_ns = 0;
        w->cloud_back_ns = c->now_ns + 1 + dice_below(&w->d, SECOND);
    }
    if (w->cloud_back_ns && c->now_ns >= w->cloud_back_ns) {
        w->cloud_back_ns = 0;
        crowd_start_cloud(c);
    }
    if (c->cloud && !w->drained_until_ns && w->drains < 3 && dice_chance(&w->d, .0005)) {
        cloud_drain(c->cloud, true);
        w->drains++;
        w->drained_until_ns = c->now_ns + dice_below(&w->d, 8 * SECOND);
    }
    if (c->cloud && w->drained_until_ns && c->now_ns >= w->drained_until_ns) {
        cloud_drain(c->cloud, false);
        w->drained_until_ns = 0;
    }
    if (c->cloud && c->p.secure && w->lists < 4 && dice_chance(&w->d, .001))
        another_list(w);
}

/* Who has a limit, or came while a killed one still had its place, may be refused; nobody may lose
 * what it had. */
static void judge(struct world *w, uint32_t e, struct rig_request *q)
{
    if (q->result.finish == EDGE_CANCELLED)
        w->cancelled++;
    else if (q->result.finish == EDGE_REFUSED &&
             (strstr(q->result.error, "may have") || strstr(q->result.error, "draining") ||
              strstr(q->result.error, "busy") || strstr(q->result.error, "no room")))
        w->refused++;
    else if (q->result.finish != EDGE_LENGTH)
        fail("a request ended early", q->result.error);
    else if (!rig_right(&w->c.edges[e], q))
        fail("wrong tokens", "");
    rig_request_free(q);
}

static void run(void)
{
    static struct world w;
    struct crowd_params p;
    struct cloud_stats s;

    memset(&w, 0, sizeof w);
    w.d.state = seeds.seed;
    w.least_free = UINT32_MAX;
    p = choose(&w.d);
    crowd_open(&w.c, &p);
    for (uint32_t e = 0; e < p.n_edges; e++) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            ask(&w, e, i);
    }
    do {
        submit(&w);
        crowd_step(&w.c);
        seeds.n_steps++;
        play_fate(&w);
        if (hub_port(w.c.hub)->pool->n_free < w.least_free)
            w.least_free = hub_port(w.c.hub)->pool->n_free;
        if (w.c.now_ns > 3600 * SECOND)
            fail("no progress", w.c.said);
    } while (!all_done(&w));
    for (uint32_t e = 0; e < p.n_edges; e++) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            judge(&w, e, &w.q[e][i]);
    }
    if (w.least_free < p.pool_packets / 16)
        fail("the cloud's packets ran out", "");
    cloud_stats(w.c.cloud, &s);
    printf("seed %" PRIu64
           ": %u edges, %s, drop %.2f, %u sessions each, pool %u (%u free at least): "
           "%u edges and %u clouds killed, %u drains, %u lists, %u cancelled, %u refused, %.2f s\n",
           seeds.seed, p.n_edges, p.secure ? "encrypted" : "plain", p.edge.network.drop,
           p.edge.sessions, p.pool_packets, w.least_free, w.kills, w.cloud_kills, w.drains, w.lists,
           w.cancelled, w.refused, (double)w.c.now_ns * 1e-9);
    crowd_close(&w.c);
    ledger_clear();
}

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
        rig_random(seeds.seed);
        run();
    }
    seeds_report(&seeds);
    printf("nonce ledger: %" PRIu64 " seals, %" PRIu64 " of a nonce used before\n", ledger_seals(),
           ledger_repeats());
    return 0;
}
