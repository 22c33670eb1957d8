/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encoder's rows: a batch is looked at ahead, because products are fastest with many rows, and
 * each row becomes the streams of its blocks.
 */
#ifndef ISTHMUS_CODEC_CODED_ROWS_H
#define ISTHMUS_CODEC_CODED_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/coded_part.h"

enum coded_fate {
    CODED_OK,
    CODED_FALLBACK, /* not for these modes: to go as tsq */
    CODED_NOT_FINITE,
};

struct coded_row {
    enum coded_fate fate;
    uint8_t step;
    uint16_t class;
    uint8_t cut_into; /* tiles; 0: not known to need more than one */
    struct coded_part parts[CODED_BLOCKS_MAX];
};

/* What row codes of the step mean, exactly. */
float coded_delta(unsigned code);

struct coded_rows;

int coded_rows_open(const struct coded_basis *b, const struct codec_dsp *dsp,
                    const struct levels *levels, struct coded_rows **out);
void coded_rows_close(struct coded_rows *r);
void coded_rows_tune(struct coded_rows *r, const struct codec_params *p);

/* Forget what was looked at: the next row is another message's. */
void coded_rows_forget(struct coded_rows *r);

/* Row i of rows[0, n_rows), valid until the next call. */
struct coded_row *coded_rows_get(struct coded_rows *r, const float *rows, size_t stride,
                                 uint32_t n_rows, uint32_t first_token, uint32_t i);

#endif
