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

static uint32_t whole_groups(uint32_t n)
{
    return (n + RANS_GROUP - 1) / RANS_GROUP * RANS_GROUP;
}

/* --- the basis --- */

_Static_assert(RANS_GROUP % GEMM_UNIT == 0, "whole groups are whole units");

/* values [n][k], padded with zeros to whole groups both ways. */
static int open_panel(const int16_t *values, uint32_t n, uint32_t k, struct codec_panel **out)
{
    const uint32_t rows = whole_groups(n), cols = whole_groups(k);
    int16_t *padded;
    int rc;

    if (rows == n && cols == k)
        return codec_panel_pack(values, n, k, out);
    padded = calloc((size_t)rows * cols, sizeof(*padded));
    if (!padded)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        memcpy(padded + (size_t)i * cols, values + (size_t)i * k, k * sizeof(*values));
    rc = codec_panel_pack(padded, rows, cols, out);
    free(padded);
    return rc;
}

static int open_pre(struct coded_block *b, const uint8_t *pre)
{
    b->pre = calloc(b->n, sizeof(*b->pre));
    if (!b->pre)
        return -ENOMEM;
    for (uint32_t i = 0; i < b->n; i++) {
        const unsigned bits = pre[i] < CODED_PRE_MAX ? pre[i] : CODED_PRE_MAX;
        if (!bits)
            continue;
        b->pre[b->n_pre++] = (struct coded_pre){(uint16_t)i, (uint16_t)bits};
        b->pre_bits += bits;
    }
    return 0;
}

static int open_block(struct coded_basis *basis, const struct codec_profile *p, uint32_t i)
{
    struct coded_block *b = &basis->blocks[i];
    const struct codec_profile_block *from = p ? &p->blocks[i] : NULL;
    const struct codec_profile_coefs *coefs = NULL;
    int rc = 0;

    b->first_col = codec_block_first(basis->cols, i);
    b->cols = codec_block_first(basis->cols, i + 1) - b->first_col;
    b->n = b->cols;
    b->level = (const int8_t *)basis->zeros;
    if (from) {
        coefs = basis->transform ? &from->xform : &from->scalar;
        b->n = coefs->n;
        b->level = coefs->level;
        b->order = basis->transform ? NULL : from->order;
        b->mult = from->mult;
        b->bscale = from->bscale;
        rc = open_pre(b, coefs->pre);
    }
    b->groups = whole_groups(b->n) / RANS_GROUP;
    b->at = basis->coefs;
    basis->coefs += whole_groups(b->n);
    if (!rc && basis->transform)
        rc = open_panel(from->a, b->n, b->cols, &b->a);
    if (!rc && basis->transform)
        rc = open_panel(from->b, b->cols, b->n, &b->b);
    return rc;
}

static int open_classes(struct coded_basis *b, const struct codec_profile *p)
{
    b->n_classes = p->n_classes;
    b->class_dims = p->class_dims;
    b->class_scale = p->class_scale;
    b->class_bias = p->class_bias;
    b->class_mean = p->class_mean;
    if (!b->n_classes)
        return 0;
    const int rc = open_panel(p->class_p, b->class_dims, b->cols, &b->class_p);
    return rc ? rc : open_panel(p->class_w, b->n_classes, b->class_dims, &b->class_w);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

int coded_basis_open(const struct codec_params *p, uint32_t cols, struct coded_basis *b)
{
    const uint32_t padded = whole_groups(cols);
    uint32_t widest;
    int rc = 0;

    *b = (struct coded_basis){
        .transform = p->mode == CODEC_XFORM, .cols = cols, .row_stride = padded};
    if (p->profile && p->profile->cols != cols)
        return -EINVAL;
    b->n_blocks = codec_blocks(cols);
    b->zeros = calloc(larger(padded, CODEC_CLASS_DIMS_MAX), sizeof(*b->zeros));
    b->natural = calloc(padded, sizeof(*b->natural));
    b->base = calloc(padded, sizeof(*b->base));
    if (!b->zeros || !b->natural || !b->base)
        return -ENOMEM;
    b->mean = b->zeros;
    if (p->profile) {
        b->mean = p->profile->mean;
        rc = open_classes(b, p->profile);
    }
    for (uint32_t i = 0; i < b->n_blocks && !rc; i++)
        rc = open_block(b, p->profile, i);
    if (rc)
        return rc;
    widest = padded < CODEC_BLOCK_COLS_MAX ? padded : CODEC_BLOCK_COLS_MAX;
    widest = larger(widest, whole_groups(larger(b->n_classes, b->class_dims)));
    b->k = calloc(CODED_BATCH * b->coefs, sizeof(*b->k));
    b->scaled = calloc((size_t)CODED_BATCH * padded, sizeof(*b->scaled));
    b->acc = calloc((size_t)CODED_BATCH * widest, sizeof(*b->acc));
    return b->k && b->scaled && b->acc ? 0 : -ENOMEM;
}

void coded_basis_close(struct coded_basis *b)
{
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        free(b->blocks[i].pre);
        codec_panel_free(b->blocks[i].a);
        codec_panel_free(b->blocks[i].b);
    }
    codec_panel_free(b->class_p);
    codec_panel_free(b->class_w);
    free(b->zeros);
    free(b->scaled);
    free(b->acc);
    free(b->k);
    free(b->natural);
    free(b->base);
}

