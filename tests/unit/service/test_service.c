/* SPDX-License-Identifier: Apache-2.0 */
/* The service over an engine without a model, its callers in threads of their own. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/service/service_rig.h"

static void test_answers(struct rig *r)
{
    struct answer a;
    rig_start(r, 4, 8);
    submit(r->service, &a, 5, 6);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(a.n, 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(a.ids[i], 5 + 1 + i);
    const struct service_stats s = stats(r);
    assert_int_equal(s.requests, 1);
    assert_int_equal(s.finished[EDGE_LENGTH], 1);
    assert_int_equal(s.generated_tokens, 6);
    assert_int_equal(s.ttft.n, 1);
    assert_int_equal(s.inter_token.n, 5);
    assert_int_equal(s.end_to_end.n, 1);
    uint64_t n = 0;
    for (unsigned i = 0; i <= SERVICE_BUCKETS; i++)
        n += s.inter_token.counts[i];
    assert_int_equal(n, 5);
    assert_int_equal(s.health, SERVICE_READY);
    assert_int_equal(rig_end(r), EXIT_OK);
}

static void test_refuses(struct rig *r)
{
    struct answer a;
    uint64_t id = 0;
    int32_t ids[FAKE_CTX] = {0};
    rig_start(r, 1, 1);
    answer_init(&a);
    struct service_request q = {.prompt_ids = ids,
                                .n_prompt = FAKE_CTX,
                                .n_predict = 1,
                                .sampler = sampler_params_default(),
                                .on_done = on_done,
                                .arg = &a};
    assert_int_equal(service_submit(r->service, &q, &id), -ERANGE);
    q.n_prompt = FAKE_CTX - 1; /* the cache's budget is four tokens short of that */
    assert_int_equal(service_submit(r->service, &q, &id), -ENOSPC);
    q.n_prompt = 0;
    assert_int_equal(service_submit(r->service, &q, &id), -EINVAL);
    q.n_prompt = 2;
    ids[1] = FAKE_VOCAB;
    assert_int_equal(service_submit(r->service, &q, &id), -EINVAL);
    ids[1] = -1;
    assert_int_equal(service_submit(r->service, &q, &id), -EINVAL);
    ids[1] = 1;
    q.sampler.top_p = 2;
    assert_int_equal(service_submit(r->service, &q, &id), -EINVAL);
    q.sampler.top_p = 1;
    q.target = (struct codec_rate_target){CODEC_RATE_BYTES, 200};
    assert_int_equal(service_submit(r->service, &q, &id), -EINVAL);
    assert_int_equal(id, 0);
    assert_int_equal(stats(r).rejected, 2);
    assert_int_equal(stats(r).requests, 0);
    assert_int_equal(rig_end(r), EXIT_OK);
    assert_int_equal(a.done, 0);
}

