/* SPDX-License-Identifier: Apache-2.0 */
/* Mode tsq's codes in AVX2 and BMI. Same bits as dsp.c and pack.c. */
#include "codec/dsp.h"

#include <immintrin.h>
#include <string.h>

static inline __m256i load32(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline __m128i load8(const void *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}

/* All ones in the lanes first, first + 1, ... that are below n. */
static inline __m256i lanes_below(size_t first, size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - (int)first), lane);
}

/* --- encode --- */

/* How many |k| are above a limit, counted in bytes: those overflow after 255 times 32 values. */
#define COUNTED (255 * 32)

static inline __m256i count(__m256i counts, __m256i magnitudes, __m256i limit)
{
    return _mm256_sub_epi8(counts, _mm256_cmpgt_epi8(magnitudes, limit));
}

static inline __m256i add_counts(__m256i totals, __m256i counts)
{
    return _mm256_add_epi64(totals, _mm256_sad_epu8(counts, _mm256_setzero_si256()));
}

static inline void store_totals(uint32_t to[4], __m256i a, __m256i b, __m256i c, __m256i d)
{
    const __m256i ab = _mm256_or_si256(a, _mm256_slli_epi64(b, 32)),
                  cd = _mm256_or_si256(c, _mm256_slli_epi64(d, 32));
    const __m256i v =
        _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));

    _mm_storeu_si128((__m128i *)to,
                     _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

/* 32 values to bytes, which come out of the packing four by four of each register. */
static inline __m256i quantize_32(const __m256 x[4], __m256 inv)
{
    __m256i v[4];

    for (unsigned r = 0; r < 4; r++)
        v[r] = _mm256_cvtps_epi32(_mm256_mul_ps(x[r], inv));
    v[0] = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(_mm256_max_epi8(v[0], _mm256_set1_epi8(-127)),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void quantize(const float *x, size_t n, float inv, int8_t *k)
{
    const __m256 invs = _mm256_set1_ps(inv);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        const __m256 from[] = {_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8),
                               _mm256_loadu_ps(x + i + 16), _mm256_loadu_ps(x + i + 24)};
        _mm256_storeu_si256((__m256i *)(k + i), quantize_32(from, invs));
    }
    for (; i < CODEC_PAD_TO(n); i += 32) {
        __m256 from[4];
        for (unsigned r = 0; r < 4; r++)
            from[r] = _mm256_maskload_ps(x + i + 8 * r, lanes_below(i + 8 * r, n));
        _mm256_storeu_si256((__m256i *)(k + i), quantize_32(from, invs));
    }
}

static void above(const int8_t *k, size_t n, size_t every, const uint8_t limits[CODEC_LIMITS],
                  uint32_t counts[CODEC_LIMITS])
{
    __m256i limit[CODEC_LIMITS], total[CODEC_LIMITS];

    for (unsigned l = 0; l < CODEC_LIMITS; l++) {
        limit[l] = _mm256_set1_epi8((char)limits[l]);
        total[l] = _mm256_setzero_si256();
    }
    for (size_t i = 0; i < n;) {
        const size_t end = i + COUNTED * every < n ? i + COUNTED * every : n;
        __m256i part[CODEC_LIMITS] = {0};
        for (; i < end; i += 32 * every) {
            const __m256i magnitudes = _mm256_abs_epi8(load32(k + i));
            for (unsigned l = 0; l < CODEC_LIMITS; l++)
                part[l] = count(part[l], magnitudes, limit[l]);
        }
        for (unsigned l = 0; l < CODEC_LIMITS; l++)
            total[l] = add_counts(total[l], part[l]);
    }
    for (unsigned l = 0; l < CODEC_LIMITS; l += 4)
        store_totals(counts + l, total[l], total[l + 1], total[l + 2], total[l + 3]);
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

/* Codes close up in pairs, then fours, by multiply-add; the halves of each 64-bit lane are shifted
 * together, and its q bytes shuffled behind those of its neighbour. What a store writes beyond is
 * overwritten by the next. */
struct closing {
    __m256i pair, four, up, join;
    __m128i down;
    unsigned q;
};

static inline struct closing closing(unsigned q)
{
    const __m128i byte = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i second = _mm_cmpgt_epi8(byte, _mm_set1_epi8((char)(q - 1)));
    const __m128i join = _mm_add_epi8(byte, _mm_and_si128(second, _mm_set1_epi8((char)(8 - q))));

    return (struct closing){.pair = _mm256_set1_epi16((short)(1u | 1u << q << 8)),
                            .four = _mm256_set1_epi32((int)(1u | 1u << 2 * q << 16)),
                            .up = _mm256_set1_epi64x(32 - 4 * (int)q),
                            .join = _mm256_broadcastsi128_si256(join),
                            .down = _mm_cvtsi32_si128(32 - 4 * (int)q),
                            .q = q};
}

static inline uint8_t *close_32(__m256i v, const struct closing *c, bool whole, uint8_t *bits)
{
    if (whole) { /* 8 bits have no room for the signs that the multiplications see */
        _mm256_storeu_si256((__m256i *)bits, v);
        return bits + 32;
    }
    v = _mm256_madd_epi16(_mm256_maddubs_epi16(c->pair, v), c->four);
    v = _mm256_srl_epi64(_mm256_sllv_epi32(v, c->up), c->down);
    v = _mm256_shuffle_epi8(v, c->join);
    _mm_storeu_si128((__m128i *)bits, _mm256_castsi256_si128(v));
    _mm_storeu_si128((__m128i *)(bits + 2 * c->q), _mm256_extracti128_si256(v, 1));
    return bits + 4 * c->q;
}

static void pack(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits)
{
    const struct closing c = closing(q);

    for (size_t i = 0; i < n; i += 32)
        bits = close_32(load32(codes + i), &c, q == 8, bits);
}

static inline uint64_t mask_64(const __m256i which[2])
{
    return (uint32_t)_mm256_movemask_epi8(which[0]) |
           (uint64_t)(uint32_t)_mm256_movemask_epi8(which[1]) << 32;
}

/* The k of 64 whose bytes in `which` are all ones, closed up, where they are few: so many at a time
 * that there is seldom a second. Returns rest's new end. TZCNT and BLSR take several times as long
 * as these four instructions on Zen 3: the mask less 1 has its lowest bit cleared, and ones below
 * it. */
#define MOVED_AT_ONCE 3

static inline size_t take_lowest(uint64_t *mask)
{
    uint64_t less = *mask - 1;

    __asm__("" : "+r"(less));                              /* or else they become TZCNT and BLSR */
    const int found = __builtin_popcountll(less & ~*mask); /* 64 when there is none */
    *mask &= less;
    return (size_t)found;
}

static inline int8_t *move_few(const int8_t *k, const __m256i which[2], int8_t *rest)
{
    uint64_t mask = mask_64(which);
    int8_t *end = rest + __builtin_popcountll(mask);

    do {
        for (unsigned i = 0; i < MOVED_AT_ONCE; i++)
            rest[i] = k[take_lowest(&mask)];
        rest += MOVED_AT_ONCE;
    } while (__builtin_expect(mask != 0, 0));
    return end;
}

/* Where they are many. */
static inline int8_t *move_by_pext(const int8_t *k, const __m256i which[2], int8_t *rest)
{
    uint64_t masks[8], eight;

    memcpy(masks, which, sizeof(masks));
    for (unsigned i = 0; i < 8; i++) {
        memcpy(&eight, k + 8 * i, sizeof(eight));
        eight = _pext_u64(eight, masks[i]);
        memcpy(rest, &eight, sizeof(eight));
        rest += (size_t)__builtin_popcountll(masks[i]) / 8;
    }
    return rest;
}

/* The same where PEXT is slow. */
static inline int8_t *move_by_table(const int8_t *k, const __m256i which[2], int8_t *rest)
{
    uint64_t mask = mask_64(which);

    for (unsigned i = 0; i < 64; i += 8, mask >>= 8) {
        const size_t m = mask & 0xff;
        _mm_storel_epi64((__m128i *)rest, _mm_shuffle_epi8(load8(k + i), load8(moved[m])));
        rest += __builtin_popcountll(m);
    }
    return rest;
}

#define FEW 20 /* one in so many, or less */

struct coder {
    __m256i lo, hi, up, down;
};

/* 32 k to codes; all ones in `out` for those that have none, which become 0. A range around nothing
 * reaches as far below as above. */
static inline __m256i code_32(__m256i v, const struct coder *c, bool around, __m256i *out)
{
    const __m256i base = around ? _mm256_blendv_epi8(c->up, c->down, v) : c->up;

    if (!around)
        *out = _mm256_cmpgt_epi8(_mm256_abs_epi8(v), c->hi);
    else
        *out = _mm256_or_si256(_mm256_cmpgt_epi8(c->lo, v), _mm256_cmpgt_epi8(v, c->hi));
    return _mm256_andnot_si256(*out, _mm256_add_epi8(v, base));
}

static inline __attribute__((always_inline)) size_t to_codes_by(const int8_t *k, size_t n,
                                                                const struct codec_range *r,
                                                                bool around, bool by_pext,
                                                                uint8_t *bits, int8_t *rest)
{
    const struct closing close = closing(r->width);
    const struct coder coder = {
        .lo = _mm256_set1_epi8((char)(r->lo < -CODEC_K8_MAX ? -CODEC_K8_MAX : r->lo)),
        .hi = _mm256_set1_epi8((char)(r->hi > CODEC_K8_MAX ? CODEC_K8_MAX : r->hi)),
        .up = _mm256_set1_epi8((char)r->up),
        .down = _mm256_set1_epi8((char)r->down),
    };
    const bool whole = around && r->width == 8; /* is_around() says so */
    const int8_t *start = rest;
    uint8_t *at = bits;

    for (size_t i = 0; i < n; i += 64) {
        __m256i codes[2], out[2];
        for (size_t h = 0; h < 2; h++)
            codes[h] = code_32(load32(k + i + 32 * h), &coder, around, &out[h]);
        at = close_32(codes[0], &close, whole, at);
        at = close_32(codes[1], &close, whole, at);
        if ((size_t)(rest - start) * FEW <= i)
            rest = move_few(k + i, out, rest);
        else
            rest = by_pext ? move_by_pext(k + i, out, rest) : move_by_table(k + i, out, rest);
    }
    if (n * r->width % 8) /* the padding's zeros have codes, too */
        bits[n * r->width / 8] &= (uint8_t)((1u << n * r->width % 8) - 1);
    return (size_t)(rest - start);
}

/* A range around nothing needs no blending; 8 bits are closed up in another way. */
static bool is_around(const struct codec_range *r)
{
    return r->up != r->down || r->width == 8;
}

static size_t to_codes(const int8_t *k, size_t n, const struct codec_range *r, uint8_t *bits,
                       int8_t *rest)
{
    return is_around(r) ? to_codes_by(k, n, r, true, false, bits, rest)
                        : to_codes_by(k, n, r, false, false, bits, rest);
}

static size_t to_codes_pext(const int8_t *k, size_t n, const struct codec_range *r, uint8_t *bits,
                            int8_t *rest)
{
    return is_around(r) ? to_codes_by(k, n, r, true, true, bits, rest)
                        : to_codes_by(k, n, r, false, true, bits, rest);
}

/* --- decode --- */

/* 8 codes of q bits a 16-byte lane, and the 8 behind them in another register: each code's two
 * bytes come to its 16-bit lane, where a multiplication shifts the code to the top. */
struct opening {
    __m256i first, second, shift;
    __m128i down;
};

static inline struct opening opening_of(__m256i code, unsigned q)
{
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

static struct opening opening(unsigned q)
{
    return opening_of(_mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7), q);
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

/* 16 dense codes of q bits from 2 q bytes to 16-bit lanes, in the order 0-3, 8-11, 4-7, 12-15: then
 * unpacking makes 0-7 and 8-15 of them. */
static struct opening dense_opening(unsigned q)
{
    const __m256i code = _mm256_setr_epi16(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);

    return opening_of(code, q);
}

/* f32 with this as its upper half is 2^23 plus its lower half, which holds a code at its top. */
#define F32_2_23 0x4b00
/* With 4 bits in a step's mantissa, everything below is exact; up to here the product of a step and
 * the offset is, too. */
#define FUSED_STEP_MAX 0x1p110f

struct dense {
    struct opening open;
    __m256i top;
    __m256 offset, step;
};

static inline struct dense dense_of(unsigned q, float step, bool fused)
{
    const float unit = (float)(1 << (16 - q)), offset = 0x1p23f + 0x1p15f;

    return (struct dense){.open = dense_opening(q),
                          .top = _mm256_set1_epi16((short)(0xffff << (16 - q))),
                          .offset = _mm256_set1_ps(fused ? step * (offset / unit) : offset),
                          .step = _mm256_set1_ps(step / unit)};
}

static inline __m256 dense_8(__m256i codes, const struct dense *d, bool fused)
{
    const __m256 v = _mm256_castsi256_ps(codes);

    return fused ? _mm256_fmsub_ps(v, d->step, d->offset)
                 : _mm256_mul_ps(_mm256_sub_ps(v, d->offset), d->step);
}

/* 32 values; returns the bits of the codes 0. */
static inline uint32_t dense_32(const uint8_t *bits, unsigned q, const struct dense *d, bool fused,
                                float *out)
{
    const __m256i upper = _mm256_set1_epi16(F32_2_23), none = _mm256_setzero_si256();
    __m256i zero[2];

    for (unsigned h = 0; h < 2; h++, bits += 2 * q, out += 16) {
        const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bits));
        const __m256i moved_up =
            _mm256_mullo_epi16(_mm256_shuffle_epi8(bytes, d->open.first), d->open.shift);
        const __m256i codes = _mm256_and_si256(moved_up, d->top);
        zero[h] = _mm256_cmpeq_epi16(codes, none);
        _mm256_storeu_ps(out, dense_8(_mm256_unpacklo_epi16(codes, upper), d, fused));
        _mm256_storeu_ps(out + 8, dense_8(_mm256_unpackhi_epi16(codes, upper), d, fused));
    }
    zero[0] = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(zero[0], zero[1]),
                                          _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return (uint32_t)_mm256_movemask_epi8(zero[0]);
}

static inline __attribute__((always_inline)) size_t to_values_by(const uint8_t *bits, size_t n,
                                                                 unsigned q, float step, bool fused,
                                                                 float *out, uint64_t *outliers)
{
    const struct dense d = dense_of(q, step, fused);
    size_t zeros = 0, i = 0;
    float last[64];
    uint64_t mask;

    for (; i + 64 <= n; i += 64, bits += 8 * q, outliers++) {
        mask = dense_32(bits, q, &d, fused, out + i);
        mask |= (uint64_t)dense_32(bits + 4 * q, q, &d, fused, out + i + 32) << 32;
        zeros += (size_t)__builtin_popcountll(mask);
        *outliers = mask;
    }
    if (i == n)
        return zeros;
    mask = dense_32(bits, q, &d, fused, last);
    if (n > i + 32)
        mask |= (uint64_t)dense_32(bits + 4 * q, q, &d, fused, last + 32) << 32;
    *outliers = mask & ((UINT64_C(1) << (n - i)) - 1);
    memcpy(out + i, last, (n - i) * sizeof(*out));
    return zeros + (size_t)__builtin_popcountll(*outliers);
}

static size_t to_values(const uint8_t *bits, size_t n, unsigned q, float step, float *out,
                        uint64_t *outliers)
{
    return step <= FUSED_STEP_MAX ? to_values_by(bits, n, q, step, true, out, outliers)
                                  : to_values_by(bits, n, q, step, false, out, outliers);
}

/* As move_few, to the places the mask names. Where there is none that is the first of the next 64,
 * which is put back. */
static void fill_in(const uint64_t *outliers, size_t n, const float *values, float *out)
{
    for (; n > 64; n -= 64, out += 64) {
        uint64_t mask = *outliers++;
        const float *next = values + __builtin_popcountll(mask), kept = out[64];
        do {
            for (unsigned i = 0; i < MOVED_AT_ONCE; i++)
                out[take_lowest(&mask)] = values[i];
            values += MOVED_AT_ONCE;
        } while (__builtin_expect(mask != 0, 0));
        out[64] = kept;
        values = next;
    }
    for (uint64_t mask = *outliers; mask;)
        out[take_lowest(&mask)] = *values++;
}

void tsq_dsp_init_avx2(struct codec_dsp *dsp, bool pext)
{
    dsp->quantize = quantize;
    dsp->above = above;
    dsp->pack = pack;
    dsp->to_codes = pext ? to_codes_pext : to_codes;
    dsp->unpack = unpack;
    dsp->from_codes = from_codes;
    dsp->scale = scale;
    dsp->to_values = to_values;
    dsp->fill_in = fill_in;
}
