/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tsq.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/dsp.h"

/* A part's head: width in bits 0..3, outlier form in 4..5, wide outliers in 6, bit 7 zero. */
#define PART_WIDTH    0x0fu
#define PART_FORM_AT  4
#define PART_FORM     0x3u
#define PART_WIDE     0x40u
#define PART_RESERVED 0x80u

#define PART_HEAD_BYTES 1u
#define PART_GRID_BYTES 3u /* unit u16, zero point u8 */

/* TAB-Q's norm counts a value as at most this many T: a giant in one channel (SmolLM2 has rows of
 * norm 24,000 around values of 100) would otherwise let everything else round to nothing. */
#define NORM_CAP 8.0

#define CHUNK 64u /* bytes copied at once, of codes */

struct tsq {
    struct codec_params params;
    const struct codec_dsp *dsp;
    /* one row's scratch */
    float *dense;    /* the row with zeros for outliers, padded */
    float *values;   /* of outliers */
    uint16_t *pos;   /* of outliers, padded */
    uint8_t *mask;   /* a bit a column, set for outliers; padded */
    uint8_t *codes;  /* padded, and a chunk */
    uint8_t *closed; /* codes of the dense columns only; as large */
    uint8_t *bits;   /* padded, and as much as pack and unpack go beyond */
};

/* --- open, close, sizes --- */

int tsq_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
             struct tsq **out)
{
    const size_t padded = CODEC_PAD_TO(cols);
    struct tsq *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->params = *p;
    t->dsp = dsp;
    t->dense = calloc(padded, sizeof(*t->dense));
    t->values = calloc(padded, sizeof(*t->values));
    t->pos = calloc(padded, sizeof(*t->pos));
    t->mask = calloc(padded / 8, 1);
    t->codes = calloc(padded + CHUNK, 1);
    t->closed = calloc(padded + CHUNK, 1);
    t->bits = calloc(padded + CODEC_PAD, 1);
    if (!t->dense || !t->values || !t->pos || !t->mask || !t->codes || !t->closed || !t->bits) {
        tsq_close(t);
        return -ENOMEM;
    }
    *out = t;
    return 0;
}

void tsq_close(struct tsq *t)
{
    if (!t)
        return;
    free(t->dense);
    free(t->values);
    free(t->pos);
    free(t->mask);
    free(t->codes);
    free(t->closed);
    free(t->bits);
    free(t);
}

void tsq_tune(struct tsq *t, const struct codec_params *p)
{
    t->params = *p;
}

/* The most a part of `cols` values takes when up to `outliers` of them are set aside. An f32
 * outlier costs more than a code, so the worst has as many outliers as may be. */
static size_t bound(uint32_t cols, uint32_t outliers, unsigned qmax)
{
    size_t dense = cols - outliers;

    return PART_HEAD_BYTES + (outliers ? (cols + 7) / 8 + 4 * (size_t)outliers : 0) +
           (dense ? PART_GRID_BYTES + (dense * qmax + 7) / 8 : 0);
}

/* Of a whole row, fewer than cols / tau values exceed tau times the mean (and a little room for its
 * rounding: a lane sums up to 512 values). */
static uint32_t row_outliers_max(const struct codec_params *p, uint32_t cols)
{
    double most = (double)cols / (double)p->tau * (1.0 + 0x1p-14);

    return p->tau_rule == CODEC_TAU_MEAN && most < (double)cols ? (uint32_t)most : cols;
}

size_t tsq_row_bound(const struct codec_params *p, uint32_t cols)
{
    return bound(cols, row_outliers_max(p, cols), p->qmax);
}

size_t tsq_part_bound(const struct codec_params *p, uint32_t cols)
{
    return bound(cols, cols, p->qmax);
}

/* --- encode --- */

/* Also of rows that f32 is too small for. */
static double sum_abs(const struct tsq *t, const float *row, uint32_t cols)
{
    double sum = (double)t->dsp->sum_abs(row, cols);

    if (isfinite(sum))
        return sum;
    sum = 0.0;
    for (uint32_t i = 0; i < cols; i++)
        sum += fabs((double)row[i]);
    return sum;
}

