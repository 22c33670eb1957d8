/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud dies and comes back, or another takes its place: the ids are those of an unsplit run,
 * and what can't go on says why. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/profile.h"
#include "dataplane/pipeline/proto.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)
#define MB     ((size_t)1 << 20)

static const struct network_params quiet = {.delay_min_ns = 10000, .delay_max_ns = 10000};
static const struct edge_rejoin patient = {.timeout_ns = 60 * SECOND, .history_bytes = 4 * MB};

static void start(struct rig *r, const struct rig_params *p)
{
    rig_open(r, p);
    rig_start(r);
}

static void step_until_ids(struct rig *r, const struct rig_request *q, uint32_t n)
{
    while (q->n_ids < n && !q->done)
        rig_step(r);
}

static bool finishes(struct rig *r, const struct rig_request *q, uint32_t n, uint64_t within)
{
    uint64_t until = r->now_ns + within;
    uint32_t done;

    do {
        rig_step(r);
        done = 0;
        for (uint32_t i = 0; i < n; i++)
            done += q[i].done;
    } while (done < n && r->now_ns < until);
    return done == n;
}

static void run_for(struct rig *r, uint64_t ns)
{
    uint64_t until = r->now_ns + ns;

    while (r->now_ns < until)
        rig_step(r);
}

static struct edge_stats stats_of(const struct rig *r)
{
    struct edge_stats s;

    edge_stats(r->edge, &s);
    return s;
}

static void assert_right(const struct rig *r, const struct rig_request *q)
{
    if (q->result.finish != EDGE_LENGTH)
        fail_msg("ended by %d: %s", q->result.finish, q->result.error);
    assert_true(rig_right(r, q));
}

/* With and without keys, seen at once or by what the new cloud says, early or late in the answer:
 * almost nothing is computed twice at the edge, and the pause is short. */
static void test_mid_answer(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        struct rig_params p = {
            .network = quiet, .secure = i & 1, .tell_crash = i & 2, .rejoin = patient};
        uint32_t at = i & 4 ? 1 : 150, n_prompt = 100, n_predict = 200;
        struct rig_request q;
        struct edge_stats s;
        uint64_t from;
        struct rig r;

        start(&r, &p);
        rig_request(&q, i, n_prompt, n_predict);
        q.sampler.temp = .9f;
        q.sampler.repeat_penalty = 1.3f; /* looks at the ids before */
        assert_true(rig_submit(&r, &q) > 0);
        step_until_ids(&r, &q, at);
        rig_kill_cloud(&r);
        rig_start_cloud(&r);
        from = r.now_ns;
        step_until_ids(&r, &q, at + 1);
        print_message("%s, %s: next id after %.1f ms\n", p.secure ? "encrypted" : "plain",
                      p.tell_crash ? "told" : "not told", (double)(r.now_ns - from) * 1e-6);
        assert_true(r.now_ns - from < (p.tell_crash ? 50 * RIG_MS : 3 * SECOND));
        assert_true(finishes(&r, &q, 1, 10 * SECOND));
        assert_right(&r, &q);
        s = stats_of(&r);
        assert_int_equal(s.reconnections, 1);
        assert_in_range(s.replayed_rows, n_prompt + at - 2, n_prompt + at);
        assert_true(s.replayed_bytes > 0);
        assert_true(fake_counts(r.edge_stage)->rows <= n_prompt + n_predict + 1);
        assert_true(!s.history_bytes || s.lingering);
        assert_int_equal(r.n_said, 2);
        assert_non_null(strstr(r.said, "going on with 1 answer,"));
        rig_request_free(&q);
        rig_close(&r);
    }
}

