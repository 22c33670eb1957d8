/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tabq.h"

#include <errno.h>
#include <float.h>
#include <math.h>

#include "codec/f16.h"

/* The norm counts a value as at most this many T: a giant in one channel (SmolLM2 has rows of norm
 * 24,000 around values of 100) would otherwise let everything else round to nothing. */
#define NORM_CAP 8.0

/* Below this, squares that f32 rounds to nothing could matter to a sum of them. */
#define SUM_SQ_MIN 0x1p-60f

/* Codes of the encoder's steps. A row so small that the least one leaves nothing of it is sent as
 * zeros: no model tells them apart. The reciprocal of the largest one is still a normal number. */
#define STEP_SHIFT (31 - TABQ_STEP_BITS)
#define STEP_MIN   ((127u - 100u) << 3)
#define STEP_MAX   (((127u + 126u) << 3) - 1)

/* --- ranges --- */

float tabq_step(uint32_t code)
{
    return f32_from_bits(code << STEP_SHIFT);
}

/* Codes of w bits around the range before, which is lo .. hi: half of them go on below it, half
 * above. */
#define HALF(w)   (1 << ((w)-1))
#define LO(w, lo) ((lo) - (HALF(w) - 1))
#define HI(w, hi) ((hi) + HALF(w))
#define RANGE(w, before_lo, before_hi)                                                             \
    {                                                                                              \
        .width = (w), .lo = LO(w, before_lo), .hi = HI(w, before_hi),                              \
        .down = HALF(w) - (before_lo), .up = HALF(w) - (before_hi)-1                               \
    }

/* Dense codes of q bits, then of w2 and w3. */
#define RANGES(q, w2, w3)                                                                          \
    {                                                                                              \
        RANGE(q, 0, -1), RANGE(w2, LO(q, 0), HI(q, -1)),                                           \
            RANGE(w3, LO(w2, LO(q, 0)), HI(w2, HI(q, -1)))                                         \
    }
#define FORMS(q)                                                                                   \
    {                                                                                              \
        RANGES(q, 2, 4), RANGES(q, 3, 6), RANGES(q, 4, 8), RANGES(q, 5, 8)                         \
    }

static const struct codec_range ranges_of[CODEC_QMAX][TABQ_FORMS][TABQ_RANGES] = {
    FORMS(1), FORMS(2), FORMS(3), FORMS(4), FORMS(5), FORMS(6), FORMS(7), FORMS(8)};

const struct codec_range *tabq_ranges(unsigned width, unsigned form)
{
    return ranges_of[width - 1][form];
}

/* --- the row --- */

#define WIDE_ROW 2048u /* columns: a sample of them is enough */

/* Where f32 is too small for the sums, as in no row of a model. */
static double sum_abs_f64(const float *x, uint32_t cols)
{
    double sum = 0.0;

    for (uint32_t i = 0; i < cols; i++)
        sum += fabs((double)x[i]);
    return sum;
}

static double sum_sq_f64(const float *x, uint32_t cols, double cap)
{
    double sum = 0.0;

    for (uint32_t i = 0; i < cols; i++) {
        const double v = fmin(fabs((double)x[i]), cap);
        sum += v * v;
    }
    return sum;
}

static bool sum_is_good(float sum_sq)
{
    return sum_sq >= SUM_SQ_MIN && isfinite(sum_sq);
}

/* At least the largest |x| of those whose squares are summed. */
static float above_largest(float largest_sum_sq)
{
    return sqrtf(largest_sum_sq) * 1.001f;
}

static double limit_of(const struct codec_params *p, double mean)
{
    return p->tau_rule == CODEC_TAU_MEAN ? (double)p->tau * mean : (double)p->tau;
}

int tabq_row_read(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                  uint32_t cols, struct tabq_row *row)
{
    struct codec_span spans[CODEC_SPANS_MAX];
    float largest, sum_sq;
    const double sum = (double)dsp->sum_abs(x, cols, 1, spans, &largest);
    double cap;

    if (!isfinite(sum) && !isfinite(dsp->max_abs(x, cols)))
        return -EDOM;
    row->mean = (isfinite(sum) ? sum : sum_abs_f64(x, cols)) / cols;
    row->max = sum_is_good(largest) ? above_largest(largest) : dsp->max_abs(x, cols);
    row->limit = limit_of(p, row->mean);
    cap = NORM_CAP * row->limit;
    sum_sq = dsp->sum_sq(x, cols, 1, (float)cap, spans);
    row->norm_sq = sum_is_good(sum_sq) ? (double)sum_sq : sum_sq_f64(x, cols, cap);
    row->n = cols;
    return 0;
}

/* --- TAB-Q's choices --- */

/* How many steps codes of `width` bits reach to either side. */
static int reach(unsigned width)
{
    return width < 8 ? (1 << (width - 1)) - 1 : CODEC_K8_MAX;
}

#define EVEN .9375

/* fmin and fmax are calls, for the sake of NaN. */
static double least(double a, double b)
{
    return a < b ? a : b;
}

static uint32_t step_code(double step, bool up)
{
    const uint32_t bits = f32_bits((float)least(step, 0x1p126));

    return (bits + (up ? (1u << STEP_SHIFT) - 1 : 0)) >> STEP_SHIFT;
}

/* A step is rounded to 24 bits on its way to 4: a thousandth more is surely enough. */
static uint32_t lowest_code(const struct codec_params *p, const struct tabq_row *row)
{
    const double dense = least(row->limit, (double)row->max) / (reach(p->qmax) + .5) * 1.001;
    const double all = (double)row->max / TABQ_K_MAX * 1.001;

    return step_code(dense > all ? dense : all, true);
}

