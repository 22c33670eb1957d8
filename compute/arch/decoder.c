/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/decoder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/arch/attention.h"

/* Rows that a thread takes through a feed-forward block at once: as many as leave what is between its
 * products in the L2 cache, and are still worth the unpacking of a panel. */
#define FEED_ROWS 64u
/* About a millisecond of one core's work: how often the leader polls. */
#define POLL_WORK_MACS 6000000u

struct decoder {
    const struct hparams *hp;
    const struct weights *w;
    struct team *team;
    const struct kernels *k;
    struct attention *attention;

    /* scratch */
    float *x;         /* [max_rows][d_model] the residual stream */
    float *n;         /* [max_rows][d_model] normed */
    float *q;         /* [max_rows][n_heads][head_dim]; then attention's result in its place */
    float *keys;      /* [max_rows][n_kv_heads][head_dim] */
    float *values;    /* [max_rows][n_kv_heads][head_dim] */
    float *gate, *up; /* [feed_rows][n_ff] */
    struct acts *acts, *fine; /* of 8 bits, and of 15 */
    size_t bytes;

    /* one run */
    const struct decoder_row *rows;
    uint32_t n_rows;
    const uint32_t *wanted;
    uint32_t n_wanted;
    float *logits;

    void (*poll)(void *arg);
    void *poll_arg;
    uint64_t work_macs; /* since the last poll; the leader's */
};

/* --- open, close ----------------------------------------------------------------------------- */

static float *alloc_f32(struct decoder *d, size_t n)
{
    size_t bytes = (n * sizeof(float) + 63) / 64 * 64;

    d->bytes += bytes;
    return aligned_alloc(64, bytes);
}

static int alloc_scratch(struct decoder *d, uint32_t max_rows, int exact)
{
    const struct hparams *hp = d->hp;
    const size_t rows = max_rows, feed_most = 3ull * FEED_ROWS * team_size(d->team) / 2;
    const size_t feed_rows = rows < feed_most ? rows : feed_most;
    uint32_t q_dim = hp->n_heads * hp->head_dim, kv_dim = hp->n_kv_heads * hp->head_dim;
    uint32_t widest = hp->d_model > hp->n_ff ? hp->d_model : hp->n_ff;

    d->x = alloc_f32(d, rows * hp->d_model);
    d->n = alloc_f32(d, rows * hp->d_model);
    d->q = alloc_f32(d, rows * q_dim);
    d->keys = alloc_f32(d, rows * kv_dim);
    d->values = alloc_f32(d, rows * kv_dim);
    d->gate = alloc_f32(d, feed_rows * hp->n_ff);
    d->up = alloc_f32(d, feed_rows * hp->n_ff);
    if (!d->x || !d->n || !d->q || !d->keys || !d->values || !d->gate || !d->up)
        return -ENOMEM;
    int rc = acts_alloc(max_rows, widest > q_dim ? widest : q_dim, exact ? ACTS_F32 : ACTS_INT8,
                        &d->acts);
    if (rc == 0)
        rc = acts_alloc(max_rows, hp->d_model, exact ? ACTS_F32 : ACTS_INT16, &d->fine);
    if (rc == 0)
        d->bytes += acts_bytes(d->acts) + acts_bytes(d->fine);
    return rc;
}

static void worked(struct decoder *d, unsigned part, uint64_t macs);

static void attention_worked(void *arg, unsigned part, uint64_t macs)
{
    worked(arg, part, macs);
}

int decoder_open(const struct hparams *hp, const struct weights *w, struct kv *kv,
                 struct team *team, uint32_t max_rows, uint32_t n_ctx, int exact,
                 struct decoder **out)
{
    struct decoder *d = calloc(1, sizeof(*d));
    const struct attention_params attention = {
        .hp = hp,
        .w = w,
        .kv = kv,
        .team = team,
        .max_rows = max_rows,
        .n_ctx = n_ctx,
        .worked = attention_worked,
        .arg = d,
    };

    *out = NULL;
    if (!d)
        return -ENOMEM;
    d->hp = hp;
    d->w = w;
    d->team = team;
    d->k = kernels_get();
    int rc = alloc_scratch(d, max_rows, exact);
    if (rc == 0)
        rc = attention_open(&attention, &d->attention);
    if (rc) {
        decoder_close(d);
        return rc;
    }
    d->bytes += attention_bytes(d->attention);
    *out = d;
    return 0;
}

