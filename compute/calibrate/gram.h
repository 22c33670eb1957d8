/* SPDX-License-Identifier: Apache-2.0 */
/* Weighted sums of outer products of rows: covariances, Fisher and Hessian matrices. */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_GRAM_H
#define ISTHMUS_COMPUTE_CALIBRATE_GRAM_H

#include <stddef.h>
#include <stdint.h>

#include "compute/team.h"

/* Columns of f32[n][stride]. */
struct gram_rows {
    const float *x;
    size_t n, stride;
    const float *center; /* [stride] taken off the rows; NULL: nothing */
};

/* out[cols][cols] = sum_t weight[t] z_t z_t' of columns first .. first + cols - 1 of the rows z,
 * in f64; the same bits for any team. 0 or -ENOMEM. */
int gram(struct team *team, const struct gram_rows *rows, uint32_t first, uint32_t cols,
         const float *weight, double *out);

#endif
