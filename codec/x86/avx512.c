/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 F + BW + DQ + VL. Same bits as dsp.c; packing and f16 conversions stay AVX2's. */
#include "codec/dsp.h"

#include <immintrin.h>
#include <string.h>

/* The lanes of a register at x[i] that are below n. */
static inline __mmask16 lanes_below(size_t i, size_t n)
{
    return i + 16 <= n ? (__mmask16)0xffff : i < n ? (__mmask16)((1u << (n - i)) - 1) : 0;
}

static inline __m256 low_ps(__m512 v)
{
    return _mm512_castps512_ps256(v);
}

static inline __m256 high_ps(__m512 v)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
}

/* Pairwise, as codec_lanes_sum_f32() does. */
static inline float lanes_sum_ps(__m512 a, __m512 b)
{
    const __m512 sixteen = _mm512_add_ps(a, b);
    const __m256 eight = _mm256_add_ps(low_ps(sixteen), high_ps(sixteen));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float lanes_max_ps(__m512 v)
{
    const __m256 eight = _mm256_max_ps(low_ps(v), high_ps(v));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static float sum_abs(const float *x, size_t n)
{
    __m512 a = _mm512_setzero_ps(), b = _mm512_setzero_ps();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        a = _mm512_add_ps(a, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
        b = _mm512_add_ps(b, _mm512_abs_ps(_mm512_loadu_ps(x + i + 16)));
    }
    a = _mm512_add_ps(a, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_below(i, n), x + i)));
    b = _mm512_add_ps(b, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_below(i + 16, n), x + i + 16)));
    return lanes_sum_ps(a, b);
}

/* 16 columns, of which those in `in` exist; returns their mask. */
static inline unsigned split_16(const float *x, __mmask16 in, __m512 limit, float *dense,
                                __m512 *acc, __m512 *lo, __m512 *hi)
{
    __m512 v = _mm512_maskz_loadu_ps(in, x);
    const __mmask16 outlier = _mm512_cmp_ps_mask(_mm512_abs_ps(v), limit, _CMP_GT_OQ);

    v = _mm512_maskz_mov_ps((__mmask16)~outlier, v);
    _mm512_storeu_ps(dense, v);
    *acc = _mm512_fmadd_ps(v, v, *acc);
    *lo = _mm512_min_ps(v, *lo);
    *hi = _mm512_max_ps(v, *hi);
    return outlier;
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint8_t *mask,
                    struct codec_span *s)
{
    const __m512 limits = _mm512_set1_ps(limit);
    __m512 a = _mm512_setzero_ps(), b = a, lo = a, hi = a;
    size_t n_outliers = 0;

    for (size_t i = 0; i < CODEC_PAD_TO(n); i += 32) {
        unsigned bits = split_16(x + i, lanes_below(i, n), limits, dense + i, &a, &lo, &hi);
        bits |= split_16(x + i + 16, lanes_below(i + 16, n), limits, dense + i + 16, &b, &lo, &hi)
                << 16;
        memcpy(mask + i / 8, &bits, sizeof(bits));
        n_outliers += (unsigned)__builtin_popcount(bits);
    }
    s->lo = -lanes_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), lo));
    s->hi = lanes_max_ps(hi);
    s->sum_sq = lanes_sum_ps(a, b);
    return n_outliers;
}

struct quantizer {
    __m512 inv, bias;
    __m512i top;
};

/* 16 columns, of which those in `in` count. */
static inline __m512 quantize_16(const float *dense, __mmask16 in, struct quantizer q, __m512 acc,
                                 uint8_t *codes)
{
    const __m512 t = _mm512_fmadd_ps(_mm512_loadu_ps(dense), q.inv, q.bias);
    __m512i v = _mm512_cvtps_epi32(t);
    const __m512 e = _mm512_maskz_sub_ps(in, t, _mm512_cvtepi32_ps(v));

    v = _mm512_min_epi32(_mm512_max_epi32(v, _mm512_setzero_si512()), q.top);
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(v));
    return _mm512_fmadd_ps(e, e, acc);
}

static float quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    const struct quantizer q = {_mm512_set1_ps(g->inv), _mm512_set1_ps(g->bias),
                                _mm512_set1_epi32(g->top)};
    __m512 a = _mm512_setzero_ps(), b = a;

    for (size_t i = 0; i < n; i += 32) {
        a = quantize_16(dense + i, lanes_below(i, n), q, a, codes + i);
        b = quantize_16(dense + i + 16, lanes_below(i + 16, n), q, b, codes + i + 16);
    }
    return lanes_sum_ps(a, b);
}

/* As in avx2.c: halved, exact. */
static void dequantize(const uint8_t *codes, const uint8_t *mask, size_t n,
                       const struct codec_grid *g, float *out)
{
    const float unit = 0.5f * g->unit;
    const __m512 step = _mm512_set1_ps(unit * (float)(1u << (8 - g->width))),
                 base = _mm512_set1_ps(-unit * (float)g->zero);

    for (size_t i = 0; i < n; i += 16) {
        const unsigned dense = ~(unsigned)(mask[i / 8] | mask[i / 8 + 1] << 8) & 0xffffu;
        __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
        __m512 half = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), step, base);
        half = _mm512_maskz_expand_ps((__mmask16)dense, half);
        _mm512_mask_storeu_ps(out + i, lanes_below(i, n), _mm512_add_ps(half, half));
        codes += (unsigned)__builtin_popcount(dense);
    }
}

void codec_dsp_init_avx512(struct codec_dsp *dsp)
{
    dsp->sum_abs = sum_abs;
    dsp->split = split;
    dsp->quantize = quantize;
    dsp->dequantize = dequantize;
}