/* Killed again and again, in prompts and answers, with guesses, sessions of every length. */
static void test_again_and_again(void **state)
{
    static struct rig_request q[10];
    static int32_t guesses[10][60];

    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct rig_params p = {
            .network = {.drop = seed % 3 ? 0 : .1, .delay_min_ns = 10000, .delay_max_ns = 200000},
            .rejoin = patient,
            .sessions = 4,
            .chunk_tokens = seed % 2 ? 16 : 64,
            .crash = .02,
            .down_max_ns = 300 * RIG_MS,
            .tell_crash = seed % 4 < 2,
            .secure = seed % 2,
            .hook = seed % 3,
            .edge_stage = {.run_ns = RIG_MS},
            .cloud_stage = {.run_ns = RIG_MS},
            .seed = seed,
        };
        struct dice d = {seed};
        uint32_t crashes;
        struct rig r;

        for (unsigned i = 0; i < 10; i++) {
            rig_request(&q[i], seed * 100 + i, 1 + i * 37 % 150, 1 + i * 11 % 60);
            q[i].sampler.temp = i % 2 ? .8f : 0;
            q[i].sampler.repeat_penalty = 1.2f;
            q[i].n_top = i % 4 * 5;
            if (i % 3)
                continue;
            fake_reference(q[i].prompt, q[i].n_prompt, q[i].n_predict, &q[i].sampler, -1, 64,
                           guesses[i], NULL, 0);
            for (unsigned k = 0; k < q[i].n_predict; k++) {
                if (dice_chance(&d, .3))
                    guesses[i][k] = (int32_t)dice_below(&d, FAKE_VOCAB);
            }
            q[i].drafts = guesses[i];
            q[i].n_drafts = q[i].n_predict;
            q[i].draft_len = 7;
        }
        start(&r, &p);
        if (!rig_run(&r, q, 10, 600 * SECOND))
            fail_msg("seed %u: not done: %s", (unsigned)seed, r.said);
        for (unsigned i = 0; i < 10; i++) {
            assert_right(&r, &q[i]);
            rig_request_free(&q[i]);
        }
        crashes = r.crashes;
        print_message("seed %u: %u crashes, %u reconnections, %u rows replayed\n", (unsigned)seed,
                      crashes, (unsigned)stats_of(&r).reconnections,
                      (unsigned)stats_of(&r).replayed_rows);
        assert_true(!stats_of(&r).history_bytes || stats_of(&r).lingering);
        if (!r.cloud)
            rig_start_cloud(&r);
        rig_close(&r);
    }
}

/* No room for histories: rows are computed again, and the ids are still those. */
static void test_no_history(void **state)
{
    static const size_t budgets[] = {0, 5000, 60000};

    for (unsigned i = 0; i < 3; i++) {
        struct rig_params p = {
            .network = quiet, .sessions = 3, .rejoin = patient, .chunk_tokens = 32};
        struct rig_request q[3];
        struct rig r;

        p.rejoin.history_bytes = budgets[i];
        start(&r, &p);
        for (unsigned k = 0; k < 3; k++) {
            rig_request(&q[k], k, 90, 100);
            q[k].sampler.repeat_penalty = 1.3f;
            assert_true(rig_submit(&r, &q[k]) > 0);
        }
        while (q[2].n_ids < 50) {
            rig_step(&r);
            assert_true(stats_of(&r).history_bytes <= budgets[i]);
        }
        assert_int_equal(r.n_said, 1);
        assert_non_null(strstr(r.said, "no more memory"));
        rig_kill_cloud(&r);
        rig_start_cloud(&r);
        assert_true(finishes(&r, q, 3, 60 * SECOND));
        for (unsigned k = 0; k < 3; k++) {
            assert_right(&r, &q[k]);
            rig_request_free(&q[k]);
        }
        assert_true(fake_counts(r.edge_stage)->rows > 3 * 190 + 90);
        rig_close(&r);
    }
}

static const struct codec_profile_curve curve = {
    .n = 4, .points = {{.004f, .001f, 85}, {.02f, .02f, 60}, {.1f, .2f, 30}, {.3f, 1, 18}}};

static struct rig_params targeted(void)
{
    return (struct rig_params){
        .network = quiet,
        .rejoin = patient,
        .codec = codec_params_default(CODEC_RANS),
        .curve = &curve,
        .target = {CODEC_RATE_BYTES, 40},
    };
}

/* Under a target each message's parameter follows from those before: replayed or sent anew after
 * the loss, the tiles are those of a run without one. */
static void test_target(void **state)
{
    struct rig_request q[2];

    for (unsigned killed = 0; killed < 2; killed++) {
        struct rig_params p = targeted();
        struct rig r;

        start(&r, &p);
        rig_request(&q[killed], 3, 60, 150);
        assert_true(rig_submit(&r, &q[killed]) > 0);
        for (uint32_t at = 20; killed && at < 140; at += 40) {
            step_until_ids(&r, &q[killed], at);
            rig_kill_cloud(&r);
            rig_start_cloud(&r);
        }
        assert_true(finishes(&r, &q[killed], 1, 60 * SECOND));
        assert_int_equal(q[killed].result.finish, EDGE_LENGTH);
        assert_true(stats_of(&r).parameter.min < stats_of(&r).parameter.max);
        rig_close(&r);
    }
    assert_int_equal(q[0].n_ids, q[1].n_ids);
    assert_memory_equal(q[0].ids, q[1].ids, q[0].n_ids * sizeof q[0].ids[0]);
    for (unsigned i = 0; i < 2; i++)
        rig_request_free(&q[i]);
}

