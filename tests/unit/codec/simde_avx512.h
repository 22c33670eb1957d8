/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included before codec/x86/avx512.c to build its emulated copy: every AVX-512 intrinsic becomes
 * SIMDe's portable function, so that the file's logic is checked on machines without AVX-512.
 * The few that SIMDe 0.7.4 lacks stand here, by Intel's definition.
 */
#ifndef ISTHMUS_TESTS_SIMDE_AVX512_H
#define ISTHMUS_TESTS_SIMDE_AVX512_H

#pragma GCC system_header

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <math.h>
#include <string.h>

static inline simde__m512 emu_maskz_loadu_ps(simde__mmask16 k, const void *p)
{
    float lane[16] = {0};
    for (unsigned i = 0; i < 16; i++)
        if (k >> i & 1)
            memcpy(&lane[i], (const float *)p + i, sizeof(float));
    return simde_mm512_loadu_ps(lane);
}

static inline simde__m512d emu_cvtps_pd(simde__m256 v)
{
    float in[8];
    double lane[8];
    simde_mm256_storeu_ps(in, v);
    for (unsigned i = 0; i < 8; i++)
        lane[i] = (double)in[i];
    return simde_mm512_loadu_pd(lane);
}

static inline simde__m512i emu_cvtps_epi32(simde__m512 v)
{
    float in[16];
    int32_t lane[16];
    simde_mm512_storeu_ps(in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = fabsf(in[i]) < 0x1p31f ? (int32_t)lrintf(in[i]) : INT32_MIN;
    return simde_mm512_loadu_si512(lane);
}

static inline simde__m512 emu_cvtepi32_ps(simde__m512i v)
{
    int32_t in[16];
    float lane[16];
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = (float)in[i];
    return simde_mm512_loadu_ps(lane);
}

static inline simde__m512i emu_cvtepi8_epi32(simde__m128i v)
{
    int8_t in[16];
    int32_t lane[16];
    simde_mm_storeu_si128((simde__m128i *)in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = in[i];
    return simde_mm512_loadu_si512(lane);
}

static inline simde__m128i emu_cvtepi32_epi8(simde__m512i v)
{
    int32_t in[16];
    uint8_t lane[16];
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = (uint8_t)in[i];
    return simde_mm_loadu_si128((const simde__m128i *)lane);
}

static inline simde__m512i emu_cvtepi16_epi32(simde__m256i v)
{
    int16_t in[16];
    int32_t lane[16];
    simde_mm256_storeu_si256((simde__m256i *)in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = in[i];
    return simde_mm512_loadu_si512(lane);
}

static inline simde__m256i emu_cvtepi32_epi16(simde__m512i v)
{
    int32_t in[16];
    int16_t lane[16];
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0; i < 16; i++)
        lane[i] = (int16_t)in[i];
    return simde_mm256_loadu_si256((const simde__m256i *)lane);
}

/* SIMDe's rounds twice. */
static inline simde__m512 emu_fmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    float x[16], y[16], z[16];
    simde_mm512_storeu_ps(x, a);
    simde_mm512_storeu_ps(y, b);
    simde_mm512_storeu_ps(z, c);
    for (unsigned i = 0; i < 16; i++)
        z[i] = fmaf(x[i], y[i], z[i]);
    return simde_mm512_loadu_ps(z);
}

static inline simde__m512 emu_maskz_expand_ps(simde__mmask16 k, simde__m512 v)
{
    float in[16], lane[16] = {0};
    simde_mm512_storeu_ps(in, v);
    for (unsigned i = 0, next = 0; i < 16; i++)
        if (k >> i & 1)
            lane[i] = in[next++];
    return simde_mm512_loadu_ps(lane);
}

static inline void emu_mask_storeu_ps(void *p, simde__mmask16 k, simde__m512 v)
{
    float lane[16];
    simde_mm512_storeu_ps(lane, v);
    for (unsigned i = 0; i < 16; i++)
        if (k >> i & 1)
            memcpy((float *)p + i, &lane[i], sizeof(float));
}

static inline simde__m512i emu_mulhi_epu16(simde__m512i a, simde__m512i b)
{
    uint16_t x[32], y[32];
    simde_mm512_storeu_si512(x, a);
    simde_mm512_storeu_si512(y, b);
    for (unsigned i = 0; i < 32; i++)
        x[i] = (uint16_t)((uint32_t)x[i] * y[i] >> 16);
    return simde_mm512_loadu_si512(x);
}

static inline simde__m512i emu_bslli_epi128(simde__m512i v, unsigned bytes)
{
    uint8_t in[64], lane[64] = {0};
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0; i < 64; i++)
        if (i % 16 >= bytes)
            lane[i] = in[i - bytes];
    return simde_mm512_loadu_si512(lane);
}

