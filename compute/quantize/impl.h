/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of error feedback share: rows of one matrix on their way to codes. */
#ifndef ISTHMUS_COMPUTE_QUANTIZE_IMPL_H
#define ISTHMUS_COMPUTE_QUANTIZE_IMPL_H

#include "compute/quantize/cluster.h"
#include "compute/quantize/quantize.h"

/* Rows that one thread takes at a time: fixed, so that a product's rounding does not depend on the
 * team. */
#define TILE_ROWS 32u

/* The second moments of a matrix' input, ready for error feedback. */
struct hessian {
    uint32_t n;
    float *h;      /* [n][n], a share of the mean diagonal added to the diagonal */
    float *diag;   /* [n] of it */
    uint32_t *at;  /* [n] columns by falling diagonal */
    float *factor; /* [n][n] upper U in that order, U'U the inverse of h */
};

/* damp: that share. 0, -EDOM, -ENOMEM; close either way. */
int hessian_open(const float *moments, uint32_t n, float damp, struct hessian *h);
void hessian_close(struct hessian *h);

/* The grid of one row: what its codes mean. */
struct grid {
    const struct quantize_scheme *scheme;
    float *levels;      /* [2^bits] rising, of levels */
    float *scale, *min; /* [n_groups], of groups */
};

/* A tile of rows; every array is [rows][n] unless said. */
struct tile {
    const struct hessian *h;
    uint32_t rows, n;
    const float *w;     /* what is wanted */
    const bool *exact;  /* weights that are stored exactly beside the codes; NULL: none */
    struct grid *grids; /* [rows] */
    uint8_t *codes;
    float *q;            /* what codes, and exact weights, mean */
    double *error;       /* [rows] (q - w) H (q - w)' */
    float *moved, *step; /* scratch */
    float *grad;         /* (q - w) H */
};

static inline bool tile_exact(const struct tile *t, size_t at)
{
    return t->exact && t->exact[at];
}

/* Codes of every column in the order of h, each one's error passed on to those that follow. */
void tile_feedback(struct tile *t);
/* grad, error of q as it is. */
void tile_measure(struct tile *t);
/* Columns one by one to the code that is best while all others stay, `sweeps` times over; keeps
 * grad true. */
void tile_descend(struct tile *t, unsigned sweeps);
/* What codes mean to where the error is least while codes stay: levels, or scales and minima. */
int tile_refit(struct tile *t);

/* The nearest code, and its value. */
unsigned grid_nearest(const struct grid *g, uint32_t col, float v, float *value);
float grid_value(const struct grid *g, uint32_t col, unsigned code);
/* To what f16 can hold. */
float grid_round(float v);

/* Scales and minima of a row's groups, by the least sum of weight (value - w)^2 a group. */
void groups_search(const float *w, const float *weight, uint32_t n, struct grid *g);

/* Which weights are exact: bool[n_rows][n_cols], `count` of them; NULL: none, or out of memory. */
bool *exact_choose(const float *w, const float *diag, uint32_t n_rows, uint32_t n_cols,
                   size_t count);

/* A row of codes as the file has them: 32 columns in 4 * bits bytes. */
void codes_pack(const uint8_t *codes, uint32_t n, unsigned bits, uint8_t *to);
void codes_unpack(const uint8_t *from, uint32_t n, unsigned bits, uint8_t *codes);

/* One row in the blocks of a ggml type, n a multiple of its block. weight f32[n]; NULL: all alike.
 */
void blocks_encode(enum qtype type, const float *w, const float *weight, uint32_t n, uint8_t *to);

#endif
