/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token-wise adaptive bit quantization (TAB-Q) with threshold splitting (TS): every value of a row
 * becomes a multiple k of the row's step, and every k a code in the first of three ranges that
 * reaches it. The first is the dense one: each column has a code of it. Code 0 says that the value
 * is an outlier and its code is among those of the next range, a shorter list, and so on; a k
 * beyond all ranges is sent as it is.
 */
#ifndef ISTHMUS_CODEC_TABQ_H
#define ISTHMUS_CODEC_TABQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/dsp.h"

#define TABQ_RANGES    3u
#define TABQ_FORM_BITS 2u
#define TABQ_FORMS     (1u << TABQ_FORM_BITS)
#define TABQ_K_MAX     32767 /* k of any value */

/* Steps are sent as bits 30 to 20 of their f32. */
#define TABQ_STEP_BITS 11u

/* The step of a code; not a positive normal number when no encoder sends that code. */
float tabq_step(uint32_t code);

/* [TABQ_RANGES]: the dense range of `width` bits, 1 to 8, and the outlier ranges of a form: 2 +
 * form bits, and twice as many, but at most 8. */
const struct codec_range *tabq_ranges(unsigned width, unsigned form);

/* What a row amounts to. */
struct tabq_row {
    double mean;    /* of |x| */
    double limit;   /* TS's T */
    float max;      /* of |x|, or a little more until the step is known to depend on it */
    double norm_sq; /* squared L2 norm, every value counted as at most 8 T */
    uint32_t n;     /* of so many columns */
};

/* -EDOM when a value is not finite. */
int tabq_row_read(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                  uint32_t cols, struct tabq_row *row);

/* The code of the largest step whose errors, spread evenly, are within p->delta of the norm; or of
 * the smallest one by which p->qmax bits reach T and TABQ_K_MAX steps the largest value. Afterwards
 * row->max is as many whole steps as the largest value, unless both are more than none. */
uint32_t tabq_step_choose(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                          uint32_t cols, struct tabq_row *row);

/* Of a wide row, a half or a third of its columns tells how the others are. True with a step chosen
 * by these, if it does not depend on the row's largest value: as long as none in the row is beyond
 * TABQ_K_MAX steps, not finite, or larger than TABQ_SAMPLE_GIANT times row->mean (one such decides too
 * much by whether the sample has it), and the row not too long, that is the row's step. row->max is
 * then above half a step, and may be below the largest value. False when the whole row has to be
 * read. */
#define TABQ_SAMPLE_GIANT 120.0
bool tabq_row_sample(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                     uint32_t cols, struct tabq_row *row, uint32_t *step_code);

/* A width from p->qmin to p->qmax that makes the part of k[n] (padded with 0) short; `mean` is
 * about the mean |k|. */
unsigned tabq_width_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                           const int8_t *k, size_t n, double mean);

/* A form that makes short lists of the outliers k[n] (padded) of the dense range. */
unsigned tabq_form_choose(const struct codec_dsp *dsp, unsigned width, const int8_t *k, size_t n);

#endif
