/* SPDX-License-Identifier: Apache-2.0 */
/* What the rANS kernels of all instruction sets share. */
#ifndef ISTHMUS_CODEC_RANS_KERNELS_H
#define ISTHMUS_CODEC_RANS_KERNELS_H

#include "codec/dsp.h"

static inline const struct rans_table *rans_table_at(const struct rans_model *model, size_t i)
{
    return &model->tables[model->table_of ? model->table_of[i / RANS_GROUP] : 0];
}

/* set_kernels(dsp), of the file's own encode() and decode(): inline functions that take the number
 * of lanes last, to be compiled once for each. */
#define RANS_KERNELS                                                                               \
    RANS_KERNELS_OF(4)                                                                             \
    RANS_KERNELS_OF(8)                                                                             \
    RANS_KERNELS_OF(16)                                                                            \
    RANS_KERNELS_OF(32)                                                                            \
    RANS_KERNELS_OF(64)                                                                            \
    static void set_kernels(struct codec_dsp *dsp)                                                 \
    {                                                                                              \
        RANS_SET_KERNELS(dsp, 4);                                                                  \
        RANS_SET_KERNELS(dsp, 8);                                                                  \
        RANS_SET_KERNELS(dsp, 16);                                                                 \
        RANS_SET_KERNELS(dsp, 32);                                                                 \
        RANS_SET_KERNELS(dsp, 64);                                                                 \
    }

#define RANS_KERNELS_OF(lanes)                                                                     \
    static uint8_t *encode_##lanes(const struct rans_model *model, const uint8_t *symbols,         \
                                   size_t n, struct rans_states *st, uint8_t *end)                 \
    {                                                                                              \
        return encode(model, symbols, n, st, end, lanes);                                          \
    }                                                                                              \
    static size_t decode_##lanes(const struct rans_model *model, const uint8_t *src, size_t len,   \
                                 size_t n, struct rans_states *st, uint8_t *symbols)               \
    {                                                                                              \
        return decode(model, src, len, n, st, symbols, lanes);                                     \
    }

#define RANS_SET_KERNELS(dsp, lanes)                                                               \
    ((dsp)->rans_encode[RANS_WIDTH(lanes)] = encode_##lanes,                                       \
     (dsp)->rans_decode[RANS_WIDTH(lanes)] = decode_##lanes)

#endif
