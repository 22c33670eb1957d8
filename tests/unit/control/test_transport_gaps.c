/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_gaps.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define US 1000ull

static uint64_t waited_ns; /* for a core, as the kernel would say */
static int told(uint64_t *ns)
{
    *ns = waited_ns;
    return 0;
}

static int not_told(uint64_t *ns)
{
    *ns = 0;
    return -ENOTSUP;
}

static void test_turns(void **state)
{
    static struct gaps g = {.queued = told};
    struct gap at[4];

    (void)state;
    gaps_begin(&g, 1000 * US);
    gaps_turn(&g, 1009 * US, 0, false); /* short */
    gaps_turn(&g, 1108 * US, 90, false); /* explained */
    gaps_turn(&g, 1208 * US, 80, false);
    gaps_turn(&g, 9208 * US, 0, true); /* idle, and the kernel knows of no wait */
    gaps_turn(&g, 9258 * US, 0, false);
    assert_int_equal(gaps_take(&g, at, 1), 1);
    assert_true(at[0].from_ns == 1108 * US && at[0].to_ns == 1208 * US);
    assert_int_equal(gaps_take(&g, at, 4), 1);
    assert_true(at[0].from_ns == 9208 * US && at[0].to_ns == 9258 * US);
    assert_int_equal(gaps_take(&g, at, 4), 0);
}

/* Where the kernel counted a wait, packets explain nothing; of an idle turn the wait alone is one. */
static void test_waits(void **state)
{
    static struct gaps g = {.queued = told};
    struct gap at[4];

    (void)state;
    waited_ns = 700 * US; /* before */
    gaps_begin(&g, 1000 * US);
    gaps_turn(&g, 1100 * US, 100, false);
    waited_ns += 9 * US; /* short */
    gaps_turn(&g, 1200 * US, 100, false);
    waited_ns += 30 * US;
    gaps_turn(&g, 1300 * US, 100, false);
    waited_ns += 40 * US;
    gaps_turn(&g, 9300 * US, 0, true);
    waited_ns += 500 * US; /* no gap is longer than the turn */
    gaps_turn(&g, 9400 * US, 0, true);
    assert_true(g.known);
    assert_int_equal(gaps_take(&g, at, 4), 3);
    assert_true(at[0].from_ns == 1200 * US && at[0].to_ns == 1300 * US);
    assert_true(at[1].from_ns == 9260 * US && at[1].to_ns == 9300 * US);
    assert_true(at[2].from_ns == 9300 * US && at[2].to_ns == 9400 * US);
}

/* A turn that ended before the last look: no gap, and time does not go back. */
static void test_earlier(void **state)
{
    static struct gaps g = {.queued = told};
    struct gap at[4];

    (void)state;
    gaps_begin(&g, 1000 * US);
    gaps_turn(&g, 900 * US, 0, false);
    gaps_turn(&g, 1000 * US, 0, false);
    assert_int_equal(g.looked_ns, 1000 * US);
    assert_int_equal(gaps_take(&g, at, 4), 0);
    gaps_turn(&g, 1050 * US, 0, false);
    assert_int_equal(gaps_take(&g, at, 4), 1);
    assert_true(at[0].from_ns == 1000 * US && at[0].to_ns == 1050 * US);
}

static void test_not_known(void **state)
{
    static struct gaps never = {.queued = not_told}, later = {.queued = told};

    (void)state;
    gaps_begin(&never, 1000 * US);
    assert_false(never.known);
    gaps_begin(&later, 1000 * US);
    assert_true(later.known);
    later.queued = not_told;
    gaps_turn(&later, 2000 * US, 0, false);
    assert_false(later.known);
}

static void test_full(void **state)
{
    static struct gaps g = {.queued = told};
    struct gap at;

    (void)state;
    gaps_begin(&g, US);
    for (uint64_t i = 1; i <= GAPS_MAX + 3; i++)
        gaps_turn(&g, i * 1000 * US, 0, false);
    assert_int_equal(g.n, GAPS_MAX);
    assert_int_equal(gaps_take(&g, &at, 1), 1);
    assert_int_equal(at.to_ns, 4000 * US); /* the three oldest are gone */
}

