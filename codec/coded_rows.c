/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/coded_rows.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Steps: 8 an octave, code 128 is 1. */
#define CODE_ONE   128
#define CODE_STEPS 8
#define CODE_MAX   255

/* Norms of a row in steps: above the first 16 bits are too coarse for the transform, above the
 * second a coefficient could leave them. */
#define TRANSFORM_NORM_MAX 3200.0
#define NORM_MAX           20000.0

/* Without a profile a value counts for the row's norm as at most this many times its mean |x|. */
#define NORM_CAP 32.0f

#define SENSITIVITY_MAX  2.0
#define CODES_PER_NEPER  11.541560327111707 /* 8 log2(e) */
#define PRODUCT_NORM_LOG 15                 /* of a row in the transform: below 2^15 */

float coded_delta(unsigned code)
{
    static const float fraction[CODE_STEPS] = {0x1p0f,        0x1.172b84p0f, 0x1.306fep0f,
                                               0x1.4bfdaep0f, 0x1.6a09e6p0f, 0x1.8ace54p0f,
                                               0x1.ae89fap0f, 0x1.d5818ep0f};

    return ldexpf(fraction[code % CODE_STEPS], (int)(code / CODE_STEPS) - CODE_ONE / CODE_STEPS);
}

struct coded_rows {
    const struct coded_basis *basis;
    const struct codec_dsp *dsp;
    const struct levels *levels;
    struct codec_params params;
    double code_one; /* with a profile: of a row of sensitivity 0 */
    float *centered; /* [cols] */

    /* The rows looked at: [first, first + n) of these. */
    const float *rows;
    size_t stride;
    uint32_t first_token, first, n;
    struct coded_row row[CODED_BATCH];
    float unit[CODED_BATCH];       /* of the values that products take */
    float class_unit[CODED_BATCH]; /* of the points */
    int16_t *points; /* [CODED_BATCH][class_dims padded]: where classes are told apart */

    /* Their streams: [CODED_BATCH][...]. */
    uint8_t *symbols, *low, *escapes;
    uint16_t *pre;
    uint32_t *escaped; /* [groups of a block] */
};

int coded_rows_open(const struct coded_basis *b, const struct codec_dsp *dsp,
                    const struct levels *levels, struct coded_rows **out)
{
    struct coded_rows *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->basis = b;
    r->dsp = dsp;
    r->levels = levels;
    r->centered = calloc(b->cols, sizeof(*r->centered));
    r->points =
        calloc((size_t)CODED_BATCH * (coded_whole_groups(b->class_dims) + 1), sizeof(*r->points));
    r->symbols = calloc(CODED_BATCH, b->coefs);
    r->low = calloc(CODED_BATCH, coded_low_room(b->coefs));
    r->escapes = calloc(CODED_BATCH * b->coefs, CODED_ESCAPE_BYTES_MAX);
    r->pre = calloc(CODED_BATCH * b->coefs, sizeof(*r->pre));
    r->escaped = calloc(b->coefs / RANS_GROUP, sizeof(*r->escaped));
    if (!r->centered || !r->points || !r->symbols || !r->low || !r->escapes || !r->pre ||
        !r->escaped) {
        coded_rows_close(r);
        return -ENOMEM;
    }
    *out = r;
    return 0;
}

void coded_rows_close(struct coded_rows *r)
{
    if (!r)
        return;
    free(r->centered);
    free(r->points);
    free(r->symbols);
    free(r->low);
    free(r->escapes);
    free(r->pre);
    free(r->escaped);
    free(r);
}

static double code_of(double step)
{
    return CODE_ONE + CODE_STEPS * log2(step);
}

void coded_rows_tune(struct coded_rows *r, const struct codec_params *p)
{
    r->params = *p;
    if (p->profile)
        r->code_one = code_of((double)p->step * (double)p->profile->ref_norm);
    coded_rows_forget(r);
}

void coded_rows_forget(struct coded_rows *r)
{
    r->n = 0;
}

/* How much more than usual an error in this row matters: log, within +-SENSITIVITY_MAX. */
static double sensitivity(const struct coded_rows *r, uint32_t token)
{
    const struct codec_profile *p = r->params.profile;
    double f = (double)r->dsp->dot(p->sens, r->centered, r->basis->cols);

    f += (double)p->sens_bias + (double)p->sens_pos * log((double)token + 4.0);
    if (isnan(f))
        return 0.0;
    return fmax(-SENSITIVITY_MAX, fmin(SENSITIVITY_MAX, f));
}

static bool row_finite(const float *row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(row[i]))
            return false;
    return true;
}