/* The edge's target moves on the way, for all that have none of their own: what a new cloud gets
 * are the tiles that the lost one got, so that the ids go on. */
static void test_moving_target(void **state)
{
    static const struct codec_rate_target steps[] = {
        {CODEC_RATE_KL, .02}, {CODEC_RATE_KL, .5}, {CODEC_RATE_NONE, 0}, {CODEC_RATE_KL, .1}};
    struct rig_request q[2], own[2];

    (void)state;
    for (unsigned killed = 0; killed < 2; killed++) {
        struct rig_params p = targeted();
        struct rig r;

        p.target = (struct codec_rate_target){CODEC_RATE_NONE, 0};
        start(&r, &p);
        rig_request(&q[killed], 3, 60, 150);
        rig_request(&own[killed], 4, 50, 150);
        own[killed].target = (struct codec_rate_target){CODEC_RATE_KL, .02};
        assert_true(rig_submit(&r, &q[killed]) > 0);
        for (unsigned i = 0; i < 4; i++) {
            step_until_ids(&r, &q[killed], 30 * i + 20);
            assert_int_equal(edge_set_target(r.edge, steps[i]), 0);
            step_until_ids(&r, &q[killed], 30 * i + 30);
            if (!killed)
                continue;
            rig_kill_cloud(&r);
            rig_start_cloud(&r);
        }
        assert_true(finishes(&r, &q[killed], 1, 60 * SECOND));
        assert_true(rig_submit(&r, &own[killed]) > 0);
        assert_int_equal(edge_set_target(r.edge, steps[1]), 0);
        assert_true(finishes(&r, &own[killed], 1, 60 * SECOND));
        assert_int_equal(q[killed].result.finish, EDGE_LENGTH);
        assert_true(stats_of(&r).parameter.min < stats_of(&r).parameter.max);
        assert_int_equal(edge_set_target(r.edge, (struct codec_rate_target){CODEC_RATE_KL, -1}),
                         -EINVAL);
        rig_close(&r);
    }
    assert_int_equal(q[0].n_ids, q[1].n_ids);
    assert_memory_equal(q[0].ids, q[1].ids, q[0].n_ids * sizeof q[0].ids[0]);
    /* A target of its own is not touched. */
    assert_true(own[0].result.tile_bytes_up == own[1].result.tile_bytes_up);
    const double bytes = (double)own[0].result.tile_bytes_up / (double)own[0].result.rows_up;
    print_message("%.1f bytes a row under its own target\n", bytes);
    assert_true(bytes > 45);
    for (unsigned i = 0; i < 2; i++) {
        rig_request_free(&q[i]);
        rig_request_free(&own[i]);
    }
}

/* Without its history a session whose target has moved can't be made again. */
static void test_moving_target_without_history(void **state)
{
    (void)state;
    for (unsigned moved = 0; moved < 2; moved++) {
        struct rig_params p = targeted();
        struct rig_request q;
        struct rig r;

        p.target = (struct codec_rate_target){CODEC_RATE_KL, .02};
        p.rejoin.history_bytes = 0;
        start(&r, &p);
        rig_request(&q, 3, 60, 150);
        assert_true(rig_submit(&r, &q) > 0);
        step_until_ids(&r, &q, 20);
        assert_int_equal(
            edge_set_target(r.edge, (struct codec_rate_target){CODEC_RATE_KL, moved ? .2 : .02}),
            0);
        rig_kill_cloud(&r);
        rig_start_cloud(&r);
        assert_true(finishes(&r, &q, 1, 60 * SECOND));
        assert_int_equal(q.result.finish, moved ? EDGE_LOST : EDGE_LENGTH);
        rig_request_free(&q);
        rig_close(&r);
    }
}