void decoder_close(struct decoder *d)
{
    if (!d)
        return;
    free(d->x);
    free(d->n);
    free(d->q);
    free(d->keys);
    free(d->values);
    free(d->gate);
    free(d->up);
    attention_close(d->attention);
    acts_free(d->acts);
    acts_free(d->fine);
    free(d);
}

size_t decoder_bytes(const struct decoder *d)
{
    return d->bytes;
}

void decoder_set_poll(struct decoder *d, void (*poll)(void *arg), void *arg)
{
    d->poll = poll;
    d->poll_arg = arg;
}

float *decoder_x(struct decoder *d)
{
    return d->x;
}

/* --- working together ------------------------------------------------------------------------ */

static void worked(struct decoder *d, unsigned part, uint64_t macs)
{
    if (part != 0 || !d->poll)
        return;
    d->work_macs += macs;
    if (d->work_macs >= POLL_WORK_MACS) {
        d->work_macs = 0;
        d->poll(d->poll_arg);
    }
}

static struct product product(const struct mat *w, const float *bias, float *y)
{
    return (struct product){w, bias, y, mat_rows(w)};
}

/* y = W a (+ bias), or y += W a, of each; then whoever needs a y meets at a barrier. */
static void multiply(struct decoder *d, const struct product *products, unsigned n,
                     const struct acts *a, int add, uint32_t n_rows, unsigned part, unsigned parts)
{
    uint64_t weights = 0;

    for (unsigned i = 0; i < n; i++)
        weights += (uint64_t)mat_rows(products[i].w) * mat_cols(products[i].w);
    mat_mul(products, n, a, add, part, parts);
    worked(d, part, weights * n_rows / parts);
}

/* Make rows of x the activations. acts_set shares rows as team_share does: a part that filled just
 * its share of x need not wait for the others. */
static void quantize(struct decoder *d, struct acts *a, const float *x, uint32_t cols,
                     uint32_t n_rows, unsigned part, unsigned parts)
{
    acts_set(a, x, cols, n_rows, cols, part, parts);
    team_barrier(d->team);
}

/* Norm rows of x, which is the residual stream or a part of it, and make them the activations. */
static void norm_quantize(struct decoder *d, struct acts *a, const float *weight, const float *x,
                          uint32_t n_rows, unsigned part, unsigned parts)
{
    size_t from, to, width = d->hp->d_model;

    team_share(n_rows, 1, part, parts, &from, &to);
    for (size_t i = from; i < to; i++)
        d->k->rmsnorm(d->n + i * width, x + i * width, weight, width, d->hp->rms_eps);
    quantize(d, a, d->n, (uint32_t)width, n_rows, part, parts);
}

/* --- the block ------------------------------------------------------------------------------- */

/* q was asked: its rows' residuals take what attention gave them. */
static void attention_end(struct decoder *d, uint32_t layer, uint32_t n_rows, unsigned part,
                          unsigned parts)
{
    const struct product o = product(d->w->layers[layer].o, NULL, d->x);

    team_barrier(d->team);
    quantize(d, d->acts, d->q, d->hp->n_heads * d->hp->head_dim, n_rows, part, parts);
    multiply(d, &o, 1, d->acts, 1, n_rows, part, parts);
    team_barrier(d->team);
}

static void attention_block(struct decoder *d, uint32_t layer, unsigned part, unsigned parts)
{
    const struct layer_weights *w = &d->w->layers[layer];
    const struct product qkv[] = {product(w->q, w->q_bias, d->q), product(w->k, w->k_bias, d->keys),
                                  product(w->v, w->v_bias, d->values)};

    norm_quantize(d, d->fine, w->attn_norm, d->x, d->n_rows, part, parts);
    multiply(d, qkv, 3, d->fine, 0, d->n_rows, part, parts);
    team_barrier(d->team);
    attention_keep(d->attention, layer, d->keys, d->values, part, parts);
    attention_ask(d->attention, layer, false, d->q, part, parts);
    attention_end(d, layer, d->n_rows, part, parts);
}

/*
 * The model's last layer: of rows that nothing is wanted of, only what later ones look at,
 * their keys and values. The others move together at the front of x.
 */
