/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions that begin alike, those that linger for it, and a budget that not all fit: the ids are
 * those of sessions that share nothing, always. */
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
#include "dataplane/pipeline/prefix.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)
#define FAMILY 77u

static const struct network_params quiet = {.delay_min_ns = 10000, .delay_max_ns = 10000};

static void start(struct rig *r, const struct rig_params *p)
{
    rig_open(r, p);
    rig_start(r);
}

static void assert_right(const struct rig *r, const struct rig_request *q)
{
    if (q->result.finish != EDGE_LENGTH)
        fail_msg("ended by %d: %s", q->result.finish, q->result.error);
    assert_true(rig_right(r, q));
}

/* A prompt of n tokens, the first `like` those of the family. */
static void request(struct rig_request *q, uint64_t seed, uint32_t n, uint32_t like,
                    uint32_t n_predict)
{
    rig_request(q, seed, n, n_predict);
    rig_begin_like(q, FAMILY, like);
}

/* One after the other: what both stages compute, and what is sent, is the rest. */
static void test_after_another(void **state)
{
    const struct rig_params p = {.network = quiet, .lingering = 2};
    struct rig_request q[3];
    struct edge_stats es;
    struct cloud_stats cs;
    struct rig r;

    start(&r, &p);
    request(&q[0], 1, 100, 100, 10);
    request(&q[1], 2, 120, 80, 10); /* 80 of the first's */
    request(&q[2], 3, 60, 15, 10);  /* too few */
    for (unsigned i = 0; i < 3; i++) {
        assert_true(rig_run(&r, &q[i], 1, SECOND));
        assert_right(&r, &q[i]);
    }
    assert_int_equal(q[0].result.n_shared, 0);
    assert_int_equal(q[1].result.n_shared, 80);
    assert_int_equal(q[1].result.rows_up, 40 + 9);
    assert_int_equal(q[2].result.n_shared, 0);
    assert_int_equal(fake_counts(r.edge_stage)->rows, 109 + 49 + 69);
    assert_int_equal(fake_counts(r.cloud_stage)->rows, 109 + 49 + 69);
    edge_stats(r.edge, &es);
    cloud_stats(r.cloud, &cs);
    assert_int_equal(es.shared_rows, 80);
    assert_int_equal(cs.shared, 80);
    assert_int_equal(es.lingering, 3);
    assert_int_equal(es.sessions, 0);
    /* They take of the cache what nobody waits for, and can be told to give it up. */
    const struct stage_info *info = stage_info(r.edge_stage);
    assert_int_equal(es.kv_busy_bytes, 0);
    assert_true(info->kv_reserved_bytes > 0);
    for (unsigned i = 0; i < 3; i++)
        assert_true(edge_make_room(r.edge));
    assert_false(edge_make_room(r.edge));
    assert_int_equal(info->kv_reserved_bytes, 0);
    edge_stats(r.edge, &es);
    assert_int_equal(es.lingering, 0);
    for (unsigned i = 0; i < 3; i++)
        rig_request_free(&q[i]);
    rig_close(&r);
}

/* As a chat does it: prompt, answer, more. Only the last id and what is new are computed. */
static void test_chat(void **state)
{
    const struct rig_params p = {.network = quiet, .lingering = 1};
    struct rig_request q, next;
    struct rig r;

    start(&r, &p);
    rig_request(&q, 5, 200, 30);
    assert_true(rig_run(&r, &q, 1, SECOND));
    for (unsigned turn = 0; turn < 5; turn++) {
        rig_request(&next, 6 + turn, q.n_prompt + q.n_ids + 20, 30);
        next.sampler.temp = .7f;
        next.sampler.repeat_penalty = 1.2f;
        memcpy(next.prompt, q.prompt, q.n_prompt * sizeof q.prompt[0]);
        memcpy(next.prompt + q.n_prompt, q.ids, q.n_ids * sizeof q.ids[0]);
        assert_true(rig_run(&r, &next, 1, SECOND));
        assert_right(&r, &next);
        assert_int_equal(next.result.n_shared, q.n_prompt + q.n_ids - 1);
        assert_int_equal(next.result.rows_up, 21 + 29);
        rig_request_free(&q);
        q = next;
    }
    rig_request_free(&q);
    rig_close(&r);
}

