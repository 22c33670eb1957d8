/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 F + BW + DQ + VL. Same bits as dsp.c; codes and f16 conversions stay AVX2's. */
#include "codec/dsp.h"

#include <immintrin.h>
#include <string.h>

#include "codec/f16.h"

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
static inline __m256 eight_lanes_ps(__m512 a, __m512 b)
{
    const __m512 sixteen = _mm512_add_ps(a, b);

    return _mm256_add_ps(low_ps(sixteen), high_ps(sixteen));
}

static inline float lanes_sum_ps(__m256 eight)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float lanes_max_epi32(__m256i eight)
{
    const __m128i four =
        _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));

    return f32_from_bits(
        (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1))));
}

struct totals {
    __m512 sum;
    __m512 sum_sq; /* of the span */
};

static inline struct totals sum_abs_16(__m512 x, struct totals t)
{
    return (struct totals){_mm512_add_ps(t.sum, _mm512_abs_ps(x)), _mm512_fmadd_ps(x, x, t.sum_sq)};
}

static float sum_abs(const float *x, size_t n, size_t every, struct codec_span *spans,
                     float *largest)
{
    struct totals a = {.sum = _mm512_setzero_ps()}, b = a;
    __m256i max = _mm256_setzero_si256();

    for (size_t i = 0; i < n; spans++) {
        const size_t end = i + CODEC_SPAN < n ? i + CODEC_SPAN : n;
        a.sum_sq = b.sum_sq = _mm512_setzero_ps();
        for (; i + 32 <= end; i += 32, x += 32 * every) {
            a = sum_abs_16(_mm512_loadu_ps(x), a);
            b = sum_abs_16(_mm512_loadu_ps(x + 16), b);
        }
        for (; i < end; i += 32) {
            a = sum_abs_16(_mm512_maskz_loadu_ps(lanes_below(i, n), x), a);
            b = sum_abs_16(_mm512_maskz_loadu_ps(lanes_below(i + 16, n), x + 16), b);
        }
        const __m256 span = eight_lanes_ps(a.sum_sq, b.sum_sq);
        max = _mm256_max_epi32(max, _mm256_castps_si256(span));
        _mm256_storeu_ps(spans->sum_sq, span);
    }
    *largest = lanes_max_epi32(max);
    return lanes_sum_ps(eight_lanes_ps(a.sum, b.sum));
}

/* A span's squares, in 8 lanes. */
static __m256 capped_ps(const float *x, size_t n, size_t every, __m512 cap)
{
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};

    for (size_t i = 0; i < n; i += 16) {
        const float *at = x + i / 32 * 32 * every + i % 32;
        const __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_below(i, n), at));
        const __m512 least = _mm512_min_ps(v, cap);
        acc[i / 16 % 2] = _mm512_fmadd_ps(least, least, acc[i / 16 % 2]);
    }
    return eight_lanes_ps(acc[0], acc[1]);
}

static float sum_sq(const float *x, size_t n, size_t every, float cap,
                    const struct codec_span *spans)
{
    const __m256 caps_sq = _mm256_set1_ps(cap * cap);
    const __m512 caps = _mm512_set1_ps(cap);
    __m256 total = _mm256_setzero_ps();

    for (size_t i = 0; i < n; i += CODEC_SPAN, spans++) {
        const size_t cols = n - i < CODEC_SPAN ? n - i : CODEC_SPAN;
        __m256 span = _mm256_loadu_ps(spans->sum_sq);
        if (_mm256_movemask_ps(_mm256_cmp_ps(span, caps_sq, _CMP_LT_OQ)) != 0xff)
            span = capped_ps(x + i * every, cols, every, caps);
        total = _mm256_add_ps(total, span);
    }
    return lanes_sum_ps(total);
}

static void scale(const int8_t *k, size_t n, float step, float *out)
{
    const __m512 steps = _mm512_set1_ps(step);

    for (size_t i = 0; i < n; i += 16) {
        const __m512i v = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(k + i)));
        _mm512_mask_storeu_ps(out + i, lanes_below(i, n),
                              _mm512_mul_ps(_mm512_cvtepi32_ps(v), steps));
    }
}

void codec_dsp_init_avx512(struct codec_dsp *dsp)
{
    dsp->sum_abs = sum_abs;
    dsp->sum_sq = sum_sq;
    dsp->scale = scale;
}
