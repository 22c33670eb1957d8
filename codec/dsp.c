/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernels: the definition that every other ISA must equal. */
#include "codec/dsp.h"

#include <math.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/f16.h"

static double sum_abs(const float *x, size_t n)
{
    double lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lane[i % CODEC_LANES] += fabs((double)x[i]);
    return codec_lanes_sum_f64(lane);
}

static size_t split(const float *x, size_t n, float limit, float *dense, uint16_t *pos)
{
    size_t n_dense = 0, n_pos = 0;

    for (size_t i = 0; i < n; i++) {
        if (fabsf(x[i]) > limit)
            pos[n_pos++] = (uint16_t)i;
        else
            dense[n_dense++] = x[i];
    }
    return n_pos;
}

static void span(const float *dense, size_t n, struct codec_span *s)
{
    double lane[CODEC_LANES] = {0};
    float lo = 0.0f, hi = 0.0f;

    for (size_t i = 0; i < n; i++) {
        double v = (double)dense[i];
        lane[i % CODEC_LANES] += v * v;
        lo = dense[i] < lo ? dense[i] : lo;
        hi = dense[i] > hi ? dense[i] : hi;
    }
    s->lo = lo;
    s->hi = hi;
    s->sum_sq = codec_lanes_sum_f64(lane);
}

/* lrintf, because it is one instruction on the plainest x86-64 where rintf is a call. */
static inline float nearest_code(float position, float top)
{
    float code = (float)lrintf(position);

    code = code > 0.0f ? code : 0.0f;
    return code < top ? code : top;
}

static inline float position(float v, const struct codec_grid *g)
{
    return v * g->inv + g->bias;
}

static float grid_error(const float *dense, size_t n, const struct codec_grid *g)
{
    float lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        float t = position(dense[i], g);
        float e = t - nearest_code(t, g->top);
        lane[i % CODEC_LANES] += e * e;
    }
    return codec_lanes_sum_f32(lane);
}

static void quantize(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)nearest_code(position(dense[i], g), g->top);
}

static void dequantize(const uint8_t *codes, const uint8_t *mask, size_t n,
                       const struct codec_grid *g, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = g->unit * (float)((*codes << (8 - g->width)) - g->zero);
        codes += ~mask[i / 8] >> i % 8 & 1;
    }
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
        .span = span,
        .grid_error = grid_error,
        .quantize = quantize,
        .dequantize = dequantize,
        .pack = codec_pack,
        .unpack = codec_unpack,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
#if defined(CODEC_X86)
    if (flags & CPU_AVX2)
        codec_dsp_init_avx2(dsp);
    if (flags & CPU_AVX512)
        codec_dsp_init_avx512(dsp);
#endif
    rans_dsp_init(dsp, flags);
}
