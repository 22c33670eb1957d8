/* SPDX-License-Identifier: Apache-2.0 */
/* Edge and cloud whole, on fake stages: the tokens must be those of an unsplit run, whatever
 * happens on the way. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/profile.h"
#include "codec/synth.h"
#include "dataplane/pipeline/proto.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)

static const struct network_params quiet = {.delay_min_ns = 10000, .delay_max_ns = 10000};

static void run_all(const struct rig_params *p, struct rig_request *q, uint32_t n)
{
    struct rig r;

    rig_open(&r, p);
    rig_start(&r);
    if (!rig_run(&r, q, n, 600 * SECOND))
        fail_msg("not done in 600 virtual seconds (seed %lu): %s", (unsigned long)p->seed,
                 edge_error(r.edge));
    for (uint32_t i = 0; i < n; i++) {
        if (q[i].result.finish != (q[i].stop >= 0 ? EDGE_STOP : EDGE_LENGTH))
            fail_msg("request %u ended by %d: %s", i, q[i].result.finish, q[i].result.error);
        assert_true(rig_right(&r, &q[i]));
        assert_int_equal(q[i].result.n_generated, q[i].n_ids);
        assert_int_equal(q[i].result.n_prompt, q[i].n_prompt);
        assert_true(q[i].result.first_token_ns >= q[i].result.submitted_ns);
    }
    rig_close(&r);
}

static void test_lengths_and_chunks(void **state)
{
    static const uint32_t prompts[] = {1, 2, 63, 64, 65, 200}, predicts[] = {1, 2, 20};
    static const uint32_t chunks[] = {1, 7, 64, 128, 1000};

    for (unsigned c = 0; c < 5; c++) {
        for (unsigned i = 0; i < 18; i++) {
            struct rig_params p = {.network = quiet, .chunk_tokens = chunks[c], .hook = i % 2};
            struct rig_request q;

            rig_request(&q, i, prompts[i % 6], predicts[i / 6]);
            run_all(&p, &q, 1);
            rig_request_free(&q);
        }
    }
}

static void test_impairments(void **state)
{
    static const double drops[] = {.01, .2, .5};

    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct rig_params p = {
            .network = {.drop = drops[seed % 3],
                        .duplicate = .2,
                        .delay_min_ns = 10000,
                        .delay_max_ns = seed % 2 ? 200000 : 5 * RIG_MS},
            .sessions = 3,
            .chunk_tokens = 16,
            .seed = seed,
            .hook = true,
        };
        struct rig_request q[3];

        for (unsigned i = 0; i < 3; i++)
            rig_request(&q[i], seed * 10 + i, 30 + 20 * i, 12);
        run_all(&p, q, 3);
        for (unsigned i = 0; i < 3; i++)
            rig_request_free(&q[i]);
    }
}

static void test_many_sessions(void **state)
{
    struct rig_params p = {.network = quiet,
                           .sessions = 8,
                           .chunk_tokens = 32,
                           .hook = true,
                           .edge_stage = {.run_ns = 2 * RIG_MS, .row_ns = 50000},
                           .cloud_stage = {.run_ns = 2 * RIG_MS, .row_ns = 50000}};
    static struct rig_request q[30];
    struct rig r;

    for (unsigned i = 0; i < 30; i++)
        rig_request(&q[i], i, 1 + i * 37 % 150, 1 + i * 11 % 40);
    rig_open(&r, &p);
    rig_start(&r);
    assert_true(rig_run(&r, q, 30, 600 * SECOND));
    for (unsigned i = 0; i < 30; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    /* Rows of different sessions share stage runs on both sides. */
    assert_true(fake_counts(r.edge_stage)->largest_batch >= 4);
    assert_true(fake_counts(r.cloud_stage)->largest_batch >= 4);
    rig_close(&r);
}

static void test_sampling_is_by_position(void **state)
{
    for (unsigned chunk = 3; chunk <= 48; chunk += 15) {
        struct rig_params p = {.network = quiet, .chunk_tokens = chunk};
        struct rig_request q;

        rig_request(&q, 5, 40, 30);
        q.sampler.temp = .9f;
        q.sampler.top_k = 50;
        q.sampler.top_p = .95f;
        q.sampler.repeat_penalty = 1.2f;
        q.sampler.seed = 1234567890123u;
        run_all(&p, &q, 1);
        rig_request_free(&q);
    }
}

static void test_stop(void **state)
{
    struct rig_params p = {.network = quiet};
    struct sampler_params greedy = sampler_params_default();
    struct rig_request q;
    int32_t ids[20];

    rig_request(&q, 5, 40, 20);
    fake_reference(q.prompt, 40, 20, &greedy, -1, 64, ids, NULL, 0);
    q.stop = ids[7];
    run_all(&p, &q, 1);
    rig_request_free(&q);
}

