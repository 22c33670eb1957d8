/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rANS, AVX-512 F + BW: 64 lanes in one register of bytes. The steps are those of rans_avx2.c;
 * fewer lanes stay there. Same bits as rans.c.
 */
#include "codec/x86/rans_x86.h"

#define EVEN 0x5555555555555555u

/* The two groups of a step, which may have different tables: the second may be the first. */
struct pair {
    const struct rans_table *low, *high;
};

/* Tables of 16 bytes, each twice. */
static inline __m512i load_pair(const uint8_t *low, const uint8_t *high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(load16_twice(low)), load16_twice(high), 1);
}

#define LOOK_UP(t, table, index)                                                                   \
    _mm512_shuffle_epi8(load_pair((t).low->table, (t).high->table), index)

struct lanes64 {
    __m512i high, low;
};

/* Half a step at the end of the symbols: the upper 32 lanes stand still. */
static inline struct lanes64 keep_upper(struct lanes64 x, struct lanes64 before)
{
    return (struct lanes64){
        _mm512_inserti64x4(before.high, _mm512_castsi512_si256(x.high), 0),
        _mm512_inserti64x4(before.low, _mm512_castsi512_si256(x.low), 0),
    };
}

/* Decoding */

static inline __m512i find_ranks(struct pair t, __m512i slot)
{
    const __m512i biased = _mm512_xor_si512(slot, _mm512_set1_epi8(-128));
    __m512i rank = _mm512_setzero_si512();

    for (int step = 8; step; step /= 2) {
        __m512i last = load_pair(t.low->last + step, t.high->last + step);
        __mmask64 above = _mm512_cmpgt_epi8_mask(biased, _mm512_shuffle_epi8(last, rank));
        rank = _mm512_mask_add_epi8(rank, above, rank, _mm512_set1_epi8((char)step));
    }
    return rank;
}

static inline __m128i load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static inline __m512i take_bytes(const uint8_t **src, __mmask64 need)
{
    const uint8_t *p0 = *src, *p1 = p0 + __builtin_popcountll(need & 0xffff),
                  *p2 = p0 + __builtin_popcountll(need & 0xffffffff),
                  *p3 = p0 + __builtin_popcountll(need & 0xffffffffffff);
    __m512i count = _mm512_movm_epi8(need), bytes;

    count = _mm512_add_epi8(count, _mm512_bslli_epi128(count, 1));
    count = _mm512_add_epi8(count, _mm512_bslli_epi128(count, 2));
    count = _mm512_add_epi8(count, _mm512_bslli_epi128(count, 4));
    count = _mm512_add_epi8(count, _mm512_bslli_epi128(count, 8));
    bytes = _mm512_castsi128_si512(load16(p0));
    bytes = _mm512_inserti32x4(bytes, load16(p1), 1);
    bytes = _mm512_inserti32x4(bytes, load16(p2), 2);
    bytes = _mm512_inserti32x4(bytes, load16(p3), 3);
    *src += __builtin_popcountll(need);
    return _mm512_shuffle_epi8(bytes, _mm512_xor_si512(count, _mm512_set1_epi8(-1)));
}

/* A step of 64 lanes, or of those that are active: their symbols. */
static ALWAYS_INLINE __m512i decode_step(struct pair t, struct lanes64 *x, const uint8_t **src,
                                         __mmask64 active)
{
    const __m512i even = _mm512_set1_epi16(0x00ff);
    const __m512i rank = find_ranks(t, x->low);
    const __m512i freq = LOOK_UP(t, rank_freq, rank);
    const __m512i offset = _mm512_sub_epi8(x->low, LOOK_UP(t, rank_start, rank));
    __m512i x_even, x_odd, high, low;
    __mmask64 need;

    x_even = _mm512_mullo_epi16(_mm512_and_si512(freq, even), _mm512_and_si512(x->high, even));
    x_even = _mm512_add_epi16(x_even, _mm512_and_si512(offset, even));
    x_odd = _mm512_mulhi_epu16(_mm512_andnot_si512(even, freq), _mm512_andnot_si512(even, x->high));
    x_odd = _mm512_add_epi16(x_odd, _mm512_srli_epi16(offset, 8));
    high = _mm512_mask_mov_epi8(x_odd, EVEN, _mm512_srli_epi16(x_even, 8));
    low = _mm512_mask_mov_epi8(_mm512_slli_epi16(x_odd, 8), EVEN, x_even);

    need = _mm512_cmpeq_epi8_mask(high, _mm512_setzero_si512()) & active;
    x->high = _mm512_mask_mov_epi8(high, need, low);
    x->low = _mm512_mask_mov_epi8(low, need, take_bytes(src, need));
    return LOOK_UP(t, rank_symbol, rank);
}

static size_t decode_64(const struct rans_model *model, const uint8_t *src, size_t len, size_t n,
                        struct rans_states *st, uint8_t *symbols)
{
    struct source s = {src, src + len, false};
    uint8_t copy[2 * FAR];
    struct lanes64 x = {_mm512_loadu_si512(st->high), _mm512_loadu_si512(st->low)};
    size_t i = 0;

