/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Row parts of mode tsq: a range of columns of one row, as bytes and back. codec.h says what TS and
 * TAB-Q do, docs/codec.md what the bytes are. Which parts go into which tile is codec.c's business.
 */
#ifndef ISTHMUS_CODEC_TSQ_H
#define ISTHMUS_CODEC_TSQ_H

#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/dsp.h"
#include "codec/tabq.h"

/* Scratch for one row and the encoder's parameters (the decoder needs none). */
struct tsq;

/* One row part, looked at and not yet written. Its codes are in the scratch. */
struct tsq_part {
    size_t bytes;
    uint8_t width; /* of dense codes; 0: all zeros */
    uint8_t form;  /* of outlier ranges */
    uint16_t step_code;
    uint32_t n[TABQ_RANGES + 1]; /* codes of each range, and values beyond all */
};

/* For rows of up to `cols` columns. dsp is borrowed. 0 or -ENOMEM. */
int tsq_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
             struct tsq **out);
void tsq_close(struct tsq *t);

/* Other encoder's parameters. */
void tsq_tune(struct tsq *t, const struct codec_params *p);

/* The bytes that a whole row takes at most, and that any part of a row does. */
size_t tsq_row_bound(const struct codec_params *p, uint32_t cols);
size_t tsq_part_bound(const struct codec_params *p, uint32_t cols);

/* Quantize a whole row as one part, and say its step's code, which all its parts share: see tabq.h.
 * -EDOM when a value is not finite. */
int tsq_plan_row(struct tsq *t, const float *row, uint32_t cols, uint32_t *step_code,
                 struct tsq_part *part);

/* Quantize a part of the row planned last with its step: part->bytes tells its length. */
void tsq_plan(struct tsq *t, const float *x, uint32_t cols, uint32_t step_code,
              struct tsq_part *part);

/* Writes the part planned last: part->bytes at dst. */
void tsq_write(struct tsq *t, const struct tsq_part *part, uint8_t *dst);

/* Reads a part of `cols` columns into out; returns its end, or NULL when it is malformed or would
 * pass `end`. */
const uint8_t *tsq_read(struct tsq *t, uint32_t cols, const uint8_t *src, const uint8_t *end,
                        float *out);

#endif
