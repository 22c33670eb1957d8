/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/sensitivity.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/calibrate/gram.h"
#include "compute/calibrate/lapack.h"

/* With features of deviation 1: as if so many tokens had shown each of them to be of no use. Best
 * of what was tried on 16k tokens of SmolLM2. */
#define RIDGE 3000.0

/* Newton steps, damped: residuals can be tens, where the quadratic is a poor guide. A step that
 * makes things worse is halved. */
#define STEPS_MAX    25
#define DAMPING      .7
#define HALVINGS_MAX 10
#define STEP_ENOUGH  1e-4 /* largest change of a weight */
#define RESIDUAL_MAX 50.0
#define CURVE_MIN    .3 /* of a token, for the Hessian's sake */
#define F_MAX        5.0

struct fit {
    size_t n;
    uint32_t cols;             /* of the rows; two features more: the position, and 1 */
    float *features;           /* [n][cols + 2], deviation 1 */
    double *scale;             /* [cols] features are (x - mean) * scale */
    double *w, *moved, *slope; /* [cols + 2] */
    double *hessian;           /* [cols + 2][cols + 2] */
    float *curve;              /* [n] */
};

static double position_feature(uint32_t token)
{
    return log((double)token + 4) / 2;
}

static void set_features(struct fit *k, const float *x, const uint32_t *token, const float *mean)
{
    const size_t stride = k->cols + 2;

    memset(k->scale, 0, k->cols * sizeof(*k->scale));
    for (size_t t = 0; t < k->n; t++)
        for (uint32_t i = 0; i < k->cols; i++)
            k->scale[i] += pow((double)x[t * k->cols + i] - (double)mean[i], 2);
    for (uint32_t i = 0; i < k->cols; i++) {
        const double sd = sqrt(k->scale[i] / (double)k->n);
        k->scale[i] = sd > 0x1p-40 ? 1 / sd : 0; /* a column that never changes says nothing */
    }
    for (size_t t = 0; t < k->n; t++) {
        float *to = k->features + t * stride;

        for (uint32_t i = 0; i < k->cols; i++)
            to[i] = (float)(((double)x[t * k->cols + i] - (double)mean[i]) * k->scale[i]);
        to[k->cols] = (float)position_feature(token[t]);
        to[k->cols + 1] = 1;
    }
}

static double predict(const struct fit *k, const double *w, size_t t)
{
    const float *row = k->features + t * (k->cols + 2);
    double f = 0;

    for (uint32_t i = 0; i < k->cols + 2; i++)
        f += (double)row[i] * w[i];
    return f;
}

/* What is minimised, with weights w - step * slope. */
static double objective(const struct fit *k, const float *y, double step, double *moved)
{
    const uint32_t all = k->cols + 2;
    double sum = 0;

    for (uint32_t i = 0; i < all; i++) {
        moved[i] = k->w[i] - step * k->slope[i];
        sum += i + 1 < all ? .5 * RIDGE * moved[i] * moved[i] : 0;
    }
    for (size_t t = 0; t < k->n; t++) {
        const double f = predict(k, moved, t);
        sum += (double)y[t] * exp(-fmin(fmax(f, -F_MAX), F_MAX)) + f;
    }
    return sum;
}

/* Curve and the slope of the objective at w. */
static void set_slope(struct fit *k, const float *y)
{
    const uint32_t all = k->cols + 2;

    for (uint32_t i = 0; i < all; i++)
        k->slope[i] = i + 1 < all ? RIDGE * k->w[i] : 0;
    for (size_t t = 0; t < k->n; t++) {
        const double r = (double)y[t] * exp(-fmin(fmax(predict(k, k->w, t), -F_MAX), F_MAX));
        const double residual = 1 - fmin(r, RESIDUAL_MAX);
        const float *row = k->features + t * all;

        k->curve[t] = (float)fmax(1 - residual, CURVE_MIN);
        for (uint32_t i = 0; i < all; i++)
            k->slope[i] += residual * (double)row[i];
    }
}

/* Along slope, which is a Newton step by now, as far as it helps. */
static double descend(struct fit *k, const float *y)
{
    const uint32_t all = k->cols + 2;
    const double before = objective(k, y, 0, k->moved);
    double step = DAMPING, most = 0;

    for (unsigned i = 0; !(objective(k, y, step, k->moved) < before); i++, step /= 2)
        if (i == HALVINGS_MAX)
            return 0;
    memcpy(k->w, k->moved, all * sizeof(*k->w));
    for (uint32_t i = 0; i < all; i++)
        most = fmax(most, fabs(step * k->slope[i]));
    return most;
}

/* The largest change of a weight; negative: -errno. */
static double newton_step(struct fit *k, struct team *team, const float *y)
{
    const uint32_t all = k->cols + 2;
    const struct gram_rows rows = {.x = k->features, .n = k->n, .stride = all};

    set_slope(k, y);
    int rc = gram(team, &rows, 0, all, k->curve, k->hessian);
    if (rc)
        return rc;
    for (uint32_t i = 0; i + 1 < all; i++)
        k->hessian[(size_t)i * all + i] += RIDGE;
    /* It is positive definite while it is finite: ridge, and n > 0 for the last. */
    rc = lapack_errno(
        LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', (int)all, 1, k->hessian, (int)all, k->slope, 1));
    return rc ? rc : descend(k, y);
}

static void hand_out(const struct fit *k, struct sensitivity *s, float *f)
{
    double sum = 0;

    for (size_t t = 0; t < k->n; t++) {
        const double v = predict(k, k->w, t);
        f[t] = (float)v;
        sum += v;
    }
    const double mean = sum / (double)k->n;
    for (size_t t = 0; t < k->n; t++)
        f[t] = (float)((double)f[t] - mean);
    for (uint32_t i = 0; i < k->cols; i++)
        s->weight[i] = (float)(k->w[i] * k->scale[i]);
    s->pos = (float)(k->w[k->cols] / 2);
    s->bias = (float)(k->w[k->cols + 1] - mean);
}

int sensitivity_fit(struct team *team, const float *x, const uint32_t *token, size_t n,
                    uint32_t cols, const float *mean, const float *y, struct sensitivity *s,
                    float *f)
{
    const size_t all = cols + 2;
    struct fit k = {
        .n = n,
        .cols = cols,
        .features = malloc(n * all * sizeof(*k.features)),
        .scale = malloc(cols * sizeof(*k.scale)),
        .w = calloc(all, sizeof(*k.w)),
        .moved = malloc(all * sizeof(*k.moved)),
        .slope = malloc(all * sizeof(*k.slope)),
        .hessian = malloc(all * all * sizeof(*k.hessian)),
        .curve = malloc(n * sizeof(*k.curve)),
    };
    double change = -ENOMEM;

    if (k.features && k.scale && k.w && k.moved && k.slope && k.hessian && k.curve) {
        set_features(&k, x, token, mean);
        change = 1;
        for (unsigned i = 0; i < STEPS_MAX && change > STEP_ENOUGH; i++)
            change = newton_step(&k, team, y);
        if (change >= 0)
            hand_out(&k, s, f);
    }
    free(k.features);
    free(k.scale);
    free(k.w);
    free(k.moved);
    free(k.slope);
    free(k.hessian);
    free(k.curve);
    return change < 0 ? (int)change : 0;
}