/* --- rows to streams --- */

#define ESCAPE_BYTES_MAX 3u

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

static size_t low_room(size_t coefs)
{
    return coefs * SHIFT_MAX / 8 + CODEC_PAD; /* pack writes a little more */
}

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
    r->points = calloc((size_t)CODED_BATCH * (whole_groups(b->class_dims) + 1), sizeof(*r->points));
    r->symbols = calloc(CODED_BATCH, b->coefs);
    r->low = calloc(CODED_BATCH, low_room(b->coefs));
    r->escapes = calloc(CODED_BATCH * b->coefs, ESCAPE_BYTES_MAX);
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
    float mean_abs, max, capped;

    *norm_sq = dsp->center(row, r->basis->mean, cols, r->centered);
    if (r->params.profile)
        return r->code_one - .5 * CODES_PER_NEPER * sensitivity(r, token);
    mean_abs = dsp->sum_abs(row, cols, &max) / (float)cols;
    if (mean_abs == 0.0f)
        return 0.0; /* a row of zeros: any step does */
    capped = dsp->sum_sq_capped(row, cols, NORM_CAP * mean_abs);
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
    const size_t dims = whole_groups(basis->class_dims), classes = whole_groups(basis->n_classes);

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

/* Splits low bits off the coefficients that have some of their own. */
static void split_pre(const struct coded_block *b, int16_t *k, uint16_t *low)
{
    for (uint32_t i = 0; i < b->n_pre; i++) {
        int16_t *at = &k[b->pre[i].at];
        const int bits = b->pre[i].bits, up = *at + (1 << bits >> 1);
        low[i] = (uint16_t)(up & ((1 << bits) - 1));
        *at = (int16_t)(up >> bits);
    }
}

/* Whether all groups that this offset leaves out are zeros. */
static bool offset_carries(const struct coded_rows *r, const struct coded_block *b,
                           const int16_t *k, int offset)
{
    for (uint32_t g = 0; g < b->groups; g++) {
        if (r->levels->table[level_index(b->level[g], offset)] != TABLE_NONE)
            continue;
        if (r->dsp->sum_sq_i16(k + g * RANS_GROUP, RANS_GROUP))
            return false;
    }
    return true;
}

static int choose_offset(const struct coded_rows *r, const struct coded_block *b, const int16_t *k,
                         int offset)
{
    uint32_t least;

    offset = offset < INT8_MIN ? INT8_MIN : offset > INT8_MAX ? INT8_MAX : offset;
    least = r->dsp->code_cost(r->levels, k, b->level, offset, b->groups);
    for (int step = 4; step; step /= 2) {
        for (int by = -step, moved = 0; by <= step && !moved; by += 2 * step) {
            while (offset + by >= INT8_MIN && offset + by <= INT8_MAX) {
                const uint32_t cost =
                    r->dsp->code_cost(r->levels, k, b->level, offset + by, b->groups);
                if (cost >= least)
                    break;
                least = cost;
                offset += by;
                moved = 1;
            }
        }
    }
    while (!offset_carries(r, b, k, offset)) /* ends: no level is off at the largest */
        offset++;
    return offset;
}

/* 32 values' low bits: a plane of 8 and one of those above. Returns their end. */
static uint8_t *put_low(const struct codec_dsp *dsp, const int16_t *k, unsigned shift, uint8_t *dst)
{
    uint8_t plane[2][CODEC_PAD] = {{0}};

    for (unsigned i = 0; i < RANS_GROUP; i++) {
        const unsigned low = (unsigned)(k[i] + (1 << shift >> 1)) & ((1u << shift) - 1);
        plane[0][i] = (uint8_t)low;
        plane[1][i] = (uint8_t)(low >> 8);
    }
    dsp->pack(plane[0], RANS_GROUP, shift < 8 ? shift : 8, dst);
    if (shift > 8)
        dsp->pack(plane[1], RANS_GROUP, shift - 8, dst + RANS_GROUP);
    return dst + shift * RANS_GROUP / 8;
}

static uint8_t *put_escape(int value, uint8_t *dst)
{
    unsigned left = value < 0 ? (unsigned)-value * 2 - 1 : (unsigned)value * 2;

    for (; left >= 128; left >>= 7)
        *dst++ = (uint8_t)(left | 128);
    *dst++ = (uint8_t)left;
    return dst;
}

