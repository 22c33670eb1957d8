/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of calibration share: a printed seed, normal numbers, two teams. */
#ifndef ISTHMUS_TESTS_CALIBRATE_UTIL_H
#define ISTHMUS_TESTS_CALIBRATE_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <time.h>

#include <cmocka.h>

#include "compute/team.h"

static struct team *teams[2]; /* of 1 thread and of 3, where the machine has them */
static uint64_t rng_state;

static inline int open_teams(void)
{
    const char *given = getenv("ISTHMUS_TEST_SEED");
    unsigned used;

    rng_state = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    printf("seed: ISTHMUS_TEST_SEED=%llu\n", (unsigned long long)rng_state);
    return team_open(1, -1, &teams[0], &used) || team_open(3, -1, &teams[1], &used);
}

static inline double uniform(void) /* 0 < u < 1 */
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + .5) * 0x1p-53;
}

static inline double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform());
}

/* q[n][n] orthonormal rows. */
static inline void random_rotation(double *q, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double *row = q + i * n, norm = 0;

        for (size_t k = 0; k < n; k++)
            row[k] = normal();
        for (size_t j = 0; j < i; j++) {
            double along = 0;
            for (size_t k = 0; k < n; k++)
                along += row[k] * q[j * n + k];
            for (size_t k = 0; k < n; k++)
                row[k] -= along * q[j * n + k];
        }
        for (size_t k = 0; k < n; k++)
            norm += row[k] * row[k];
        for (size_t k = 0; k < n; k++)
            row[k] /= sqrt(norm);
    }
}

#endif
