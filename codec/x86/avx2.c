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

struct totals {
    __m256 sum[REGISTERS];
    __m256i max;
};

static inline void sum_abs_32(const float *x, struct totals *t)
{
    for (unsigned k = 0; k < REGISTERS; k++) {
        const __m256 v = abs_ps(_mm256_loadu_ps(x + 8 * k));
        t->sum[k] = _mm256_add_ps(t->sum[k], v);
        t->max = _mm256_max_epi32(t->max, _mm256_castps_si256(v));
    }
}

static inline uint32_t lanes_max_epi32(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static float sum_abs(const float *x, size_t n, float *max)
{
    struct totals t = {0};
    float last[CODEC_LANES] = {0};
    size_t i = 0;

    for (; i + CODEC_LANES <= n; i += CODEC_LANES)
        sum_abs_32(x + i, &t);
    memcpy(last, x + i, (n - i) * sizeof(*x));
    sum_abs_32(last, &t);
    *max = f32_from_bits(lanes_max_epi32(t.max));
    return lanes_sum_ps(t.sum);
}

static inline void quantize_32(const float *x, __m256 inv, int8_t *k)
{
    __m256i v[REGISTERS];

    for (unsigned r = 0; r < REGISTERS; r++)
        v[r] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * r), inv));
    v[0] = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    v[0] = _mm256_permutevar8x32_epi32(_mm256_max_epi8(v[0], _mm256_set1_epi8(-127)),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)k, v[0]);
}

static void quantize(const float *x, size_t n, float inv, int8_t *k)
{
    const __m256 invs = _mm256_set1_ps(inv);
    float last[CODEC_PAD] = {0};
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        quantize_32(x + i, invs, k + i);
    memcpy(last, x + i, (n - i) * sizeof(*x));
    for (const float *from = last; i < CODEC_PAD_TO(n); i += 32, from += 32)
        quantize_32(from, invs, k + i);
}

static inline __m256i load32(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Counts in bytes overflow after 255 times 32 values. */
static void above(const int8_t *k, size_t n, const uint8_t limits[CODEC_LIMITS],
                  uint32_t counts[CODEC_LIMITS])
{
    __m256i limit[CODEC_LIMITS], total[CODEC_LIMITS];

    for (unsigned l = 0; l < CODEC_LIMITS; l++) {
        limit[l] = _mm256_set1_epi8((char)limits[l]);
        total[l] = _mm256_setzero_si256();
    }
    for (size_t i = 0; i < n;) {
        const size_t end = i + 255 * 32 < n ? i + 255 * 32 : n;
        __m256i count[CODEC_LIMITS] = {0};
        for (; i < end; i += 32) {
            const __m256i v = _mm256_abs_epi8(load32(k + i));
            for (unsigned l = 0; l < CODEC_LIMITS; l++)
                count[l] = _mm256_sub_epi8(count[l], _mm256_cmpgt_epi8(v, limit[l]));
        }
        for (unsigned l = 0; l < CODEC_LIMITS; l++)
            total[l] =
                _mm256_add_epi64(total[l], _mm256_sad_epu8(count[l], _mm256_setzero_si256()));
    }
    for (unsigned l = 0; l < CODEC_LIMITS; l++) {
        const __m128i two =
            _mm_add_epi64(_mm256_castsi256_si128(total[l]), _mm256_extracti128_si256(total[l], 1));
        counts[l] = (uint32_t)_mm_cvtsi128_si32(two) + (uint32_t)_mm_extract_epi32(two, 2);
    }
}

/* For each mask of 8 columns: the columns whose bits are set, closed up. */
#define RANK(m, i)      __builtin_popcount((m) & ((1u << (i)) - 1))
#define RANKED(m, i, r) ((m) >> (i)&1 && RANK(m, i) == (r) ? (i) : 0)
#define MOVED(m, r)                                                                                \
    (RANKED(m, 0u, r) + RANKED(m, 1u, r) + RANKED(m, 2u, r) + RANKED(m, 3u, r) +                   \
     RANKED(m, 4u, r) + RANKED(m, 5u, r) + RANKED(m, 6u, r) + RANKED(m, 7u, r))
#define MOVES(m)                                                                                   \
    {                                                                                              \
        MOVED(m, 0), MOVED(m, 1), MOVED(m, 2), MOVED(m, 3), MOVED(m, 4), MOVED(m, 5), MOVED(m, 6), \
            MOVED(m, 7)                                                                            \
    }
#define MOVES_4(m)  MOVES(m), MOVES((m) + 1), MOVES((m) + 2), MOVES((m) + 3)
#define MOVES_16(m) MOVES_4(m), MOVES_4((m) + 4), MOVES_4((m) + 8), MOVES_4((m) + 12)
#define MOVES_64(m) MOVES_16(m), MOVES_16((m) + 16), MOVES_16((m) + 32), MOVES_16((m) + 48)
static const uint8_t moved[256][8] = {MOVES_64(0u), MOVES_64(64u), MOVES_64(128u), MOVES_64(192u)};

static inline __m128i load8(const void *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}

static size_t to_codes(const int8_t *k, size_t n, const struct codec_range *r, uint8_t *codes,
                       int8_t *rest)
{
    const __m256i lo = _mm256_set1_epi8((char)(r->lo < -CODEC_K8_MAX ? -CODEC_K8_MAX : r->lo)),
                  hi = _mm256_set1_epi8((char)(r->hi > CODEC_K8_MAX ? CODEC_K8_MAX : r->hi)),
                  up = _mm256_set1_epi8((char)r->up), down = _mm256_set1_epi8((char)r->down);
    const int8_t *start = rest;

    for (size_t i = 0; i < n; i += 32) {
        const __m256i v = load32(k + i);
        const __m256i out = _mm256_or_si256(_mm256_cmpgt_epi8(lo, v), _mm256_cmpgt_epi8(v, hi));
        const __m256i code = _mm256_add_epi8(v, _mm256_blendv_epi8(up, down, v));
        uint32_t mask = (uint32_t)_mm256_movemask_epi8(out);
        _mm256_storeu_si256((__m256i *)(codes + i), _mm256_andnot_si256(out, code));
        for (unsigned j = 0; j < 4; j++, mask >>= 8) {
            const size_t m = mask & 0xff;
            _mm_storel_epi64((__m128i *)rest,
                             _mm_shuffle_epi8(load8(k + i + 8 * j), load8(moved[m])));
            rest += __builtin_popcountll(m);
        }
    }
    return (size_t)(rest - start);
}

/* Codes of two 16-byte lanes to k, and at zeros the next of rest: how many zeros there are up to a
 * column, less one, is which. */
static inline __m256i next_of_rest(__m256i zero, uint32_t mask, const int8_t *rest)
{
    const int8_t *upper = rest + __builtin_popcount(mask & 0xffff);
    const __m256i next =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)rest)),
                                _mm_loadu_si128((const __m128i *)upper), 1);
    __m256i count = zero; /* negative */

    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 1));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 2));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 4));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 8));
    return _mm256_shuffle_epi8(next, _mm256_xor_si256(count, _mm256_set1_epi8(-1)));
}

