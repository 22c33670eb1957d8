/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/levels.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "codec/rans.h"

/* Of the square of a normal variable: its median, over its mean. */
#define NORMAL_MEDIAN_SQ .4549364

/* --- deviations ------------------------------------------------------------------------------ */

/* Partial sort: values[k] becomes what it would be in a sorted array. (Hoare's quickselect.) */
static float select_kth(float *values, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;

    while (low < high) {
        const float pivot = values[low + (high - low) / 2];
        size_t i = low, j = high;

        for (;;) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i >= j)
                break;
            const float v = values[i];
            values[i++] = values[j];
            values[j--] = v;
        }
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    return values[k];
}

float robust_sigma(float *values, size_t n)
{
    double sum = 0, sum_sq = 0;

    for (size_t i = 0; i < n; i++) {
        sum += (double)values[i];
        sum_sq += (double)values[i] * (double)values[i];
        values[i] *= values[i];
    }
    const double mean = sum / (double)n, variance = fmax(0, sum_sq / (double)n - mean * mean);
    const double median = (double)select_kth(values, n, n / 2);
    return (float)sqrt(.5 * median / NORMAL_MEDIAN_SQ + .5 * variance);
}

/* --- order ----------------------------------------------------------------------------------- */

struct ranked {
    float sigma;
    uint16_t at;
};

static int by_falling_sigma(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->sigma != y->sigma)
        return x->sigma < y->sigma ? 1 : -1;
    return (x->at > y->at) - (x->at < y->at);
}

int levels_order(const float *sigma, uint32_t n, uint16_t *order)
{
    struct ranked *ranked = malloc(n * sizeof(*ranked));

    if (!ranked)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        ranked[i] = (struct ranked){sigma[i], (uint16_t)i};
    qsort(ranked, n, sizeof(*ranked), by_falling_sigma);
    for (uint32_t i = 0; i < n; i++)
        order[i] = ranked[i].at;
    free(ranked);
    return 0;
}

/* --- levels ---------------------------------------------------------------------------------- */

static double octaves(float sigma, float ref_sigma)
{
    /* 20 octaves below the reference nothing is ever coded. */
    return log2(fmax((double)sigma / (double)ref_sigma, 0x1p-20));
}

/* One group of n: the level its median says, shifts for those an octave and more above it, and then
 * the level of what is left after the shifts. */
static void set_group(const float *sigma, uint32_t n, float ref_sigma, int8_t *level, uint8_t *pre)
{
    const double median = octaves(sigma[n / 2], ref_sigma);
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const double above = rint(octaves(sigma[i], ref_sigma) - median);

        pre[i] = (uint8_t)fmin(fmax(above, 0), CODEC_PROFILE_PRE_MAX);
        sum += octaves(sigma[i], ref_sigma) - pre[i];
    }
    *level = (int8_t)fmin(fmax(rint(4 * sum / n), INT8_MIN), INT8_MAX);
}

void levels_set(const float *sigma, float ref_sigma, struct codec_profile_coefs *c)
{
    for (uint32_t at = 0; at < c->n; at += RANS_GROUP) {
        const uint32_t n = c->n - at < RANS_GROUP ? c->n - at : RANS_GROUP;
        set_group(sigma + at, n, ref_sigma, &c->level[at / RANS_GROUP], c->pre + at);
    }
}
