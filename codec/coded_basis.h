/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A row's blocks and their bases: what a profile says, or the plain columns without one, laid out
 * for the kernels; with the scratch that both directions of one codec share.
 */
#ifndef ISTHMUS_CODEC_CODED_BASIS_H
#define ISTHMUS_CODEC_CODED_BASIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/gemm.h"
#include "codec/profile.h"
#include "codec/rans.h"

#define CODED_BATCH      64u /* rows that go through the transform together */
#define CODED_BLOCKS_MAX (CODEC_COLS_MAX / CODEC_BLOCK_COLS_MAX)
#define CODED_PRE_MAX    12u
#define CODED_SUM_SQ_MAX (UINT64_C(1) << 30) /* of a block's coefficients */

/* A coefficient so large for its group that `bits` low bits are split off it first. */
struct coded_pre {
    uint16_t at;
    uint16_t bits;
};

/* Columns and coefficients of one block. */
struct coded_block {
    uint32_t first_col, cols;
    uint32_t n, groups; /* coefficients */
    size_t at;          /* of its first coefficient in a row's; blocks begin at whole groups */
    const int8_t *level;
    struct coded_pre *pre;
    uint32_t n_pre, pre_bits;
    const uint16_t *order; /* rans: coefficient to column; NULL: the same */
    const float *mult, *bscale;
    struct codec_panel *a, *b;
};

struct coded_basis {
    bool transform;
    uint32_t cols, n_blocks;
    size_t coefs; /* of a row, padded to whole groups in each block */
    struct coded_block blocks[CODED_BLOCKS_MAX];
    const float *mean;
    uint32_t n_classes, class_dims;
    const float *class_mean, *class_bias, *class_scale;
    struct codec_panel *class_p, *class_w;
    float *zeros;      /* mean and level without a profile; as many as columns or class_dims */
    size_t row_stride; /* cols padded */
    int16_t *scaled;   /* [CODED_BATCH][row_stride]: rows as products take them */
    int32_t *acc;      /* [CODED_BATCH][a product's columns] */
    int16_t *k;        /* [CODED_BATCH][coefs], block after block */
    int16_t *natural;  /* [cols padded]: coefficients in the columns' order */
    float *base;       /* [cols padded]: mean and class mean */
};

int coded_basis_open(const struct codec_params *p, uint32_t cols, struct coded_basis *b);
void coded_basis_close(struct coded_basis *b);

static inline uint32_t coded_whole_groups(uint32_t n)
{
    return (n + RANS_GROUP - 1) / RANS_GROUP * RANS_GROUP;
}

/* Where row i of block b is in a batch's coefficients. */
static inline int16_t *coded_k(int16_t *k, const struct coded_block *b, uint32_t i)
{
    return k + CODED_BATCH * b->at + (size_t)i * b->groups * RANS_GROUP;
}

#endif
