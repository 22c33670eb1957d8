/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Panels of 16 rows in the schemes of compute/scheme.h.
 *
 *   sq     row r = 4 l + q has its codes in lane l (16 bytes) of vector q (64 bytes), so that one
 *          table of 16 bytes serves a lane:
 *   head   the rows' levels, as u8, then d f32[16], m f32[16]:
 *            4 bits  u8[q][l][16]
 *            3 bits  u8[q / 2][l][q % 2][8]
 *            2 bits  u8[l][q][4]
 *   units  of 32 columns (4 bits) or 64 (2 and 3), one after another:
 *            4 bits  u8[q][l][16]: low nibble column i, high nibble column i + 16
 *            2 bits  u8[q][l][2][8]: of 32 columns each; bits 2k, 2k + 1 are column 8k + i's
 *            3 bits  the same of the codes' low two bits, then u8[q / 2][l][2][8]: the third bits
 *                    of columns i, 8 + i, 16 + i, 24 + i, where q is even at bits 2, 3, 6, 7, else
 *                    at bits 0, 1, 4, 5
 *
 *   g      group after group: d f16[16], m f16[16], then its blocks of 32 columns as
 *          LAYOUT_G2 to LAYOUT_G4 have them (internal.h)
 *
 * A weight is d * u + m. In g, u is the code. In sq, u is the row's level of that code, rounded to
 * an integer from 0, the row's least level, to scheme_level_max(), its greatest; d and m of the row
 * are the least squares fit to its levels.
 *
 * Numerics. g: those of types with a minimum (internal.h). sq: over the blocks
 *
 *   acc = fmaf(da, (float)i, acc)          i = sum_k u_k * a_k
 *   sum = sum + s
 *
 * and y = fmaf(d, acc, m * sum); with f32 activations as g's. Then the sparse part: for each row,
 * over its entries in order,
 *
 *   y = fmaf(value, x[column], y)          x: the activations before they were quantized
 */
#ifndef ISTHMUS_COMPUTE_SCHEME_PANEL_H
#define ISTHMUS_COMPUTE_SCHEME_PANEL_H

#include <stddef.h>
#include <stdint.h>

#include "compute/kernels/kernels.h"

/* sq: the greatest u. The fewer bits a code has, the less its levels' rounding is beside its own
 * error: so that more products fit a word's sum: 2, of 3 bits 4, of 2 bits 8 times 127. */
static inline uint32_t scheme_level_max(uint32_t bits)
{
    return bits == 4 ? 127 : bits == 3 ? 63 : 31;
}

struct scheme_panel {
    struct scheme scheme;  /* kind SCHEME_NONE: the matrix is of a plain type */
    uint32_t blocks;       /* of 32 columns in a row */
    uint32_t group_blocks; /* of sq 0 */
    uint32_t block_bytes;  /* g: of the codes of a block */
    uint32_t unit_blocks, unit_bytes, n_units, head_bytes; /* g: a unit is a group */
    uint32_t bytes;
};

/* The entries of a panel. Its rows stand in falling order of how many entries they have: so the first
 * entries of all rows that have one, then their second ones, and so on, are each time those of the
 * first so many places, and follow one another in memory. */
struct sparse_panel {
    uint32_t first;         /* of the entries */
    uint32_t n_entries;
    uint16_t n[PANEL_ROWS]; /* of the row in each place */
    uint64_t rows, places;  /* four bits each: the row in place i, the place of row i */
};

/* While it is loaded an entry is a column and, 16 bits up, a value in f16; afterwards, in the same
 * bytes, a panel has all its columns, then all its values. */
struct sparse {
    uint32_t n;     /* entries; 0: there is no such part, nor memory */
    void *memory;   /* while it is loaded: u32[rows + 1], where the entries of each row begin */
    uint32_t *entries; /* SPARSE_PAST more than n, zeros: 16 values are read at once */
};

#define SPARSE_PAST 8u

static inline const struct sparse_panel *sparse_panel(const struct sparse *s, size_t p)
{
    return (const struct sparse_panel *)s->memory + p;
}

static inline const uint16_t *sparse_columns(const struct sparse *s, const struct sparse_panel *p)
{
    return (const uint16_t *)(const void *)(s->entries + p->first);
}

static inline const uint16_t *sparse_values(const struct sparse *s, const struct sparse_panel *p)
{
    return sparse_columns(s, p) + p->n_entries;
}

/* Tokens [t0, t0 + nt) of `a` times n panels: acc f32[n][nt][16]. */
typedef void (*scheme_fn)(const struct scheme_panel *s, const uint8_t *const *panels, size_t n,
                          const struct acts *a, size_t t0, size_t nt, float *acc);
/* The entries of panel p, added to acc f32[nt][16]. */
typedef void (*sparse_fn)(const struct sparse *s, size_t p, const struct acts *a, size_t t0,
                          size_t nt, float *acc);

/* cols: a multiple of 32. */
struct scheme_panel kernels_scheme_panel(const struct scheme *s, uint32_t cols);

static inline size_t scheme_panel_bytes(const struct scheme_panel *s)
{
    return s->bytes;
}

/* Bytes before the entries: as many row starts as fill the last panel take more than its place. */
static inline size_t sparse_panels_bytes(uint32_t rows)
{
    return (((size_t)rows + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS + 1) * 4;
}

static inline size_t sparse_bytes(uint32_t rows, uint32_t n)
{
    return n ? sparse_panels_bytes(rows) + ((size_t)n + SPARSE_PAST) * 4 : 0;
}

/* The entries of each row, [starts[r], starts[r + 1]), in rising order of columns, to panels.
 * 0, -ENOMEM. */
int kernels_order_sparse(struct sparse *s, uint32_t rows);

/* Put rows [row, row + n) of a part of the dense weights into panels, of which the first has row 0.
 * Each part has bytes of its own. */
void kernels_scheme_pack(const struct scheme_panel *s, enum scheme_part part, uint8_t *panels, uint32_t row,
                 const void *src, uint32_t n);

/* g: where block b stands in a panel, d and m of its group first. */
static inline size_t scheme_group_at(const struct scheme_panel *s, size_t b)
{
    return b / s->group_blocks * s->unit_bytes;
}

static inline size_t scheme_block_at(const struct scheme_panel *s, size_t b)
{
    return scheme_group_at(s, b) + 64 + b % s->group_blocks * s->block_bytes;
}

/* What a panel's row holds, for the reference and tests: u of column block b; d and m there. */
void kernels_scheme_read(const struct scheme_panel *s, const uint8_t *panel, size_t row, size_t b,
                       uint8_t u[SCHEME_BLOCK], float *d, float *m);

#define SCHEME_FNS(kind)                                                                           \
    {                                                                                              \
        {scheme_##kind##_sq2, scheme_##kind##_sq3, scheme_##kind##_sq4},                           \
        {                                                                                          \
            scheme_##kind##_g2, scheme_##kind##_g3, scheme_##kind##_g4                             \
        }                                                                                          \
    }

#endif
