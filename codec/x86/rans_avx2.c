/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rANS, AVX2. Same bits as rans.c.
 *
 * 32 lanes at a time, their states in two registers of bytes: the high byte is the quotient that
 * the coding step multiplies, the low byte is the slot, and renormalising moves whole bytes.
 */
#include "codec/x86/rans_x86.h"

static inline __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store32(uint8_t *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

static inline __m256i look_up(const uint8_t table[RANS_SYMBOLS], __m256i index)
{
    return _mm256_shuffle_epi8(load16_twice(table), index);
}

/* Fewer lanes than 32 are the first ones of a register; the others compute nonsense that goes
 * nowhere. */
static inline __m256i active_lanes(unsigned lanes)
{
    const __m256i lane =
        _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
                         21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
    return _mm256_cmpgt_epi8(_mm256_set1_epi8((char)lanes), lane);
}

static inline __m256i load_symbols(const uint8_t *p, unsigned lanes)
{
    long long low8 = 0;

    if (lanes >= 32)
        return load32(p);
    if (lanes == 16)
        return _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    memcpy(&low8, p, lanes);
    return _mm256_castsi128_si256(_mm_cvtsi64_si128(low8));
}

static inline void store_symbols(uint8_t *p, __m256i v, unsigned lanes)
{
    const __m128i low = _mm256_castsi256_si128(v);
    const long long low8 = _mm_cvtsi128_si64(low);

    if (lanes >= 32)
        store32(p, v);
    else if (lanes == 16)
        _mm_storeu_si128((__m128i *)p, low);
    else
        memcpy(p, &low8, lanes);
}

struct lanes32 {
    __m256i high, low;
};

static inline void load_states(struct lanes32 x[2], const struct rans_states *st)
{
    for (unsigned k = 0; k < 2; k++)
        x[k] = (struct lanes32){load32(st->high + 32 * k), load32(st->low + 32 * k)};
}

static inline void store_states(struct rans_states *st, const struct lanes32 x[2])
{
    for (unsigned k = 0; k < 2; k++) {
        store32(st->high + 32 * k, x[k].high);
        store32(st->low + 32 * k, x[k].low);
    }
}

/* Decoding */

struct constants {
    __m256i bias, even, step[4];
};

/* Kept from the compiler, or GCC makes them anew in every step. */
static inline __m256i constant(__m256i v)
{
    __asm__("" : "+x"(v));
    return v;
}

static inline struct constants make_constants(void)
{
    return (struct constants){
        .bias = constant(_mm256_set1_epi8(-128)),
        .even = constant(_mm256_set1_epi16(0x00ff)),
        .step = {constant(_mm256_set1_epi8(8)), constant(_mm256_set1_epi8(4)),
                 constant(_mm256_set1_epi8(2)), constant(_mm256_set1_epi8(1))},
    };
}

/* The rank whose slots each slot is among: a binary search in 16 boundaries. Where rank is a
 * multiple of 2 * step, (last + step)[rank] is the boundary in the middle. */
static inline __m256i find_ranks(const uint8_t last[RANS_SYMBOLS], __m256i slot,
                                 const struct constants *c)
{
    const __m256i biased = _mm256_xor_si256(slot, c->bias); /* compares are signed */
    __m256i rank = _mm256_setzero_si256(), middle;

    middle = _mm256_shuffle_epi8(load16_twice(last + 8), rank);
    rank = _mm256_and_si256(_mm256_cmpgt_epi8(biased, middle), c->step[0]);
    middle = _mm256_shuffle_epi8(load16_twice(last + 4), rank);
    rank = _mm256_blendv_epi8(rank, _mm256_or_si256(rank, c->step[1]),
                              _mm256_cmpgt_epi8(biased, middle));
    middle = _mm256_shuffle_epi8(load16_twice(last + 2), rank);
    rank = _mm256_blendv_epi8(rank, _mm256_or_si256(rank, c->step[2]),
                              _mm256_cmpgt_epi8(biased, middle));
    middle = _mm256_shuffle_epi8(load16_twice(last + 1), rank);
    return _mm256_blendv_epi8(rank, _mm256_or_si256(rank, c->step[3]),
                              _mm256_cmpgt_epi8(biased, middle));
}

/* The next bytes of *src, in lane order, in the lanes that need one; *src moves on. */
static inline __m256i take_bytes(const uint8_t **src, __m256i need)
{
    const unsigned mask = (unsigned)_mm256_movemask_epi8(need);
    const uint8_t *low = *src, *high = low + __builtin_popcount(mask & 0xffff);
    __m256i count = need; /* -(lanes up to this one that need a byte), in each half */
    __m256i bytes;

    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 1));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 2));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 4));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 8));
    bytes = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low));
    bytes = _mm256_inserti128_si256(bytes, _mm_loadu_si128((const __m128i *)high), 1);
    *src += __builtin_popcount(mask);
    /* ~(-count) is count - 1 */
    return _mm256_shuffle_epi8(bytes, _mm256_xor_si256(count, _mm256_set1_epi8(-1)));
}

