/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Levels: what the coded modes expect of a group of coefficients. The level of a group whose
 * deviation is sigma steps is 4 log2(sigma), rounded; it names the table that codes the group's
 * symbols and how many low bits are split off them first. docs/codec.md, "A tile in the modes
 * `rans` and `xform`".
 */
#ifndef ISTHMUS_CODEC_LEVELS_H
#define ISTHMUS_CODEC_LEVELS_H

#include <stddef.h>
#include <stdint.h>

#include "codec/rans.h"

#define LEVEL_MIN (-12) /* of rans_family's first table and its last */
#define LEVEL_MAX (LEVEL_MIN + (int)RANS_FAMILY - 1)
#define LEVEL_OFF (LEVEL_MIN - 4) /* a group below this is not coded: all zeros */
#define SHIFT_MAX 12u             /* low bits */

#define LEVEL_INDICES ((unsigned)(LEVEL_MAX + 4 * (int)SHIFT_MAX - LEVEL_OFF) + 2)
#define TABLE_NONE    RANS_FAMILY

#define LEVEL_ESCAPE_COST (8u * 256) /* of a value behind its escape, 1/256 bit, at least */

struct levels {
    /* By level_index(). */
    uint8_t table[LEVEL_INDICES]; /* TABLE_NONE: the group is not coded */
    uint8_t shift[LEVEL_INDICES];

    struct rans_table tables[RANS_FAMILY];
    /* By table: the symbol itself, or 0, the escape, when it has no slots. */
    uint8_t coded_as[RANS_FAMILY + 1][RANS_SYMBOLS];
    /* By table: 1/256 bit a symbol, bits 0-7 and 8-15, with LEVEL_ESCAPE_COST in escapes'. */
    uint8_t cost_low[RANS_FAMILY + 1][RANS_SYMBOLS], cost_high[RANS_FAMILY + 1][RANS_SYMBOLS];
};

void levels_init(struct levels *l);

/* Where a group of this level, moved by the row's offset, is in the tables. */
static inline unsigned level_index(int level, int offset)
{
    int i = level + offset - LEVEL_OFF + 1;

    i = i < 0 ? 0 : i;
    return (unsigned)(i < (int)LEVEL_INDICES - 1 ? i : (int)LEVEL_INDICES - 1);
}

#endif
