/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/attention.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Queries that share a pass over the cache: enough to keep a page's keys in use, few enough for
 * their states to stay in cache. */
#define UNIT_QUERIES 24u
/* A batch of as few rows is shared by spans of tokens, too: else threads would have nothing to do.
 */
#define SPLIT_ROWS 8u

/* What one thread attends at once, for one KV head: rows of one sequence, over spans of tokens. */
struct unit {
    uint32_t first_row, n_rows;
    uint32_t first_span, end_span;
};

/* Rows that ask: all of a run, or in its last layer those that something is wanted of. */
struct asking {
    const struct decoder_row *rows;
    const uint32_t *which; /* their numbers among the run's rows; NULL: all of them */
    size_t *query_at;      /* [rows that ask + 1] bytes of a KV head's queries before each row's */
    uint32_t n_rows;
    struct unit *units;
    uint32_t n_units;
    bool split;
};

struct attention {
    struct attention_params p;
    const struct kernels *k;
    uint32_t group; /* query heads of a KV head */
    size_t head_dim, state_floats;
    float scale;

    double *freq; /* [rope_dims / 2] radians a position */
    float *cs;    /* [max_rows][2][rope_dims], as rope() wants them */

    /* [n_layers][n_kv_heads][2][head_dim] what queries are multiplied with, then keys, of sequences
     * that aren't f16; NULL: nothing, for there are no biases */
    float *balance;

    /* [n_kv_heads][rows that ask][group] */
    uint8_t *queries; /* as attend.query makes them, for the format of the row's sequence */
    float *factors;

    float *states;    /* [team][2][UNIT_QUERIES or group]: a unit's, and of the span at work */
    uint8_t *visible; /* [team][UNIT_QUERIES or group]: tokens of a page that a query sees */
    float *partials;  /* [SPLIT_ROWS][n_kv_heads][spans][group]: of split rows */
    uint32_t max_spans;
    size_t bytes;

    /* one run */
    const struct decoder_row *rows;
    uint32_t n_rows;
    struct asking all, wanted;
    struct decoder_row *wanted_rows; /* [max_rows] */
    _Atomic uint32_t next; /* of units times KV heads, to be taken */
};

/* --- open, close ----------------------------------------------------------------------------- */

static void *alloc(struct attention *a, size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    a->bytes += bytes;
    return aligned_alloc(64, bytes);
}

static uint32_t unit_queries(const struct attention *a)
{
    return a->group > UNIT_QUERIES ? a->group : UNIT_QUERIES;
}

static int alloc_scratch(struct attention *a)
{
    const struct hparams *hp = a->p.hp;
    const size_t rows = a->p.max_rows, split_rows = rows < SPLIT_ROWS ? rows : SPLIT_ROWS;
    const size_t state = a->state_floats * sizeof(float), n_split = split_rows * a->max_spans;

    a->freq = alloc(a, hp->rope_dims / 2 * sizeof(*a->freq));
    a->cs = alloc(a, rows * 2 * hp->rope_dims * sizeof(float));
    a->queries = alloc(a, rows * hp->n_heads * attend_query_bytes(KV_F16, hp->head_dim));
    a->factors = alloc(a, rows * hp->n_heads * sizeof(float));
    a->states = alloc(a, 2ull * team_size(a->p.team) * unit_queries(a) * state);
    a->visible = alloc(a, team_size(a->p.team) * unit_queries(a));
    a->partials = alloc(a, n_split * hp->n_heads * state);
    a->all.units = alloc(a, (rows > n_split ? rows : n_split) * sizeof(struct unit));
    a->wanted.units = alloc(a, (rows > n_split ? rows : n_split) * sizeof(struct unit));
    a->all.query_at = alloc(a, (rows + 1) * sizeof(size_t));
    a->wanted.query_at = alloc(a, (rows + 1) * sizeof(size_t));
    a->wanted_rows = alloc(a, rows * sizeof(*a->wanted_rows));
    return a->freq && a->cs && a->queries && a->factors && a->states && a->visible && a->partials &&
                   a->all.units && a->wanted.units && a->all.query_at && a->wanted.query_at &&
                   a->wanted_rows
               ? 0
               : -ENOMEM;
}

/* Mean square of a pair's biases over n heads. */
static float pair_square(const float *bias, uint32_t n, uint32_t hd, uint32_t one, uint32_t other)
{
    float sum = 0;

    for (uint32_t h = 0; h < n; h++)
        sum +=
            bias[h * hd + one] * bias[h * hd + one] + bias[h * hd + other] * bias[h * hd + other];
    return sum / (float)(2 * n);
}

