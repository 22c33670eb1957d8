/* SPDX-License-Identifier: Apache-2.0 */
/* An edge at several clouds: whichever of them a session is at, and wherever it goes on, its ids
 * are those of an unsplit run. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/edge_impl.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)
#define MB     ((size_t)1 << 20)
#define N      16u

static const struct network_params quiet = {.delay_min_ns = 10000, .delay_max_ns = 10000};
static const struct edge_rejoin patient = {.timeout_ns = 60 * SECOND, .history_bytes = 64 * MB};

static struct rig r;
static struct rig_request q[N];

static struct rig_params clouds(uint32_t n)
{
    return (struct rig_params){.network = quiet,
                               .rejoin = patient,
                               .sessions = N,
                               .more = n - 1,
                               .hook = true,
                               .tell_crash = true,
                               .edge_stage = {.run_ns = RIG_MS / 10},
                               .cloud_stage = {.run_ns = RIG_MS / 10}};
}

static void start(const struct rig_params *p)
{
    rig_open(&r, p);
    rig_start(&r);
}

static void submit(uint32_t first, uint32_t n, uint32_t n_prompt, uint32_t n_predict)
{
    for (uint32_t i = first; i < first + n; i++) {
        rig_request(&q[i], 100 + i, n_prompt + i, n_predict);
        q[i].sampler.temp = i & 1 ? .8f : 0;
        q[i].sampler.repeat_penalty = 1.2f;
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
}

static struct edge_stats stats(void)
{
    struct edge_stats s;

    edge_stats(r.edge, &s);
    return s;
}

static struct edge_uplink_stats at(uint32_t index)
{
    struct edge_uplink_stats s;

    assert_int_equal(edge_uplink_stats(r.edge, index, &s), 0);
    return s;
}

static void run_for(uint64_t ns)
{
    uint64_t until = r.now_ns + ns;

    while (r.now_ns < until)
        rig_step(&r);
}

static void until_joined(uint32_t n)
{
    uint64_t until = r.now_ns + 10 * SECOND;

    while (stats().uplinks_joined < n && r.now_ns < until)
        rig_step(&r);
    assert_int_equal(stats().uplinks_joined, n);
}

static void until_ids(uint32_t first, uint32_t n, uint32_t ids)
{
    uint64_t until = r.now_ns + 60 * SECOND;

    for (uint32_t i = first; i < first + n; i++) {
        while (q[i].n_ids < ids && r.now_ns < until)
            rig_step(&r);
        assert_true(q[i].n_ids >= ids);
    }
}

/* All end, with the right ids. */
static void finish(uint32_t first, uint32_t n, uint64_t within)
{
    uint64_t until = r.now_ns + within;
    uint32_t done;

    do {
        rig_step(&r);
        done = 0;
        for (uint32_t i = first; i < first + n; i++)
            done += q[i].done;
    } while (done < n && r.now_ns < until);
    for (uint32_t i = first; i < first + n; i++) {
        if (!q[i].done || q[i].result.finish != EDGE_LENGTH)
            fail_msg("request %u: %s %s", i, q[i].done ? "ended" : "goes on", q[i].result.error);
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
}

/* --- joined ----------------------------------------------------------------------------------- */

/* Sessions spread, and one run of the front stage computes for all clouds. */
static void test_spread(void **state)
{
    for (uint32_t n = 2; n <= 3; n++) {
        for (unsigned secure = 0; secure < 2; secure++) {
            struct rig_params p = clouds(n);

            p.secure = secure;
            p.late = n == 3;
            start(&p);
            until_joined(n);
            submit(0, 12, 40, 60);
            until_ids(0, 12, 5);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(at(i).sessions, 12 / n);
                assert_int_equal(at(i).state, EDGE_UPLINK_JOINED);
                assert_true(at(i).rtt_ns > 0);
                assert_true(at(i).has_status);
            }
            assert_string_equal(at(1).name, "c1");
            finish(0, 12, 10 * SECOND);
            assert_true(fake_counts(r.edge_stage)->largest_batch > 12 / n);
            assert_true(fake_counts(r.cloud_stage)->rows > 0);
            assert_true(fake_counts(r.more[0].stage)->rows > 0);
            assert_int_equal(stats().moved, 0);
            rig_close(&r);
        }
    }
}

