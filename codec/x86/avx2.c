/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2 + F16C + BMI2. Same bits as dsp.c and pack.c. */
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

/* 16 f64 lanes: 4 registers. */
static inline void add_16_pd(__m256d acc[4], __m256d a, __m256d b, __m256d c, __m256d d)
{
    acc[0] = _mm256_add_pd(acc[0], a);
    acc[1] = _mm256_add_pd(acc[1], b);
    acc[2] = _mm256_add_pd(acc[2], c);
    acc[3] = _mm256_add_pd(acc[3], d);
}

static inline __m256d low_pd(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}

static inline __m256d high_pd(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

static inline double lanes_sum_pd(const __m256d acc[4])
{
    double lane[CODEC_LANES];

    for (unsigned i = 0; i < 4; i++)
        _mm256_storeu_pd(lane + 4 * i, acc[i]);
    return codec_lanes_sum_f64(lane);
}

static double sum_abs(const float *x, size_t n)
{
    __m256d acc[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                      _mm256_setzero_pd()};
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256 a = abs_ps(_mm256_loadu_ps(x + i));
        __m256 b = abs_ps(_mm256_loadu_ps(x + i + 8));
        add_16_pd(acc, low_pd(a), high_pd(a), low_pd(b), high_pd(b));
    }
    if (i < n) {
        __m256 a = abs_ps(_mm256_maskload_ps(x + i, lanes_below(i, n)));
        __m256 b = abs_ps(_mm256_maskload_ps(x + i + 8, lanes_below(i + 8, n)));
        add_16_pd(acc, low_pd(a), high_pd(a), low_pd(b), high_pd(b));
    }
    return lanes_sum_pd(acc);
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint16_t *pos)
{
    const __m256 lim = _mm256_set1_ps(limit);
    size_t n_dense = 0, n_pos = 0, i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        unsigned out = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(abs_ps(v), lim, _CMP_GT_OQ));
        if (out) { /* close the gaps: the lanes to keep, in order */
            uint64_t keep = _pdep_u64(~out & 0xffu, 0x0101010101010101u) * 0xff;
            uint64_t order = _pext_u64(0x0706050403020100u, keep);
            v = _mm256_permutevar8x32_ps(v,
                                         _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)order)));
        }
        _mm256_storeu_ps(dense + n_dense, v);
        n_dense += 8 - (unsigned)__builtin_popcount(out);
        for (; out; out &= out - 1)
            pos[n_pos++] = (uint16_t)(i + (unsigned)__builtin_ctz(out));
    }
    for (; i < n; i++) {
        if (__builtin_fabsf(x[i]) > limit)
            pos[n_pos++] = (uint16_t)i;
        else
            dense[n_dense++] = x[i];
    }
    return n_pos;
}

static inline float extreme(__m256 v, bool max)
{
    float lane[8], r = 0.0f;

    _mm256_storeu_ps(lane, v);
    for (unsigned i = 0; i < 8; i++)
        r = (max ? lane[i] > r : lane[i] < r) ? lane[i] : r;
    return r;
}

static void span(const float *dense, size_t n, struct codec_span *s)
{
    __m256d acc[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                      _mm256_setzero_pd()};
    __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps();

    for (size_t i = 0; i < n; i += 16) { /* zeros beyond n change nothing */
        __m256 a = _mm256_loadu_ps(dense + i), b = _mm256_loadu_ps(dense + i + 8);
        __m256d a0 = low_pd(a), a1 = high_pd(a), b0 = low_pd(b), b1 = high_pd(b);
        lo = _mm256_min_ps(_mm256_min_ps(a, b), lo);
        hi = _mm256_max_ps(_mm256_max_ps(a, b), hi);
        add_16_pd(acc, _mm256_mul_pd(a0, a0), _mm256_mul_pd(a1, a1), _mm256_mul_pd(b0, b0),
                  _mm256_mul_pd(b1, b1));
    }
    s->lo = extreme(lo, false);
    s->hi = extreme(hi, true);
    s->sum_sq = lanes_sum_pd(acc);
}

static inline __m256 position(const float *x, __m256 inv, __m256 bias)
{
    return _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inv), bias);
}

static inline __m256 error_sq(__m256 t, __m256 top)
{
    __m256 code = _mm256_max_ps(_mm256_round_ps(t, NEAREST), _mm256_setzero_ps());
    __m256 e = _mm256_sub_ps(t, _mm256_min_ps(code, top));
    return _mm256_mul_ps(e, e);
}

