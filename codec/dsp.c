/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernels: the definition that every other ISA must equal. */
#include "codec/dsp.h"

#include <math.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/f16.h"

static float sum_abs(const float *x, size_t n)
{
    float lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lane[i % CODEC_LANES] += fabsf(x[i]);
    return codec_lanes_sum_f32(lane);
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint8_t *mask,
                    struct codec_span *s)
{
    float lane[CODEC_LANES] = {0};
    size_t n_outliers = 0;

    *s = (struct codec_span){0};
    memset(dense, 0, CODEC_PAD_TO(n) * sizeof(*dense));
    memset(mask, 0, CODEC_PAD_TO(n) / 8);
    for (size_t i = 0; i < n; i++) {
        const bool outlier = fabsf(x[i]) > limit;
        const float v = outlier ? 0.0f : x[i];
        dense[i] = v;
        mask[i / 8] |= (uint8_t)(outlier << i % 8);
        n_outliers += outlier;
        lane[i % CODEC_LANES] = fmaf(v, v, lane[i % CODEC_LANES]);
        s->lo = v < s->lo ? v : s->lo;
        s->hi = v > s->hi ? v : s->hi;
    }
    s->sum_sq = codec_lanes_sum_f32(lane);
    return n_outliers;
}

/* lrintf, because it is one instruction on the plainest x86-64 where rintf is a call. */
static float quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    float lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        const float position = fmaf(dense[i], g->inv, g->bias);
        const long nearest = lrintf(position);
        const float e = position - (float)nearest;
        const long code = nearest < 0 ? 0 : nearest > g->top ? g->top : nearest;
        codes[i] = (uint8_t)code;
        lane[i % CODEC_LANES] = fmaf(e, e, lane[i % CODEC_LANES]);
    }
    return codec_lanes_sum_f32(lane);
}

static void dequantize(const uint8_t *codes, const uint8_t *mask, size_t n,
                       const struct codec_grid *g, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = g->unit * (float)((*codes << (8 - g->width)) - g->zero);
        codes += ~mask[i / 8] >> i % 8 & 1;
    }
}

static void copy(void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}

static bool to_f16(const float *x, size_t n, uint8_t *dst)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        if (!(fabsf(x[i]) < F16_OVERFLOW))
            return false;
        h = f16_from_f32(x[i]);
        memcpy(dst + 2 * i, &h, sizeof(h));
    }
    return true;
}

static bool from_f16(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof(h));
        if (!f16_is_finite(h))
            return false;
        out[i] = f32_from_f16(h);
    }
    return true;
}

void codec_dsp_init(struct codec_dsp *dsp, unsigned flags)
{
    *dsp = (struct codec_dsp){
        .sum_abs = sum_abs,
        .split = split,
        .quantize = quantize,
        .dequantize = dequantize,
        .pack = codec_pack,
        .unpack = codec_unpack,
        .copy = copy,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
#if defined(CODEC_X86)
    if (flags & CPU_AVX2)
        codec_dsp_init_avx2(dsp);
    if (flags & CPU_AVX512)
        codec_dsp_init_avx512(dsp);
#endif
    coded_dsp_init(dsp, flags);
    rans_dsp_init(dsp, flags);
    gemm_dsp_init(dsp, flags);
}
