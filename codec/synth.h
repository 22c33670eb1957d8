/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up profiles and rows that fit them, for benchmarks and tests: any width, no model needed.
 * The transform is a cosine transform (DCT-II) of the columns with random signs; the deviations of
 * its coefficients, and of columns, fall over SYNTH_OCTAVES. Says nothing of a real model's bytes.
 */
#ifndef ISTHMUS_CODEC_SYNTH_H
#define ISTHMUS_CODEC_SYNTH_H

#include <stddef.h>
#include <stdint.h>

#include "codec/profile.h"

#define SYNTH_OCTAVES 5

/* The same for the same width and seed, on one machine. 0, -EINVAL or -ENOMEM. */
int codec_synth_profile(uint32_t cols, uint32_t n_classes, uint64_t seed,
                        struct codec_profile **out);

/* n rows of a profile from codec_synth_profile. 0 or -ENOMEM. */
int codec_synth_rows(const struct codec_profile *p, uint64_t seed, uint32_t n, float *rows,
                     size_t stride);

#endif
