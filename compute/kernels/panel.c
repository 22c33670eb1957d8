/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packing of panels from the file's block formats, whole words at a time: what a panel wants side
 * by side in a byte is near in the file too. tests/unit/kernels/test_pack.c has the layouts'
 * meaning, code by code, and holds these bytes against it.
 */
#include <endian.h>
#include <string.h>

#include "compute/kernels/internal.h"

enum layout_id kernels_layout_of(enum qtype type)
{
    for (int i = 0; i < N_LAYOUTS; i++)
        if (kernels_layouts[i].type == type)
            return (enum layout_id)i;
    return N_LAYOUTS;
}

/* --- words: four columns of one row ---------------------------------------------------------- */

#define LOW4 0x0f0f0f0fu
#define LOW2 0x03030303u
#define LOW1 0x01010101u

static inline uint32_t word(const uint8_t *p, size_t i)
{
    uint32_t w;

    memcpy(&w, p + 4 * i, 4);
    return w;
}

static inline void put_word(uint8_t *block, size_t group, size_t lane, uint32_t w)
{
    memcpy(block + (group * PANEL_ROWS + lane) * 4, &w, 4);
}

/* Bit 4g + j to bit 8j + g: the fifth bits of a block, of which a column's share a byte. */
static inline uint32_t gather_groups(uint32_t in)
{
    uint32_t out = 0;

    for (unsigned j = 0; j < 4; j++) {
        uint32_t x = in >> j & 0x11111111u;

        x = (x | x >> 3) & 0x03030303u;
        x = (x | x >> 6) & 0x000f000fu;
        x = (x | x >> 12) & 0xffu;
        out |= x << 8 * j;
    }
    return out;
}

/* --- one unit of all types: 16 rows side by side --------------------------------------------- */

typedef const uint8_t *const unit_rows[PANEL_ROWS];

#define INLINE static inline __attribute__((always_inline))

INLINE void pack_floats(size_t elem_bytes, unit_rows src, uint8_t *dst)
{
    for (size_t c = 0; c < 32; c++)
        for (size_t lane = 0; lane < PANEL_ROWS; lane++, dst += elem_bytes)
            memcpy(dst, src[lane] + c * elem_bytes, elem_bytes);
}

/* Q4_0 to Q8_0. The file has d, m where there is one, fifth bits where there are, and codes of
 * which those 16 apart share a byte: as in a panel. */
INLINE void pack_block(enum layout_id id, unit_rows src, uint8_t *dst)
{
    const struct layout *l = &kernels_layouts[id];
    const size_t fifth = l->has_min ? 4 : 2, codes = fifth + (l->bits == 5 ? 4 : 0);

    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        const uint8_t *s = src[lane];

        memcpy(dst + l->d + 2 * lane, s, 2);
        if (l->has_min)
            memcpy(dst + l->m + 2 * lane, s + 2, 2);
        for (size_t g = 0; g < (l->bits == 8 ? 8 : 4); g++)
            put_word(dst, g, lane, word(s + codes, g));
        if (l->bits == 5)
            put_word(dst, 4, lane, htole32(gather_groups(le32toh(word(s + fifth, 0)))));
    }
}

/* Q4_K, Q5_K: eight 6-bit scales and minima in 12 bytes. */
INLINE void pack_k_scales(const uint8_t s[12], size_t lane, uint8_t *dst)
{
    for (size_t j = 0; j < 4; j++) {
        uint8_t *low = dst + 32 * j + lane, *high = low + 4 * 32;

        low[0] = s[j] & 63;
        low[16] = s[j + 4] & 63;
        high[0] = (uint8_t)((s[j + 8] & 15) | s[j] >> 6 << 4);
        high[16] = (uint8_t)(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
    }
}

/* Q4_K, Q5_K: blocks 2i and 2i + 1 are the low and high nibbles of 32 bytes. */
INLINE void pack_k(enum layout_id id, unit_rows src, uint8_t *dst)
{
    const struct layout *l = &kernels_layouts[id];

    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        const uint8_t *s = src[lane], *fifth = s + 16, *codes = s + (l->bits == 5 ? 48 : 16);

        memcpy(dst + l->d + 2 * lane, s, 2);
        memcpy(dst + l->m + 2 * lane, s + 2, 2);
        pack_k_scales(s + 4, lane, dst + l->scales);
        for (size_t b = 0; b < 8; b++) {
            uint8_t *block = dst + l->codes + b * l->block_bytes;
            uint32_t bits = 0;

            for (size_t g = 0; g < 4; g++) {
                uint32_t w = word(codes + b / 2 * 32, g), up = word(codes + b / 2 * 32, g + 4);

                put_word(block, g, lane,
                         b % 2 ? (w >> 4 & LOW4) | (up & ~LOW4) : (w & LOW4) | (up & LOW4) << 4);
            }
            if (l->bits != 5)
                continue;
            for (size_t g = 0; g < 8; g++)
                bits |= (word(fifth, g) >> b & LOW1) << g;
            put_word(block, 4, lane, bits);
        }
    }
}