/*
 * Where biases make channels of keys great that queries hardly look at (Qwen2: 100 beside 1), one
 * scale for all wastes a quantized cache. Keys are divided, and queries multiplied, by sqrt(k / q),
 * with k and q what the biases and the rest, about 1, come to: q.k stays, and what rounding costs
 * is least. The two of a pair that rotates have the same factor.
 */
static void balance_head(const struct attention *a, const float *q_bias, const float *k_bias,
                         float *to_q)
{
    const struct hparams *hp = a->p.hp;
    const uint32_t hd = hp->head_dim, dims = hp->rope_dims;
    float *to_k = to_q + hd;

    for (uint32_t i = 0; i < hd; i++) {
        uint32_t other = i;

        if (i < dims)
            other = !hp->arch->rope_neox ? i ^ 1 : i < dims / 2 ? i + dims / 2 : i - dims / 2;
        const float k = sqrtf(pair_square(k_bias, 1, hd, i, other) + 1);
        const float q = sqrtf(pair_square(q_bias, a->group, hd, i, other) + 1);
        to_q[i] = sqrtf(k / q);
        to_k[i] = 1 / to_q[i];
    }
}

static bool has_biases(const struct weights *w)
{
    for (uint32_t l = 0; l < w->n_layers; l++)
        if (w->layers[l].q_bias && w->layers[l].k_bias)
            return true;
    return false;
}

/* A layer at a time: a stage must give what the whole model gives. */
static int alloc_balance(struct attention *a)
{
    const struct weights *w = a->p.w;
    const uint32_t heads = a->p.hp->n_kv_heads, hd = a->p.hp->head_dim;
    const size_t of_layer = (size_t)heads * 2 * hd;

    if (!has_biases(w))
        return 0;
    a->balance = alloc(a, w->n_layers * of_layer * sizeof(float));
    if (!a->balance)
        return -ENOMEM;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct layer_weights *lw = &w->layers[l];
        float *to = a->balance + l * of_layer;

        for (size_t i = 0; i < of_layer; i++)
            to[i] = 1;
        for (uint32_t h = 0; h < heads && lw->q_bias && lw->k_bias; h++)
            balance_head(a, lw->q_bias + (size_t)h * a->group * hd, lw->k_bias + (size_t)h * hd,
                         to + (size_t)h * 2 * hd);
    }
    return 0;
}

int attention_open(const struct attention_params *p, struct attention **out)
{
    const struct hparams *hp = p->hp;
    struct attention *a = calloc(1, sizeof(*a));

    *out = a;
    if (!a)
        return -ENOMEM;
    a->p = *p;
    a->k = kernels_get();
    a->group = hp->n_heads / hp->n_kv_heads;
    a->head_dim = hp->head_dim;
    a->state_floats = attend_state_floats(hp->head_dim);
    a->scale = (float)(1 / sqrt(hp->head_dim));
    a->max_spans = p->n_ctx / KV_SPAN + 1;
    int rc = alloc_scratch(a);
    if (rc == 0)
        rc = alloc_balance(a);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < hp->rope_dims / 2; i++) {
        double factor = p->w->rope_factors ? p->w->rope_factors[i] : 1;

        a->freq[i] = pow(hp->rope_base, -2.0 * i / hp->rope_dims) * hp->rope_scale / factor;
    }
    return 0;
}

void attention_close(struct attention *a)
{
    if (!a)
        return;
    free(a->freq);
    free(a->cs);
    free(a->balance);
    free(a->queries);
    free(a->factors);
    free(a->states);
    free(a->visible);
    free(a->partials);
    free(a->all.units);
    free(a->wanted.units);
    free(a->all.query_at);
    free(a->wanted.query_at);
    free(a->wanted_rows);
    free(a);
}

size_t attention_bytes(const struct attention *a)
{
    return a->bytes;
}

/* --- one run --------------------------------------------------------------------------------- */

static enum kv_format format_of(const struct attention *a, const struct decoder_row *row)
{
    return kv_seq_format(a->p.kv, row->seq);
}

static size_t query_bytes(const struct attention *a, const struct decoder_row *row)
{
    return attend_query_bytes(format_of(a, row), a->head_dim);
}

static uint32_t spans_of(const struct decoder_row *row)
{
    return row->pos / KV_SPAN + 1;
}

/* Spans of single rows. */
static void plan_split(struct asking *ask)
{
    for (uint32_t r = 0; r < ask->n_rows; r++)
        for (uint32_t span = 0; span < spans_of(&ask->rows[r]); span++)
            ask->units[ask->n_units++] = (struct unit){r, 1, span, span + 1};
}

