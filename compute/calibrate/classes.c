/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/classes.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compute/calibrate/basis.h"
#include "compute/philox.h"

#define DIMS       64u /* classes of all dimensions are no better */
#define ITERATIONS 10u
#define CHUNK      256u /* rows at a time */
/* A class' mean is shrunk as if so many rows more had been at the common mean. */
#define SHRINK_ROWS 6
/* Deviations below this share of the usual norm (about two thirds of a step) are not blown up. */
#define FLOOR_SHARE .0075

struct clustering {
    struct team *team;
    const struct gram_rows *rows;
    const float *weight;
    struct codec_profile *p;
    uint16_t *class_of;
    uint32_t dims, k;
    float *whiten;   /* [dims][cols] */
    float *z;        /* [n][dims] */
    float *center;   /* [k][dims] */
    float *half_sq;  /* [k] half of their squared norms */
    double *sum;     /* [k][dims], or [k][cols] */
    uint32_t *count; /* [k] */
    float *distance; /* [n] squared, to the nearest center so far */
    atomic_bool failed;
};

/* --- whitening ------------------------------------------------------------------------------- */

/* The strongest `take` KLT coefficients of a block, each over its deviation. */
static int whiten_block(struct clustering *c, const struct codec_profile_block *b, uint32_t take,
                        double n_rows, float *to)
{
    const size_t cols = b->cols;
    const double floor_sq = pow(FLOOR_SHARE * (double)c->p->ref_norm, 2);
    double *cov = malloc(cols * cols * sizeof(*cov)), *variance = malloc(cols * sizeof(*variance));
    int rc =
        cov && variance ? gram(c->team, c->rows, b->first_col, b->cols, c->weight, cov) : -ENOMEM;

    if (rc == 0)
        rc = basis_klt(cov, b->cols, variance);
    for (size_t i = 0; i < take && rc == 0; i++) {
        const double scale = 1 / sqrt(fmax(variance[i], 0) / n_rows + floor_sq);

        for (size_t j = 0; j < cols; j++)
            to[i * c->p->cols + b->first_col + j] = (float)(cov[i * cols + j] * scale);
    }
    free(cov);
    free(variance);
    return rc;
}

static int set_whitening(struct clustering *c)
{
    double n_rows = 0;
    uint32_t at = 0;
    int rc = 0;

    for (size_t t = 0; t < c->rows->n; t++)
        n_rows += (double)c->weight[t];
    for (uint32_t i = 0; i < c->p->n_blocks && rc == 0; i++) {
        const struct codec_profile_block *b = &c->p->blocks[i];
        const uint32_t share = (c->dims - at) / (c->p->n_blocks - i);
        const uint32_t take = share < b->cols ? share : b->cols;

        rc = whiten_block(c, b, take, n_rows, c->whiten + (size_t)at * c->p->cols);
        at += take;
    }
    c->dims = at;
    return rc;
}

static void project_work(void *arg, unsigned part, unsigned parts)
{
    struct clustering *c = arg;
    const size_t cols = c->p->cols;
    float *x = malloc(CHUNK * cols * sizeof(*x));

    if (!x)
        c->failed = true;
    for (size_t t = part * CHUNK; x && t < c->rows->n; t += parts * CHUNK) {
        const size_t n = c->rows->n - t < CHUNK ? c->rows->n - t : CHUNK;

        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < cols; j++)
                x[i * cols + j] = c->rows->x[(t + i) * c->rows->stride + j] - c->p->mean[j];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)c->dims, (int)cols, 1, x,
                    (int)cols, c->whiten, (int)cols, 0, c->z + t * c->dims, (int)c->dims);
    }
    free(x);
}

/* --- seeding --------------------------------------------------------------------------------- */

static double uniform(uint32_t draw)
{
    uint32_t ctr[4] = {draw, 0, 0, 0};

    philox4x32_10(ctr, 0, 0);
    return ((double)ctr[0] + (double)ctr[1] * 0x1p-32) * 0x1p-32;
}

/* The new center at row t may be nearer than those before it. */
static void update_distances(struct clustering *c, const float *center)
{
    for (size_t t = 0; t < c->rows->n; t++) {
        const float *z = c->z + t * c->dims;
        float sum = 0;

        for (uint32_t i = 0; i < c->dims; i++)
            sum += (z[i] - center[i]) * (z[i] - center[i]);
        if (sum < c->distance[t])
            c->distance[t] = sum;
    }
}

/* A row drawn with a probability in proportion to its distance from the centers so far. */
static size_t draw_row(const struct clustering *c, uint32_t draw)
{
    double total = 0, sum = 0;
    size_t last = 0;

    for (size_t t = 0; t < c->rows->n; t++)
        total += (double)(c->weight[t] * c->distance[t]);
    const double u = uniform(draw) * total;
    for (size_t t = 0; t < c->rows->n; t++) {
        if (c->weight[t] == 0)
            continue;
        last = t;
        sum += (double)c->distance[t];
        if (u < sum)
            break;
    }
    return last;
}

static void seed_centers(struct clustering *c)
{
    for (size_t t = 0; t < c->rows->n; t++)
        c->distance[t] = 1; /* the first is drawn from all alike */
    for (uint32_t k = 0; k < c->k; k++) {
        float *center = c->center + (size_t)k * c->dims;

        memcpy(center, c->z + draw_row(c, k) * c->dims, c->dims * sizeof(*center));
        for (size_t t = 0; k == 0 && t < c->rows->n; t++)
            c->distance[t] = INFINITY;
        update_distances(c, center);
    }
}

