/* SPDX-License-Identifier: Apache-2.0 */
/* What the matrix products for AVX2 and AVX-512 share: the walk over tiles of the result. */
#ifndef ISTHMUS_CODEC_X86_GEMM_X86_H
#define ISTHMUS_CODEC_X86_GEMM_X86_H

#include "codec/gemm.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline)) /* a copy for each number of rows */

static inline int32_t gemm_pair(const int16_t *p)
{
    int32_t pair;

    memcpy(&pair, p, sizeof(pair));
    return pair;
}

/* `rows` rows times the panels of a tile, and a request for the bytes at `ahead`, as many as the
 * panels': B would else come too late from L3. One row alone asks faster than they can come. */
typedef void gemm_tile(unsigned rows, const int16_t *a, const int16_t *b, size_t k,
                       const int16_t *ahead, int32_t *out, size_t ldo, bool add);

/* codec_dsp's gemm by tiles of tile_rows, at most 8, x tile_cols. All rows meet the panels of a
 * tile while they are in the L1 cache; the first asks for the next panels, which is enough. */
static ALWAYS_INLINE void gemm_by(gemm_tile *tile, unsigned tile_rows, unsigned tile_cols,
                                  const int16_t *a, size_t m, const int16_t *b, size_t n, size_t k,
                                  int32_t *out, size_t ldo, bool add)
{
    for (size_t col = 0; col < n; col += tile_cols, b += tile_cols * k) {
        const int16_t *row = a, *ahead = b + tile_cols * k;
        int32_t *dst = out + col;
        size_t left = m;
        for (; left >= tile_rows; left -= tile_rows) {
            tile(tile_rows, row, b, k, ahead, dst, ldo, add);
            row += tile_rows * GEMM_LDA;
            ahead = b;
            dst += tile_rows * ldo;
        }
        switch (left) { /* constants, so that sums stay in registers */
        case 1:
            tile(1, row, b, k, ahead, dst, ldo, add);
            break;
        case 2:
            tile(2, row, b, k, ahead, dst, ldo, add);
            break;
        case 3:
            tile(3, row, b, k, ahead, dst, ldo, add);
            break;
        case 4:
            tile(4, row, b, k, ahead, dst, ldo, add);
            break;
        case 5:
            tile(5, row, b, k, ahead, dst, ldo, add);
            break;
        case 6:
            if (6 < tile_rows)
                tile(6, row, b, k, ahead, dst, ldo, add);
            break;
        case 7:
            if (7 < tile_rows)
                tile(7, row, b, k, ahead, dst, ldo, add);
            break;
        }
    }
}

#endif
