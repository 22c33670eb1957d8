/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/calibrate.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compute/calibrate/basis.h"
#include "compute/calibrate/classes.h"
#include "compute/calibrate/gram.h"
#include "compute/calibrate/levels.h"
#include "compute/calibrate/sensitivity.h"

/* Rows of a norm beyond this quantile (a first token's, say) would bend mean and covariance. */
#define TYPICAL_SHARE .99
/* The share of the identity in the metric: the Fisher matrix is an estimate. */
#define METRIC_SHRINK .25
/* A sample's weight in the Fisher matrix is 1 / its norm, so that a few do not make all of it;
 * below this share of the mean square norm it grows no more. */
#define METRIC_SQ_MIN .05

struct calibration {
    struct team *team;
    const struct calibrate_data *d;
    struct codec_profile *p;
    float *norm;        /* [n] of the rows */
    float *rest;        /* [n][cols] the rows without mean and class mean */
    uint16_t *class_of; /* [n] */
    float *typical;     /* [n] 1, or 0 for a row to be left out; */
    size_t n_typical;
    float *grad_sq; /* [n][samples] squared norms */
    float *y, *f;   /* [n] sensitivity, seen and predicted */
    float *weight;  /* [n][samples] of the gradients in the metric */
};

/* --- rows ------------------------------------------------------------------------------------ */

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static int set_norms(struct calibration *c)
{
    const struct calibrate_data *d = c->d;
    float *sorted = malloc(d->n * sizeof(*sorted));

    if (!sorted)
        return -ENOMEM;
    for (size_t t = 0; t < d->n; t++) {
        c->norm[t] = cblas_snrm2((int)d->cols, d->rows + t * d->cols, 1);
        if (!isfinite(c->norm[t])) {
            free(sorted);
            return -EDOM;
        }
    }
    memcpy(sorted, c->norm, d->n * sizeof(*sorted));
    qsort(sorted, d->n, sizeof(*sorted), ascending);
    const float most = sorted[(size_t)((double)(d->n - 1) * TYPICAL_SHARE)];
    c->p->ref_norm = fmaxf(sorted[d->n / 2], 0x1p-30f);
    c->p->ref_sigma = c->p->ref_norm / sqrtf((float)d->cols);
    free(sorted);

    for (size_t t = 0; t < d->n; t++) {
        c->typical[t] = c->norm[t] <= most;
        c->n_typical += c->norm[t] <= most;
    }
    return 0;
}

static int set_mean(struct calibration *c)
{
    const struct calibrate_data *d = c->d;
    double *sum = calloc(d->cols, sizeof(*sum));

    if (!sum)
        return -ENOMEM;
    for (size_t t = 0; t < d->n; t++)
        for (uint32_t i = 0; i < d->cols && c->typical[t] > 0; i++)
            sum[i] += (double)d->rows[t * d->cols + i];
    for (uint32_t i = 0; i < d->cols; i++)
        c->p->mean[i] = (float)(sum[i] / (double)c->n_typical);
    free(sum);
    return 0;
}

static int set_classes(struct calibration *c)
{
    const struct calibrate_data *d = c->d;
    const struct gram_rows rows = {
        .x = d->rows, .n = d->n, .stride = d->cols, .center = c->p->mean};
    const int rc = d->classes ? classes_make(c->team, &rows, c->typical, c->p, c->class_of) : 0;

    for (size_t t = 0; t < d->n && rc == 0; t++) {
        const float *mean = d->classes ? c->p->class_mean + (size_t)c->class_of[t] * d->cols : NULL;

        for (uint32_t i = 0; i < d->cols; i++) {
            const size_t at = t * d->cols + i;
            c->rest[at] = d->rows[at] - c->p->mean[i] - (mean ? mean[i] : 0);
        }
    }
    return rc;
}

/* --- sensitivity, metric --------------------------------------------------------------------- */

static int set_sensitivity(struct calibration *c)
{
    const struct calibrate_data *d = c->d;
    struct sensitivity s = {.weight = c->p->sens};
    double sum = 0;

    for (size_t t = 0; t < d->n; t++) {
        c->y[t] = 0;
        for (uint32_t k = 0; k < d->samples; k++) {
            const size_t at = t * d->samples + k;
            const float norm = cblas_snrm2((int)d->cols, d->grads + at * d->cols, 1);

            c->grad_sq[at] = norm * norm;
            c->y[t] += c->grad_sq[at];
        }
        sum += (double)c->y[t];
    }
    if (!isfinite(sum))
        return -EDOM;
    for (size_t t = 0; t < d->n; t++)
        c->y[t] = sum > 0 ? (float)((double)c->y[t] * (double)d->n / sum) : 1;
    const int rc =
        sensitivity_fit(c->team, d->rows, d->token, d->n, d->cols, c->p->mean, c->y, &s, c->f);
    c->p->sens_pos = s.pos;
    c->p->sens_bias = s.bias;
    return rc;
}

