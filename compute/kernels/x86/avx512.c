/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AVX-512 F + BW + DQ + VL: 16 lanes are one register. Compiled a second time with VNNI, and for
 * the tests with SIMDe in place of the instructions.
 */
#ifdef KERNELS_SIMDE
#include "simde_avx512.h"
#define ALWAYS_INLINE __attribute__((noinline)) /* emulated all in one takes minutes to compile */
#else
#include <immintrin.h>
#define ALWAYS_INLINE inline __attribute__((always_inline))
#endif
#include <math.h>
#include <string.h>

#include "compute/kernels/internal.h"

#define REGISTERS 32
#define TILE_SUMS 24
#define ROWS_FN   static ALWAYS_INLINE

typedef __m512 v16;
typedef __m512i vb;

ROWS_FN v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

ROWS_FN void v_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

ROWS_FN v16 v_set1(float x)
{
    return _mm512_set1_ps(x);
}

ROWS_FN v16 v_loadh(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

ROWS_FN void v_storeh(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

ROWS_FN v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

ROWS_FN v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

ROWS_FN v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

ROWS_FN v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

ROWS_FN v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

ROWS_FN v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

ROWS_FN v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

ROWS_FN v16 v_abs(v16 a)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
}

ROWS_FN v16 v_ldexp(v16 p, v16 t)
{
    vb n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}

ROWS_FN v16 v_zero_below(v16 x, v16 lo, v16 y)
{
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, lo, _CMP_LT_OQ), _mm512_setzero_ps());
}

ROWS_FN __m256 upper(v16 a)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}

/* The first two steps of the sum's tree: 4 lanes are left. */
ROWS_FN __m128 sum_to_4(v16 a)
{
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), upper(a));
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
    __m256 m = _mm256_max_ps(_mm512_castps512_ps256(a), upper(a));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

/* What words_impl.h is made of: lanes 0-3, 8-11, 4-7, 12-15 as words. */
ROWS_FN __m256i v_pack_words(v16 a)
{
    return _mm256_packs_epi32(_mm256_cvtps_epi32(_mm512_castps512_ps256(a)),
                              _mm256_cvtps_epi32(upper(a)));
}

#include "compute/kernels/x86/words_impl.h"

/* --- 64 bytes ---------------------------------------------------------------------------------- */

ROWS_FN vb vb_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

ROWS_FN void vb_store(void *p, vb a)
{
    _mm512_storeu_si512(p, a);
}

ROWS_FN vb vb_set8(char x)
{
    return _mm512_set1_epi8(x);
}

ROWS_FN vb vb_set16(int16_t x)
{
    return _mm512_set1_epi16(x);
}

ROWS_FN vb vb_bcast(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}

ROWS_FN vb vb_and(vb a, vb b)
{
    return _mm512_and_si512(a, b);
}

ROWS_FN vb vb_or(vb a, vb b)
{
    return _mm512_or_si512(a, b);
}

ROWS_FN vb vb_add32(vb a, vb b)
{
    return _mm512_add_epi32(a, b);
}

ROWS_FN vb vb_sub16(vb a, vb b)
{
    return _mm512_sub_epi16(a, b);
}

ROWS_FN vb vb_mullo16(vb a, vb b)
{
    return _mm512_mullo_epi16(a, b);
}

ROWS_FN vb vb_madd16(vb a, vb b)
{
    return _mm512_madd_epi16(a, b);
}

ROWS_FN vb vb_srl16(vb a, int n)
{
    return _mm512_srli_epi16(a, (unsigned)n);
}

ROWS_FN vb vb_sra16(vb a, int n)
{
    return _mm512_srai_epi16(a, (unsigned)n);
}

ROWS_FN vb vb_sll16(vb a, int n)
{
    return _mm512_slli_epi16(a, (unsigned)n);
}

#ifdef HAVE_DPBUSD

ROWS_FN vb vb_xor(vb a, vb b)
{
    return _mm512_xor_si512(a, b);
}

ROWS_FN vb vb_dot(vb acc, vb u, vb s)
{
    return _mm512_dpbusd_epi32(acc, u, s);
}

ROWS_FN vb vb_dot16(vb acc, vb a, vb b)
{
    return _mm512_dpwssd_epi32(acc, a, b);
}

ROWS_FN vb vb_sll32(vb a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}

ROWS_FN vb vb_mul_low16(vb a, vb b)
{
    return _mm512_mullo_epi32(a, _mm512_srai_epi32(_mm512_slli_epi32(b, 16), 16));
}

#else

ROWS_FN vb vb_add16(vb a, vb b)
{
    return _mm512_add_epi16(a, b);
}

ROWS_FN vb vb_maddubs(vb u, vb s)
{
    return _mm512_maddubs_epi16(u, s);
}

