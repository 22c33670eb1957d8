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

/* --- schemes --------------------------------------------------------------------------------- */

size_t mat_bytes_for_scheme(const struct scheme *s, uint32_t rows, uint32_t cols, uint32_t n_sparse)
{
    const struct scheme_panel p = kernels_scheme_panel(s, cols);

    return scheme_panel_bytes(&p) * n_panels(rows) + sparse_bytes(rows, n_sparse);
}

int mat_new_scheme(const struct scheme *s, uint64_t rows, uint64_t cols, uint32_t n_sparse,
                   struct mat **out)
{
    struct mat *m;

    *out = NULL;
    if (rows == 0 || rows > INT32_MAX || cols == 0 || cols > INT32_MAX || cols % ACT_BLOCK)
        return -EINVAL;
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->isa = kernels_isa_get();
    m->id = N_LAYOUTS;
    m->rows = (uint32_t)rows;
    m->cols = (uint32_t)cols;
    m->scheme = kernels_scheme_panel(s, m->cols);
    m->panel_bytes = scheme_panel_bytes(&m->scheme);
    m->sparse.n = n_sparse;
    if (!__builtin_mul_overflow(m->panel_bytes, (size_t)n_panels(m->rows), &m->bytes))
        m->panels = kernels_mem_alloc(m->bytes);
    if (m->panels && n_sparse)
        m->sparse.memory = kernels_mem_alloc(sparse_bytes(m->rows, n_sparse));
    if (!m->panels || (n_sparse && !m->sparse.memory)) {
        mat_free(m);
        return -ENOMEM;
    }
    if (n_sparse)
        m->sparse.entries = (uint32_t *)m->sparse.memory + sparse_panels_bytes(m->rows) / 4;
    *out = m;
    return 0;
}

static void pack_sparse(struct sparse *s, enum scheme_part part, uint32_t at, const uint8_t *src,
                        uint32_t n)
{
    uint32_t *starts = s->memory;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t *entry = &s->entries[at + i];

        if (part == SCHEME_SP_ROWS)
            starts[at + i] = load_u16(src + 4 * i) | (uint32_t)load_u16(src + 4 * i + 2) << 16;
        else if (part == SCHEME_SP_COLS)
            *entry = (*entry & 0xffff0000) | load_u16(src + 2 * i);
        else
            *entry = (*entry & 0xffff) | (uint32_t)load_u16(src + 2 * i) << 16;
    }
}

void mat_pack_part(struct mat *m, enum scheme_part part, uint32_t row, const void *src, uint32_t n)
{
    if (part >= SCHEME_SP_ROWS)
        pack_sparse(&m->sparse, part, row, src, n);
    else
        kernels_scheme_pack(&m->scheme, part, m->panels, row, src, n);
}

int mat_close_sparse(struct mat *m, uint32_t *bad_row)
{
    const uint32_t *rows = m->sparse.memory, n = m->sparse.n;

    for (uint32_t r = 0; r < m->rows && n; r++) {
        *bad_row = r;
        if (rows[0] != 0 || rows[m->rows] != n || rows[r] > rows[r + 1] || rows[r + 1] > n)
            return -ERANGE;
        for (uint32_t i = rows[r]; i < rows[r + 1]; i++) {
            const uint32_t col = m->sparse.entries[i] & 0xffff;

            if (col >= m->cols || (i > rows[r] && col <= (m->sparse.entries[i - 1] & 0xffff)))
                return -EBADMSG;
        }
    }
    return n ? kernels_order_sparse(&m->sparse, m->rows) : 0;
}

void mat_free(struct mat *m)
{
    if (!m)
        return;
    kernels_mem_free(m->panels, m->bytes);
    kernels_mem_free(m->sparse.memory, sparse_bytes(m->rows, m->sparse.n));
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

bool mat_in_scheme(const struct mat *m)
{
    return m->id == N_LAYOUTS;
}

size_t mat_bytes(const struct mat *m)
{
    return m->bytes + sparse_bytes(m->rows, m->sparse.n);
}
