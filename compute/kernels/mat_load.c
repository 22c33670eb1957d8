/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices: from the file's blocks into panels.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/kernels/internal.h"

size_t mat_bytes_for(enum qtype type, uint32_t rows, uint32_t cols)
{
    enum layout_id id = kernels_layout_of(type);
    if (id == N_LAYOUTS)
        return 0;
    return panel_bytes(&kernels_layouts[id], cols) * n_panels(rows);
}

static int mat_new(enum qtype type, uint64_t rows, uint64_t cols, struct mat **out)
{
    enum layout_id id = kernels_layout_of(type);
    struct mat *m;

    *out = NULL;
    if (id == N_LAYOUTS || rows == 0 || rows > INT32_MAX || cols == 0 || cols > INT32_MAX ||
        cols % ACT_BLOCK || cols % kernels_layouts[id].unit_cols)
        return -EINVAL;
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->isa = kernels_isa_get();
    m->id = id;
    m->rows = (uint32_t)rows;
    m->cols = (uint32_t)cols;
    m->panel_bytes = panel_bytes(&kernels_layouts[id], m->cols);
    if (__builtin_mul_overflow(m->panel_bytes, (size_t)n_panels(m->rows), &m->bytes) ||
        !(m->panels = kernels_mem_alloc(m->bytes))) {
        free(m);
        return -ENOMEM;
    }
    *out = m;
    return 0;
}

/* Bytes of one row in the file, and of the source of one unit. */
static size_t src_bytes(const struct mat *m, size_t cols)
{
    const struct qtype_info *q = qtype_info(kernels_layouts[m->id].type);
    return cols / q->block_values * q->block_bytes;
}

/* Pack one panel from its n rows at src. */
static void pack_panel(struct mat *m, uint32_t panel, const uint8_t *src)
{
    const struct layout *l = &kernels_layouts[m->id];
    size_t row_bytes = src_bytes(m, m->cols), step = src_bytes(m, l->unit_cols);
    uint8_t *dst = m->panels + panel * m->panel_bytes;

    for (size_t u = 0; u < m->cols / l->unit_cols; u++, dst += l->unit_bytes) {
        const uint8_t *rows[PANEL_ROWS];
        for (uint32_t i = 0; i < PANEL_ROWS; i++)
            rows[i] = panel * PANEL_ROWS + i < m->rows ? src + i * row_bytes + u * step : NULL;
        kernels_pack_unit(m->id, rows, dst);
    }
}

int mat_from_blocks(enum qtype type, const void *src, uint32_t rows, uint32_t cols,
                    struct mat **out)
{
    int rc = mat_new(type, rows, cols, out);
    if (rc)
        return rc;
    struct mat *m = *out;
    for (uint32_t p = 0; p < n_panels(rows); p++)
        pack_panel(m, p, (const uint8_t *)src + p * PANEL_ROWS * src_bytes(m, cols));
    return 0;
}

#define PIECE_BYTES ((size_t)256 << 10)

int mat_load(const struct gguf *g, const struct gguf_tensor *t, struct mat **out, char *err)
{
    uint8_t *piece = NULL;
    int rc;

    *out = NULL;
    if (t->n_dims > 2)
        rc = -EINVAL;
    else
        rc = mat_new(t->type, t->ne[1], t->ne[0], out);
    if (rc) {
        const struct qtype_info *q = qtype_info(t->type);
        if (rc == -ENOMEM)
            return gguf_fail(gguf_path(g), err, rc, "tensor %s: no memory for its panels", t->name);
        return gguf_fail(gguf_path(g), err, rc,
                         "tensor %s: type %s, %u dimensions, %llu x %llu is no matrix of whole "
                         "blocks of columns",
                         t->name, q ? q->name : "unknown", t->n_dims, (unsigned long long)t->ne[1],
                         (unsigned long long)t->ne[0]);
    }
    struct mat *m = *out;
    size_t row_bytes = src_bytes(m, m->cols), group_bytes = row_bytes * PANEL_ROWS;
    uint32_t at_once = (uint32_t)(PIECE_BYTES / group_bytes);
    if (at_once == 0)
        at_once = 1;
    piece = malloc(at_once * group_bytes);
    if (!piece) {
        rc = gguf_fail(gguf_path(g), err, -ENOMEM, "tensor %s: no memory to read it", t->name);
        goto out;
    }
    for (uint32_t p = 0; p < n_panels(m->rows); p += at_once) {
        uint32_t row = p * PANEL_ROWS, n = at_once * PANEL_ROWS;
        if (n > m->rows - row)
            n = m->rows - row;
        rc = gguf_read(g, t, row * (uint64_t)row_bytes, piece, n * row_bytes, err);
        if (rc)
            goto out;
        if (!qtype_finite(t->type, piece, (size_t)n * m->cols)) {
            rc = gguf_fail(gguf_path(g), err, -EBADMSG,
                           "tensor %s: an infinite or NaN weight in rows %u to %u", t->name, row,
                           row + n - 1);
            goto out;
        }
        for (uint32_t i = 0; i * PANEL_ROWS < n; i++)
            pack_panel(m, p + i, piece + i * group_bytes);
    }
out:
    free(piece);
    if (rc) {
        mat_free(m);
        *out = NULL;
    }
    return rc;
}

void mat_free(struct mat *m)
{
    if (!m)
        return;
    kernels_mem_free(m->panels, m->bytes);
    free(m);
}

uint32_t mat_rows(const struct mat *m)
{
    return m->rows;
}

uint32_t mat_cols(const struct mat *m)
{
    return m->cols;
}

size_t mat_bytes(const struct mat *m)
{
    return m->bytes;
}
