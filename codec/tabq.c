/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tabq.h"

#include <errno.h>
#include <math.h>

#include "codec/f16.h"

/* A dense row that spans less than this is sent as zeros: no model tells them apart, and the grid's
 * arithmetic stays clear of subnormal numbers. */
#define SPAN_MIN 0x1p-100f
/* Values beyond this saturate (by 2.3 % at most): rounding the grid outwards must not reach
 * infinity. */
#define SPAN_EDGE 0x1.f4p127f

/* Codes of every width stand on one grid of 256 units: code c of width q is unit c << (8 - q). */
static unsigned units(unsigned width)
{
    return 256u - (1u << (8 - width));
}

/* Upwards to 9 significant bits, so that the grid covers the span. */
static uint16_t scale_round_up(float unit)
{
    return (uint16_t)((f32_bits(unit) + 0x7fffu) >> 15);
}

static void grid_fill(struct codec_grid *g, unsigned width, uint16_t scale, uint8_t zero)
{
    const float step = (float)(1u << (8 - width)); /* units a code */

    g->width = (uint8_t)width;
    g->scale = scale;
    g->zero = zero;
    g->unit = f32_from_bits((uint32_t)scale << 15);
    g->inv = (float)(1.0 / ((double)g->unit * (double)step));
    g->bias = (float)zero / step;
    g->top = (float)((1u << width) - 1);
}

static void grid_fit(struct codec_grid *g, unsigned width, double lo, double hi)
{
    uint16_t scale = scale_round_up((float)((hi - lo) / units(width)));
    double unit = (double)f32_from_bits((uint32_t)scale << 15);
    long zero = lrint(-lo / unit);

    grid_fill(g, width, scale, (uint8_t)(zero < (long)units(width) ? zero : (long)units(width)));
}

void codec_grid_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                       const float *dense, size_t n, double outlier_sq, struct codec_grid *g)
{
    struct codec_span span;
    double lo, hi, allowed;

    dsp->span(dense, n, &span);
    lo = fmax((double)span.lo, -(double)SPAN_EDGE);
    hi = fmin((double)span.hi, (double)SPAN_EDGE);
    if (hi - lo < (double)SPAN_MIN) {
        *g = (struct codec_grid){.width = 0};
        return;
    }
    allowed = (double)p->delta * (double)p->delta * (span.sum_sq + outlier_sq);
    for (unsigned width = p->qmin;; width++) {
        double step;
        grid_fit(g, width, lo, hi);
        if (width == p->qmax)
            return;
        step = (double)g->unit * (double)(1u << (8 - width));
        if ((double)dsp->grid_error(dense, n, g) * (step * step) <= allowed)
            return;
    }
}

int codec_grid_read(struct codec_grid *g, unsigned width, uint16_t scale, uint8_t zero)
{
    unsigned above = units(width) - zero;

    if (zero > units(width))
        return -EBADMSG;
    grid_fill(g, width, scale, zero);
    if (!isnormal(g->unit) || !isfinite(g->unit * (float)zero) || !isfinite(g->unit * (float)above))
        return -EBADMSG;
    return 0;
}
