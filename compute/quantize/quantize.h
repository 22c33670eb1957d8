/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights of fewer bits. One matrix at a time: w f32[n_rows][n_cols], row r what makes output r,
 * and the second moments of its input, X'X f32[n_cols][n_cols] over the calibration text (any
 * scale; symmetric). The error that counts is sum_r (q_r - w_r) X'X (q_r - w_r)': how far the
 * outputs move. Deterministic: the same codes from the same input for any team.
 *
 * Schemes:
 *   Q8_0 Q6_K Q5_0 Q4_0 Q4_1  ggml's blocks, round to nearest with a search for each scale
 *   g2 g3 g4                  uniform codes, scale and minimum for a group of columns; the error of
 *                             a column is passed on to those that follow it (GPTQ, arXiv
 * 2210.17323) sq2 sq3 sq4               4, 8 or 16 levels of each row's own, where its input is
 * sensitive (SqueezeLLM, arXiv 2306.07629), a few weights exact beside them, error passed on keep
 * as it is
 */
#ifndef ISTHMUS_COMPUTE_QUANTIZE_H
#define ISTHMUS_COMPUTE_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/qtype.h"

struct team;

enum quantize_kind {
    QUANTIZE_KEEP,
    QUANTIZE_BLOCKS, /* a ggml type */
    QUANTIZE_GROUPS, /* g2 g3 g4 */
    QUANTIZE_LEVELS, /* sq2 sq3 sq4 */
    QUANTIZE_F16,    /* not stored by a scheme: plain F16, for other programs */
};

#define QUANTIZE_GROUP_DEFAULT 96u
#define QUANTIZE_SPARSE_MAX    5.0f

struct quantize_scheme {
    enum quantize_kind kind;
    enum qtype type; /* of blocks */
    unsigned bits;   /* of a code, of groups and levels */
    uint32_t group;  /* columns of a group, a multiple of 32 */
    float sparse;    /* percent of the weights that are exact, of groups and levels */
};

/* "sq3", "g4", "Q8_0", "keep", with the group and the sparse part that go with it. 0, or -EINVAL.
 */
int quantize_scheme_parse(const char *name, struct quantize_scheme *s);
/* "Q8_0 Q6_K ...": for errors. */
const char *quantize_schemes(void);
#define QUANTIZE_NAME_MAX 24
/* "sq3", "g3:96", "Q8_0", "keep": as isthmus.scheme.NAME and errors have it. */
const char *quantize_scheme_name(const struct quantize_scheme *s, char buf[QUANTIZE_NAME_MAX]);

/* Q6_K for columns that are no multiple of 256 becomes Q8_0. Returns whether it did. */
bool quantize_scheme_fit(struct quantize_scheme *s, uint32_t n_cols);

/* Why a row of n_cols cannot be stored so, the scheme fitted; NULL: it can. */
const char *quantize_scheme_refuses(const struct quantize_scheme *s, uint32_t n_cols);

/* How many weights of a matrix are exact. */
uint64_t quantize_n_sparse(const struct quantize_scheme *s, uint64_t n_rows, uint64_t n_cols);

/* --- one matrix ------------------------------------------------------------------------------ */

struct quantize_input {
    uint32_t n_rows, n_cols; /* n_cols a multiple of 32 */
    const float *w;          /* f32[n_rows][n_cols], finite */
    const float *moments;    /* X'X; NULL: the identity, for blocks only */
};

/* What is stored (docs/quantize.md has the layout). Of a kind's arrays the others are NULL. */
struct quantized {
    struct quantize_scheme scheme;
    uint32_t n_rows, n_cols;
    uint8_t *blocks; /* of blocks and F16: rows in the type's own layout */
    size_t blocks_bytes;
    uint8_t *codes;        /* u8[n_rows][n_cols * bits / 8] */
    uint16_t *lut;         /* f16[n_rows][2^bits], rising */
    uint16_t *scale, *min; /* f16[n_rows][n_groups] */
    uint32_t n_groups;
    uint32_t n_sparse;   /* 0: none, sp_* NULL */
    uint32_t *sp_rows;   /* [n_rows + 1] */
    uint16_t *sp_cols;   /* [n_sparse] rising within a row */
    uint16_t *sp_values; /* f16[n_sparse], added to what the code means */
    double error;        /* sum (q - w) X'X (q - w)' / sum w X'X w'; without moments of |q - w|^2 */
};

/* 0, -EINVAL (columns, scheme, no moments where they are needed), -EDOM (not finite, or the moments
 * are all 0 or beyond f16), -ENOMEM. Free either way. */
int quantize_matrix(struct team *team, const struct quantize_input *in,
                    const struct quantize_scheme *scheme, struct quantized *out);
void quantized_free(struct quantized *q);

/* Bytes of the file that it takes, tables and sparse part too. */
size_t quantized_bytes(const struct quantized *q);

/* The values that the stored bytes mean: f32[n_rows][n_cols]. 0 or -ENOMEM. */
int quantized_values(const struct quantized *q, float *values);

/*
 * What w should be for the quantized model below it: the w' for which W x and w' x' are nearest,
 * where x is the input in the model as it was, x' in the one whose layers below are quantized.
 *   w        f32[n_rows][n_cols], changed in place
 *   moments  X''X' of the quantized one; cross X'X', f32[n_cols][n_cols], [i][j] = sum x_i x'_j
 *   damp     share of the mean diagonal that holds w' at w: moments are an estimate
 * 0, -EDOM, -ENOMEM.
 */
int quantize_retarget(float *w, uint32_t n_rows, uint32_t n_cols, const float *moments,
                      const float *cross, float damp);

#endif