/* All at once: one computes what they have in common, the others wait for it. The whole prompt in
 * common: the last row is computed, for its logits. */
static void test_at_once(void **state)
{
    for (uint32_t chunk = 1; chunk <= 64; chunk += 63) {
        const struct rig_params p = {
            .network = quiet, .sessions = 8, .chunk_tokens = chunk, .hook = true};
        struct rig_request q[8];
        uint64_t rows = 0;
        struct rig r;

        start(&r, &p);
        for (unsigned i = 0; i < 8; i++) {
            request(&q[i], i, i == 3 ? 300 : 310 + i, 300, 20);
            q[i].sampler.temp = i % 2 ? .9f : 0;
        }
        assert_true(rig_run(&r, q, 8, 10 * SECOND));
        for (unsigned i = 0; i < 8; i++) {
            uint32_t most = i == 3 ? 299 : i ? 300 : 0;

            assert_right(&r, &q[i]);
            /* The last few are not waited for. */
            assert_in_range(q[i].result.n_shared, most < PREFIX_MIN ? 0 : most - PREFIX_MIN + 1,
                            most);
            rows += q[i].n_prompt + 19 - q[i].result.n_shared;
            rig_request_free(&q[i]);
        }
        assert_int_equal(fake_counts(r.edge_stage)->rows, rows);
        assert_int_equal(fake_counts(r.cloud_stage)->rows, rows);
        rig_close(&r);
    }
}

static void test_switched_off(void **state)
{
    const struct rig_params p = {
        .network = quiet, .sessions = 2, .lingering = 2, .no_prefix = true};
    struct rig_request q[4];
    struct edge_stats es;
    struct rig r;

    start(&r, &p);
    for (unsigned i = 0; i < 4; i++)
        request(&q[i], i, 100, 90, 5);
    assert_true(rig_run(&r, q, 4, SECOND));
    for (unsigned i = 0; i < 4; i++) {
        assert_right(&r, &q[i]);
        assert_int_equal(q[i].result.n_shared, 0);
        rig_request_free(&q[i]);
    }
    edge_stats(r.edge, &es);
    assert_int_equal(es.lingering, 0);
    assert_int_equal(fake_counts(r.edge_stage)->rows, 4 * 104);
    rig_close(&r);
}

/* The cloud has no sequence to spare and gives up what the edge asks for: all rows are sent. */
static void test_cloud_gave_it_up(void **state)
{
    for (int stingy = 0; stingy < 2; stingy++) { /* then it is opened anew */
        const struct rig_params p = {
            .network = quiet, .lingering = 2, .edge_stage = {.stingy = stingy}};
        struct rig_request q[3];
        struct rig r;

        rig_open(&r, &p);
        r.cloud_info->max_seqs = 1;
        rig_start(&r);
        for (unsigned i = 0; i < 3; i++) {
            request(&q[i], i, 100 + i, 90, 10);
            assert_true(rig_run(&r, &q[i], 1, SECOND));
            assert_right(&r, &q[i]);
            assert_int_equal(q[i].result.n_shared, 0);
            assert_int_equal(q[i].result.rows_up, 109 + i);
            rig_request_free(&q[i]);
        }
        r.cloud_info->max_seqs = 3;
        rig_close(&r);
    }
}

/* Who was of no use for longest goes; who is busy never does. */
static void test_eviction(void **state)
{
    const struct rig_params p = {.network = quiet, .sessions = 1, .lingering = 2};
    static const uint64_t families[] = {1, 2, 1, 3, 1, 2}; /* 2 made place for 3 */
    static const uint32_t shared[] = {0, 0, 90, 0, 90, 0};
    struct rig_request q;
    struct cloud_stats cs;
    struct rig r;

    start(&r, &p);
    for (unsigned i = 0; i < 6; i++) {
        rig_request(&q, 100 + i, 100, 5);
        rig_begin_like(&q, families[i], 90);
        assert_true(rig_run(&r, &q, 1, SECOND));
        assert_right(&r, &q);
        if (i < 3)
            assert_int_equal(q.result.n_shared, shared[i]);
        rig_request_free(&q);
        assert_true(fake_counts(r.edge_stage)->open_seqs <= 3);
    }
    for (unsigned i = 0; i < 50; i++)
        rig_step(&r);
    cloud_stats(r.cloud, &cs);
    assert_int_equal(cs.sessions, 0);
    assert_in_range(cs.lingering, 1, 3);
    rig_close(&r);
}

