/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a tile: its header. docs/codec.md has the layout. */
#ifndef ISTHMUS_CODEC_TILE_H
#define ISTHMUS_CODEC_TILE_H

#include "codec/codec.h"

#define TILE_VERSION      0u
#define TILE_HEADER_BYTES 10u

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
