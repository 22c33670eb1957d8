/* SPDX-License-Identifier: Apache-2.0 */
/* What the encoder (coded_encode.c) and the decoder (coded_decode.c) of the coded modes share. */
#ifndef ISTHMUS_CODEC_CODED_STATE_H
#define ISTHMUS_CODEC_CODED_STATE_H

#include "codec/coded.h"
#include "codec/coded_basis.h"
#include "codec/coded_restore.h"
#include "codec/coded_rows.h"
#include "codec/levels.h"

/* What a tile holds at most, of groups that are coded: a decoder's scratch must end somewhere. */
#define CODED_GROUPS_MAX 2048u
/* Rows that are not coded have pre bits too. */
#define CODED_PRE_BITS_MAX (CODED_GROUPS_MAX * RANS_GROUP * CODED_PRE_MAX)

#define CODED_TABLE_BYTES     8u /* a table that the tile brings along */
#define CODED_COUNT_BYTES_MAX 3u /* of escape bytes */

/* A tile under construction, or what one was taken apart into. */
struct coded_streams {
    uint32_t rows;
    uint32_t groups;
    size_t low_bytes, pre_bits, escape_bytes;
    uint64_t cost; /* of the symbols, 1/256 bit */
    size_t head_bytes;
};

struct coded {
    struct coded_basis basis;
    struct levels levels;
    const struct codec_dsp *dsp;
    enum tile_coding coding; /* of tiles that bring no table */
    unsigned class_bytes;    /* of a row's head */

    struct coded_streams tile;
    uint8_t *symbols;  /* [CODED_GROUPS_MAX][RANS_GROUP] */
    uint8_t *table_of; /* [CODED_GROUPS_MAX] */
    uint8_t *raw;      /* low bits, pre bits, escapes; padded */

    /* the encoder's */
    struct coded_rows *ahead;
    struct coded_streams before[CODEC_ROWS_MAX]; /* each of the tile's rows */
    uint8_t *head;                               /* rows' */
    uint8_t *low, *pre, *escapes;
    uint8_t *bytes; /* of the symbols */
    struct coded_cut {
        const struct coded_row *row; /* cut into row->cut_into bodies; NULL: none */
        struct coded_body {
            enum tile_coding coding;
            uint32_t first, end; /* blocks */
            size_t at, bytes;    /* in bodies */
        } body[CODED_BLOCKS_MAX];
        uint8_t *bodies;
    } cut;

    /* the decoder's */
    uint32_t *escaped; /* [CODED_GROUPS_MAX] */
    struct coded_waiting waiting;
};

static inline size_t coded_raw_bytes(const struct coded_streams *s)
{
    return s->low_bytes + (s->pre_bits + 7) / 8 + s->escape_bytes;
}

/* Of n symbols. Few where symbols are few, because each costs 5 bits. */
static inline unsigned coded_lanes(size_t n)
{
    return n == 0 ? 0 : n <= 2048 ? 4 : n <= 4096 ? 8 : n <= 8192 ? 16 : n <= 16384 ? 32 : 64;
}

/* What a symbol's weight in a tile's own table stands for: half octaves. */
extern const uint16_t coded_table_weight[16];

/* The table that 8 bytes of weights stand for, the first symbol's in the lowest bits. 0 or -EBADMSG
 * when it has no symbols. */
int coded_read_table(const uint8_t src[CODED_TABLE_BYTES], struct rans_table *table);

#endif