/* Q6_K: of each half, quarter q of 32 columns has its nibbles in bytes 32 (q % 2) .., the low ones if
 * q < 2, and its upper bits at 2q. */
INLINE void pack_q6k(unit_rows src, uint8_t *dst)
{
    const struct layout *l = &kernels_layouts[LAYOUT_Q6_K];

    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        const uint8_t *s = src[lane];

        memcpy(dst + l->d + 2 * lane, s + 208, 2);
        for (size_t b = 0; b < 8; b++) {
            const size_t q = b % 4, shift = q / 2 * 4;
            const uint8_t *low = s + b / 4 * 64 + q % 2 * 32, *high = s + 128 + b / 4 * 32;
            uint8_t *block = dst + l->codes + b * l->block_bytes;

            memcpy(dst + l->scales + 32 * b + 2 * lane, s + 192 + 2 * b, 2);
            for (size_t g = 0; g < 4; g++)
                put_word(block, g, lane,
                         (word(low, g) >> shift & LOW4) | (word(low, g + 4) >> shift & LOW4) << 4);
            for (size_t h = 0; h < 2; h++) {
                uint32_t bits = 0;

                for (size_t g = 0; g < 4; g++)
                    bits |= (word(high, 4 * h + g) >> 2 * q & LOW2) << 2 * g;
                put_word(block, 4 + h, lane, bits);
            }
        }
    }
}

/* --- panels ---------------------------------------------------------------------------------- */

/* What rows past the last are read from: of every type, codes and scales of zero. */
static const uint8_t zeros[256];

INLINE void pack_unit(enum layout_id id, unit_rows src, uint8_t *dst)
{
    switch (id) {
    case LAYOUT_F32:
        pack_floats(4, src, dst);
        break;
    case LAYOUT_F16:
    case LAYOUT_BF16:
        pack_floats(2, src, dst);
        break;
    case LAYOUT_Q4_K:
    case LAYOUT_Q5_K:
        pack_k(id, src, dst);
        break;
    case LAYOUT_Q6_K:
        pack_q6k(src, dst);
        break;
    default:
        pack_block(id, src, dst);
    }
}

/* For one type, so that its layout is folded. */
INLINE void pack(enum layout_id id, const uint8_t *src, size_t n_rows, size_t cols, uint8_t *dst)
{
    const struct layout *l = &kernels_layouts[id];
    const struct qtype_info *q = qtype_info(l->type);
    const size_t row_bytes = cols / q->block_values * q->block_bytes;
    const size_t step = l->unit_cols / q->block_values * q->block_bytes;
    const uint8_t *rows[PANEL_ROWS];

    for (size_t i = 0; i < PANEL_ROWS; i++)
        rows[i] = i < n_rows ? src + i * row_bytes : zeros;
    for (size_t u = 0; u < cols / l->unit_cols; u++, dst += l->unit_bytes) {
        pack_unit(id, rows, dst);
        for (size_t i = 0; i < n_rows; i++)
            rows[i] += step;
    }
}

void kernels_pack_panel(enum layout_id id, const uint8_t *src, size_t n_rows, size_t cols,
                        uint8_t *dst)
{
    switch (id) {
#define CASE(type)                                                                                 \
    case LAYOUT_##type:                                                                            \
        pack(LAYOUT_##type, src, n_rows, cols, dst);                                               \
        break;
        CASE(F32)
        CASE(F16)
        CASE(BF16)
        CASE(Q4_0)
        CASE(Q4_1)
        CASE(Q5_0)
        CASE(Q5_1)
        CASE(Q8_0)
        CASE(Q4_K)
        CASE(Q5_K)
        CASE(Q6_K)
#undef CASE
    case N_LAYOUTS:
    case LAYOUT_G2:
    case LAYOUT_G3:
    case LAYOUT_G4:
    case N_CODINGS:
        break; /* not of the file's types */
    }
}