/* Low bits and escapes of the groups that are coded. */
static void split_rest(const struct coded_rows *r, const struct coded_block *b, const int16_t *k,
                       uint8_t *low, uint8_t *escapes, struct coded_part *part)
{
    const struct levels *l = r->levels;
    const uint32_t *escaped = r->escaped;
    uint32_t n_escapes = 0;

    part->cost = r->dsp->code_cost(l, k, b->level, part->offset, b->groups);
    part->low = low;
    part->escapes = escapes;
    for (uint32_t g = 0; g < b->groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(b->level[g], part->offset);
        const unsigned shift = l->shift[at];
        if (l->table[at] == TABLE_NONE)
            continue;
        if (shift)
            low = put_low(r->dsp, k, shift, low);
        n_escapes += (uint32_t)__builtin_popcount(*escaped);
        for (uint32_t left = *escaped++; left; left &= left - 1)
            escapes = put_escape((k[__builtin_ctz(left)] + (1 << shift >> 1)) >> shift, escapes);
    }
    part->low_bytes = (uint32_t)(low - part->low);
    part->escape_bytes = (uint32_t)(escapes - part->escapes);
    part->cost -= 256 * 8 * part->low_bytes + LEVEL_ESCAPE_COST * n_escapes;
}

static int expected_offset(const struct coded_rows *r, unsigned code)
{
    const struct codec_profile *p = r->params.profile;

    if (!p)
        return (int)lrint(-4.0 * log2((double)r->params.step * sqrt((double)r->basis->cols)));
    return (int)lrint(4.0 * log2((double)p->ref_sigma) - ((double)code - CODE_ONE) / 2);
}

static bool finish_block(struct coded_rows *r, uint32_t i, uint32_t block_index)
{
    const struct coded_basis *basis = r->basis;
    const struct coded_block *b = &basis->blocks[block_index];
    struct coded_part *part = &r->row[i].parts[block_index];
    const size_t at = i * basis->coefs + b->at;
    int16_t *k = coded_k(basis->k, b, i);
    const uint64_t sum_sq = r->dsp->sum_sq_i16(k, b->n);
    uint8_t *low = r->low + i * low_room(basis->coefs) + b->at * SHIFT_MAX / 8;

    if (sum_sq > CODED_SUM_SQ_MAX / 2) /* a coefficient and its half step stay within 16 bits */
        return false;
    memset(k + b->n, 0, (b->groups * RANS_GROUP - b->n) * sizeof(*k));
    split_pre(b, k, r->pre + at);
    part->pre = r->pre + at;
    part->offset = INT8_MIN;
    if (sum_sq)
        part->offset = (int8_t)choose_offset(r, b, k, expected_offset(r, r->row[i].step));
    part->symbols = r->symbols + at;
    part->groups = (uint32_t)r->dsp->split_symbols(r->levels, k, b->level, part->offset, b->groups,
                                                   r->symbols + at, r->escaped);
    split_rest(r, b, k, low, r->escapes + at * ESCAPE_BYTES_MAX, part);
    return true;
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
            if (!finish_block(r, i, b))
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

/* --- coefficients to rows --- */

/* What a row is added to, in a block's columns. */
static const float *base_of(const struct coded_basis *basis, const struct coded_block *b,
                            uint16_t class)
{
    const float *mean = basis->mean + b->first_col, *more;

    if (!basis->n_classes)
        return mean;
    more = basis->class_mean + (size_t) class * basis->cols + b->first_col;
    for (uint32_t j = 0; j < b->cols; j++)
        basis->base[j] = mean[j] + more[j];
    return basis->base;
}

static bool restore_values(const struct coded_basis *basis, const struct codec_dsp *dsp,
                           const struct coded_block *b, int16_t *waiting,
                           const struct coded_waiting_row *rows, uint32_t n)
{
    bool good = true;

    for (uint32_t i = 0; i < n; i++) {
        const int16_t *k = coded_k(waiting, b, i);
        if (b->order) {
            for (uint32_t j = 0; j < b->n; j++)
                basis->natural[b->order[j]] = k[j];
            k = basis->natural;
        }
        good &=
            dsp->from_i16(k, rows[i].delta, base_of(basis, b, rows[i].class), b->cols, rows[i].out);
    }
    return good;
}

static bool restore_transform(const struct coded_basis *basis, const struct codec_dsp *dsp,
                              const struct coded_block *b, int16_t *waiting,
                              const struct coded_waiting_row *rows, uint32_t n)
{
    const size_t width = whole_groups(b->cols);
    bool good = true;

    codec_gemm(dsp, coded_k(waiting, b, 0), b->groups * RANS_GROUP, n, b->b, basis->acc, width);
    for (uint32_t i = 0; i < n; i++)
        good &= dsp->from_i32(basis->acc + i * width, b->bscale, rows[i].delta,
                              base_of(basis, b, rows[i].class), b->cols, rows[i].out);
    return good;
}

bool coded_restore(const struct coded_basis *b, const struct codec_dsp *dsp,
                   struct coded_waiting *waiting, uint32_t i)
{
    const uint32_t n = waiting->n[i];

    waiting->n[i] = 0;
    return b->transform ? restore_transform(b, dsp, &b->blocks[i], waiting->k, waiting->rows[i], n)
                        : restore_values(b, dsp, &b->blocks[i], waiting->k, waiting->rows[i], n);
}
