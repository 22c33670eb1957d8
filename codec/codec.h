/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec: rows of f32[d] (hidden states, one row a token) <-> tiles that each fit one packet.
 *
 * A tile covers a token range x a column range and decodes alone. Modes: f32 (lossless), f16, and
 * tsq = threshold splitting (TS) followed by token-wise adaptive bit quantization (TAB-Q), after
 * arXiv 2511.04002 section 3:
 *
 *   TAB-Q  every value is rounded to a multiple of the row's step, the largest whose relative L2
 *          error ||x - x'|| / ||x|| is about delta (no value is off by more than half a step), and
 *          gets a code of q bits, the q in [qmin,qmax] that makes the row short. ||x|| counts a
 *          value as at most 8 T, so that one giant doesn't excuse errors everywhere else.
 *   TS     values that q bits don't reach have longer codes in lists apart. They are those above
 *          T = tau * mean|x| of the row (or an absolute T), or less: a step is never so small that
 *          qmax bits don't reach T.
 *
 * And two that are entropy-coded, "coded" for short: rans rounds the values themselves to multiples
 * of the row's step and codes those with rANS; xform does so with the values in a calibrated basis,
 * which needs a profile (codec/profile.h; rans is better with one). A row that these can't carry (a
 * giant above a fine step) goes as tsq with its default parameters.
 *
 * What a row decodes to depends only on the row, its token (if a profile says that errors matter
 * more in some places), the parameters and the packet capacity: never on which other rows share its
 * tile. The bytes are identical on every ISA (and libm whose log is), the values that bytes decode
 * to everywhere.
 *
 * Bit by bit: docs/codec.md.
 */
#ifndef ISTHMUS_CODEC_CODEC_H
#define ISTHMUS_CODEC_CODEC_H

#include <stddef.h>
#include <stdint.h>

#define CODEC_COLS_MAX 16384u /* columns of a row */
#define CODEC_ROWS_MAX 1024u  /* rows of a tile */
#define CODEC_QMAX     8u     /* widest TAB-Q code, bits */

enum codec_mode {
    CODEC_F32 = 0,
    CODEC_F16 = 1,
    CODEC_TSQ = 2,
    CODEC_RANS = 3,
    CODEC_XFORM = 4,
};
#define CODEC_MODES 5

enum codec_tau_rule {
    CODEC_TAU_MEAN = 0, /* T = tau * mean|x| of the row */
    CODEC_TAU_ABS = 1,  /* T = tau */
};

/* "f32", "f16", "tsq", "rans", "xform". */
const char *codec_mode_name(enum codec_mode mode);

struct codec_profile;

struct codec_params {
    enum codec_mode mode;
    enum codec_tau_rule tau_rule; /* tsq only, down to qmax */
    float tau;                    /* > 0, finite */
    float delta;                  /* relative L2 error, 0 < delta < 1 */
    uint8_t qmin, qmax;           /* 1 <= qmin <= qmax, 2 <= qmax <= CODEC_QMAX */
    float step; /* rans, xform: > 0; the quantizer's step relative to the norm that the profile
                 * calls usual; without a profile, to the row's */
    const struct codec_profile *profile; /* borrowed, outlives the codec; xform: not NULL; rans:
                                          * NULL for none */
};

/* Defaults of a mode: tsq is tau_rule MEAN, tau 4, delta .08, qmin 2, qmax 8; rans and xform are
 * step .0115, without a profile. */
struct codec_params codec_params_default(enum codec_mode mode);

/* 0, or -EINVAL when a field is out of its range. */
int codec_params_check(const struct codec_params *p);

/* What both ends must agree on; the decoder needs no other parameters, they are in the tiles: a
 * stable 32-bit hash of mode and format version, and the profile's hash, zeros without a profile or
 * in a mode that uses none. */
uint32_t codec_params_id(const struct codec_params *p);
void codec_params_profile(const struct codec_params *p, uint8_t hash[16]);

/* An encoder/decoder: kernel table, parameters, scratch. One thread at a time. */
struct codec;