/* What was waited for is told, once; and rows beside decode are as few as asked for. */
static void test_turns(void **state)
{
    static struct edge_turn turns[EDGE_TURNS];
    const struct rig_params p = {.network = quiet,
                                 .sessions = 2,
                                 .chunk_tokens = 64,
                                 .hook = true,
                                 .edge_stage = {.run_ns = RIG_MS},
                                 .cloud_stage = {.run_ns = 3 * RIG_MS}};
    struct rig_request q[2];
    struct edge_stats s;
    struct rig r;

    (void)state;
    start(&r, &p);
    edge_set_rows(r.edge, 32, 3);
    rig_request(&q[0], 1, 40, 120);
    rig_request(&q[1], 2, 60, 2);
    assert_true(rig_submit(&r, &q[0]) > 0);
    step_until_ids(&r, &q[0], 20);
    assert_int_equal(edge_take_turns(r.edge, turns, EDGE_TURNS), 20);
    for (unsigned i = 0; i < 20; i++) {
        assert_true(turns[i].bytes > 0);
        assert_true((turns[i].gap_ns == 0) == (i == 0));
        assert_true(turns[i].turn_ns >= 3 * RIG_MS && turns[i].turn_ns < 40 * RIG_MS);
        assert_true(i == 0 || (turns[i].path_ns > 0 && turns[i].path_ns < turns[i].turn_ns));
    }
    assert_int_equal(turns[0].bytes, 40);
    assert_int_equal(edge_take_turns(r.edge, turns, EDGE_TURNS), 0);
    edge_stats(r.edge, &s);
    assert_true(s.compute_ns >= s.runs * RIG_MS);
    assert_in_range(s.decode_rows + s.bulk_rows, s.rows_up, s.rows_up + 1);
    assert_int_equal(s.decoding, 1);

    assert_true(rig_submit(&r, &q[1]) > 0);
    const uint64_t runs = s.runs, decoded = s.decode_rows;
    step_until_ids(&r, &q[1], 1);
    edge_stats(r.edge, &s);
    assert_true(s.runs - runs >= 60 / 3);
    assert_true(s.decode_rows - decoded >= 3);
    assert_true(finishes(&r, q, 2, 60 * SECOND));
    assert_right(&r, &q[0]);
    assert_right(&r, &q[1]);
    rig_request_free(&q[0]);
    rig_request_free(&q[1]);
    rig_close(&r);
}

static void test_target_without_history(void **state)
{
    struct rig_params p = targeted();
    struct rig_request q;
    struct rig r;

    p.rejoin.history_bytes = 0;
    start(&r, &p);
    rig_request(&q, 3, 60, 150);
    assert_true(rig_submit(&r, &q) > 0);
    step_until_ids(&r, &q, 20);
    rig_kill_cloud(&r);
    rig_start_cloud(&r);
    assert_true(finishes(&r, &q, 1, 60 * SECOND));
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_non_null(strstr(q.result.error, "no memory was left"));
    rig_request_free(&q);
    rig_request(&q, 4, 60, 10); /* the next one is served */
    assert_true(rig_run(&r, &q, 1, 60 * SECOND));
    assert_int_equal(q.result.finish, EDGE_LENGTH);
    rig_request_free(&q);
    rig_close(&r);
}

/* Nobody comes: the sessions end when they were told they would. */
static void test_in_vain(void **state)
{
    for (unsigned secure = 0; secure < 2; secure++) {
        struct rig_params p = {
            .network = quiet, .rejoin = patient, .secure = secure, .tell_crash = true};
        struct rig_request q;
        uint64_t from;
        struct rig r;

        start(&r, &p);
        rig_request(&q, 1, 10, 500);
        assert_true(rig_submit(&r, &q) > 0);
        step_until_ids(&r, &q, 10);
        rig_kill_cloud(&r);
        from = r.now_ns;
        assert_true(finishes(&r, &q, 1, 70 * SECOND));
        assert_in_range(r.now_ns - from, 60 * SECOND, 61 * SECOND);
        assert_int_equal(q.result.finish, EDGE_LOST);
        print_message("%s\n", q.result.error);
        assert_non_null(strstr(q.result.error, "none answered within 60 s"));
        assert_int_equal(r.edge_rc, -EPIPE);
        rig_start_cloud(&r);
        rig_request_free(&q);
        rig_close(&r);
    }
}

/* Who takes the cloud's place is not the one asked for: nothing is told to it, and that is said. */
static void test_impostor(void **state)
{
    struct rig_params p = {.network = quiet, .rejoin = patient, .secure = true, .tell_crash = true};
    struct identity *stranger;
    struct rig_request q;
    struct rig r;

    assert_int_equal(identity_new(&stranger), 0);
    start(&r, &p);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    step_until_ids(&r, &q, 10);
    rig_kill_cloud(&r);
    r.p.cloud_security = (struct pipeline_security){stranger, rig_peers(true)};
    rig_start_cloud(&r);
    assert_true(finishes(&r, &q, 1, 70 * SECOND));
    assert_int_equal(q.result.finish, EDGE_LOST);
    print_message("%s\n", q.result.error);
    assert_non_null(strstr(q.result.error, "but one said"));
    assert_non_null(strstr(q.result.error, "not the one asked for"));
    assert_int_equal(stats_of(&r).replayed_rows, 0);
    rig_request_free(&q);
    rig_close(&r);
    identity_close(stranger);
}

