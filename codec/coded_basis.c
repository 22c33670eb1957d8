/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/coded_basis.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(RANS_GROUP % GEMM_UNIT == 0, "whole groups are whole units");

/* values [n][k], padded with zeros to whole groups both ways. */
static int open_panel(const int16_t *values, uint32_t n, uint32_t k, struct codec_panel **out)
{
    const uint32_t rows = coded_whole_groups(n), cols = coded_whole_groups(k);
    int16_t *padded;
    int rc;

    if (rows == n && cols == k)
        return codec_panel_pack(values, n, k, out);
    padded = calloc((size_t)rows * cols, sizeof(*padded));
    if (!padded)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        memcpy(padded + (size_t)i * cols, values + (size_t)i * k, k * sizeof(*values));
    rc = codec_panel_pack(padded, rows, cols, out);
    free(padded);
    return rc;
}

static int open_pre(struct coded_block *b, const uint8_t *pre)
{
    b->pre = calloc(b->n, sizeof(*b->pre));
    if (!b->pre)
        return -ENOMEM;
    for (uint32_t i = 0; i < b->n; i++) {
        const unsigned bits = pre[i] < CODED_PRE_MAX ? pre[i] : CODED_PRE_MAX;
        if (!bits)
            continue;
        b->pre[b->n_pre++] = (struct coded_pre){(uint16_t)i, (uint16_t)bits};
        b->pre_bits += bits;
    }
    return 0;
}

static int open_block(struct coded_basis *basis, const struct codec_profile *p, uint32_t i)
{
    struct coded_block *b = &basis->blocks[i];
    const struct codec_profile_block *from = p ? &p->blocks[i] : NULL;
    const struct codec_profile_coefs *coefs = NULL;
    int rc = 0;

    b->first_col = codec_block_first(basis->cols, i);
    b->cols = codec_block_first(basis->cols, i + 1) - b->first_col;
    b->n = b->cols;
    b->level = (const int8_t *)basis->zeros;
    if (from) {
        coefs = basis->transform ? &from->xform : &from->scalar;
        b->n = coefs->n;
        b->level = coefs->level;
        b->order = basis->transform ? NULL : from->order;
        b->mult = from->mult;
        b->bscale = from->bscale;
        rc = open_pre(b, coefs->pre);
    }
    b->groups = coded_whole_groups(b->n) / RANS_GROUP;
    b->at = basis->coefs;
    basis->coefs += coded_whole_groups(b->n);
    if (!rc && basis->transform)
        rc = open_panel(from->a, b->n, b->cols, &b->a);
    if (!rc && basis->transform)
        rc = open_panel(from->b, b->cols, b->n, &b->b);
    return rc;
}

static int open_classes(struct coded_basis *b, const struct codec_profile *p)
{
    b->n_classes = p->n_classes;
    b->class_dims = p->class_dims;
    b->class_scale = p->class_scale;
    b->class_bias = p->class_bias;
    b->class_mean = p->class_mean;
    if (!b->n_classes)
        return 0;
    const int rc = open_panel(p->class_p, b->class_dims, b->cols, &b->class_p);
    return rc ? rc : open_panel(p->class_w, b->n_classes, b->class_dims, &b->class_w);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

int coded_basis_open(const struct codec_params *p, uint32_t cols, struct coded_basis *b)
{
    const uint32_t padded = coded_whole_groups(cols);
    uint32_t widest;
    int rc = 0;

    *b = (struct coded_basis){
        .transform = p->mode == CODEC_XFORM, .cols = cols, .row_stride = padded};
    if (p->profile && p->profile->cols != cols)
        return -EINVAL;
    b->n_blocks = codec_blocks(cols);
    b->zeros = calloc(larger(padded, CODEC_CLASS_DIMS_MAX), sizeof(*b->zeros));
    b->natural = calloc(padded, sizeof(*b->natural));
    b->base = calloc(padded, sizeof(*b->base));
    if (!b->zeros || !b->natural || !b->base)
        return -ENOMEM;
    b->mean = b->zeros;
    if (p->profile) {
        b->mean = p->profile->mean;
        rc = open_classes(b, p->profile);
    }
    for (uint32_t i = 0; i < b->n_blocks && !rc; i++)
        rc = open_block(b, p->profile, i);
    if (rc)
        return rc;
    widest = padded < CODEC_BLOCK_COLS_MAX ? padded : CODEC_BLOCK_COLS_MAX;
    widest = larger(widest, coded_whole_groups(larger(b->n_classes, b->class_dims)));
    b->k = calloc(CODED_BATCH * b->coefs, sizeof(*b->k));
    b->scaled = calloc((size_t)CODED_BATCH * padded, sizeof(*b->scaled));
    b->acc = calloc((size_t)CODED_BATCH * widest, sizeof(*b->acc));
    return b->k && b->scaled && b->acc ? 0 : -ENOMEM;
}

void coded_basis_close(struct coded_basis *b)
{
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        free(b->blocks[i].pre);
        codec_panel_free(b->blocks[i].a);
        codec_panel_free(b->blocks[i].b);
    }
    codec_panel_free(b->class_p);
    codec_panel_free(b->class_w);
    free(b->zeros);
    free(b->scaled);
    free(b->acc);
    free(b->k);
    free(b->natural);
    free(b->base);
}