static void test_merge(void **state)
{
    struct gap at[] = {{50, 60}, {10, 20}, {15, 17}, {20, 30}, {58, 70}};
    const size_t n = gaps_merge(at, 5);

    (void)state;
    assert_int_equal(n, 2);
    assert_true(at[0].from_ns == 10 && at[0].to_ns == 30);
    assert_true(at[1].from_ns == 50 && at[1].to_ns == 70);
    assert_int_equal(gaps_within(at, n, 0, 100), 40);
    assert_int_equal(gaps_within(at, n, 25, 55), 10);
}

/* A message each 10 us, answered after 2; but from 100 to 300 us a core is gone, and what waits then
 * is answered 3 us apart. */
#define FLIGHTS 200u
static size_t fly(struct flight *f)
{
    uint64_t free_ns = 0;

    for (unsigned i = 0; i < FLIGHTS; i++) {
        const uint64_t due_ns = i * 10 * US;
        uint64_t at_ns = due_ns + 2 * US;

        if (at_ns > 100 * US && at_ns < 300 * US)
            at_ns = 300 * US;
        if (at_ns < free_ns)
            at_ns = free_ns;
        free_ns = at_ns + 3 * US;
        f[i] = (struct flight){due_ns, at_ns - due_ns};
    }
    return FLIGHTS;
}

static void test_caught_up(void **state)
{
    struct gap at[] = {{100 * US, 300 * US}};
    struct flight f[FLIGHTS];
    const size_t n_flights = fly(f);
    size_t n = gaps_until_caught_up(at, 1, f, n_flights), next = 0, touched = 0;
    uint64_t worst = 0;

    (void)state;
    assert_int_equal(n, 1);
    assert_int_equal(at[0].from_ns, 100 * US);
    assert_true(at[0].to_ns > 320 * US && at[0].to_ns < 420 * US);
    for (size_t i = 0; i < n_flights; i++) {
        if (gaps_touch(at, n, &f[i], &next))
            touched++;
        else if (f[i].rtt_ns > worst)
            worst = f[i].rtt_ns;
    }
    assert_true(touched >= 22 && touched < 35);
    assert_true(worst <= GAP_NS + 4 * US); /* what is soon enough, and no more */

    at[0] = (struct gap){1500 * US, 5000 * US}; /* never */
    assert_int_equal(gaps_until_caught_up(at, 1, f, n_flights), 1);
    assert_true(at[0].to_ns == UINT64_MAX);
}

/* Slow without a gap: it counts. */
static void test_slow_itself(void **state)
{
    struct gap at[] = {{1000 * US, 1100 * US}};
    struct flight f[FLIGHTS];
    const size_t n_flights = fly(f);
    const size_t n = gaps_until_caught_up(at, 1, f, n_flights);
    size_t next = 0;

    (void)state;
    for (size_t i = 0; i < 30; i++)
        assert_false(gaps_touch(at, n, &f[i], &next));
}

static void test_since_due(void **state)
{
    struct gap at[] = {{101 * US, 109 * US}, {201 * US, 245 * US}, {9000 * US, 9900 * US}};
    struct flight f[FLIGHTS];

    (void)state;
    fly(f);
    assert_int_equal(gaps_since_due(at, 3, f, FLIGHTS), 1); /* nothing due; from 210 on; nothing due */
    assert_true(at[0].from_ns == 210 * US && at[0].to_ns == 245 * US);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),       cmocka_unit_test(test_waits),
        cmocka_unit_test(test_earlier),     cmocka_unit_test(test_not_known),
        cmocka_unit_test(test_full),        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_caught_up),   cmocka_unit_test(test_slow_itself),
        cmocka_unit_test(test_since_due),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