static float grid_error(const float *dense, size_t n, const struct codec_grid *g)
{
    const __m256 inv = _mm256_set1_ps(g->inv), bias = _mm256_set1_ps(g->bias),
                 top = _mm256_set1_ps(g->top);
    __m256 acc0 = _mm256_setzero_ps(), acc1 = _mm256_setzero_ps();
    float lane[CODEC_LANES];
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        acc0 = _mm256_add_ps(acc0, error_sq(position(dense + i, inv, bias), top));
        acc1 = _mm256_add_ps(acc1, error_sq(position(dense + i + 8, inv, bias), top));
    }
    if (i < n) { /* zero is not always on the grid: keep the padding's error out */
        __m256 e0 = error_sq(position(dense + i, inv, bias), top);
        __m256 e1 = error_sq(position(dense + i + 8, inv, bias), top);
        acc0 = _mm256_add_ps(acc0, _mm256_and_ps(e0, _mm256_castsi256_ps(lanes_below(i, n))));
        acc1 = _mm256_add_ps(acc1, _mm256_and_ps(e1, _mm256_castsi256_ps(lanes_below(i + 8, n))));
    }
    _mm256_storeu_ps(lane, acc0);
    _mm256_storeu_ps(lane + 8, acc1);
    return codec_lanes_sum_f32(lane);
}

static void quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    const __m256 inv = _mm256_set1_ps(g->inv), bias = _mm256_set1_ps(g->bias);
    const __m256i top = _mm256_set1_epi8((char)(uint8_t)g->top);
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);

    for (size_t i = 0; i < n; i += 32) {
        __m256i a = _mm256_cvtps_epi32(position(dense + i, inv, bias));
        __m256i b = _mm256_cvtps_epi32(position(dense + i + 8, inv, bias));
        __m256i c = _mm256_cvtps_epi32(position(dense + i + 16, inv, bias));
        __m256i d = _mm256_cvtps_epi32(position(dense + i + 24, inv, bias));
        /* saturation to u8 takes negative codes to 0 */
        __m256i v = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        v = _mm256_permutevar8x32_epi32(_mm256_min_epu8(v, top), in_order);
        _mm256_storeu_si256((__m256i *)(codes + i), v);
    }
}

/* For each mask of 8 columns: which of the next codes goes where, as a shuffle from bytes to 32-bit
 * lanes; outliers get 0. */
#define NONE 0x80808080u
#define LANE(m, i)                                                                                 \
    ((m) >> (i)&1 ? NONE : 0x80808000u | (i - __builtin_popcount((m) & ((1u << (i)) - 1))))
#define LANES(m)                                                                                   \
    {                                                                                              \
        LANE(m, 0), LANE(m, 1), LANE(m, 2), LANE(m, 3), LANE(m, 4), LANE(m, 5), LANE(m, 6),        \
            LANE(m, 7)                                                                             \
    }
#define LANES_4(m)  LANES(m), LANES((m) + 1), LANES((m) + 2), LANES((m) + 3)
#define LANES_16(m) LANES_4(m), LANES_4((m) + 4), LANES_4((m) + 8), LANES_4((m) + 12)
#define LANES_64(m) LANES_16(m), LANES_16((m) + 16), LANES_16((m) + 32), LANES_16((m) + 48)
static const uint32_t spread[256][8]
    __attribute__((aligned(32))) = {LANES_64(0u), LANES_64(64u), LANES_64(128u), LANES_64(192u)};

static inline __m256 spread_codes(const uint8_t *codes, size_t mask)
{
    long long next;
    memcpy(&next, codes, sizeof(next));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(
        _mm256_set1_epi64x(next), _mm256_load_si256((const __m256i *)spread[mask])));
}

/* unit * ((code << shift) - zero) in one rounding, which is exact as the value itself is. Half of
 * it, doubled, where a step would overflow that no value does. */
static inline void dequantize_by(const uint8_t *codes, const uint8_t *mask, size_t n, float step,
                                 float base, bool halved, float *restrict out)
{
    const __m256 steps = _mm256_set1_ps(step), bases = _mm256_set1_ps(base);
    size_t i = 0;

    /* column i's code is codes[i], less the outliers before it */
    for (; i + 32 <= n; i += 32, mask += 4) {
        for (unsigned k = 0; k < 4; k++) {
            const size_t m = mask[k];
            __m256 v = _mm256_fmadd_ps(spread_codes(codes + i + 8 * k, m), steps, bases);
            codes -= __builtin_popcountll(m);
            _mm256_storeu_ps(out + i + 8 * k, halved ? _mm256_add_ps(v, v) : v);
        }
    }
    for (; i < n; i += 8, mask++) {
        const size_t m = *mask;
        __m256 v = _mm256_fmadd_ps(spread_codes(codes + i, m), steps, bases);
        codes -= __builtin_popcountll(m);
        _mm256_maskstore_ps(out + i, lanes_below(i, n), halved ? _mm256_add_ps(v, v) : v);
    }
}

