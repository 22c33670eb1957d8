/* SPDX-License-Identifier: Apache-2.0 */
/* The best levels, against every way there is of cutting a sorted row. */
#include "../calibrate/util.h"

#include "compute/quantize/cluster.h"

enum { N_MAX = 13 };

static int compare(const void *a, const void *b)
{
    const struct cluster_point *x = a, *y = b;

    return (x->value > y->value) - (x->value < y->value);
}

/* Of points [from, to) at their mean. */
static double cost(const struct cluster_point *p, unsigned from, unsigned to)
{
    double s = 0, sw = 0, sum = 0;

    for (unsigned i = from; i < to; i++) {
        s += (double)p[i].weight;
        sw += (double)(p[i].weight * p[i].value);
    }
    for (unsigned i = from; i < to && s > 0; i++)
        sum += (double)p[i].weight * pow((double)p[i].value - sw / s, 2);
    return sum;
}

/* Every subset of cuts with at most k - 1 of them. */
static double brute_force(const struct cluster_point *sorted, unsigned n, unsigned k)
{
    double best = INFINITY;

    for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
        if ((unsigned)__builtin_popcount(cuts) >= k)
            continue;
        double sum = 0;
        unsigned from = 0;
        for (unsigned i = 1; i <= n; i++)
            if (i == n || cuts >> (i - 1) & 1) {
                sum += cost(sorted, from, i);
                from = i;
            }
        best = fmin(best, sum);
    }
    return best;
}

/* What levels really cost. */
static double nearest_cost(const struct cluster_point *p, unsigned n, const float *levels,
                           unsigned k)
{
    double sum = 0;

    for (unsigned i = 0; i < n; i++) {
        double best = INFINITY;
        for (unsigned l = 0; l < k; l++)
            best = fmin(best, pow((double)p[i].value - (double)levels[l], 2));
        sum += (double)p[i].weight * best;
    }
    return sum;
}

static void test_optimal(void **state)
{
    struct cluster *c = cluster_open(N_MAX);

    assert_non_null(c);
    for (unsigned i = 0; i < 300; i++) {
        struct cluster_point p[N_MAX], sorted[N_MAX];
        const unsigned n = 1 + i % N_MAX, k = 1 + i % 5;
        float levels[5], again[5];

        for (unsigned j = 0; j < n; j++) {
            /* Some rows with equal values, some with weights of 0. */
            const double v = i % 3 ? normal() : floor(3 * uniform());
            p[j] = (struct cluster_point){(float)v, i % 7 ? (float)uniform() : (float)(j % 2)};
        }
        memcpy(sorted, p, n * sizeof(*p));
        qsort(sorted, n, sizeof(*sorted), compare);
        const double want = brute_force(sorted, n, k);
        const double got = cluster_levels(c, p, n, k, levels);
        assert_true(fabs(got - want) < 1e-6);
        assert_true(fabs(nearest_cost(p, n, levels, k) - want) < 1e-5);
        for (unsigned l = 1; l < k; l++)
            assert_true(levels[l] >= levels[l - 1]);

        /* Whatever the order they come in. */
        for (unsigned j = 0; j < n / 2; j++) {
            const struct cluster_point t = p[j];
            p[j] = p[n - 1 - j];
            p[n - 1 - j] = t;
        }
        cluster_levels(c, p, n, k, again);
        assert_memory_equal(levels, again, k * sizeof(*levels));
    }
    cluster_close(c);
}

static void test_few_points(void **state)
{
    struct cluster *c = cluster_open(8);
    struct cluster_point p[2] = {{3, 1}, {-1, 2}};
    float levels[8];

    assert_non_null(c);
    assert_true(cluster_levels(c, p, 2, 8, levels) == 0);
    assert_true(levels[0] == -1);
    for (unsigned i = 1; i < 8; i++)
        assert_true(levels[i] == 3);
    assert_true(cluster_levels(c, p, 0, 4, levels) == 0);
    for (unsigned i = 0; i < 4; i++)
        assert_true(levels[i] == 0);
    cluster_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_optimal),
                                       cmocka_unit_test(test_few_points)};

    return open_teams() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
