/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/histogram.h"

#include <math.h>

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift = 0;

    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;
    shift = 63u - (unsigned)__builtin_clzll(ns) - 7u; /* ns >> shift is in [128, 256) */
    return (shift + 1) * HISTOGRAM_STEPS + (unsigned)(ns >> shift) - HISTOGRAM_STEPS;
}

/* The greatest time that falls into it. */
static uint64_t bucket_end(unsigned b)
{
    unsigned shift;

    if (b < HISTOGRAM_STEPS)
        return b;
    shift = b / HISTOGRAM_STEPS - 1;
    return (((uint64_t)(b % HISTOGRAM_STEPS) + HISTOGRAM_STEPS + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    if (!h->n || ns < h->min_ns)
        h->min_ns = ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
    h->n++;
    h->counts[bucket_of(ns)]++;
}

double histogram_at(const struct histogram *h, double fraction)
{
    const double want = ceil(fraction * (double)h->n);
    uint64_t below = 0;

    if (!h->n)
        return NAN;
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        below += h->counts[b];
        if (below && (double)below >= want) {
            const uint64_t end = bucket_end(b);

            return (double)(end < h->min_ns ? h->min_ns : end > h->max_ns ? h->max_ns : end);
        }
    }
    return (double)h->max_ns;
}
