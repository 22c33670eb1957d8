/* SPDX-License-Identifier: Apache-2.0 */
/* Rows into tiles and back: which rows and columns a tile takes, and the steps in order. */
#include "codec/codec.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/f16.h"
#include "codec/outlier.h"
#include "codec/tabq.h"
#include "codec/tile.h"

/* TAB-Q's norm counts a value as at most this many T: a giant in one channel (SmolLM2 has rows of
 * norm 24,000 around values of 100) would otherwise let everything else round to nothing. */
#define NORM_CAP 8.0

struct codec {
    struct codec_params params;
    struct codec_dsp dsp;
    uint32_t cols;
    /* one row's scratch */
    float *dense;   /* the row with zeros for outliers, padded */
    float *values;  /* of outliers */
    uint16_t *pos;  /* of outliers, padded */
    uint8_t *mask;  /* a bit a column, set for outliers; padded */
    uint8_t *codes; /* padded */
    uint8_t *bits;  /* padded */
};

/* One row part, looked at and not yet written. Its codes and outliers are in the codec's scratch.
 */
struct part {
    const float *x;
    uint32_t cols;
    size_t bytes;
    uint32_t n_dense;
    struct codec_outliers outliers;
    struct codec_grid grid;
};

/* --- open, close --- */

int codec_open(const struct codec_params *p, uint32_t cols, struct codec **out)
{
    const size_t padded = CODEC_PAD_TO(cols);
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
    c->cols = cols;
    codec_dsp_init(&c->dsp, cpu_flags());
    c->dense = calloc(padded, sizeof(*c->dense));
    c->values = calloc(padded, sizeof(*c->values));
    c->pos = calloc(padded, sizeof(*c->pos));
    c->mask = calloc(padded / 8, 1);
    c->codes = calloc(padded, 1);
    c->bits = calloc(padded, 1);
    if (!c->dense || !c->values || !c->pos || !c->mask || !c->codes || !c->bits) {
        codec_close(c);
        return -ENOMEM;
    }
    *out = c;
    return 0;
}

void codec_close(struct codec *c)
{
    if (!c)
        return;
    free(c->dense);
    free(c->values);
    free(c->pos);
    free(c->mask);
    free(c->codes);
    free(c->bits);
    free(c);
}

/* --- encode --- */

/* Also of rows that f32 is too small for. */
static double sum_abs(const struct codec *c, const float *row)
{
    double sum = (double)c->dsp.sum_abs(row, c->cols);

    if (isfinite(sum))
        return sum;
    sum = 0.0;
    for (uint32_t i = 0; i < c->cols; i++)
        sum += fabs((double)row[i]);
    return sum;
}

/* T of a whole row; -EDOM when a value is not finite. */
static int row_limit(const struct codec *c, const float *row, float *limit)
{
    double sum;

    *limit = c->params.tau;
    if (c->params.mode != CODEC_TSQ)
        return 0;
    sum = sum_abs(c, row);
    if (!isfinite(sum))
        return -EDOM;
    if (c->params.tau_rule == CODEC_TAU_MEAN)
        *limit = (float)((double)c->params.tau * (sum / c->cols));
    return 0;
}

