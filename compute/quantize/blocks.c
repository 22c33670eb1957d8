/* SPDX-License-Identifier: Apache-2.0 */
/* Rows in ggml's blocks, each scale searched so that the weighted square error is least for the
 * scale as f16 holds it. */
#include <endian.h>
#include <math.h>
#include <string.h>

#include "codec/f16.h"
#include "compute/quantize/impl.h"

#define BLOCK       32u
#define SUPER_BLOCK 256u
#define SUB_BLOCK   16u
#define STEPS       16 /* of the search, either side */

static void store16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof(v));
}

static float round_code(float v, float low, float high)
{
    const float c = rintf(v);

    return c < low ? low : c > high ? high : c;
}

static double error_of(const float *w, const float *weight, uint32_t n, float scale, float low,
                       float high)
{
    const float inverse = scale != 0 ? 1 / scale : 0;
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const float d = scale * round_code(w[i] * inverse, low, high) - w[i];
        sum += (double)(weight ? weight[i] * d * d : d * d);
    }
    return sum;
}

/* The scale that is best for the codes which another gives. */
static float fit(const float *w, const float *weight, uint32_t n, float scale, float low,
                 float high)
{
    const float inverse = scale != 0 ? 1 / scale : 0;
    double wc = 0, cc = 0;

    for (uint32_t i = 0; i < n; i++) {
        const double c = (double)round_code(w[i] * inverse, low, high);
        const double k = weight ? (double)weight[i] : 1;
        wc += k * c * (double)w[i];
        cc += k * c * c;
    }
    return cc > 0 ? (float)(wc / cc) : scale;
}

/* Of value = scale * code, code in [low, high]: the sign of the scale is free too, which gives the
 * longer side to the larger values. exact: scales are held as f32. */
static float search(const float *w, const float *weight, uint32_t n, float low, float high,
                    bool exact)
{
    float most = 0, best_scale = 0;
    double best = INFINITY;

    for (uint32_t i = 0; i < n; i++)
        if (fabsf(w[i]) > fabsf(most))
            most = w[i];
    if (most == 0)
        return 0;
    for (int k = -STEPS; k <= STEPS; k++)
        for (int fitted = 0; fitted < 2; fitted++) {
            float s = most / (low + .1f * (float)k * -low / STEPS * (low < -64 ? .1f : 2));

            if (fitted)
                s = fit(w, weight, n, s, low, high);
            if (!exact)
                s = grid_round(s);
            const double e = error_of(w, weight, n, s, low, high);
            if (e < best) {
                best = e;
                best_scale = s;
            }
        }
    return best_scale;
}

static void code_all(const float *w, uint32_t n, float scale, int low, int high, int *codes)
{
    const float inverse = scale != 0 ? 1 / scale : 0;

    for (uint32_t i = 0; i < n; i++)
        codes[i] = (int)round_code(w[i] * inverse, (float)low, (float)high);
}