/* Clouds that die as soon as the session is there, every time: that ends, too. */
static void test_poison(void **state)
{
    struct rig_params p = {.network = quiet, .rejoin = patient, .tell_crash = true};
    struct rig_request q;
    uint64_t from;
    struct rig r;

    start(&r, &p);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    step_until_ids(&r, &q, 10);
    rig_kill_cloud(&r);
    from = r.now_ns;
    while (!q.done) {
        uint32_t ids = q.n_ids;

        rig_start_cloud(&r);
        while (!q.done && !fake_counts(r.cloud_stage)->open_seqs)
            rig_step(&r);
        rig_kill_cloud(&r);
        run_for(&r, SECOND);
        assert_int_equal(q.n_ids, ids);
        assert_true(r.now_ns < from + 100 * SECOND);
    }
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_true(stats_of(&r).reconnections > 10);
    assert_in_range(r.now_ns - from, 60 * SECOND, 63 * SECOND);
    rig_request_free(&q);
    rig_close(&r);
}

/* A cloud that has no place for one more edge says so: at first that is all; later it is asked
 * again, until the other one has been silent for too long. */
static void test_turned_away(void **state)
{
    for (unsigned first = 0; first < 2; first++) {
        struct rig_params p = {.network = quiet,
                               .rejoin = patient,
                               .secure = true,
                               .tell_crash = true,
                               .max_edges = 1};
        struct edge_params other = {.codec = codec_params_default(CODEC_F32)};
        struct edge_request er = {.n_prompt = 1,
                                  .n_predict = 1000,
                                  .prompt_ids = (int32_t[]){1},
                                  .sampler = sampler_params_default()};
        char err[PIPELINE_ERR];
        struct stage *stage;
        struct edge *e;
        struct rig_request q;
        uint64_t from, deadline;
        struct rig r;

        p.rejoin.timeout_ns = 5 * SECOND;
        start(&r, &p);
        rig_request(&q, 1, 10, 100);
        if (!first) {
            assert_true(rig_submit(&r, &q) > 0);
            step_until_ids(&r, &q, 10);
        }
        rig_kill_cloud(&r);
        if (first)
            (void)port_alive(network_port(r.network, 0)); /* both edges have the one port */
        else
            rig_step(&r);
        network_clear(r.network);
        rig_start_cloud(&r);
        stage = fake_open(false, &(struct fake_params){.max_seqs = 1}, NULL);
        other.stage = stage;
        other.port = network_port(r.network, 0);
        other.security = (struct pipeline_security){rig_identity(false), rig_peers(false)};
        assert_int_equal(edge_open(&other, r.now_ns, &e, err), 0);
        assert_true(edge_submit(e, &er, r.now_ns) > 0);
        for (unsigned i = 0; i < 1000; i++) { /* it moves in */
            network_set_now(r.network, r.now_ns);
            assert_true(edge_poll(e, r.now_ns, &deadline) >= 0);
            assert_true(cloud_poll(r.cloud, r.now_ns, &deadline) >= 0);
            r.now_ns += 20000;
        }
        from = r.now_ns;
        if (first)
            assert_true(rig_submit(&r, &q) > 0);
        assert_true(finishes(&r, &q, 1, 20 * SECOND));
        print_message("%.1f s: %s\n", (double)(r.now_ns - from) * 1e-9, q.result.error);
        if (first) {
            assert_int_equal(q.result.finish, EDGE_LOST);
            assert_non_null(strstr(q.result.error, "closed the connection"));
            assert_true(r.now_ns - from < SECOND);
        } else {
            assert_right(&r, &q);
            assert_in_range(r.now_ns - from, 2 * SECOND, 5 * SECOND);
        }
        edge_close(e);
        stage_close(stage);
        rig_request_free(&q);
        rig_close(&r);
    }
}

/* Cancelled, submitted and closed while there is no cloud. */
static void test_apart(void **state)
{
    struct rig_params p = {.network = quiet, .sessions = 3, .rejoin = patient, .tell_crash = true};
    struct rig_request q[3];
    struct rig r;

    start(&r, &p);
    for (unsigned i = 0; i < 3; i++)
        rig_request(&q[i], i, 50, 60);
    assert_true(rig_submit(&r, &q[0]) > 0);
    assert_true(rig_submit(&r, &q[1]) > 0);
    step_until_ids(&r, &q[1], 10);
    rig_kill_cloud(&r);
    run_for(&r, SECOND);
    assert_int_equal(edge_cancel(r.edge, q[0].session), 0);
    rig_step(&r);
    assert_true(q[0].done);
    assert_int_equal(q[0].result.finish, EDGE_CANCELLED);
    assert_true(rig_submit(&r, &q[2]) > 0);
    run_for(&r, SECOND);
    assert_false(q[1].done || q[2].done);
    rig_start_cloud(&r);
    assert_true(finishes(&r, &q[1], 2, 60 * SECOND));
    assert_right(&r, &q[1]);
    assert_right(&r, &q[2]);
    for (unsigned i = 0; i < 3; i++)
        rig_request_free(&q[i]);

    rig_request(&q[0], 9, 50, 60);
    assert_true(rig_submit(&r, &q[0]) > 0);
    step_until_ids(&r, &q[0], 10);
    rig_kill_cloud(&r);
    run_for(&r, SECOND);
    edge_close(r.edge); /* ends what waits */
    assert_true(q[0].done);
    assert_int_equal(q[0].result.finish, EDGE_CANCELLED);
    rig_request_free(&q[0]);
    r.edge = NULL;
    rig_start_cloud(&r);
    rig_close(&r);
}