int tsq_limit(const struct tsq *t, const float *row, uint32_t cols, float *limit)
{
    const double sum = sum_abs(t, row, cols);

    if (!isfinite(sum))
        return -EDOM;
    *limit = t->params.tau_rule == CODEC_TAU_MEAN ? (float)((double)t->params.tau * (sum / cols))
                                                  : t->params.tau;
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

void tsq_plan(struct tsq *t, const float *x, uint32_t cols, float limit, struct tsq_part *part)
{
    struct codec_span span;
    const size_t n = t->dsp->split(x, cols, limit, t->dense, t->mask, &span);

    part->cols = cols;
    part->n_dense = cols - (uint32_t)n;
    codec_outliers_find(x, cols, t->mask, t->pos, t->values);
    codec_outliers_plan(cols, t->pos, t->values, n, &part->outliers);
    codec_grid_choose(t->dsp, &t->params, t->dense, cols, &span, n,
                      capped_sq(t->values, n, NORM_CAP * (double)limit), &part->grid, t->codes);
    part->bytes = PART_HEAD_BYTES + part->outliers.bytes;
    if (part->grid.width)
        part->bytes += PART_GRID_BYTES + ((size_t)part->n_dense * part->grid.width + 7) / 8;
}

/* The codes of the columns that are no outliers, closed up in t->closed. A run between outliers is
 * copied in whole chunks: what is too much is overwritten by the next. */
static void close_up(struct tsq *t, uint32_t cols, uint32_t n_outliers)
{
    uint8_t *dst = t->closed;
    uint32_t col = 0;

    for (uint32_t i = 0; i <= n_outliers; i++) {
        const uint32_t end = i < n_outliers ? t->pos[i] : cols;
        for (uint32_t k = col; k < end; k += CHUNK)
            memcpy(dst + (k - col), t->codes + k, CHUNK);
        dst += end - col;
        col = end + 1;
    }
}

void tsq_write(struct tsq *t, const struct tsq_part *part, uint8_t *dst, size_t room)
{
    const struct codec_grid *g = &part->grid;
    const uint8_t *end = dst + part->bytes;
    const bool roomy = room - part->bytes >= CODEC_PAD; /* kernels write a little more */

    *dst++ = (uint8_t)(g->width | (unsigned)part->outliers.form << PART_FORM_AT |
                       (part->outliers.wide ? PART_WIDE : 0));
    dst = codec_outliers_write(t->dsp, &part->outliers, part->cols, t->pos, t->values, dst);
    if (!g->width)
        return;
    *dst++ = (uint8_t)g->scale;
    *dst++ = (uint8_t)(g->scale >> 8);
    *dst++ = g->zero;
    close_up(t, part->cols, part->outliers.n);
    memset(t->closed + part->n_dense, 0, CODEC_PAD_TO(part->n_dense) - part->n_dense);
    t->dsp->pack(t->closed, part->n_dense, g->width, roomy ? dst : t->bits);
    if (!roomy)
        memcpy(dst, t->bits, (size_t)(end - dst));
}

/* --- decode --- */

/* n codes of `width` bits in `bytes` bytes at src. Kernels read a little more than that, which is
 * the tile's too except at its end. */
static void unpack_codes(struct tsq *t, unsigned width, size_t n, const uint8_t *src,
                         const uint8_t *end)
{
    const size_t bytes = (n * width + 7) / 8;

    if ((size_t)(end - src) - bytes < CODEC_PAD)
        src = memcpy(t->bits, src, bytes);
    t->dsp->unpack(src, n, width, t->codes);
}

/* The n dense values of a part to the columns of out that t->mask leaves them; returns the end of
 * their bytes, or NULL. */
static const uint8_t *read_dense(struct tsq *t, unsigned width, uint32_t cols, uint32_t n,
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
    unpack_codes(t, width, n, src, end);
    t->dsp->dequantize(t->codes, t->mask, cols, &g, out);
    return src + bytes;
}

const uint8_t *tsq_read(struct tsq *t, uint32_t cols, const uint8_t *src, const uint8_t *end,
                        float *out)
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
    memset(t->mask, 0, CODEC_PAD_TO(cols) / 8);
    src = codec_outliers_read(t->dsp, &outliers, cols, src, end, t->pos, t->mask, t->values);
    if (!src)
        return NULL;
    src = read_dense(t, head & PART_WIDTH, cols, cols - outliers.n, src, end, out);
    if (!src)
        return NULL;
    for (uint32_t i = 0; i < outliers.n; i++)
        out[t->pos[i]] = t->values[i];
    return src;
}
