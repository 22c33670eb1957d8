/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How sensitive the model is to an error in a row, predicted from the row: a gamma regression with
 * logarithmic link (McCullagh and Nelder, "Generalized Linear Models"), ridge-regularised.
 */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_SENSITIVITY_H
#define ISTHMUS_COMPUTE_CALIBRATE_SENSITIVITY_H

#include <stddef.h>
#include <stdint.h>

#include "compute/team.h"

/* Predictions are used within +- this. */
#define SENSITIVITY_LIMIT 2.0f

/* f(x, t) = bias + pos * log(t + 4) + sum_j weight[j] (x - mean)[j] */
struct sensitivity {
    float *weight; /* [cols] */
    float pos, bias;
};

/*
 * Fit f to minimise sum_i (y[i] exp(-f_i) + f_i), then take its mean off.
 *   x      f32[n][cols] rows, of tokens `token`
 *   mean   [cols]
 *   y      [n] >= 0, mean 1: how sensitive the model was
 *   s      weight is the caller's
 *   f      [n] receives f of the rows
 * 0, -ENOMEM, -EDOM (x or y not finite, or beyond what f64 can fit).
 */
int sensitivity_fit(struct team *team, const float *x, const uint32_t *token, size_t n,
                    uint32_t cols, const float *mean, const float *y, struct sensitivity *s,
                    float *f);

#endif
