/* SPDX-License-Identifier: Apache-2.0 */
/* The coded modes' kernels in AVX2. Same bits as coded_dsp.c. */
#include <float.h>
#include <math.h>
#include <immintrin.h>
#include <string.h>

#include "codec/dsp.h"
#include "codec/x86/coded_x86.h"

/* 32 lanes: 4 registers. Rows end in a block of 32 that is padded with zeros: they change no sum.
 */
#define REGISTERS (CODEC_LANES / 8)

static inline __m256 abs_ps(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* Pairwise, as codec_lanes_sum_f32() does. */
static inline float lanes_sum_ps(const __m256 acc[REGISTERS])
{
    const __m256 eight =
        _mm256_add_ps(_mm256_add_ps(acc[0], acc[2]), _mm256_add_ps(acc[1], acc[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline void center_32(const float *x, const float *mean, float *out, __m256 acc[REGISTERS])
{
    for (unsigned r = 0; r < REGISTERS; r++) {
        const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + 8 * r), _mm256_loadu_ps(mean + 8 * r));
        _mm256_storeu_ps(out + 8 * r, v);
        acc[r] = _mm256_fmadd_ps(v, v, acc[r]);
    }
}

static float center(const float *x, const float *mean, size_t n, float *out)
{
    __m256 acc[REGISTERS] = {0};
    float a[CODEC_LANES] = {0}, b[CODEC_LANES] = {0};
    size_t i = 0;

    for (; i + CODEC_LANES <= n; i += CODEC_LANES)
        center_32(x + i, mean + i, out + i, acc);
    memcpy(a, x + i, (n - i) * sizeof(*x));
    memcpy(b, mean + i, (n - i) * sizeof(*x));
    center_32(a, b, a, acc);
    memcpy(out + i, a, (n - i) * sizeof(*x));
    return lanes_sum_ps(acc);
}

static inline void dot_32(const float *a, const float *b, __m256 acc[REGISTERS])
{
    for (unsigned r = 0; r < REGISTERS; r++)
        acc[r] = _mm256_fmadd_ps(_mm256_loadu_ps(a + 8 * r), _mm256_loadu_ps(b + 8 * r), acc[r]);
}

static float dot(const float *a, const float *b, size_t n)
{
    __m256 acc[REGISTERS] = {0};
    float last[2][CODEC_LANES] = {{0}};
    size_t i = 0;

    for (; i + CODEC_LANES <= n; i += CODEC_LANES)
        dot_32(a + i, b + i, acc);
    memcpy(last[0], a + i, (n - i) * sizeof(*a));
    memcpy(last[1], b + i, (n - i) * sizeof(*b));
    dot_32(last[0], last[1], acc);
    return lanes_sum_ps(acc);
}

static inline __m256i nearest(__m256 v)
{
    v = _mm256_max_ps(v, _mm256_set1_ps(-32767.0f));
    return _mm256_cvtps_epi32(_mm256_min_ps(v, _mm256_set1_ps(32767.0f)));
}

static inline void store_16(int16_t *k, __m256i a, __m256i b)
{
    const __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);

    _mm256_storeu_si256((__m256i *)k, v);
}

static inline void to_i16_16(const float *x, __m256 scale, int16_t *k)
{
    store_16(k, nearest(_mm256_mul_ps(_mm256_loadu_ps(x), scale)),
             nearest(_mm256_mul_ps(_mm256_loadu_ps(x + 8), scale)));
}

static void to_i16(const float *x, size_t n, float scale, int16_t *k)
{
    const __m256 scales = _mm256_set1_ps(scale);
    float last[16] = {0};
    int16_t out[16];
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        to_i16_16(x + i, scales, k + i);
    memcpy(last, x + i, (n - i) * sizeof(*x));
    to_i16_16(last, scales, out);
    memcpy(k + i, out, (n - i) * sizeof(*k));
}

static inline __m256 scaled(const int32_t *acc, const float *mult, __m256 scale)
{
    const __m256 v = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)acc));

    return _mm256_mul_ps(v, _mm256_mul_ps(_mm256_loadu_ps(mult), scale));
}