/* SIMDe's shifts by 64 where a byte begins at bit 0. */
static inline simde__m512i emu_multishift_epi64_epi8(simde__m512i first, simde__m512i v)
{
    uint8_t at[64], lane[64];
    uint64_t in[8];
    simde_mm512_storeu_si512(at, first);
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0; i < 64; i++) {
        const uint64_t w = in[i / 8];
        const unsigned n = at[i] & 63;
        lane[i] = (uint8_t)(n ? w >> n | w << (64 - n) : w);
    }
    return simde_mm512_loadu_si512(lane);
}

static inline simde__m512i emu_maskz_compress_epi8(simde__mmask64 k, simde__m512i v)
{
    uint8_t in[64], lane[64] = {0};
    simde_mm512_storeu_si512(in, v);
    for (unsigned i = 0, next = 0; i < 64; i++)
        if (k >> i & 1)
            lane[next++] = in[i];
    return simde_mm512_loadu_si512(lane);
}

static inline simde__m512i emu_mask_expand_epi8(simde__m512i src, simde__mmask64 k, simde__m512i v)
{
    uint8_t in[64], lane[64];
    simde_mm512_storeu_si512(in, v);
    simde_mm512_storeu_si512(lane, src);
    for (unsigned i = 0, next = 0; i < 64; i++)
        if (k >> i & 1)
            lane[i] = in[next++];
    return simde_mm512_loadu_si512(lane);
}

/* SIMDe's macro asks for the arguments of the masked one. */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16

#undef _mm512_fmadd_ps
#undef _mm512_maskz_expand_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepi16_epi32
#undef _mm512_cvtps_pd
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_fmadd_ps        emu_fmadd_ps
#define _mm512_maskz_expand_ps emu_maskz_expand_ps
#define _mm512_mask_storeu_ps  emu_mask_storeu_ps
#define _mm512_maskz_loadu_ps  emu_maskz_loadu_ps
#define _mm512_cvtps_pd        emu_cvtps_pd
#define _mm512_cvtps_epi32     emu_cvtps_epi32
#define _mm512_cvtepi32_ps     emu_cvtepi32_ps
#define _mm512_cvtepi32_epi16  emu_cvtepi32_epi16
#define _mm512_cvtepi8_epi32   emu_cvtepi8_epi32
#define _mm512_cvtepi16_epi32  emu_cvtepi16_epi32
#define _mm512_cvtepi32_epi8   emu_cvtepi32_epi8
#define _mm512_mulhi_epu16     emu_mulhi_epu16
#define _mm512_bslli_epi128    emu_bslli_epi128
#undef _mm512_multishift_epi64_epi8
#define _mm512_multishift_epi64_epi8 emu_multishift_epi64_epi8
#define _mm512_maskz_compress_epi8   emu_maskz_compress_epi8
#define _mm512_mask_expand_epi8      emu_mask_expand_epi8
#define __m512                       simde__m512
#define __m512d                      simde__m512d
#define __m512i                      simde__m512i

#endif
