/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stored bytes of each weight type mean. Block layouts are ggml's; products and sums are
 * separate f32 operations in the order written, so that the values are the same bits everywhere.
 */
#include "compute/qtype.h"

#include <endian.h>
#include <string.h>

#include "codec/f16.h"

#define SIMPLE_VALUES 32u  /* values in a block of Q4_0 .. Q8_0 */
#define SUPER_VALUES  256u /* values in a super-block of Q4_K .. Q6_K */

static const struct qtype_info infos[] = {
    [QTYPE_F32] = {"F32", 1, 4},       [QTYPE_F16] = {"F16", 1, 2},
    [QTYPE_Q4_0] = {"Q4_0", 32, 18},   [QTYPE_Q4_1] = {"Q4_1", 32, 20},
    [QTYPE_Q5_0] = {"Q5_0", 32, 22},   [QTYPE_Q5_1] = {"Q5_1", 32, 24},
    [QTYPE_Q8_0] = {"Q8_0", 32, 34},   [QTYPE_Q4_K] = {"Q4_K", 256, 144},
    [QTYPE_Q5_K] = {"Q5_K", 256, 176}, [QTYPE_Q6_K] = {"Q6_K", 256, 210},
    [QTYPE_I8] = {"I8", 1, 1},         [QTYPE_I16] = {"I16", 1, 2},
    [QTYPE_I32] = {"I32", 1, 4},       [QTYPE_BF16] = {"BF16", 1, 2},
};

const struct qtype_info *qtype_info(uint32_t ggml_type)
{
    if (ggml_type >= sizeof infos / sizeof infos[0] || !infos[ggml_type].name)
        return NULL;
    return &infos[ggml_type];
}

const char *qtype_supported(void)
{
    return "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K I8 I16 I32";
}

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return le16toh(v);
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static float f16(const uint8_t *p)
{
    return f32_from_f16(load16(p));
}

/* Blocks of 32: byte i of the nibbles holds value i below and value i + 16 above. */