/* Nobody waits: there is no hurry, and no end. */
static void test_idle(void **state)
{
    struct rig_params p = {.network = quiet, .rejoin = patient, .tell_crash = true};
    struct rig_request q;
    struct rig r;

    start(&r, &p);
    rig_request(&q, 1, 50, 20);
    assert_true(rig_run(&r, &q, 1, SECOND));
    rig_request_free(&q);
    rig_kill_cloud(&r);
    run_for(&r, 600 * SECOND);
    assert_int_equal(r.edge_rc, 0);
    rig_start_cloud(&r);
    run_for(&r, 11 * SECOND);
    rig_request(&q, 2, 50, 20);
    assert_true(rig_run(&r, &q, 1, 5 * SECOND));
    assert_right(&r, &q);
    rig_request_free(&q);
    rig_close(&r);
}

/* --- several clouds ------------------------------------------------------------------------------
 */

static struct rig *elsewhere; /* whose network's edge side is the second address */
static unsigned turns;

static struct port *next_port(void *arg)
{
    struct rig *r = arg;

    return network_port((++turns % 2 ? elsewhere : r)->network, 0);
}

/* The other's cloud, at the second address. */
static void start_elsewhere(const struct rig *r, struct rig *other, const struct rig_params *p)
{
    start(other, p);
    edge_close(other->edge);
    network_clear(other->network);
    other->now_ns = r->now_ns;
    elsewhere = other;
    turns = 0;
}

/* The edge may hold either network's port. */
static void close_both(struct rig *r, struct rig *other)
{
    edge_close(r->edge);
    r->edge = other->edge = NULL;
    network_clear(other->network);
    rig_start_cloud(r);
    rig_close(r);
    rig_close(other);
}

/* Both clouds, the edge of the first rig only. */
static bool finishes_somewhere(struct rig *r, struct rig *other, const struct rig_request *q,
                               uint64_t within)
{
    uint64_t until = r->now_ns + within, deadline;

    while (!q->done && r->now_ns < until) {
        rig_step(r);
        if (r->now_ns > other->now_ns + RIG_MS) /* nobody else moves its clock */
            r->now_ns = other->now_ns + RIG_MS;
        other->now_ns = r->now_ns;
        network_set_now(other->network, other->now_ns);
        other->cloud_rc = cloud_poll(other->cloud, other->now_ns, &deadline);
    }
    return q->done;
}

/* The first is killed and stays away; the second, at another port, goes on, though it takes fewer
 * rows at once. */
static void test_another_cloud(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct rig_params p = {
            .network = quiet, .rejoin = patient, .secure = i % 2, .chunk_tokens = 64};
        struct rig_params p2 = {.network = quiet, .secure = i % 2};
        struct rig_request q;
        struct rig r, r2;

        p.rejoin.next_port = next_port;
        p.rejoin.several = true;
        p.rejoin.attempt_timeout_ns = 2 * SECOND;
        p.tell_crash = i & 2;
        p2.cloud_stage.max_rows = 40;
        start(&r, &p);
        start_elsewhere(&r, &r2, &p2);
        rig_request(&q, i, 100, 80);
        q.sampler.repeat_penalty = 1.2f;
        assert_true(rig_submit(&r, &q) > 0);
        step_until_ids(&r, &q, 40);
        r2.now_ns = r.now_ns;
        rig_kill_cloud(&r);
        assert_true(finishes_somewhere(&r, &r2, &q, 60 * SECOND));
        assert_right(&r, &q);
        assert_int_equal(stats_of(&r).reconnections, 1);
        rig_request_free(&q);
        close_both(&r, &r2);
    }
}