struct policy {
    int index; /* of the uplink; -1: none */
    uint32_t n_asked;
};

static int place(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session)
{
    struct policy *p = arg;

    p->n_asked++;
    for (uint32_t i = 0; i < n; i++) {
        if ((int)views[i].index == p->index)
            return (int)i;
    }
    return -1;
}

static void test_placement(void **state)
{
    struct policy policy = {.index = -1};
    struct rig_params p = clouds(3);

    p.place = place;
    p.place_arg = &policy;
    start(&p);
    until_joined(3);
    submit(0, 4, 30, 20);
    run_for(SECOND);
    assert_in_range(policy.n_asked, 4, 4 * 30); /* ten times a second, and when something happens */
    assert_int_equal(q[0].n_ids, 0);
    assert_int_equal(edge_session_uplink(r.edge, q[0].session), -ENOENT);
    policy.index = 2;
    until_ids(0, 4, 1);
    assert_int_equal(edge_session_uplink(r.edge, q[0].session), 2);
    assert_int_equal(at(2).sessions, 4);
    finish(0, 4, 10 * SECOND);
    assert_int_equal(fake_counts(r.cloud_stage)->rows, 0);
    rig_close(&r);
}

/* Beginnings lie at one cloud, and later sessions go there; those sent elsewhere are spared the
 * edge's part of it. */
static void test_share(void **state)
{
    struct policy policy = {.index = 1};
    struct rig_params p = clouds(2);
    uint64_t rows;

    p.lingering = 4;
    start(&p);
    until_joined(2);
    for (uint32_t i = 0; i < 5; i++) {
        rig_request(&q[i], i, 200 + i, 30);
        rig_begin_like(&q[i], 77, 180);
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
    finish(0, 5, 10 * SECOND);
    assert_int_equal(stats().shared_rows, 4 * 180);
    assert_int_equal(fake_counts(r.more[0].stage)->rows, 0);
    rig_close(&r);

    p.place = place;
    p.place_arg = &policy;
    start(&p);
    until_joined(2);
    for (uint32_t i = 0; i < 2; i++) {
        rig_request(&q[i], i, 200 + i, 30);
        rig_begin_like(&q[i], 77, 180);
        policy.index = (int)i;
        rows = fake_counts(r.edge_stage)->rows;
        assert_true(rig_submit(&r, &q[i]) > 0);
        run_for(SECOND);
        assert_true(q[i].done);
    }
    assert_int_equal(fake_counts(r.edge_stage)->rows - rows, 201 - 180 + 29);
    assert_int_equal(q[1].result.n_shared, 180);
    assert_in_range(stats().replayed_rows, 180, 180 + 64); /* whole messages */
    finish(0, 2, SECOND);
    rig_close(&r);
}

/* --- lost ------------------------------------------------------------------------------------- */

static void test_death(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        struct rig_params p = clouds(2 + (i & 1));
        uint64_t from;

        p.tell_crash = i & 2;
        p.secure = i & 4;
        p.late = true;
        start(&p);
        until_joined(p.more + 1);
        submit(0, N, 60, 100);
        until_ids(0, N, 20 + i);
        from = r.now_ns;
        rig_kill_more(&r, &r.more[0]); /* it does not come back */
        until_ids(0, N, 60);
        print_message("16 sessions, one of %u clouds is killed: all on after %.1f ms\n", p.more + 1,
                      (double)(r.now_ns - from) * 1e-6);
        assert_true(r.now_ns - from < (p.tell_crash ? SECOND / 10 : 4 * SECOND));
        finish(0, N, 60 * SECOND);
        assert_int_equal(stats().moved, p.more == 1 ? 8 : 5);
        assert_true(stats().replayed_rows > 0);
        assert_int_equal(at(1).sessions, 0);
        assert_int_not_equal(at(1).state, EDGE_UPLINK_JOINED);
        assert_true(at(1).why[0]);
        rig_close(&r);
    }
}

