/* SPDX-License-Identifier: Apache-2.0 */
/* Paths of which is not known what they take, that take less than the port, and that come to do so:
 * the ids are those of an unsplit run, and nobody joins anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/profile.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)
#define MB     ((size_t)1 << 20)
#define SURE   1280u
#define MOST   9000u
#define WIDTH                                                                                      \
    300u /* 1,200 B a row: one does not fit what any path takes, 7 fit the longest packet */

static struct rig_params on_path(uint32_t mtu)
{
    return (struct rig_params){
        .network = {.delay_min_ns = 200000,
                    .delay_max_ns = 200000,
                    .mtu_bytes = mtu,
                    .mtu_sure_bytes = SURE},
        .mtu = MOST,
        .edge_stage.d_model = WIDTH,
        .cloud_stage.d_model = WIDTH,
        .rejoin = {.timeout_ns = 60 * SECOND, .history_bytes = 4 * MB},
    };
}

static struct edge_stats stats_of(const struct rig *r)
{
    struct edge_stats s;

    edge_stats(r->edge, &s);
    return s;
}

static void open_rig(struct rig *r, const struct rig_params *p)
{
    rig_open(r, p);
    rig_start(r);
}

static void set_mtu(struct rig *r, uint32_t mtu)
{
    r->p.network.mtu_bytes = mtu;
    network_set_params(r->network, &r->p.network);
}

static void step_until_ids(struct rig *r, const struct rig_request *q, uint32_t n)
{
    while (q->n_ids < n && !q->done)
        rig_step(r);
}

static void finish(struct rig *r, struct rig_request *q)
{
    const uint64_t until = r->now_ns + 60 * SECOND;

    while (!q->done && r->now_ns < until)
        rig_step(r);
    if (q->result.finish != EDGE_LENGTH)
        fail_msg("ended by %d: %s", q->result.finish, q->result.error);
    assert_true(rig_right(r, q));
    rig_request_free(q);
}

/* Packets of a prompt and its answer, and the time they took. */
static struct edge_stats ask(struct rig *r, uint64_t seed, uint64_t *took_ns)
{
    const struct edge_stats before = stats_of(r);
    struct edge_stats after;
    struct rig_request q;

    rig_request(&q, seed, 200, 20);
    assert_true(rig_submit(r, &q) > 0);
    *took_ns = r->now_ns;
    finish(r, &q);
    *took_ns = r->now_ns - *took_ns;
    after = stats_of(r);
    after.link.tx_packets -= before.link.tx_packets;
    return after;
}

/* What is known to take all costs nothing; what turns out to take all costs a round trip, and no
 * more packets and time afterwards. */
static void test_whole(void **state)
{
    struct rig_params known = on_path(MOST), unknown = on_path(MOST);
    struct edge_stats a, b;
    uint64_t a_ns, b_ns;
    struct rig r[2];

    known.network.mtu_sure_bytes = 0;
    open_rig(&r[0], &known);
    open_rig(&r[1], &unknown);
    (void)ask(&r[0], 1, &a_ns);
    (void)ask(&r[1], 1, &b_ns);
    assert_true(b_ns <= a_ns + 2 * RIG_MS);
    a = ask(&r[0], 2, &a_ns);
    b = ask(&r[1], 2, &b_ns);
    print_message("%u packets, %.3f ms; where it had to be found out: %u, %.3f ms\n",
                  (unsigned)a.link.tx_packets, (double)a_ns * 1e-6, (unsigned)b.link.tx_packets,
                  (double)b_ns * 1e-6);
    assert_int_equal(b.link.mtu_bytes, MOST);
    assert_int_equal(b.link.cut + b.link.mtu_falls, 0);
    assert_true(b.link.tx_packets <= a.link.tx_packets + 2);
    assert_true(b_ns <= a_ns + a_ns / 50);
    rig_close(&r[0]);
    rig_close(&r[1]);
}

static void test_narrow(void **state)
{
    static const uint32_t paths[][2] = {{1280, 1280}, {1350, 1280}, {1420, 1420}, {5000, 4352}};

    for (unsigned i = 0; i < 4; i++) {
        const struct rig_params p = on_path(paths[i][0]);
        struct edge_stats s;
        uint64_t took_ns;
        struct rig r;

        open_rig(&r, &p);
        (void)ask(&r, i, &took_ns);
        for (const uint64_t until = r.now_ns + 10 * SECOND; r.now_ns < until;)
            rig_step(&r);
        s = ask(&r, 10 + i, &took_ns);
        assert_int_equal(s.link.mtu_bytes, paths[i][1]);
        assert_int_equal(s.link.cut + s.link.mtu_falls, 0);
        assert_int_equal(s.reconnections, 0);
        rig_close(&r);
    }
}