static void scale_to_i16(const int32_t *acc, const float *mult, float scale, size_t n, int16_t *k)
{
    const __m256 scales = _mm256_set1_ps(scale);
    int32_t last[16] = {0};
    float mults[16] = {0};
    int16_t out[16];
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        store_16(k + i, nearest(scaled(acc + i, mult + i, scales)),
                 nearest(scaled(acc + i + 8, mult + i + 8, scales)));
    memcpy(last, acc + i, (n - i) * sizeof(*acc));
    memcpy(mults, mult + i, (n - i) * sizeof(*mult));
    store_16(out, nearest(scaled(last, mults, scales)),
             nearest(scaled(last + 8, mults + 8, scales)));
    memcpy(k + i, out, (n - i) * sizeof(*k));
}

/* The best of every 8th class, then the best of those and the first among equals. */
static size_t best_class(const int32_t *acc, float unit, const float *bias, size_t n)
{
    const __m256 units = _mm256_set1_ps(unit);
    __m256 most = _mm256_set1_ps(-INFINITY);
    __m256i best = _mm256_setzero_si256();
    __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    float scores[8], top = -INFINITY;
    uint32_t classes[8], first = UINT32_MAX;
    size_t k = 0;

    for (; k + 8 <= n; k += 8) {
        const __m256 v = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(acc + k)));
        const __m256 score = _mm256_add_ps(_mm256_mul_ps(v, units), _mm256_loadu_ps(bias + k));
        const __m256 more = _mm256_cmp_ps(score, most, _CMP_GT_OQ);
        most = _mm256_blendv_ps(most, score, more);
        best = _mm256_blendv_epi8(best, at, _mm256_castps_si256(more));
        at = _mm256_add_epi32(at, _mm256_set1_epi32(8));
    }
    _mm256_storeu_ps(scores, most);
    _mm256_storeu_si256((__m256i *)classes, best);
    for (unsigned i = 0; k && i < 8; i++) {
        if (scores[i] > top || (scores[i] == top && classes[i] < first)) {
            top = scores[i];
            first = classes[i];
        }
    }
    for (; k < n; k++) {
        const float score = (float)acc[k] * unit + bias[k];
        if (score > top) {
            top = score;
            first = (uint32_t)k;
        }
    }
    return first;
}

static uint64_t sum_sq_i16(const int16_t *k, size_t n)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i sum = zero;
    int16_t last[16] = {0};
    uint64_t lane[4];

    for (size_t i = 0; i < n; i += 16) {
        __m256i v;
        if (i + 16 <= n) {
            v = _mm256_loadu_si256((const __m256i *)(k + i));
        } else {
            memcpy(last, k + i, (n - i) * sizeof(*k));
            v = _mm256_loadu_si256((const __m256i *)last);
        }
        v = _mm256_madd_epi16(v, v);
        sum = _mm256_add_epi64(sum, _mm256_unpacklo_epi32(v, zero));
        sum = _mm256_add_epi64(sum, _mm256_unpackhi_epi32(v, zero));
    }
    _mm256_storeu_si256((__m256i *)lane, sum);
    return lane[0] + lane[1] + lane[2] + lane[3];
}

static inline __m256 not_finite(__m256 v)
{
    return _mm256_cmp_ps(abs_ps(v), _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ);
}

static inline __m256 widen(const int16_t *k)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)k)));
}

static bool from_i16(const int16_t *k, float delta, const float *mean, size_t n, float *out)
{
    const __m256 deltas = _mm256_set1_ps(delta);
    __m256 bad = _mm256_setzero_ps(), v;
    float m[8] = {0};
    int16_t last[8] = {0};
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        v = _mm256_fmadd_ps(widen(k + i), deltas, _mm256_loadu_ps(mean + i));
        _mm256_storeu_ps(out + i, v);
        bad = _mm256_or_ps(bad, not_finite(v));
    }
    memcpy(m, mean + i, (n - i) * sizeof(*m));
    memcpy(last, k + i, (n - i) * sizeof(*k));
    v = _mm256_fmadd_ps(widen(last), deltas, _mm256_loadu_ps(m));
    _mm256_storeu_ps(m, v);
    memcpy(out + i, m, (n - i) * sizeof(*m));
    bad = _mm256_or_ps(bad, not_finite(v));
    return !_mm256_movemask_ps(bad);
}