/* However many it takes over at once, a cloud goes on with its own: they are told in turn. */
static void test_throttle(void **state)
{
    struct rig_params p = clouds(2);
    uint32_t most = 0, waited = 0, tokens;

    start(&p);
    until_joined(2);
    submit(0, N, 400, 150);
    until_ids(0, N, 5);
    tokens = (uint32_t)stats().tokens;
    rig_kill_more(&r, &r.more[0]);
    do {
        uint32_t begun = 0, waiting = 0;

        rig_step(&r);
        for (uint32_t i = 0; i < r.edge->n_places; i++) {
            const struct edge_session *s = &r.edge->sessions[i];

            begun += s->state == EDGE_RUNNING && s->replaying && s->replay_begun;
            waiting += s->state == EDGE_RUNNING && s->replaying && !s->replay_begun;
        }
        most = begun > most ? begun : most;
        waited = waiting > waited ? waiting : waited;
    } while (!at(0).replaying || stats().replayed_rows < 8 * 400);
    tokens = (uint32_t)stats().tokens - tokens;
    assert_int_equal(most, EDGE_REPLAYS);
    assert_true(waited >= 8 - EDGE_REPLAYS);
    assert_true(tokens > 100); /* of those that were there */
    finish(0, N, 60 * SECOND);
    rig_close(&r);
}

static void test_all_dead(void **state)
{
    struct rig_params p = clouds(2);

    start(&p);
    until_joined(2);
    submit(0, 6, 50, 80);
    until_ids(0, 6, 10);
    rig_kill_cloud(&r);
    run_for(5 * RIG_MS);
    rig_kill_more(&r, &r.more[0]);
    run_for(3 * SECOND);
    assert_false(stats().connected);
    assert_non_null(strstr(r.said, "waiting up to 60 s"));
    rig_start_more(&r, &r.more[0]);
    finish(0, 6, 20 * SECOND);
    rig_start_cloud(&r);
    until_joined(2);
    submit(6, 4, 50, 80);
    until_ids(6, 4, 1);
    assert_int_equal(at(0).sessions, 2);
    finish(6, 4, 20 * SECOND);
    rig_close(&r);
}

/* None comes back: sessions end, and an endless edge goes on. */
static void test_in_vain(void **state)
{
    for (unsigned endless = 0; endless < 2; endless++) {
        struct rig_params p = clouds(2);

        p.rejoin.timeout_ns = 5 * SECOND;
        p.rejoin.endless = endless;
        start(&p);
        until_joined(2);
        submit(0, 4, 50, 80);
        until_ids(0, 4, 10);
        rig_kill_cloud(&r);
        rig_kill_more(&r, &r.more[0]);
        run_for(6 * SECOND);
        for (unsigned i = 0; i < 4; i++) {
            assert_true(q[i].done);
            assert_int_equal(q[i].result.finish, EDGE_LOST);
            assert_non_null(strstr(q[i].result.error, "none of 2 clouds answered within 5 s"));
            rig_request_free(&q[i]);
        }
        assert_int_equal(r.edge_rc, endless ? 0 : -EPIPE);
        if (endless) {
            rig_start_cloud(&r);
            submit(0, 2, 50, 80);
            finish(0, 2, 20 * SECOND);
        }
        rig_close(&r);
    }
}

/* --- drained, full, taken out ----------------------------------------------------------------- */