ROWS_FN vb vb_dot16(vb acc, vb a, vb b)
{
    return vb_add32(acc, vb_madd16(a, b));
}

#endif

ROWS_FN v16 vb_to_float(vb a)
{
    return _mm512_cvtepi32_ps(a);
}

ROWS_FN v16 vb_byte_to_float(vb a, int j, bool is_signed)
{
    vb up = _mm512_slli_epi32(a, (unsigned)(24 - 8 * j));
    return vb_to_float(is_signed ? _mm512_srai_epi32(up, 24) : _mm512_srli_epi32(up, 24));
}

ROWS_FN vb vb_widen_i8_16(const uint8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

ROWS_FN v16 v_load_u8(const uint8_t *p)
{
    return vb_to_float(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

ROWS_FN v16 v_load_bf16(const uint16_t *p)
{
    vb x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

ROWS_FN vb vb_dup_low16(vb a)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(a, 16));
}

ROWS_FN vb vb_dup_high16(vb a)
{
    return _mm512_mask_blend_epi16(0x55555555, a, _mm512_srli_epi32(a, 16));
}

ROWS_FN vb vb_low_one16(void)
{
    return _mm512_set1_epi32(1);
}

ROWS_FN vb vb_bcast128(const void *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128(p));
}

ROWS_FN vb vb_lookup(vb table, vb index)
{
    return _mm512_shuffle_epi8(table, index);
}

ROWS_FN vb vb_even(vb a, vb b)
{
    return _mm512_castps_si512(
        _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88));
}

ROWS_FN vb vb_odd(vb a, vb b)
{
    return _mm512_castps_si512(
        _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xdd));
}

ROWS_FN v16 v_permute(v16 a, vb lanes)
{
    return _mm512_permutexvar_ps(lanes, a);
}

ROWS_FN vb vb_nibbles(uint64_t x)
{
    const vb at = _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    const vb low = _mm512_set1_epi32((int32_t)x), high = _mm512_set1_epi32((int32_t)(x >> 32));

    return _mm512_srlv_epi32(_mm512_mask_mov_epi32(low, 0xff00, high), at);
}

ROWS_FN vb vb_load_u16(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}

ROWS_FN size_t vb_count_above(vb n, size_t k)
{
    return (size_t)__builtin_popcount(_mm512_cmpgt_epi32_mask(n, _mm512_set1_epi32((int)k)));
}

ROWS_FN v16 v_fma_above(vb n, size_t k, v16 a, v16 b, v16 y)
{
    return _mm512_mask_mov_ps(y, _mm512_cmpgt_epi32_mask(n, _mm512_set1_epi32((int)k)),
                              v_fma(a, b, y));
}

#define HALVES     1u
#define HALF_BYTES 64u
typedef vb vh;

#define vh_load         vb_load
#define vh_bcast128     vb_bcast128
#define vh_set8         vb_set8
#define vh_set16        vb_set16
#define vh_and          vb_and
#define vh_or           vb_or
#define vh_add32        vb_add32
#define vh_add16        vb_add16
#define vh_madd16       vb_madd16
#define vh_maddubs      vb_maddubs
#define vh_srl16        vb_srl16
#define vh_sll16        vb_sll16
#define vh_lookup       vb_lookup
#define vh_even         vb_even
#define vh_odd          vb_odd
#define vh_join(halves) ((halves)[0])

/* --- attention --------------------------------------------------------------------------------- */

typedef vb vp, vi;

ROWS_FN v16 v_swap(v16 a, const int h)
{
    const vb lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_ps(_mm512_xor_si512(lanes, _mm512_set1_epi32(h)), a);
}

ROWS_FN void v_store_i16(int16_t *p, v16 a)
{
    __m256i lo = _mm256_cvtps_epi32(_mm512_castps512_ps256(a)), hi = _mm256_cvtps_epi32(upper(a));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8));
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
    return _mm512_cvtepi8_epi16(
        _mm256_shuffle_epi8(levels, _mm256_and_si256(x, _mm256_set1_epi8(15))));
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
#ifdef HAVE_DPBUSD
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return vb_add32(acc, vb_madd16(a, b));
#endif
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

#if defined(KERNELS_SIMDE) && defined(HAVE_DPBUSD)
const struct kernels_isa kernels_isa_vnni_emulated = KERNELS_ISA_TABLE("vnni");
#elif defined(KERNELS_SIMDE)
const struct kernels_isa kernels_isa_avx512_emulated = KERNELS_ISA_TABLE("avx512");
#elif defined(HAVE_DPBUSD)
const struct kernels_isa kernels_isa_vnni = KERNELS_ISA_TABLE("vnni");
#else
const struct kernels_isa kernels_isa_avx512 = KERNELS_ISA_TABLE("avx512");
#endif
