/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codes for a tile of rows. Rows of a matrix don't know of each other: with d = q - w the error is
 * the sum over rows of d H d', and every step here lowers, or aims at, that of each row.
 */
#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/quantize/impl.h"

#define PASS_COLS 32u /* columns whose errors reach the columns behind them in one product */

/* --- feedback -------------------------------------------------------------------------------- */

/* The nearest that column col of row r can be. */
static float take(struct tile *t, uint32_t r, uint32_t col, float v)
{
    const size_t at = (size_t)r * t->n + col;

    t->codes[at] = (uint8_t)grid_nearest(&t->grids[r], col, v, &t->q[at]);
    if (tile_exact(t, at))
        t->q[at] = v;
    return t->q[at];
}

/* Columns [from, to) of the order: errors on to the columns of the block at once, and all of them
 * to t->step[rows][PASS_COLS]. */
static void feed_block(struct tile *t, uint32_t from, uint32_t to)
{
    const uint32_t n = t->n;

    for (uint32_t i = from; i < to; i++) {
        const float *u = t->h->factor + (size_t)i * n;
        for (uint32_t r = 0; r < t->rows; r++) {
            float *moved = t->moved + (size_t)r * n;
            const float e = (moved[i] - take(t, r, t->h->at[i], moved[i])) / u[i];

            t->step[r * PASS_COLS + i - from] = e;
            for (uint32_t j = i + 1; j < to; j++)
                moved[j] -= e * u[j];
        }
    }
}

void tile_feedback(struct tile *t)
{
    const uint32_t n = t->n;

    for (uint32_t r = 0; r < t->rows; r++)
        for (uint32_t i = 0; i < n; i++)
            t->moved[(size_t)r * n + i] = t->w[(size_t)r * n + t->h->at[i]];
    for (uint32_t from = 0; from < n; from += PASS_COLS) {
        const uint32_t to = n - from < PASS_COLS ? n : from + PASS_COLS;

        feed_block(t, from, to);
        if (to < n)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)t->rows, (int)(n - to),
                        (int)(to - from), -1, t->step, PASS_COLS,
                        t->h->factor + (size_t)from * n + to, (int)n, 1, t->moved + to, (int)n);
    }
}

/* --- descent --------------------------------------------------------------------------------- */

void tile_measure(struct tile *t)
{
    const size_t n = t->n;

    for (size_t i = 0; i < t->rows * n; i++)
        t->moved[i] = t->q[i] - t->w[i];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)t->rows, (int)n, (int)n, 1,
                t->moved, (int)n, t->h->h, (int)n, 0, t->grad, (int)n);
    for (uint32_t r = 0; r < t->rows; r++)
        t->error[r] = cblas_dsdot((int)n, t->moved + r * n, 1, t->grad + r * n, 1);
}

/* q of a column changes by d. */
static void change(struct tile *t, uint32_t r, uint32_t col, float d)
{
    cblas_saxpy((int)t->n, d, t->h->h + (size_t)col * t->n, 1, t->grad + (size_t)r * t->n, 1);
}

/* The error as a function of one column's q is a parabola: least where the gradient is none. */
static bool descend_row(struct tile *t, uint32_t r)
{
    bool changed = false;

    for (uint32_t i = 0; i < t->n; i++) {
        const uint32_t col = t->h->at[i];
        const size_t at = (size_t)r * t->n + col;
        const float was = t->q[at], now = take(t, r, col, was - t->grad[at] / t->h->diag[col]);

        if (now != was) {
            change(t, r, col, now - was);
            changed |= !tile_exact(t, at);
        }
    }
    return changed;
}

void tile_descend(struct tile *t, unsigned sweeps)
{
    for (uint32_t r = 0; r < t->rows; r++)
        for (unsigned i = 0; i < sweeps && descend_row(t, r); i++)
            ;
}

/* --- refit: levels --------------------------------------------------------------------------- */

/* sums[k][n] += the rows of H of columns with code k. Row by row of H, which is the larger. */
static void sum_codes(const struct tile *t, unsigned k, float *sums)
{
    memset(sums, 0, (size_t)t->rows * k * t->n * sizeof(*sums));
    for (uint32_t col = 0; col < t->n; col++)
        for (uint32_t r = 0; r < t->rows; r++) {
            const size_t at = (size_t)r * t->n + col;
            if (!tile_exact(t, at))
                cblas_saxpy((int)t->n, 1, t->h->h + (size_t)col * t->n, 1,
                            sums + ((size_t)r * k + t->codes[at]) * t->n, 1);
        }
}

/* a x = b for k unknowns, a symmetric and not negative: elimination, and where a pivot is as good
 * as none (a code that no column has) x is left 0. */
static void solve_few(double *a, double *b, unsigned k)
{
    bool none[CLUSTER_LEVELS_MAX] = {false};

    for (unsigned i = 0; i < k; i++) {
        none[i] = !(a[i * k + i] > 1e-7);
        for (unsigned j = i + 1; j < k && !none[i]; j++) {
            const double f = a[j * k + i] / a[i * k + i];
            for (unsigned c = i; c < k; c++)
                a[j * k + c] -= f * a[i * k + c];
            b[j] -= f * b[i];
        }
    }
    for (unsigned i = k; i-- > 0;) {
        for (unsigned c = i + 1; c < k; c++)
            b[i] -= a[i * k + c] * b[c];
        b[i] = none[i] ? 0 : b[i] / a[i * k + i];
    }
}

