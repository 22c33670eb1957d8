/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices: from the file's blocks into panels.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/kernels/internal.h"
#include "compute/team.h"

size_t mat_bytes_for(enum qtype type, uint32_t rows, uint32_t cols)
{
    enum layout_id id = kernels_layout_of(type);
    if (id == N_LAYOUTS)
        return 0;
    return panel_bytes(&kernels_layouts[id], cols) * n_panels(rows);
}

int mat_new(enum qtype type, uint64_t rows, uint64_t cols, struct mat **out)
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

void mat_pack(struct mat *m, uint32_t row, const void *src, uint32_t n)
{
    const struct qtype_info *q = qtype_info(kernels_layouts[m->id].type);
    const size_t row_bytes = (size_t)m->cols / q->block_values * q->block_bytes;

    for (uint32_t i = 0; i < n; i += PANEL_ROWS)
        kernels_pack_panel(m->id, (const uint8_t *)src + i * row_bytes,
                           n - i < PANEL_ROWS ? n - i : PANEL_ROWS, m->cols,
                           m->panels + (row + i) / PANEL_ROWS * m->panel_bytes);
}

int mat_from_blocks(enum qtype type, const void *src, uint32_t rows, uint32_t cols,
                    struct mat **out)
{
    int rc = mat_new(type, rows, cols, out);

    if (rc == 0)
        mat_pack(*out, 0, src, rows);
    return rc;
}

void mat_share(const struct mat *m, unsigned part, unsigned parts, uint32_t *first, uint32_t *end)
{
    size_t from, to;

    team_share(n_panels(m->rows), 1, part, parts, &from, &to);
    *first = (uint32_t)from * PANEL_ROWS;
    *end = to == n_panels(m->rows) ? m->rows : (uint32_t)to * PANEL_ROWS;
    if (from == to)
        *first = *end;
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
