/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's rows: they wait as coefficients for the products that make rows of many at once. */
#ifndef ISTHMUS_CODEC_CODED_RESTORE_H
#define ISTHMUS_CODEC_CODED_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/coded_basis.h"
#include "codec/dsp.h"

/* Rows read from tiles that are still coefficients, in each block as many as have come: the product
 * takes them together. */
struct coded_waiting {
    uint32_t n[CODED_BLOCKS_MAX];
    struct coded_waiting_row {
        float delta;
        uint16_t class;
        float *out; /* the block's first column */
    } rows[CODED_BLOCKS_MAX][CODED_BATCH];
    int16_t *k; /* [CODED_BATCH][coefs], block after block */
};

/* Writes the rows that wait in block i. False when a value is not finite. */
bool coded_restore(const struct coded_basis *b, const struct codec_dsp *dsp,
                   struct coded_waiting *waiting, uint32_t i);

#endif