/* Gradients are taken as they will count, divided by the predicted sensitivity of their row: there
 * the encoder's step makes up for it. */
static void set_weights(struct calibration *c)
{
    const struct calibrate_data *d = c->d;
    const size_t n = d->n * d->samples;
    double mean = 0;

    for (size_t i = 0; i < n; i++) {
        const float f = c->f[i / d->samples];

        c->weight[i] = expf(-fminf(fmaxf(f, -SENSITIVITY_LIMIT), SENSITIVITY_LIMIT));
        mean += (double)(c->weight[i] * c->grad_sq[i]) / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        const double share = mean > 0 ? (double)(c->weight[i] * c->grad_sq[i]) / mean : 1;
        c->weight[i] *= (float)(1 / sqrt(fmax(share, METRIC_SQ_MIN)));
    }
}

/* g[cols][cols] of a block's columns. */
static int make_metric(struct calibration *c, uint32_t first, uint32_t cols, double *g)
{
    const struct gram_rows rows = {
        .x = c->d->grads, .n = c->d->n * c->d->samples, .stride = c->d->cols};
    double trace = 0;
    const int rc = gram(c->team, &rows, first, cols, c->weight, g);

    for (size_t i = 0; i < cols; i++)
        trace += g[i * cols + i];
    const double scale = trace > 0 ? (1 - METRIC_SHRINK) * cols / trace : 0;
    for (size_t i = 0; i < (size_t)cols * cols; i++)
        g[i] *= scale;
    for (size_t i = 0; i < cols; i++)
        g[i * cols + i] += trace > 0 ? METRIC_SHRINK : 1;
    return rc;
}

static int make_covariance(struct calibration *c, uint32_t first, uint32_t cols, double *cov)
{
    const struct gram_rows rows = {.x = c->rest, .n = c->d->n, .stride = c->d->cols};
    const int rc = gram(c->team, &rows, first, cols, c->typical, cov);

    for (size_t i = 0; i < (size_t)cols * cols; i++)
        cov[i] /= (double)c->n_typical;
    return rc;
}

/* --- deviations ------------------------------------------------------------------------------ */

struct sigmas_task {
    const struct calibration *c;
    const struct codec_profile_block *b;
    const double *basis; /* [n][cols]; NULL: the columns themselves */
    float *sigma;        /* [n] */
    uint32_t n;
    atomic_bool failed;
};

#define SIGMAS_AT_ONCE 16u

/* Coefficients i .. i + count - 1 of all typical rows: y[count][n_typical]. */
static void coefficients(const struct sigmas_task *k, uint32_t i, uint32_t count, float *y)
{
    const struct calibrate_data *d = k->c->d;
    size_t row = 0;

    for (size_t t = 0; t < d->n; t++) {
        const float *x = k->c->rest + t * d->cols + k->b->first_col;

        if (k->c->typical[t] == 0)
            continue;
        for (uint32_t j = 0; j < count; j++) {
            const double *a = k->basis ? k->basis + (size_t)(i + j) * k->b->cols : NULL;
            double sum = a ? 0 : (double)x[i + j];

            for (uint32_t col = 0; a && col < k->b->cols; col++)
                sum += a[col] * (double)x[col];
            y[j * k->c->n_typical + row] = (float)sum;
        }
        row++;
    }
}

static void sigmas_work(void *arg, unsigned part, unsigned parts)
{
    struct sigmas_task *k = arg;
    float *y = malloc(SIGMAS_AT_ONCE * k->c->n_typical * sizeof(*y));

    if (!y)
        k->failed = true;
    for (uint32_t i = part * SIGMAS_AT_ONCE; y && i < k->n; i += parts * SIGMAS_AT_ONCE) {
        const uint32_t count = k->n - i < SIGMAS_AT_ONCE ? k->n - i : SIGMAS_AT_ONCE;

        coefficients(k, i, count, y);
        for (uint32_t j = 0; j < count; j++)
            k->sigma[i + j] = robust_sigma(y + j * k->c->n_typical, k->c->n_typical);
    }
    free(y);
}

