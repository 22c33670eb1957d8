/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2 + FMA + F16C: 16 lanes are two registers. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "compute/kernels/internal.h"

#define REGISTERS     16
#define TILE_SUMS     6
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ROWS_FN       static ALWAYS_INLINE

typedef struct {
    __m256 l, h;
} v16;

typedef struct {
    __m256i l, h;
} vb;

#define V(lo, hi) ((v16){(lo), (hi)})
#define B(lo, hi) ((vb){(lo), (hi)})

ROWS_FN v16 v_load(const float *p)
{
    return V(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

ROWS_FN void v_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.l);
    _mm256_storeu_ps(p + 8, a.h);
}

ROWS_FN v16 v_set1(float x)
{
    __m256 v = _mm256_set1_ps(x);
    return V(v, v);
}

ROWS_FN v16 v_loadh(const uint16_t *p)
{
    return V(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
             _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}

ROWS_FN void v_storeh(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.l, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.h, _MM_FROUND_TO_NEAREST_INT));
}

ROWS_FN v16 v_add(v16 a, v16 b)
{
    return V(_mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h));
}

ROWS_FN v16 v_sub(v16 a, v16 b)
{
    return V(_mm256_sub_ps(a.l, b.l), _mm256_sub_ps(a.h, b.h));
}

ROWS_FN v16 v_mul(v16 a, v16 b)
{
    return V(_mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h));
}

ROWS_FN v16 v_div(v16 a, v16 b)
{
    return V(_mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h));
}

ROWS_FN v16 v_fma(v16 a, v16 b, v16 c)
{
    return V(_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h));
}

ROWS_FN v16 v_max(v16 a, v16 b)
{
    return V(_mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h));
}

ROWS_FN v16 v_min(v16 a, v16 b)
{
    return V(_mm256_min_ps(a.l, b.l), _mm256_min_ps(a.h, b.h));
}

ROWS_FN v16 v_abs(v16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.f);
    return V(_mm256_andnot_ps(sign, a.l), _mm256_andnot_ps(sign, a.h));
}

ROWS_FN __m256 ldexp8(__m256 p, __m256 t)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}

ROWS_FN v16 v_ldexp(v16 p, v16 t)
{
    return V(ldexp8(p.l, t.l), ldexp8(p.h, t.h));
}

ROWS_FN v16 v_zero_below(v16 x, v16 lo, v16 y)
{
    return V(_mm256_andnot_ps(_mm256_cmp_ps(x.l, lo.l, _CMP_LT_OQ), y.l),
             _mm256_andnot_ps(_mm256_cmp_ps(x.h, lo.h, _CMP_LT_OQ), y.h));
}

