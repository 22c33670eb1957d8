/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of rows and gradients at a split -> a profile's mean, sensitivity, bases and levels.
 */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_CALIBRATE_H
#define ISTHMUS_COMPUTE_CALIBRATE_CALIBRATE_H

#include <stddef.h>
#include <stdint.h>

#include "codec/profile.h"
#include "compute/team.h"

struct calibrate_data {
    size_t n; /* tokens */
    uint32_t cols, samples;
    uint32_t classes;      /* 0: none */
    const float *rows;     /* f32[n][cols] */
    const uint32_t *token; /* [n] place in the sequence */
    const float *grads;    /* f32[n][samples][cols] of -log p(y) by the row, y drawn from p */
};

/* About what calibrate_profile takes besides the data: rows and their features, and some matrices
 * in f64. */
size_t calibrate_bytes(size_t n, uint32_t cols);

/* The profile lacks fingerprint, split and curves. 0, -EDOM (rows or gradients not finite),
 * -ENOMEM. */
int calibrate_profile(struct team *team, const struct calibrate_data *data,
                      struct codec_profile **out);

#endif
