/* SPDX-License-Identifier: Apache-2.0 */
#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/calibrate/lapack.h"
#include "compute/quantize/impl.h"

static int by_falling(const void *a, const void *b, void *diag)
{
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const float *d = diag;

    if (d[i] != d[j])
        return d[i] > d[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* The upper Cholesky factor of the inverse, in h->at's order. LAPACK counts in columns: our upper
 * triangle is its lower one. */
static int factorise(struct hessian *h)
{
    const size_t n = h->n;
    double *m = malloc(n * n * sizeof(*m));
    int rc = m ? 0 : -ENOMEM;

    for (size_t i = 0; i < n && rc == 0; i++)
        for (size_t j = 0; j < n; j++)
            m[i * n + j] = (double)h->h[h->at[i] * n + h->at[j]];
    if (rc == 0)
        rc = lapack_errno(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', (int)n, m, (int)n));
    if (rc == 0)
        rc = lapack_errno(LAPACKE_dpotri(LAPACK_COL_MAJOR, 'L', (int)n, m, (int)n));
    if (rc == 0)
        rc = lapack_errno(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', (int)n, m, (int)n));
    for (size_t i = 0; i < n && rc == 0; i++)
        for (size_t j = 0; j < n; j++)
            h->factor[i * n + j] = j < i ? 0 : (float)m[i * n + j];
    free(m);
    return rc;
}

int hessian_open(const float *moments, uint32_t n, float damp, struct hessian *h)
{
    const size_t all = (size_t)n * n;
    double mean = 0;

    *h = (struct hessian){.n = n};
    for (size_t i = 0; i < n; i++)
        mean += (double)moments[i * n + i] / n;
    if (!(mean > 0 && mean < (double)INFINITY))
        return -EDOM;
    h->h = malloc(all * sizeof(*h->h));
    h->factor = malloc(all * sizeof(*h->factor));
    h->diag = malloc(n * sizeof(*h->diag));
    h->at = malloc(n * sizeof(*h->at));
    if (!h->h || !h->factor || !h->diag || !h->at)
        return -ENOMEM;

    /* Of one size whatever the text's: what is added to the diagonal is a share of it. */
    for (size_t i = 0; i < all; i++)
        h->h[i] = (float)((double)moments[i] / mean);
    for (size_t i = 0; i < n; i++) {
        h->h[i * n + i] += damp;
        h->diag[i] = h->h[i * n + i];
        h->at[i] = (uint32_t)i;
    }
    qsort_r(h->at, n, sizeof(*h->at), by_falling, h->diag);
    return factorise(h);
}

void hessian_close(struct hessian *h)
{
    free(h->h);
    free(h->factor);
    free(h->diag);
    free(h->at);
    *h = (struct hessian){0};
}

/* Rows of b (as LAPACK sees it: columns) become those of b A^-1. */
static int solve(double *a, double *b, uint32_t n, uint32_t n_rows)
{
    int rc = lapack_errno(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', (int)n, a, (int)n));

    if (rc == 0)
        rc = lapack_errno(
            LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'L', (int)n, (int)n_rows, a, (int)n, b, (int)n));
    return rc;
}

/* w' (H + aI) = w C + a w, so w' - w = w (C - H) (H + aI)^-1. */
int quantize_retarget(float *w, uint32_t n_rows, uint32_t n_cols, const float *moments,
                      const float *cross, float damp)
{
    const size_t n = n_cols, all = n * n, values = n * n_rows;
    double *a = malloc(all * sizeof(*a)), *b = malloc(values * sizeof(*b)), mean = 0;
    float *lost = calloc(all, sizeof(*lost)), *moved = calloc(values, sizeof(*moved));
    int rc = a && b && lost && moved ? 0 : -ENOMEM;

    if (rc)
        goto out;
    for (size_t i = 0; i < n; i++)
        mean += (double)moments[i * n + i] / n_cols;
    for (size_t i = 0; i < all; i++) {
        a[i] = (double)moments[i];
        lost[i] = cross[i] - moments[i];
    }
    for (size_t i = 0; i < n; i++)
        a[i * n + i] += damp * mean;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n_rows, (int)n, (int)n, 1, w,
                (int)n, lost, (int)n, 0, moved, (int)n);
    for (size_t i = 0; i < values; i++)
        b[i] = (double)moved[i];
    rc = solve(a, b, n_cols, n_rows);
    for (size_t i = 0; i < values && rc == 0; i++) {
        w[i] += (float)b[i];
        if (!isfinite(w[i]))
            rc = -EDOM;
    }
out:
    free(a);
    free(b);
    free(lost);
    free(moved);
    return rc;
}