static void dequantize(const uint8_t *codes, const uint8_t *mask, size_t n,
                       const struct codec_grid *g, float *out)
{
    const float steps = (float)(1u << (8 - g->width)), zero = (float)g->zero;

    if (__builtin_isfinite(g->unit * steps))
        dequantize_by(codes, mask, n, g->unit * steps, -g->unit * zero, false, out);
    else
        dequantize_by(codes, mask, n, 0.5f * g->unit * steps, -0.5f * g->unit * zero, true, out);
}

/* Codes close up in pairs, then fours, by multiply-add; the halves of each 64-bit lane are shifted
 * together, and its q bytes shuffled behind those of its neighbour. What a store writes beyond is
 * overwritten by the next. */
static void pack(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits)
{
    const __m256i pair = _mm256_set1_epi16((short)(1u | 1u << q << 8)),
                  four = _mm256_set1_epi32((int)(1u | 1u << 2 * q << 16)),
                  up = _mm256_set1_epi64x(32 - 4 * (int)q);
    const __m128i down = _mm_cvtsi32_si128(32 - 4 * (int)q);
    const __m128i byte = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i second = _mm_cmpgt_epi8(byte, _mm_set1_epi8((char)(q - 1)));
    const __m256i join = _mm256_broadcastsi128_si256(
        _mm_add_epi8(byte, _mm_and_si128(second, _mm_set1_epi8((char)(8 - q)))));

    if (q == 8) { /* has no room for the signs that the multiplications see */
        memcpy(bits, codes, n);
        return;
    }
    for (size_t i = 0; i < n; i += 32, bits += 4 * q) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(codes + i));
        v = _mm256_madd_epi16(_mm256_maddubs_epi16(pair, v), four);
        v = _mm256_srl_epi64(_mm256_sllv_epi32(v, up), down);
        v = _mm256_shuffle_epi8(v, join);
        _mm_storeu_si128((__m128i *)bits, _mm256_castsi256_si128(v));
        _mm_storeu_si128((__m128i *)(bits + 2 * q), _mm256_extracti128_si256(v, 1));
    }
}

/* 16 codes of q bits: each code's two bytes come to its 16-bit lane, where a multiplication shifts
 * the code to the top. */
struct opening {
    __m256i bytes, shift;
    __m128i down;
};

static struct opening opening(unsigned q)
{
    const __m256i code = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i bit = _mm256_mullo_epi16(code, _mm256_set1_epi16((short)q));
    const __m256i first = _mm256_srli_epi16(bit, 3);
    const __m256i next = _mm256_slli_epi16(_mm256_add_epi16(first, _mm256_set1_epi16(1)), 8);
    /* 1 << (7 - offset) */
    const __m256i power =
        _mm256_shuffle_epi8(_mm256_set1_epi64x(0x0102040810204080),
                            _mm256_or_si256(_mm256_and_si256(bit, _mm256_set1_epi16(7)),
                                            _mm256_set1_epi16((short)0x8000)));

    return (struct opening){_mm256_or_si256(first, next),
                            _mm256_sll_epi16(power, _mm_cvtsi32_si128(9 - (int)q)),
                            _mm_cvtsi32_si128(16 - (int)q)};
}

static inline __m256i open_16(const uint8_t *bits, struct opening o)
{
    const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bits));

    return _mm256_srl_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(v, o.bytes), o.shift), o.down);
}

static void unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes)
{
    const struct opening o = opening(q);

    for (size_t i = 0; i < n; i += 32, bits += 4 * q) {
        __m256i v = _mm256_packus_epi16(open_16(bits, o), open_16(bits + 2 * q, o));
        _mm256_storeu_si256((__m256i *)(codes + i), _mm256_permute4x64_epi64(v, 0xd8));
    }
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
    *dsp = (struct codec_dsp){
        .sum_abs = sum_abs,
        .split = split,
        .span = span,
        .grid_error = grid_error,
        .quantize = quantize,
        .dequantize = dequantize,
        .pack = pack,
        .unpack = unpack,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
}
