/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 F + BW + DQ + VL. Same bits as dsp.c; packing and f16 conversions stay AVX2's. */
#include "codec/dsp.h"

#include <immintrin.h>
#include <string.h>

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* The lanes of a register at x[i] that are below n. */
static inline __mmask16 lanes_below(size_t i, size_t n)
{
    return n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
}

static inline __m512d low_pd(__m512 v)
{
    return _mm512_cvtps_pd(_mm512_castps512_ps256(v));
}

static inline __m512d high_pd(__m512 v)
{
    return _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
}

static inline double lanes_sum_pd(__m512d low, __m512d high)
{
    double lane[CODEC_LANES];

    _mm512_storeu_pd(lane, low);
    _mm512_storeu_pd(lane + 8, high);
    return codec_lanes_sum_f64(lane);
}

static double sum_abs(const float *x, size_t n)
{
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();

    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_below(i, n), x + i));
        low = _mm512_add_pd(low, low_pd(v));
        high = _mm512_add_pd(high, high_pd(v));
    }
    return lanes_sum_pd(low, high);
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint16_t *pos)
{
    const __m512 lim = _mm512_set1_ps(limit);
    size_t n_dense = 0, n_pos = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 in = lanes_below(i, n);
        __m512 v = _mm512_maskz_loadu_ps(in, x + i);
        unsigned out = _mm512_cmp_ps_mask(_mm512_abs_ps(v), lim, _CMP_GT_OQ);
        unsigned keep = in & ~out;
        /* at most i + 16 <= n rounded up to 16: inside the padding */
        _mm512_storeu_ps(dense + n_dense, _mm512_maskz_compress_ps((__mmask16)keep, v));
        n_dense += (unsigned)__builtin_popcount(keep);
        for (; out; out &= out - 1)
            pos[n_pos++] = (uint16_t)(i + (unsigned)__builtin_ctz(out));
    }
    return n_pos;
}

static void span(const float *dense, size_t n, struct codec_span *s)
{
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    __m512 lo = _mm512_setzero_ps(), hi = _mm512_setzero_ps();
    float lane_lo[16], lane_hi[16];

    for (size_t i = 0; i < n; i += 16) { /* zeros beyond n change nothing */
        __m512 v = _mm512_loadu_ps(dense + i);
        __m512d a = low_pd(v), b = high_pd(v);
        lo = _mm512_min_ps(v, lo);
        hi = _mm512_max_ps(v, hi);
        low = _mm512_add_pd(low, _mm512_mul_pd(a, a));
        high = _mm512_add_pd(high, _mm512_mul_pd(b, b));
    }
    _mm512_storeu_ps(lane_lo, lo);
    _mm512_storeu_ps(lane_hi, hi);
    s->lo = s->hi = 0.0f;
    for (unsigned i = 0; i < 16; i++) {
        s->lo = lane_lo[i] < s->lo ? lane_lo[i] : s->lo;
        s->hi = lane_hi[i] > s->hi ? lane_hi[i] : s->hi;
    }
    s->sum_sq = lanes_sum_pd(low, high);
}

static inline __m512 position(const float *x, __m512 inv, __m512 bias)
{
    return _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(x), inv), bias);
}

static float grid_error(const float *dense, size_t n, const struct codec_grid *g)
{
    const __m512 inv = _mm512_set1_ps(g->inv), bias = _mm512_set1_ps(g->bias),
                 top = _mm512_set1_ps(g->top);
    __m512 acc = _mm512_setzero_ps();
    float lane[CODEC_LANES];

    for (size_t i = 0; i < n; i += 16) {
        __m512 t = position(dense + i, inv, bias);
        __m512 code = _mm512_max_ps(_mm512_roundscale_ps(t, NEAREST), _mm512_setzero_ps());
        __m512 e = _mm512_sub_ps(t, _mm512_min_ps(code, top));
        /* zero is not always on the grid: keep the padding's error out */
        e = _mm512_maskz_mov_ps(lanes_below(i, n), e);
        acc = _mm512_add_ps(acc, _mm512_mul_ps(e, e));
    }
    _mm512_storeu_ps(lane, acc);
    return codec_lanes_sum_f32(lane);
}

static void quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    const __m512 inv = _mm512_set1_ps(g->inv), bias = _mm512_set1_ps(g->bias);
    const __m512i top = _mm512_set1_epi32((int)g->top);

    for (size_t i = 0; i < n; i += 16) {
        __m512i v = _mm512_cvtps_epi32(position(dense + i, inv, bias));
        v = _mm512_min_epi32(_mm512_max_epi32(v, _mm512_setzero_si512()), top);
        _mm_storeu_si128((__m128i *)(codes + i), _mm512_cvtepi32_epi8(v));
    }
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
    dsp->span = span;
    dsp->grid_error = grid_error;
    dsp->quantize = quantize;
    dsp->dequantize = dequantize;
}
