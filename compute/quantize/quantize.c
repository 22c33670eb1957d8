/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/quantize/quantize.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "codec/f16.h"
#include "compute/quantize/impl.h"
#include "compute/team.h"

#define MOMENTS_DAMP    .01f   /* of the second moments: they are an estimate */
#define SPARSE_COLS_MAX 65536u /* columns of exact weights are u16 */
#define ROUNDS          2u     /* of feedback, descent, refit */
#define SWEEPS          2u     /* of descent, at most */

/* --- results --------------------------------------------------------------------------------- */

void quantized_free(struct quantized *q)
{
    free(q->blocks);
    free(q->codes);
    free(q->lut);
    free(q->scale);
    free(q->min);
    free(q->sp_rows);
    free(q->sp_cols);
    free(q->sp_values);
    *q = (struct quantized){0};
}

size_t quantized_bytes(const struct quantized *q)
{
    const size_t rows = q->n_rows;
    size_t bytes = q->blocks_bytes;

    if (q->codes)
        bytes += rows * q->n_cols * q->scheme.bits / 8;
    if (q->lut)
        bytes += (rows << q->scheme.bits) * sizeof(*q->lut);
    if (q->scale)
        bytes += 2 * rows * q->n_groups * sizeof(*q->scale);
    if (q->n_sparse)
        bytes += (rows + 1) * sizeof(*q->sp_rows) +
                 (size_t)q->n_sparse * (sizeof(*q->sp_cols) + sizeof(*q->sp_values));
    return bytes;
}

static void row_values(const struct quantized *q, uint32_t r, uint8_t *codes, float *values)
{
    const size_t bytes = (size_t)q->n_cols * q->scheme.bits / 8;

    codes_unpack(q->codes + r * bytes, q->n_cols, q->scheme.bits, codes);
    for (uint32_t i = 0; i < q->n_cols; i++)
        if (q->lut) {
            values[i] = f32_from_f16(q->lut[((size_t)r << q->scheme.bits) + codes[i]]);
        } else {
            const size_t group = (size_t)r * q->n_groups + i / q->scheme.group;
            values[i] =
                f32_from_f16(q->scale[group]) * (float)codes[i] + f32_from_f16(q->min[group]);
        }
    for (uint32_t i = q->n_sparse ? q->sp_rows[r] : 0; q->n_sparse && i < q->sp_rows[r + 1]; i++)
        values[q->sp_cols[i]] += f32_from_f16(q->sp_values[i]);
}

int quantized_values(const struct quantized *q, float *values)
{
    if (q->blocks) {
        const enum qtype type = q->scheme.kind == QUANTIZE_F16 ? QTYPE_F16 : q->scheme.type;
        qtype_dequantize(type, q->blocks, values, (size_t)q->n_rows * q->n_cols);
        return 0;
    }
    uint8_t *codes = malloc(q->n_cols);
    if (!codes)
        return -ENOMEM;
    for (uint32_t r = 0; r < q->n_rows; r++)
        row_values(q, r, codes, values + (size_t)r * q->n_cols);
    free(codes);
    return 0;
}

/* --- a tile at a time ------------------------------------------------------------------------ */

struct task {
    const struct quantize_input *in;
    struct quantized *out;
    struct hessian h;
    bool *exact;      /* NULL: none */
    double *error;    /* [n_rows] */
    atomic_uint next; /* tile */
    atomic_int rc;
};

/* One thread's arrays. */
struct bench {
    struct cluster *cluster;
    struct cluster_point *points;
    struct grid grids[TILE_ROWS];
    struct tile tile;
    float *tables; /* [TILE_ROWS][room] of the grids */
    size_t room;
    /* the best so far */
    double best[TILE_ROWS];
    uint8_t *best_codes;
    float *best_q, *best_tables;
};

static size_t table_room(const struct quantize_scheme *s, uint32_t n_cols)
{
    return s->kind == QUANTIZE_LEVELS ? (size_t)1 << s->bits
                                      : 2 * (size_t)((n_cols + s->group - 1) / s->group);
}

