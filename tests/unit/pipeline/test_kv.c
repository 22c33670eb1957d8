/* SPDX-License-Identifier: Apache-2.0 */
/* Clouds that ask for coarser keys and values: which format sessions get, and keep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/edge_impl.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)
#define FAMILY 77u

static const struct network_params quiet = {.delay_min_ns = 10000, .delay_max_ns = 10000};

static void run_for(struct rig *r, uint64_t ns)
{
    const uint64_t until = r->now_ns + ns;

    while (r->now_ns < until)
        rig_step(r);
}

static void until_ids(struct rig *r, const struct rig_request *q, uint32_t n)
{
    const uint64_t until = r->now_ns + 10 * SECOND;

    while (q->n_ids < n && r->now_ns < until)
        rig_step(r);
    assert_true(q->n_ids >= n);
}

static void ask(struct rig *r, struct cloud *c, enum kv_format f)
{
    cloud_ask_kv(c, f);
    run_for(r, 2 * SECOND); /* an edge without sessions hears it within one */
}

/* A session of its own, or that begins as another did. */
static void request(struct rig_request *q, uint64_t seed, bool alike, uint32_t kv, uint32_t n)
{
    rig_request(q, seed, 100, n);
    rig_begin_like(q, FAMILY, alike ? 90 : 0);
    q->kv = kv;
}

static void expect(const struct rig *r, struct rig_request *q, enum kv_format f)
{
    if (!q->done || q->result.finish != EDGE_LENGTH)
        fail_msg("%s %s", q->done ? "ended" : "goes on", q->result.error);
    assert_int_equal(q->result.kv, f);
    assert_true(rig_right(r, q));
    rig_request_free(q);
}

/* New sessions have the coarser of what they were to have and what is asked for, as far as they may. */
static void test_asked(void **state)
{
    static const uint32_t all = (1u << KV_FORMATS) - 1, no_q8 = all & ~(1u << KV_Q8);
    static const struct {
        enum kv_format own, asked, most;
        uint32_t here; /* that the edge's stage has */
        enum kv_format gets;
        const char *says; /* NULL: nothing, for nothing follows from it */
    } want[] = {
        {KV_F16, KV_F16, KV_Q4, all, KV_F16, NULL},
        {KV_F16, KV_Q8, KV_K8V4, all, KV_Q8, "in q8 (port"},
        {KV_F16, KV_Q4, KV_Q4, all, KV_Q4, "new sessions get them, or coarser ones"},
        {KV_F16, KV_Q4, KV_Q8, all, KV_Q8, "new sessions get q8, the coarsest that they may have"},
        {KV_F16, KV_Q8, KV_F16, all, KV_F16, NULL},
        {KV_K8V4, KV_Q8, KV_Q4, all, KV_K8V4, "new sessions get them, or coarser ones"},
        {KV_K8V4, KV_Q8, KV_K8V4, all, KV_K8V4, NULL},
        {KV_Q8, KV_K8V4, KV_F16, all, KV_Q8, NULL},
        {KV_F16, KV_Q8, KV_K8V4, no_q8, KV_F16, "new sessions get f16"},
        {KV_F16, KV_Q4, KV_Q4, no_q8, KV_Q4, "in q4"},
    };
    for (unsigned i = 0; i < sizeof want / sizeof *want; i++) {
        const struct rig_params p = {
            .network = quiet,
            .edge_stage = {.kv = want[i].own, .kv_formats = want[i].here},
            .kv_most = want[i].most,
            .rejoin = {.timeout_ns = SECOND, .history_bytes = 1 << 20},
        };
        struct edge_uplink_stats u;
        struct rig_request q;
        struct rig r;

        rig_open(&r, &p);
        rig_start(&r);
        request(&q, 1, false, 0, 10);
        assert_true(rig_run(&r, &q, 1, SECOND)); /* it was not asked yet */
        expect(&r, &q, want[i].own);
        r.n_said = 0;
        ask(&r, r.cloud, want[i].asked);
        assert_int_equal(r.n_said, want[i].says != NULL);
        assert_true(!want[i].says || strstr(r.said, want[i].says));
        assert_int_equal(edge_uplink_stats(r.edge, 0, &u), 0);
        assert_int_equal(u.kv_asked, want[i].asked);
        request(&q, 2, false, 0, 10);
        assert_true(rig_run(&r, &q, 1, SECOND));
        expect(&r, &q, want[i].gets);
        request(&q, 3, false, 1 + KV_Q4, 10); /* its request's is coarse enough */
        assert_true(rig_run(&r, &q, 1, SECOND));
        expect(&r, &q, KV_Q4);
        r.n_said = 0;
        ask(&r, r.cloud, KV_F16);
        assert_int_equal(r.n_said, want[i].says != NULL);
        assert_true(!want[i].says || strstr(r.said, "asks for no coarser keys and values any more"));
        request(&q, 4, false, 0, 10);
        assert_true(rig_run(&r, &q, 1, SECOND));
        expect(&r, &q, want[i].own);
        rig_close(&r);
    }
}