/* The first two steps of the sum's tree: 4 lanes are left. */
ROWS_FN __m128 sum_to_4(v16 a)
{
    __m256 s = _mm256_add_ps(a.l, a.h);
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

ROWS_FN float v_sum(v16 a)
{
    __m128 s = sum_to_4(a);
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

ROWS_FN float v_hmax(v16 a)
{
    __m256 m = _mm256_max_ps(a.l, a.h);
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

/* What words_impl.h is made of: lanes 0-3, 8-11, 4-7, 12-15 as words. */
ROWS_FN __m256i v_pack_words(v16 a)
{
    return _mm256_packs_epi32(_mm256_cvtps_epi32(a.l), _mm256_cvtps_epi32(a.h));
}

#include "compute/kernels/x86/words_impl.h"

/* --- 64 bytes ---------------------------------------------------------------------------------- */

ROWS_FN vb vb_load(const void *p)
{
    const __m256i *q = p;
    return B(_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1));
}

ROWS_FN void vb_store(void *p, vb a)
{
    __m256i *q = p;
    _mm256_storeu_si256(q, a.l);
    _mm256_storeu_si256(q + 1, a.h);
}

ROWS_FN vb vb_set8(char x)
{
    __m256i v = _mm256_set1_epi8(x);
    return B(v, v);
}

ROWS_FN vb vb_set16(int16_t x)
{
    __m256i v = _mm256_set1_epi16(x);
    return B(v, v);
}

ROWS_FN vb vb_bcast(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    __m256i v = _mm256_set1_epi32(x);
    return B(v, v);
}

#define BINARY(name, op)                                                                           \
    ROWS_FN vb name(vb a, vb b)                                                                    \
    {                                                                                              \
        return B(op(a.l, b.l), op(a.h, b.h));                                                      \
    }
BINARY(vb_and, _mm256_and_si256)
BINARY(vb_or, _mm256_or_si256)
BINARY(vb_add32, _mm256_add_epi32)
BINARY(vb_add16, _mm256_add_epi16)
BINARY(vb_sub16, _mm256_sub_epi16)
BINARY(vb_mullo16, _mm256_mullo_epi16)
BINARY(vb_madd16, _mm256_madd_epi16)
BINARY(vb_maddubs, _mm256_maddubs_epi16)

ROWS_FN vb vb_srl16(vb a, int n)
{
    return B(_mm256_srli_epi16(a.l, n), _mm256_srli_epi16(a.h, n));
}

ROWS_FN vb vb_sll16(vb a, int n)
{
    return B(_mm256_slli_epi16(a.l, n), _mm256_slli_epi16(a.h, n));
}

ROWS_FN vb vb_sra16(vb a, int n)
{
    return B(_mm256_srai_epi16(a.l, n), _mm256_srai_epi16(a.h, n));
}

/* acc + the sum of two products of words. */
ROWS_FN vb vb_dot16(vb acc, vb a, vb b)
{
    return vb_add32(acc, vb_madd16(a, b));
}

ROWS_FN v16 vb_to_float(vb a)
{
    return V(_mm256_cvtepi32_ps(a.l), _mm256_cvtepi32_ps(a.h));
}

ROWS_FN v16 vb_byte_to_float(vb a, int j, bool is_signed)
{
    vb up = B(_mm256_slli_epi32(a.l, 24 - 8 * j), _mm256_slli_epi32(a.h, 24 - 8 * j));
    return vb_to_float(is_signed ? B(_mm256_srai_epi32(up.l, 24), _mm256_srai_epi32(up.h, 24))
                                 : B(_mm256_srli_epi32(up.l, 24), _mm256_srli_epi32(up.h, 24)));
}

ROWS_FN vb vb_widen_i8_16(const uint8_t *p)
{
    return B(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)),
             _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p + 16))));
}

ROWS_FN v16 v_load_u8(const uint8_t *p)
{
    return vb_to_float(B(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                         _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))));
}

ROWS_FN __m256 load_bf16_8(const uint16_t *p)
{
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}

ROWS_FN v16 v_load_bf16(const uint16_t *p)
{
    return V(load_bf16_8(p), load_bf16_8(p + 8));
}

ROWS_FN vb vb_dup_low16(vb a)
{
    return B(_mm256_blend_epi16(a.l, _mm256_slli_epi32(a.l, 16), 0xaa),
             _mm256_blend_epi16(a.h, _mm256_slli_epi32(a.h, 16), 0xaa));
}

ROWS_FN vb vb_dup_high16(vb a)
{
    return B(_mm256_blend_epi16(a.l, _mm256_srli_epi32(a.l, 16), 0x55),
             _mm256_blend_epi16(a.h, _mm256_srli_epi32(a.h, 16), 0x55));
}

ROWS_FN vb vb_low_one16(void)
{
    __m256i v = _mm256_set1_epi32(1);
    return B(v, v);
}

ROWS_FN vb vb_bcast128(const void *p)
{
    __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
    return B(v, v);
}

BINARY(vb_lookup, _mm256_shuffle_epi8)

/* Of eight lanes of a: those that an index below eight asks for, of both halves. */
ROWS_FN __m256 permute_half(v16 a, __m256i lanes)
{
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(a.l, lanes),
                            _mm256_permutevar8x32_ps(a.h, lanes),
                            _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 28)));
}

ROWS_FN v16 v_permute(v16 a, vb lanes)
{
    return V(permute_half(a, lanes.l), permute_half(a, lanes.h));
}

ROWS_FN vb vb_nibbles(uint64_t x)
{
    const __m256i at = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);

    return B(_mm256_srlv_epi32(_mm256_set1_epi32((int32_t)x), at),
             _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)(x >> 32)), at));
}

ROWS_FN vb vb_load_u16(const uint16_t *p)
{
    return B(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)),
             _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8))));
}

ROWS_FN __m256 above(__m256i n, size_t k)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, _mm256_set1_epi32((int)k)));
}