/* The row's step, from the row centered; *norm_sq is its squared norm. Not finite when f32 is too
 * small for the row. */
static double row_code(struct coded_rows *r, const float *row, uint32_t token, float *norm_sq)
{
    const struct codec_dsp *dsp = r->dsp;
    const uint32_t cols = r->basis->cols;
    struct codec_span spans[CODEC_SPANS_MAX];
    float mean_abs, largest, capped;

    *norm_sq = dsp->center(row, r->basis->mean, cols, r->centered);
    if (r->params.profile)
        return r->code_one - .5 * CODES_PER_NEPER * sensitivity(r, token);
    mean_abs = dsp->sum_abs(row, cols, 1, spans, &largest) / (float)cols;
    if (mean_abs == 0.0f)
        return 0.0; /* a row of zeros: any step does */
    capped = dsp->sum_sq(row, cols, 1, NORM_CAP * mean_abs, spans);
    return code_of((double)r->params.step * sqrt((double)capped));
}

/* Values as products take them, their norm just below 2^15. Returns the unit of k. */
static float scale_values(const struct codec_dsp *dsp, const float *x, uint32_t n, float norm_sq,
                          int16_t *k)
{
    int exponent, up;

    (void)frexpf(norm_sq, &exponent);
    up = PRODUCT_NORM_LOG - (exponent + (exponent > 0)) / 2; /* half, rounded up */
    dsp->to_i16(x, n, ldexpf(1.0f, up), k);
    return ldexpf(1.0f, -up);
}

/* The centered row as row i of the products. */
static void scale_row(struct coded_rows *r, uint32_t i, float norm_sq)
{
    const struct coded_basis *b = r->basis;

    r->unit[i] = scale_values(r->dsp, r->centered, b->cols, norm_sq, b->scaled + i * b->row_stride);
}

/* The centered row as coefficients of mode rans. */
static void order_row(struct coded_rows *r, uint32_t i, float delta)
{
    const struct coded_basis *basis = r->basis;

    r->dsp->to_i16(r->centered, basis->cols, 1.0f / delta, basis->natural);
    for (uint32_t b = 0; b < basis->n_blocks; b++) {
        const struct coded_block *block = &basis->blocks[b];
        const int16_t *from = basis->natural + block->first_col;
        int16_t *k = coded_k(basis->k, block, i);
        if (!block->order)
            memcpy(k, from, block->n * sizeof(*k));
        else
            for (uint32_t j = 0; j < block->n; j++)
                k[j] = from[block->order[j]];
    }
}

/* Steps of the way from rows to coefficients. The first finds the row's step. */
static void begin_row(struct coded_rows *r, uint32_t i, const float *row, uint32_t token)
{
    struct coded_row *plan = &r->row[i];
    float norm_sq;
    const double code = row_code(r, row, token, &norm_sq);

    plan->cut_into = 0;
    plan->fate = CODED_FALLBACK;
    if (!isfinite(norm_sq) || !isfinite(code)) {
        if (!row_finite(row, r->basis->cols))
            plan->fate = CODED_NOT_FINITE;
        return;
    }
    if (!(code > -.5) || !(code < CODE_MAX + .5))
        return;
    plan->fate = CODED_OK;
    plan->step = (uint8_t)lrint(code);
    if (r->basis->n_classes)
        scale_row(r, i, norm_sq);
}

/* Where row i is among the classes, as its product takes it. Nowhere, when f32 is too small. */
static void scale_point(struct coded_rows *r, uint32_t i, const int32_t *acc, int16_t *point)
{
    const struct coded_basis *b = r->basis;
    float z[CODEC_CLASS_DIMS_MAX], norm_sq;

    r->dsp->from_i32(acc, b->class_scale, r->unit[i], b->zeros, b->class_dims, z);
    norm_sq = r->dsp->dot(z, z, b->class_dims);
    if (isfinite(norm_sq)) {
        r->class_unit[i] = scale_values(r->dsp, z, b->class_dims, norm_sq, point);
    } else {
        r->class_unit[i] = 0.0f;
        memset(point, 0, b->class_dims * sizeof(*point));
    }
}

/* The second finds every row's class. */
static void classify(struct coded_rows *r)
{
    const struct coded_basis *basis = r->basis;
    const size_t dims = coded_whole_groups(basis->class_dims),
                 classes = coded_whole_groups(basis->n_classes);

    codec_gemm(r->dsp, basis->scaled, basis->row_stride, r->n, basis->class_p, basis->acc, dims);
    for (uint32_t i = 0; i < r->n; i++)
        scale_point(r, i, basis->acc + i * dims, r->points + i * dims);
    codec_gemm(r->dsp, r->points, dims, r->n, basis->class_w, basis->acc, classes);
    for (uint32_t i = 0; i < r->n; i++)
        r->row[i].class = (uint16_t)r->dsp->best_class(basis->acc + i * classes, r->class_unit[i],
                                                       basis->class_bias, basis->n_classes);
}

