/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernels of the coded modes: the definition that every other ISA must equal. */
#include <math.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/dsp.h"

static float center(const float *x, const float *mean, size_t n, float *out)
{
    float lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        const float v = x[i] - mean[i];
        out[i] = v;
        lane[i % CODEC_LANES] = fmaf(v, v, lane[i % CODEC_LANES]);
    }
    return codec_lanes_sum_f32(lane);
}

static float dot(const float *a, const float *b, size_t n)
{
    float lane[CODEC_LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lane[i % CODEC_LANES] = fmaf(a[i], b[i], lane[i % CODEC_LANES]);
    return codec_lanes_sum_f32(lane);
}

static int16_t nearest(float v)
{
    v = v < -32767.0f ? -32767.0f : v;
    v = v > 32767.0f ? 32767.0f : v;
    return (int16_t)lrintf(v);
}

static void to_i16(const float *x, size_t n, float scale, int16_t *k)
{
    for (size_t i = 0; i < n; i++)
        k[i] = nearest(x[i] * scale);
}

static void scale_to_i16(const int32_t *acc, const float *mult, float scale, size_t n, int16_t *k)
{
    for (size_t i = 0; i < n; i++)
        k[i] = nearest((float)acc[i] * (mult[i] * scale));
}

static size_t best_class(const int32_t *acc, float unit, const float *bias, size_t n)
{
    size_t best = 0;
    float most = (float)acc[0] * unit + bias[0];

    for (size_t k = 1; k < n; k++) {
        const float score = (float)acc[k] * unit + bias[k];
        if (score > most) {
            most = score;
            best = k;
        }
    }
    return best;
}

static uint64_t sum_sq_i16(const int16_t *k, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)(k[i] * k[i]);
    return sum;
}

static bool from_i16(const int16_t *k, float delta, const float *mean, size_t n, float *out)
{
    bool good = true;

    for (size_t i = 0; i < n; i++) {
        out[i] = fmaf((float)k[i], delta, mean[i]);
        good &= isfinite(out[i]) != 0;
    }
    return good;
}

static bool from_i32(const int32_t *acc, const float *scale, float delta, const float *mean,
                     size_t n, float *out)
{
    bool good = true;

    for (size_t i = 0; i < n; i++) {
        out[i] = fmaf((float)acc[i], scale[i] * delta, mean[i]);
        good &= isfinite(out[i]) != 0;
    }
    return good;
}

/* (k + half) >> shift as a symbol; all but -7..7 are escapes. */
static unsigned symbol_of(int k, unsigned shift)
{
    const int high = (k + (1 << shift >> 1)) >> shift;

    return high >= -7 && high <= 7 ? (unsigned)(high + 8) : 0;
}

static uint32_t code_cost(const struct levels *l, const int16_t *k, const int8_t *level, int offset,
                          size_t groups)
{
    uint32_t sum = 0;

    for (size_t g = 0; g < groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(level[g], offset);
        const unsigned table = l->table[at], shift = l->shift[at];
        for (unsigned i = 0; i < RANS_GROUP; i++) {
            const unsigned s = symbol_of(k[i], shift);
            sum += l->cost_low[table][s] + 256u * l->cost_high[table][s];
        }
        sum += 256 * RANS_GROUP * shift;
    }
    return sum;
}

static size_t split_symbols(const struct levels *l, const int16_t *k, const int8_t *level,
                            int offset, size_t groups, uint8_t *symbols, uint32_t *escapes)
{
    size_t coded = 0;

    for (size_t g = 0; g < groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(level[g], offset);
        uint32_t escaped = 0;
        if (l->table[at] == TABLE_NONE)
            continue;
        for (unsigned i = 0; i < RANS_GROUP; i++) {
            symbols[i] = l->coded_as[l->table[at]][symbol_of(k[i], l->shift[at])];
            escaped |= (uint32_t)(symbols[i] == 0) << i;
        }
        escapes[coded++] = escaped;
        symbols += RANS_GROUP;
    }
    return coded;
}

static size_t join_symbols(const struct levels *l, const uint8_t *symbols, const int8_t *level,
                           int offset, size_t groups, int16_t *k, uint32_t *escapes)
{
    size_t coded = 0;

    for (size_t g = 0; g < groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(level[g], offset);
        uint32_t escaped = 0;
        if (l->table[at] == TABLE_NONE) {
            memset(k, 0, RANS_GROUP * sizeof(*k));
            continue;
        }
        for (unsigned i = 0; i < RANS_GROUP; i++) {
            k[i] = (int16_t)((symbols[i] - 8) * (1 << l->shift[at]));
            escaped |= (uint32_t)(symbols[i] == 0) << i;
        }
        escapes[coded++] = escaped;
        symbols += RANS_GROUP;
    }
    return coded;
}

void coded_dsp_init(struct codec_dsp *dsp, unsigned flags)
{
    dsp->center = center;
    dsp->dot = dot;
    dsp->to_i16 = to_i16;
    dsp->scale_to_i16 = scale_to_i16;
    dsp->best_class = best_class;
    dsp->sum_sq_i16 = sum_sq_i16;
    dsp->from_i16 = from_i16;
    dsp->from_i32 = from_i32;
    dsp->code_cost = code_cost;
    dsp->split_symbols = split_symbols;
    dsp->join_symbols = join_symbols;
#if defined(CODEC_X86)
    if (flags & CPU_AVX2)
        coded_dsp_init_avx2(dsp);
    if (flags & CPU_AVX512)
        coded_dsp_init_avx512(dsp);
#endif
}