/* A step of up to 32 lanes: their symbols. */
static ALWAYS_INLINE __m256i decode_step(const struct rans_table *t, struct lanes32 *x,
                                         const uint8_t **src, unsigned lanes,
                                         const struct constants *c)
{
    const __m256i even = c->even, rank = find_ranks(t->last, x->low, c);
    const __m256i freq = look_up(t->rank_freq, rank);
    const __m256i offset = _mm256_sub_epi8(x->low, look_up(t->rank_start, rank));
    __m256i x_even, x_odd, high, low, need;

    x_even = _mm256_mullo_epi16(_mm256_and_si256(freq, even), _mm256_and_si256(x->high, even));
    x_even = _mm256_add_epi16(x_even, _mm256_and_si256(offset, even));
    x_odd = _mm256_mulhi_epu16(_mm256_andnot_si256(even, freq), _mm256_andnot_si256(even, x->high));
    x_odd = _mm256_add_epi16(x_odd, _mm256_srli_epi16(offset, 8));
    high = _mm256_blendv_epi8(x_odd, _mm256_srli_epi16(x_even, 8), even);
    low = _mm256_blendv_epi8(_mm256_slli_epi16(x_odd, 8), x_even, even);

    need = _mm256_cmpeq_epi8(high, _mm256_setzero_si256());
    if (lanes < 32)
        need = _mm256_and_si256(need, active_lanes(lanes));
    x->high = _mm256_blendv_epi8(high, low, need);
    x->low = _mm256_blendv_epi8(low, take_bytes(src, need), need);
    return look_up(t->rank_symbol, rank);
}

static ALWAYS_INLINE size_t decode(const struct rans_model *model, const uint8_t *src, size_t len,
                                   size_t n, struct rans_states *st, uint8_t *symbols,
                                   unsigned lanes)
{
    const struct constants c = make_constants();
    const unsigned step = lanes < 32 ? lanes : 32;
    struct source s = {src, src + len, false};
    uint8_t copy[2 * FAR];
    struct lanes32 x[2];
    size_t i = 0;

    load_states(x, st);
    if (lanes == 64) {
        for (; i + 64 <= n; i += 64) {
            if (!source_check(&s, copy))
                return RANS_RAN_OUT;
            store32(symbols + i, decode_step(rans_table_at(model, i), &x[0], &s.at, 32, &c));
            store32(symbols + i + 32,
                    decode_step(rans_table_at(model, i + 32), &x[1], &s.at, 32, &c));
        }
    }
    for (; i < n; i += step) {
        if (!source_check(&s, copy))
            return RANS_RAN_OUT;
        store_symbols(symbols + i, decode_step(rans_table_at(model, i), &x[0], &s.at, step, &c),
                      step);
    }
    if (s.at > s.end)
        return RANS_RAN_OUT;
    store_states(st, x);
    return len - (size_t)(s.end - s.at);
}

/* Encoding */

