/* SPDX-License-Identifier: Apache-2.0 */
/* Integer matrix products, AVX2. Same bits as gemm.c. */
#include "codec/gemm.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline)) /* a copy for each number of rows */

/* 6 rows x 16 columns: 12 sums, the panel's 2 registers, a pair of A, a product: all 16. */
#define TILE_ROWS 6u

static ALWAYS_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

static ALWAYS_INLINE __m256i broadcast_pair(const int16_t *p)
{
    int32_t pair;

    memcpy(&pair, p, sizeof(pair));
    return _mm256_set1_epi32(pair);
}

/* Up to TILE_ROWS rows times one panel, and a request for the bytes at `ahead`, as many as the
 * panel's: B would else come too late from L3. One row alone asks faster than they can come. */
static ALWAYS_INLINE void tile(unsigned rows, const int16_t *a, const int16_t *b, size_t k,
                               const int16_t *ahead, int32_t *out, size_t ldo, bool add)
{
    __m256i sum[TILE_ROWS][2];

    for (unsigned r = 0; r < rows; r++) {
        sum[r][0] = add ? load(out + r * ldo) : _mm256_setzero_si256();
        sum[r][1] = add ? load(out + r * ldo + 8) : _mm256_setzero_si256();
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < k; i += 2) {
        const __m256i b0 = load(b + GEMM_COLS * i), b1 = load(b + GEMM_COLS * i + 16);
        if (rows > 1)
            _mm_prefetch((const void *)(ahead + GEMM_COLS * i), _MM_HINT_T1);
        for (unsigned r = 0; r < rows; r++) {
            const __m256i pair = broadcast_pair(a + r * GEMM_LDA + i);
            sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pair, b0));
            sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pair, b1));
        }
    }
    for (unsigned r = 0; r < rows; r++) {
        _mm256_storeu_si256((void *)(out + r * ldo), sum[r][0]);
        _mm256_storeu_si256((void *)(out + r * ldo + 8), sum[r][1]);
    }
}

static void gemm(const int16_t *a, size_t m, const int16_t *b, size_t n, size_t k, int32_t *out,
                 size_t ldo, bool add)
{
    for (size_t col = 0; col < n; col += GEMM_COLS, b += GEMM_COLS * k) {
        const int16_t *row = a;
        const int16_t *ahead = b + GEMM_COLS * k; /* the next panel; once is enough */
        int32_t *dst = out + col;
        size_t left = m;
        for (; left >= TILE_ROWS; left -= TILE_ROWS) {
            tile(TILE_ROWS, row, b, k, ahead, dst, ldo, add);
            row += TILE_ROWS * GEMM_LDA;
            ahead = b;
            dst += TILE_ROWS * ldo;
        }
        switch (left) {
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
        }
    }
}

void gemm_dsp_init_avx2(struct codec_dsp *dsp)
{
    dsp->gemm = gemm;
}
