/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights in schemes that ggml has no type for, as `isthmus quantize` stores them in a legal GGUF:
 * the tensor NAME is absent, the metadata isthmus.scheme.NAME says how it is to be read, and plain
 * tensors NAME.codes and so on hold it. docs/weights.md has the storage, bit by bit.
 *
 *   sq2 sq3 sq4       a code is the number of one of the row's own levels
 *   g2:G g3:G g4:G    value = scale * code + min, both of G columns of a row
 *
 * Either may have a sparse part, whose entries are added to what the codes mean.
 */
#ifndef ISTHMUS_COMPUTE_SCHEME_H
#define ISTHMUS_COMPUTE_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"

enum scheme_kind { SCHEME_NONE, SCHEME_SQ, SCHEME_G };

struct scheme {
    enum scheme_kind kind;
    uint32_t bits;       /* 2 to 4 */
    uint32_t group_cols; /* G, a multiple of 32; of sq 0 */
};

#define SCHEME_BLOCK 32u /* columns whose codes stand together: 4 * bits bytes */
#define SCHEME_NAME  16u /* bytes that hold the longest name */

/* "sq3", "g3:96". 0, or -ENOTSUP: none of ours. */
int scheme_parse(const char *text, size_t len, struct scheme *s);
/* Returns buf. */
const char *scheme_name(const struct scheme *s, char buf[SCHEME_NAME]);
/* "sq2 sq3 ...": for errors. */
const char *scheme_supported(void);

/* The tensors of a weight. */
enum scheme_part {
    SCHEME_CODES,     /* I8  [cols * bits / 8][rows] */
    SCHEME_LUT,       /* F16 [2^bits][rows]: sq's levels */
    SCHEME_SCALE,     /* F16 [groups][rows]: g's */
    SCHEME_MIN,       /* the same */
    SCHEME_SP_ROWS,   /* I32 [rows + 1]: where each row's entries begin */
    SCHEME_SP_COLS,   /* u16 as I16 [n]: rising within a row */
    SCHEME_SP_VALUES, /* F16 [n] */
    SCHEME_PARTS
};

struct scheme_weight {
    struct scheme scheme;
    uint32_t rows, cols;                          /* cols a multiple of 32 */
    uint32_t n_groups;                            /* of a row; of sq 0 */
    uint32_t n_sparse;                            /* entries; 0: no sparse part */
    const struct gguf_tensor *part[SCHEME_PARTS]; /* NULL: not of this scheme, or no sparse part */
};

/* The parts that stand for weight `name`, their types and shapes proved to fit each other. 0;
 * -ENOENT: the file has no such weight; -ENOTSUP: a scheme that is not ours, err names those that
 * are; -EBADMSG: err names the part that does not fit, or that is there beside the plain tensor. */
int scheme_find(const struct gguf *g, const char *name, struct scheme_weight *w, char *err);

/* Whether a tensor's name is that of a weight's part: which, and the length of the weight's name.
 * SCHEME_PARTS: of none. */
enum scheme_part scheme_part_of(const char *tensor, size_t *name_len);

/* What the codes of one row mean: dst f32[cols], without the sparse part. The row's codes, its
 * levels or scales, and its minima (of sq NULL) are as the file has them. */
void scheme_dequantize(const struct scheme *s, uint32_t cols, const void *codes, const void *levels,
                       const void *mins, float *dst);

/* The codes of block b of a row: 32 of them, in the order of the columns. */
void scheme_codes(const struct scheme *s, const void *codes, size_t b, uint8_t out[SCHEME_BLOCK]);

#endif
