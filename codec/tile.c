/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tile.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* First 16 bits: rows - 1 in bits 0..9, coding in 10..12, cut in 13, version in 14..15. */
#define ROWS_BITS   10
#define CODING_BITS 3
#define CUT_AT      (ROWS_BITS + CODING_BITS)
#define VERSION_AT  (CUT_AT + 1)
#define COLS_BITS   14 /* first column, and columns - 1: the two bits above are zero */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tiles hold this machine's own bytes");
_Static_assert(1u << ROWS_BITS == CODEC_ROWS_MAX, "rows - 1 fits its field");
_Static_assert(1u << COLS_BITS == CODEC_COLS_MAX, "columns - 1 fits its field");
_Static_assert(TILE_CODINGS <= 1u << CODING_BITS, "the coding fits its field");

static const enum codec_mode mode_of[TILE_CODINGS] = {
    [TILE_F32] = CODEC_F32,     [TILE_F16] = CODEC_F16,         [TILE_TSQ] = CODEC_TSQ,
    [TILE_RANS] = CODEC_RANS,   [TILE_RANS_TABLE] = CODEC_RANS, [TILE_RANS_PROFILE] = CODEC_RANS,
    [TILE_XFORM] = CODEC_XFORM,
};

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

size_t tile_write(const struct codec_tile *tile, enum tile_coding coding, uint32_t cols,
                  uint8_t *dst)
{
    const bool cut = tile->n_cols != cols;

    put16(dst, (tile->n_tokens - 1) | (uint32_t)coding << ROWS_BITS | (uint32_t)cut << CUT_AT |
                   TILE_VERSION << VERSION_AT);
    put16(dst + 2, tile->first_token);
    put16(dst + 4, tile->first_token >> 16);
    if (!cut)
        return TILE_HEADER_BYTES;
    put16(dst + 6, tile->first_col);
    put16(dst + 8, tile->n_cols - 1);
    return TILE_HEADER_BYTES + TILE_CUT_BYTES;
}

int tile_read(const uint8_t *src, size_t len, uint32_t cols, struct codec_tile *tile,
              enum tile_coding *coding)
{
    uint32_t head, field;
    size_t bytes = TILE_HEADER_BYTES;

    if (len < bytes)
        return -EBADMSG;
    head = get16(src);
    field = head >> ROWS_BITS & ((1u << CODING_BITS) - 1);
    if (head >> VERSION_AT != TILE_VERSION || field >= TILE_CODINGS)
        return -EBADMSG;
    *coding = (enum tile_coding)field;
    tile->mode = mode_of[field];
    tile->n_tokens = (head & (CODEC_ROWS_MAX - 1)) + 1;
    tile->first_token = get16(src + 2) | get16(src + 4) << 16;
    tile->first_col = 0;
    tile->n_cols = cols;
    if (head >> CUT_AT & 1) {
        bytes += TILE_CUT_BYTES;
        if (len < bytes)
            return -EBADMSG;
        tile->first_col = get16(src + 6);
        tile->n_cols = get16(src + 8) + 1;
    }
    if (tile->first_token > UINT32_MAX - (tile->n_tokens - 1))
        return -EBADMSG;
    if (tile->n_cols > cols || tile->first_col > cols - tile->n_cols)
        return -EBADMSG;
    return (int)bytes;
}

int codec_peek(const uint8_t *src, size_t len, uint32_t cols, struct codec_tile *tile)
{
    enum tile_coding coding;
    const int rc = tile_read(src, len, cols, tile, &coding);

    return rc < 0 ? rc : 0;
}
