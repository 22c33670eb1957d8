/* SPDX-License-Identifier: Apache-2.0 */
/* Many times, and what they come to. */
#ifndef ISTHMUS_CONTROL_BENCH_HISTOGRAM_H
#define ISTHMUS_CONTROL_BENCH_HISTOGRAM_H

#include <stdint.h>

/*
 * Times in buckets, 128 for each power of two, so that a percentile is right to .8 %; least and
 * greatest are kept as they are (the way of HdrHistogram). All zero: empty.
 */
#define HISTOGRAM_STEPS   128u
#define HISTOGRAM_BUCKETS (58u * HISTOGRAM_STEPS)
struct histogram {
    uint64_t n, min_ns, max_ns;
    uint64_t counts[HISTOGRAM_BUCKETS];
};
void histogram_add(struct histogram *h, uint64_t ns);
/* The least time that at least this fraction of all is not above; NAN when empty. */
double histogram_at(const struct histogram *h, double fraction);

#endif