/* In a prompt and in an answer, both ways, with guesses and alternatives, whose answers are long.
 */
static void test_falls(void **state)
{
    static int32_t guesses[200];

    for (unsigned i = 0; i < 8; i++) {
        struct rig_params p = on_path(MOST);
        const uint32_t to[] = {1280, 1500, 1400, 4352};
        uint64_t from;
        struct cloud_stats c;
        struct edge_stats s;
        struct rig_request q;
        struct rig r;

        p.secure = i & 1;
        p.hook = i & 2;
        p.edge_stage.run_ns = p.cloud_stage.run_ns = RIG_MS;
        open_rig(&r, &p);
        (void)ask(&r, i, &from);
        rig_request(&q, 20 + i, 400, 120);
        q.n_top = SAMPLER_TOP_MAX;
        fake_reference(q.prompt, q.n_prompt, q.n_predict, &q.sampler, -1, WIDTH, guesses, NULL, 0);
        q.drafts = guesses;
        q.n_drafts = q.n_predict;
        q.draft_len = 15;
        assert_true(rig_submit(&r, &q) > 0);
        if (i & 4)
            step_until_ids(&r, &q, 20);
        else
            for (unsigned k = 0; k < 10; k++)
                rig_step(&r);
        set_mtu(&r, to[i % 4]);
        from = r.now_ns;
        finish(&r, &q);
        s = stats_of(&r);
        cloud_stats(r.cloud, &c);
        print_message("to %u %s: %.2f s until its end, %u and %u packets in pieces\n", to[i % 4],
                      i & 4 ? "in the answer" : "in the prompt", (double)(r.now_ns - from) * 1e-9,
                      (unsigned)s.link.cut, (unsigned)c.link.cut);
        assert_true(s.link.cut + c.link.cut > 0 && s.link.mtu_falls == 1);
        assert_int_equal(s.reconnections, 0);
        assert_true(r.now_ns - from < 5 * SECOND);
        rig_close(&r);
    }
}

/* A history of long tiles at a cloud whose path, or whose port, takes short packets. */
static void test_replay(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct rig_params p = on_path(MOST);
        struct edge_stats s;
        struct rig_request q;
        uint64_t took_ns;
        struct rig r;

        p.secure = i & 1;
        p.more = i & 2 ? 1 : 0;
        p.more_mtu = 1500;
        open_rig(&r, &p);
        (void)ask(&r, i, &took_ns);
        rig_request(&q, 30 + i, 300, 100);
        assert_true(rig_submit(&r, &q) > 0);
        step_until_ids(&r, &q, 50);
        rig_kill_cloud(&r);
        if (!p.more) {
            set_mtu(&r, 1300);
            rig_start_cloud(&r);
        }
        finish(&r, &q);
        s = stats_of(&r);
        assert_true(s.link.cut > 0);
        assert_in_range(s.replayed_rows, 300, 360);
        rig_close(&r);
    }
}

static const struct codec_profile_curve curve = {
    .n = 4, .points = {{.004f, .001f, 85}, {.02f, .02f, 60}, {.1f, .2f, 30}, {.3f, 1, 18}}};

/* Where what a row becomes could depend on the packet, packets stay as any path takes them: the
 * tiles, and so the ids, are the same over all. */
static void test_alike(void **state)
{
    static const struct codec_rate_target targets[] = {{CODEC_RATE_NONE, 0},
                                                       {CODEC_RATE_BYTES, 240}};

    for (unsigned t = 0; t < 2; t++) {
        uint64_t bytes[2];
        int32_t ids[2][40];

        for (unsigned i = 0; i < 2; i++) {
            struct rig_params p = on_path(i ? MOST : SURE);
            struct rig_request q;
            uint64_t until;
            struct rig r;

            p.codec = codec_params_default(CODEC_RANS);
            p.curve = &curve;
            p.target = targets[t];
            if (!t)
                p.edge_stage.d_model = p.cloud_stage.d_model = 2000; /* some don't fit */
            p.mtu = i ? MOST : SURE;
            open_rig(&r, &p);
            rig_request(&q, 5, 100, 40);
            assert_true(rig_submit(&r, &q) > 0);
            for (until = r.now_ns + 60 * SECOND; !q.done && r.now_ns < until;)
                rig_step(&r);
            assert_int_equal(q.result.finish, EDGE_LENGTH);
            bytes[i] = q.result.tile_bytes_up;
            memcpy(ids[i], q.ids, sizeof ids[i]);
            rig_request_free(&q);
            rig_close(&r);
        }
        assert_int_equal(bytes[0], bytes[1]);
        assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),  cmocka_unit_test(test_narrow), cmocka_unit_test(test_falls),
        cmocka_unit_test(test_replay), cmocka_unit_test(test_alike),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