    for (; i + 64 <= n; i += 64) {
        const struct pair t = {rans_table_at(model, i), rans_table_at(model, i + 32)};
        if (!source_check(&s, copy))
            return RANS_RAN_OUT;
        _mm512_storeu_si512(symbols + i, decode_step(t, &x, &s.at, ~(__mmask64)0));
    }
    if (i < n) {
        const struct pair t = {rans_table_at(model, i), rans_table_at(model, i)};
        const struct lanes64 before = x;
        __m512i v;
        if (!source_check(&s, copy))
            return RANS_RAN_OUT;
        v = decode_step(t, &x, &s.at, 0xffffffff);
        _mm256_storeu_si256((__m256i *)(symbols + i), _mm512_castsi512_si256(v));
        x = keep_upper(x, before);
    }
    if (s.at > s.end)
        return RANS_RAN_OUT;
    _mm512_storeu_si512(st->high, x.high);
    _mm512_storeu_si512(st->low, x.low);
    return len - (size_t)(s.end - s.at);
}

/* Encoding */

struct seen {
    __m512i least, most; /* as in rans_avx2.c */
};

static ALWAYS_INLINE uint8_t *encode_step(struct pair t, __m512i symbol, struct lanes64 *x,
                                          uint8_t *end, struct seen *seen, __mmask64 active)
{
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi8(-1);
    const __m512i byte = _mm512_set1_epi16(0x00ff);
    const __m512i freq = LOOK_UP(t, freq, symbol), start = LOOK_UP(t, start, symbol);
    const __m512i recip_low = LOOK_UP(t, recip_low, symbol);
    const __m512i recip_high = LOOK_UP(t, recip_high, symbol);
    __m512i high, low, x0, x1, q0, q1, r0, r1;
    __mmask64 need, more;

    seen->least = _mm512_min_epu8(seen->least, freq);
    seen->most = _mm512_or_si512(seen->most, symbol);

    need = _mm512_cmpge_epu8_mask(x->high, freq) & active;
    end = put_bytes(end, _mm512_extracti64x4_epi64(x->low, 1), (unsigned)(need >> 32));
    end = put_bytes(end, _mm512_castsi512_si256(x->low), (unsigned)need);
    low = _mm512_mask_mov_epi8(x->low, need, x->high);
    high = _mm512_mask_mov_epi8(x->high, need, zero);

    x0 = _mm512_unpacklo_epi8(low, high);
    x1 = _mm512_unpackhi_epi8(low, high);
    q0 = _mm512_mulhi_epu16(x0, _mm512_unpacklo_epi8(recip_low, recip_high));
    q1 = _mm512_mulhi_epu16(x1, _mm512_unpackhi_epi8(recip_low, recip_high));
    r0 = _mm512_mullo_epi16(_mm512_sub_epi16(q0, ones), _mm512_unpacklo_epi8(freq, zero));
    r1 = _mm512_mullo_epi16(_mm512_sub_epi16(q1, ones), _mm512_unpackhi_epi8(freq, zero));
    r0 = _mm512_sub_epi16(x0, r0);
    r1 = _mm512_sub_epi16(x1, r1);
    more = _mm512_cmpgt_epi8_mask(_mm512_packs_epi16(r0, r1), ones);
    high = _mm512_packus_epi16(q0, q1);
    x->high = _mm512_mask_sub_epi8(high, more, high, ones);
    low = _mm512_packus_epi16(_mm512_and_si512(r0, byte), _mm512_and_si512(r1, byte));
    low = _mm512_add_epi8(low, start);
    x->low = _mm512_mask_add_epi8(low, (__mmask64)~more, low, freq);
    return end;
}

static uint8_t *encode_64(const struct rans_model *model, const uint8_t *symbols, size_t n,
                          struct rans_states *st, uint8_t *end)
{
    struct seen seen = {_mm512_set1_epi8(-1), _mm512_setzero_si512()};
    struct lanes64 x = {_mm512_loadu_si512(st->high), _mm512_loadu_si512(st->low)};
    size_t i = n;

    if (i % 64) { /* half a step; its upper half repeats the lower, for all must be good symbols */
        const struct pair t = {rans_table_at(model, i - 32), rans_table_at(model, i - 32)};
        const struct lanes64 before = x;
        __m256i v = _mm256_loadu_si256((const __m256i *)(symbols + i - 32));
        end = encode_step(t, _mm512_inserti64x4(_mm512_castsi256_si512(v), v, 1), &x, end, &seen,
                          0xffffffff);
        x = keep_upper(x, before);
        i -= 32;
    }
    for (; i > 0; i -= 64) {
        const struct pair t = {rans_table_at(model, i - 64), rans_table_at(model, i - 32)};
        end = encode_step(t, _mm512_loadu_si512(symbols + i - 64), &x, end, &seen, ~(__mmask64)0);
    }
    _mm512_storeu_si512(st->high, x.high);
    _mm512_storeu_si512(st->low, x.low);
    if (_mm512_cmpeq_epi8_mask(seen.least, _mm512_setzero_si512()) ||
        _mm512_cmpgt_epu8_mask(seen.most, _mm512_set1_epi8(15)))
        return NULL;
    return end;
}

void rans_dsp_init_avx512(struct codec_dsp *dsp)
{
    dsp->rans_encode[RANS_WIDTH(64)] = encode_64;
    dsp->rans_decode[RANS_WIDTH(64)] = decode_64;
}
