/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention and its way back, head by head, for ATTENTION_ROWS queries at a time: these see
 * no keys behind them, so the blocks of scores are nearly half of all. */
#include <math.h>

#include "compute/backprop/impl.h"

/* One head's queries [from, to) against keys [0, to). */
struct block {
    uint32_t from, to;
    uint32_t q_cols, kv_cols; /* of a row of all heads */
    size_t q_at, kv_at;       /* where the head begins in it */
    uint32_t head_dim;
    float scale;
};

/* out[rows][cols] = alpha a b^T or a b; strides in floats. */
static void product(enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, uint32_t rows, uint32_t cols,
                    uint32_t depth, float alpha, const float *a, uint32_t lda, const float *b,
                    uint32_t ldb, float beta, float *out, uint32_t ldo)
{
    cblas_sgemm(CblasRowMajor, ta, tb, (int)rows, (int)cols, (int)depth, alpha, a, (int)lda, b,
                (int)ldb, beta, out, (int)ldo);
}

static void softmax(float *row, uint32_t n, uint32_t room)
{
    float max = row[0], sum = 0;

    for (uint32_t i = 1; i < n; i++)
        max = fmaxf(max, row[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += row[i] = expf(row[i] - max);
    for (uint32_t i = 0; i < n; i++)
        row[i] /= sum;
    for (uint32_t i = n; i < room; i++)
        row[i] = 0;
}

/* probs[to - from][to] */
static void block_probs(struct backprop_work *w, const struct block *b)
{
    product(CblasNoTrans, CblasTrans, b->to - b->from, b->to, b->head_dim, b->scale,
            w->acts.q + b->from * b->q_cols + b->q_at, b->q_cols, w->acts.k + b->kv_at, b->kv_cols,
            0, w->probs, b->to);
    for (uint32_t t = b->from; t < b->to; t++)
        softmax(w->probs + (size_t)(t - b->from) * b->to, t + 1, b->to);
}

static void block_forward(struct backprop_work *w, const struct block *b)
{
    block_probs(w, b);
    product(CblasNoTrans, CblasNoTrans, b->to - b->from, b->head_dim, b->to, 1, w->probs, b->to,
            w->acts.v + b->kv_at, b->kv_cols, 0, w->acts.mixed + b->from * b->q_cols + b->q_at,
            b->q_cols);
}

/* d_probs, of a row's probabilities, becomes of its scores: p (dp - sum p dp). */
static void softmax_backward(float *dp, const float *p, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)p[i] * (double)dp[i];
    for (uint32_t i = 0; i < n; i++)
        dp[i] = p[i] * (dp[i] - (float)sum);
}

/* One sample; its own parts of d_mixed, d_q, d_k and d_v. */
static void sample_backward(struct backprop_work *w, const struct block *b, const float *d_mixed,
                            float *d_q, float *d_k, float *d_v)
{
    const uint32_t rows = b->to - b->from;
    const float *out = d_mixed + b->from * b->q_cols + b->q_at;
    const float *q = w->acts.q + b->from * b->q_cols + b->q_at;

    product(CblasTrans, CblasNoTrans, b->to, b->head_dim, rows, 1, w->probs, b->to, out, b->q_cols,
            1, d_v + b->kv_at, b->kv_cols);
    product(CblasNoTrans, CblasTrans, rows, b->to, b->head_dim, 1, out, b->q_cols,
            w->acts.v + b->kv_at, b->kv_cols, 0, w->d_probs, b->to);
    for (uint32_t r = 0; r < rows; r++)
        softmax_backward(w->d_probs + (size_t)r * b->to, w->probs + (size_t)r * b->to, b->to);
    product(CblasNoTrans, CblasNoTrans, rows, b->head_dim, b->to, b->scale, w->d_probs, b->to,
            w->acts.k + b->kv_at, b->kv_cols, 0, d_q + b->from * b->q_cols + b->q_at, b->q_cols);
    product(CblasTrans, CblasNoTrans, b->to, b->head_dim, rows, b->scale, w->d_probs, b->to, q,
            b->q_cols, 1, d_k + b->kv_at, b->kv_cols);
}

static struct block block_of(const struct hparams *hp, uint32_t head, uint32_t from, uint32_t n)
{
    return (struct block){
        .from = from,
        .to = n - from < ATTENTION_ROWS ? n : from + ATTENTION_ROWS,
        .q_cols = hp->n_heads * hp->head_dim,
        .kv_cols = hp->n_kv_heads * hp->head_dim,
        .q_at = (size_t)head * hp->head_dim,
        .kv_at = (size_t)(head / (hp->n_heads / hp->n_kv_heads)) * hp->head_dim,
        .head_dim = hp->head_dim,
        .scale = (float)(1 / sqrt(hp->head_dim)),
    };
}

void bp_attend(struct backprop_work *w, uint32_t n)
{
    for (uint32_t h = 0; h < w->b->hp.n_heads; h++)
        for (uint32_t from = 0; from < n; from += ATTENTION_ROWS) {
            const struct block b = block_of(&w->b->hp, h, from, n);
            block_forward(w, &b);
        }
}

void bp_attend_backward(struct backprop_work *w, uint32_t n, uint32_t samples)
{
    const struct hparams *hp = &w->b->hp;
    const size_t q_floats = (size_t)n * hp->n_heads * hp->head_dim;
    const size_t kv_floats = (size_t)n * hp->n_kv_heads * hp->head_dim;

    for (size_t i = 0; i < samples * kv_floats; i++)
        w->d_k[i] = w->d_v[i] = 0;
    for (uint32_t h = 0; h < hp->n_heads; h++)
        for (uint32_t from = 0; from < n; from += ATTENTION_ROWS) {
            const struct block b = block_of(hp, h, from, n);

            block_probs(w, &b);
            for (uint32_t s = 0; s < samples; s++)
                sample_backward(w, &b, w->d_mixed + s * q_floats, w->d_q + s * q_floats,
                                w->d_k + s * kv_floats, w->d_v + s * kv_floats);
        }
}