/* Guesses change how many messages it takes, never the tokens. */
static void test_drafts(void **state)
{
    int32_t right[64], guess[64];

    for (unsigned kind = 0; kind < 4; kind++) { /* none, right, wrong, right now and then */
        struct rig_params p = {.network = quiet, .hook = true};
        struct rig_request q;
        struct rig r;

        rig_request(&q, 77, 20, 50);
        q.sampler.temp = .7f;
        q.sampler.seed = 3;
        fake_reference(q.prompt, 20, 50, &q.sampler, -1, 64, right, NULL, 0);
        for (unsigned i = 0; i < 50; i++)
            guess[i] = kind == 1 || (kind == 3 && i % 3) ? right[i] : (right[i] + 1) % 257;
        q.drafts = kind ? guess : NULL;
        q.n_drafts = 50;
        q.draft_len = 4;
        rig_open(&r, &p);
        rig_start(&r);
        assert_true(rig_run(&r, &q, 1, 60 * SECOND));
        assert_true(rig_right(&r, &q));
        if (kind == 1)
            assert_true(fake_counts(r.cloud_stage)->runs < 16);
        else
            assert_true(fake_counts(r.cloud_stage)->runs >= (kind == 3 ? 11 : 50));
        if (kind >= 2) {
            assert_true(fake_counts(r.cloud_stage)->truncated >= (kind == 3 ? 9 : 100));
            assert_int_equal(fake_counts(r.cloud_stage)->truncated,
                             fake_counts(r.edge_stage)->truncated);
        }
        rig_close(&r);
        rig_request_free(&q);
    }
}

/* Alternatives are those of an unsplit run, however many, sampled or not; guesses that are right
 * come as many at a time as their alternatives leave room for in a packet. */
static void test_alternatives(void **state)
{
    static const uint32_t tops[] = {1, 5, SAMPLER_TOP_MAX}, mtus[] = {600, 1500, 9000};
    int32_t right[64];

    for (unsigned i = 0; i < 18; i++) {
        struct rig_params p = {
            .network = quiet, .hook = true, .mtu = mtus[i / 3 % 3], .sessions = 2};
        struct rig_request q[2];
        struct rig r;

        for (unsigned k = 0; k < 2; k++) {
            rig_request(&q[k], 77 + k, 20, 50);
            q[k].sampler.temp = k ? .7f : 0;
            q[k].sampler.seed = 3;
        }
        q[0].n_top = tops[i % 3]; /* beside one that wants none */
        if (i >= 9) {
            fake_reference(q[0].prompt, 20, 50, &q[0].sampler, -1, 64, right, NULL, 0);
            q[0].drafts = right;
            q[0].n_drafts = 50;
            q[0].draft_len = PROTO_DRAFTS_MAX;
        }
        rig_open(&r, &p);
        rig_start(&r);
        assert_true(rig_run(&r, q, 2, 60 * SECOND));
        for (unsigned k = 0; k < 2; k++) {
            assert_true(rig_right(&r, &q[k]));
            rig_request_free(&q[k]);
        }
        /* 16 fit, or they don't and rows are taken back; with the head at the edge nothing is sent */
        if (i >= 9 && !stage_info(r.edge_stage)->has_head)
            assert_int_equal(fake_counts(r.cloud_stage)->truncated == 0,
                             proto_tokens_that_fit(wire_payload_max(p.mtu), q[0].n_top) == 16);
        rig_close(&r);
    }
}

static void check_refused(struct rig *r, const char *a, const char *b)
{
    struct rig_request q;

    rig_start(r);
    rig_request(&q, 1, 10, 10);
    assert_true(rig_run(r, &q, 1, SECOND));
    assert_int_equal(q.result.finish, EDGE_REFUSED);
    if (!strstr(q.result.error, a) || !strstr(q.result.error, b))
        fail_msg("'%s' lacks '%s' or '%s'", q.result.error, a, b);
    rig_request_free(&q);
    rig_close(r);
}

static void test_mismatch(void **state)
{
    struct rig_params p = {.network = quiet};
    struct rig r;

    rig_open(&r, &p);
    r.cloud_info->fingerprint[0] = 0xab;
    check_refused(&r, "model mismatch: edge f0010203", "cloud ab010203");
    rig_open(&r, &p);
    r.cloud_info->first_layer = 6;
    check_refused(&r, "edge ends before layer 5", "cloud begins at layer 6");
    rig_open(&r, &p);
    r.cloud_info->numerics_id = 0xbeef;
    check_refused(&r, "numerics mismatch: edge 0000600d", "cloud 0000beef");
    rig_open(&r, &p);
    r.edge_info->n_layers = 13;
    check_refused(&r, "edge has 13 layers", "cloud 12");
}

/* Another cloud than the rig's own refuses a request. */
static void run_refused(struct rig *r, struct cloud_params *cp, struct rig_request *q)
{
    char err[PIPELINE_ERR];

    rig_start(r);
    cloud_close(r->cloud);
    network_clear(r->network);
    cp->stage = r->cloud_stage;
    cp->port = network_port(r->network, 1);
    assert_int_equal(cloud_open(cp, r->now_ns, &r->cloud, err), 0);
    rig_request(q, 1, 10, 10);
    assert_true(rig_run(r, q, 1, SECOND));
    assert_int_equal(q->result.finish, EDGE_REFUSED);
}