static int bench_open(struct bench *b, const struct task *k)
{
    const uint32_t n = k->in->n_cols;
    const size_t values = (size_t)TILE_ROWS * n;
    struct tile *t = &b->tile;

    *b = (struct bench){.room = table_room(&k->out->scheme, n)};
    *t = (struct tile){.h = &k->h, .n = n, .grids = b->grids};
    b->cluster = cluster_open(n);
    b->points = malloc(n * sizeof(*b->points));
    b->tables = malloc(TILE_ROWS * b->room * sizeof(*b->tables));
    b->best_tables = malloc(TILE_ROWS * b->room * sizeof(*b->best_tables));
    b->best_codes = malloc(values);
    b->best_q = malloc(values * sizeof(*b->best_q));
    t->codes = malloc(values);
    t->q = malloc(values * sizeof(*t->q));
    t->moved = malloc(values * sizeof(*t->moved));
    t->step = malloc(values * sizeof(*t->step));
    t->grad = malloc(values * sizeof(*t->grad));
    t->error = malloc(TILE_ROWS * sizeof(*t->error));
    for (uint32_t r = 0; r < TILE_ROWS && b->tables; r++) {
        float *table = b->tables + r * b->room;
        b->grids[r] = (struct grid){
            .scheme = &k->out->scheme, .levels = table, .scale = table, .min = table + b->room / 2};
    }
    return b->cluster && b->points && b->tables && b->best_tables && b->best_codes && b->best_q &&
                   t->codes && t->q && t->moved && t->step && t->grad && t->error
               ? 0
               : -ENOMEM;
}

static void bench_close(struct bench *b)
{
    struct tile *t = &b->tile;

    cluster_close(b->cluster);
    free(b->points);
    free(b->tables);
    free(b->best_tables);
    free(b->best_codes);
    free(b->best_q);
    free(t->codes);
    free(t->q);
    free(t->moved);
    free(t->step);
    free(t->grad);
    free(t->error);
}

static void start_grid(struct bench *b, uint32_t r)
{
    struct tile *t = &b->tile;
    const float *w = t->w + (size_t)r * t->n;
    struct grid *g = &b->grids[r];
    uint32_t n = 0;

    if (g->scheme->kind == QUANTIZE_GROUPS) {
        groups_search(w, t->h->diag, t->n, g);
        return;
    }
    for (uint32_t i = 0; i < t->n; i++)
        if (!tile_exact(t, (size_t)r * t->n + i))
            b->points[n++] = (struct cluster_point){w[i], t->h->diag[i]};
    const unsigned k = 1u << g->scheme->bits;
    cluster_levels(b->cluster, b->points, n, k, g->levels);
    for (unsigned i = 0; i < k; i++)
        g->levels[i] = grid_round(g->levels[i]);
}

/* Rows that are better than they ever were. */
static void keep_best(struct bench *b)
{
    const struct tile *t = &b->tile;
    const size_t n = t->n;

    for (uint32_t r = 0; r < t->rows; r++) {
        if (!(t->error[r] < b->best[r]))
            continue;
        b->best[r] = t->error[r];
        memcpy(b->best_codes + r * n, t->codes + r * n, n);
        memcpy(b->best_q + r * n, t->q + r * n, n * sizeof(*t->q));
        memcpy(b->best_tables + r * b->room, b->tables + r * b->room, b->room * sizeof(*b->tables));
    }
}

static int improve(struct bench *b)
{
    struct tile *t = &b->tile;
    int rc = 0;

    for (uint32_t r = 0; r < t->rows; r++) {
        start_grid(b, r);
        b->best[r] = INFINITY;
    }
    for (unsigned round = 0; round < ROUNDS && rc == 0; round++) {
        tile_feedback(t);
        tile_measure(t);
        tile_descend(t, SWEEPS);
        tile_measure(t);
        keep_best(b);
        rc = tile_refit(t);
        tile_measure(t);
        tile_descend(t, SWEEPS);
        tile_measure(t);
        keep_best(b);
        if (rc == 0 && round + 1 < ROUNDS)
            rc = tile_refit(t);
    }
    return rc;
}

static void store_row(const struct task *k, const struct bench *b, uint32_t first, uint32_t r)
{
    struct quantized *out = k->out;
    const struct quantize_scheme *s = &out->scheme;
    const size_t n = out->n_cols, row = first + r, codes_bytes = n * s->bits / 8;
    const float *table = b->best_tables + r * b->room;
    uint8_t *codes = b->best_codes + r * n;
    const float *q = b->best_q + r * n;
    const struct grid g = {.scheme = s,
                           .levels = (float *)(uintptr_t)table,
                           .scale = (float *)(uintptr_t)table,
                           .min = (float *)(uintptr_t)table + b->room / 2};

    uint32_t at = out->n_sparse ? out->sp_rows[row] : 0;
    for (uint32_t i = 0; i < n && out->n_sparse; i++) {
        float value;
        if (!k->exact[row * n + i])
            continue;
        codes[i] = (uint8_t)grid_nearest(&g, i, q[i], &value);
        out->sp_cols[at] = (uint16_t)i;
        out->sp_values[at++] = f16_from_f32(grid_round(q[i] - value));
    }
    codes_pack(codes, (uint32_t)n, s->bits, out->codes + row * codes_bytes);
    if (s->kind == QUANTIZE_LEVELS) {
        for (unsigned i = 0; i < 1u << s->bits; i++)
            out->lut[(row << s->bits) + i] = f16_from_f32(table[i]);
        return;
    }
    for (uint32_t i = 0; i < out->n_groups; i++) {
        out->scale[row * out->n_groups + i] = f16_from_f32(g.scale[i]);
        out->min[row * out->n_groups + i] = f16_from_f32(g.min[i]);
    }
}

