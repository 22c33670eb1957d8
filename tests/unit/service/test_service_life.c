/* SPDX-License-Identifier: Apache-2.0 */
/* A service's life: how it drains, stops, is reloaded and fails. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/service/service_rig.h"

/* One that runs, held, and one that waits. */
static void start_with_two(struct rig *r, struct answer *a, struct answer *b)
{
    rig_start(r, 1, 4);
    atomic_store(&r->engine.held, true);
    submit(r->service, a, 1, 3);
    submit(r->service, b, 1, 3);
}

static void drain_by_signal(struct rig *r)
{
    kill(getpid(), SIGTERM);
    while (service_health(r->service, NULL) != SERVICE_DRAINING)
        nap(100000);
}

static void test_drains(struct rig *r)
{
    struct answer a, b;
    uint64_t id;
    const char *why;
    start_with_two(r, &a, &b);
    service_drain(r->service, true);
    assert_int_equal(service_health(r->service, &why), SERVICE_DRAINING);
    assert_non_null(strstr(why, "draining"));
    assert_int_equal(submit_as(r->service, &b, 1, 3, "", &id), -ESHUTDOWN);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(await_done(&b), EDGE_LENGTH);
    service_drain(r->service, false);
    submit(r->service, &a, 1, 3);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* SIGTERM lets what was taken end, what waits too. */
static void test_term_drains(struct rig *r)
{
    struct answer a, b;
    uint64_t id;
    start_with_two(r, &a, &b);
    drain_by_signal(r);
    assert_int_equal(submit_as(r->service, &b, 1, 3, "", &id), -ESHUTDOWN);
    nap(SECOND_NS / 20);
    assert_int_equal(a.done, 0);
    atomic_store(&r->engine.held, false);
    service_call(r->service, nothing, NULL);
    assert_int_equal(await_done(&a), EDGE_LENGTH);
    assert_int_equal(await_done(&b), EDGE_LENGTH);
    assert_int_equal(rig_join(r), EXIT_OK);
}

static void test_second_signal_stops(struct rig *r)
{
    struct answer a, b;
    start_with_two(r, &a, &b);
    drain_by_signal(r);
    kill(getpid(), SIGINT);
    assert_int_equal(await_done(&a), EDGE_CANCELLED);
    assert_int_equal(await_done(&b), EDGE_CANCELLED);
    assert_int_equal(rig_join(r), EXIT_OK);
}

static void test_drain_timeout(struct rig *r)
{
    struct answer a;
    r->params.drain_timeout_ns = SECOND_NS / 10;
    rig_start(r, 1, 4);
    atomic_store(&r->engine.held, true);
    submit(r->service, &a, 1, 3);
    kill(getpid(), SIGTERM);
    assert_int_equal(await_done(&a), EDGE_CANCELLED);
    assert_int_equal(rig_join(r), EXIT_OK);
}

static void test_reloads(struct rig *r)
{
    rig_start(r, 1, 4);
    for (unsigned i = 1; i <= 3; i++) {
        kill(getpid(), SIGHUP);
        while (atomic_load(&r->reloads) < i)
            nap(100000);
    }
    assert_int_equal(rig_end(r), EXIT_OK);
    assert_int_equal(atomic_load(&r->reloads), 3);
}

static uint64_t tick(void *arg, uint64_t now_ns)
{
    atomic_fetch_add(&((struct rig *)arg)->ticks, 1);
    return now_ns + SECOND_NS / 50;
}

static void test_ticks(struct rig *r)
{
    r->tick = tick;
    rig_start(r, 1, 4);
    while (atomic_load(&r->ticks) < 5)
        nap(1000000);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* The engine fails: all are told, and nothing is taken any more. */
static void test_engine_fails(struct rig *r)
{
    struct answer a, b;
    uint64_t id;
    start_with_two(r, &a, &b);
    await_running(r, 1, 1);
    atomic_store(&r->engine.fails, true);
    service_call(r->service, nothing, NULL);
    assert_int_equal(await_done(&a), EDGE_LOST);
    assert_int_equal(await_done(&b), EDGE_LOST);
    assert_string_equal(b.result.error, "the cloud is lost");
    pthread_join(r->thread, NULL);
    assert_int_equal(r->rc, EXIT_FAILED);
    assert_int_equal(submit_as(r->service, &a, 1, 1, "", &id), -ESHUTDOWN);
    assert_int_equal(service_call(r->service, nothing, NULL), -ESHUTDOWN);
    service_close(r->service);
}

static void test_health(struct rig *r)
{
    const char *why;
    rig_start(r, 1, 4);
    while (service_health(r->service, &why) != SERVICE_READY)
        nap(100000);
    assert_string_equal(why, "");
    atomic_store(&r->engine.apart, true);
    service_call(r->service, nothing, NULL); /* a step */
    while (service_health(r->service, &why) != SERVICE_CLOUD_LOST)
        nap(100000);
    atomic_store(&r->engine.apart, false);
    service_call(r->service, nothing, NULL);
    while (service_health(r->service, &why) != SERVICE_READY)
        nap(100000);
    assert_int_equal(rig_end(r), EXIT_OK);
}

/* Opened and closed without having run: whoever asked is told. */
static void test_never_ran(struct rig *r)
{
    struct answer a;
    fake_engine_open(&r->engine, 1);
    r->params.front = &r->engine.front;
    r->params.max_waiting = 2;
    assert_int_equal(service_open(&r->params, &r->service), EXIT_OK);
    assert_int_equal(service_health(r->service, NULL), SERVICE_STARTING);
    submit(r->service, &a, 1, 3);
    service_close(r->service);
    assert_int_equal(await_done(&a), EDGE_CANCELLED);
}

IN_CHILD(test_drains)
IN_CHILD(test_term_drains)
IN_CHILD(test_second_signal_stops)
IN_CHILD(test_drain_timeout)
IN_CHILD(test_reloads)
IN_CHILD(test_ticks)
IN_CHILD(test_engine_fails)
IN_CHILD(test_health)
IN_CHILD(test_never_ran)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drains_child),
        cmocka_unit_test(test_term_drains_child),
        cmocka_unit_test(test_second_signal_stops_child),
        cmocka_unit_test(test_drain_timeout_child),
        cmocka_unit_test(test_reloads_child),
        cmocka_unit_test(test_ticks_child),
        cmocka_unit_test(test_engine_fails_child),
        cmocka_unit_test(test_health_child),
        cmocka_unit_test(test_never_ran_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
