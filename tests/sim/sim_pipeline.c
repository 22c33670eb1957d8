/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Edge and cloud on fake stages over the simulated network, everything chosen by the seed:
 * sessions, prompts, chunks, guesses, cancellation, stage times, pools, windows, impairments,
 * encryption, how many clouds there are, their deaths, rebirths and drains, and what memory there
 * is for histories. The tokens must be those of an unsplit run, no session may hang, nothing may be
 * left, no nonce of any key may seal two different byte strings (ledger.h).
 *
 *   sim_pipeline [--seed N] [--runs R | --seconds S] [--requests M] [--sessions N]
 *
 * --sessions: so many at once instead of a few, of as many short requests and a half more; with the
 * time that it took a token.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/sim/ledger.h"
#include "tests/sim/seeds.h"
#include "tests/unit/pipeline/rig.h"

#define REQUESTS_MAX 64u
#define SESSIONS_MAX 4000u

static struct seeds seeds = {.seed = 1, .runs = 30};
static uint32_t n_requests = 12, n_sessions;

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "FAILED: %s: %s\n", what, detail);
    seeds_failed();
}

static uint64_t pick(struct dice *d, const uint64_t *from, uint64_t n)
{
    return from[dice_below(d, n)];
}

static struct rig_params choose(struct dice *d)
{
    static const uint64_t chunks[] = {1, 3, 16, 64, 128}, windows[] = {0, 0, 1, 8};
    static const uint64_t widths[] = {64, 64, 300, 900}, pools[] = {128, 1024};
    static const double drops[] = {0, .02, .2, .4};
    uint64_t slow = dice_chance(d, .3) ? dice_below(d, 100 * RIG_MS) : dice_below(d, RIG_MS);
    uint32_t width = (uint32_t)pick(d, widths, 4);
    struct rig_params p = {
        .network = {.drop = drops[dice_below(d, 4)],
                    .duplicate = dice_chance(d, .3) ? .2 : 0,
                    .flip = dice_chance(d, .3) ? .1 : 0,
                    .replay = dice_chance(d, .3) ? .1 : 0,
                    .noise = dice_chance(d, .3) ? .2 : 0,
                    .refuse = dice_chance(d, .3) ? .1 : 0,
                    .delay_min_ns = 5000},
        .edge_stage = {.d_model = width, .run_ns = slow, .stingy = dice_chance(d, .5)},
        .cloud_stage = {.d_model = width, .run_ns = dice_below(d, 2 * slow + 1)},
        .link = {.window_packets = (uint32_t)pick(d, windows, 4),
                 .rx_budget_packets = (uint32_t)pick(d, windows, 4)},
        .sessions = (uint32_t)dice_between(d, 1, 6),
        .lingering = (uint32_t)dice_below(d, 4),
        .no_prefix = dice_chance(d, .2),
        .chunk_tokens = (uint32_t)pick(d, chunks, 5),
        .pool_packets = (uint32_t)pick(d, pools, 2),
        .hook = dice_chance(d, .7),
        .secure = dice_chance(d, .6),
        .seed = dice_next(d),
    };
    if (dice_chance(d, .3)) /* room for one of the longest, or a few */
        p.edge_stage.kv_budget_bytes = dice_between(d, 240, 1000) * FAKE_TOKEN_BYTES;
    if (dice_chance(d, .3))
        p.cloud_stage.kv_budget_bytes = dice_between(d, 240, 1000) * FAKE_TOKEN_BYTES;
    p.network.delay_max_ns = dice_chance(d, .5) ? 20000 : 10 * RIG_MS;
    if (dice_chance(d, .5))
        p.more = (uint32_t)dice_between(d, 0, RIG_MORE);
    if (p.more || dice_chance(d, .5)) {
        static const uint64_t budgets[] = {0, 20000, 1 << 24};

        p.rejoin.timeout_ns = 3600ull * 1000 * RIG_MS;
        p.rejoin.history_bytes = pick(d, budgets, 3);
        p.crash = .001 * (double)dice_between(d, 1, 5);
        p.crash_max = 20;
        p.down_max_ns = dice_below(d, 2000 * RIG_MS);
        p.tell_crash = dice_chance(d, .5);
    }
    if (dice_chance(d, .4)) {
        p.mtu = dice_chance(d, .5) ? 1500 : 9000;
        p.network.mtu_sure_bytes = 1280;
        p.network.mtu_bytes = (uint32_t)dice_between(d, 1280, p.mtu);
        p.mtu_change = dice_chance(d, .5) ? .001 : 0;
    }
    if (p.more && dice_chance(d, .5))
        p.cloud_sessions = (uint32_t)dice_between(d, 1, p.sessions);
    if (p.more && dice_chance(d, .5))
        p.drain = .01;
    return p;
}

