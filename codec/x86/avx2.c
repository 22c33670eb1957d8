/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2 + F16C. Same bits as dsp.c. */
#include "codec/dsp.h"

#include <immintrin.h>
#include <string.h>

#include "codec/f16.h"

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline __m256 abs_ps(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* All ones in the lanes first, first + 1, ... that are below n. */
static inline __m256i lanes_below(size_t first, size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - (int)first), lane);
}

/* 32 lanes: 4 registers. */
#define REGISTERS (CODEC_LANES / 8)

/* Pairwise, as codec_lanes_sum_f32() does. */
static inline __m256 eight_lanes_ps(const __m256 acc[REGISTERS])
{
    return _mm256_add_ps(_mm256_add_ps(acc[0], acc[2]), _mm256_add_ps(acc[1], acc[3]));
}

static inline float lanes_sum_ps(__m256 eight)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

struct totals {
    __m256 sum[REGISTERS];
    __m256 sum_sq[REGISTERS]; /* of the span */
};

/* As integers, whose order is that of floats, and NaN above all. */
static inline __m256 larger_ps(__m256 a, __m256 b)
{
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline void sum_abs_8(__m256 x, unsigned r, struct totals *t)
{
    const __m256 v = abs_ps(x);

    t->sum[r] = _mm256_add_ps(t->sum[r], v);
    t->sum_sq[r] = _mm256_fmadd_ps(v, v, t->sum_sq[r]);
}

static inline float lanes_max_ps(__m256 eight)
{
    const __m256i v = _mm256_castps_si256(eight);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 1));
    return f32_from_bits((uint32_t)_mm_cvtsi128_si32(m));
}

static float sum_abs(const float *x, size_t n, size_t every, struct codec_span *spans,
                     float *largest)
{
    __m256 max = _mm256_setzero_ps(), span;
    struct totals t;

    for (unsigned r = 0; r < REGISTERS; r++)
        t.sum[r] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; spans++) {
        const size_t end = i + CODEC_SPAN < n ? i + CODEC_SPAN : n;
        for (unsigned r = 0; r < REGISTERS; r++)
            t.sum_sq[r] = _mm256_setzero_ps();
        for (; i + CODEC_LANES <= end; i += CODEC_LANES, x += CODEC_LANES * every)
            for (unsigned r = 0; r < REGISTERS; r++)
                sum_abs_8(_mm256_loadu_ps(x + 8 * r), r, &t);
        for (unsigned r = 0; r < REGISTERS && i < end; r++, i += 8)
            sum_abs_8(_mm256_maskload_ps(x + 8 * r, lanes_below(i, n)), r, &t);
        span = eight_lanes_ps(t.sum_sq);
        max = larger_ps(max, span);
        _mm256_storeu_ps(spans->sum_sq, span);
    }
    *largest = lanes_max_ps(max);
    return lanes_sum_ps(eight_lanes_ps(t.sum));
}

/* A span's squares, in 8 lanes. */
static __m256 capped_ps(const float *x, size_t n, size_t every, __m256 cap)
{
    __m256 acc[REGISTERS], v;
    size_t i = 0;

    for (unsigned r = 0; r < REGISTERS; r++)
        acc[r] = _mm256_setzero_ps();
    for (; i + CODEC_LANES <= n; i += CODEC_LANES, x += CODEC_LANES * every) {
        for (unsigned r = 0; r < REGISTERS; r++) {
            v = _mm256_min_ps(abs_ps(_mm256_loadu_ps(x + 8 * r)), cap);
            acc[r] = _mm256_fmadd_ps(v, v, acc[r]);
        }
    }
    for (unsigned r = 0; r < REGISTERS && i < n; r++, i += 8) {
        v = _mm256_min_ps(abs_ps(_mm256_maskload_ps(x + 8 * r, lanes_below(i, n))), cap);
        acc[r] = _mm256_fmadd_ps(v, v, acc[r]);
    }
    return eight_lanes_ps(acc);
}

static float sum_sq(const float *x, size_t n, size_t every, float cap,
                    const struct codec_span *spans)
{
    const __m256 caps = _mm256_set1_ps(cap), caps_sq = _mm256_mul_ps(caps, caps);
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

static float max_abs(const float *x, size_t n)
{
    __m256 max[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        for (unsigned r = 0; r < 2; r++)
            max[r] = larger_ps(max[r], abs_ps(_mm256_loadu_ps(x + i + 8 * r)));
    for (; i < n; i += 8)
        max[0] = larger_ps(max[0], abs_ps(_mm256_maskload_ps(x + i, lanes_below(i, n))));
    return lanes_max_ps(larger_ps(max[0], max[1]));
}

/* glibc's memcpy of a few KB is `rep movsb`, which takes ten times as long at some alignments on
 * Zen 3: `isthmus bench codec --codec f32` with the C kernels shows it. */
static void copy(void *dst, const void *src, size_t bytes)
{
    const char *from = src;
    char *to = dst;

    if (bytes < 32) {
        memcpy(to, from, bytes);
        return;
    }
    for (size_t k = 0; k < bytes - 32; k += 32)
        _mm256_storeu_si256((__m256i *)(to + k), _mm256_loadu_si256((const __m256i *)(from + k)));
    from += bytes - 32;
    to += bytes - 32;
    _mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
}

static bool to_f16(const float *x, size_t n, uint8_t *dst)
{
    const __m256 edge = _mm256_set1_ps(F16_OVERFLOW);
    __m256 bad = _mm256_setzero_ps();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(abs_ps(v), edge, _CMP_NLT_UQ));
        _mm_storeu_si128((__m128i *)(dst + 2 * i), _mm256_cvtps_ph(v, NEAREST));
    }
    for (; i < n; i++) {
        uint16_t h;
        if (!(__builtin_fabsf(x[i]) < F16_OVERFLOW))
            return false;
        h = f16_from_f32(x[i]);
        memcpy(dst + 2 * i, &h, sizeof(h));
    }
    return _mm256_testz_ps(bad, bad);
}

static bool from_f16(const uint8_t *src, size_t n, float *out)
{
    const __m128i exponent = _mm_set1_epi16((short)F16_EXPONENT);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(src + 2 * i));
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(h, exponent), exponent));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(h));
    }
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof(h));
        if (!f16_is_finite(h))
            return false;
        out[i] = f32_from_f16(h);
    }
    return _mm_testz_si128(bad, bad);
}

void codec_dsp_init_avx2(struct codec_dsp *dsp)
{
    dsp->sum_abs = sum_abs;
    dsp->sum_sq = sum_sq;
    dsp->max_abs = max_abs;
    dsp->copy = copy;
    dsp->to_f16 = to_f16;
    dsp->from_f16 = from_f16;
}