/* The first address was never served: the second is found. */
static void test_first_address_is_dead(void **state)
{
    struct rig_params p = {.network = quiet, .rejoin = patient, .secure = true};
    struct rig_params p2 = {.network = quiet, .secure = true};
    struct rig_request q;
    struct rig r, r2;

    p.rejoin.next_port = next_port;
    p.rejoin.several = true;
    p.rejoin.attempt_timeout_ns = 2 * SECOND;
    start(&r, &p);
    rig_kill_cloud(&r);
    start_elsewhere(&r, &r2, &p2);
    rig_request(&q, 1, 100, 80);
    assert_true(rig_submit(&r, &q) > 0);
    assert_true(finishes_somewhere(&r, &r2, &q, 5 * SECOND));
    assert_right(&r, &q);
    assert_int_equal(stats_of(&r).reconnections, 0);
    rig_request_free(&q);
    close_both(&r, &r2);
}

/* --- the other half ------------------------------------------------------------------------------
 */

/* An edge that was killed keeps its place for the lease and no longer. */
static void test_lease(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct rig_params p = {
            .network = quiet, .secure = i, .link.dead_after_ns = 3 * SECOND, .sessions = 2};
        uint64_t from, deadline;
        struct rig_request q[2];
        struct rig r;

        start(&r, &p);
        for (unsigned k = 0; k < 2; k++) {
            rig_request(&q[k], k, 10, 500);
            assert_true(rig_submit(&r, &q[k]) > 0);
        }
        step_until_ids(&r, &q[1], 10);
        edge_close(r.edge);
        network_clear(r.network); /* not a word of it arrives */
        assert_int_equal(fake_counts(r.cloud_stage)->open_seqs, 2);
        from = r.now_ns;
        while (cloud_poll(r.cloud, r.now_ns, &deadline)) {
            network_clear(r.network);
            r.now_ns += RIG_MS;
            assert_true(r.now_ns < from + 10 * SECOND);
        }
        assert_in_range(r.now_ns - from, 2900 * RIG_MS, 3100 * RIG_MS);
        assert_int_equal(fake_counts(r.cloud_stage)->open_seqs, 0);
        for (unsigned k = 0; k < 2; k++)
            rig_request_free(&q[k]);
        r.edge = NULL;
        network_clear(r.network);
        rig_close(&r);
    }
}

/* An edge made of a bare link, which can say what ours never would. */
struct bare {
    struct rig r;
    struct link *l;
    struct codec *codec;
    uint8_t kind; /* of the cloud's last word */
    struct proto_text text;
    struct proto_tokens tokens;
};

static void bare_listen(struct bare *b)
{
    struct port *port = network_port(b->r.network, 0);
    struct link_message m;
    struct pkt *pkt;
    uint64_t deadline;
    size_t len;

    b->kind = 0;
    for (unsigned i = 0; i < 100 && !b->kind; i++) {
        while (link_output(b->l, &pkt, 1, port->pool, b->r.now_ns)) {
            assert_int_equal(port_tx(port, &pkt, 1), 1);
            pkt_unref(pkt);
        }
        b->r.now_ns += RIG_MS;
        network_set_now(b->r.network, b->r.now_ns);
        assert_true(cloud_poll(b->r.cloud, b->r.now_ns, &deadline) >= 0);
        b->r.now_ns += RIG_MS;
        network_set_now(b->r.network, b->r.now_ns);
        while (port_rx(port, &pkt, 1))
            (void)link_input(b->l, pkt, b->r.now_ns);
        (void)link_tick(b->l, b->r.now_ns, &deadline);
        while (link_recv(b->l, &m)) {
            const uint8_t *p = link_message_payload(&m, 0, &len);

            if (proto_kind(p, len) != PROTO_STATUS) /* that is of no session */
                b->kind = proto_kind(p, len);
            (void)proto_read_text(p, len, &b->text);
            (void)proto_read_tokens(p, len, &b->tokens);
            link_message_free(&m);
        }
    }
}

static uint8_t *bare_packet(struct bare *b, struct pkt **p)
{
    *p = pkt_alloc(network_port(b->r.network, 0)->pool);
    return (*p)->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES;
}

static void bare_open(struct bare *b)
{
    const struct codec_params codec = codec_params_default(CODEC_F32);
    const struct rig_params p = {.network = quiet, .cloud_stage.head = STAGE_HEAD_WITH};
    const struct link_params lp = {.path = &wire_path_edge, .initiator = true, .connection = 7};
    struct proto_open m = {.version = PROTO_VERSION,
                           .session = 1,
                           .split = FAKE_SPLIT,
                           .n_layers = FAKE_LAYERS,
                           .d_model = 64,
                           .n_vocab = FAKE_VOCAB,
                           .codec_id = codec_params_id(&codec),
                           .max_tokens = 8,
                           .sampler = sampler_params_default()};
    struct pkt *pkt;
    uint16_t n;

    start(&b->r, &p);
    edge_close(b->r.edge);
    b->r.edge = NULL;
    network_clear(b->r.network);
    m.numerics_id = b->r.cloud_info->numerics_id;
    memcpy(m.fingerprint, b->r.cloud_info->fingerprint, sizeof m.fingerprint);
    assert_int_equal(codec_open(&codec, 64, &b->codec), 0);
    assert_int_equal(link_open(&lp, b->r.now_ns, &b->l), 0);
    n = (uint16_t)proto_write_open(bare_packet(b, &pkt), &m);
    assert_true(link_send(b->l, 0, WIRE_CONTROL, -1, &pkt, &n, 1) > 0);
    bare_listen(b);
    assert_int_equal(b->kind, PROTO_OPENED);
}