static void work_tiles(void *arg, unsigned part, unsigned parts)
{
    struct task *k = arg;
    const uint32_t n_rows = k->in->n_rows, tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    struct bench b;
    int rc = bench_open(&b, k);

    for (unsigned i = k->next++; i < tiles && rc == 0; i = k->next++) {
        const uint32_t first = i * TILE_ROWS;
        struct tile *t = &b.tile;

        t->rows = n_rows - first < TILE_ROWS ? n_rows - first : TILE_ROWS;
        t->w = k->in->w + (size_t)first * t->n;
        t->exact = k->exact ? k->exact + (size_t)first * t->n : NULL;
        rc = improve(&b);
        for (uint32_t r = 0; r < t->rows && rc == 0; r++) {
            if (!isfinite(b.best[r])) {
                rc = -EDOM;
                break;
            }
            store_row(k, &b, first, r);
            k->error[first + r] = b.best[r];
        }
    }
    bench_close(&b);
    if (rc)
        k->rc = rc;
}

/* --- a matrix -------------------------------------------------------------------------------- */

static int place_exact(struct task *k)
{
    const struct quantize_input *in = k->in;
    struct quantized *out = k->out;
    const size_t count = quantize_n_sparse(&out->scheme, in->n_rows, in->n_cols);

    if (count == 0)
        return 0;
    k->exact = exact_choose(in->w, k->h.diag, in->n_rows, in->n_cols, count);
    out->sp_rows = malloc(((size_t)in->n_rows + 1) * sizeof(*out->sp_rows));
    out->sp_cols = malloc(count * sizeof(*out->sp_cols));
    out->sp_values = malloc(count * sizeof(*out->sp_values));
    if (!k->exact || !out->sp_rows || !out->sp_cols || !out->sp_values)
        return -ENOMEM;
    out->n_sparse = (uint32_t)count;
    out->sp_rows[0] = 0;
    for (size_t r = 0; r < in->n_rows; r++) {
        uint32_t n = 0;
        for (size_t i = 0; i < in->n_cols; i++)
            n += k->exact[r * in->n_cols + i];
        out->sp_rows[r + 1] = out->sp_rows[r] + n;
    }
    return 0;
}

static int alloc_codes(struct task *k)
{
    struct quantized *out = k->out;
    const struct quantize_scheme *s = &out->scheme;
    const size_t rows = out->n_rows;

    out->codes = malloc(rows * out->n_cols * s->bits / 8);
    k->error = calloc(rows, sizeof(*k->error));
    if (s->kind == QUANTIZE_LEVELS) {
        out->lut = malloc((rows << s->bits) * sizeof(*out->lut));
    } else {
        out->n_groups = (out->n_cols + s->group - 1) / s->group;
        out->scale = malloc(rows * out->n_groups * sizeof(*out->scale));
        out->min = malloc(rows * out->n_groups * sizeof(*out->min));
    }
    return out->codes && k->error && (out->lut || (out->scale && out->min)) ? 0 : -ENOMEM;
}

/* What w would lose if it were 0: to count the error in. */
static double energy(const struct hessian *h, const float *w, uint32_t n_rows)
{
    const size_t n = h->n;
    double sum = 0;

    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i++)
            sum += (double)(w[r * n + i] * w[r * n + i] * h->diag[i]);
    return sum;
}

static int feed_back(struct team *team, const struct quantize_input *in, struct quantized *out)
{
    struct task k = {.in = in, .out = out};
    double error = 0;
    int rc = hessian_open(in->moments, in->n_cols, MOMENTS_DAMP, &k.h);

    if (rc == 0)
        rc = alloc_codes(&k);
    if (rc == 0)
        rc = place_exact(&k);
    if (rc == 0) {
        team_run(team, work_tiles, &k);
        rc = k.rc;
    }
    for (uint32_t r = 0; r < in->n_rows && rc == 0; r++)
        error += k.error[r];
    if (rc == 0) {
        const double all = energy(&k.h, in->w, in->n_rows);
        out->error = all > 0 ? error / all : 0;
    }
    free(k.exact);
    free(k.error);
    hessian_close(&k.h);
    return rc;
}

/* --- blocks ---------------------------------------------------------------------------------- */

struct blocks_task {
    const struct quantize_input *in;
    struct quantized *out;
    enum qtype type;
    float *weight; /* [n_cols]; NULL: alike */
};