/* Asked for at the edge, or announced by the cloud. */
static void test_drain(void **state)
{
    for (unsigned announced = 0; announced < 2; announced++) {
        struct rig_params p = clouds(3);
        uint32_t most = 0;

        start(&p);
        until_joined(3);
        submit(0, 12, 60, 300);
        until_ids(0, 12, 10);
        if (announced)
            cloud_drain(r.cloud, true);
        else
            assert_int_equal(edge_uplink_drain(r.edge, 0, true), 0);
        for (unsigned i = 0; i < 20000 && at(0).sessions; i++) {
            rig_step(&r);
            most = at(1).replaying > most ? at(1).replaying : most;
        }
        assert_int_equal(at(0).sessions, 0);
        assert_int_equal(announced ? at(0).drains : at(0).draining, true);
        assert_in_range(most, 1, EDGE_REPLAYS);
        assert_int_equal(stats().moved, 4);
        submit(12, 2, 60, 50);
        run_for(20 * RIG_MS);
        assert_int_equal(at(0).sessions, 0);
        if (announced)
            cloud_drain(r.cloud, false);
        else
            assert_int_equal(edge_uplink_drain(r.edge, 0, false), 0);
        run_for(20 * RIG_MS);
        submit(14, 2, 60, 50);
        run_for(20 * RIG_MS);
        assert_int_equal(at(0).sessions, 2);
        finish(0, N, 20 * SECOND);
        rig_close(&r);
    }
}

/* Where nobody else can take them they stay. */
static void test_drain_last(void **state)
{
    struct rig_params p = clouds(2);

    start(&p);
    until_joined(2);
    submit(0, 4, 60, 300);
    until_ids(0, 4, 10);
    rig_kill_more(&r, &r.more[0]);
    assert_int_equal(edge_uplink_drain(r.edge, 0, true), 0);
    run_for(20 * RIG_MS);
    assert_int_equal(at(0).sessions, 2); /* the others wait */
    rig_start_more(&r, &r.more[0]);
    finish(0, 4, 20 * SECOND);
    assert_int_equal(edge_uplink_drain(r.edge, 7, true), -ENOENT);
    rig_close(&r);
}

/* All drain: what they have they keep, and who comes new waits, but not for ever. */
static void test_all_drain(void **state)
{
    struct rig_params p = clouds(2);

    p.rejoin.timeout_ns = 5 * SECOND;
    start(&p);
    until_joined(2);
    submit(0, 2, 60, 100);
    until_ids(0, 2, 10);
    assert_int_equal(edge_uplink_drain(r.edge, 0, true), 0);
    assert_int_equal(edge_uplink_drain(r.edge, 1, true), 0);
    submit(2, 2, 60, 50);
    finish(0, 2, 20 * SECOND);
    run_for(2 * SECOND);
    assert_false(q[2].done || q[3].done);
    run_for(4 * SECOND);
    for (unsigned i = 2; i < 4; i++) {
        assert_true(q[i].done);
        assert_int_equal(q[i].result.finish, EDGE_LOST);
        assert_non_null(strstr(q[i].result.error, "no cloud takes the session: for 5 s"));
        rig_request_free(&q[i]);
    }
    submit(4, 2, 60, 50);
    run_for(2 * SECOND);
    assert_int_equal(edge_uplink_drain(r.edge, 1, false), 0);
    finish(4, 2, 20 * SECOND);
    rig_close(&r);
}

/* A death leaves less room than there are sessions: some wait for their turn. */
static void test_full(void **state)
{
    struct rig_params p = clouds(3);

    p.cloud_sessions = 4;
    start(&p);
    until_joined(3);
    submit(0, 12, 60, 60);
    until_ids(0, 12, 10);
    rig_kill_more(&r, &r.more[0]);
    finish(0, 12, 60 * SECOND);
    rig_close(&r);
}

static void test_come_and_go(void **state)
{
    struct rig_params p = clouds(2);

    start(&p);
    until_joined(2);
    submit(0, 8, 60, 200);
    until_ids(0, 8, 10);
    assert_int_equal(edge_uplink_remove(r.edge, 0, r.now_ns), 0);
    assert_int_equal(edge_uplink_remove(r.edge, 0, r.now_ns), -ENOENT);
    assert_int_equal(stats().uplinks, 1);
    until_ids(0, 8, 50);
    assert_int_equal(at(1).sessions, 8);
    run_for(SECOND / 100);
    assert_int_equal(rig_add_uplink(&r, "again", network_port(r.network, 0)), 0);
    until_joined(2);
    assert_int_equal(edge_uplink_drain(r.edge, 1, true), 0);
    finish(0, 8, 20 * SECOND);
    assert_string_equal(at(0).name, "again");
    assert_true(at(0).moved > 0);
    rig_close(&r);
}