static void last_attention_block(struct decoder *d, uint32_t layer, unsigned part, unsigned parts)
{
    const struct layer_weights *w = &d->w->layers[layer];
    const struct product q = product(w->q, w->q_bias, d->q),
                         kv[] = {product(w->k, w->k_bias, d->keys),
                                 product(w->v, w->v_bias, d->values)};
    const size_t width = d->hp->d_model;

    norm_quantize(d, d->fine, w->attn_norm, d->x, d->n_rows, part, parts);
    multiply(d, kv, 2, d->fine, 0, d->n_rows, part, parts);
    for (uint32_t i = 0; part == 0 && i < d->n_wanted; i++)
        memmove(d->x + i * width, d->x + d->wanted[i] * width, width * sizeof(*d->x));
    team_barrier(d->team);
    attention_keep(d->attention, layer, d->keys, d->values, part, parts);
    if (d->n_wanted == 0)
        return;
    norm_quantize(d, d->fine, w->attn_norm, d->x, d->n_wanted, part, parts);
    multiply(d, &q, 1, d->fine, 0, d->n_wanted, part, parts);
    team_barrier(d->team);
    attention_ask(d->attention, layer, true, d->q, part, parts);
    attention_end(d, layer, d->n_wanted, part, parts);
}

static void feed_forward_rows(struct decoder *d, uint32_t layer, float *x, uint32_t n_rows,
                              unsigned part, unsigned parts)
{
    const struct layer_weights *w = &d->w->layers[layer];
    const struct product down = product(w->down, NULL, x),
                         gate_up[] = {product(w->gate, NULL, d->gate), product(w->up, NULL, d->up)};
    size_t from, to;

    norm_quantize(d, d->acts, w->ffn_norm, x, n_rows, part, parts);
    multiply(d, gate_up, 2, d->acts, 0, n_rows, part, parts);
    team_barrier(d->team);
    team_share(n_rows, 1, part, parts, &from, &to);
    d->k->silu_mul(d->gate + from * d->hp->n_ff, d->gate + from * d->hp->n_ff,
                   d->up + from * d->hp->n_ff, (to - from) * d->hp->n_ff);
    quantize(d, d->acts, d->gate, d->hp->n_ff, n_rows, part, parts);
    multiply(d, &down, 1, d->acts, 1, n_rows, part, parts);
    team_barrier(d->team);
}

/* In equal parts, of half as many rows again as should be at most: few rows are dearer each. */
static void feed_forward_block(struct decoder *d, uint32_t layer, uint32_t n_rows, unsigned part,
                               unsigned parts)
{
    const uint32_t most = FEED_ROWS * parts, n = (n_rows + most / 2) / most;
    const uint32_t each = n > 1 ? (n_rows + n - 1) / n : n_rows;

    for (uint32_t row = 0; row < n_rows; row += each)
        feed_forward_rows(d, layer, d->x + (size_t)row * d->hp->d_model,
                          n_rows - row < each ? n_rows - row : each, part, parts);
}

static void head_step(void *arg, unsigned part, unsigned parts)
{
    struct decoder *d = arg;
    const struct product head = product(d->w->head, NULL, d->logits);

    norm_quantize(d, d->fine, d->w->out_norm, d->x, d->n_wanted, part, parts);
    multiply(d, &head, 1, d->fine, 0, d->n_wanted, part, parts);
}

static void step(void *arg, unsigned part, unsigned parts)
{
    struct decoder *d = arg;
    const uint32_t last = d->w->n_layers - 1;
    const bool fewer = d->w->ends && d->n_wanted < d->n_rows;

    attention_angles(d->attention, part, parts);
    for (uint32_t layer = 0; layer < (fewer ? last : last + 1); layer++) {
        attention_block(d, layer, part, parts);
        feed_forward_block(d, layer, d->n_rows, part, parts);
    }
    if (fewer)
        last_attention_block(d, last, part, parts);
    if (fewer && d->n_wanted)
        feed_forward_block(d, last, d->n_wanted, part, parts);
    if (d->n_wanted && d->logits)
        head_step(d, part, parts);
}

void decoder_run(struct decoder *d, const struct decoder_row *rows, uint32_t n_rows,
                 const uint32_t *wanted, uint32_t n_wanted, float *logits)
{
    d->rows = rows;
    d->n_rows = n_rows;
    d->wanted = wanted;
    d->n_wanted = n_wanted;
    d->logits = logits;
    attention_begin(d->attention, rows, n_rows, wanted, n_wanted);
    team_run(d->team, step, d);
}

void decoder_head(struct decoder *d, uint32_t n, float *logits)
{
    d->n_wanted = n;
    d->logits = logits;
    team_run(d->team, head_step, d);
}