/* Many over one link: a run of either half has rows of some of them. */
static struct rig_params choose_many(struct dice *d)
{
    static const double drops[] = {0, 0, .01, .1};
    struct rig_params p = {
        .network = {.drop = drops[dice_below(d, 4)],
                    .delay_min_ns = 5000,
                    .delay_max_ns = dice_chance(d, .5) ? 20000 : 10 * RIG_MS},
        .edge_stage = {.d_model = 64, .max_rows = 320, .run_ns = dice_below(d, RIG_MS)},
        .cloud_stage = {.d_model = 64, .max_rows = 384, .run_ns = dice_below(d, 2 * RIG_MS)},
        .sessions = n_sessions,
        .lingering = 4,
        .no_prefix = true,
        .chunk_tokens = 64,
        .pool_packets = 2048,
        .hook = dice_chance(d, .7),
        .secure = dice_chance(d, .6),
        .seed = dice_next(d),
    };

    if (dice_chance(d, .3)) {
        p.rejoin = (struct edge_rejoin){.timeout_ns = 3600ull * 1000 * RIG_MS, .history_bytes = 1 << 28};
        p.crash = .0005;
        p.crash_max = 2;
        p.down_max_ns = 500 * RIG_MS;
        p.tell_crash = dice_chance(d, .5);
    }
    return p;
}

static void run_many(void)
{
    const uint32_t n = n_sessions + n_sessions / 2;
    struct rig_request *q = calloc(n, sizeof *q);
    struct dice d = {seeds.seed};
    const struct rig_params p = choose_many(&d);
    struct edge_stats stats;
    struct timespec from, to;
    struct rig r;
    double us;

    if (!q)
        abort();
    for (uint32_t i = 0; i < n; i++)
        rig_request(&q[i], dice_next(&d), (uint32_t)dice_between(&d, 1, 12), (uint32_t)dice_between(&d, 4, 16));
    rig_open(&r, &p);
    rig_start(&r);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    if (!rig_run(&r, q, n, 3600ull * 1000 * RIG_MS))
        fail("no progress", edge_error(r.edge));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    us = (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) * 1e-3;
    for (uint32_t i = 0; i < n; i++) {
        if (q[i].result.finish != EDGE_LENGTH)
            fail("a request ended early", q[i].result.error);
        if (!rig_right(&r, &q[i]))
            fail("wrong tokens", "");
        rig_request_free(&q[i]);
    }
    edge_stats(r.edge, &stats);
    printf("seed %" PRIu64 ": drop %.2f, %s, %u sessions: %" PRIu64 " tokens in %" PRIu64 " runs, %" PRIu64
           " packets, %" PRIu64 " again, %u crashes, %.2f s; %.1f us of this machine a token\n",
           seeds.seed, p.network.drop, stats.cipher, n_sessions, stats.tokens, stats.runs, stats.link.tx_packets,
           stats.link.retransmits, r.crashes, (double)r.now_ns * 1e-9, us / (double)stats.tokens);
    rig_close(&r);
    ledger_clear();
    free(q);
}