/* Who waits for the only cloud need not, once there is another. */
static void test_second(void **state)
{
    struct rig_params p = clouds(2);

    p.late = true;
    start(&p);
    r.cloud_silent = true;
    assert_int_equal(edge_uplink_remove(r.edge, 1, r.now_ns), 0);
    submit(0, 6, 60, 50);
    run_for(100 * RIG_MS);
    assert_int_equal(at(0).sessions, 6);
    assert_int_equal(rig_add_uplink(&r, "second", network_port(r.more[0].network, 0)), 1);
    finish(0, 6, SECOND);
    rig_close(&r);
}

static uint64_t refused(const struct cloud *c)
{
    struct cloud_stats s;

    cloud_stats(c, &s);
    return s.refused;
}

/* A cloud of another kind takes nobody down with it, and says so before a session is there. */
static void test_unfit(void **state)
{
    static const struct {
        size_t at; /* the byte of its info that differs */
        const char *why;
    } kinds[] = {{offsetof(struct stage_info, fingerprint), "model mismatch: edge f001"},
                 {offsetof(struct stage_info, first_layer), "split mismatch: edge ends before layer 5"},
                 {offsetof(struct stage_info, numerics_id), "numerics mismatch"}};
    struct rig_params p = clouds(2);

    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        rig_open(&r, &p);
        ((uint8_t *)r.more[0].info)[kinds[i].at] ^= 1;
        rig_start(&r);
        until_joined(2);
        run_for(SECOND / 100);
        assert_int_equal(at(1).state, EDGE_UPLINK_UNFIT);
        if (!strstr(at(1).why, kinds[i].why))
            fail_msg("'%s' lacks '%s'", at(1).why, kinds[i].why);
        submit(0, 6, 60, 50);
        finish(0, 6, 20 * SECOND);
        assert_int_equal(refused(r.more[0].cloud), 0);
        assert_int_equal(at(0).moved, 0);
        rig_kill_more(&r, &r.more[0]); /* the next one there may be of our kind */
        ((uint8_t *)r.more[0].info)[kinds[i].at] ^= 1;
        rig_start_more(&r, &r.more[0]);
        run_for(SECOND);
        assert_int_equal(at(1).state, EDGE_UPLINK_JOINED);
        rig_close(&r);
    }
}

/* Whatever is lost on the way: sessions that are there from the beginning wait for what the cloud says. */
static void test_unfit_lossy(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rig_params p = clouds(2);

        p.seed = seed;
        p.network.drop = .2;
        p.secure = seed & 1;
        p.late = true;
        rig_open(&r, &p);
        r.cloud_info->first_layer ^= 1;
        rig_start(&r);
        submit(0, 4, 30, 10);
        finish(0, 4, 60 * SECOND);
        assert_int_equal(refused(r.cloud), 0);
        rig_close(&r);
    }
}

/* One that never says how it is may be of another version: it has to refuse a session to be known. */
static void test_unfit_silent(void **state)
{
    struct rig_params p = clouds(2);

    rig_open(&r, &p);
    r.cloud_info->first_layer ^= 1;
    rig_start(&r);
    until_joined(2);
    run_for(SECOND / 100);
    r.edge->uplinks[0]->has_status = r.edge->uplinks[0]->unfit = false; /* as if it had not said it */
    assert_int_equal(edge_uplink_drain(r.edge, 1, true), 0);
    submit(0, 1, 60, 50);
    run_for(2 * SECOND);
    assert_int_equal(at(0).state, EDGE_UPLINK_JOINED);
    assert_int_equal(at(0).sessions, 0);
    run_for(2 * SECOND);
    assert_int_equal(at(0).state, EDGE_UPLINK_UNFIT);
    assert_int_equal(refused(r.cloud), 1);
    assert_non_null(strstr(at(0).why, "split mismatch"));
    assert_int_equal(edge_uplink_drain(r.edge, 1, false), 0);
    finish(0, 1, 20 * SECOND);
    rig_close(&r);
}