/* --- budgets ---------------------------------------------------------------------------------- */

/* Room for two at once of many: all have their turn, none is harmed, and what lingers makes place.
 */
static void test_budget_at_either(void **state)
{
    for (unsigned side = 0; side < 3; side++) {
        struct rig_params p = {.network = quiet, .sessions = 6, .lingering = 4, .hook = true};
        struct rig_request q[12], large;
        struct rig r;

        if (side != 1)
            p.edge_stage.kv_budget_bytes = 300 * FAKE_TOKEN_BYTES;
        if (side != 0)
            p.cloud_stage.kv_budget_bytes = 290 * FAKE_TOKEN_BYTES;
        start(&r, &p);
        for (unsigned i = 0; i < 12; i++)
            request(&q[i], i, 100, i % 3 ? 50 : 0, 20 + i);
        assert_true(rig_run(&r, q, 12, 60 * SECOND));
        for (unsigned i = 0; i < 12; i++) {
            assert_right(&r, &q[i]);
            rig_request_free(&q[i]);
        }
        rig_request(&large, 99, 250, 51); /* could never fit */
        if (side == 1) {
            assert_true(rig_run(&r, &large, 1, SECOND));
            assert_int_equal(large.result.finish, EDGE_REFUSED);
            assert_non_null(strstr(large.result.error, "needs 2408 bytes"));
            assert_non_null(strstr(large.result.error, "--kv-budget is 2320"));
        } else {
            assert_int_equal(rig_submit(&r, &large), -ENOSPC);
        }
        rig_request_free(&large);
        rig_close(&r);
    }
}

/* A cloud that has no room though none of ours is there, ever: not for ever. */
static void test_busy_is_bounded(void **state)
{
    const struct rig_params p = {.network = quiet};
    struct rig_request q;
    struct rig r;

    rig_open(&r, &p);
    r.cloud_info->max_seqs = 0;
    rig_start(&r);
    rig_request(&q, 1, 10, 5);
    assert_true(rig_run(&r, &q, 1, 30 * SECOND));
    assert_int_equal(q.result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q.result.error, "no room"));
    assert_in_range(r.now_ns, 9 * SECOND, 12 * SECOND);
    r.cloud_info->max_seqs = 1;
    rig_request_free(&q);
    rig_close(&r);
}

/* --- a cloud's death -------------------------------------------------------------------------- */

/* At any moment, with histories for all, some or none: also of tiles that lose something, whose ids
 * are compared with those of sessions that share nothing and of a cloud that lives. */
static void run_family(uint64_t seed, bool shares, uint64_t kill_ns, size_t history_bytes,
                       enum codec_mode mode, struct rig_request *q, uint32_t n)
{
    static int32_t guesses[8][40];
    const struct rig_params p = {
        .network = quiet,
        .sessions = 4,
        .lingering = 3,
        .chunk_tokens = 16,
        .codec = codec_params_default(mode),
        .no_prefix = !shares,
        .rejoin = {.timeout_ns = 60 * SECOND, .history_bytes = history_bytes},
        .tell_crash = true,
        .edge_stage = {.row_ns = 100000, .stingy = seed % 4 < 2},
        .cloud_stage = {.row_ns = 100000},
        .seed = seed,
    };
    struct rig r;