static void run(void)
{
    static struct rig_request q[REQUESTS_MAX];
    static int32_t guesses[REQUESTS_MAX][64];
    struct dice d = {seeds.seed};
    struct rig_params p = choose(&d);
    struct edge_stats stats;
    uint32_t cancelled = 0;
    struct rig r;

    for (uint32_t i = 0; i < n_requests; i++) {
        rig_request(&q[i], dice_next(&d), (uint32_t)dice_between(&d, 1, 200),
                    (uint32_t)dice_between(&d, 1, 40));
        if (dice_chance(&d, .6)) /* of one of two families */
            rig_begin_like(&q[i], p.seed + dice_below(&d, 2), (uint32_t)dice_between(&d, 1, 220));
        if (dice_chance(&d, .3)) {
            q[i].sampler.temp = .8f;
            q[i].sampler.seed = dice_next(&d);
        }
        if (dice_chance(&d, .3))
            q[i].kv = 1 + (uint32_t)dice_below(&d, KV_FORMATS);
        if (dice_chance(&d, .3))
            q[i].n_top = (uint32_t)dice_between(&d, 1, SAMPLER_TOP_MAX);
        if (dice_chance(&d, .3)) {
            fake_reference(q[i].prompt, q[i].n_prompt, q[i].n_predict, &q[i].sampler, -1,
                           p.edge_stage.d_model, guesses[i], NULL, 0);
            for (uint32_t k = 0; k < q[i].n_predict; k++) {
                if (dice_chance(&d, .3))
                    guesses[i][k] = (int32_t)dice_below(&d, FAKE_VOCAB);
            }
            q[i].drafts = guesses[i];
            q[i].n_drafts = q[i].n_predict;
            q[i].draft_len = (uint32_t)dice_between(&d, 1, 15);
        }
        if (dice_chance(&d, .2))
            q[i].cancel_at = (uint32_t)dice_between(&d, 1, q[i].n_predict);
    }
    rig_open(&r, &p);
    rig_start(&r);
    if (!rig_run(&r, q, n_requests, 3600ull * 1000 * RIG_MS))
        fail("no progress", edge_error(r.edge));
    for (uint32_t i = 0; i < n_requests; i++) {
        if (q[i].result.finish == EDGE_CANCELLED && q[i].cancel_at)
            cancelled++;
        else if (q[i].result.finish != EDGE_LENGTH)
            fail("a request ended early", q[i].result.error);
        else if (!rig_right(&r, &q[i]))
            fail("wrong tokens", "");
        rig_request_free(&q[i]);
    }
    seeds.n_steps += r.steps;
    edge_stats(r.edge, &stats);
    if (stats.history_bytes && !stats.lingering)
        fail("a history is left", "");
    printf("seed %" PRIu64 ": drop %.2f, %s, %u sessions, chunk %u, width %u, pool %u: %" PRIu64
           " tokens, %u cancelled, %" PRIu64 " packets, %" PRIu64
           " again, %u clouds, %u crashes, %" PRIu64 " moves, %" PRIu64 " rows replayed, %" PRIu64
           " shared, mtu %" PRIu32 ", %" PRIu64 " falls, %" PRIu64 " cut, %.2f s\n",
           seeds.seed, p.network.drop, stats.cipher, p.sessions, p.chunk_tokens,
           p.edge_stage.d_model, p.pool_packets, stats.tokens, cancelled, stats.link.tx_packets,
           stats.link.retransmits, 1 + p.more, r.crashes, stats.moved, stats.replayed_rows,
           stats.shared_rows, p.mtu, stats.link.mtu_falls, stats.link.cut,
           (double)r.now_ns * 1e-9);
    rig_close(&r);
    ledger_clear();
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        SEEDS_OPTIONS,
        {"requests", required_argument, NULL, 'q'},
        {"sessions", required_argument, NULL, 'n'},
        {0},
    };
    int c;

    seeds.argv = argv;
    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (c == 'q')
            n_requests = (uint32_t)strtoul(optarg, NULL, 0);
        else if (c == 'n')
            n_sessions = (uint32_t)strtoul(optarg, NULL, 0);
        else if (!seeds_option(&seeds, c, optarg))
            return 2;
    }
    if (!n_requests || n_requests > REQUESTS_MAX || n_sessions > SESSIONS_MAX)
        return 2;
    while (seeds_next(&seeds)) {
        rig_random(seeds.seed);
        if (n_sessions)
            run_many();
        else
            run();
    }
    seeds_report(&seeds);
    printf("nonce ledger: %" PRIu64 " seals, %" PRIu64 " of a nonce used before\n", ledger_seals(),
           ledger_repeats());
    return 0;
}
