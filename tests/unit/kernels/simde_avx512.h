/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 without AVX-512: SIMDe's portable forms over AVX2. */
#ifndef TEST_SIMDE_AVX512_H
#define TEST_SIMDE_AVX512_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#undef _mm512_madd_epi16 /* 0.7.4 gives it the masked form's arguments */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

/* What SIMDe lacks. */
static inline simde__m512 emulated_cvtph(simde__m256i h)
{
    float f[16];
    _mm256_storeu_ps(f, _mm256_cvtph_ps(_mm256_castsi256_si128(h)));
    _mm256_storeu_ps(f + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
    return simde_mm512_loadu_ps(f);
}

static inline simde__m256i emulated_cvtps_ph(simde__m512 x)
{
    float f[16];
    simde_mm512_storeu_ps(f, x);
    __m128i lo = _mm256_cvtps_ph(_mm256_loadu_ps(f), _MM_FROUND_TO_NEAREST_INT);
    __m128i hi = _mm256_cvtps_ph(_mm256_loadu_ps(f + 8), _MM_FROUND_TO_NEAREST_INT);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
}

static inline simde__m512 emulated_cvtepi32_ps(simde__m512i x)
{
    float f[16];
    int32_t i[16];
    simde_mm512_storeu_si512(i, x);
    for (int k = 0; k < 16; k++)
        f[k] = (float)i[k];
    return simde_mm512_loadu_ps(f);
}

static inline simde__m512i emulated_srai_epi32(simde__m512i x, unsigned n)
{
    int32_t i[16];
    simde_mm512_storeu_si512(i, x);
    for (int k = 0; k < 16; k++)
        i[k] >>= n;
    return simde_mm512_loadu_si512(i);
}

/* SIMDe's wants a constant, which clang does not see through a function that is not inlined. */
static inline simde__m512i emulated_srli_epi16(simde__m512i x, unsigned n)
{
    uint16_t w[32];
    simde_mm512_storeu_si512(w, x);
    for (int k = 0; k < 32; k++)
        w[k] = (uint16_t)(w[k] >> n);
    return simde_mm512_loadu_si512(w);
}

static inline simde__m512i emulated_cvtepu8_epi32(__m128i x)
{
    uint8_t b[16];
    uint32_t i[16];
    _mm_storeu_si128((__m128i *)b, x);
    for (int k = 0; k < 16; k++)
        i[k] = b[k];
    return simde_mm512_loadu_si512(i);
}

static inline simde__m512i emulated_cvtepu16_epi32(__m256i x)
{
    uint16_t w[16];
    uint32_t i[16];
    _mm256_storeu_si256((__m256i *)w, x);
    for (int k = 0; k < 16; k++)
        i[k] = w[k];
    return simde_mm512_loadu_si512(i);
}

#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_srai_epi32
#undef _mm512_srli_epi16
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtepu8_epi32(x)  emulated_cvtepu8_epi32(x)
#define _mm512_cvtepu16_epi32(x) emulated_cvtepu16_epi32(x)
#define _mm512_srai_epi32(x, n)  emulated_srai_epi32(x, n)
#define _mm512_srli_epi16(x, n)  emulated_srli_epi16(x, n)
#define _mm512_cvtepi32_ps(x)    emulated_cvtepi32_ps(x)
#define _mm512_cvtph_ps(h)       emulated_cvtph(h)
#define _mm512_cvtps_ph(x, mode) emulated_cvtps_ph(x)

#endif
