/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles of the modes rans and xform. Rows that they can't carry are left to codec.c. */
#ifndef ISTHMUS_CODEC_CODED_H
#define ISTHMUS_CODEC_CODED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/dsp.h"
#include "codec/tile.h"

#define CODED_LEAVES_IT 0 /* the row at the cursor is one for tsq */

static inline bool codec_is_coded(enum codec_mode mode)
{
    return mode == CODEC_RANS || mode == CODEC_XFORM;
}

/* The bytes that a whole row takes at most. */
size_t coded_row_bound(uint32_t cols);

struct coded;

/* dsp is borrowed. 0, -EINVAL (a profile of another width) or -ENOMEM. */
int coded_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
               struct coded **out);
void coded_close(struct coded *c);
void coded_tune(struct coded *c, const struct codec_params *p);

/* As codec_encode, whose arguments are checked. Counts rows, values and bytes. CODED_LEAVES_IT, or
 * -EDOM when the row at at->row + *bad_row is not finite. */
int coded_encode(struct coded *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats, uint32_t *bad_row);

/* The body of a tile, src[0, len), whose first value goes to *out, of mode xform not before
 * coded_decode_finish(). 0 or -EBADMSG. */
int coded_decode(struct coded *c, const struct codec_tile *tile, enum tile_coding coding,
                 const uint8_t *src, size_t len, float *out, size_t stride);
int coded_decode_finish(struct coded *c);
/* None of the rows that wait will be finished: their places may be gone. */
void coded_decode_drop(struct coded *c);

#endif