static void test_waits_in_order(struct rig *r)
{
    struct answer a[5];
    uint64_t id;
    rig_start(r, 1, 3);
    atomic_store(&r->engine.held, true);
    for (int i = 0; i < 4; i++)
        submit(r->service, &a[i], i, 2);
    answer_init(&a[4]);
    assert_int_equal(submit_as(r->service, &a[4], 4, 2, "", &id), -EAGAIN);
    await_running(r, 1, 3);
    assert_int_equal(submit_as(r->service, &a[4], 4, 2, "", &id), -EAGAIN);
    const int32_t prompt = 4;
    const struct service_request later = {.prompt_ids = &prompt,
                                          .n_prompt = 1,
                                          .n_predict = 2,
                                          .sampler = sampler_params_default(),
                                          .comes_again = true,
                                          .on_done = on_done,
                                          .arg = &a[4]};
    assert_int_equal(service_submit(r->service, &later, &id), -EAGAIN); /* not counted */
    struct service_session list[4];
    assert_int_equal(service_sessions(r->service, list, 4), 4);
    assert_true(list[0].running && !list[1].running && list[0].id < list[3].id);
    assert_int_equal(service_sessions(r->service, list, 1), 4);
    atomic_store(&r->engine.held, false);
    assert_int_equal(service_call(r->service, nothing, NULL), 0); /* the engine looks again */
    for (int i = 0; i < 4; i++)
        assert_int_equal(await_done(&a[i]), EDGE_LENGTH);
    for (int i = 1; i < 4; i++)
        assert_true(a[i - 1].first_ns <= a[i].first_ns);
    assert_int_equal(r->engine.most_busy, 1);
    assert_int_equal(stats(r).rejected, 2);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* Who has fewer running goes first, though others wait longer. Both of the greedy one's end in one
 * step; of the two places one is its next one's. */
static void test_is_fair(struct rig *r)
{
    struct answer greedy[4], other;
    uint64_t id;
    rig_start(r, 2, 8);
    atomic_store(&r->engine.held, true);
    for (int i = 0; i < 4; i++) {
        answer_init(&greedy[i]);
        assert_int_equal(submit_as(r->service, &greedy[i], i, 3, "greedy", &id), 0);
    }
    await_running(r, 2, 2);
    answer_init(&other);
    assert_int_equal(submit_as(r->service, &other, 50, 3, "other", &id), 0);
    await_running(r, 2, 3);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(await_done(&greedy[i]), EDGE_LENGTH);
    assert_int_equal(await_done(&other), EDGE_LENGTH);
    assert_true(other.first_ns <= greedy[3].first_ns);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* The engine has no room for another, whatever the number of sessions says. */
static void test_waits_for_room(struct rig *r)
{
    struct answer a[6];
    rig_start(r, 4, 8);
    atomic_store(&r->engine.no_room_above, 2);
    atomic_store(&r->engine.held, true); /* else the first may end before the second comes */
    for (int i = 0; i < 6; i++)
        submit(r->service, &a[i], i, 4);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    for (int i = 0; i < 6; i++)
        assert_int_equal(await_done(&a[i]), EDGE_LENGTH);
    assert_int_equal(r->engine.most_busy, 2);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* Memory is short: who comes waits while others run, as far as max_waiting goes, and begins when it
 * is not short any more. */
static void test_holds(struct rig *r)
{
    struct answer a[4];
    uint64_t id;
    rig_start(r, 4, 2);
    atomic_store(&r->engine.held, true);
    submit(r->service, &a[0], 0, 2);
    await_running(r, 1, 0);
    service_set_limits(r->service, 16, true);
    for (int i = 1; i < 3; i++)
        submit(r->service, &a[i], i, 2);
    answer_init(&a[3]);
    assert_int_equal(submit_as(r->service, &a[3], 3, 2, "", &id), -EAGAIN);
    assert_int_equal(service_call(r->service, nothing, NULL), 0);
    await_running(r, 1, 2);
    service_set_limits(r->service, FAKE_CTX, false);
    await_running(r, 3, 0);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(await_done(&a[i]), EDGE_LENGTH);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* It stays short though nothing runs: one after the other, none for ever. */
static void test_holds_one_at_a_time(struct rig *r)
{
    struct answer a[3];
    rig_start(r, 4, 8);
    service_set_limits(r->service, 16, true);
    for (int i = 0; i < 3; i++)
        submit(r->service, &a[i], i, 4);
    for (int i = 0; i < 3; i++)
        assert_int_equal(await_done(&a[i]), EDGE_LENGTH);
    assert_int_equal(r->engine.most_busy, 1);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* Another format of keys and values is for those that begin from then on; shown is what they got, as
 * their cloud may have asked for a coarser one. */
static void test_formats(struct rig *r)
{
    struct service_session list[3];
    struct service_stats st;
    struct answer a[3];
    rig_start(r, 4, 8);
    atomic_store(&r->engine.held, true);
    submit(r->service, &a[0], 0, 2);
    await_running(r, 1, 0);
    service_set_kv(r->service, KV_K8V4);
    submit(r->service, &a[1], 1, 2);
    await_running(r, 2, 0);
    assert_int_equal(service_sessions(r->service, list, 2), 2);
    assert_int_equal(list[0].kv, KV_F16);
    assert_int_equal(list[1].kv, KV_K8V4);
    assert_int_equal(r->engine.sessions[0].r.kv, 1 + KV_F16);
    assert_int_equal(r->engine.sessions[1].r.kv, 1 + KV_K8V4);
    service_stats(r->service, &st);
    assert_int_equal(st.kv, KV_K8V4);
    atomic_store(&r->engine.kv_asked, KV_Q4);
    submit(r->service, &a[2], 2, 2);
    await_running(r, 3, 0);
    assert_int_equal(service_sessions(r->service, list, 3), 3);
    assert_int_equal(list[2].kv, KV_Q4);
    assert_int_equal(r->engine.sessions[2].r.kv, 1 + KV_K8V4);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(await_done(&a[i]), EDGE_LENGTH);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* A shorter context is for those that come; who was promised more has it. */
static void test_context_is_kept(struct rig *r)
{
    struct answer a;
    int32_t ids[32] = {0};
    uint64_t id;
    rig_start(r, 1, 4);
    answer_init(&a);
    struct service_request q = {.prompt_ids = ids,
                                .n_prompt = 32,
                                .n_predict = 8,
                                .sampler = sampler_params_default(),
                                .n_top = N_TOP,
                                .on_token = on_token,
                                .on_done = on_done,
                                .arg = &a};
    q.context_tokens = service_context_tokens(r->service);
    assert_int_equal(q.context_tokens, FAKE_CTX);
    service_set_limits(r->service, 16, false);
    assert_int_equal(service_context_tokens(r->service), 16);
    assert_int_equal(service_context_most(r->service), FAKE_CTX);
    assert_int_equal(service_submit(r->service, &q, &id), 0);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(a.n, 8);
    q.context_tokens = 0;
    assert_int_equal(service_submit(r->service, &q, &id), -ERANGE);
    assert_int_equal(rig_end(r), EXIT_OK);
}

static void test_cancels(struct rig *r)
{
    struct answer a, b;
    rig_start(r, 1, 4);
    atomic_store(&r->engine.held, true);
    const uint64_t ida = submit(r->service, &a, 1, 20), idb = submit(r->service, &b, 2, 20);
    await_running(r, 1, 1);
    service_cancel(r->service, idb);
    assert_int_equal(await_done(&b), EDGE_CANCELLED);
    assert_int_equal(b.n, 0);
    service_cancel(r->service, ida);
    assert_int_equal(await_done(&a), EDGE_CANCELLED);
    service_cancel(r->service, ida);
    assert_int_equal(stats(r).finished[EDGE_CANCELLED], 2);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* One that runs, one that waits, and one that has all it wanted before its time is up. */
static void test_times_out(struct rig *r)
{
    struct answer a, b, c;
    rig_start(r, 1, 4);
    service_set_request_timeout(r->service, SECOND_NS / 5);
    submit(r->service, &c, 3, 4);
    assert_int_equal(await_done(&c), EDGE_LENGTH);
    atomic_store(&r->engine.held, true);
    const uint64_t from_ns = port_now_ns();
    submit(r->service, &a, 1, 20);
    submit(r->service, &b, 2, 20);
    await_running(r, 1, 1);
    assert_int_equal(await_done(&a), EDGE_REFUSED);
    assert_int_equal(await_done(&b), EDGE_REFUSED);
    assert_true(port_now_ns() - from_ns >= SECOND_NS / 5);
    assert_non_null(strstr(a.result.error, "--request-timeout"));
    assert_int_equal(stats(r).finished[EDGE_REFUSED], 2);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* One that comes later and was asked for before the others: its time is up first, and one whose time
 * is up already is not taken. */
static void test_times_out_from_when_asked(struct rig *r)
{
    const int32_t first = 1;
    struct service_request late = {.prompt_ids = &first,
                                   .n_prompt = 1,
                                   .n_predict = 20,
                                   .sampler = sampler_params_default(),
                                   .n_top = N_TOP,
                                   .on_token = on_token,
                                   .on_done = on_done};
    struct answer a, b;
    uint64_t id;
    rig_start(r, 1, 4);
    service_set_request_timeout(r->service, 60 * SECOND_NS);
    atomic_store(&r->engine.held, true);
    submit(r->service, &a, 1, 20);
    const uint64_t now_ns = port_now_ns();
    answer_init(&b);
    late.arg = &b;
    late.asked_ns = now_ns - 60 * SECOND_NS;
    assert_int_equal(service_submit(r->service, &late, &id), -ETIMEDOUT);
    late.asked_ns += SECOND_NS / 5;
    assert_int_equal(service_submit(r->service, &late, &id), 0);
    assert_int_equal(await_done(&b), EDGE_REFUSED);
    assert_true(port_now_ns() - now_ns >= SECOND_NS / 5);
    assert_true(port_now_ns() - now_ns < 30 * SECOND_NS);
    assert_non_null(strstr(b.result.error, "--request-timeout"));
    assert_int_equal(stats(r).running, 1);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* What was wanted has come: it ends as by the model's own stop. */
static void test_stops(struct rig *r)
{
    struct answer a;
    rig_start(r, 1, 4);
    atomic_store(&r->engine.held, true);
    const uint64_t id = submit(r->service, &a, 1, 20);
    await_running(r, 1, 0);
    service_stop(r->service, id);
    assert_int_equal(await_done(&a), EDGE_STOP);
    assert_int_equal(stats(r).finished[EDGE_STOP], 1);
    assert_int_equal(stats(r).finished[EDGE_CANCELLED], 0);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* An idle engine sleeps, and wakes at once. */
static void test_wakes(struct rig *r)
{
    struct answer a;
    rig_start(r, 1, 4);
    nap(SECOND_NS / 10);
    int called = 0;
    assert_int_equal(service_call(r->service, nothing, &called), 0);
    const uint64_t before = atomic_load(&r->engine.steps);
    nap(SECOND_NS / 2);
    assert_int_equal(service_call(r->service, nothing, &called), 0);
    assert_int_equal(called, 2);
    assert_true(atomic_load(&r->engine.steps) - before <= 3);
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        nap(SECOND_NS / 100);
        const uint64_t from_ns = port_now_ns();
        submit(r->service, &a, 1, 1);
        await_done(&a);
        if (a.first_ns - from_ns < best_ns)
            best_ns = a.first_ns - from_ns;
    }
    assert_true(best_ns < SECOND_NS / 100);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* --- many at once -------------------------------------------------------------------------------
 */

#define THREADS 8
#define ROUNDS  300

struct asker {
    struct rig *rig;
    unsigned number;
    unsigned answered, cancelled, refused;
};

static void *work(void *arg)
{
    struct asker *w = arg;
    struct service *s = w->rig->service;
    unsigned random = 12345 + w->number;
    char name[16];
    snprintf(name, sizeof name, "client %u", w->number % 3);
    for (int i = 0; i < ROUNDS; i++) {
        struct answer a;
        uint64_t id;
        const int32_t first = rand_r(&random) % (int)FAKE_VOCAB;
        const uint32_t n = 1 + (uint32_t)rand_r(&random) % 20;
        answer_init(&a);
        const int rc = submit_as(s, &a, first, n, name, &id);
        if (rc == -EAGAIN) {
            w->refused++;
            continue;
        }
        assert_int_equal(rc, 0);
        const int what = rand_r(&random) % 4;
        if (what == 0)
            await_tokens(&a, n / 2);
        if (what <= 1)
            service_cancel(s, id);
        if (what == 2) {
            struct service_session list[4];
            struct service_stats st;
            int called = 0;
            service_sessions(s, list, 4);
            service_stats(s, &st);
            assert_true(st.running <= 3);
            assert_int_equal(service_call(s, nothing, &called), 0);
            assert_int_equal(called, 1);
        }
        const enum edge_finish how = await_done(&a);
        assert_true(how == EDGE_LENGTH || (how == EDGE_CANCELLED && what <= 1));
        assert_true(how == EDGE_CANCELLED || a.n == n);
        for (uint32_t k = 0; k < a.n; k++)
            assert_int_equal(a.ids[k], (first + 1 + (int32_t)k) % (int32_t)FAKE_VOCAB);
        how == EDGE_LENGTH ? w->answered++ : w->cancelled++;
    }
    return NULL;
}

static void test_many(struct rig *r)
{
    struct asker w[THREADS];
    pthread_t threads[THREADS];
    unsigned answered = 0, cancelled = 0, refused = 0;
    rig_start(r, 3, 3);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct asker){.rig = r, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        answered += w[i].answered;
        cancelled += w[i].cancelled;
        refused += w[i].refused;
    }
    const struct service_stats s = stats(r);
    assert_int_equal(s.finished[EDGE_LENGTH], answered);
    assert_int_equal(s.finished[EDGE_CANCELLED], cancelled);
    assert_int_equal(s.rejected, refused);
    assert_int_equal(s.requests, answered + cancelled);
    assert_int_equal(s.running + s.waiting, 0);
    assert_true(answered > 0 && cancelled > 0 && refused > 0);
    assert_int_equal(rig_end(r), EXIT_OK);
    assert_int_equal(r->engine.most_busy, 3);
}

IN_CHILD(test_answers)
IN_CHILD(test_refuses)
IN_CHILD(test_waits_in_order)
IN_CHILD(test_is_fair)
IN_CHILD(test_waits_for_room)
IN_CHILD(test_holds)
IN_CHILD(test_holds_one_at_a_time)
IN_CHILD(test_formats)
IN_CHILD(test_context_is_kept)
IN_CHILD(test_cancels)
IN_CHILD(test_times_out)
IN_CHILD(test_times_out_from_when_asked)
IN_CHILD(test_stops)
IN_CHILD(test_wakes)
IN_CHILD(test_many)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_child),
        cmocka_unit_test(test_refuses_child),
        cmocka_unit_test(test_waits_in_order_child),
        cmocka_unit_test(test_is_fair_child),
        cmocka_unit_test(test_waits_for_room_child),
        cmocka_unit_test(test_holds_child),
        cmocka_unit_test(test_holds_one_at_a_time_child),
        cmocka_unit_test(test_formats_child),
        cmocka_unit_test(test_context_is_kept_child),
        cmocka_unit_test(test_cancels_child),
        cmocka_unit_test(test_times_out_child),
        cmocka_unit_test(test_times_out_from_when_asked_child),
        cmocka_unit_test(test_stops_child),
        cmocka_unit_test(test_wakes_child),
        cmocka_unit_test(test_many_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
