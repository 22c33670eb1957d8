/* SPDX-License-Identifier: Apache-2.0 */
/* Panels of schemes: their measures, packing from the file's rows, and reading back. */
#include "compute/kernels/scheme_panel.h"

#include <endian.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/kernels/internal.h"

struct scheme_panel kernels_scheme_panel(const struct scheme *s, uint32_t cols)
{
    struct scheme_panel p = {
        .scheme = *s,
        .blocks = cols / SCHEME_BLOCK,
        .group_blocks = s->group_cols / SCHEME_BLOCK,
        .block_bytes = 64 * s->bits,
    };

    if (p.group_blocks) {
        p.unit_blocks = p.group_blocks < p.blocks ? p.group_blocks : p.blocks;
        p.unit_bytes = 4 * PANEL_ROWS + p.unit_blocks * p.block_bytes;
        p.n_units = (p.blocks + p.unit_blocks - 1) / p.unit_blocks;
        p.bytes = p.n_units * 4 * PANEL_ROWS + p.blocks * p.block_bytes;
        return p;
    }
    p.unit_blocks = s->bits == 4 ? 1 : 2;
    p.unit_bytes = p.unit_blocks * p.block_bytes;
    p.n_units = (p.blocks + p.unit_blocks - 1) / p.unit_blocks;
    p.head_bytes = (PANEL_ROWS << s->bits) + 8 * PANEL_ROWS;
    p.bytes = p.head_bytes + p.n_units * p.unit_bytes;
    return p;
}

/* --- codes ----------------------------------------------------------------------------------- */

/* Bit i of b to bit 0 of byte i. */
static uint64_t spread(uint8_t b)
{
    const uint64_t x = b * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);

    return (x + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
}

static void put_thirds(const uint8_t third[4], bool even, uint8_t *to)
{
    uint64_t bits =
        spread(third[0]) | spread(third[1]) << 1 | spread(third[2]) << 4 | spread(third[3]) << 5;
    uint64_t there = 0;

    if (even)
        bits <<= 2;
    else
        memcpy(&there, to, 8);
    bits = htole64(bits) | there;
    memcpy(to, &bits, 8);
}

static void pack_codes(const struct scheme_panel *s, uint8_t *panel, size_t r, const uint8_t *src)
{
    const uint32_t bits = s->scheme.bits;
    const size_t q = r % 4, lane = 16 * (r / 4);
    uint8_t *units = panel + s->head_bytes;

    for (size_t b = 0; b < s->blocks; b++, src += 4 * bits) {
        uint8_t *unit = units + b / s->unit_blocks * s->unit_bytes;
        const size_t at = lane + b % s->unit_blocks * 8;

        memcpy(unit + 64 * q + at, src, bits == 4 ? 16 : 8);
        if (bits == 3)
            put_thirds(src + 8, q % 2 == 0, unit + 256 + 64 * (q / 2) + at);
    }
}

/* g: where the code of column c of row r stands in a block: the first of its bits. 3 bits: of group 6
 * and 7 the bits stand at the same place in three vectors. */
struct place {
    size_t at;
    unsigned shift;
};

static struct place place_of_code(uint32_t bits, size_t r, size_t c)
{
    const size_t g = c / 4, at = 4 * r + c % 4;

    if (bits == 4)
        return (struct place){64 * (g % 4) + at, 4 * (unsigned)(g / 4)};
    if (bits == 2)
        return (struct place){64 * (g / 4) + at, 2 * (unsigned)(g % 4)};
    return g < 6 ? (struct place){64 * (g / 2) + at, 4 * (unsigned)(g % 2)}
                 : (struct place){at, 4 * (unsigned)(g % 2) + 3};
}

static void pack_group_codes(const struct scheme_panel *s, uint8_t *panel, size_t r,
                             const uint8_t *src)
{
    const uint32_t bits = s->scheme.bits;

    for (size_t b = 0; b < s->blocks; b++) {
        uint8_t code[SCHEME_BLOCK], *to = panel + scheme_block_at(s, b);

        scheme_codes(&s->scheme, src, b, code);
        for (size_t i = 0; i < s->block_bytes; i += 64)
            memset(to + i + 4 * r, 0, 4);
        for (size_t c = 0; c < SCHEME_BLOCK; c++) {
            const struct place p = place_of_code(bits, r, c);
            const bool spread = bits == 3 && c >= 24;

            to[p.at] |= (uint8_t)((spread ? code[c] & 1 : code[c]) << p.shift);
            for (size_t i = 1; spread && i < 3; i++)
                to[p.at + 64 * i] |= (uint8_t)((code[c] >> i & 1) << p.shift);
        }
    }
}

