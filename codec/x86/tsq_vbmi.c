/* SPDX-License-Identifier: Apache-2.0 */
/* Mode tsq's codes in AVX-512 with VBMI and VBMI2, 64 at a time. Same bits as dsp.c and pack.c. */
#include "codec/dsp.h"

#include <immintrin.h>

static inline __m512i load64(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* The first n of 64. */
static inline __mmask64 below_64(size_t n)
{
    return n < 64 ? (UINT64_C(1) << n) - 1 : ~UINT64_C(0);
}

static inline __m512 load_16(const float *x, size_t i, size_t n)
{
    const size_t left = i < n ? n - i : 0;

    return left >= 16 ? _mm512_loadu_ps(x + i)
                      : _mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), x + i);
}

/* The packing leaves four values of each register in turn. */
static void quantize(const float *x, size_t n, float inv, int8_t *k)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 invs = _mm512_set1_ps(inv);

    for (size_t i = 0; i < n; i += 64) {
        __m512i v[4];
        for (size_t r = 0; r < 4; r++)
            v[r] = _mm512_cvtps_epi32(_mm512_mul_ps(load_16(x, i + 16 * r, n), invs));
        v[0] = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
        v[0] = _mm512_max_epi8(v[0], _mm512_set1_epi8(-127));
        _mm512_storeu_si512(k + i, _mm512_permutexvar_epi32(order, v[0]));
    }
}

/* For each width: where the bytes of 8 times 8 codes are that lie at the start of a 64-bit lane
 * each, and where those lanes' bytes are when they have closed up. */
#define BYTES_4(at, q, j) at(q, j), at(q, (j) + 1), at(q, (j) + 2), at(q, (j) + 3)
#define BYTES_16(at, q, j)                                                                         \
    BYTES_4(at, q, j), BYTES_4(at, q, (j) + 4), BYTES_4(at, q, (j) + 8), BYTES_4(at, q, (j) + 12)
#define BYTES(at, q)                                                                               \
    {                                                                                              \
        BYTES_16(at, q, 0), BYTES_16(at, q, 16), BYTES_16(at, q, 32), BYTES_16(at, q, 48)          \
    }
#define WIDTHS(at)                                                                                 \
    {                                                                                              \
        BYTES(at, 1), BYTES(at, 2), BYTES(at, 3), BYTES(at, 4), BYTES(at, 5), BYTES(at, 6),        \
            BYTES(at, 7), BYTES(at, 8)                                                             \
    }
#define CLOSED(q, j) ((8 * ((j) / (q)) + (j) % (q)) & 63)
#define OPENED(q, j) ((j) / 8 * (q) + (j) % 8)
static const uint8_t closed[8][64] = WIDTHS(CLOSED), opened[8][64] = WIDTHS(OPENED);

/* Codes close up in pairs, then fours, by multiply-add, and eights by shifts. */
struct closing {
    __m512i pair, four, up, join;
    __m128i down;
    unsigned q;
};

static inline struct closing closing(unsigned q)
{
    return (struct closing){.pair = _mm512_set1_epi16((short)(1u | 1u << q << 8)),
                            .four = _mm512_set1_epi32((int)(1u | 1u << 2 * q << 16)),
                            .up = _mm512_set1_epi64(32 - 4 * (int)q),
                            .join = load64(closed[q - 1]),
                            .down = _mm_cvtsi32_si128(32 - 4 * (int)q),
                            .q = q};
}

static inline uint8_t *close_64(__m512i v, const struct closing *c, uint8_t *bits)
{
    if (c->q < 8) { /* 8 bits have no room for the signs that the multiplications see */
        v = _mm512_madd_epi16(_mm512_maddubs_epi16(c->pair, v), c->four);
        v = _mm512_srl_epi64(_mm512_sllv_epi32(v, c->up), c->down);
        v = _mm512_permutexvar_epi8(c->join, v);
    }
    _mm512_storeu_si512(bits, v);
    return bits + 8 * c->q;
}

static void pack(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits)
{
    const struct closing c = closing(q);

    for (size_t i = 0; i < n; i += 64)
        bits = close_64(load64(codes + i), &c, bits);
}