static void test_codec_mismatch(void **state)
{
    struct rig_params p = {.network = quiet};
    struct cloud_params cp = {.codec = codec_params_default(CODEC_F16)};
    struct rig_request q;
    struct rig r;

    rig_open(&r, &p);
    run_refused(&r, &cp, &q);
    assert_non_null(strstr(q.result.error, "codec mismatch: edge "));
    assert_non_null(strstr(q.result.error, ", cloud f16: give both the same --codec"));
    rig_request_free(&q);
    rig_close(&r);
}

/* Both of the same mode; the profiles' hashes differ in their last bit. */
static void test_profile_mismatch(void **state)
{
    struct codec_profile *edge_profile, *cloud_profile;
    struct rig_params p = {.network = quiet, .codec = codec_params_default(CODEC_RANS)};
    struct cloud_params cp = {.codec = codec_params_default(CODEC_RANS)};
    struct rig_request q;
    struct rig r;

    assert_int_equal(codec_synth_profile(64, 0, 1, &edge_profile), 0);
    assert_int_equal(codec_synth_profile(64, 0, 1, &cloud_profile), 0);
    for (unsigned i = 0; i < 16; i++)
        edge_profile->hash[i] = cloud_profile->hash[i] = (uint8_t)(i + 1);
    cloud_profile->hash[15] ^= 1;
    p.codec.profile = edge_profile;
    cp.codec.profile = cloud_profile;
    rig_open(&r, &p);
    run_refused(&r, &cp, &q);
    assert_string_equal(
        q.result.error,
        "codec mismatch: edge rans 0102030405060708090a0b0c0d0e0f10, cloud rans "
        "0102030405060708090a0b0c0d0e0f11: give both the same --codec and --profile");
    rig_request_free(&q);
    rig_close(&r);
    codec_profile_free(edge_profile);
    codec_profile_free(cloud_profile);
}

static void test_bad_requests(void **state)
{
    struct rig_params p = {.network = quiet};
    int32_t huge = FAKE_VOCAB;
    struct rig_request q, second;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 0);
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.n_predict = FAKE_CTX - 9;
    assert_int_equal(rig_submit(&r, &q), -ERANGE);
    q.n_predict = 5;
    q.prompt[3] = FAKE_VOCAB;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.prompt[3] = -1;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.prompt[3] = 0;
    q.draft_len = 16;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.draft_len = 1;
    q.n_top = SAMPLER_TOP_MAX + 1;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.n_top = 0;
    q.drafts = &huge;
    q.n_drafts = 1;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    q.drafts = NULL;
    assert_true(rig_submit(&r, &q) > 0);
    rig_request(&second, 2, 10, 1);
    assert_int_equal(rig_submit(&r, &second), -EAGAIN);
    assert_int_equal(edge_cancel(r.edge, 99), -ENOENT);
    rig_request_free(&q);
    rig_request_free(&second);
    rig_close(&r);
}

/* The cloud takes fewer sessions than the edge, which is told so: one waits for another's end. */
static void test_cloud_full(void **state)
{
    struct rig_params p = {.network = quiet, .sessions = 3};
    struct cloud_stats cs;
    struct rig_request q[3];
    struct rig r;

    rig_open(&r, &p);
    r.cloud_info->max_seqs = 2;
    rig_start(&r);
    for (unsigned i = 0; i < 3; i++)
        rig_request(&q[i], i, 10, 10);
    assert_true(rig_run(&r, q, 3, SECOND));
    for (unsigned i = 0; i < 3; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    cloud_stats(r.cloud, &cs);
    assert_true(cs.refused >= 1);
    assert_non_null(strstr(r.said, "wait for their turn"));
    r.cloud_info->max_seqs = 3;
    rig_close(&r);
}

static void test_garbage(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rig_params p = {
            .network = {.drop = .05,
                        .duplicate = .1,
                        .flip = .3,
                        .replay = .3,
                        .noise = .5,
                        .refuse = .05,
                        .delay_min_ns = 10000,
                        .delay_max_ns = RIG_MS},
            .sessions = 2,
            .seed = seed,
        };
        struct rig_request q[4];

        for (unsigned i = 0; i < 4; i++)
            rig_request(&q[i], seed + i, 50, 30);
        run_all(&p, q, 4);
        for (unsigned i = 0; i < 4; i++)
            rig_request_free(&q[i]);
    }
}