static uint8_t read_group_code(uint32_t bits, const uint8_t *from, size_t r, size_t c)
{
    const struct place p = place_of_code(bits, r, c);

    if (bits == 3 && c >= 24)
        return (uint8_t)((from[p.at] >> p.shift & 1) | (from[p.at + 64] >> p.shift & 1) << 1 |
                         (from[p.at + 128] >> p.shift & 1) << 2);
    return from[p.at] >> p.shift & ((1u << bits) - 1);
}

/* --- levels and scales ----------------------------------------------------------------------- */

static size_t table_at(uint32_t bits, size_t r)
{
    const size_t l = r / 4, q = r % 4;

    return bits == 4   ? 64 * q + 16 * l
           : bits == 3 ? 64 * (q / 2) + 16 * l + 8 * (q % 2)
                       : 16 * l + 4 * q;
}

/* d and m of the line through u[i], level[i] that is nearest to all. */
static void fit(const uint8_t *u, const float *level, size_t n, float *d, float *m)
{
    float su = 0, sl = 0, suu = 0, sul = 0;

    for (size_t i = 0; i < n; i++) {
        su += u[i];
        sl += level[i];
        suu += (float)u[i] * u[i];
        sul += (float)u[i] * level[i];
    }
    const float spread = suu * (float)n - su * su;
    *d = spread > 0 ? (sul * (float)n - su * sl) / spread : 0;
    *m = (sl - *d * su) / (float)n;
}

static void pack_levels(const struct scheme_panel *s, uint8_t *panel, size_t r, const uint8_t *src)
{
    const size_t n = (size_t)1 << s->scheme.bits;
    uint8_t *u = panel + table_at(s->scheme.bits, r), *scales = panel + PANEL_ROWS * n;
    float level[16], least = INFINITY, most = -INFINITY, d, m;

    for (size_t i = 0; i < n; i++) {
        level[i] = f32_from_f16(load_u16(src + 2 * i));
        least = level[i] < least ? level[i] : least;
        most = level[i] > most ? level[i] : most;
    }
    const float step = (most - least) / (float)scheme_level_max(s->scheme.bits);
    for (size_t i = 0; i < n; i++)
        u[i] = step > 0 ? (uint8_t)((level[i] - least) / step + .5f) : 0;
    fit(u, level, n, &d, &m);
    memcpy(scales + 4 * r, &d, 4);
    memcpy(scales + 4 * (PANEL_ROWS + r), &m, 4);
}

static void pack_groups(const struct scheme_panel *s, uint8_t *panel, size_t r, const uint8_t *src,
                        bool is_min)
{
    for (size_t i = 0; i < s->n_units; i++, src += 2)
        memcpy(panel + i * s->unit_bytes + (is_min ? 32 : 0) + 2 * r, src, 2);
}

void kernels_scheme_pack(const struct scheme_panel *s, enum scheme_part part, uint8_t *panels, uint32_t row,
                 const void *src, uint32_t n)
{
    const size_t bytes = scheme_panel_bytes(s);
    const size_t row_bytes = part == SCHEME_CODES ? (size_t)s->blocks * 4 * s->scheme.bits
                             : part == SCHEME_LUT ? (size_t)2 << s->scheme.bits
                                                  : (size_t)s->n_units * 2;

    for (uint32_t i = 0; i < n; i++) {
        uint8_t *panel = panels + (row + i) / PANEL_ROWS * bytes;
        const uint8_t *from = (const uint8_t *)src + i * row_bytes;
        const size_t r = (row + i) % PANEL_ROWS;

        if (part == SCHEME_CODES && s->group_blocks)
            pack_group_codes(s, panel, r, from);
        else if (part == SCHEME_CODES)
            pack_codes(s, panel, r, from);
        else if (part == SCHEME_LUT)
            pack_levels(s, panel, r, from);
        else
            pack_groups(s, panel, r, from, part == SCHEME_MIN);
    }
}

/* --- the sparse part -------------------------------------------------------------------------- */

