/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rANS (range asymmetric numeral systems, Duda, arXiv 1311.2540) for an alphabet of 16 symbols:
 * symbols of known frequencies in, nearly their entropy in bytes out.
 *
 * Symbols come in groups of RANS_GROUP that share a table; each group may have another one, so that
 * every place of a row can have its own statistics. 4, 8, 16, 32 or 64 states ("lanes") take
 * turns, symbol i in lane i % lanes: more lanes are faster, but each costs about 5 bits. The bytes
 * do not depend on the instruction set.
 *
 * A lane carries one byte of the caller's besides its symbols, its "seed", which comes back from
 * the decoder: it would be lost otherwise. Bit by bit: docs/codec.md, "rANS".
 *
 * All functions are pure: any thread, no state between calls.
 */
#ifndef ISTHMUS_CODEC_RANS_H
#define ISTHMUS_CODEC_RANS_H

#include <stddef.h>
#include <stdint.h>

#define RANS_SYMBOLS   16u
#define RANS_TOTAL     256u /* what a table's frequencies add up to */
#define RANS_GROUP     32u
#define RANS_LANES_MAX 64u
#define RANS_FAMILY    18u

struct codec_dsp;

/* One distribution, laid out for 16-byte table look-ups. Made by rans_table_init only. */
struct rans_table {
    /* By symbol, for the encoder. */
    uint8_t freq[RANS_SYMBOLS];  /* 0 for a symbol that cannot be coded */
    uint8_t start[RANS_SYMBOLS]; /* its first slot */
    uint8_t recip_low[RANS_SYMBOLS], recip_high[RANS_SYMBOLS]; /* 65536 / freq, bits 0-7 and 8-15 */

    /* By rank among the symbols that have slots, for the decoder. */
    uint8_t last[RANS_SYMBOLS]; /* last slot of the rank before ^ 128; [0] and unused: 255 ^ 128 */
    uint8_t rank_freq[RANS_SYMBOLS], rank_start[RANS_SYMBOLS], rank_symbol[RANS_SYMBOLS];
};

/* Which table codes which symbols: group g has tables[table_of[g]], or tables[0] when table_of is
 * NULL. Indices are not checked: the caller answers for them, on both sides. */
struct rans_model {
    const struct rans_table *tables;
    const uint8_t *table_of;
};

/* freq adds up to RANS_TOTAL; a symbol of frequency 0 cannot be coded. A frequency of 256 is taken
 * as 255 (.0056 bits a symbol) with the slot left over going to symbol ^ 1. 0 or -EINVAL. */
int rans_table_init(struct rans_table *table, const uint16_t freq[RANS_SYMBOLS]);

/* The frequencies (adding up to RANS_TOTAL) by which `counts` cost the fewest bits. Symbols that
 * have a count or whose bit is set in `keep` get at least 1, the others 0. Deterministic.
 * 0, or -EINVAL when no symbol has a count. */
int rans_quantize_freqs(const uint32_t counts[RANS_SYMBOLS], uint16_t keep,
                        uint16_t freq[RANS_SYMBOLS]);

/* Built-in frequencies for values quantized around 0: table k is for a standard deviation of
 * 2^((k - 12) / 4) steps. Symbol v + 8 stands for -7 <= v <= 7, symbol 0 for all other values and
 * those whose symbol has no slots. Made by tools/make-rans-family. */
extern const uint8_t rans_family[RANS_FAMILY][RANS_SYMBOLS];

void rans_family_init(struct rans_table tables[RANS_FAMILY]);

/* What a symbol of frequency f costs, in 1/256 bit; [0] is the largest number. */
extern const uint16_t rans_cost[RANS_TOTAL + 1];

/* The bytes that n symbols take at most. */
size_t rans_bound(size_t n, unsigned lanes);

/*
 * Encode symbols[0, n), each below 16, n a multiple of RANS_GROUP and at most 2^30; lanes is 4, 8,
 * 16, 32 or 64; seeds is [lanes]. capacity must be at least rans_bound().
 * Returns the bytes written to dst (2 * lanes or more), -EINVAL when an argument is out of range or
 * a symbol cannot be coded by its table, -ENOSPC.
 */
int rans_encode(const struct codec_dsp *dsp, const struct rans_model *model, const uint8_t *symbols,
                size_t n, unsigned lanes, const uint8_t *seeds, uint8_t *dst, size_t capacity);

/*
 * Decode what rans_encode made of n symbols with the same model and lanes: src[0, len) exactly.
 * 0, -EINVAL as above, or -EBADMSG: not such bytes (symbols and seeds are then unspecified). A
 * wrong length is always noticed; damage only when it shows in the final states, as 3 of 4 flipped
 * bits do: what carries the bytes needs its own checksum.
 */
int rans_decode(const struct codec_dsp *dsp, const struct rans_model *model, const uint8_t *src,
                size_t len, size_t n, unsigned lanes, uint8_t *symbols, uint8_t *seeds);

#endif