    start(&r, &p);
    for (uint32_t i = 0; i < n; i++) {
        request(&q[i], seed * 10 + i, 60 + 7 * i, 50 + i % 3, 30);
        q[i].sampler.temp = i % 2 ? .8f : 0;
        q[i].kv = 1 + (seed % 5 == 1 && i > 2 ? KV_Q8 : KV_F16);
        if (i % 3 == 1) { /* half of them wrong */
            struct dice d = {seed + i};

            fake_reference(q[i].prompt, q[i].n_prompt, q[i].n_predict, &q[i].sampler, -1, 64,
                           guesses[i], NULL, 0);
            for (unsigned k = 0; k < 30; k += 2)
                guesses[i][k] = (int32_t)dice_below(&d, FAKE_VOCAB);
            q[i].drafts = guesses[i];
            q[i].n_drafts = 30;
            q[i].draft_len = 3;
        }
        assert_true(rig_submit(&r, &q[i]) > 0 || i >= 4);
    }
    while (kill_ns && r.now_ns < kill_ns)
        rig_step(&r);
    if (kill_ns) {
        rig_kill_cloud(&r);
        rig_start_cloud(&r);
    }
    for (uint32_t i = 0; i < n; i++) { /* those that found no place before */
        if (!q[i].session)
            assert_true(rig_run(&r, &q[i], 1, 60 * SECOND));
    }
    for (uint32_t i = 0; i < n; i++) {
        while (!q[i].done && r.edge_rc >= 0)
            rig_step(&r);
        if (mode == CODEC_F32)
            assert_right(&r, &q[i]);
        else
            assert_int_equal(q[i].result.finish, EDGE_LENGTH);
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

static void test_cloud_dies(void **state)
{
    static const size_t histories[] = {1 << 22, 30000, 0};
    static struct rig_request plain[6], shared[6];
    uint64_t known = 0;

    for (uint64_t seed = 0; seed < 40; seed++) {
        enum codec_mode mode = seed % 2 ? CODEC_TSQ : CODEC_F32;

        run_family(seed, false, 0, 0, mode, plain, 6);
        run_family(seed, true, seed * RIG_MS, histories[seed % 3], mode, shared, 6);
        for (unsigned i = 0; i < 6; i++) {
            assert_int_equal(plain[i].n_ids, shared[i].n_ids);
            assert_memory_equal(plain[i].ids, shared[i].ids, plain[i].n_ids * sizeof(int32_t));
            known += shared[i].result.n_shared;
        }
    }
    assert_true(known > 40 * 50); /* and they did share */
}

/* --- what is not shared ----------------------------------------------------------------------- */

/* Under a target rows are coded as the session's own controller has it. */
static void test_targets_share_nothing(void **state)
{
    static const struct codec_profile_curve curve = {
        .n = 4, .points = {{.004f, .001f, 85}, {.02f, .02f, 60}, {.1f, .2f, 30}, {.3f, 1, 18}}};
    const struct rig_params p = {.network = quiet,
                                 .lingering = 2,
                                 .codec = codec_params_default(CODEC_RANS),
                                 .curve = &curve};
    struct rig_request q;
    struct rig r;

    start(&r, &p);
    for (unsigned i = 0; i < 4; i++) {
        request(&q, i, 100, 90, 5);
        if (i == 1 || i == 2)
            q.target = (struct codec_rate_target){CODEC_RATE_BYTES, 40};
        assert_true(rig_run(&r, &q, 1, SECOND));
        assert_int_equal(q.result.finish, EDGE_LENGTH);
        assert_int_equal(q.result.n_shared, i == 3 ? 90 : 0);
        rig_request_free(&q);
    }
    rig_close(&r);
}

/* --- formats of the cache --------------------------------------------------------------------- */

/* A session has the format that it was asked with at both halves, whatever is the cloud's own; only
 * those of one format begin alike. */
static void test_formats_one_after_another(void **state)
{
    static const struct {
        uint32_t kv, n_shared;
    } want[] = {{0, 0},          {1 + KV_Q8, 0},   {1 + KV_F16, 90}, {1 + KV_Q4, 0},
                {1 + KV_Q8, 90}, {1 + KV_K8V4, 0}, {1 + KV_Q4, 90},  {0, 90}};
    for (unsigned kv = 0; kv < KV_FORMATS; kv++) {
        const struct rig_params p = {
            .network = quiet, .lingering = 8, .cloud_stage = {.kv = (enum kv_format)kv}};
        struct rig_request q[8];
        struct rig r;

        start(&r, &p);
        for (unsigned i = 0; i < 8; i++) {
            request(&q[i], i, 100, 90, 10);
            q[i].kv = want[i].kv;
            assert_true(rig_run(&r, &q[i], 1, SECOND));
            assert_right(&r, &q[i]);
            assert_int_equal(q[i].result.n_shared, want[i].n_shared);
            assert_int_equal(q[i].result.rows_up, 109 - want[i].n_shared);
            if (i && want[i].kv > 1) /* it is another session than in f16 */
                assert_true(memcmp(q[i].ids, q[0].ids, sizeof(int32_t) * 10) != 0);
        }
        for (unsigned i = 0; i < 8; i++)
            rig_request_free(&q[i]);
        rig_close(&r);
    }
}

/* All at once, under a budget that coarser ones make more of, through a cloud's death. */
static void test_formats_at_once(void **state)
{
    for (unsigned seed = 0; seed < 12; seed++) {
        const struct rig_params p = {
            .network = quiet,
            .sessions = 8,
            .lingering = 4,
            .chunk_tokens = 16,
            .edge_stage = {.kv_budget_bytes = 500 * FAKE_TOKEN_BYTES, .row_ns = 100000},
            .cloud_stage = {.kv_budget_bytes = 400 * FAKE_TOKEN_BYTES, .row_ns = 100000},
            .rejoin = {.timeout_ns = 60 * SECOND, .history_bytes = seed % 2 ? 1 << 22 : 30000},
            .tell_crash = true,
            .crash = seed % 3 ? .002 : 0,
            .crash_max = 4,
            .seed = seed,
        };
        struct rig_request q[16];
        struct edge_stats es;
        struct rig r;

        start(&r, &p);
        for (unsigned i = 0; i < 16; i++) {
            request(&q[i], i, 100, 60, 20);
            q[i].kv = 1 + (i + seed) % KV_FORMATS;
        }
        assert_true(rig_run(&r, q, 16, 60 * SECOND));
        for (unsigned i = 0; i < 16; i++) {
            assert_right(&r, &q[i]);
            rig_request_free(&q[i]);
        }
        edge_stats(r.edge, &es);
        assert_true(es.shared_rows > 0);
        assert_int_equal(es.kv_busy_bytes, 0);
        while (edge_make_room(r.edge))
            ;
        assert_int_equal(r.edge_info->kv_reserved_bytes, 0);
        rig_close(&r);
    }
}

static void test_format_that_is_not_there(void **state)
{
    const struct rig_params none = {.network = quiet, .cloud_stage = {.kv_formats = 1u << KV_F16}},
                            own = {.network = quiet, .edge_stage = {.kv_formats = 1u << KV_F16}};
    struct rig_request q;
    struct rig r;

    start(&r, &none);
    rig_request(&q, 1, 10, 5);
    q.kv = 1 + KV_K8V4;
    assert_true(rig_run(&r, &q, 1, SECOND));
    assert_int_equal(q.result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q.result.error, "sessions have k8v4, which this cloud lacks"));
    rig_request_free(&q);
    rig_close(&r);

    start(&r, &own);
    rig_request(&q, 1, 10, 5);
    q.kv = 1 + KV_Q8;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.kv = 1 + KV_FORMATS;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    rig_request_free(&q);
    rig_close(&r);
}

/* A cloud counts its room in tokens of its own format. */
static void test_room_in_another_format(void **state)
{
    struct rig_params p = {.network = quiet,
                           .edge_stage = {.kv = KV_F16},
                           .cloud_stage = {.kv_budget_bytes = 500 * FAKE_TOKEN_BYTES}};
    uint64_t tokens[2];

    for (unsigned i = 0; i < 2; i++) {
        struct edge_uplink_stats u;
        struct rig_request q;
        struct rig r;

        p.cloud_stage.kv = i ? KV_Q8 : KV_F16;
        start(&r, &p);
        rig_request(&q, 1, 10, 5);
        assert_true(rig_run(&r, &q, 1, SECOND));
        for (unsigned k = 0; k < 50; k++)
            rig_step(&r);
        assert_int_equal(edge_uplink_stats(r.edge, 0, &u), 0);
        assert_true(u.has_status);
        tokens[i] = u.free_tokens;
        rig_request_free(&q);
        rig_close(&r);
    }
    assert_true(tokens[0] > 300 && tokens[0] <= 500);
    assert_in_range(tokens[1], tokens[0] * 8 / 10, tokens[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_after_another),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_switched_off),
        cmocka_unit_test(test_cloud_gave_it_up),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_budget_at_either),
        cmocka_unit_test(test_busy_is_bounded),
        cmocka_unit_test(test_cloud_dies),
        cmocka_unit_test(test_targets_share_nothing),
        cmocka_unit_test(test_formats_one_after_another),
        cmocka_unit_test(test_formats_at_once),
        cmocka_unit_test(test_format_that_is_not_there),
        cmocka_unit_test(test_room_in_another_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
