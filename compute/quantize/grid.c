/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "codec/f16.h"
#include "compute/quantize/impl.h"

#define SEARCH_STEPS 24 /* of a group's width */

float grid_round(float v)
{
    const float max = 65504.0f;

    return f32_from_f16(f16_from_f32(v > max ? max : v < -max ? -max : v));
}

/* Levels rise: the last whose lower neighbour's midpoint is below v. */
static unsigned nearest_level(const float *levels, unsigned bits, float v)
{
    unsigned at = 0;

    for (unsigned half = 1u << bits >> 1; half; half >>= 1)
        if (v > .5f * (levels[at + half - 1] + levels[at + half]))
            at += half;
    return at;
}

static unsigned nearest_step(float scale, float min, unsigned bits, float v)
{
    const float last = (float)((1u << bits) - 1), c = scale > 0 ? rintf((v - min) / scale) : 0;

    return (unsigned)(c > last ? last : c > 0 ? c : 0);
}

float grid_value(const struct grid *g, uint32_t col, unsigned code)
{
    if (g->scheme->kind == QUANTIZE_LEVELS)
        return g->levels[code];
    const uint32_t group = col / g->scheme->group;
    return g->scale[group] * (float)code + g->min[group];
}

unsigned grid_nearest(const struct grid *g, uint32_t col, float v, float *value)
{
    unsigned code;

    if (g->scheme->kind == QUANTIZE_LEVELS) {
        code = nearest_level(g->levels, g->scheme->bits, v);
    } else {
        const uint32_t group = col / g->scheme->group;
        code = nearest_step(g->scale[group], g->min[group], g->scheme->bits, v);
    }
    *value = grid_value(g, col, code);
    return code;
}

/* --- groups ---------------------------------------------------------------------------------- */

static double group_error(const float *w, const float *weight, uint32_t n, float scale, float min,
                          unsigned bits)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const float d = scale * (float)nearest_step(scale, min, bits, w[i]) + min - w[i];
        sum += (double)(weight[i] * d * d);
    }
    return sum;
}

/* The scale and minimum that are best for the codes that these give. */
static void fit(const float *w, const float *weight, uint32_t n, unsigned bits, float *scale,
                float *min)
{
    double s = 0, sc = 0, scc = 0, sw = 0, scw = 0;

    for (uint32_t i = 0; i < n; i++) {
        const double c = nearest_step(*scale, *min, bits, w[i]), k = (double)weight[i];
        s += k;
        sc += k * c;
        scc += k * c * c;
        sw += k * (double)w[i];
        scw += k * c * (double)w[i];
    }
    const double det = s * scc - sc * sc;
    if (!(det > 1e-9 * s * scc))
        return;
    const double a = (s * scw - sc * sw) / det;
    if (a > 0) {
        *scale = (float)a;
        *min = (float)((sw - a * sc) / s);
    }
}

static void search_group(const float *w, const float *weight, uint32_t n, unsigned bits,
                         float *scale, float *min)
{
    float low = w[0], high = w[0];
    double best = INFINITY;

    for (uint32_t i = 1; i < n; i++) {
        low = fminf(low, w[i]);
        high = fmaxf(high, w[i]);
    }
    const float middle = .5f * (low + high), half = .5f * (high - low);
    for (unsigned k = 0; k < SEARCH_STEPS; k++) {
        const float h = half * (1 - .6f * (float)k / SEARCH_STEPS);
        float s = 2 * h / (float)((1u << bits) - 1), m = middle - h;

        fit(w, weight, n, bits, &s, &m);
        s = grid_round(s);
        m = grid_round(m);
        const double e = group_error(w, weight, n, s, m, bits);
        if (e < best) {
            best = e;
            *scale = s;
            *min = m;
        }
    }
}

void groups_search(const float *w, const float *weight, uint32_t n, struct grid *g)
{
    const uint32_t group = g->scheme->group;

    for (uint32_t at = 0; at < n; at += group)
        search_group(w + at, weight + at, n - at < group ? n - at : group, g->scheme->bits,
                     &g->scale[at / group], &g->min[at / group]);
}
