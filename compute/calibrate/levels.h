/* SPDX-License-Identifier: Apache-2.0 */
/* Deviations of coefficients, and how a profile keeps them. */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_LEVELS_H
#define ISTHMUS_COMPUTE_CALIBRATE_LEVELS_H

#include <stddef.h>
#include <stdint.h>

#include "codec/profile.h"

/* The deviation of n values, with little regard for the few largest: halfway, in variance, between
 * what their median says and the deviation itself. Reorders values. */
float robust_sigma(float *values, size_t n);

/* order[n]: coefficients by falling sigma, equal ones in their order. 0 or -ENOMEM. */
int levels_order(const float *sigma, uint32_t n, uint16_t *order);

/* Levels and shifts of coefficients whose sigmas, in falling order, are sigma[c->n]. */
void levels_set(const float *sigma, float ref_sigma, struct codec_profile_coefs *c);

#endif
