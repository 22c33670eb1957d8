/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tile.h"

#include <errno.h>
#include <string.h>

/* First 16 bits: rows - 1 in bits 0..9, mode in 10..11, version in 12..15. */
#define ROWS_BITS 10
#define MODE_BITS 2
#define COLS_BITS 14 /* first column, and columns - 1: the two bits above are zero */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tiles hold this machine's own bytes");
_Static_assert(1u << ROWS_BITS == CODEC_ROWS_MAX, "rows - 1 fits its field");
_Static_assert(1u << COLS_BITS == CODEC_COLS_MAX, "columns - 1 fits its field");

static void put16(uint8_t *dst, uint32_t v)
{
    uint16_t half = (uint16_t)v;
    memcpy(dst, &half, sizeof(half));
}

static uint32_t get16(const uint8_t *src)
{
    uint16_t half;
    memcpy(&half, src, sizeof(half));
    return half;
}

void codec_tile_write(const struct codec_tile *tile, uint8_t dst[TILE_HEADER_BYTES])
{
    put16(dst, (tile->n_tokens - 1) | (uint32_t)tile->mode << ROWS_BITS |
                   TILE_VERSION << (ROWS_BITS + MODE_BITS));
    put16(dst + 2, tile->first_token);
    put16(dst + 4, tile->first_token >> 16);
    put16(dst + 6, tile->first_col);
    put16(dst + 8, tile->n_cols - 1);
}

int codec_peek(const uint8_t *src, size_t len, struct codec_tile *tile)
{
    uint32_t head;

    if (len < TILE_HEADER_BYTES)
        return -EBADMSG;
    head = get16(src);
    if (head >> (ROWS_BITS + MODE_BITS) != TILE_VERSION)
        return -EBADMSG;
    tile->mode = (enum codec_mode)(head >> ROWS_BITS & ((1u << MODE_BITS) - 1));
    tile->n_tokens = (head & (CODEC_ROWS_MAX - 1)) + 1;
    tile->first_token = get16(src + 2) | get16(src + 4) << 16;
    tile->first_col = get16(src + 6);
    tile->n_cols = get16(src + 8) + 1;
    if (tile->mode > CODEC_TSQ || tile->first_token > UINT32_MAX - (tile->n_tokens - 1))
        return -EBADMSG;
    if (tile->n_cols > CODEC_COLS_MAX || tile->first_col > CODEC_COLS_MAX - tile->n_cols)
        return -EBADMSG;
    return 0;
}
