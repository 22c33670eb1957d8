/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/coded_part.h"

#include <string.h>

/* Splits low bits off the coefficients that have some of their own. */
static void split_pre(const struct coded_block *b, int16_t *k, uint16_t *low)
{
    for (uint32_t i = 0; i < b->n_pre; i++) {
        int16_t *at = &k[b->pre[i].at];
        const int bits = b->pre[i].bits, up = *at + (1 << bits >> 1);
        low[i] = (uint16_t)(up & ((1 << bits) - 1));
        *at = (int16_t)(up >> bits);
    }
}

/* Whether all groups that this offset leaves out are zeros. */
static bool offset_carries(const struct codec_dsp *dsp, const struct levels *levels,
                           const struct coded_block *b, const int16_t *k, int offset)
{
    for (uint32_t g = 0; g < b->groups; g++) {
        if (levels->table[level_index(b->level[g], offset)] != TABLE_NONE)
            continue;
        if (dsp->sum_sq_i16(k + g * RANS_GROUP, RANS_GROUP))
            return false;
    }
    return true;
}

static int choose_offset(const struct codec_dsp *dsp, const struct levels *levels,
                         const struct coded_block *b, const int16_t *k, int offset)
{
    uint32_t least;

    offset = offset < INT8_MIN ? INT8_MIN : offset > INT8_MAX ? INT8_MAX : offset;
    least = dsp->code_cost(levels, k, b->level, offset, b->groups);
    for (int step = 4; step; step /= 2) {
        for (int by = -step, moved = 0; by <= step && !moved; by += 2 * step) {
            while (offset + by >= INT8_MIN && offset + by <= INT8_MAX) {
                const uint32_t cost = dsp->code_cost(levels, k, b->level, offset + by, b->groups);
                if (cost >= least)
                    break;
                least = cost;
                offset += by;
                moved = 1;
            }
        }
    }
    while (!offset_carries(dsp, levels, b, k, offset)) /* ends: no level is off at the largest */
        offset++;
    return offset;
}

/* 32 values' low bits: a plane of 8 and one of those above. Returns their end. */
static uint8_t *put_low(const struct codec_dsp *dsp, const int16_t *k, unsigned shift, uint8_t *dst)
{
    uint8_t plane[2][CODEC_PAD] = {{0}};

    for (unsigned i = 0; i < RANS_GROUP; i++) {
        const unsigned low = (unsigned)(k[i] + (1 << shift >> 1)) & ((1u << shift) - 1);
        plane[0][i] = (uint8_t)low;
        plane[1][i] = (uint8_t)(low >> 8);
    }
    dsp->pack(plane[0], RANS_GROUP, shift < 8 ? shift : 8, dst);
    if (shift > 8)
        dsp->pack(plane[1], RANS_GROUP, shift - 8, dst + RANS_GROUP);
    return dst + shift * RANS_GROUP / 8;
}

static uint8_t *put_escape(int value, uint8_t *dst)
{
    unsigned left = value < 0 ? (unsigned)-value * 2 - 1 : (unsigned)value * 2;

    for (; left >= 128; left >>= 7)
        *dst++ = (uint8_t)(left | 128);
    *dst++ = (uint8_t)left;
    return dst;
}

/* Low bits and escapes of the groups that are coded. */
static void split_rest(const struct codec_dsp *dsp, const struct levels *l,
                       const struct coded_block *b, const int16_t *k,
                       const struct coded_part_room *room, struct coded_part *part)
{
    const uint32_t *escaped = room->escaped;
    uint8_t *low = room->low, *escapes = room->escapes;
    uint32_t n_escapes = 0;

    part->cost = dsp->code_cost(l, k, b->level, part->offset, b->groups);
    part->low = low;
    part->escapes = escapes;
    for (uint32_t g = 0; g < b->groups; g++, k += RANS_GROUP) {
        const unsigned at = level_index(b->level[g], part->offset);
        const unsigned shift = l->shift[at];
        if (l->table[at] == TABLE_NONE)
            continue;
        if (shift)
            low = put_low(dsp, k, shift, low);
        n_escapes += (uint32_t)__builtin_popcount(*escaped);
        for (uint32_t left = *escaped++; left; left &= left - 1)
            escapes = put_escape((k[__builtin_ctz(left)] + (1 << shift >> 1)) >> shift, escapes);
    }
    part->low_bytes = (uint32_t)(low - part->low);
    part->escape_bytes = (uint32_t)(escapes - part->escapes);
    part->cost -= 256 * 8 * part->low_bytes + LEVEL_ESCAPE_COST * n_escapes;
}

bool coded_part_make(const struct codec_dsp *dsp, const struct levels *levels,
                     const struct coded_block *b, int16_t *k, int expected,
                     const struct coded_part_room *room, struct coded_part *part)
{
    const uint64_t sum_sq = dsp->sum_sq_i16(k, b->n);

    if (sum_sq > CODED_SUM_SQ_MAX / 2) /* a coefficient and its half step stay within 16 bits */
        return false;
    memset(k + b->n, 0, (b->groups * RANS_GROUP - b->n) * sizeof(*k));
    split_pre(b, k, room->pre);
    part->pre = room->pre;
    part->offset = INT8_MIN;
    if (sum_sq)
        part->offset = (int8_t)choose_offset(dsp, levels, b, k, expected);
    part->symbols = room->symbols;
    part->groups = (uint32_t)dsp->split_symbols(levels, k, b->level, part->offset, b->groups,
                                                room->symbols, room->escaped);
    split_rest(dsp, levels, b, k, room, part);
    return true;
}