static void work_blocks(void *arg, unsigned part, unsigned parts)
{
    const struct blocks_task *k = arg;
    const size_t n = k->in->n_cols, bytes = k->out->blocks_bytes / k->in->n_rows;
    size_t from, to;

    team_share(k->in->n_rows, 1, part, parts, &from, &to);
    for (size_t r = from; r < to; r++)
        blocks_encode(k->type, k->in->w + r * n, k->weight, (uint32_t)n,
                      k->out->blocks + r * bytes);
}

/* The diagonal's share of the error. */
static int blocks_error(const struct blocks_task *k)
{
    const size_t n = k->in->n_cols;
    const struct qtype_info *info = qtype_info(k->type);
    const size_t bytes = n / info->block_values * info->block_bytes;
    float *row = malloc(n * sizeof(*row));
    double sum = 0, all = 0;

    if (!row)
        return -ENOMEM;
    for (size_t r = 0; r < k->in->n_rows; r++) {
        const float *w = k->in->w + r * n;

        qtype_dequantize(k->type, k->out->blocks + r * bytes, row, n);
        for (size_t i = 0; i < n; i++) {
            const double weight = k->weight ? (double)k->weight[i] : 1, d = (double)(row[i] - w[i]);
            sum += weight * d * d;
            all += weight * (double)w[i] * (double)w[i];
        }
    }
    free(row);
    k->out->error = all > 0 ? sum / all : 0;
    return isfinite(sum) ? 0 : -EDOM;
}

static int encode_blocks(struct team *team, const struct quantize_input *in, struct quantized *out)
{
    const enum qtype type = out->scheme.kind == QUANTIZE_F16 ? QTYPE_F16 : out->scheme.type;
    const struct qtype_info *info = qtype_info(type);
    struct blocks_task k = {.in = in, .out = out, .type = type};
    int rc = 0;

    if (in->n_cols % info->block_values)
        return -EINVAL;
    out->blocks_bytes = (size_t)in->n_rows * (in->n_cols / info->block_values) * info->block_bytes;
    out->blocks = malloc(out->blocks_bytes);
    if (in->moments)
        k.weight = malloc(in->n_cols * sizeof(*k.weight));
    if (!out->blocks || (in->moments && !k.weight))
        rc = -ENOMEM;
    for (size_t i = 0; i < in->n_cols && k.weight && rc == 0; i++)
        k.weight[i] = in->moments[i * in->n_cols + i];
    if (rc == 0) {
        team_run(team, work_blocks, &k);
        rc = blocks_error(&k);
    }
    free(k.weight);
    return rc;
}

/* --- all kinds ------------------------------------------------------------------------------- */

const char *quantize_scheme_refuses(const struct quantize_scheme *s, uint32_t n_cols)
{
    if (s->kind == QUANTIZE_KEEP)
        return NULL;
    if (n_cols == 0 || n_cols % 32)
        return "they must be a multiple of 32";
    if (s->kind == QUANTIZE_BLOCKS && n_cols % qtype_info(s->type)->block_values)
        return "they are not whole blocks";
    if ((s->kind == QUANTIZE_GROUPS || s->kind == QUANTIZE_LEVELS) && s->sparse > 0 &&
        n_cols > SPARSE_COLS_MAX)
        return "its exact weights are numbered up to column 65535: --sparse 0";
    return NULL;
}

static bool possible(const struct quantize_input *in, const struct quantize_scheme *s)
{
    if (in->n_rows == 0 || quantize_scheme_refuses(s, in->n_cols))
        return false;
    switch (s->kind) {
    case QUANTIZE_BLOCKS:
    case QUANTIZE_F16:
        return true;
    case QUANTIZE_GROUPS:
        if (s->group == 0 || s->group % 32)
            return false;
        break;
    case QUANTIZE_LEVELS:
        break;
    case QUANTIZE_KEEP:
        return false;
    }
    return in->moments && s->bits >= 2 && s->bits <= 4 && s->sparse >= 0 &&
           s->sparse <= QUANTIZE_SPARSE_MAX;
}

int quantize_matrix(struct team *team, const struct quantize_input *in,
                    const struct quantize_scheme *scheme, struct quantized *out)
{
    *out = (struct quantized){.scheme = *scheme, .n_rows = in->n_rows, .n_cols = in->n_cols};
    if (!possible(in, scheme))
        return -EINVAL;
    for (size_t i = 0; i < (size_t)in->n_rows * in->n_cols; i++)
        if (!isfinite(in->w[i]))
            return -EDOM;
    if (scheme->kind == QUANTIZE_BLOCKS || scheme->kind == QUANTIZE_F16)
        return encode_blocks(team, in, out);
    return feed_back(team, in, out);
}
