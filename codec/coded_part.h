/* SPDX-License-Identifier: Apache-2.0 */
/* One block of a row as the streams that a tile puts together. */
#ifndef ISTHMUS_CODEC_CODED_PART_H
#define ISTHMUS_CODEC_CODED_PART_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/coded_basis.h"
#include "codec/dsp.h"
#include "codec/levels.h"

#define CODED_ESCAPE_BYTES_MAX 3u

/* One block of a row, ready to be put into a tile. */
struct coded_part {
    int8_t offset;
    uint32_t groups; /* that are coded */
    uint32_t cost;   /* of their symbols, 1/256 bit, without low bits and escapes' values */
    uint32_t low_bytes, escape_bytes;
    const uint8_t *symbols, *low, *escapes; /* 32 groups, low_bytes, escape_bytes */
    const uint16_t *pre;                    /* low bits of the block's pre-shifted */
};

/* Where they go: for c coefficients, padded to whole groups, c of symbols and pre,
 * CODED_ESCAPE_BYTES_MAX c of escapes, coded_low_room(c) of low; escaped is scratch, one a group.
 */
struct coded_part_room {
    uint8_t *symbols, *low, *escapes;
    uint16_t *pre;
    uint32_t *escaped;
};

static inline size_t coded_low_room(size_t coefs)
{
    return coefs * SHIFT_MAX / 8 + CODEC_PAD; /* pack writes a little more */
}

/* The block's coefficients k, padded to whole groups, which are used up. The offset is looked for
 * from `expected` on. False when they are too large to be coded. */
bool coded_part_make(const struct codec_dsp *dsp, const struct levels *levels,
                     const struct coded_block *b, int16_t *k, int expected,
                     const struct coded_part_room *room, struct coded_part *part);

#endif