/* Rows that follow one another in a sequence, over all they see. */
static void plan_whole(struct asking *ask, uint32_t most)
{
    for (uint32_t r = 0, n; r < ask->n_rows; r += n) {
        for (n = 1; n < most && r + n < ask->n_rows; n++)
            if (ask->rows[r + n].seq != ask->rows[r].seq)
                break;
        ask->units[ask->n_units++] = (struct unit){r, n, 0, spans_of(&ask->rows[r + n - 1])};
    }
}

static void plan(const struct attention *a, struct asking *ask, const struct decoder_row *rows,
                 const uint32_t *which, uint32_t n_rows)
{
    ask->rows = rows;
    ask->which = which;
    ask->n_rows = n_rows;
    ask->n_units = 0;
    ask->query_at[0] = 0;
    for (uint32_t r = 0; r < n_rows; r++)
        ask->query_at[r + 1] = ask->query_at[r] + a->group * query_bytes(a, &rows[r]);
    ask->split = n_rows <= SPLIT_ROWS && team_size(a->p.team) > 1;
    if (ask->split)
        plan_split(ask);
    else
        plan_whole(ask, unit_queries(a) / a->group);
}

void attention_begin(struct attention *a, const struct decoder_row *rows, uint32_t n_rows,
                     const uint32_t *wanted, uint32_t n_wanted)
{
    a->rows = rows;
    a->n_rows = n_rows;
    plan(a, &a->all, rows, NULL, n_rows);
    for (uint32_t i = 0; i < n_wanted; i++)
        a->wanted_rows[i] = rows[wanted[i]];
    plan(a, &a->wanted, a->wanted_rows, wanted, n_wanted);
}

/* Angles in double: the same table whatever the position, rounded once. */
void attention_angles(struct attention *a, unsigned part, unsigned parts)
{
    const uint32_t dims = a->p.hp->rope_dims;
    const bool neox = a->p.hp->arch->rope_neox;

    for (uint32_t r = part; r < a->n_rows; r += parts) {
        float *c = a->cs + (size_t)r * 2 * dims, *s = c + dims;

        for (uint32_t i = 0; i < dims / 2; i++) {
            const double angle = a->rows[r].pos * a->freq[i];
            const uint32_t one = neox ? i : 2 * i, other = neox ? i + dims / 2 : 2 * i + 1;

            c[one] = c[other] = (float)cos(angle);
            s[other] = (float)sin(angle);
            s[one] = -s[other];
        }
    }
}

static void rotate(const struct attention *a, float *head, uint32_t row)
{
    const struct hparams *hp = a->p.hp;

    a->k->rope(head, a->cs + (size_t)row * 2 * hp->rope_dims, hp->rope_dims, hp->arch->rope_neox);
}

/* --- a layer --------------------------------------------------------------------------------- */

static size_t query_index(const struct attention *a, const struct asking *ask, uint32_t kv_head,
                          uint32_t row)
{
    return ((size_t)kv_head * ask->n_rows + row) * a->group;
}

/* The first query of a row. */
static uint8_t *queries_of(const struct attention *a, const struct asking *ask, uint32_t kv_head,
                           uint32_t row)
{
    return a->queries + kv_head * ask->query_at[ask->n_rows] + ask->query_at[row];
}

static void balance(const struct attention *a, enum kv_format f, uint32_t layer, uint32_t kv_head,
                    bool is_key, float *x)
{
    if (!a->balance || f == KV_F16)
        return;
    const float *by =
        a->balance + (((size_t)layer * a->p.hp->n_kv_heads + kv_head) * 2 + is_key) * a->head_dim;
    for (size_t i = 0; i < a->head_dim; i++)
        x[i] *= by[i];
}

/* Rotate and quantize queries. */
static void prepare(struct attention *a, const struct asking *ask, uint32_t layer, float *q,
                    unsigned part, unsigned parts)
{
    const uint32_t heads = a->p.hp->n_heads;
    size_t from, to;

    team_share((size_t)heads * ask->n_rows, 1, part, parts, &from, &to);
    for (size_t i = from; i < to; i++) {
        const uint32_t h = (uint32_t)(i / ask->n_rows), r = (uint32_t)(i % ask->n_rows);
        const size_t at = query_index(a, ask, h / a->group, r) + h % a->group;
        const enum kv_format f = format_of(a, &ask->rows[r]);
        uint8_t *query =
            queries_of(a, ask, h / a->group, r) + h % a->group * attend_query_bytes(f, a->head_dim);
        float *x = q + ((size_t)r * heads + h) * a->head_dim;

        rotate(a, x, ask->which ? ask->which[r] : r);
        balance(a, f, layer, h / a->group, false, x);
        a->factors[at] = a->k->attend.query(f, query, a->head_dim, x, a->scale);
    }
}

