/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer matrix products, AVX-512 F + BW, and once more with VNNI (HAVE_VNNI), where a product and
 * its sum are one instruction. Same bits as gemm.c.
 */
#include "codec/x86/gemm_x86.h"

/* 8 rows x 2 panels: 16 sums hide a product's latency, and 8 divides GEMM_ROWS. */
#define TILE_ROWS 8u

static ALWAYS_INLINE __m512i add_products(__m512i sum, __m512i a, __m512i b)
{
#if defined(HAVE_VNNI)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

static ALWAYS_INLINE void tile(unsigned rows, const int16_t *a, const int16_t *b, size_t k,
                               const int16_t *ahead, int32_t *out, size_t ldo, bool add)
{
    const int16_t *second = b + GEMM_COLS * k;
    __m512i sum[TILE_ROWS][2];

    for (unsigned r = 0; r < rows; r++) {
        sum[r][0] = add ? _mm512_loadu_si512(out + r * ldo) : _mm512_setzero_si512();
        sum[r][1] = add ? _mm512_loadu_si512(out + r * ldo + GEMM_COLS) : _mm512_setzero_si512();
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < k; i += 2) {
        const __m512i b0 = _mm512_loadu_si512(b + GEMM_COLS * i);
        const __m512i b1 = _mm512_loadu_si512(second + GEMM_COLS * i);
        if (rows > 1) {
            _mm_prefetch((const void *)(ahead + GEMM_COLS * 2 * i), _MM_HINT_T1);
            _mm_prefetch((const void *)(ahead + GEMM_COLS * (2 * i + 2)), _MM_HINT_T1);
        }
        for (unsigned r = 0; r < rows; r++) {
            const __m512i pair = _mm512_set1_epi32(gemm_pair(a + r * GEMM_LDA + i));
            sum[r][0] = add_products(sum[r][0], pair, b0);
            sum[r][1] = add_products(sum[r][1], pair, b1);
        }
    }
    for (unsigned r = 0; r < rows; r++) {
        _mm512_storeu_si512(out + r * ldo, sum[r][0]);
        _mm512_storeu_si512(out + r * ldo + GEMM_COLS, sum[r][1]);
    }
}

static void gemm(const int16_t *a, size_t m, const int16_t *b, size_t n, size_t k, int32_t *out,
                 size_t ldo, bool add)
{
    gemm_by(tile, TILE_ROWS, 2 * GEMM_COLS, a, m, b, n, k, out, ldo, add);
}

#if defined(HAVE_VNNI)
void gemm_dsp_init_vnni(struct codec_dsp *dsp)
#else
void gemm_dsp_init_avx512(struct codec_dsp *dsp)
#endif
{
    dsp->gemm = gemm;
}
