/* SPDX-License-Identifier: Apache-2.0 */
/* Token-wise adaptive bit quantization: the grid of one dense row. */
#ifndef ISTHMUS_CODEC_TABQ_H
#define ISTHMUS_CODEC_TABQ_H

#include "codec/codec.h"
#include "codec/dsp.h"

/* The grid for dense[n] as split() left it, n_outliers of them zeros for outliers, and the codes of
 * all its columns (padded): p->qmin..p->qmax bits, few enough that the squared error is at most
 * p->delta^2 * (the dense values' squared norm + outlier_sq), if that can be. */
void codec_grid_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                       const float *dense, size_t n, const struct codec_span *span,
                       size_t n_outliers, double outlier_sq, struct codec_grid *g, uint8_t *codes);

/* The grid a decoder was sent (width 1..8). 0, or -EBADMSG when no encoder makes it. */
int codec_grid_read(struct codec_grid *g, unsigned width, uint16_t scale, uint8_t zero);

#endif