static size_t to_codes(const int8_t *k, size_t n, const struct codec_range *r, uint8_t *bits,
                       int8_t *rest)
{
    const struct closing close = closing(r->width);
    const __m512i lo = _mm512_set1_epi8((char)(r->lo < -CODEC_K8_MAX ? -CODEC_K8_MAX : r->lo)),
                  hi = _mm512_set1_epi8((char)(r->hi > CODEC_K8_MAX ? CODEC_K8_MAX : r->hi)),
                  up = _mm512_set1_epi8((char)r->up), down = _mm512_set1_epi8((char)r->down);
    const int8_t *start = rest;
    uint8_t *at = bits;

    for (size_t i = 0; i < n; i += 64) {
        const __m512i v = load64(k + i);
        const __mmask64 out = _mm512_cmpgt_epi8_mask(lo, v) | _mm512_cmpgt_epi8_mask(v, hi);
        const __m512i base = _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), up, down);
        at = close_64(_mm512_maskz_mov_epi8(~out, _mm512_add_epi8(v, base)), &close, at);
        _mm512_storeu_si512(rest, _mm512_maskz_compress_epi8(out, v));
        rest += __builtin_popcountll(out);
    }
    if (n * r->width % 8) /* the padding's zeros have codes, too */
        bits[n * r->width / 8] &= (uint8_t)((1u << n * r->width % 8) - 1);
    return (size_t)(rest - start);
}

static size_t unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes)
{
    const __m512i open = load64(opened[q - 1]), mask = _mm512_set1_epi8((char)((1u << q) - 1)),
                  first = _mm512_set1_epi64(0x0706050403020100 * (long long)q);
    size_t zeros = 0;

    for (size_t i = 0; i < n; i += 64, bits += 8 * q) {
        const __m512i eights = _mm512_permutexvar_epi8(open, load64(bits));
        const __m512i v = _mm512_and_si512(_mm512_multishift_epi64_epi8(first, eights), mask);
        const __mmask64 zero = _mm512_cmpeq_epi8_mask(v, _mm512_setzero_si512());
        _mm512_storeu_si512(codes + i, v);
        zeros += (size_t)__builtin_popcountll(zero & below_64(n - i));
    }
    return zeros;
}

static void from_codes(const uint8_t *codes, size_t n, const struct codec_range *r,
                       const int8_t *rest, int8_t *k)
{
    const __m512i up = _mm512_set1_epi8((char)r->up), down = _mm512_set1_epi8((char)r->down),
                  half = _mm512_set1_epi8((char)(1 << (r->width - 1)));

    for (size_t i = 0; i < n; i += 64) {
        const __m512i code = load64(codes + i);
        const __mmask64 zero = _mm512_cmpeq_epi8_mask(code, _mm512_setzero_si512());
        const __m512i base = _mm512_mask_blend_epi8(_mm512_cmpge_epu8_mask(code, half), down, up);
        const __m512i v = _mm512_sub_epi8(code, base);
        _mm512_storeu_si512(k + i, _mm512_mask_expand_epi8(v, zero, load64(rest)));
        rest += __builtin_popcountll(zero);
    }
}

static size_t to_values(const uint8_t *bits, size_t n, unsigned q, float step, float *out,
                        uint64_t *outliers)
{
    const __m512i open = load64(opened[q - 1]), mask = _mm512_set1_epi8((char)((1u << q) - 1)),
                  first = _mm512_set1_epi64(0x0706050403020100 * (long long)q),
                  half = _mm512_set1_epi8((char)(1 << (q - 1)));
    const __m512 steps = _mm512_set1_ps(step);
    size_t zeros = 0;

    for (size_t i = 0; i < n; i += 64, bits += 8 * q) {
        const __m512i eights = _mm512_permutexvar_epi8(open, load64(bits));
        const __m512i v = _mm512_and_si512(_mm512_multishift_epi64_epi8(first, eights), mask);
        const uint64_t within = below_64(n - i);
        int8_t k[64];
        _mm512_storeu_si512(k, _mm512_sub_epi8(v, half));
        for (unsigned r = 0; r < 4; r++) {
            const __m512i k16 =
                _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(k + 16 * r)));
            const __mmask16 stored = (__mmask16)(within >> 16 * r);
            if (stored)
                _mm512_mask_storeu_ps(out + i + 16 * r, stored,
                                      _mm512_mul_ps(_mm512_cvtepi32_ps(k16), steps));
        }
        outliers[i / 64] = _mm512_cmpeq_epi8_mask(v, _mm512_setzero_si512()) & within;
        zeros += (size_t)__builtin_popcountll(outliers[i / 64]);
    }
    return zeros;
}

void tsq_dsp_init_vbmi(struct codec_dsp *dsp)
{
    dsp->quantize = quantize;
    dsp->pack = pack;
    dsp->to_codes = to_codes;
    dsp->unpack = unpack;
    dsp->from_codes = from_codes;
    dsp->to_values = to_values;
}