static void test_cancel(void **state)
{
    struct rig_params p = {.network = {.drop = .1, .delay_min_ns = 10000, .delay_max_ns = RIG_MS},
                           .sessions = 2,
                           .chunk_tokens = 8,
                           .hook = true};
    struct cloud_stats stats;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (unsigned i = 0; i < 40; i++) {
        struct rig_request q, other;

        rig_request(&q, i, 60, 30);
        rig_request(&other, i + 100, 20, 5);
        if (i % 2)
            q.cancel_at = 1 + i / 4; /* in on_token */
        assert_true(rig_submit(&r, &q) > 0);
        for (unsigned k = 0; !q.cancel_at && k < i * 3; k++)
            rig_step(&r);
        if (!q.cancel_at && !q.done)
            assert_int_equal(edge_cancel(r.edge, q.session), 0);
        assert_true(rig_run(&r, &other, 1, 60 * SECOND));
        assert_true(rig_right(&r, &other));
        while (!q.done)
            rig_step(&r);
        assert_true(q.result.finish == EDGE_CANCELLED || rig_right(&r, &q));
        if (q.cancel_at)
            assert_int_equal(q.n_ids, q.cancel_at);
        rig_request_free(&q);
        rig_request_free(&other);
    }
    for (unsigned k = 0; k < 1000; k++)
        rig_step(&r);
    cloud_stats(r.cloud, &stats);
    assert_int_equal(stats.sessions, 0);
    assert_int_equal(fake_counts(r.cloud_stage)->open_seqs, stats.lingering);
    rig_close(&r);
}

static void test_silent_cloud(void **state)
{
    struct rig_params p = {.network = quiet,
                           .link = {.dead_after_ns = SECOND, .ping_interval_ns = 100 * RIG_MS},
                           .hook = true};
    struct rig_request q, late;
    uint64_t from;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    while (q.n_ids < 10)
        rig_step(&r);
    r.cloud_silent = true;
    from = r.now_ns;
    while (!q.done)
        rig_step(&r);
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_non_null(strstr(q.result.error, "silent"));
    assert_in_range((r.now_ns - from) / RIG_MS, 900, 1300);
    rig_step(&r);
    assert_int_equal(r.edge_rc, -EPIPE);
    rig_request(&late, 1, 10, 5);
    assert_int_equal(rig_submit(&r, &late), -EPIPE);
    rig_request_free(&q);
    rig_request_free(&late);
    rig_close(&r);
}

/* Between two requests, as when a chat waits for its user, nobody calls the edge. */
static void test_edge_rests(void **state)
{
    struct rig_params p = {.network = quiet};
    struct rig_request q;
    uint64_t deadline, until;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (unsigned i = 0; i < 3; i++) {
        rig_request(&q, i, 10, 5);
        assert_true(rig_run(&r, &q, 1, SECOND));
        assert_true(rig_right(&r, &q));
        rig_request_free(&q);
        for (until = r.now_ns + 60 * SECOND; r.now_ns < until; r.now_ns += 10 * RIG_MS) {
            network_set_now(r.network, r.now_ns);
            assert_int_equal(cloud_poll(r.cloud, r.now_ns, &deadline) < 0, 0);
        }
    }
    rig_close(&r);
}

static void test_no_cloud(void **state)
{
    struct rig_params p = {.network = quiet, .connect_timeout_ns = 2 * SECOND};
    struct rig_request q;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    r.cloud_silent = true;
    for (unsigned i = 0; i < 5000; i++) /* nobody waits: no error */
        rig_step(&r);
    rig_request(&q, 1, 10, 5);
    assert_true(rig_run(&r, &q, 1, 3 * SECOND));
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_non_null(strstr(q.result.error, "no cloud answered on port simulated within 2.0 s"));
    rig_request_free(&q);
    rig_close(&r);
}

/* The edge dies without a word: the cloud frees its sessions and serves the next one. */
static void test_edge_dies(void **state)
{
    struct rig_params p = {.network = quiet,
                           .link = {.dead_after_ns = SECOND, .ping_interval_ns = 100 * RIG_MS}};
    char err[PIPELINE_ERR];
    struct rig_request q;
    uint64_t deadline, now;
    struct edge_params ep;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    while (q.n_ids < 10)
        rig_step(&r);
    for (now = r.now_ns;; now += 10 * RIG_MS) {
        network_set_now(r.network, now);
        if (cloud_poll(r.cloud, now, &deadline) == 0)
            break;
        assert_true(now < r.now_ns + 2 * SECOND);
    }
    assert_non_null(strstr(r.cloud_said, "is gone"));
    assert_non_null(strstr(r.cloud_said, "fell silent; 1 session ended, 0 edges left"));
    assert_int_equal(fake_counts(r.cloud_stage)->open_seqs, 0);
    assert_int_equal(cloud_edges_left(r.cloud), 1);

    edge_close(r.edge);
    rig_request_free(&q);
    r.now_ns = now;
    ep = (struct edge_params){.stage = r.edge_stage,
                              .port = network_port(r.network, 0),
                              .codec = codec_params_default(CODEC_F32)};
    assert_int_equal(edge_open(&ep, now, &r.edge, err), 0);
    rig_request(&q, 2, 10, 50);
    assert_true(rig_run(&r, &q, 1, SECOND));
    assert_true(rig_right(&r, &q));
    rig_request_free(&q);
    rig_close(&r);
}

