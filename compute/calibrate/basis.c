/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/basis.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "compute/calibrate/lapack.h"

static int eigen(double *m, uint32_t n, double *values)
{
    return lapack_errno(LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (int)n, m, (int)n, values));
}

/* out = V diag(values^power) V', V's columns the vectors. tmp: [n][n]. */
static void power_of(const double *v, const double *values, double power, uint32_t n, double *tmp,
                     double *out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            tmp[i * n + j] = v[i * n + j] * pow(values[j], power);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)n, (int)n, 1, tmp, (int)n, v,
                (int)n, 0, out, (int)n);
}

static void product(enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, const double *a,
                    const double *b, uint32_t n, double *out)
{
    cblas_dgemm(CblasRowMajor, ta, tb, (int)n, (int)n, (int)n, 1, a, (int)n, b, (int)n, 0, out,
                (int)n);
}

static void swap(double *a, double *b)
{
    const double old = *a;

    *a = *b;
    *b = old;
}

int basis_klt(double *m, uint32_t n, double *values)
{
    const int rc = eigen(m, n, values);

    /* Vectors are columns, by rising value: to rows, by falling value. */
    for (size_t i = 0; i < n && rc == 0; i++)
        for (size_t j = 0; j < i; j++)
            swap(&m[i * n + j], &m[j * n + i]);
    for (size_t i = 0; i < n / 2 && rc == 0; i++) {
        cblas_dswap((int)n, m + i * n, 1, m + (n - 1 - i) * n, 1);
        swap(&values[i], &values[n - 1 - i]);
    }
    return rc;
}

int basis_make(double *c, double *g, uint32_t n, double *a, double *b)
{
    double *root = malloc((size_t)n * n * sizeof(*root)), *values = malloc(n * sizeof(*values));
    int rc = root && values ? eigen(g, n, values) : -ENOMEM;

    for (uint32_t i = 0; i < n && rc == 0; i++)
        if (!(values[i] > 0))
            rc = -EDOM;
    if (rc)
        goto out;

    power_of(g, values, .5, n, a, root);
    product(CblasNoTrans, CblasNoTrans, root, c, n, a);
    product(CblasNoTrans, CblasNoTrans, a, root, n, c); /* C as seen through G^(1/2) */
    power_of(g, values, -.5, n, a, b);                  /* the root's inverse */
    rc = basis_klt(c, n, values);
    if (rc)
        goto out;
    product(CblasNoTrans, CblasNoTrans, c, root, n, a);
    product(CblasNoTrans, CblasTrans, b, c, n, g);
    cblas_dcopy((int)(n * n), g, 1, b, 1);
out:
    free(root);
    free(values);
    return rc;
}

void basis_quantize(const double *m, uint32_t rows, uint32_t cols, int16_t *q, float *scale)
{
    for (uint32_t i = 0; i < rows; i++, m += cols, q += cols) {
        const double norm = cblas_dnrm2((int)cols, m, 1);

        scale[i] = (float)(norm / (double)BASIS_NORM);
        for (uint32_t j = 0; j < cols; j++)
            q[j] = norm > 0 ? (int16_t)rint(m[j] / norm * (double)BASIS_NORM) : 0;
    }
}