/* Rows of a panel by falling number of entries; to row[i] the row in place i. */
static struct sparse_panel sort_rows(const uint32_t *starts, size_t rows, uint8_t row[PANEL_ROWS])
{
    struct sparse_panel p = {.first = starts[0], .n_entries = starts[rows] - starts[0]};

    for (size_t r = 0; r < PANEL_ROWS; r++) {
        const uint16_t n = r < rows ? (uint16_t)(starts[r + 1] - starts[r]) : 0;
        size_t i = r;

        for (; i > 0 && p.n[i - 1] < n; i--) {
            p.n[i] = p.n[i - 1];
            row[i] = row[i - 1];
        }
        p.n[i] = n;
        row[i] = (uint8_t)r;
    }
    for (uint64_t i = 0; i < PANEL_ROWS; i++) {
        p.rows |= (uint64_t)row[i] << 4 * i;
        p.places |= i << 4 * row[i];
    }
    return p;
}

int kernels_order_sparse(struct sparse *s, uint32_t rows)
{
    uint32_t *const all = s->memory, most = 0;
    struct sparse_panel *panels = s->memory;

    for (uint32_t r = 0; r < rows; r += PANEL_ROWS) {
        const uint32_t n = all[rows - r < PANEL_ROWS ? rows : r + PANEL_ROWS] - all[r];
        most = n > most ? n : most;
    }
    uint16_t *parts = malloc((size_t)most * 2 * sizeof(*parts));
    if (most && !parts)
        return -ENOMEM;
    for (uint32_t r = 0; r < rows; r += PANEL_ROWS) {
        const uint32_t n = rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS;
        uint32_t starts[PANEL_ROWS + 1];
        uint8_t row[PANEL_ROWS];

        memcpy(starts, all + r, (n + 1) * sizeof(*starts)); /* the panel comes to stand before them */
        const struct sparse_panel p = sort_rows(starts, n, row);
        uint16_t *column = parts, *value = parts + p.n_entries;
        for (uint32_t k = 0; k < p.n[0]; k++)
            for (size_t i = 0; i < PANEL_ROWS && p.n[i] > k; i++) {
                const uint32_t entry = s->entries[starts[row[i]] + k];
                *column++ = (uint16_t)entry;
                *value++ = (uint16_t)(entry >> 16);
            }
        if (p.n_entries)
            memcpy(s->entries + p.first, parts, (size_t)p.n_entries * 2 * sizeof(*parts));
        memcpy(&panels[r / PANEL_ROWS], &p, sizeof(p));
    }
    memset(s->entries + s->n, 0, SPARSE_PAST * sizeof(*s->entries));
    free(parts);
    return 0;
}

/* --- reading back ---------------------------------------------------------------------------- */

void kernels_scheme_read(const struct scheme_panel *s, const uint8_t *panel, size_t row, size_t b,
                       uint8_t u[SCHEME_BLOCK], float *d, float *m)
{
    const uint32_t bits = s->scheme.bits;
    const uint8_t *unit = panel + s->head_bytes + b / s->unit_blocks * s->unit_bytes;
    const size_t q = row % 4, at = 16 * (row / 4) + b % s->unit_blocks * 8;
    const uint8_t *low = unit + 64 * q + at, *third = unit + 256 + 64 * (q / 2) + at;
    static const uint8_t third_at[4] = {0, 1, 4, 5};

    if (s->group_blocks) {
        for (size_t c = 0; c < SCHEME_BLOCK; c++)
            u[c] = read_group_code(bits, panel + scheme_block_at(s, b), row, c);
        *d = f32_from_f16(load_u16(unit + 2 * row));
        *m = f32_from_f16(load_u16(unit + 32 + 2 * row));
        return;
    }
    for (size_t c = 0; c < SCHEME_BLOCK; c++) {
        if (bits == 4) {
            u[c] = low[c % 16] >> (c / 16 * 4) & 15;
        } else {
            const size_t k = c / 8, i = c % 8;

            u[c] = low[i] >> 2 * k & 3;
            if (bits == 3)
                u[c] |= (uint8_t)((third[i] >> (third_at[k] + (q % 2 ? 0 : 2)) & 1) << 2);
        }
        u[c] = panel[table_at(bits, row) + u[c]];
    }
    const uint8_t *scales = panel + ((size_t)PANEL_ROWS << bits);
    memcpy(d, scales + 4 * row, 4);
    memcpy(m, scales + 4 * (PANEL_ROWS + row), 4);
}
