/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/coded_state.h"

#include <errno.h>
#include <stdlib.h>

/* Bytes a value takes at most: a symbol's, low bits of both kinds, an escape's. */
#define VALUE_BYTES_MAX (1 + (SHIFT_MAX + CODED_PRE_MAX) / 8 + 3)

const uint16_t coded_table_weight[16] = {0,  2,  3,  4,  6,  8,   11,  16,
                                         23, 32, 45, 64, 91, 128, 181, 256};

int coded_read_table(const uint8_t src[CODED_TABLE_BYTES], struct rans_table *table)
{
    uint32_t counts[RANS_SYMBOLS];
    uint16_t freq[RANS_SYMBOLS];

    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        counts[s] = coded_table_weight[src[s / 2] >> s % 2 * 4 & 15];
    return rans_quantize_freqs(counts, 0, freq) || rans_table_init(table, freq) ? -EBADMSG : 0;
}

size_t coded_row_bound(uint32_t cols)
{
    const size_t coefs = codec_blocks(cols) * RANS_GROUP + cols;

    return 3 + codec_blocks(cols) + CODED_TABLE_BYTES + CODED_COUNT_BYTES_MAX + 2 * RANS_LANES_MAX +
           VALUE_BYTES_MAX * coefs;
}

int coded_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
               struct coded **out)
{
    struct coded *c = calloc(1, sizeof(*c));
    const size_t coefs = (size_t)CODED_GROUPS_MAX * RANS_GROUP;
    int rc;

    if (!c)
        return -ENOMEM;
    c->dsp = dsp;
    c->coding = p->mode == CODEC_XFORM ? TILE_XFORM : p->profile ? TILE_RANS_PROFILE : TILE_RANS;
    levels_init(&c->levels);
    rc = coded_basis_open(p, cols, &c->basis);
    if (rc)
        goto fail;
    c->class_bytes = c->basis.n_classes > 256 ? 2 : c->basis.n_classes > 0;
    rc = coded_rows_open(&c->basis, dsp, &c->levels, &c->ahead);
    if (rc)
        goto fail;
    coded_tune(c, p);
    rc = -ENOMEM;
    c->head = malloc(CODEC_ROWS_MAX * (3 + CODED_BLOCKS_MAX));
    c->symbols = malloc(coefs);
    c->table_of = malloc(CODED_GROUPS_MAX);
    c->low = malloc(coefs * SHIFT_MAX / 8);
    c->pre = calloc(CODED_PRE_BITS_MAX / 8 + sizeof(uint32_t), 1);
    c->escapes = malloc(coefs * 3);
    c->raw = malloc(coefs * VALUE_BYTES_MAX + RANS_LANES_MAX + CODEC_PAD);
    c->bytes = malloc(rans_bound(coefs, RANS_LANES_MAX));
    c->cut.bodies = malloc(c->basis.n_blocks * coded_row_bound(CODEC_BLOCK_COLS_MAX));
    c->escaped = malloc(CODED_GROUPS_MAX * sizeof(*c->escaped));
    c->waiting.k = calloc(CODED_BATCH * c->basis.coefs, sizeof(*c->waiting.k));
    if (!c->waiting.k || !c->head || !c->symbols || !c->table_of || !c->low || !c->pre ||
        !c->escapes || !c->raw || !c->bytes || !c->escaped || !c->cut.bodies)
        goto fail;
    *out = c;
    return 0;
fail:
    coded_close(c);
    return rc;
}

void coded_close(struct coded *c)
{
    if (!c)
        return;
    coded_rows_close(c->ahead);
    coded_basis_close(&c->basis);
    free(c->head);
    free(c->symbols);
    free(c->table_of);
    free(c->low);
    free(c->pre);
    free(c->escapes);
    free(c->raw);
    free(c->bytes);
    free(c->cut.bodies);
    free(c->escaped);
    free(c->waiting.k);
    free(c);
}

void coded_tune(struct coded *c, const struct codec_params *p)
{
    coded_rows_tune(c->ahead, p);
}