/* --- Lloyd's iterations ---------------------------------------------------------------------- */

static void assign_work(void *arg, unsigned part, unsigned parts)
{
    struct clustering *c = arg;
    float *scores = malloc(CHUNK * c->k * sizeof(*scores));

    if (!scores)
        c->failed = true;
    for (size_t t = part * CHUNK; scores && t < c->rows->n; t += parts * CHUNK) {
        const size_t n = c->rows->n - t < CHUNK ? c->rows->n - t : CHUNK;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)c->k, (int)c->dims, 1,
                    c->z + t * c->dims, (int)c->dims, c->center, (int)c->dims, 0, scores,
                    (int)c->k);
        for (size_t i = 0; i < n; i++) {
            const float *score = scores + i * c->k;
            uint32_t best = 0;

            for (uint32_t k = 1; k < c->k; k++)
                if (score[k] - c->half_sq[k] > score[best] - c->half_sq[best])
                    best = k;
            c->class_of[t + i] = (uint16_t)best;
        }
    }
    free(scores);
}

static void assign(struct clustering *c)
{
    for (uint32_t k = 0; k < c->k; k++)
        c->half_sq[k] = .5f * cblas_sdot((int)c->dims, c->center + (size_t)k * c->dims, 1,
                                         c->center + (size_t)k * c->dims, 1);
    team_run(c->team, assign_work, c);
}

/* Sums of the rows of each class, of x - mean or of z. */
static void sum_classes(struct clustering *c, const float *x, const float *mean, size_t cols)
{
    memset(c->sum, 0, c->k * cols * sizeof(*c->sum));
    memset(c->count, 0, c->k * sizeof(*c->count));
    for (size_t t = 0; t < c->rows->n; t++) {
        double *to = c->sum + c->class_of[t] * cols;

        if (c->weight[t] == 0)
            continue;
        c->count[c->class_of[t]]++;
        for (size_t i = 0; i < cols; i++)
            to[i] += (double)x[t * cols + i] - (mean ? (double)mean[i] : 0);
    }
}

static void move_centers(struct clustering *c)
{
    sum_classes(c, c->z, NULL, c->dims);
    for (uint32_t k = 0; k < c->k; k++)
        for (uint32_t i = 0; i < c->dims && c->count[k]; i++)
            c->center[(size_t)k * c->dims + i] =
                (float)(c->sum[(size_t)k * c->dims + i] / c->count[k]);
}

/* --- what the profile keeps ------------------------------------------------------------------ */

/* The nearest center is the largest z . center - |center|^2 / 2: all times one factor, by which the
 * longest of the centers fits its integers. */
static int set_choice(struct clustering *c)
{
    const size_t n = (size_t)c->dims * c->p->cols;
    double *whiten = malloc(n * sizeof(*whiten));
    float longest = 0;

    if (!whiten)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        whiten[i] = (double)c->whiten[i];
    basis_quantize(whiten, c->dims, c->p->cols, c->p->class_p, c->p->class_scale);
    free(whiten);

    for (uint32_t k = 0; k < c->k; k++)
        longest = fmaxf(longest, sqrtf(2 * c->half_sq[k]));
    const float scale = longest > 0 ? BASIS_NORM / longest : 0;
    for (size_t i = 0; i < (size_t)c->k * c->dims; i++)
        c->p->class_w[i] = (int16_t)rintf(c->center[i] * scale);
    for (uint32_t k = 0; k < c->k; k++)
        c->p->class_bias[k] = -c->half_sq[k] * scale;
    return 0;
}

static void set_means(struct clustering *c)
{
    const size_t cols = c->p->cols;

    sum_classes(c, c->rows->x, c->p->mean, cols);
    for (uint32_t k = 0; k < c->k; k++)
        for (size_t i = 0; i < cols; i++)
            c->p->class_mean[k * cols + i] =
                c->count[k] > 1 ? (float)(c->sum[k * cols + i] / (c->count[k] + SHRINK_ROWS)) : 0;
}

uint32_t classes_dims(uint32_t cols)
{
    return cols < DIMS ? cols : DIMS;
}

int classes_make(struct team *team, const struct gram_rows *rows, const float *weight,
                 struct codec_profile *p, uint16_t *class_of)
{
    const size_t n = rows->n, k = p->n_classes, cols = p->cols;
    const uint32_t dims = p->class_dims;
    struct clustering c = {
        .team = team,
        .rows = rows,
        .weight = weight,
        .p = p,
        .class_of = class_of,
        .dims = dims,
        .k = (uint32_t)k,
        .whiten = calloc(dims * cols, sizeof(float)),
        .z = malloc(n * dims * sizeof(float)),
        .center = malloc(k * dims * sizeof(float)),
        .half_sq = malloc(k * sizeof(float)),
        .sum = malloc(k * cols * sizeof(double)),
        .count = malloc(k * sizeof(uint32_t)),
        .distance = malloc(n * sizeof(float)),
    };
    int rc = -ENOMEM;

    if (c.whiten && c.z && c.center && c.half_sq && c.sum && c.count && c.distance)
        rc = set_whitening(&c);
    if (rc == 0) {
        team_run(team, project_work, &c);
        seed_centers(&c);
        assign(&c);
        for (unsigned i = 0; i < ITERATIONS && !c.failed; i++) {
            move_centers(&c);
            assign(&c);
        }
        set_means(&c);
        rc = c.failed ? -ENOMEM : set_choice(&c);
    }
    free(c.whiten);
    free(c.z);
    free(c.center);
    free(c.half_sq);
    free(c.sum);
    free(c.count);
    free(c.distance);
    return rc;
}
