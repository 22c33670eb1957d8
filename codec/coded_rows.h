/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the coded modes, one at a time but for the transform, which takes many at once: rows to
 * the streams that a tile puts together (coded.c), and coefficients back to rows.
 */
#ifndef ISTHMUS_CODEC_CODED_ROWS_H
#define ISTHMUS_CODEC_CODED_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/dsp.h"
#include "codec/gemm.h"
#include "codec/levels.h"
#include "codec/profile.h"

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

/* One block of a row, ready to be put into a tile. */
struct coded_part {
    int8_t offset;
    uint32_t groups; /* that are coded */
    uint32_t cost;   /* of their symbols, 1/256 bit, without low bits and escapes' values */
    uint32_t low_bytes, escape_bytes;
    const uint8_t *symbols, *low, *escapes; /* 32 groups, low_bytes, escape_bytes */
    const uint16_t *pre;                    /* low bits of the block's pre-shifted */
};

enum coded_fate {
    CODED_OK,
    CODED_FALLBACK, /* not for these modes: to go as tsq */
    CODED_NOT_FINITE,
};

struct coded_row {
    enum coded_fate fate;
    uint8_t step;
    uint16_t class;
    uint8_t cut_into; /* tiles; 0: not known to need more than one */
    struct coded_part parts[CODED_BLOCKS_MAX];
};

/* What row codes of the step mean, exactly. */
float coded_delta(unsigned code);

int coded_basis_open(const struct codec_params *p, uint32_t cols, struct coded_basis *b);
void coded_basis_close(struct coded_basis *b);

/* The encoder's part: rows looked ahead at. */
struct coded_rows;

int coded_rows_open(const struct coded_basis *b, const struct codec_dsp *dsp,
                    const struct levels *levels, struct coded_rows **out);
void coded_rows_close(struct coded_rows *r);
void coded_rows_tune(struct coded_rows *r, const struct codec_params *p);

/* Forget what was looked at: the next row is another message's. */
void coded_rows_forget(struct coded_rows *r);

/* Row i of rows[0, n_rows), valid until the next call. */
struct coded_row *coded_rows_get(struct coded_rows *r, const float *rows, size_t stride,
                                 uint32_t n_rows, uint32_t first_token, uint32_t i);

/* Rows read from tiles that are still coefficients, in each block as many as have come: the product
 * takes them together. */
struct coded_waiting {
    uint32_t n[CODED_BLOCKS_MAX];
    struct coded_waiting_row {
        float delta;
        uint16_t class;
        float *out; /* the block's first column */
    } rows[CODED_BLOCKS_MAX][CODED_BATCH];
    int16_t *k; /* [CODED_BATCH][coefs], block after block */
};

/* Writes the rows that wait in block i. False when a value is not finite. */
bool coded_restore(const struct coded_basis *b, const struct codec_dsp *dsp,
                   struct coded_waiting *waiting, uint32_t i);

/* Where row i of block b is in a batch's coefficients. */
static inline int16_t *coded_k(int16_t *k, const struct coded_block *b, uint32_t i)
{
    return k + CODED_BATCH * b->at + (size_t)i * b->groups * RANS_GROUP;
}

#endif
