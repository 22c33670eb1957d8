/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a tile: its header. docs/codec.md has the layout. */
#ifndef ISTHMUS_CODEC_TILE_H
#define ISTHMUS_CODEC_TILE_H

#include "codec/codec.h"

#define TILE_VERSION      1u
#define TILE_HEADER_BYTES 6u /* of whole rows */
#define TILE_CUT_BYTES    4u /* more, of a range of columns */

/* A cut row's parts need never be narrower than this: every capacity holds one of this many
 * columns, so that the search for the fewest parts stays short. */
#define CUT_COLS 64u

/* How the body is coded. */
enum tile_coding {
    TILE_F32,
    TILE_F16,
    TILE_TSQ,
    TILE_RANS,         /* levels from the rows alone */
    TILE_RANS_TABLE,   /* the same, with one table of its own */
    TILE_RANS_PROFILE, /* order and levels by a profile */
    TILE_XFORM,        /* coefficients of a profile's transform */
    TILE_CODINGS,
};

/* Values in the modes f32 and f16. */
static inline size_t codec_raw_bytes(enum codec_mode mode, size_t values)
{
    return values * (mode == CODEC_F32 ? 4 : 2);
}

/* Returns the bytes written: TILE_HEADER_BYTES, and TILE_CUT_BYTES more unless the tile holds whole
 * rows of `cols` columns. The tile's mode is not looked at. */
size_t tile_write(const struct codec_tile *tile, enum tile_coding coding, uint32_t cols,
                  uint8_t *dst);

/* Returns the header's bytes, or -EBADMSG. */
int tile_read(const uint8_t *src, size_t len, uint32_t cols, struct codec_tile *tile,
              enum tile_coding *coding);

#endif