/* For a mask of 8 bytes the shuffle that moves those bytes, in order, to the top. */
const uint64_t rans_to_top[256] = {
    0x8080808080808080, 0x0080808080808080, 0x0180808080808080, 0x0100808080808080,
    0x0280808080808080, 0x0200808080808080, 0x0201808080808080, 0x0201008080808080,
    0x0380808080808080, 0x0300808080808080, 0x0301808080808080, 0x0301008080808080,
    0x0302808080808080, 0x0302008080808080, 0x0302018080808080, 0x0302010080808080,
    0x0480808080808080, 0x0400808080808080, 0x0401808080808080, 0x0401008080808080,
    0x0402808080808080, 0x0402008080808080, 0x0402018080808080, 0x0402010080808080,
    0x0403808080808080, 0x0403008080808080, 0x0403018080808080, 0x0403010080808080,
    0x0403028080808080, 0x0403020080808080, 0x0403020180808080, 0x0403020100808080,
    0x0580808080808080, 0x0500808080808080, 0x0501808080808080, 0x0501008080808080,
    0x0502808080808080, 0x0502008080808080, 0x0502018080808080, 0x0502010080808080,
    0x0503808080808080, 0x0503008080808080, 0x0503018080808080, 0x0503010080808080,
    0x0503028080808080, 0x0503020080808080, 0x0503020180808080, 0x0503020100808080,
    0x0504808080808080, 0x0504008080808080, 0x0504018080808080, 0x0504010080808080,
    0x0504028080808080, 0x0504020080808080, 0x0504020180808080, 0x0504020100808080,
    0x0504038080808080, 0x0504030080808080, 0x0504030180808080, 0x0504030100808080,
    0x0504030280808080, 0x0504030200808080, 0x0504030201808080, 0x0504030201008080,
    0x0680808080808080, 0x0600808080808080, 0x0601808080808080, 0x0601008080808080,
    0x0602808080808080, 0x0602008080808080, 0x0602018080808080, 0x0602010080808080,
    0x0603808080808080, 0x0603008080808080, 0x0603018080808080, 0x0603010080808080,
    0x0603028080808080, 0x0603020080808080, 0x0603020180808080, 0x0603020100808080,
    0x0604808080808080, 0x0604008080808080, 0x0604018080808080, 0x0604010080808080,
    0x0604028080808080, 0x0604020080808080, 0x0604020180808080, 0x0604020100808080,
    0x0604038080808080, 0x0604030080808080, 0x0604030180808080, 0x0604030100808080,
    0x0604030280808080, 0x0604030200808080, 0x0604030201808080, 0x0604030201008080,
    0x0605808080808080, 0x0605008080808080, 0x0605018080808080, 0x0605010080808080,
    0x0605028080808080, 0x0605020080808080, 0x0605020180808080, 0x0605020100808080,
    0x0605038080808080, 0x0605030080808080, 0x0605030180808080, 0x0605030100808080,
    0x0605030280808080, 0x0605030200808080, 0x0605030201808080, 0x0605030201008080,
    0x0605048080808080, 0x0605040080808080, 0x0605040180808080, 0x0605040100808080,
    0x0605040280808080, 0x0605040200808080, 0x0605040201808080, 0x0605040201008080,
    0x0605040380808080, 0x0605040300808080, 0x0605040301808080, 0x0605040301008080,
    0x0605040302808080, 0x0605040302008080, 0x0605040302018080, 0x0605040302010080,
    0x0780808080808080, 0x0700808080808080, 0x0701808080808080, 0x0701008080808080,
    0x0702808080808080, 0x0702008080808080, 0x0702018080808080, 0x0702010080808080,
    0x0703808080808080, 0x0703008080808080, 0x0703018080808080, 0x0703010080808080,
    0x0703028080808080, 0x0703020080808080, 0x0703020180808080, 0x0703020100808080,
    0x0704808080808080, 0x0704008080808080, 0x0704018080808080, 0x0704010080808080,
    0x0704028080808080, 0x0704020080808080, 0x0704020180808080, 0x0704020100808080,
    0x0704038080808080, 0x0704030080808080, 0x0704030180808080, 0x0704030100808080,
    0x0704030280808080, 0x0704030200808080, 0x0704030201808080, 0x0704030201008080,
    0x0705808080808080, 0x0705008080808080, 0x0705018080808080, 0x0705010080808080,
    0x0705028080808080, 0x0705020080808080, 0x0705020180808080, 0x0705020100808080,
    0x0705038080808080, 0x0705030080808080, 0x0705030180808080, 0x0705030100808080,
    0x0705030280808080, 0x0705030200808080, 0x0705030201808080, 0x0705030201008080,
    0x0705048080808080, 0x0705040080808080, 0x0705040180808080, 0x0705040100808080,
    0x0705040280808080, 0x0705040200808080, 0x0705040201808080, 0x0705040201008080,
    0x0705040380808080, 0x0705040300808080, 0x0705040301808080, 0x0705040301008080,
    0x0705040302808080, 0x0705040302008080, 0x0705040302018080, 0x0705040302010080,
    0x0706808080808080, 0x0706008080808080, 0x0706018080808080, 0x0706010080808080,
    0x0706028080808080, 0x0706020080808080, 0x0706020180808080, 0x0706020100808080,
    0x0706038080808080, 0x0706030080808080, 0x0706030180808080, 0x0706030100808080,
    0x0706030280808080, 0x0706030200808080, 0x0706030201808080, 0x0706030201008080,
    0x0706048080808080, 0x0706040080808080, 0x0706040180808080, 0x0706040100808080,
    0x0706040280808080, 0x0706040200808080, 0x0706040201808080, 0x0706040201008080,
    0x0706040380808080, 0x0706040300808080, 0x0706040301808080, 0x0706040301008080,
    0x0706040302808080, 0x0706040302008080, 0x0706040302018080, 0x0706040302010080,
    0x0706058080808080, 0x0706050080808080, 0x0706050180808080, 0x0706050100808080,
    0x0706050280808080, 0x0706050200808080, 0x0706050201808080, 0x0706050201008080,
    0x0706050380808080, 0x0706050300808080, 0x0706050301808080, 0x0706050301008080,
    0x0706050302808080, 0x0706050302008080, 0x0706050302018080, 0x0706050302010080,
    0x0706050480808080, 0x0706050400808080, 0x0706050401808080, 0x0706050401008080,
    0x0706050402808080, 0x0706050402008080, 0x0706050402018080, 0x0706050402010080,
    0x0706050403808080, 0x0706050403008080, 0x0706050403018080, 0x0706050403010080,
    0x0706050403028080, 0x0706050403020080, 0x0706050403020180, 0x0706050403020100,
};

