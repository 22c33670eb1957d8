/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/quantize/cluster.h"

#include <math.h>
#include <stdlib.h>

/* Sums over the sorted points before one. */
struct sums {
    double s, sw, sww;
};

struct cluster {
    struct sums *sums; /* [max_n + 1] */
    double *cost[2];   /* [max_n + 1] of the points before, with one level fewer and with all */
    uint32_t *begin;   /* [levels][max_n + 1] where the last segment of the best begins */
    uint32_t max_n;
};

struct cluster *cluster_open(uint32_t max_n)
{
    struct cluster *c = calloc(1, sizeof(*c));
    const size_t n = (size_t)max_n + 1;

    if (!c)
        return NULL;
    c->max_n = max_n;
    c->sums = malloc(n * sizeof(*c->sums));
    c->cost[0] = malloc(n * sizeof(*c->cost[0]));
    c->cost[1] = malloc(n * sizeof(*c->cost[1]));
    c->begin = malloc(n * CLUSTER_LEVELS_MAX * sizeof(*c->begin));
    if (c->sums && c->cost[0] && c->cost[1] && c->begin)
        return c;
    cluster_close(c);
    return NULL;
}

void cluster_close(struct cluster *c)
{
    if (!c)
        return;
    free(c->sums);
    free(c->cost[0]);
    free(c->cost[1]);
    free(c->begin);
    free(c);
}

static int by_value(const void *a, const void *b)
{
    const struct cluster_point *x = a, *y = b;

    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return (x->weight > y->weight) - (x->weight < y->weight);
}

static void sum_up(struct sums *sums, const struct cluster_point *p, uint32_t n)
{
    sums[0] = (struct sums){0};
    for (uint32_t i = 0; i < n; i++) {
        const double s = (double)p[i].weight, w = (double)p[i].value;

        sums[i + 1] = (struct sums){sums[i].s + s, sums[i].sw + s * w, sums[i].sww + s * w * w};
    }
}

/* Of points [from, to) around their mean. */
static double segment(const struct sums *sums, uint32_t from, uint32_t to)
{
    const double s = sums[to].s - sums[from].s, sw = sums[to].sw - sums[from].sw;
    const double c = sums[to].sww - sums[from].sww - (s > 0 ? sw * sw / s : 0);

    return c > 0 ? c : 0;
}

/* The best last segment of points before j, for every j in [lo, hi]: it never begins earlier for a
 * later j, so half of the candidates fall away with each step. */
static void divide(struct cluster *c, const double *less, double *cost, uint32_t *begin,
                   uint32_t lo, uint32_t hi, uint32_t from, uint32_t to)
{
    const uint32_t j = lo + (hi - lo) / 2, last = to < j ? to : j;
    double best = INFINITY;
    uint32_t at = from;

    for (uint32_t i = from; i <= last; i++) {
        const double d = less[i] + segment(c->sums, i, j);
        if (d < best) {
            best = d;
            at = i;
        }
    }
    cost[j] = best;
    begin[j] = at;
    if (j > lo)
        divide(c, less, cost, begin, lo, j - 1, from, at);
    if (j < hi)
        divide(c, less, cost, begin, j + 1, hi, at, to);
}

static float mean(const struct sums *sums, const struct cluster_point *p, uint32_t from,
                  uint32_t to)
{
    const double s = sums[to].s - sums[from].s;

    return s > 0 ? (float)((sums[to].sw - sums[from].sw) / s) : p[from].value;
}

double cluster_levels(struct cluster *c, struct cluster_point *points, uint32_t n, unsigned k,
                      float *levels)
{
    const size_t stride = (size_t)c->max_n + 1;
    const unsigned used = n < k ? n : k;

    if (n == 0) {
        for (unsigned i = 0; i < k; i++)
            levels[i] = 0;
        return 0;
    }
    qsort(points, n, sizeof(*points), by_value);
    sum_up(c->sums, points, n);
    for (uint32_t j = 0; j <= n; j++)
        c->cost[0][j] = segment(c->sums, 0, j);
    for (unsigned i = 1; i < used; i++)
        divide(c, c->cost[(i - 1) & 1], c->cost[i & 1], c->begin + i * stride, 0, n, 0, n);

    uint32_t end = n;
    for (unsigned i = used; i-- > 0;) {
        const uint32_t begin = i ? c->begin[i * stride + end] : 0;
        levels[i] =
            begin < end ? mean(c->sums, points, begin, end) : points[end < n ? end : n - 1].value;
        end = begin;
    }
    for (unsigned i = used; i < k; i++)
        levels[i] = levels[used - 1];
    return c->cost[(used - 1) & 1][n];
}
