/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix products of mode xform alone: the analysis of rows before they are coded, and the
 * synthesis of rows from what was decoded. */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSFORM_H
#define ISTHMUS_CONTROL_BENCH_TRANSFORM_H

#include <stdint.h>

#include "codec/profile.h"

/* A profile's transform and so many rows, with the kernels of cpu_flags(). The profile's widths are
 * multiples of 32. 0 or -errno. */
struct transform;
int transform_open(const struct codec_profile *p, uint32_t rows, struct transform **out);
void transform_close(struct transform *t);

/* All rows, on this thread. */
void transform_analyse(void *transform);
void transform_synthesise(void *transform);

#endif
