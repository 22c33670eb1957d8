/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernels: the definition that every other ISA must equal. */
#include "codec/dsp.h"

#include <math.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/f16.h"

/* As integers, whose order is that of floats, and NaN above all. */
static float larger(float a, float b)
{
    return f32_bits(a) > f32_bits(b) ? a : b;
}

/* Column i of those of which 32 in `every` times 32 are taken. */
static float taken(const float *x, size_t i, size_t every)
{
    return x[i / CODEC_LANES * CODEC_LANES * every + i % CODEC_LANES];
}

static float sum_abs(const float *x, size_t n, size_t every, struct codec_span *spans,
                     float *largest)
{
    float sum[CODEC_LANES] = {0};

    *largest = 0.0f;
    for (size_t i = 0; i < n; spans++) {
        const size_t end = i + CODEC_SPAN < n ? i + CODEC_SPAN : n;
        float sq[CODEC_LANES] = {0};
        for (; i < end; i++) {
            const float v = fabsf(taken(x, i, every));
            sum[i % CODEC_LANES] += v;
            sq[i % CODEC_LANES] = fmaf(v, v, sq[i % CODEC_LANES]);
        }
        codec_lanes_add(sq, CODEC_LANES, 8);
        for (unsigned lane = 0; lane < 8; lane++)
            *largest = larger(sq[lane], *largest);
        memcpy(spans->sum_sq, sq, sizeof(spans->sum_sq));
    }
    return codec_lanes_sum_f32(sum);
}

/* Values of spans without any above cap come to the same sums as in sum_abs. */
static float sum_sq(const float *x, size_t n, size_t every, float cap,
                    const struct codec_span *spans)
{
    float total[CODEC_LANES] = {0};

    (void)spans;
    for (size_t i = 0; i < n;) {
        const size_t end = i + CODEC_SPAN < n ? i + CODEC_SPAN : n;
        float sq[CODEC_LANES] = {0};
        for (; i < end; i++) {
            const float any = fabsf(taken(x, i, every)), v = any < cap ? any : cap;
            sq[i % CODEC_LANES] = fmaf(v, v, sq[i % CODEC_LANES]);
        }
        codec_lanes_add(sq, CODEC_LANES, 8);
        for (unsigned lane = 0; lane < 8; lane++)
            total[lane] += sq[lane];
    }
    codec_lanes_add(total, 8, 1);
    return total[0];
}

static float max_abs(const float *x, size_t n)
{
    float max = 0.0f;

    for (size_t i = 0; i < n; i++)
        max = larger(fabsf(x[i]), max);
    return max;
}

static void above(const int8_t *k, size_t n, size_t every, const uint8_t limits[CODEC_LIMITS],
                  uint32_t counts[CODEC_LIMITS])
{
    memset(counts, 0, CODEC_LIMITS * sizeof(*counts));
    for (size_t i = 0; i < n; i++)
        for (unsigned l = 0; l < CODEC_LIMITS && i / 32 % every == 0; l++)
            counts[l] += (k[i] < 0 ? -k[i] : k[i]) > limits[l];
}

/* lrintf, because it is one instruction on the plainest x86-64 where rintf is a call. */
static void quantize(const float *x, size_t n, float inv, int8_t *k)
{
    memset(k, 0, CODEC_PAD_TO(n));
    for (size_t i = 0; i < n; i++) {
        const float v = x[i] * inv;
        if (fabsf(v) <= CODEC_K8_MAX + .5f) /* whose nearest even integer is CODEC_K8_MAX */
            k[i] = (int8_t)lrintf(v);
        else
            k[i] = v > 0.0f && v < 0x1p31f ? 127 : -127;
    }
}

static size_t to_codes(const int8_t *k, size_t n, const struct codec_range *r, uint8_t *bits,
                       int8_t *rest)
{
    const int lo = r->lo < -CODEC_K8_MAX ? -CODEC_K8_MAX : r->lo;
    const int hi = r->hi > CODEC_K8_MAX ? CODEC_K8_MAX : r->hi;
    const int8_t *start = rest;

    for (size_t i = 0; i < n; i += 8, bits += r->width) {
        uint8_t codes[8] = {0};
        for (size_t c = 0; c < 8 && i + c < n; c++) {
            const int v = k[i + c];
            if (lo <= v && v <= hi)
                codes[c] = (uint8_t)(v + (v < 0 ? r->down : r->up));
            else
                *rest++ = (int8_t)v;
        }
        codec_pack(codes, 8, r->width, bits);
    }
    return (size_t)(rest - start);
}

static void from_codes(const uint8_t *codes, size_t n, const struct codec_range *r,
                       const int8_t *rest, int8_t *k)
{
    const int half = 1 << (r->width - 1);

    for (size_t i = 0; i < n; i++)
        k[i] = codes[i] ? (int8_t)(codes[i] - (codes[i] < half ? r->down : r->up)) : *rest++;
}

static void scale(const int8_t *k, size_t n, float step, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)k[i] * step;
}

static size_t to_values(const uint8_t *bits, size_t n, unsigned q, float step, float *out,
                        uint64_t *outliers)
{
    size_t zeros = 0;

    for (size_t i = 0; i < n; i += 8, bits += q) {
        uint8_t codes[8];
        if (i % 64 == 0)
            outliers[i / 64] = 0;
        zeros += codec_unpack(bits, n - i < 8 ? n - i : 8, q, codes);
        for (size_t c = 0; c < 8 && i + c < n; c++) {
            out[i + c] = (float)(codes[c] - (1 << (q - 1))) * step;
            outliers[i / 64] |= (uint64_t)(codes[c] == 0) << (i % 64 + c);
        }
    }
    return zeros;
}

static void fill_in(const uint64_t *outliers, size_t n, const float *values, float *out)
{
    for (size_t i = 0; i < n; i++)
        if (outliers[i / 64] >> i % 64 & 1)
            out[i] = *values++;
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
        .sum_sq = sum_sq,
        .max_abs = max_abs,
        .quantize = quantize,
        .above = above,
        .to_codes = to_codes,
        .pack = codec_pack,
        .unpack = codec_unpack,
        .from_codes = from_codes,
        .scale = scale,
        .to_values = to_values,
        .fill_in = fill_in,
        .copy = copy,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
    };
#if defined(CODEC_X86)
    if (flags & CPU_AVX2) {
        codec_dsp_init_avx2(dsp);
        tsq_dsp_init_avx2(dsp, cpu_pext_is_fast());
    }
    if (flags & CPU_AVX512)
        codec_dsp_init_avx512(dsp);
    if (flags & CPU_AVX512 && cpu_has_vbmi2())
        tsq_dsp_init_vbmi(dsp);
#endif
    coded_dsp_init(dsp, flags);
    rans_dsp_init(dsp, flags);
    gemm_dsp_init(dsp, flags);
}