static inline __attribute__((always_inline)) void from_codes_by(const uint8_t *codes, size_t n,
                                                                const struct codec_range *r,
                                                                bool around, const int8_t *rest,
                                                                int8_t *k)
{
    const __m256i up = _mm256_set1_epi8((char)r->up), down = _mm256_set1_epi8((char)r->down),
                  half = _mm256_set1_epi8((char)(1 << (r->width - 1)));

    for (size_t i = 0; i < n; i += 32) {
        const __m256i code = load32(codes + i);
        const __m256i zero = _mm256_cmpeq_epi8(code, _mm256_setzero_si256());
        const uint32_t mask = (uint32_t)_mm256_movemask_epi8(zero);
        __m256i base = up;
        if (around)
            base =
                _mm256_blendv_epi8(down, up, _mm256_cmpeq_epi8(code, _mm256_max_epu8(code, half)));
        const __m256i v = _mm256_sub_epi8(code, base);
        _mm256_storeu_si256((__m256i *)(k + i),
                            _mm256_blendv_epi8(v, next_of_rest(zero, mask, rest), zero));
        rest += __builtin_popcount(mask);
    }
}

static void from_codes(const uint8_t *codes, size_t n, const struct codec_range *r,
                       const int8_t *rest, int8_t *k)
{
    if (r->up == r->down)
        from_codes_by(codes, n, r, false, rest, k);
    else
        from_codes_by(codes, n, r, true, rest, k);
}

static inline __m256 scale_8(const int8_t *k, __m256 step)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(k))), step);
}

static void scale(const int8_t *k, size_t n, float step, float *out)
{
    const __m256 steps = _mm256_set1_ps(step);
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        for (unsigned j = 0; j < 32; j += 8)
            _mm256_storeu_ps(out + i + j, scale_8(k + i + j, steps));
    for (; i < n; i += 8)
        _mm256_maskstore_ps(out + i, lanes_below(i, n), scale_8(k + i, steps));
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

/* 8 codes of q bits a 16-byte lane, and the 8 behind them in another register: each code's two
 * bytes come to its 16-bit lane, where a multiplication shifts the code to the top. */
struct opening {
    __m256i first, second, shift;
    __m128i down;
};

static struct opening opening(unsigned q)
{
    const __m256i code = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i bit = _mm256_mullo_epi16(code, _mm256_set1_epi16((short)q));
    const __m256i byte = _mm256_srli_epi16(bit, 3);
    const __m256i next = _mm256_slli_epi16(_mm256_add_epi16(byte, _mm256_set1_epi16(1)), 8);
    const __m256i first = _mm256_or_si256(byte, next);
    /* 1 << (7 - offset) */
    const __m256i power =
        _mm256_shuffle_epi8(_mm256_set1_epi64x(0x0102040810204080),
                            _mm256_or_si256(_mm256_and_si256(bit, _mm256_set1_epi16(7)),
                                            _mm256_set1_epi16((short)0x8000)));

    return (struct opening){first, _mm256_add_epi8(first, _mm256_set1_epi8((char)q)),
                            _mm256_sll_epi16(power, _mm_cvtsi32_si128(9 - (int)q)),
                            _mm_cvtsi32_si128(16 - (int)q)};
}

static inline __m256i open_16(__m256i bytes, __m256i which, struct opening o)
{
    return _mm256_srl_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(bytes, which), o.shift), o.down);
}

static size_t unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes)
{
    const struct opening o = opening(q);
    size_t zeros = 0;

    for (size_t i = 0; i < n; i += 32, bits += 4 * q) {
        const __m256i bytes =
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)bits)),
                                    _mm_loadu_si128((const __m128i *)(bits + 2 * q)), 1);
        const __m256i v =
            _mm256_packus_epi16(open_16(bytes, o.first, o), open_16(bytes, o.second, o));
        uint32_t zero =
            (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256()));
        _mm256_storeu_si256((__m256i *)(codes + i), v);
        if (n < i + 32)
            zero &= (1u << (n - i)) - 1;
        zeros += (size_t)__builtin_popcount(zero);
    }
    return zeros;
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
        .quantize = quantize,
        .above = above,
        .to_codes = to_codes,
        .pack = pack,
        .unpack = unpack,
        .from_codes = from_codes,
        .scale = scale,
        .copy = copy,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
}
