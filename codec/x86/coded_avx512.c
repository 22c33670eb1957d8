/* SPDX-License-Identifier: Apache-2.0 */
/* The coded modes' kernels in AVX-512 F + BW. Same bits as coded_dsp.c; what isn't here stays
 * AVX2's. */
#include <float.h>
#include <immintrin.h>
#include <string.h>

#include "codec/dsp.h"
#include "codec/x86/coded_x86.h"

/* The lanes of a register at x[i] that are below n. */
static inline __mmask16 lanes_below(size_t i, size_t n)
{
    return i + 16 <= n ? (__mmask16)0xffff : i < n ? (__mmask16)((1u << (n - i)) - 1) : 0;
}

static inline __m512 load(const float *x, size_t i, size_t n)
{
    return _mm512_maskz_loadu_ps(lanes_below(i, n), x + i);
}

/* Pairwise, as codec_lanes_sum_f32() does: lanes 0-15 and 16-31. */
static inline float lanes_sum_ps(const __m512 acc[2])
{
    float lane[16];
    __m256 eight;
    __m128 four, two;

    _mm512_storeu_ps(lane, _mm512_add_ps(acc[0], acc[1]));
    eight = _mm256_add_ps(_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8));
    four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static float center(const float *x, const float *mean, size_t n, float *out)
{
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};

    for (size_t i = 0; i < n; i += 16) {
        const __m512 v = _mm512_sub_ps(load(x, i, n), load(mean, i, n));
        __m512 *sum = &acc[i / 16 % 2];
        _mm512_mask_storeu_ps(out + i, lanes_below(i, n), v);
        *sum = _mm512_fmadd_ps(v, v, *sum);
    }
    return lanes_sum_ps(acc);
}

static float dot(const float *a, const float *b, size_t n)
{
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};

    for (size_t i = 0; i < n; i += 16) {
        __m512 *sum = &acc[i / 16 % 2];
        *sum = _mm512_fmadd_ps(load(a, i, n), load(b, i, n), *sum);
    }
    return lanes_sum_ps(acc);
}

/* The nearest integers within 16 bits, to k[0, n), n <= 16. */
static inline void store_nearest(int16_t *k, size_t n, __m512 v)
{
    __m512i wide;
    __m256i narrow;

    v = _mm512_max_ps(v, _mm512_set1_ps(-32767.0f));
    wide = _mm512_cvtps_epi32(_mm512_min_ps(v, _mm512_set1_ps(32767.0f)));
    narrow = _mm512_cvtepi32_epi16(wide);
    if (n >= 16)
        _mm256_storeu_si256((__m256i *)k, narrow);
    else
        memcpy(k, &narrow, n * sizeof(*k));
}

static void to_i16(const float *x, size_t n, float scale, int16_t *k)
{
    const __m512 scales = _mm512_set1_ps(scale);

    for (size_t i = 0; i < n; i += 16)
        store_nearest(k + i, n - i, _mm512_mul_ps(load(x, i, n), scales));
}

/* 16 integers, those from n on unspecified, as floats. */
static inline __m512 load_i32(const int32_t *acc, size_t i, size_t n)
{
    int32_t last[16] = {0};

    if (i + 16 <= n)
        return _mm512_cvtepi32_ps(_mm512_loadu_si512(acc + i));
    memcpy(last, acc + i, (n - i) * sizeof(*acc));
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(last));
}

static inline __m512 load_i16(const int16_t *k, size_t i, size_t n)
{
    int16_t last[16] = {0};

    if (i + 16 <= n)
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(k + i))));
    memcpy(last, k + i, (n - i) * sizeof(*k));
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)last)));
}

static void scale_to_i16(const int32_t *acc, const float *mult, float scale, size_t n, int16_t *k)
{
    const __m512 scales = _mm512_set1_ps(scale);

    for (size_t i = 0; i < n; i += 16)
        store_nearest(k + i, n - i,
                      _mm512_mul_ps(load_i32(acc, i, n), _mm512_mul_ps(load(mult, i, n), scales)));
}

static inline __mmask16 store_finite(float *out, size_t i, size_t n, __m512 v)
{
    _mm512_mask_storeu_ps(out + i, lanes_below(i, n), v);
    return _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(FLT_MAX), _CMP_LE_OQ);
}

static bool from_i16(const int16_t *k, float delta, const float *mean, size_t n, float *out)
{
    const __m512 deltas = _mm512_set1_ps(delta);
    unsigned good = 0xffff;

    for (size_t i = 0; i < n; i += 16)
        good &=
            store_finite(out, i, n, _mm512_fmadd_ps(load_i16(k, i, n), deltas, load(mean, i, n)));
    return good == 0xffff;
}

static bool from_i32(const int32_t *acc, const float *scale, float delta, const float *mean,
                     size_t n, float *out)
{
    const __m512 deltas = _mm512_set1_ps(delta);
    unsigned good = 0xffff;

    for (size_t i = 0; i < n; i += 16)
        good &= store_finite(out, i, n,
                             _mm512_fmadd_ps(load_i32(acc, i, n),
                                             _mm512_mul_ps(load(scale, i, n), deltas),
                                             load(mean, i, n)));
    return good == 0xffff;
}

/* 32 coefficients as symbols, 16 for an escape, of which a look-up takes the lowest 4 bits. */
static inline __m256i symbols_of(const int16_t *k, unsigned shift)
{
    const __m512i half = _mm512_set1_epi16((int16_t)(1 << shift >> 1));
    const __m512i v = _mm512_add_epi16(_mm512_loadu_si512(k), half);
    const __m512i high = _mm512_sra_epi16(v, _mm_cvtsi32_si128((int)shift));
    const __m256i s = _mm256_adds_epi8(_mm512_cvtsepi16_epi8(high), _mm256_set1_epi8(8));

    return _mm256_min_epu8(s, _mm256_set1_epi8(16));
}

static uint32_t code_cost(const struct levels *l, const int16_t *k, const int8_t *level, int offset,
                          size_t groups)
{
    return cost_by(symbols_of, l, k, level, offset, groups);
}

static size_t split_symbols(const struct levels *l, const int16_t *k, const int8_t *level,
                            int offset, size_t groups, uint8_t *symbols, uint32_t *escapes)
{
    size_t coded = 0;

    for (size_t g = 0; g < groups; g++) {
        const unsigned at = level_index(level[g], offset);
        const unsigned table = l->table[at];
        __m256i s;
        if (table == TABLE_NONE)
            continue;
        s = _mm256_shuffle_epi8(row_16(l->coded_as[table]),
                                symbols_of(k + g * RANS_GROUP, l->shift[at]));
        _mm256_storeu_si256((__m256i *)(symbols + coded * RANS_GROUP), s);
        escapes[coded++] =
            (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(s, _mm256_setzero_si256()));
    }
    return coded;
}

void coded_dsp_init_avx512(struct codec_dsp *dsp)
{
    dsp->center = center;
    dsp->dot = dot;
    dsp->to_i16 = to_i16;
    dsp->scale_to_i16 = scale_to_i16;
    dsp->from_i16 = from_i16;
    dsp->from_i32 = from_i32;
    dsp->code_cost = code_cost;
    dsp->split_symbols = split_symbols;
}
