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

/* 32 lanes: 4 registers. */
#define REGISTERS (CODEC_LANES / 8)

/* Pairwise, as codec_lanes_sum_f32() does. */
static inline float lanes_sum_ps(const __m256 acc[REGISTERS])
{
    const __m256 eight =
        _mm256_add_ps(_mm256_add_ps(acc[0], acc[2]), _mm256_add_ps(acc[1], acc[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline void sum_abs_32(const float *x, __m256 acc[REGISTERS])
{
    for (unsigned k = 0; k < REGISTERS; k++)
        acc[k] = _mm256_add_ps(acc[k], abs_ps(_mm256_loadu_ps(x + 8 * k)));
}

static float sum_abs(const float *x, size_t n)
{
    __m256 acc[REGISTERS] = {0};
    float last[CODEC_LANES] = {0};
    size_t i = 0;

    for (; i + CODEC_LANES <= n; i += CODEC_LANES)
        sum_abs_32(x + i, acc);
    memcpy(last, x + i, (n - i) * sizeof(*x));
    sum_abs_32(last, acc);
    return lanes_sum_ps(acc);
}

/* Among floats read as integers, the largest signed one is the largest positive one, and the
 * largest unsigned one the most negative. Integer units have the time. */
struct extent {
    __m256i lo, hi;
};

static inline struct extent extent_add(struct extent e, __m256 v)
{
    return (struct extent){_mm256_max_epu32(e.lo, _mm256_castps_si256(v)),
                           _mm256_max_epi32(e.hi, _mm256_castps_si256(v))};
}

/* Without negative values lo has positive ones. */
static void extent_end(struct extent e, struct codec_span *s)
{
    const __m256 lo = _mm256_min_ps(_mm256_castsi256_ps(e.lo), _mm256_setzero_ps());
    const __m256 hi = _mm256_castsi256_ps(e.hi); /* max with 0 from the start */
    __m128 l = _mm_min_ps(_mm256_castps256_ps128(lo), _mm256_extractf128_ps(lo, 1));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(hi), _mm256_extractf128_ps(hi, 1));

    l = _mm_min_ps(l, _mm_movehl_ps(l, l));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    s->lo = _mm_cvtss_f32(_mm_min_ss(l, _mm_movehdup_ps(l)));
    s->hi = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

/* 32 columns; returns their mask. */
static inline uint32_t split_32(const float *x, __m256 limit, float *dense, __m256 acc[REGISTERS],
                                struct extent *e)
{
    uint32_t mask = 0;

    for (unsigned k = 0; k < REGISTERS; k++) {
        __m256 v = _mm256_loadu_ps(x + 8 * k);
        const __m256 outlier = _mm256_cmp_ps(abs_ps(v), limit, _CMP_GT_OQ);
        mask |= (uint32_t)_mm256_movemask_ps(outlier) << 8 * k;
        v = _mm256_andnot_ps(outlier, v);
        _mm256_storeu_ps(dense + 8 * k, v);
        acc[k] = _mm256_fmadd_ps(v, v, acc[k]);
        *e = extent_add(*e, v);
    }
    return mask;
}

static inline size_t store_mask(uint8_t *mask, uint32_t bits)
{
    memcpy(mask, &bits, sizeof(bits));
    return (unsigned)__builtin_popcount(bits);
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint8_t *mask,
                    struct codec_span *s)
{
    const __m256 limits = _mm256_set1_ps(limit);
    __m256 acc[REGISTERS] = {0};
    struct extent e = {0};
    float last[CODEC_PAD] = {0};
    size_t n_outliers = 0, i = 0;

    for (; i + 32 <= n; i += 32)
        n_outliers += store_mask(mask + i / 8, split_32(x + i, limits, dense + i, acc, &e));
    memcpy(last, x + i, (n - i) * sizeof(*x));
    for (const float *from = last; i < CODEC_PAD_TO(n); i += 32, from += 32)
        n_outliers += store_mask(mask + i / 8, split_32(from, limits, dense + i, acc, &e));
    extent_end(e, s);
    s->sum_sq = lanes_sum_ps(acc);
    return n_outliers;
}

struct quantizer {
    __m256 inv, bias;
    __m256i top;
};

/* 32 columns; what acc gets added is cleared beyond the first n of them. */
static inline void quantize_32(const float *dense, size_t n, struct quantizer q,
                               __m256 acc[REGISTERS], uint8_t *codes)
{
    __m256i code[REGISTERS], v;

    for (unsigned k = 0; k < REGISTERS; k++) {
        const __m256 t = _mm256_fmadd_ps(_mm256_loadu_ps(dense + 8 * k), q.inv, q.bias);
        code[k] = _mm256_cvtps_epi32(t);
        __m256 e = _mm256_sub_ps(t, _mm256_cvtepi32_ps(code[k]));
        if (n < 32)
            e = _mm256_and_ps(e, _mm256_castsi256_ps(lanes_below(8 * k, n)));
        acc[k] = _mm256_fmadd_ps(e, e, acc[k]);
    }
    /* saturation to u8 takes negative codes to 0 */
    v = _mm256_packus_epi16(_mm256_packs_epi32(code[0], code[1]),
                            _mm256_packs_epi32(code[2], code[3]));
    v = _mm256_permutevar8x32_epi32(_mm256_min_epu8(v, q.top),
                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)codes, v);
}

static float quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    const struct quantizer q = {_mm256_set1_ps(g->inv), _mm256_set1_ps(g->bias),
                                _mm256_set1_epi8((char)g->top)};
    __m256 acc[REGISTERS] = {0};
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        quantize_32(dense + i, 32, q, acc, codes + i);
    if (i < n)
        quantize_32(dense + i, n - i, q, acc, codes + i);
    return lanes_sum_ps(acc);
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

/* glibc's memcpy of a few KB is `rep movsb`, which takes ten times as long at some alignments on
 * Zen 3: `isthmus bench codec --codec f32` with the C kernels shows it. */
static void copy(void *dst, const void *src, size_t bytes)
{
    const char *from = src;
    char *to = dst;

    for (; bytes >= 128; bytes -= 128, from += 128, to += 128)
        for (unsigned k = 0; k < 128; k += 32)
            _mm256_storeu_si256((__m256i *)(to + k),
                                _mm256_loadu_si256((const __m256i *)(from + k)));
    memcpy(to, from, bytes);
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
        .quantize = quantize,
        .dequantize = dequantize,
        .pack = pack,
        .unpack = unpack,
        .copy = copy,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
}