static void put_nibbles(const int *codes, uint8_t *to)
{
    for (unsigned i = 0; i < 16; i++)
        to[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

static void encode_q8_0(const float *w, const float *weight, uint8_t *to)
{
    const float d = search(w, weight, BLOCK, -128, 127, false);
    int codes[BLOCK];

    code_all(w, BLOCK, d, -128, 127, codes);
    store16(to, f16_from_f32(d));
    for (unsigned i = 0; i < BLOCK; i++)
        to[2 + i] = (uint8_t)(int8_t)codes[i];
}

static void encode_q4_0(const float *w, const float *weight, uint8_t *to)
{
    const float d = search(w, weight, BLOCK, -8, 7, false);
    int codes[BLOCK];

    code_all(w, BLOCK, d, -8, 7, codes);
    store16(to, f16_from_f32(d));
    for (unsigned i = 0; i < BLOCK; i++)
        codes[i] += 8;
    put_nibbles(codes, to + 2);
}

static void encode_q5_0(const float *w, const float *weight, uint8_t *to)
{
    const float d = search(w, weight, BLOCK, -16, 15, false);
    uint32_t high = 0;
    int codes[BLOCK];

    code_all(w, BLOCK, d, -16, 15, codes);
    store16(to, f16_from_f32(d));
    for (unsigned i = 0; i < BLOCK; i++) {
        codes[i] += 16;
        high |= (uint32_t)(codes[i] >> 4) << i;
    }
    high = htole32(high);
    memcpy(to + 2, &high, sizeof(high));
    put_nibbles(codes, to + 6);
}

static void encode_q4_1(const float *w, const float *weight, uint8_t *to)
{
    static const float alike[BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                       1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const struct quantize_scheme scheme = {.kind = QUANTIZE_GROUPS, .bits = 4, .group = BLOCK};
    float d = 0, m = 0, value;
    struct grid g = {.scheme = &scheme, .scale = &d, .min = &m};
    int codes[BLOCK];

    groups_search(w, weight ? weight : alike, BLOCK, &g);
    for (unsigned i = 0; i < BLOCK; i++)
        codes[i] = (int)grid_nearest(&g, 0, w[i], &value);
    store16(to, f16_from_f32(d));
    store16(to + 2, f16_from_f32(m));
    put_nibbles(codes, to + 4);
}

/* Sixteen scales of 16 values each, as int8 times one f16. The layout is that of qtype.c's q6_k. */
static void encode_q6_k(const float *w, const float *weight, uint8_t *to)
{
    float scales[SUB_BLOCK], most = 0;

    for (unsigned s = 0; s < SUPER_BLOCK / SUB_BLOCK; s++) {
        scales[s] = search(w + s * SUB_BLOCK, weight ? weight + s * SUB_BLOCK : NULL, SUB_BLOCK,
                           -32, 31, true);
        if (fabsf(scales[s]) > fabsf(most))
            most = scales[s];
    }
    const float d = grid_round(most / -128), inverse = d != 0 ? 1 / d : 0;

    memset(to, 0, 210);
    store16(to + 208, f16_from_f32(d));
    for (unsigned s = 0; s < SUPER_BLOCK / SUB_BLOCK; s++) {
        const int scale = (int)round_code(scales[s] * inverse, -128, 127);
        int codes[SUB_BLOCK];

        to[192 + s] = (uint8_t)(int8_t)scale;
        code_all(w + s * SUB_BLOCK, SUB_BLOCK, d * (float)scale, -32, 31, codes);
        for (unsigned i = 0; i < SUB_BLOCK; i++) {
            const unsigned at = s * SUB_BLOCK + i, half = at / 128, k = at % 128 / 32, l = at % 32;
            const unsigned v = (unsigned)(codes[i] + 32);

            to[half * 64 + (k & 1) * 32 + l] |= (uint8_t)((v & 15) << (k / 2) * 4);
            to[128 + half * 32 + l] |= (uint8_t)((v >> 4) << k * 2);
        }
    }
}

void blocks_encode(enum qtype type, const float *w, const float *weight, uint32_t n, uint8_t *to)
{
    const struct qtype_info *info = qtype_info(type);

    for (uint32_t i = 0; i < n; i += info->block_values, to += info->block_bytes) {
        const float *k = weight ? weight + i : NULL;

        switch (type) {
        case QTYPE_Q8_0:
            encode_q8_0(w + i, k, to);
            break;
        case QTYPE_Q6_K:
            encode_q6_k(w + i, k, to);
            break;
        case QTYPE_Q5_0:
            encode_q5_0(w + i, k, to);
            break;
        case QTYPE_Q4_0:
            encode_q4_0(w + i, k, to);
            break;
        case QTYPE_Q4_1:
            encode_q4_1(w + i, k, to);
            break;
        default: /* F16: the only other that is asked for */
            store16(to, f16_from_f32(w[i]));
            break;
        }
    }
}
