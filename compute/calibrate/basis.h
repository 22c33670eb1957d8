/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The basis of a transform: the one in which the coefficients of rows with covariance C are
 * uncorrelated, and equal errors of any of them cost the same under the metric G. (KLT of the rows
 * seen through G^(1/2).)
 */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_BASIS_H
#define ISTHMUS_COMPUTE_CALIBRATE_BASIS_H

#include <stddef.h>
#include <stdint.h>

/* Norm of a row of integers before rounding, which adds at most sqrt(2048) / 2 to it. */
#define BASIS_NORM 32700.0f

/* The KLT: m[n][n] symmetric becomes its eigenvectors, one a row, by falling eigenvalue, values[n].
 * 0, -ENOMEM, -EDOM as below. */
int basis_klt(double *m, uint32_t n, double *values);

/*
 * c, g  [n][n] symmetric, c at least positive semidefinite, g definite; destroyed
 * a     [n][n] forward: rows are the basis, in falling order of their coefficient's variance
 * b     [n][n] its inverse
 * A C A' is diagonal, B' G B = 1. 0, -ENOMEM, -EDOM (an eigenproblem without solution: not finite).
 */
int basis_make(double *c, double *g, uint32_t n, double *a, double *b);

/* m[rows][cols] as integers: q[i][j] * scale[i] ~ m[i][j], rows of a norm below 2^15. */
void basis_quantize(const double *m, uint32_t rows, uint32_t cols, int16_t *q, float *scale);

#endif
