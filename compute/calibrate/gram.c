/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/calibrate/gram.h"

#include <cblas.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* A task is one tile of the result over all rows, so that no sum depends on who does it. */
#define TILE  192u
#define CHUNK 256u /* rows at a time */

struct task {
    const struct gram_rows *rows;
    const float *weight;
    uint32_t first, cols;
    double *out;
    atomic_bool failed;
};

static uint32_t width(const struct task *k, uint32_t at)
{
    return k->cols - at < TILE ? k->cols - at : TILE;
}

static void load(const struct task *k, size_t row, size_t n, uint32_t at, const float *weight,
                 double *to)
{
    const uint32_t cols = width(k, at);
    const size_t col = k->first + at;

    for (size_t t = row; t < row + n; t++) {
        const float *x = k->rows->x + t * k->rows->stride + col;
        const double w = weight ? (double)weight[t] : 1;

        for (uint32_t i = 0; i < cols; i++) {
            const double center = k->rows->center ? (double)k->rows->center[col + i] : 0;
            *to++ = w * ((double)x[i] - center);
        }
    }
}

/* Tile (i, j), and its mirror. */
static void tile(const struct task *k, uint32_t i, uint32_t j, double *a, double *b)
{
    const uint32_t rows = width(k, i), cols = width(k, j);
    double *out = k->out + (size_t)i * k->cols + j;

    for (size_t t = 0; t < k->rows->n; t += CHUNK) {
        const size_t n = k->rows->n - t < CHUNK ? k->rows->n - t : CHUNK;

        load(k, t, n, i, k->weight, a);
        load(k, t, n, j, NULL, b);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)cols, (int)n, 1, a,
                    (int)rows, b, (int)cols, t ? 1 : 0, out, (int)k->cols);
    }
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            k->out[(size_t)(j + c) * k->cols + i + r] = out[(size_t)r * k->cols + c];
}

static void work(void *arg, unsigned part, unsigned parts)
{
    struct task *k = arg;
    double *a = malloc((size_t)CHUNK * TILE * sizeof(*a)), *b = malloc(CHUNK * TILE * sizeof(*b));
    unsigned at = 0;

    if (!a || !b)
        k->failed = true;
    for (uint32_t i = 0; i < k->cols && a && b; i += TILE)
        for (uint32_t j = i; j < k->cols; j += TILE)
            if (at++ % parts == part)
                tile(k, i, j, a, b);
    free(a);
    free(b);
}

int gram(struct team *team, const struct gram_rows *rows, uint32_t first, uint32_t cols,
         const float *weight, double *out)
{
    struct task k = {.rows = rows, .weight = weight, .first = first, .cols = cols, .out = out};

    team_run(team, work, &k);
    return k.failed ? -ENOMEM : 0;
}
