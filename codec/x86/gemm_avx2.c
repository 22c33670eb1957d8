/* SPDX-License-Identifier: Apache-2.0 */
/* Integer matrix products, AVX2. Same bits as gemm.c. */
#include "codec/x86/gemm_x86.h"

/* 6 rows x 16 columns: 12 sums, the panel's 2 registers, a pair of A, a product: all 16. */
#define TILE_ROWS 6u

static ALWAYS_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

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
            const __m256i pair = _mm256_set1_epi32(gemm_pair(a + r * GEMM_LDA + i));
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
    gemm_by(tile, TILE_ROWS, GEMM_COLS, a, m, b, n, k, out, ldo, add);
}

void gemm_dsp_init_avx2(struct codec_dsp *dsp)
{
    dsp->gemm = gemm;
}
