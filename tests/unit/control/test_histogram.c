/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles of the histogram beside those of the sorted times. */
#include "control/bench/histogram.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define N 20000u

static struct histogram h;

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void nothing(void **state)
{
    (void)state;
    h = (struct histogram){0};
    assert_true(isnan(histogram_at(&h, .5)));
}

static void small_times_are_exact(void **state)
{
    (void)state;
    h = (struct histogram){0};
    for (uint64_t ns = 1; ns <= 200; ns++)
        histogram_add(&h, ns);
    assert_true(histogram_at(&h, .5) == 100);
    assert_true(histogram_at(&h, 1) == 200);
    assert_true(histogram_at(&h, 0) == 1);
    assert_int_equal(h.min_ns, 1);
    assert_int_equal(h.max_ns, 200);
}

/* Times from ns to minutes, and the longest there are. */
static void beside_sorted_times(void **state)
{
    static const double fractions[] = {.001, .1, .5, .9, .99, .999, 1};
    static uint64_t ns[N];
    uint64_t x = 1;

    (void)state;
    h = (struct histogram){0};
    for (unsigned i = 0; i < N; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ns[i] = (x >> 20) >> (x % 44);
        histogram_add(&h, ns[i]);
    }
    qsort(ns, N, sizeof ns[0], ascending);
    assert_int_equal(h.n, N);
    assert_int_equal(h.min_ns, ns[0]);
    assert_int_equal(h.max_ns, ns[N - 1]);
    for (unsigned i = 0; i < sizeof fractions / sizeof fractions[0]; i++) {
        const double want = (double)ns[(unsigned)ceil(fractions[i] * N) - 1];
        const double got = histogram_at(&h, fractions[i]);

        assert_true(got >= want && got <= want * (1 + 1.0 / HISTOGRAM_STEPS) + 1);
    }
    histogram_add(&h, UINT64_MAX);
    assert_true(histogram_at(&h, 1) == (double)UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing),
        cmocka_unit_test(small_times_are_exact),
        cmocka_unit_test(beside_sorted_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