/* What has been seen: a lane of least is 0 once its symbol had no slots, one of most is above 15
 * once it was no symbol. */
struct seen {
    __m256i least, most;
};

/* A step of up to 32 lanes, backwards. */
static ALWAYS_INLINE uint8_t *encode_step(const struct rans_table *t, __m256i symbol,
                                          struct lanes32 *x, uint8_t *end, struct seen *seen,
                                          unsigned lanes)
{
    const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(-1);
    const __m256i byte = _mm256_set1_epi16(0x00ff);
    const __m256i freq = look_up(t->freq, symbol), start = look_up(t->start, symbol);
    const __m256i recip_low = look_up(t->recip_low, symbol);
    const __m256i recip_high = look_up(t->recip_high, symbol);
    __m256i need, high, low, x0, x1, q0, q1, r0, r1, more;

    seen->least = _mm256_min_epu8(seen->least, freq);
    seen->most = _mm256_or_si256(seen->most, symbol);

    need = _mm256_cmpeq_epi8(_mm256_max_epu8(x->high, freq), x->high);
    if (lanes < 32)
        need = _mm256_and_si256(need, active_lanes(lanes));
    end = put_bytes(end, x->low, (unsigned)_mm256_movemask_epi8(need));
    low = _mm256_blendv_epi8(x->low, x->high, need);
    high = _mm256_andnot_si256(need, x->high);

    /* The quotient is q or q + 1: with q + 1 the remainder shows which. */
    x0 = _mm256_unpacklo_epi8(low, high);
    x1 = _mm256_unpackhi_epi8(low, high);
    q0 = _mm256_mulhi_epu16(x0, _mm256_unpacklo_epi8(recip_low, recip_high));
    q1 = _mm256_mulhi_epu16(x1, _mm256_unpackhi_epi8(recip_low, recip_high));
    r0 = _mm256_mullo_epi16(_mm256_sub_epi16(q0, ones), _mm256_unpacklo_epi8(freq, zero));
    r1 = _mm256_mullo_epi16(_mm256_sub_epi16(q1, ones), _mm256_unpackhi_epi8(freq, zero));
    r0 = _mm256_sub_epi16(x0, r0);
    r1 = _mm256_sub_epi16(x1, r1);
    more = _mm256_cmpgt_epi8(_mm256_packs_epi16(r0, r1), ones);
    x->high = _mm256_sub_epi8(_mm256_packus_epi16(q0, q1), more);
    low = _mm256_packus_epi16(_mm256_and_si256(r0, byte), _mm256_and_si256(r1, byte));
    low = _mm256_add_epi8(low, _mm256_andnot_si256(more, freq));
    x->low = _mm256_add_epi8(low, start);
    return end;
}

static inline bool all_good(const struct seen *seen, unsigned lanes)
{
    const __m256i bad = _mm256_or_si256(
        _mm256_cmpeq_epi8(seen->least, _mm256_setzero_si256()),
        _mm256_cmpeq_epi8(_mm256_max_epu8(seen->most, _mm256_set1_epi8(16)), seen->most));
    return _mm256_testz_si256(bad, active_lanes(lanes));
}

static ALWAYS_INLINE uint8_t *encode(const struct rans_model *model, const uint8_t *symbols,
                                     size_t n, struct rans_states *st, uint8_t *end, unsigned lanes)
{
    struct seen seen = {_mm256_set1_epi8(-1), _mm256_setzero_si256()};
    const unsigned step = lanes < 32 ? lanes : 32;
    struct lanes32 x[2];
    size_t i = n;

    load_states(x, st);
    for (; i % lanes || (lanes < 64 && i > 0); i -= step) /* of 64 lanes only a last half */
        end = encode_step(rans_table_at(model, i - step), load_symbols(symbols + i - step, step),
                          &x[0], end, &seen, step);
    for (; i > 0; i -= 64) {
        end = encode_step(rans_table_at(model, i - 32), load32(symbols + i - 32), &x[1], end, &seen,
                          32);
        end = encode_step(rans_table_at(model, i - 64), load32(symbols + i - 64), &x[0], end, &seen,
                          32);
    }
    store_states(st, x);
    return all_good(&seen, lanes) ? end : NULL;
}

RANS_KERNELS

void rans_dsp_init_avx2(struct codec_dsp *dsp)
{
    set_kernels(dsp);
}