static void q4_0(const uint8_t *b, float *y)
{
    float d = f16(b);
    for (unsigned i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *b, float *y)
{
    float d = f16(b), m = f16(b + 2);
    for (unsigned i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* Bit i of the fifth-bit word belongs to value i. */
static int five_bits(uint32_t nibble, uint32_t high, unsigned i)
{
    return (int)(nibble | (high >> i & 1) << 4);
}

static void q5_0(const uint8_t *b, float *y)
{
    float d = f16(b);
    uint32_t high = load32(b + 2);
    for (unsigned i = 0; i < 16; i++) {
        y[i] = d * (float)(five_bits(b[6 + i] & 15, high, i) - 16);
        y[i + 16] = d * (float)(five_bits(b[6 + i] >> 4, high, i + 16) - 16);
    }
}

static void q5_1(const uint8_t *b, float *y)
{
    float d = f16(b), m = f16(b + 2);
    uint32_t high = load32(b + 4);
    for (unsigned i = 0; i < 16; i++) {
        y[i] = d * (float)five_bits(b[8 + i] & 15, high, i) + m;
        y[i + 16] = d * (float)five_bits(b[8 + i] >> 4, high, i + 16) + m;
    }
}

static void q8_0(const uint8_t *b, float *y)
{
    float d = f16(b);
    for (unsigned i = 0; i < SIMPLE_VALUES; i++)
        y[i] = d * (float)(int8_t)b[2 + i];
}

/*
 * Q4_K and Q5_K: eight sub-blocks of 32 with 6-bit scales and minima in 12 bytes. The first four
 * have theirs in the low six bits of bytes j and j + 4; the last four have four bits in byte j + 4
 * and two in the top bits of the first eight bytes.
 */
static void k_scale_min(const uint8_t *s, unsigned j, uint32_t *scale, uint32_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63u;
        *min = s[j + 4] & 63u;
    } else {
        *scale = (s[j + 4] & 15u) | (uint32_t)(s[j - 4] >> 6) << 4;
        *min = (uint32_t)(s[j + 4] >> 4) | (uint32_t)(s[j] >> 6) << 4;
    }
}

static void q4_k(const uint8_t *b, float *y)
{
    float d = f16(b), dmin = f16(b + 2);
    const uint8_t *scales = b + 4, *nibbles = b + 16;
    for (unsigned j = 0; j < 8; j++) {
        uint32_t scale, min;
        k_scale_min(scales, j, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        /* Two sub-blocks share 32 bytes: the even one below, the odd one above. */
        const uint8_t *q = nibbles + j / 2 * 32;
        for (unsigned i = 0; i < 32; i++)
            y[j * 32 + i] = ds * (float)(q[i] >> (j & 1) * 4 & 15) - dm;
    }
}

static void q5_k(const uint8_t *b, float *y)
{
    float d = f16(b), dmin = f16(b + 2);
    const uint8_t *scales = b + 4, *high = b + 16, *nibbles = b + 48;
    for (unsigned j = 0; j < 8; j++) {
        uint32_t scale, min;
        k_scale_min(scales, j, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        const uint8_t *q = nibbles + j / 2 * 32;
        for (unsigned i = 0; i < 32; i++) {
            int v = (q[i] >> (j & 1) * 4 & 15) | (high[i] >> j & 1) << 4;
            y[j * 32 + i] = ds * (float)v - dm;
        }
    }
}

/* Two halves of 128 values: 64 bytes of low nibbles, 32 bytes of upper bit pairs, 8 scales of 16
 * values each. Within a half, quarter k (32 values) has nibbles in bytes 32 (k & 1) .., low for
 * k < 2 and high for the rest, and its bit pair at bits 2k. */
static void q6_k(const uint8_t *b, float *y)
{
    float d = f16(b + 208);
    for (unsigned half = 0; half < 2; half++) {
        const uint8_t *low = b + half * 64, *high = b + 128 + half * 32;
        const uint8_t *scales = b + 192 + half * 8;
        for (unsigned k = 0; k < 4; k++) {
            for (unsigned i = 0; i < 32; i++) {
                float ds = d * (float)(int8_t)scales[k * 2 + i / 16];
                int nibble = low[(k & 1) * 32 + i] >> (k / 2) * 4 & 15;
                int v = (nibble | (high[i] >> k * 2 & 3) << 4) - 32;
                y[half * 128 + k * 32 + i] = ds * (float)v;
            }
        }
    }
}

void qtype_dequantize(enum qtype t, const void *src, float *dst, size_t n)
{
    const uint8_t *b = src;
    switch (t) {
    case QTYPE_F32:
        for (size_t i = 0; i < n; i++)
            dst[i] = f32_from_bits(load32(b + i * 4));
        return;
    case QTYPE_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f16(b + i * 2);
        return;
    case QTYPE_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f32_from_bits((uint32_t)load16(b + i * 2) << 16);
        return;
    case QTYPE_I8:
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)(int8_t)b[i];
        return;
    case QTYPE_I16:
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)(int16_t)load16(b + i * 2);
        return;
    case QTYPE_I32:
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)(int32_t)load32(b + i * 4);
        return;
    case QTYPE_Q4_0:
        for (size_t i = 0; i < n; i += SIMPLE_VALUES, b += 18)
            q4_0(b, dst + i);
        return;
    case QTYPE_Q4_1:
        for (size_t i = 0; i < n; i += SIMPLE_VALUES, b += 20)
            q4_1(b, dst + i);
        return;
    case QTYPE_Q5_0:
        for (size_t i = 0; i < n; i += SIMPLE_VALUES, b += 22)
            q5_0(b, dst + i);
        return;
    case QTYPE_Q5_1:
        for (size_t i = 0; i < n; i += SIMPLE_VALUES, b += 24)
            q5_1(b, dst + i);
        return;
    case QTYPE_Q8_0:
        for (size_t i = 0; i < n; i += SIMPLE_VALUES, b += 34)
            q8_0(b, dst + i);
        return;
    case QTYPE_Q4_K:
        for (size_t i = 0; i < n; i += SUPER_VALUES, b += 144)
            q4_k(b, dst + i);
        return;
    case QTYPE_Q5_K:
        for (size_t i = 0; i < n; i += SUPER_VALUES, b += 176)
            q5_k(b, dst + i);
        return;
    case QTYPE_Q6_K:
        for (size_t i = 0; i < n; i += SUPER_VALUES, b += 210)
            q6_k(b, dst + i);
        return;
    }
}

/* --- finite or not ------------------------------------------------------------------------------
 */

/* Where a block keeps its floats: n of `bytes` each from `at` on, whose exponent bits are `mask`
 * when they are infinite or NaN. Codes are integers and always finite. */
struct floats {
    uint32_t at, n, bytes, mask;
};

static struct floats floats_of(enum qtype t)
{
    switch (t) {
    case QTYPE_F32:
        return (struct floats){0, 1, 4, 0x7f800000u};
    case QTYPE_BF16:
        return (struct floats){0, 1, 2, 0x7f80u};
    case QTYPE_F16:
    case QTYPE_Q4_0:
    case QTYPE_Q5_0:
    case QTYPE_Q8_0:
        return (struct floats){0, 1, 2, 0x7c00u};
    case QTYPE_Q6_K:
        return (struct floats){208, 1, 2, 0x7c00u};
    case QTYPE_I8:
    case QTYPE_I16:
    case QTYPE_I32:
        return (struct floats){0, 0, 2, 0x7c00u};
    case QTYPE_Q4_1:
    case QTYPE_Q5_1:
    case QTYPE_Q4_K:
    case QTYPE_Q5_K:
        break;
    }
    return (struct floats){0, 2, 2, 0x7c00u};
}

bool qtype_finite(enum qtype t, const void *src, size_t n)
{
    const struct qtype_info *q = qtype_info(t);
    const struct floats f = floats_of(t);
    const uint8_t *block = src;

    for (size_t i = 0; i < n; i += q->block_values, block += q->block_bytes) {
        for (uint32_t k = 0; k < f.n; k++) {
            const uint8_t *p = block + f.at + k * f.bytes;
            uint32_t bits = load16(p);

            if (f.bytes == 4)
                bits |= (uint32_t)load16(p + 2) << 16;
            if ((bits & f.mask) == f.mask)
                return false;
        }
    }
    return true;
}