static uint32_t within_codes(uint32_t code)
{
    code = code > STEP_MIN ? code : STEP_MIN;
    return code < STEP_MAX ? code : STEP_MAX;
}

/* Values spread evenly over the steps are off by step^2 / 12 in the mean square; not all rows' are,
 * so a little less is asked for. */
static uint32_t wanted_code(const struct codec_params *p, const struct tabq_row *row)
{
    const double wanted = EVEN * (double)p->delta * sqrt(12.0 * row->norm_sq / row->n);

    return within_codes(step_code(wanted, false));
}

/* Whether the largest value matters, of which row->max says but how large it may be. */
static bool depends_on_max(const struct codec_params *p, const struct tabq_row *row, uint32_t code)
{
    return code < lowest_code(p, row) || row->mean < (double)tabq_step(code);
}

uint32_t tabq_step_choose(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                          uint32_t cols, struct tabq_row *row)
{
    const uint32_t code = wanted_code(p, row);
    uint32_t lowest;

    if (!depends_on_max(p, row, code))
        return code;
    row->max = dsp->max_abs(x, cols);
    lowest = lowest_code(p, row);
    return within_codes(code > lowest ? code : lowest);
}

#define SAMPLE_MIN   1024u
#define SAMPLE_EVERY 3u /* at most */
/* Steps that no value is held back for. */
#define SAMPLE_STEP_MAX 0x1p100f

bool tabq_row_sample(const struct codec_dsp *dsp, const struct codec_params *p, const float *x,
                     uint32_t cols, struct tabq_row *row, uint32_t *step_code)
{
    const uint32_t most = cols / SAMPLE_MIN, every = most < SAMPLE_EVERY ? most : SAMPLE_EVERY;
    const uint32_t n = cols < WIDE_ROW ? 0 : cols / CODEC_LANES / every * CODEC_LANES;
    struct codec_span spans[CODEC_SPANS_MAX];
    float largest, sum, sum_sq;

    if (cols < WIDE_ROW)
        return false;
    sum = dsp->sum_abs(x, n, every, spans, &largest);
    if (!isfinite(sum) || !sum_is_good(largest))
        return false;
    row->mean = (double)sum / n;
    row->max = above_largest(largest);
    row->limit = limit_of(p, row->mean);
    sum_sq = dsp->sum_sq(x, n, every, (float)(NORM_CAP * row->limit), spans);
    if (!sum_is_good(sum_sq))
        return false;
    row->norm_sq = (double)sum_sq;
    row->n = n;
    *step_code = wanted_code(p, row);
    return !depends_on_max(p, row, *step_code) && tabq_step(*step_code) < SAMPLE_STEP_MAX;
}

#define OUTLIER_BITS                                                                               \
    5 /* what one costs in the lists, more or less, where the width is a good one */

/* That many values of a row that has more, and up to twice as many, tell how the others are; half
 * of that where the row is wide. */
#define WIDTH_SAMPLE 512u

#define WIDTHS_MIN 4u /* to choose from, if there are */

unsigned tabq_width_choose(const struct codec_dsp *dsp, const struct codec_params *p,
                           const int8_t *k, size_t n, double mean)
{
    const size_t sample = n < WIDE_ROW ? WIDTH_SAMPLE : WIDTH_SAMPLE / 2;
    const size_t every = n < sample ? 1 : n / sample;
    uint8_t limits[CODEC_LIMITS];
    uint32_t above[CODEC_LIMITS];
    unsigned first = p->qmin, best = 0;
    size_t best_bits = SIZE_MAX;

    /* Values like a model's want the width whose reach is some 1.5 times the mean, and outliers of
     * much shorter ones cost more. */
    while (first + WIDTHS_MIN <= p->qmax && (1 << first) < mean)
        first++;
    for (unsigned i = 0; i < CODEC_LIMITS; i++)
        limits[i] = (uint8_t)reach(i + 1);
    dsp->above(k, n, every, limits, above);
    for (unsigned width = first; width <= p->qmax; width++) {
        const size_t bits = n * width + every * OUTLIER_BITS * above[width - 1];
        if (bits < best_bits) {
            best = width;
            best_bits = bits;
        }
    }
    return best;
}

unsigned tabq_form_choose(const struct codec_dsp *dsp, unsigned width, const int8_t *k, size_t n)
{
    const struct codec_range(*ranges)[TABQ_RANGES] = ranges_of[width - 1];
    uint8_t limits[2 * TABQ_FORMS];
    uint32_t above[2 * TABQ_FORMS];
    unsigned best = 0;
    size_t best_bits = SIZE_MAX;

    _Static_assert(2 * TABQ_FORMS == CODEC_LIMITS, "two limits a form");
    for (unsigned form = 0; form < TABQ_FORMS; form++) {
        for (unsigned i = 0; i < 2; i++) { /* a range ends a step earlier below than above */
            const int end = -ranges[form][i + 1].lo;
            limits[2 * form + i] = (uint8_t)(end < CODEC_K8_MAX ? end : CODEC_K8_MAX);
        }
    }
    dsp->above(k, n, 1, limits, above);
    for (unsigned form = 0; form < TABQ_FORMS; form++) {
        const size_t bits = n * ranges[form][1].width +
                            (size_t)above[2 * form] * ranges[form][2].width +
                            (size_t)above[2 * form + 1] * 16;
        if (bits < best_bits) {
            best = form;
            best_bits = bits;
        }
    }
    return best;
}