/* Squared norm, no value counted as more than cap. Four sums, because each waits for its last. */
static double capped_sq(const float *values, size_t n, double cap)
{
    double sum[4] = {0};

    for (size_t i = 0; i < n; i++) {
        const double v = fabs((double)values[i]);
        sum[i % 4] += v < cap ? v * v : cap * cap;
    }
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* Set outliers aside, choose the grid of the rest and quantize it. */
static void part_plan_tsq(struct codec *c, float limit, struct part *part)
{
    struct codec_span span;
    const size_t n = c->dsp.split(part->x, part->cols, limit, c->dense, c->mask, &span);

    part->n_dense = part->cols - (uint32_t)n;
    codec_outliers_find(part->x, part->cols, c->mask, c->pos, c->values);
    codec_outliers_plan(part->cols, c->pos, c->values, n, &part->outliers);
    codec_grid_choose(&c->dsp, &c->params, c->dense, part->cols, &span, n,
                      capped_sq(c->values, n, NORM_CAP * (double)limit), &part->grid, c->codes);
    part->bytes = PART_HEAD_BYTES + part->outliers.bytes;
    if (part->grid.width)
        part->bytes += PART_GRID_BYTES + ((size_t)part->n_dense * part->grid.width + 7) / 8;
}

static void part_plan(struct codec *c, const float *x, uint32_t cols, float limit,
                      struct part *part)
{
    part->x = x;
    part->cols = cols;
    if (c->params.mode == CODEC_TSQ)
        part_plan_tsq(c, limit, part);
    else
        part->bytes = codec_raw_bytes(c->params.mode, cols);
}

/* room: bytes at dst, part->bytes at least. */
static void part_write_tsq(struct codec *c, const struct part *part, uint8_t *dst, size_t room)
{
    const struct codec_grid *g = &part->grid;
    const uint8_t *end = dst + part->bytes;
    const bool roomy = room - part->bytes >= CODEC_PAD; /* kernels write a little more */

    *dst++ = (uint8_t)(g->width | (unsigned)part->outliers.form << PART_FORM_AT |
                       (part->outliers.wide ? PART_WIDE : 0));
    dst = codec_outliers_write(&c->dsp, &part->outliers, part->cols, c->pos, c->values, dst);
    if (!g->width)
        return;
    *dst++ = (uint8_t)g->scale;
    *dst++ = (uint8_t)(g->scale >> 8);
    *dst++ = g->zero;
    if (part->outliers.n)
        c->dsp.close_up(c->codes, c->mask, part->cols);
    memset(c->codes + part->n_dense, 0, CODEC_PAD_TO(part->n_dense) - part->n_dense);
    c->dsp.pack(c->codes, part->n_dense, g->width, roomy ? dst : c->bits);
    if (!roomy)
        memcpy(dst, c->bits, (size_t)(end - dst));
}

/* part->bytes at dst, which has room bytes. -EDOM when mode f16 cannot hold a value. */
static int part_write(struct codec *c, const struct part *part, uint8_t *dst, size_t room)
{
    switch (c->params.mode) {
    case CODEC_F32:
        c->dsp.copy(dst, part->x, part->bytes);
        return 0;
    case CODEC_F16:
        return c->dsp.to_f16(part->x, part->cols, dst) ? 0 : -EDOM;
    case CODEC_TSQ:
        break;
    }
    part_write_tsq(c, part, dst, room);
    return 0;
}

/* Part i of a row cut into `parts` equal ranges (their widths differ by one at most). */
static uint32_t cut_at(uint32_t cols, uint32_t parts, uint32_t i)
{
    return (uint32_t)((uint64_t)cols * i / parts);
}

static bool cut_fits(struct codec *c, const float *row, float limit, uint32_t parts, size_t room)
{
    struct part part;

    for (uint32_t i = 0; i < parts; i++) {
        uint32_t first = cut_at(c->cols, parts, i);
        part_plan(c, row + first, cut_at(c->cols, parts, i + 1) - first, limit, &part);
        if (part.bytes > room)
            return false;
    }
    return true;
}

/* One part of a row that is longer than a packet, as a tile of its own. */
static int encode_cut(struct codec *c, const float *row, float limit, struct codec_cursor *at,
                      uint8_t *dst, size_t room, struct codec_tile *tile, struct part *part)
{
    uint32_t parts = 2, i = 0;
    int rc;

    while (!cut_fits(c, row, limit, parts, room)) /* ends: parts of CUT_COLS fit any capacity */
        parts++;
    while (i < parts && cut_at(c->cols, parts, i) != at->col)
        i++;
    if (i == parts)
        return -EINVAL;
    tile->first_col = at->col;
    tile->n_cols = cut_at(c->cols, parts, i + 1) - at->col;
    part_plan(c, row + tile->first_col, tile->n_cols, limit, part);
    rc = part_write(c, part, dst, room);
    if (rc)
        return rc;
    *at = i + 1 < parts ? (struct codec_cursor){at->row, at->col + tile->n_cols}
                        : (struct codec_cursor){at->row + 1, 0};
    return 0;
}

static void name_bad_value(const struct codec *c, const float *row, uint32_t token,
                           struct codec_stats *stats)
{
    const float edge = c->params.mode == CODEC_F16 ? F16_OVERFLOW : INFINITY;
    uint32_t col = 0;

    while (fabsf(row[col]) < edge)
        col++;
    stats->bad_token = token;
    stats->bad_col = col;
}

static void count_part(struct codec_stats *stats, const struct codec *c, const struct part *part)
{
    stats->values += part->cols;
    if (c->params.mode != CODEC_TSQ)
        return;
    stats->outliers += part->outliers.n;
    stats->rows_by_width[part->grid.width]++;
}

static void add_stats(struct codec_stats *stats, const struct codec_stats *call)
{
    stats->rows += call->rows;
    stats->values += call->values;
    stats->bytes += call->bytes;
    stats->outliers += call->outliers;
    for (unsigned i = 0; i < sizeof(call->rows_by_width) / sizeof(call->rows_by_width[0]); i++)
        stats->rows_by_width[i] += call->rows_by_width[i];
}

int codec_encode(struct codec *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats)
{
    struct codec_stats call = {0};
    struct codec_cursor next = *at;
    struct codec_tile tile = {.mode = c->params.mode, .n_cols = c->cols};
    const float *row = NULL;
    size_t bytes = TILE_HEADER_BYTES;
    struct part part;
    float limit;
    int rc = 0;

    if (at->row >= n_rows || at->col >= c->cols || first_token > UINT32_MAX - (n_rows - 1))
        return -EINVAL;
    if (capacity < codec_min_capacity(&c->params, c->cols))
        return -ENOSPC;
    tile.first_token = first_token + at->row;
    while (next.row < n_rows && next.col == 0 && tile.n_tokens < CODEC_ROWS_MAX) {
        row = rows + next.row * stride;
        rc = row_limit(c, row, &limit);
        if (rc)
            goto out;
        part_plan(c, row, c->cols, limit, &part);
        if (part.bytes > capacity - bytes)
            break;
        rc = part_write(c, &part, dst + bytes, capacity - bytes);
        if (rc)
            goto out;
        count_part(&call, c, &part);
        bytes += part.bytes;
        tile.n_tokens++;
        next.row++;
    }
    if (tile.n_tokens == 0) {
        row = rows + next.row * stride;
        rc = row_limit(c, row, &limit);
        if (!rc)
            rc = encode_cut(c, row, limit, &next, dst + bytes, capacity - bytes, &tile, &part);
        if (rc)
            goto out;
        count_part(&call, c, &part);
        bytes += part.bytes;
        tile.n_tokens = 1;
    }
    codec_tile_write(&tile, dst);
    call.rows = next.row - at->row;
    call.bytes = bytes;
    if (stats)
        add_stats(stats, &call);
    *at = next;
    return (int)bytes;
out:
    if (rc == -EDOM && stats)
        name_bad_value(c, row, first_token + next.row, stats);
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

/* n codes of `width` bits in `bytes` bytes at src. Kernels read a little more than that, which is
 * the tile's too except at its end. */
static void unpack_codes(struct codec *c, unsigned width, size_t n, const uint8_t *src,
                         const uint8_t *end)
{
    const size_t bytes = (n * width + 7) / 8;

    if ((size_t)(end - src) - bytes < CODEC_PAD)
        src = memcpy(c->bits, src, bytes);
    c->dsp.unpack(src, n, width, c->codes);
}

/* The n dense values of a part to the columns of out that c->mask leaves them; returns the end of
 * their bytes, or NULL. */
static const uint8_t *read_dense(struct codec *c, unsigned width, uint32_t cols, uint32_t n,
                                 const uint8_t *src, const uint8_t *end, float *out)
{
    const size_t bytes = ((size_t)n * width + 7) / 8;
    struct codec_grid g;

    if (width == 0) {
        memset(out, 0, cols * sizeof(*out));
        return src;
    }
    if (width > CODEC_QMAX || n == 0 || (size_t)(end - src) < PART_GRID_BYTES + bytes)
        return NULL;
    if (codec_grid_read(&g, width, (uint16_t)(src[0] | src[1] << 8), src[2]))
        return NULL;
    src += PART_GRID_BYTES;
    if (n * width % 8 && src[bytes - 1] >> n * width % 8)
        return NULL;
    unpack_codes(c, width, n, src, end);
    c->dsp.dequantize(c->codes, c->mask, cols, &g, out);
    return src + bytes;
}

static const uint8_t *read_part_tsq(struct codec *c, uint32_t cols, const uint8_t *src,
                                    const uint8_t *end, float *out)
{
    struct codec_outliers outliers = {0};
    uint8_t head;

    if (src == end)
        return NULL;
    head = *src++;
    if (head & PART_RESERVED)
        return NULL;
    outliers.wide = head & PART_WIDE;
    outliers.form = (enum outlier_form)(head >> PART_FORM_AT & PART_FORM);
    if (outliers.form > OUTLIERS_BITMAP)
        return NULL;
    memset(c->mask, 0, CODEC_PAD_TO(cols) / 8);
    src = codec_outliers_read(&c->dsp, &outliers, cols, src, end, c->pos, c->mask, c->values);
    if (!src)
        return NULL;
    src = read_dense(c, head & PART_WIDTH, cols, cols - outliers.n, src, end, out);
    if (!src)
        return NULL;
    for (uint32_t i = 0; i < outliers.n; i++)
        out[c->pos[i]] = c->values[i];
    return src;
}

int codec_decode(struct codec *c, const uint8_t *src, size_t len, uint32_t base_token, float *rows,
                 size_t stride, uint32_t n_rows, struct codec_tile *tile_out)
{
    const uint8_t *end = src + len;
    struct codec_tile tile;
    float *out;
    int rc = codec_peek(src, len, &tile);

    if (rc)
        return rc;
    if (tile.mode != c->params.mode || tile.n_cols > c->cols ||
        tile.first_col > c->cols - tile.n_cols)
        return -EBADMSG;
    if (tile.first_token < base_token || tile.n_tokens > n_rows ||
        tile.first_token - base_token > n_rows - tile.n_tokens)
        return -EBADMSG;
    src += TILE_HEADER_BYTES;
    out = rows + (tile.first_token - base_token) * stride + tile.first_col;
    if (tile.mode != CODEC_TSQ) {
        rc = read_raw(c, &tile, src, (size_t)(end - src), out, stride);
        if (rc)
            return rc;
    } else {
        for (uint32_t i = 0; i < tile.n_tokens; i++, out += stride) {
            src = read_part_tsq(c, tile.n_cols, src, end, out);
            if (!src)
                return -EBADMSG;
        }
        if (src != end)
            return -EBADMSG;
    }
    if (tile_out)
        *tile_out = tile;
    return 0;
}
