/* SPDX-License-Identifier: Apache-2.0 */
/* Token-wise adaptive bit quantization: the grid of one dense row. */
#ifndef ISTHMUS_CODEC_TABQ_H
#define ISTHMUS_CODEC_TABQ_H

#include "codec/codec.h"
#include "codec/dsp.h"

/* The narrowest grid, p->qmin..p->qmax bits, whose squared error over dense[n] is at most
 * p->delta^2 * (the dense row's squared norm + outlier_sq); the widest when none is. dense is
 * padded and zero from n on. */
void codec_grid_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                       const float *dense, size_t n, double outlier_sq, struct codec_grid *g);

/* The grid a decoder was sent (width 1..8). 0, or -EBADMSG when no encoder makes it. */
int codec_grid_read(struct codec_grid *g, unsigned width, uint16_t scale, uint8_t zero);

#endif
