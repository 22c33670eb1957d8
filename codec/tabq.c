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

/* Below this, squares that f32 rounds to nothing could matter to a sum of them. */
#define SUM_SQ_MIN     0x1p-60f
#define EXPECTED_ERROR .07

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
    g->top = (uint8_t)((1u << width) - 1);
}

static void grid_fit(struct codec_grid *g, unsigned width, double lo, double hi)
{
    uint16_t scale = scale_round_up((float)((hi - lo) / units(width)));
    double unit = (double)f32_from_bits((uint32_t)scale << 15);
    long zero = lrint(-lo / unit);

    grid_fill(g, width, scale, (uint8_t)(zero < (long)units(width) ? zero : (long)units(width)));
}

/* Squared error in code steps of what a row without its outliers is rounded to: quantize() counts
 * those as zeros, each with the error of a zero. */
static double dense_error(double error, const struct codec_grid *g, size_t n_outliers)
{
    const double of_zero = (double)g->bias - rint((double)g->bias);

    return error - (double)n_outliers * (of_zero * of_zero);
}

/* Squared errors are n step^2 / 12 where values spread evenly over the steps. With a little less
 * the search hardly ever begins too high, and seldom twice. */
static unsigned expected_width(const struct codec_params *p, double range, size_t n, double allowed)
{
    unsigned width = p->qmin;

    for (; width < p->qmax; width++) {
        const double step = range / ((1u << width) - 1);
        if (EXPECTED_ERROR * (double)n * (step * step) <= allowed)
            break;
    }
    return width;
}

static double norm_sq(const float *dense, size_t n, const struct codec_span *span)
{
    double sum = 0.0;

    if (span->sum_sq >= SUM_SQ_MIN && isfinite(span->sum_sq))
        return (double)span->sum_sq;
    for (size_t i = 0; i < n; i++) /* no row of a model comes here */
        sum += (double)dense[i] * (double)dense[i];
    return sum;
}

/* The dense row under choice. */
struct choice {
    const struct codec_dsp *dsp;
    const float *dense;
    size_t n, n_outliers;
    double lo, hi;
    struct codec_grid *g;
    uint8_t *codes;
};

/* Quantizes by the grid of this width; returns the squared error. */
static double try_width(const struct choice *c, unsigned width)
{
    double step, error;

    grid_fit(c->g, width, c->lo, c->hi);
    step = (double)c->g->unit * (double)(1u << (8 - width));
    error = (double)c->dsp->quantize(c->dense, c->n, c->g, c->codes);
    return dense_error(error, c->g, c->n_outliers) * (step * step);
}

void codec_grid_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                       const float *dense, size_t n, const struct codec_span *span,
                       size_t n_outliers, double outlier_sq, struct codec_grid *g, uint8_t *codes)
{
    const struct choice c = {.dsp = dsp,
                             .dense = dense,
                             .n = n,
                             .n_outliers = n_outliers,
                             .lo = fmax((double)span->lo, -(double)SPAN_EDGE),
                             .hi = fmin((double)span->hi, (double)SPAN_EDGE),
                             .g = g,
                             .codes = codes};
    double allowed, error;
    unsigned width;

    if (c.hi - c.lo < (double)SPAN_MIN) {
        *g = (struct codec_grid){.width = 0};
        return;
    }
    allowed = (double)p->delta * (double)p->delta * (norm_sq(dense, n, span) + outlier_sq);
    width = expected_width(p, c.hi - c.lo, n - n_outliers, allowed);
    error = try_width(&c, width);
    if (error > allowed) {
        while (width < p->qmax && error > allowed)
            error = try_width(&c, ++width);
        return;
    }
    /* A bit less quadruples the error, unless values stand on the grid as those of a constant row.
     */
    while (width > p->qmin && 4 * error <= allowed) {
        error = try_width(&c, --width);
        if (error > allowed) {
            try_width(&c, width + 1);
            return;
        }
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