/* Levels must rise; codes follow them. */
static void sort_levels(struct tile *t, uint32_t r, unsigned k)
{
    float *levels = t->grids[r].levels;
    uint8_t order[CLUSTER_LEVELS_MAX], code[CLUSTER_LEVELS_MAX];
    float sorted[CLUSTER_LEVELS_MAX];

    for (unsigned i = 0; i < k; i++) {
        unsigned at = i;
        for (; at > 0 && levels[order[at - 1]] > levels[i]; at--)
            order[at] = order[at - 1];
        order[at] = (uint8_t)i;
    }
    for (unsigned i = 0; i < k; i++) {
        sorted[i] = levels[order[i]];
        code[order[i]] = (uint8_t)i;
    }
    memcpy(levels, sorted, k * sizeof(*levels));
    for (size_t i = (size_t)r * t->n; i < (size_t)(r + 1) * t->n; i++)
        t->codes[i] = code[t->codes[i]];
}

/* The error in the levels' change x is x A x + 2 g x + what it is: A_kl the sum of H over columns
 * of codes k and l, g_k that of the gradient. */
static void refit_row(struct tile *t, uint32_t r, unsigned k, const float *sums)
{
    double a[CLUSTER_LEVELS_MAX * CLUSTER_LEVELS_MAX] = {0}, b[CLUSTER_LEVELS_MAX] = {0};
    float *levels = t->grids[r].levels;

    for (uint32_t col = 0; col < t->n; col++) {
        const size_t at = (size_t)r * t->n + col;
        if (tile_exact(t, at))
            continue;
        const unsigned code = t->codes[at];
        b[code] -= (double)t->grad[at];
        for (unsigned i = 0; i < k; i++)
            a[i * k + code] += (double)sums[(size_t)i * t->n + col];
    }
    solve_few(a, b, k);
    for (unsigned i = 0; i < k; i++)
        levels[i] = grid_round(levels[i] + (float)b[i]);
    sort_levels(t, r, k);
}

static int refit_levels(struct tile *t)
{
    const unsigned k = 1u << t->grids[0].scheme->bits;
    float *sums = malloc((size_t)t->rows * k * t->n * sizeof(*sums));

    if (!sums)
        return -ENOMEM;
    sum_codes(t, k, sums);
    for (uint32_t r = 0; r < t->rows; r++)
        refit_row(t, r, k, sums + (size_t)r * k * t->n);
    free(sums);
    return 0;
}

/* --- refit: groups --------------------------------------------------------------------------- */

/* Scale and minimum of the group of columns [from, to), all else as it is. */
static void refit_group(struct tile *t, uint32_t r, uint32_t from, uint32_t to)
{
    struct grid *g = &t->grids[r];
    const uint32_t group = from / g->scheme->group;
    const size_t row = (size_t)r * t->n;
    double cc = 0, c1 = 0, one = 0, gc = 0, g1 = 0;

    for (uint32_t i = from; i < to; i++) {
        if (tile_exact(t, row + i))
            continue;
        const float *h = t->h->h + (size_t)i * t->n;
        double hc = 0, h1 = 0;

        for (uint32_t j = from; j < to; j++) {
            if (tile_exact(t, row + j))
                continue;
            hc += (double)(h[j] * (float)t->codes[row + j]);
            h1 += (double)h[j];
        }
        cc += hc * t->codes[row + i];
        c1 += hc;
        one += h1;
        gc += (double)t->grad[row + i] * t->codes[row + i];
        g1 += (double)t->grad[row + i];
    }
    const double det = cc * one - c1 * c1;
    if (!(det > 1e-7 * cc * one))
        return;
    const float scale = grid_round(g->scale[group] - (float)((one * gc - c1 * g1) / det));
    const float min = grid_round(g->min[group] - (float)((cc * g1 - c1 * gc) / det));
    if (!(scale > 0))
        return;
    g->scale[group] = scale;
    g->min[group] = min;
    for (uint32_t i = from; i < to; i++) {
        if (tile_exact(t, row + i))
            continue;
        const float now = grid_value(g, i, t->codes[row + i]);
        change(t, r, i, now - t->q[row + i]);
        t->q[row + i] = now;
    }
}

int tile_refit(struct tile *t)
{
    const struct quantize_scheme *s = t->grids[0].scheme;

    if (s->kind == QUANTIZE_LEVELS) {
        const int rc = refit_levels(t);
        if (rc)
            return rc;
    } else {
        for (uint32_t r = 0; r < t->rows; r++)
            for (uint32_t from = 0; from < t->n; from += s->group)
                refit_group(t, r, from, t->n - from < s->group ? t->n : from + s->group);
    }
    for (uint32_t r = 0; r < t->rows; r++)
        for (uint32_t col = 0; col < t->n; col++) {
            const size_t at = (size_t)r * t->n + col;
            if (!tile_exact(t, at))
                t->q[at] = grid_value(&t->grids[r], col, t->codes[at]);
        }
    return 0;
}
