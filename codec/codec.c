/* SPDX-License-Identifier: Apache-2.0 */
/* Rows into tiles and back: which rows and columns a tile takes, and the steps in order. */
#include "codec/codec.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "codec/coded.h"
#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/f16.h"
#include "codec/tile.h"
#include "codec/tsq.h"

struct codec {
    struct codec_params params;
    struct codec_dsp dsp;
    uint32_t cols;
    enum codec_mode plain; /* the mode, or tsq for rows that a coded mode can't carry */
    struct tsq *tsq;       /* NULL in modes f32 and f16 */
    struct coded *coded;   /* modes rans and xform */
};

/* One row part, looked at and not yet written. */
struct part {
    const float *x;
    uint32_t cols;
    size_t bytes;
    struct tsq_part tsq;
};

/* --- open, close --- */

int codec_open(const struct codec_params *p, uint32_t cols, struct codec **out)
{
    struct codec *c;
    int rc = codec_params_check(p);

    if (rc)
        return rc;
    if (cols < 1 || cols > CODEC_COLS_MAX)
        return -EINVAL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->params = *p;
    c->plain = codec_is_coded(p->mode) ? CODEC_TSQ : p->mode;
    c->cols = cols;
    codec_dsp_init(&c->dsp, cpu_flags());
    if (c->plain == CODEC_TSQ) {
        const struct codec_params fallback = codec_params_default(CODEC_TSQ);
        rc = tsq_open(p->mode == CODEC_TSQ ? p : &fallback, &c->dsp, cols, &c->tsq);
    }
    if (!rc && codec_is_coded(p->mode))
        rc = coded_open(p, &c->dsp, cols, &c->coded);
    if (rc) {
        codec_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void codec_close(struct codec *c)
{
    if (!c)
        return;
    tsq_close(c->tsq);
    coded_close(c->coded);
    free(c);
}

int codec_retune(struct codec *c, const struct codec_params *p)
{
    const int rc = codec_params_check(p);

    if (rc || p->mode != c->params.mode)
        return -EINVAL;
    if (codec_is_coded(p->mode) && p->profile != c->params.profile)
        return -EINVAL;
    c->params = *p;
    if (p->mode == CODEC_TSQ)
        tsq_tune(c->tsq, p);
    else if (c->coded)
        coded_tune(c->coded, p);
    return 0;
}

/* --- encode --- */

static void part_plan(struct codec *c, const float *x, uint32_t cols, uint32_t step,
                      struct part *part)
{
    part->x = x;
    part->cols = cols;
    if (c->plain == CODEC_TSQ) {
        tsq_plan(c->tsq, x, cols, step, &part->tsq);
        part->bytes = part->tsq.bytes;
    } else {
        part->bytes = codec_raw_bytes(c->plain, cols);
    }
}

/* A whole row as one part, and its step, if the mode has such; -EDOM when it should have one and a
 * value is not finite. */
static int row_plan(struct codec *c, const float *row, uint32_t *step, struct part *part)
{
    int rc;

    if (c->plain != CODEC_TSQ) {
        part_plan(c, row, c->cols, 0, part);
        return 0;
    }
    part->x = row;
    part->cols = c->cols;
    rc = tsq_plan_row(c->tsq, row, c->cols, step, &part->tsq);
    if (rc == 0)
        part->bytes = part->tsq.bytes;
    return rc;
}

/* part->bytes at dst. -EDOM when mode f16 cannot hold a value. */
static int part_write(struct codec *c, const struct part *part, uint8_t *dst)
{
    switch (c->plain) {
    case CODEC_F32:
        c->dsp.copy(dst, part->x, part->bytes);
        return 0;
    case CODEC_F16:
        return c->dsp.to_f16(part->x, part->cols, dst) ? 0 : -EDOM;
    default:
        break;
    }
    tsq_write(c->tsq, &part->tsq, dst);
    return 0;
}

/* Part i of a row cut into `parts` equal ranges (their widths differ by one at most). */
static uint32_t cut_at(uint32_t cols, uint32_t parts, uint32_t i)
{
    return (uint32_t)((uint64_t)cols * i / parts);
}

static bool cut_fits(struct codec *c, const float *row, uint32_t step, uint32_t parts, size_t room)
{
    struct part part;

    for (uint32_t i = 0; i < parts; i++) {
        uint32_t first = cut_at(c->cols, parts, i);
        part_plan(c, row + first, cut_at(c->cols, parts, i + 1) - first, step, &part);
        if (part.bytes > room)
            return false;
    }
    return true;
}

/* One part of a row that is longer than a packet, as the body of a tile of its own. */
static int encode_cut(struct codec *c, const float *row, uint32_t step, struct codec_cursor *at,
                      uint8_t *dst, size_t room, struct codec_tile *tile, struct part *part)
{
    uint32_t parts = 2, i = 0;
    int rc;

    while (!cut_fits(c, row, step, parts, room)) /* ends: parts of CUT_COLS fit any capacity */
        parts++;
    while (i < parts && cut_at(c->cols, parts, i) != at->col)
        i++;
    if (i == parts)
        return -EINVAL;
    tile->first_col = at->col;
    tile->n_cols = cut_at(c->cols, parts, i + 1) - at->col;
    part_plan(c, row + tile->first_col, tile->n_cols, step, part);
    rc = part_write(c, part, dst);
    if (rc)
        return rc;
    *at = i + 1 < parts ? (struct codec_cursor){at->row, at->col + tile->n_cols}
                        : (struct codec_cursor){at->row + 1, 0};
    return 0;
}

static void name_bad_value(const struct codec *c, const float *row, uint32_t token,
                           struct codec_stats *stats)
{
    const float edge = c->plain == CODEC_F16 ? F16_OVERFLOW : INFINITY;
    uint32_t col = 0;

    while (fabsf(row[col]) < edge)
        col++;
    stats->bad_token = token;
    stats->bad_col = col;
}

static void count_part(struct codec_stats *stats, const struct codec *c, const struct part *part)
{
    stats->values += part->cols;
    if (c->plain != CODEC_TSQ)
        return;
    stats->outliers += part->tsq.n[1];
    stats->rows_by_width[part->tsq.width]++;
}

void codec_stats_add(struct codec_stats *to, const struct codec_stats *from)
{
    to->rows += from->rows;
    to->values += from->values;
    to->bytes += from->bytes;
    to->outliers += from->outliers;
    to->rows_fallback += from->rows_fallback;
    for (unsigned i = 0; i < sizeof(to->rows_by_width) / sizeof(to->rows_by_width[0]); i++)
        to->rows_by_width[i] += from->rows_by_width[i];
}

/* As codec_encode, in the mode `plain`: the checks are done, and *counted is for success only. */
static int encode_plain(struct codec *c, const float *rows, size_t stride, uint32_t n_rows,
                        uint32_t first_token, struct codec_cursor *at, uint8_t *dst,
                        size_t capacity, struct codec_stats *counted, uint32_t *bad_row)
{
    struct codec_cursor next = *at;
    struct codec_tile tile = {.first_token = first_token + at->row, .n_cols = c->cols};
    const enum tile_coding coding = (enum tile_coding)c->plain; /* named alike */
    const float *row = NULL;
    size_t bytes = TILE_HEADER_BYTES;
    struct part part;
    uint32_t step = 0;
    int rc = 0;

    while (next.row < n_rows && next.col == 0 && tile.n_tokens < CODEC_ROWS_MAX) {
        row = rows + next.row * stride;
        *bad_row = next.row - at->row;
        rc = row_plan(c, row, &step, &part);
        if (rc)
            return rc;
        if (part.bytes > capacity - bytes)
            break;
        rc = part_write(c, &part, dst + bytes);
        if (rc)
            return rc;
        count_part(counted, c, &part);
        bytes += part.bytes;
        tile.n_tokens++;
        next.row++;
    }
    if (tile.n_tokens == 0) {
        row = rows + next.row * stride;
        *bad_row = 0;
        bytes += TILE_CUT_BYTES;
        rc = row_plan(c, row, &step, &part);
        if (!rc)
            rc = encode_cut(c, row, step, &next, dst + bytes, capacity - bytes, &tile, &part);
        if (rc)
            return rc;
        count_part(counted, c, &part);
        bytes += part.bytes;
        tile.n_tokens = 1;
    }
    tile_write(&tile, coding, c->cols, dst);
    counted->rows += next.row - at->row;
    counted->rows_fallback += c->coded ? next.row - at->row : 0;
    counted->bytes += bytes;
    *at = next;
    return (int)bytes;
}

int codec_encode(struct codec *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats)
{
    static const struct codec_stats none;
    struct codec_stats counted = stats ? *stats : none;
    uint32_t bad_row = 0;
    int rc = CODED_LEAVES_IT;

    if (at->row >= n_rows || at->col >= c->cols || first_token > UINT32_MAX - (n_rows - 1))
        return -EINVAL;
    if (capacity < codec_min_capacity(&c->params, c->cols))
        return -ENOSPC;
    if (c->coded)
        rc = coded_encode(c->coded, rows, stride, n_rows, first_token, at, dst, capacity, &counted,
                          &bad_row);
    if (rc == CODED_LEAVES_IT) {
        const uint32_t end = c->coded ? at->row + 1 : n_rows;
        rc = encode_plain(c, rows, stride, end, first_token, at, dst, capacity, &counted, &bad_row);
    }
    if (rc == -EDOM && stats)
        name_bad_value(c, rows + (at->row + bad_row) * stride, first_token + at->row + bad_row,
                       stats);
    if (rc > 0 && stats)
        *stats = counted;
    return rc;
}

/* --- decode --- */

static int read_raw(const struct codec *c, const struct codec_tile *tile, const uint8_t *src,
                    size_t len, float *out, size_t stride)
{
    const size_t row_bytes = codec_raw_bytes(tile->mode, tile->n_cols);

    if (len != tile->n_tokens * row_bytes)
        return -EBADMSG;
    for (uint32_t i = 0; i < tile->n_tokens; i++, src += row_bytes, out += stride) {
        if (tile->mode == CODEC_F32)
            c->dsp.copy(out, src, row_bytes);
        else if (!c->dsp.from_f16(src, tile->n_cols, out))
            return -EBADMSG;
    }
    return 0;
}

/* Each row apart, in the mode tsq. */
static int read_tsq(const struct codec *c, const struct codec_tile *tile, const uint8_t *src,
                    const uint8_t *end, float *out, size_t stride)
{
    for (uint32_t i = 0; i < tile->n_tokens; i++, out += stride) {
        src = tsq_read(c->tsq, tile->n_cols, src, end, out);
        if (!src)
            return -EBADMSG;
    }
    return src == end ? 0 : -EBADMSG;
}

static int decode_tile(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token,
                       float *rows, size_t stride, uint32_t n_rows, struct codec_tile *tile_out)
{
    const uint8_t *end = src + len;
    enum tile_coding coding;
    struct codec_tile tile;
    float *out;
    int rc = tile_read(src, len, c->cols, &tile, &coding);

    if (rc < 0)
        return rc;
    if (tile.mode != c->params.mode && tile.mode != c->plain)
        return -EBADMSG;
    if (tile.first_token < base_token || tile.n_tokens > n_rows ||
        tile.first_token - base_token > n_rows - tile.n_tokens)
        return -EBADMSG;
    src += rc;
    out = rows + (tile.first_token - base_token) * stride + tile.first_col;
    if (codec_is_coded(tile.mode))
        rc = coded_decode(c->coded, &tile, coding, src, (size_t)(end - src), out, stride);
    else if (tile.mode == CODEC_TSQ)
        rc = read_tsq(c, &tile, src, end, out, stride);
    else
        rc = read_raw(c, &tile, src, (size_t)(end - src), out, stride);
    if (rc)
        return rc;
    if (tile_out)
        *tile_out = tile;
    return 0;
}

int codec_decode_later(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token,
                       float *rows, size_t stride, uint32_t n_rows, struct codec_tile *tile)
{
    const int rc = decode_tile(c, src, len, base_token, rows, stride, n_rows, tile);

    if (rc && c->coded)
        coded_decode_drop(c->coded);
    return rc;
}

int codec_decode_finish(struct codec *c)
{
    return c->coded ? coded_decode_finish(c->coded) : 0;
}

int codec_decode(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token, float *rows,
                 size_t stride, uint32_t n_rows, struct codec_tile *tile)
{
    const int rc = codec_decode_later(c, src, len, base_token, rows, stride, n_rows, tile);
    const int finished = codec_decode_finish(c);

    return rc ? rc : finished;
}