static bool from_i32(const int32_t *acc, const float *scale, float delta, const float *mean,
                     size_t n, float *out)
{
    const __m256 deltas = _mm256_set1_ps(delta);
    __m256 bad = _mm256_setzero_ps(), v;
    float m[8] = {0}, s[8] = {0};
    int32_t last[8] = {0};
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(acc + i))),
                            _mm256_mul_ps(_mm256_loadu_ps(scale + i), deltas),
                            _mm256_loadu_ps(mean + i));
        _mm256_storeu_ps(out + i, v);
        bad = _mm256_or_ps(bad, not_finite(v));
    }
    memcpy(m, mean + i, (n - i) * sizeof(*m));
    memcpy(s, scale + i, (n - i) * sizeof(*s));
    memcpy(last, acc + i, (n - i) * sizeof(*acc));
    v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)last)),
                        _mm256_mul_ps(_mm256_loadu_ps(s), deltas), _mm256_loadu_ps(m));
    _mm256_storeu_ps(m, v);
    memcpy(out + i, m, (n - i) * sizeof(*m));
    bad = _mm256_or_ps(bad, not_finite(v));
    return !_mm256_movemask_ps(bad);
}

/* 32 coefficients as symbols, 16 for an escape, of which a look-up takes the lowest 4 bits. Their
 * order is 0-7, 16-23, 8-15, 24-31. */
static inline __m256i symbols_of(const int16_t *k, unsigned shift)
{
    const __m256i half = _mm256_set1_epi16((int16_t)(1 << shift >> 1));
    const __m128i count = _mm_cvtsi32_si128((int)shift);
    __m256i a = _mm256_loadu_si256((const __m256i *)k);
    __m256i b = _mm256_loadu_si256((const __m256i *)(k + 16));

    a = _mm256_sra_epi16(_mm256_add_epi16(a, half), count);
    b = _mm256_sra_epi16(_mm256_add_epi16(b, half), count);
    a = _mm256_adds_epi8(_mm256_packs_epi16(a, b), _mm256_set1_epi8(8));
    return _mm256_min_epu8(a, _mm256_set1_epi8(16));
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
        s = _mm256_permute4x64_epi64(symbols_of(k + g * RANS_GROUP, l->shift[at]), 0xd8);
        s = _mm256_shuffle_epi8(row_16(l->coded_as[table]), s);
        _mm256_storeu_si256((__m256i *)(symbols + coded * RANS_GROUP), s);
        escapes[coded++] =
            (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(s, _mm256_setzero_si256()));
    }
    return coded;
}

static size_t join_symbols(const struct levels *l, const uint8_t *symbols, const int8_t *level,
                           int offset, size_t groups, int16_t *k, uint32_t *escapes)
{
    size_t coded = 0;

    for (size_t g = 0; g < groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(level[g], offset);
        const __m128i count = _mm_cvtsi32_si128(l->shift[at]);
        __m256i s, a, b;
        if (l->table[at] == TABLE_NONE) {
            memset(k, 0, RANS_GROUP * sizeof(*k));
            continue;
        }
        s = _mm256_loadu_si256((const __m256i *)(symbols + coded * RANS_GROUP));
        escapes[coded++] =
            (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(s, _mm256_setzero_si256()));
        s = _mm256_sub_epi8(s, _mm256_set1_epi8(8));
        a = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(s));
        b = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(s, 1));
        _mm256_storeu_si256((__m256i *)k, _mm256_sll_epi16(a, count));
        _mm256_storeu_si256((__m256i *)(k + 16), _mm256_sll_epi16(b, count));
    }
    return coded;
}

void coded_dsp_init_avx2(struct codec_dsp *dsp)
{
    dsp->center = center;
    dsp->dot = dot;
    dsp->to_i16 = to_i16;
    dsp->scale_to_i16 = scale_to_i16;
    dsp->best_class = best_class;
    dsp->sum_sq_i16 = sum_sq_i16;
    dsp->from_i16 = from_i16;
    dsp->from_i32 = from_i32;
    dsp->code_cost = code_cost;
    dsp->split_symbols = split_symbols;
    dsp->join_symbols = join_symbols;
}
