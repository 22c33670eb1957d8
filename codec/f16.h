/* SPDX-License-Identifier: Apache-2.0 */
/* IEEE 754 binary16 <-> binary32, round to nearest even: what F16C does. */
#ifndef ISTHMUS_CODEC_F16_H
#define ISTHMUS_CODEC_F16_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define F16_OVERFLOW 65520.0f /* the smallest magnitude that rounds to infinity */
#define F16_NORMAL   0x1p-14f /* the smallest magnitude with full precision */
#define F16_EXPONENT 0x7c00u  /* all ones: infinity or NaN */

static inline uint32_t f32_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

static inline float f32_from_bits(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static inline bool f16_is_finite(uint16_t h)
{
    return (h & F16_EXPONENT) != F16_EXPONENT;
}

/* Beyond f16: infinity. A NaN is quieted. */
static inline uint16_t f16_from_f32(float v)
{
    uint32_t bits = f32_bits(v);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t mag = bits & 0x7fffffffu;

    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu));
    if (mag >= f32_bits(F16_OVERFLOW))
        return (uint16_t)(sign | F16_EXPONENT);
    if (mag < f32_bits(F16_NORMAL)) /* adding 0.5 leaves the value in units of 2^-24, rounded */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(mag) + 0.5f) - f32_bits(0.5f)));
    mag -= 112u << 23; /* exponent bias 127 -> 15 */
    mag += 0xfffu + (mag >> 13 & 1u);
    return (uint16_t)(sign | mag >> 13);
}

/* Exact. A NaN is quieted. */
static inline float f32_from_f16(uint16_t h)
{
    uint32_t sign = (h & 0x8000u) << 16;
    uint32_t mag = h & 0x7fffu;

    if (mag >= F16_EXPONENT)
        return f32_from_bits(sign | 0x7f800000u | mag << 13 | (mag > F16_EXPONENT ? 0x400000u : 0));
    if (mag < 0x400u) /* subnormal: a multiple of 2^-24 */
        return f32_from_bits(sign | f32_bits((float)mag * 0x1p-24f));
    return f32_from_bits(sign | ((mag << 13) + (112u << 23)));
}

#endif