/* The cloud restarts and knows nothing: the edge is told at once. */
static void test_cloud_restarts(void **state)
{
    struct rig_params p = {.network = quiet};
    struct rig_request q;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    while (q.n_ids < 10)
        rig_step(&r);
    rig_restart_cloud(&r);
    while (!q.done)
        rig_step(&r);
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_non_null(strstr(q.result.error, "does not know this connection"));
    rig_request_free(&q);
    rig_close(&r);
}

static void test_small_pool_and_window(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct rig_params p = {
            .network = {.drop = i % 2 ? .1 : 0, .delay_min_ns = 10000, .delay_max_ns = RIG_MS},
            .sessions = 4,
            .chunk_tokens = 128,
            .pool_packets = 128,
            .mtu = i / 2 ? 700 : 1500,
            .link = {.window_packets = i % 2 ? 2 : 0, .rx_budget_packets = i / 2 ? 3 : 0},
            .edge_stage = {.d_model = 300},
            .cloud_stage = {.d_model = 300},
            .seed = i,
        };
        struct rig_request q[6];

        for (unsigned k = 0; k < 6; k++)
            rig_request(&q[k], k, 100 + 50 * k, 4);
        run_all(&p, q, 6);
        for (unsigned k = 0; k < 6; k++)
            rig_request_free(&q[k]);
    }
}

/* Two equal stages and a long prompt: both compute at once. */
static void test_prefill_overlaps(void **state)
{
    struct rig_params p = {.network = quiet, .chunk_tokens = 32, .hook = true};
    struct edge_stats es;
    struct rig_request q;
    struct rig r;

    /* The rig runs the stages one after the other, so overlap shows in what is sent ahead: while
     * the cloud is at its first chunk the edge computes those after it, as many as it may. */
    p.edge_stage.row_ns = p.cloud_stage.row_ns = 200000;
    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 512, 3);
    assert_true(rig_submit(&r, &q) > 0);
    while (!fake_counts(r.cloud_stage)->rows)
        rig_step(&r);
    r.cloud_silent = true;
    for (unsigned i = 0; i < 30; i++)
        rig_step(&r);
    assert_int_equal(fake_counts(r.edge_stage)->rows, 32 + 4 * 32);
    assert_int_equal(fake_counts(r.cloud_stage)->rows, 32);
    r.cloud_silent = false;
    while (!q.done)
        rig_step(&r);
    assert_true(rig_right(&r, &q));
    edge_stats(r.edge, &es);
    assert_int_equal(es.rows_up, 514);
    assert_int_equal(es.codec.rows, 514);
    assert_int_equal(es.codec.bytes, q.result.tile_bytes_up);
    rig_request_free(&q);
    rig_close(&r);
}

/* The hook keeps acknowledging: nothing is sent again, and a reply spares an acknowledgement. */
static void test_packets_of_decode(void **state)
{
    struct rig_params p = {.network = quiet, .hook = true};
    struct edge_stats es;
    struct rig_request q;
    struct rig r;

    p.edge_stage.run_ns = p.cloud_stage.run_ns = 5 * RIG_MS;
    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 100);
    assert_true(rig_run(&r, &q, 1, 60 * SECOND));
    assert_true(rig_right(&r, &q));
    edge_stats(r.edge, &es);
    assert_int_equal(es.link.retransmits, 0);
    assert_in_range(es.link.tx_packets, 101, 104); /* OPEN, and ROWS for every token */
    assert_in_range(es.link.rx_packets, 101, 104);
    assert_in_range(es.link.rtt_p50_ns, 20000, 22000); /* of the wire, without the stage's time */
    rig_request_free(&q);
    rig_close(&r);
}