/* The third: mode rans' coefficients, or what mode xform's product takes. */
static void quantize_row(struct coded_rows *r, uint32_t i, const float *row)
{
    const struct coded_basis *basis = r->basis;
    struct coded_row *plan = &r->row[i];
    const float delta = coded_delta(plan->step);
    const double norm_max = basis->transform ? TRANSFORM_NORM_MAX : NORM_MAX;
    float norm_sq = r->dsp->center(row, basis->mean, basis->cols, r->centered);

    if (basis->n_classes)
        norm_sq = r->dsp->center(r->centered, basis->class_mean + (size_t)plan->class * basis->cols,
                                 basis->cols, r->centered);
    if (!((double)norm_sq <= norm_max * norm_max * (double)delta * (double)delta))
        plan->fate = CODED_FALLBACK;
    else if (basis->transform)
        scale_row(r, i, norm_sq);
    else
        order_row(r, i, delta);
}

/* The fourth: mode xform's coefficients. */
static void transform(struct coded_rows *r)
{
    const struct coded_basis *basis = r->basis;

    for (uint32_t b = 0; b < basis->n_blocks; b++) {
        const struct coded_block *block = &basis->blocks[b];
        const size_t width = block->groups * RANS_GROUP;
        codec_gemm(r->dsp, basis->scaled + block->first_col, basis->row_stride, r->n, block->a,
                   basis->acc, width);
        for (uint32_t i = 0; i < r->n; i++)
            if (r->row[i].fate == CODED_OK)
                r->dsp->scale_to_i16(basis->acc + i * width, block->mult,
                                     r->unit[i] / coded_delta(r->row[i].step), block->n,
                                     coded_k(basis->k, block, i));
    }
}

static int expected_offset(const struct coded_rows *r, unsigned code)
{
    const struct codec_profile *p = r->params.profile;

    if (!p)
        return (int)lrint(-4.0 * log2((double)r->params.step * sqrt((double)r->basis->cols)));
    return (int)lrint(4.0 * log2((double)p->ref_sigma) - ((double)code - CODE_ONE) / 2);
}

static bool make_part(struct coded_rows *r, uint32_t i, uint32_t block)
{
    const struct coded_block *b = &r->basis->blocks[block];
    const size_t at = i * r->basis->coefs + b->at;
    const struct coded_part_room room = {
        .symbols = r->symbols + at,
        .low = r->low + i * coded_low_room(r->basis->coefs) + b->at * SHIFT_MAX / 8,
        .escapes = r->escapes + at * CODED_ESCAPE_BYTES_MAX,
        .pre = r->pre + at,
        .escaped = r->escaped,
    };

    return coded_part_make(r->dsp, r->levels, b, coded_k(r->basis->k, b, i),
                           expected_offset(r, r->row[i].step), &room, &r->row[i].parts[block]);
}

/* Looks at the rows from `first` on. */
static void look(struct coded_rows *r, uint32_t first, uint32_t n_rows)
{
    const float *rows = r->rows + first * r->stride;

    r->first = first;
    r->n = n_rows - first < CODED_BATCH ? n_rows - first : CODED_BATCH;
    for (uint32_t i = 0; i < r->n; i++)
        begin_row(r, i, rows + i * r->stride, r->first_token + first + i);
    if (r->basis->n_classes)
        classify(r);
    for (uint32_t i = 0; i < r->n; i++)
        if (r->row[i].fate == CODED_OK)
            quantize_row(r, i, rows + i * r->stride);
    if (r->basis->transform)
        transform(r);
    for (uint32_t i = 0; i < r->n; i++)
        for (uint32_t b = 0; b < r->basis->n_blocks && r->row[i].fate == CODED_OK; b++)
            if (!make_part(r, i, b))
                r->row[i].fate = CODED_FALLBACK;
}

struct coded_row *coded_rows_get(struct coded_rows *r, const float *rows, size_t stride,
                                 uint32_t n_rows, uint32_t first_token, uint32_t i)
{
    if (r->rows != rows || r->stride != stride || r->first_token != first_token)
        r->n = 0;
    r->rows = rows;
    r->stride = stride;
    r->first_token = first_token;
    if (i < r->first || i - r->first >= r->n)
        look(r, i, n_rows);
    return &r->row[i - r->first];
}