/* The format of the cache is a session's own, so no reason. */
static void test_other_cache(void **state)
{
    struct rig_params p = clouds(2);

    rig_open(&r, &p);
    r.more[0].info->kv_format = KV_Q8;
    r.more[0].info->numerics_id = stage_numerics_with(r.more[0].info->numerics_id, KV_Q8);
    rig_start(&r);
    until_joined(2);
    run_for(SECOND / 100);
    submit(0, 6, 60, 50);
    until_ids(0, 6, 1);
    assert_int_equal(at(1).state, EDGE_UPLINK_JOINED);
    assert_int_equal(at(1).sessions, 3);
    finish(0, 6, 20 * SECOND);
    rig_close(&r);
}

/* Where there is no other, sessions are told why; once there is one, they go there. */
static void test_unfit_alone(void **state)
{
    struct rig_params p = clouds(2);

    rig_open(&r, &p);
    r.cloud_info->numerics_id ^= 1;
    r.more[0].info->numerics_id ^= 2;
    rig_start(&r);
    until_joined(2);
    run_for(SECOND / 100);
    assert_int_equal((at(0).state == EDGE_UPLINK_UNFIT) + (at(1).state == EDGE_UPLINK_UNFIT), 1);
    rig_request(&q[0], 1, 20, 20);
    assert_true(rig_run(&r, q, 1, SECOND));
    assert_int_equal(q[0].result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q[0].result.error, "numerics mismatch"));
    rig_request_free(&q[0]);
    assert_int_equal(edge_uplink_remove(r.edge, 1, r.now_ns), 0);
    rig_kill_more(&r, &r.more[0]);
    r.more[0].info->numerics_id ^= 2;
    rig_start_more(&r, &r.more[0]);
    assert_int_equal(rig_add_uplink(&r, "fits", network_port(r.more[0].network, 0)), 1);
    assert_int_equal(at(0).state, EDGE_UPLINK_UNFIT); /* what it had said counts now */
    until_joined(2);
    submit(0, 6, 60, 50);
    finish(0, 6, 20 * SECOND);
    assert_int_equal(at(1).state, EDGE_UPLINK_JOINED);
    rig_close(&r);
}

static void test_wrong_calls(void **state)
{
    struct rig_params p = clouds(1);
    struct edge_uplink_params up = {.name = "x"};
    struct edge_uplink_stats s;
    char err[PIPELINE_ERR];

    p.rejoin.timeout_ns = 0;
    start(&p);
    up.port = network_port(r.network, 0);
    assert_int_equal(edge_uplink_add(r.edge, &up, r.now_ns, err), -EINVAL);
    assert_non_null(strstr(err, "histories"));
    assert_int_equal(edge_uplink_stats(r.edge, 1, &s), -ENOENT);
    assert_int_equal(edge_uplink_stats(r.edge, UINT32_MAX, &s), -ENOENT);
    assert_int_equal(edge_session_uplink(r.edge, 1), -ENOENT);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),      cmocka_unit_test(test_placement),
        cmocka_unit_test(test_share),       cmocka_unit_test(test_death),
        cmocka_unit_test(test_throttle),    cmocka_unit_test(test_all_dead),
        cmocka_unit_test(test_in_vain),     cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_last),  cmocka_unit_test(test_all_drain),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_come_and_go), cmocka_unit_test(test_second),
        cmocka_unit_test(test_unfit),       cmocka_unit_test(test_unfit_lossy),
        cmocka_unit_test(test_unfit_silent), cmocka_unit_test(test_other_cache),
        cmocka_unit_test(test_unfit_alone), cmocka_unit_test(test_wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