/* cols: the row width d, 1..CODEC_COLS_MAX; a profile must be of the same. 0, -EINVAL, -ENOMEM. */
int codec_open(const struct codec_params *p, uint32_t cols, struct codec **out);
void codec_close(struct codec *c);

/* Other encoder's parameters, between two messages: of the same mode and profile. 0 or -EINVAL. */
int codec_retune(struct codec *c, const struct codec_params *p);

/* The bytes that any `rows` rows of `cols` values can take at most, in one tile. A buffer of this
 * size is never too small. 0 when rows or cols is out of range. */
size_t codec_bound(const struct codec_params *p, uint32_t rows, uint32_t cols);

/* The smallest capacity codec_encode accepts for this width: below it, it returns -ENOSPC. */
size_t codec_min_capacity(const struct codec_params *p, uint32_t cols);

/* What an encoder did; counters add up over calls, clear with memset. */
struct codec_stats {
    uint64_t rows;               /* rows finished */
    uint64_t values;             /* values encoded */
    uint64_t bytes;              /* tile bytes, headers included */
    uint64_t outliers;           /* values set aside by TS */
    uint64_t rows_by_width[9];   /* row parts by TAB-Q width q; 0: dense part all zeros */
    uint64_t rows_fallback;      /* of rows: those of rans and xform that went as tsq */
    uint32_t bad_token, bad_col; /* set when -EDOM is returned */
};

/* Adds the counters of one to another; bad_token and bad_col stay. */
void codec_stats_add(struct codec_stats *to, const struct codec_stats *from);

/* Where an encoder stands in a message: start at {0, 0}, done when row == n_rows. */
struct codec_cursor {
    uint32_t row, col;
};

/*
 * Fill one packet: encode from *at as much of rows [0, n_rows) as fits in dst[0, capacity) as one
 * tile, and move *at on. rows is f32[n_rows][stride], stride >= cols; row i is token
 * first_token + i. A row that fits in `capacity` is never cut; a longer one is cut into the fewest
 * equal column ranges that each fit (rans, xform: of whole blocks, see docs/codec.md). Use the same
 * arguments for every call of a message, and leave the rows alone until its end: the codec may have
 * looked ahead. stats may be NULL. dst may be unaligned.
 *
 * Returns the tile's bytes (> 0); -ENOSPC when capacity < codec_min_capacity(); -EDOM when a row
 * holds a NaN or infinity in a mode but f32, or a value beyond f16 in mode f16 (stats names token
 * and column; *at is unchanged); -EINVAL for a cursor outside the rows.
 */
int codec_encode(struct codec *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats);

/* What a tile covers. */
struct codec_tile {
    enum codec_mode mode; /* tsq for rows that the modes rans and xform can't carry */
    uint32_t first_token, n_tokens;
    uint32_t first_col, n_cols;
};

/* Read and check the header only of a tile of rows of `cols` columns. 0, or -EBADMSG. */
int codec_peek(const uint8_t *src, size_t len, uint32_t cols, struct codec_tile *tile);

/*
 * Decode a tile into rows, f32[n_rows][stride], whose row 0 is token base_token; only the tile's
 * own columns of its own rows are written. The tile must lie inside [base_token, base_token+n_rows)
 * and inside the codec's columns, be of the codec's mode (of rans and xform also: tsq) and profile,
 * and use src[0,len) exactly.
 * src may be unaligned; nothing past src+len is read.
 *
 * 0 and *tile (may be NULL), or -EBADMSG: malformed, reserved bits set, or outside; rows' content
 * is then unspecified within the tile's claimed range and untouched elsewhere.
 */
int codec_decode(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token, float *rows,
                 size_t stride, uint32_t n_rows, struct codec_tile *tile);

/*
 * The same for the tiles of a message, one by one, and at the end of them: mode xform transforms
 * the rows of many tiles together, which is several times as fast where each has few. rows are
 * complete after codec_decode_finish(); they must stay there until then, or until a tile is
 * refused, which takes those before it along, unless finished.
 */
int codec_decode_later(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token,
                       float *rows, size_t stride, uint32_t n_rows, struct codec_tile *tile);
int codec_decode_finish(struct codec *c);

#endif