/* Heads outside: a head's tiles are written by few threads. */
void attention_keep(struct attention *a, uint32_t layer, float *keys, float *values, unsigned part,
                    unsigned parts)
{
    const uint32_t kv_heads = a->p.hp->n_kv_heads;
    const size_t hd = a->head_dim;
    size_t from, to;

    team_share(2ull * kv_heads * a->n_rows, 1, part, parts, &from, &to);
    for (size_t i = from; i < to; i++) {
        const uint32_t h = (uint32_t)(i / a->n_rows) % kv_heads, r = (uint32_t)(i % a->n_rows);
        const bool is_key = i / a->n_rows < kv_heads;
        const struct decoder_row *row = &a->rows[r];
        const enum kv_format f = format_of(a, row);
        uint8_t *tiles = kv_tiles(a->p.kv, row->seq, row->pos / KV_PAGE, layer, h);
        float *x = (is_key ? keys : values) + ((size_t)r * kv_heads + h) * hd;

        if (is_key) {
            rotate(a, x, r);
            balance(a, f, layer, h, true, x);
            a->k->attend.put_key(f, tiles, hd, row->pos % KV_PAGE, x);
        } else {
            a->k->attend.put_value(f, tiles + kv_key_bytes(f, hd), hd, row->pos % KV_PAGE, x);
        }
    }
}

/* A page that a unit's rows see, for one KV head. */
struct place {
    const struct unit *unit;
    uint32_t kv_head, page;
};

/* Tokens of it that the row sees, if any. */
static uint32_t tokens_seen(const struct decoder_row *row, uint32_t page)
{
    const uint32_t seen = row->pos + 1 - page * KV_PAGE;

    return seen < KV_PAGE ? seen : KV_PAGE;
}

static struct attend_ahead tiles_at(const struct attention *a, const struct asking *ask,
                                    uint32_t layer, struct place at)
{
    const struct decoder_row *last = &ask->rows[at.unit->first_row + at.unit->n_rows - 1];
    const uint8_t *tiles = kv_tiles(a->p.kv, last->seq, at.page, layer, at.kv_head);

    return (struct attend_ahead){tiles, tiles + kv_key_bytes(format_of(a, last), a->head_dim)};
}

/* The pages of a unit end before this one. */
static uint32_t end_page(const struct asking *ask, const struct unit *u)
{
    const uint32_t end = ask->rows[u->first_row + u->n_rows - 1].pos / KV_PAGE + 1;

    return end < u->end_span * KV_SPAN_PAGES ? end : u->end_span * KV_SPAN_PAGES;
}

/* The pages of one span, for those rows of a unit that see any of it. `next` is read after the
 * unit's. */
static void attend_span(struct attention *a, const struct asking *ask, uint32_t layer,
                        struct place at, const struct attend_ahead *next, uint32_t span,
                        uint8_t *visible, float *states)
{
    const struct unit *u = at.unit;
    const struct decoder_row *rows = ask->rows + u->first_row;
    const enum kv_format f = format_of(a, rows);
    const size_t query = query_index(a, ask, at.kv_head, u->first_row);
    const uint32_t end = end_page(ask, u), span_end = (span + 1) * KV_SPAN_PAGES;

    at.page = span * KV_SPAN_PAGES;
    for (struct attend_ahead tiles = tiles_at(a, ask, layer, at), ahead;
         at.page < end && at.page < span_end; tiles = ahead) {
        uint32_t first = 0;

        while (rows[first].pos < at.page * KV_PAGE)
            first++;
        const uint32_t skipped = first * a->group, n = (u->n_rows - first) * a->group;
        for (uint32_t i = 0; i < n; i++)
            visible[i] = (uint8_t)tokens_seen(&rows[first + i / a->group], at.page);
        at.page++;
        ahead = at.page < end ? tiles_at(a, ask, layer, at) : *next;
        a->k->attend.page(f, tiles.keys, tiles.values, a->head_dim, n,
                          queries_of(a, ask, at.kv_head, u->first_row + first),
                          a->factors + query + skipped, visible, states + skipped * a->state_floats,
                          &ahead);
    }
}

static void begin_states(struct attention *a, float *states, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a->k->attend.begin(states + i * a->state_floats, a->head_dim);
}

