/* SPDX-License-Identifier: Apache-2.0 */
/* The best levels for the numbers of one row: optimal 1-D clustering. */
#ifndef ISTHMUS_COMPUTE_QUANTIZE_CLUSTER_H
#define ISTHMUS_COMPUTE_QUANTIZE_CLUSTER_H

#include <stddef.h>
#include <stdint.h>

#define CLUSTER_LEVELS_MAX 16u

struct cluster_point {
    float value, weight; /* weight >= 0 */
};

/* One thread's scratch, for up to max_n points. NULL: out of memory. */
struct cluster;
struct cluster *cluster_open(uint32_t max_n);
void cluster_close(struct cluster *c);

/*
 * levels[k], rising, which minimise sum_i weight_i (value_i - nearest level)^2: the global minimum,
 * by dynamic programming in O(k n log n). Sorts the points; the result does not depend on their
 * order. k is 1 .. CLUSTER_LEVELS_MAX; with fewer than k points (or none) the last level repeats.
 * Returns that minimum.
 */
double cluster_levels(struct cluster *c, struct cluster_point *points, uint32_t n, unsigned k,
                      float *levels);

#endif