static void bare_close(struct bare *b)
{
    assert_int_equal(fake_counts(b->r.cloud_stage)->open_seqs, 0); /* the session is over */
    link_close(b->l);
    codec_close(b->codec);
    rig_close(&b->r);
}

static void bare_ids(struct bare *b, uint32_t first, const int32_t *ids, uint16_t count)
{
    struct pkt *pkt;
    uint16_t n = (uint16_t)proto_write_ids(bare_packet(b, &pkt), first, ids, count);

    assert_true(link_send(b->l, 1, WIRE_REPLAY, -1, &pkt, &n, 1) > 0);
}

/* One row, whose id is wanted. */
static void bare_row(struct bare *b, uint32_t position)
{
    const struct proto_rows head = {.position = position, .n_rows = 1, .n_logits = 1};
    struct codec_cursor at = {0, 0};
    float row[64] = {1, 2, 3};
    struct pkt *pkt;
    uint8_t *to = bare_packet(b, &pkt);
    size_t skip = proto_write_rows(to, &head);
    int bytes = codec_encode(b->codec, row, 64, 1, position, &at, to + skip, 1000, NULL);
    uint16_t n = (uint16_t)(skip + (size_t)bytes);

    assert_true(bytes > 0);
    assert_true(link_send(b->l, 1, WIRE_DECODE, -1, &pkt, &n, 1) > 0);
    bare_listen(b);
}

static void expect_error(struct bare *b, const char *text)
{
    assert_int_equal(b->kind, PROTO_ERROR);
    print_message("%s\n", b->text.text);
    assert_non_null(strstr(b->text.text, text));
}

/* Replays that no edge of ours makes: the session ends, nothing else does. */
static void test_wrong_replays(void **state)
{
    const int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, high[1] = {(int32_t)FAKE_VOCAB};
    struct bare b;

    bare_open(&b);
    bare_ids(&b, 1, ids, 1);
    bare_listen(&b);
    expect_error(&b, "don't continue");
    bare_close(&b);

    bare_open(&b);
    bare_ids(&b, 0, ids, 9);
    bare_listen(&b);
    expect_error(&b, "don't continue");
    bare_close(&b);

    bare_open(&b);
    bare_ids(&b, 0, high, 1);
    bare_listen(&b);
    expect_error(&b, "outside the vocabulary");
    bare_close(&b);

    bare_open(&b);
    bare_ids(&b, 0, ids, 3);
    bare_ids(&b, 3, ids, 5); /* as many as there can ever be */
    bare_row(&b, 0);
    expect_error(&b, "more ids wanted");
    bare_close(&b);

    /* A row may be taken back, but not for ever sampled again. */
    bare_open(&b);
    for (unsigned i = 0; i < 8; i++) {
        bare_row(&b, 0);
        assert_int_equal(b.kind, PROTO_TOKENS);
        assert_int_equal(b.tokens.position, 1);
    }
    bare_row(&b, 0);
    expect_error(&b, "more ids wanted");
    bare_close(&b);

    bare_open(&b);
    bare_row(&b, 0);
    bare_row(&b, 2);
    expect_error(&b, "beyond the position");
    bare_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mid_answer),    cmocka_unit_test(test_again_and_again),
        cmocka_unit_test(test_no_history),    cmocka_unit_test(test_target),
        cmocka_unit_test(test_moving_target), cmocka_unit_test(test_moving_target_without_history),
        cmocka_unit_test(test_turns),         cmocka_unit_test(test_target_without_history),
        cmocka_unit_test(test_in_vain),       cmocka_unit_test(test_impostor),
        cmocka_unit_test(test_poison),        cmocka_unit_test(test_turned_away),
        cmocka_unit_test(test_apart),         cmocka_unit_test(test_idle),
        cmocka_unit_test(test_another_cloud), cmocka_unit_test(test_first_address_is_dead),
        cmocka_unit_test(test_lease),         cmocka_unit_test(test_wrong_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