/* Those that run keep theirs, through a death of the cloud, too; only those of one format begin
 * alike. */
static void test_those_that_run(void **state)
{
    const struct rig_params p = {.network = quiet,
                                 .sessions = 4,
                                 .lingering = 4,
                                 .kv_most = KV_K8V4,
                                 .tell_crash = true,
                                 .rejoin = {.timeout_ns = SECOND, .history_bytes = 1 << 20},
                                 .cloud_stage = {.run_ns = RIG_MS}};
    static const uint32_t shared[] = {0, 0, 90, 0};
    struct rig_request q[4];
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (unsigned i = 0; i < 4; i++)
        request(&q[i], i, true, 0, i == 0 ? 900 : 10);
    assert_true(rig_submit(&r, &q[0]) > 0);
    until_ids(&r, &q[0], 5);
    cloud_ask_kv(r.cloud, KV_Q8);
    run_for(&r, 200 * RIG_MS); /* it is told sooner beside a session */
    assert_true(rig_run(&r, &q[1], 1, SECOND));
    assert_true(rig_run(&r, &q[2], 1, SECOND));
    assert_false(q[0].done);
    rig_restart_cloud(&r); /* this one asks for nothing */
    until_ids(&r, &q[0], q[0].n_ids + 5);
    run_for(&r, 200 * RIG_MS);
    cloud_ask_kv(r.cloud, KV_K8V4);
    run_for(&r, 200 * RIG_MS);
    assert_true(rig_run(&r, &q[3], 1, SECOND));
    while (!q[0].done)
        rig_step(&r);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(q[i].result.n_shared, shared[i]);
        expect(&r, &q[i], i == 0 ? KV_F16 : i == 3 ? KV_K8V4 : KV_Q8);
    }
    rig_close(&r);
}

static int placed_at; /* the uplink that sessions go to; -1: none */

static int place(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session)
{
    for (uint32_t i = 0; i < n; i++) {
        if ((int)views[i].index == placed_at)
            return (int)i;
    }
    return -1;
}

/* One of two clouds asks: sessions there have what it asks for, also those that waited to be placed,
 * those at the other don't; where they go on elsewhere they keep it. */
static void test_two_clouds(void **state)
{
    const struct rig_params p = {.network = quiet,
                                 .sessions = 8,
                                 .more = 1,
                                 .kv_most = KV_K8V4,
                                 .tell_crash = true,
                                 .rejoin = {.timeout_ns = 60 * SECOND, .history_bytes = 1 << 20},
                                 .place = place,
                                 .edge_stage = {.kv_budget_bytes = 8 * 1000 * FAKE_TOKEN_BYTES},
                                 .cloud_stage = {.run_ns = RIG_MS}};
    struct rig_request q[6];
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    run_for(&r, SECOND);
    ask(&r, r.more[0].cloud, KV_Q8);
    for (unsigned i = 0; i < 6; i++) {
        placed_at = i < 4 ? (int)i % 2 : -1;
        request(&q[i], i, i < 5, 0, 800);
        assert_true(rig_submit(&r, &q[i]) > 0);
        run_for(&r, 20 * RIG_MS);
    }
    assert_int_equal(q[4].n_ids + q[5].n_ids, 0);
    placed_at = 1;
    for (unsigned i = 0; i < 6; i++)
        until_ids(&r, &q[i], 5);
    placed_at = 0;
    rig_kill_more(&r, &r.more[0]);
    run_for(&r, 100 * RIG_MS);
    rig_start_more(&r, &r.more[0]);
    run_for(&r, 100 * RIG_MS);
    cloud_ask_kv(r.more[0].cloud, KV_K8V4);
    for (unsigned i = 0; i < 6; i++)
        until_ids(&r, &q[i], 300);
    placed_at = 1;
    rig_kill_cloud(&r);
    for (unsigned i = 0; i < 6; i++) {
        until_ids(&r, &q[i], 800);
        run_for(&r, RIG_MS);
        expect(&r, &q[i], i == 0 || i == 2 ? KV_F16 : KV_Q8);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asked),
        cmocka_unit_test(test_those_that_run),
        cmocka_unit_test(test_two_clouds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