ROWS_FN size_t vb_count_above(vb n, size_t k)
{
    const int low = _mm256_movemask_ps(above(n.l, k)), high = _mm256_movemask_ps(above(n.h, k));

    return (size_t)__builtin_popcount((unsigned)(low | high << 8));
}

ROWS_FN v16 v_fma_above(vb n, size_t k, v16 a, v16 b, v16 y)
{
    return V(_mm256_blendv_ps(y.l, _mm256_fmadd_ps(a.l, b.l, y.l), above(n.l, k)),
             _mm256_blendv_ps(y.h, _mm256_fmadd_ps(a.h, b.h, y.h), above(n.h, k)));
}

/* Halves of 64 bytes, for what needs all registers for one at a time. */
#define HALVES     2u
#define HALF_BYTES 32u
typedef __m256i vh;

ROWS_FN vh vh_load(const void *p)
{
    return _mm256_loadu_si256(p);
}

ROWS_FN vh vh_bcast128(const void *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}

#define vh_set8         _mm256_set1_epi8
#define vh_set16        _mm256_set1_epi16
#define vh_and          _mm256_and_si256
#define vh_or           _mm256_or_si256
#define vh_add32        _mm256_add_epi32
#define vh_add16        _mm256_add_epi16
#define vh_madd16       _mm256_madd_epi16
#define vh_maddubs      _mm256_maddubs_epi16
#define vh_srl16        _mm256_srli_epi16
#define vh_sll16        _mm256_slli_epi16
#define vh_lookup       _mm256_shuffle_epi8
#define vh_even         EVEN
#define vh_odd          ODD
#define vh_join(halves) B((halves)[0], (halves)[1])

/* A lane: dwords 0 and 2 (1 and 3) of a's, then of b's. */
#define DWORDS(a, b, which)                                                                        \
    _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), which))
#define EVEN(a, b) DWORDS(a, b, 0x88)
#define ODD(a, b)  DWORDS(a, b, 0xdd)
BINARY(vb_even, EVEN)
BINARY(vb_odd, ODD)

/* --- attention --------------------------------------------------------------------------------- */

typedef vb vp, vi;

ROWS_FN v16 v_swap(v16 a, const int h)
{
    switch (h) {
    case 8:
        return V(a.h, a.l);
    case 4:
        return V(_mm256_permute2f128_ps(a.l, a.l, 1), _mm256_permute2f128_ps(a.h, a.h, 1));
    case 2:
        return V(_mm256_permute_ps(a.l, 0x4e), _mm256_permute_ps(a.h, 0x4e));
    default:
        return V(_mm256_permute_ps(a.l, 0xb1), _mm256_permute_ps(a.h, 0xb1));
    }
}

ROWS_FN void v_store_i16(int16_t *p, v16 a)
{
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(a.l), _mm256_cvtps_epi32(a.h));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xd8));
}

ROWS_FN vp vp_load8(const uint8_t *p)
{
    return vb_widen_i8_16(p);
}

ROWS_FN vp vp_load4(const uint8_t *p, const int high)
{
    const __m256i levels =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)kv_levels));
    __m256i x = _mm256_loadu_si256((const __m256i *)p);

    if (high)
        x = _mm256_srli_epi16(x, 4);
    x = _mm256_shuffle_epi8(levels, _mm256_and_si256(x, _mm256_set1_epi8(15)));
    return B(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)),
             _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1)));
}

ROWS_FN vp vp_bcast(const int16_t *p)
{
    return vb_bcast(p);
}

ROWS_FN vi vi_zero(void)
{
    return vb_set8(0);
}

ROWS_FN vi vi_dot(vi acc, vp a, vp b)
{
    return vb_add32(acc, vb_madd16(a, b));
}

ROWS_FN v16 vi_float(vi a)
{
    return vb_to_float(a);
}

#undef ROWS_FN
#define ROWS_FN static
#define TILE_FN static ALWAYS_INLINE
#include "compute/kernels/rows_impl.h"
#include "compute/kernels/attend_impl.h"
#include "compute/kernels/x86/mat_impl.h"
#include "compute/kernels/x86/scheme_impl.h"

const struct kernels_isa kernels_isa_avx2 = KERNELS_ISA_TABLE("avx2");