/* sigma[n] in falling order, order[n] of which coefficients. */
static int find_sigmas(struct calibration *c, const struct codec_profile_block *b,
                       const double *basis, float *sigma, uint16_t *order)
{
    float *unordered = malloc(b->cols * sizeof(*unordered));
    struct sigmas_task k = {.c = c, .b = b, .basis = basis, .sigma = unordered, .n = b->cols};
    int rc = unordered ? 0 : -ENOMEM;

    if (rc == 0) {
        team_run(c->team, sigmas_work, &k);
        rc = k.failed ? -ENOMEM : levels_order(unordered, b->cols, order);
    }
    for (uint32_t i = 0; rc == 0 && i < b->cols; i++)
        sigma[i] = unordered[order[i]];
    free(unordered);
    return rc;
}

/* --- blocks ---------------------------------------------------------------------------------- */

/* Rows of a, and columns of b, in this order. tmp: [n][n]. */
static void reorder(double *a, double *b, const uint16_t *order, uint32_t n, double *tmp)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(tmp + (size_t)i * n, a + (size_t)order[i] * n, n * sizeof(*a));
    memcpy(a, tmp, (size_t)n * n * sizeof(*a));
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            tmp[i * n + j] = b[i * n + order[j]];
    memcpy(b, tmp, (size_t)n * n * sizeof(*b));
}

static int fill_block(struct calibration *c, struct codec_profile_block *block)
{
    const uint32_t n = block->cols;
    const size_t bytes = (size_t)n * n * sizeof(double);
    double *cov = malloc(bytes), *g = malloc(bytes), *a = malloc(bytes), *b = malloc(bytes);
    float *sigma = malloc(n * sizeof(*sigma));
    uint16_t *order = malloc(n * sizeof(*order));
    int rc = cov && g && a && b && sigma && order ? 0 : -ENOMEM;

    if (rc == 0)
        rc = find_sigmas(c, block, NULL, sigma, block->order);
    if (rc == 0) {
        levels_set(sigma, c->p->ref_sigma, &block->scalar);
        rc = make_covariance(c, block->first_col, n, cov);
    }
    if (rc == 0)
        rc = make_metric(c, block->first_col, n, g);
    if (rc == 0)
        rc = basis_make(cov, g, n, a, b);
    if (rc == 0)
        rc = find_sigmas(c, block, a, sigma, order);
    if (rc == 0) {
        levels_set(sigma, c->p->ref_sigma, &block->xform);
        reorder(a, b, order, n, g);
        basis_quantize(a, n, n, block->a, block->mult);
        basis_quantize(b, n, n, block->b, block->bscale);
    }
    free(cov);
    free(g);
    free(a);
    free(b);
    free(sigma);
    free(order);
    return rc;
}

size_t calibrate_bytes(size_t n, uint32_t cols)
{
    return 2 * n * cols * sizeof(float) + 5 * (size_t)cols * cols * sizeof(double);
}

int calibrate_profile(struct team *team, const struct calibrate_data *data,
                      struct codec_profile **out)
{
    const size_t n = data->n, samples = n * data->samples;
    struct calibration c = {
        .team = team,
        .d = data,
        .norm = malloc(n * sizeof(float)),
        .rest = malloc(n * data->cols * sizeof(float)),
        .class_of = malloc(n * sizeof(uint16_t)),
        .typical = malloc(n * sizeof(float)),
        .grad_sq = malloc(samples * sizeof(float)),
        .y = malloc(n * sizeof(float)),
        .f = malloc(n * sizeof(float)),
        .weight = malloc(samples * sizeof(float)),
    };
    const uint32_t class_dims = data->classes ? classes_dims(data->cols) : 0;
    int rc = codec_profile_new(data->cols, NULL, data->classes, class_dims, &c.p);

    if (rc == 0 && (!c.norm || !c.rest || !c.class_of || !c.typical || !c.grad_sq || !c.y || !c.f ||
                    !c.weight))
        rc = -ENOMEM;
    if (rc == 0)
        rc = set_norms(&c);
    if (rc == 0)
        rc = set_mean(&c);
    if (rc == 0)
        rc = set_classes(&c);
    if (rc == 0)
        rc = set_sensitivity(&c);
    if (rc == 0)
        set_weights(&c);
    for (uint32_t i = 0; rc == 0 && i < c.p->n_blocks; i++)
        rc = fill_block(&c, &c.p->blocks[i]);
    free(c.norm);
    free(c.rest);
    free(c.class_of);
    free(c.typical);
    free(c.grad_sq);
    free(c.y);
    free(c.f);
    free(c.weight);
    if (rc)
        codec_profile_free(c.p);
    *out = rc ? NULL : c.p;
    return rc;
}
