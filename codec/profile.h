/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile: what calibration learned of the rows at one split of one model, for the modes rans
 * and xform. Bytes in, struct out; the bytes are outside input and proved field by field.
 *
 * A row has `cols` columns in `n_blocks` blocks (codec_block_first), each with two bases: the
 * scalar one, whose coefficients are the columns in another order, and the transform's. The
 * coefficients of a basis come in groups of RANS_GROUP, in falling order of deviation.
 *
 * Bit by bit: docs/codec.md.
 */
#ifndef ISTHMUS_CODEC_PROFILE_H
#define ISTHMUS_CODEC_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#define CODEC_BLOCK_COLS_MAX     2048u
#define CODEC_PROFILE_ERR        256
#define CODEC_PROFILE_NORM_MAX   32768.0 /* of a row of a, b, class_p or class_w */
#define CODEC_PROFILE_REAL_MAX   0x1p60f /* no number of a profile is larger in magnitude */
#define CODEC_PROFILE_PRE_MAX    24u
#define CODEC_CLASSES_MAX        1024u
#define CODEC_CLASS_DIMS_MAX     256u
#define CODEC_PROFILE_POINTS_MAX 16u

/* Blocks a row of `cols` columns has, and the first column of block i of them; cols for i ==
 * codec_blocks(). Every first column is a multiple of 32. */
static inline uint32_t codec_blocks(uint32_t cols)
{
    return (cols + CODEC_BLOCK_COLS_MAX - 1) / CODEC_BLOCK_COLS_MAX;
}

static inline uint32_t codec_block_first(uint32_t cols, uint32_t i)
{
    const uint32_t first = (uint32_t)((uint64_t)cols * i / codec_blocks(cols) + 31) / 32 * 32;

    return first < cols ? first : cols;
}

/* The deviations of a basis' coefficients. Coefficient i has, roughly,
 *     ref_sigma * 2^(level[i / RANS_GROUP] / 4 + pre[i]). */
struct codec_profile_coefs {
    uint32_t n;    /* 1 .. the block's columns */
    int8_t *level; /* [ceil(n / RANS_GROUP)] */
    uint8_t *pre;  /* [n, padded with 0 to whole groups], at most CODEC_PROFILE_PRE_MAX */
};

struct codec_profile_block {
    uint32_t first_col, cols;

    struct codec_profile_coefs scalar; /* n == cols */
    uint16_t *order;                   /* [cols] coefficient i is column first_col + order[i] */

    /* With z what is left of x without mean and class_mean: y = A z,
     * y[i] = mult[i] * sum_j a[i][j] z[j], and z = B y, z[j] = bscale[j] * sum_i b[j][i] y[i]. The
     * L2 norm of every row of a and b is at most CODEC_PROFILE_NORM_MAX; mult and bscale are >= 0.
     */
    struct codec_profile_coefs xform;
    float *mult;   /* [xform.n] */
    int16_t *a;    /* [xform.n][cols] */
    float *bscale; /* [cols] */
    int16_t *b;    /* [cols][xform.n] */
};

/* A codec's quality over bytes, as measured at calibration: parameter ascending, so quality and
 * bytes fall (or stay). */
struct codec_profile_point {
    float parameter; /* tsq: delta; rans, xform: step */
    float kl_mean;
    float bytes_per_token; /* tiles with their headers, 64 rows a message */
};

enum codec_profile_curve_of {
    CODEC_PROFILE_TSQ,
    CODEC_PROFILE_RANS,
    CODEC_PROFILE_XFORM,
    CODEC_PROFILE_CURVES,
};

struct codec_profile_curve {
    uint32_t n; /* 0: not measured */
    struct codec_profile_point points[CODEC_PROFILE_POINTS_MAX];
};

struct codec_profile {
    /* Of the content: equal profiles have equal hashes. Set by _parse and _serialize. */
    uint8_t hash[16];
    uint8_t fingerprint[16]; /* of the model, gguf_fingerprint() */
    uint32_t split;          /* layers before the rows */
    uint32_t cols;
    float ref_norm;  /* > 0: what a step is relative to; the median norm of x */
    float ref_sigma; /* > 0: what levels are relative to */
    float *mean;     /* [cols] */

    /* How sensitive the model is to an error in row x of token t, predicted:
     * log(sensitivity) = sens_bias + sens_pos * log(t + 4) + sum_j sens[j] * (x - mean)[j],
     * natural logarithms, 0 on average; use within -2 .. 2. */
    float *sens; /* [cols] */
    float sens_pos, sens_bias;

    /* Classes: rows that are alike share a mean, taken off before either basis. A row's class is
     * the k of the largest sum_i class_w[k][i] z[i] + class_bias[k], in a space of class_dims that
     * tells classes apart: z[i] = class_scale[i] * sum_j class_p[i][j] (x - mean)[j]. The norm of
     * every row of class_p and class_w is at most CODEC_PROFILE_NORM_MAX. */
    uint32_t n_classes;  /* 0: none */
    uint32_t class_dims; /* 1 .. CODEC_CLASS_DIMS_MAX; 0 when there are no classes */
    int16_t *class_p;    /* [class_dims][cols] */
    float *class_scale;  /* [class_dims] >= 0 */
    int16_t *class_w;    /* [n_classes][class_dims] */
    float *class_bias;   /* [n_classes] */
    float *class_mean;   /* [n_classes][cols] of x - mean */

    uint32_t n_blocks; /* codec_blocks(cols) */
    struct codec_profile_block *blocks;
    struct codec_profile_curve curves[CODEC_PROFILE_CURVES];
};

/* Room for a profile of `cols` columns, all zero, to be filled. xform_n: coefficients of each
 * block's transform; NULL: as many as the block has columns. n_classes and class_dims both 0, or
 * neither. 0, -EINVAL, -ENOMEM. */
int codec_profile_new(uint32_t cols, const uint32_t *xform_n, uint32_t n_classes,
                      uint32_t class_dims, struct codec_profile **out);
void codec_profile_free(struct codec_profile *p);

/*
 * src may be unaligned and is not kept. err: CODEC_PROFILE_ERR bytes, one line on failure.
 * 0, -EBADMSG (not a profile, truncated, damaged, or a field out of its range: err names it),
 * -ENOTSUP (a version this program doesn't know), -ENOMEM.
 */
int codec_profile_parse(const uint8_t *src, size_t len, struct codec_profile **out, char *err);

/* The profile's bytes, malloc'd, and p->hash. 0, -EINVAL when parse would refuse them (err says
 * why), -ENOMEM. */
int codec_profile_serialize(struct codec_profile *p, uint8_t **bytes, size_t *len, char *err);

#endif