/* The first chunk is computed while the cloud is asked, and sent when it says yes. */
static void test_first_chunk_early(void **state)
{
    struct rig_params p = {
        .network = quiet, .sessions = 2, .cloud_stage = {.max_rows = 24}, .hook = true};
    struct rig_request q[2];
    struct edge_stats es;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (unsigned i = 0; i < 2; i++) {
        rig_request(&q[i], i, 100, 10);
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
    r.cloud_silent = true;
    while (r.now_ns < SECOND)
        rig_step(&r);
    edge_stats(r.edge, &es);
    assert_int_equal(fake_counts(r.edge_stage)->rows, 64);
    assert_int_equal(es.rows_up, 0);
    r.cloud_silent = false;
    while (!q[0].done || !q[1].done)
        rig_step(&r);
    assert_int_equal(fake_counts(r.edge_stage)->truncated,
                     64 - 22); /* more than the cloud takes: 24,
                                * less a row of each session */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(q[i].result.finish, EDGE_LENGTH);
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

/* A cloud that never gives an id, though one was asked for. */
static void test_cloud_withholds_tokens(void **state)
{
    struct rig_params p = {.network = quiet};
    struct link_params lp = {.path = &wire_path_cloud};
    struct rig_request q;
    struct link *l;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    assert_int_equal(link_open(&lp, r.now_ns, &l), 0);
    rig_request(&q, 1, 10, 5);
    assert_true(rig_submit(&r, &q) > 0);
    r.cloud_silent = true;
    for (unsigned i = 0; !q.done; i++) {
        struct port *port = network_port(r.network, 1);
        struct link_message m;
        struct pkt *pkt;
        uint64_t deadline;

        assert_true(i < 1000);
        rig_step(&r);
        network_set_now(r.network, r.now_ns);
        while (port_rx(port, &pkt, 1))
            (void)link_input(l, pkt, r.now_ns);
        while (link_recv(l, &m)) {
            size_t len;
            const uint8_t *from = link_message_payload(&m, 0, &len);
            uint8_t kind = proto_kind(from, len), *to;
            uint16_t n;

            pkt = pkt_alloc(port->pool);
            to = pkt->data + WIRE_PAYLOAD_AT + LINK_REPLY_PREFIX_BYTES;
            n = (uint16_t)(kind == PROTO_OPEN ? proto_write_opened(to, &(struct proto_opened){8, 8})
                                              : proto_write_tokens(to, &(struct proto_tokens){0}));
            if (kind != PROTO_CLOSE)
                assert_true(link_send(l, 1, WIRE_DECODE, m.message, &pkt, &n, 1) > 0);
            else
                pkt_unref(pkt);
            link_message_free(&m);
        }
        (void)link_tick(l, r.now_ns, &deadline);
        while (link_output(l, &pkt, 1, port->pool, r.now_ns)) {
            assert_int_equal(port_tx(port, &pkt, 1), 1);
            pkt_unref(pkt);
        }
    }
    assert_int_equal(q.result.finish, EDGE_LOST);
    assert_non_null(strstr(q.result.error, "tokens that don't fit"));
    link_close(l);
    rig_request_free(&q);
    rig_close(&r);
}

/* An edge that makes the cloud speak and acknowledges nothing takes neither its memory nor all its
 * packets; the next one is served. */
static void test_edge_floods(void **state)
{
    struct rig_params p = {.network = quiet};
    struct rig_request q;
    struct port *edge, *cloud;
    uint64_t deadline;
    uint32_t number = 0;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    edge = network_port(r.network, 0);
    cloud = network_port(r.network, 1);
    do {
        struct wire_header h = {.flags = WIRE_FLAG_INITIATOR | WIRE_FLAG_HELLO,
                                .connection = 7,
                                .message = ++number,
                                .n_fragments = 1,
                                .session = 5,
                                .payload_bytes = LINK_PREFIX_BYTES + 1};
        struct pkt *pkt = pkt_alloc(edge->pool);

        assert_true(number < 10000);
        memset(pkt->data + WIRE_PAYLOAD_AT, 0, LINK_PREFIX_BYTES);
        pkt->data[WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES] = PROTO_ROWS;
        assert_int_equal(wire_seal(NULL, pkt, &wire_path_edge, &h), 0);
        assert_int_equal(port_tx(edge, &pkt, 1), 1);
        pkt_unref(pkt);
        r.now_ns += 10000;
        network_set_now(r.network, r.now_ns);
        (void)cloud_poll(r.cloud, r.now_ns, &deadline);
        assert_true(cloud->pool->n_free >= cloud->pool->n_total / 8 - 1);
        while (port_rx(edge, &pkt, 1))
            pkt_unref(pkt);
    } while (!cloud_edges_left(r.cloud));
    assert_non_null(strstr(r.cloud_said, "acknowledges nothing"));
    network_clear(r.network);
    rig_request(&q, 1, 10, 5);
    assert_true(rig_run(&r, &q, 1, SECOND));
    assert_true(rig_right(&r, &q));
    rig_request_free(&q);
    rig_close(&r);
}

/* Without the hook a peer is deaf for long: what is sent again is little, and harmless. */
static void test_deaf_while_computing(void **state)
{
    struct rig_params p = {.network = quiet, .chunk_tokens = 64};
    struct edge_stats es;
    struct rig_request q;
    struct rig r;

    p.edge_stage.run_ns = p.cloud_stage.run_ns = 400 * RIG_MS;
    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 300, 20);
    assert_true(rig_run(&r, &q, 1, 600 * SECOND));
    assert_true(rig_right(&r, &q));
    edge_stats(r.edge, &es);
    assert_true(es.link.retransmits < es.link.tx_packets / 2);
    rig_request_free(&q);
    rig_close(&r);
}

/* Long prompts arrive while others decode: neither waits for the other's end. */
static void test_fairness(void **state)
{
    struct rig_params p = {.network = quiet,
                           .sessions = 4,
                           .chunk_tokens = 16,
                           .hook = true,
                           .edge_stage = {.row_ns = 100000},
                           .cloud_stage = {.row_ns = 100000}};
    struct rig_request q[4];
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (unsigned i = 0; i < 3; i++)
        rig_request(&q[i], i, 5, 400);
    rig_request(&q[3], 3, 800, 2);
    for (unsigned i = 0; i < 3; i++)
        assert_true(rig_submit(&r, &q[i]) > 0);
    while (q[2].n_ids < 5)
        rig_step(&r);
    assert_true(rig_submit(&r, &q[3]) > 0);
    while (!q[3].n_ids)
        rig_step(&r);
    assert_in_range(q[0].n_ids, 20, 399); /* decode went on, and prefill was not starved */
    while (!q[0].done || !q[1].done || !q[2].done || !q[3].done)
        rig_step(&r);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

/* --- rate control --- */

/* Of rans on the fake stage's rows, half as much again too high: the controller finds out. */
static const struct codec_profile_curve curve = {
    .n = 4, .points = {{.004f, .001f, 85}, {.02f, .02f, 60}, {.1f, .2f, 30}, {.3f, 1, 18}}};

/* `q` to their ends. The fake stages make nothing of rows that were changed: tokens don't count. */
static void run_rated(const struct rig_params *p, struct rig_request *q, uint32_t n)
{
    struct rig r;

    rig_open(&r, p);
    rig_start(&r);
    assert_true(rig_run(&r, q, n, 600 * SECOND));
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(q[i].result.finish, EDGE_LENGTH);
    rig_close(&r);
}

static double bytes_per_row(const struct rig_request *q)
{
    return (double)q->result.tile_bytes_up / (double)q->result.rows_up;
}

/* Each session finds its own target, alone or beside others, whatever the link loses. */
static void test_rate(void **state)
{
    static const double targets[] = {20, 30, 45};
    const struct rig_params p = {
        .network = quiet,
        .codec = codec_params_default(CODEC_RANS),
        .curve = &curve,
        .target = {CODEC_RATE_BYTES, 30},
        .chunk_tokens = 32,
    };
    struct rig_params lossy = p;
    struct rig_request q[3], alone;
    uint64_t kl_bytes = 0;

    lossy.network = (struct network_params){
        .drop = .2, .duplicate = .2, .delay_min_ns = 10000, .delay_max_ns = 5 * RIG_MS};
    lossy.sessions = 3;
    lossy.hook = true;
    for (unsigned i = 0; i < 3; i++) {
        rig_request(&q[i], i, 1200, 1);
        q[i].target = (struct codec_rate_target){CODEC_RATE_BYTES, targets[i]};
    }
    q[1].target.kind = CODEC_RATE_NONE; /* the edge's, which is the same */
    run_rated(&lossy, q, 3);
    for (unsigned i = 0; i < 3; i++) {
        printf("target %g: %.2f bytes a row\n", targets[i], bytes_per_row(&q[i]));
        assert_true(fabs(bytes_per_row(&q[i]) / targets[i] - 1) < .05);
        rig_request(&alone, i, 1200, 1);
        alone.target = (struct codec_rate_target){CODEC_RATE_BYTES, targets[i]};
        run_rated(&p, &alone, 1);
        assert_int_equal(alone.result.rows_up, q[i].result.rows_up);
        assert_true(fabs(bytes_per_row(&alone) / targets[i] - 1) < .05);
        rig_request_free(&alone);
        rig_request_free(&q[i]);
    }

    /* A KL picks one step for good: the bytes are those of that step, not of the edge's target. */
    for (unsigned i = 0; i < 2; i++) {
        struct rig_params fixed = p;

        if (i) {
            fixed.target.kind = CODEC_RATE_NONE;
            fixed.codec.step = .02f;
        }
        rig_request(&alone, 7, 200, 20);
        if (!i)
            alone.target = (struct codec_rate_target){CODEC_RATE_KL, .02};
        run_rated(&fixed, &alone, 1);
        assert_true(!i || alone.result.tile_bytes_up == kl_bytes);
        kl_bytes = alone.result.tile_bytes_up;
        rig_request_free(&alone);
    }
}

/* The link changes in the midst of a session. */
static void test_retarget(void **state)
{
    const struct rig_params p = {
        .network = quiet,
        .codec = codec_params_default(CODEC_RANS),
        .curve = &curve,
        .target = {CODEC_RATE_BYTES, 45},
        .chunk_tokens = 32,
    };
    struct edge_stats at, end;
    struct rig_request q;
    int64_t session;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 3, 1800, 1);
    session = rig_submit(&r, &q);
    assert_true(session > 0);
    do {
        rig_step(&r);
        edge_stats(r.edge, &at);
    } while (at.rows_up < 900);
    assert_int_equal(
        edge_retarget(r.edge, session, (struct codec_rate_target){CODEC_RATE_BYTES, -1}), -EINVAL);
    assert_int_equal(edge_retarget(r.edge, session + 1, p.target), -ENOENT);
    assert_int_equal(
        edge_retarget(r.edge, session, (struct codec_rate_target){CODEC_RATE_BYTES, 25}), 0);
    while (!q.done)
        rig_step(&r);
    edge_stats(r.edge, &end);
    assert_true(fabs((double)at.codec.bytes / (double)at.rows_up / 45 - 1) < .05);
    assert_true(
        fabs((double)(end.codec.bytes - at.codec.bytes) / (double)(end.rows_up - at.rows_up) / 25 -
             1) < .05);
    rig_request_free(&q);
    rig_close(&r);
}

/* A target needs a curve, and one whose parameters the codec takes. */
static void test_bad_targets(void **state)
{
    const struct codec_profile_curve wide = {.n = 2, .points = {{.1f, .1f, 50}, {1.5f, 1, 10}}};
    const struct codec_rate_target target = {CODEC_RATE_BYTES, 40};
    struct rig_params p = {.network = quiet, .codec = codec_params_default(CODEC_TSQ)};
    char err[PIPELINE_ERR] = "";
    struct rig_request q;
    struct edge_params ep;
    struct edge *e;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 10, 1);
    q.target = target;
    assert_int_equal(rig_submit(&r, &q), -EINVAL);
    ep = (struct edge_params){.stage = r.edge_stage,
                              .port = network_port(r.network, 0),
                              .codec = p.codec,
                              .target = target};
    assert_int_equal(edge_open(&ep, 0, &e, err), -EINVAL);
    assert_non_null(strstr(err, "curve"));
    ep.curve = &wide; /* no delta of 1.5 */
    assert_int_equal(edge_open(&ep, 0, &e, err), -EINVAL);
    rig_request_free(&q);
    rig_close(&r);
}

