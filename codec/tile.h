/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a tile: its header, and the fixed fields of a row part. docs/codec.md has the
 * layout. */
#ifndef ISTHMUS_CODEC_TILE_H
#define ISTHMUS_CODEC_TILE_H

#include "codec/codec.h"

#define TILE_VERSION      0u
#define TILE_HEADER_BYTES 10u

/* A part's head (mode tsq): width in bits 0..3, outlier form in 4..5, wide outliers in 6, bit 7
 * zero. */
#define PART_WIDTH    0x0fu
#define PART_FORM_AT  4
#define PART_FORM     0x3u
#define PART_WIDE     0x40u
#define PART_RESERVED 0x80u

#define PART_HEAD_BYTES 1u
#define PART_GRID_BYTES 3u /* unit u16, zero point u8 */

/* A cut row's parts need never be narrower than this: every capacity holds one of this many
 * columns, so that the search for the fewest parts stays short. */
#define CUT_COLS 64u

/* Values in the modes f32 and f16. */
static inline size_t codec_raw_bytes(enum codec_mode mode, size_t values)
{
    return values * (mode == CODEC_F32 ? 4 : 2);
}

void codec_tile_write(const struct codec_tile *tile, uint8_t dst[TILE_HEADER_BYTES]);

#endif