static void finish(struct attention *a, const struct asking *ask, uint32_t kv_head, uint32_t row,
                   float *states, float *q)
{
    const enum kv_format f = format_of(a, &ask->rows[row]);
    float *out = q + ((size_t)row * a->p.hp->n_heads + kv_head * a->group) * a->head_dim;

    for (uint32_t i = 0; i < a->group; i++)
        a->k->attend.finish(f, out + i * a->head_dim, states + i * a->state_floats, a->head_dim);
}

/* All that a unit's rows see. */
static void attend_whole(struct attention *a, const struct asking *ask, uint32_t layer,
                         struct place at, const struct attend_ahead *next, uint8_t *visible,
                         float *states, float *q)
{
    const struct unit *u = at.unit;
    const size_t n = (size_t)u->n_rows * a->group, size = a->state_floats;
    float *of_span = states + unit_queries(a) * size;

    begin_states(a, states, n);
    attend_span(a, ask, layer, at, next, 0, visible, states);
    for (uint32_t span = 1; span < u->end_span; span++) {
        begin_states(a, of_span, n);
        attend_span(a, ask, layer, at, next, span, visible, of_span);
        for (size_t i = 0; i < n; i++)
            if (ask->rows[u->first_row + i / a->group].pos >= span * KV_SPAN)
                a->k->attend.join(states + i * size, of_span + i * size, a->head_dim);
    }
    for (uint32_t r = 0; r < u->n_rows; r++)
        finish(a, ask, at.kv_head, u->first_row + r, states + r * a->group * size, q);
}

static float *partial(const struct attention *a, uint32_t kv_head, uint32_t row, uint32_t span)
{
    const size_t at = ((size_t)row * a->p.hp->n_kv_heads + kv_head) * a->max_spans + span;

    return a->partials + at * a->group * a->state_floats;
}

/* The first page of unit i of all KV heads'. The last units see most: they go first, so that the
 * team ends together. */
static struct place unit_at(const struct asking *ask, uint32_t i)
{
    const struct unit *u = &ask->units[ask->n_units - 1 - i % ask->n_units];

    return (struct place){u, i / ask->n_units, u->first_span * KV_SPAN_PAGES};
}

static void attend(struct attention *a, const struct asking *ask, uint32_t layer, float *q,
                   unsigned part, unsigned parts)
{
    const uint32_t n = ask->n_units * a->p.hp->n_kv_heads;
    uint8_t *visible = a->visible + (size_t)part * unit_queries(a);
    float *states = a->states + 2ull * part * unit_queries(a) * a->state_floats;

    for (;;) {
        const uint32_t i = atomic_fetch_add_explicit(&a->next, 1, memory_order_relaxed);
        if (i >= n)
            return;

        const struct place at = unit_at(ask, i);
        const struct unit *u = at.unit;
        struct attend_ahead next = {0};
        if (i + parts < n) /* a guess: all take as long */
            next = tiles_at(a, ask, layer, unit_at(ask, i + parts));
        if (ask->split) {
            float *to = partial(a, at.kv_head, u->first_row, u->first_span);

            begin_states(a, to, a->group);
            attend_span(a, ask, layer, at, &next, u->first_span, visible, to);
        } else {
            attend_whole(a, ask, layer, at, &next, visible, states, q);
        }
        a->p.worked(a->p.arg, part,
                    2ull * a->head_dim * u->n_rows * a->group * KV_SPAN *
                        (u->end_span - u->first_span));
    }
}

/* Spans of split rows, in order. */
static void join_spans(struct attention *a, const struct asking *ask, float *q, unsigned part,
                       unsigned parts)
{
    const uint32_t kv_heads = a->p.hp->n_kv_heads;

    for (uint32_t i = part; i < ask->n_rows * kv_heads; i += parts) {
        const uint32_t row = i / kv_heads, kv_head = i % kv_heads;
        float *states = partial(a, kv_head, row, 0);

        for (uint32_t span = 1; span < spans_of(&ask->rows[row]); span++)
            for (uint32_t j = 0; j < a->group; j++)
                a->k->attend.join(states + j * a->state_floats,
                                  partial(a, kv_head, row, span) + j * a->state_floats,
                                  a->head_dim);
        finish(a, ask, kv_head, row, states, q);
    }
}

void attention_ask(struct attention *a, uint32_t layer, bool wanted, float *q, unsigned part,
                   unsigned parts)
{
    const struct asking *ask = wanted ? &a->wanted : &a->all;

    if (part == 0)
        atomic_store_explicit(&a->next, 0, memory_order_relaxed);
    prepare(a, ask, layer, q, part, parts);
    team_barrier(a->p.team);
    attend(a, ask, layer, q, part, parts);
    if (ask->split) {
        team_barrier(a->p.team);
        join_spans(a, ask, q, part, parts);
    }
}