static void check_lost(const struct rig_params *p, const char *text)
{
    struct edge_result result;

    assert_true(rig_one(p, &result));
    assert_int_equal(result.finish, EDGE_LOST);
    if (!strstr(result.error, text))
        fail_msg("'%s' lacks '%s'", result.error, text);
}

static void test_stage_failures(void **state)
{
    struct rig_params p = {.network = quiet, .edge_stage = {.fail_at = 20}};

    check_lost(&p, "the edge's stage failed at position 20");
    p = (struct rig_params){.network = quiet, .cloud_stage = {.fail_at = 20}};
    check_lost(&p, "the cloud's stage failed at position 20");
    p = (struct rig_params){
        .network = quiet, .codec = codec_params_default(CODEC_TSQ), .edge_stage = {.nan_at = 13}};
    check_lost(&p, "hidden state of position 13");
}

static void test_bad_params(void **state)
{
    struct rig_params p = {.network = quiet};
    char err[PIPELINE_ERR] = "";
    struct edge_params ep;
    struct cloud_params cp;
    struct edge *e;
    struct cloud *c;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    ep = (struct edge_params){.stage = r.cloud_stage,
                              .port = network_port(r.network, 0),
                              .codec = codec_params_default(CODEC_F32)};
    cp = (struct cloud_params){.stage = r.edge_stage,
                               .port = network_port(r.network, 1),
                               .codec = codec_params_default(CODEC_F32)};
    assert_int_equal(edge_open(&ep, 0, &e, err), -EINVAL);
    assert_non_null(strstr(err, "[5, 12)"));
    assert_int_equal(cloud_open(&cp, 0, &c, err), -EINVAL);
    assert_non_null(strstr(err, "[0, 5)"));
    ep.stage = r.edge_stage;
    cp.stage = r.cloud_stage;
    ep.codec.mode = cp.codec.mode = (enum codec_mode)9;
    assert_int_equal(edge_open(&ep, 0, &e, err), -EINVAL);
    assert_int_equal(cloud_open(&cp, 0, &c, err), -EINVAL);
    rig_close(&r);
    p.mtu = 160;
    rig_open(&r, &p);
    ep = (struct edge_params){.stage = r.edge_stage,
                              .port = network_port(r.network, 0),
                              .codec = codec_params_default(CODEC_F32)};
    assert_int_equal(edge_open(&ep, 0, &e, err), -EINVAL);
    assert_non_null(strstr(err, "MTU of 160"));
    p.mtu = 0;
    stage_close(r.edge_stage);
    stage_close(r.cloud_stage);
    network_close(r.network);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths_and_chunks),
        cmocka_unit_test(test_impairments),
        cmocka_unit_test(test_many_sessions),
        cmocka_unit_test(test_sampling_is_by_position),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_alternatives),
        cmocka_unit_test(test_mismatch),
        cmocka_unit_test(test_codec_mismatch),
        cmocka_unit_test(test_profile_mismatch),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_cloud_full),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_silent_cloud),
        cmocka_unit_test(test_edge_rests),
        cmocka_unit_test(test_no_cloud),
        cmocka_unit_test(test_edge_dies),
        cmocka_unit_test(test_cloud_restarts),
        cmocka_unit_test(test_small_pool_and_window),
        cmocka_unit_test(test_prefill_overlaps),
        cmocka_unit_test(test_packets_of_decode),
        cmocka_unit_test(test_first_chunk_early),
        cmocka_unit_test(test_cloud_withholds_tokens),
        cmocka_unit_test(test_edge_floods),
        cmocka_unit_test(test_deaf_while_computing),
        cmocka_unit_test(test_fairness),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_retarget),
        cmocka_unit_test(test_bad_targets),
        cmocka_unit_test(test_stage_failures),
        cmocka_unit_test(test_bad_params),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
