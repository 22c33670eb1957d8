/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "compute/backprop/impl.h"

static void add_bias(float *y, const float *bias, uint32_t n, uint32_t cols)
{
    for (uint32_t t = 0; bias && t < n; t++)
        for (uint32_t i = 0; i < cols; i++)
            y[(size_t)t * cols + i] += bias[i];
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

void bp_layer_attend(struct backprop_work *w, const struct bp_layer *l, uint32_t n)
{
    const struct hparams *hp = &w->b->hp;
    const uint32_t d = hp->d_model, q_cols = hp->n_heads * hp->head_dim;
    const uint32_t kv_cols = hp->n_kv_heads * hp->head_dim;
    struct bp_acts *a = &w->acts;

    bp_norm(a->normed, a->x, l->attn_norm, n, d, hp->rms_eps);
    bp_multiply(a->q, a->normed, l->q, n, q_cols, d, 0);
    bp_multiply(a->k, a->normed, l->k, n, kv_cols, d, 0);
    bp_multiply(a->v, a->normed, l->v, n, kv_cols, d, 0);
    add_bias(a->q, l->q_bias, n, q_cols);
    add_bias(a->k, l->k_bias, n, kv_cols);
    add_bias(a->v, l->v_bias, n, kv_cols);
    bp_rotate(w, a->q, n, hp->n_heads, 1);
    bp_rotate(w, a->k, n, hp->n_kv_heads, 1);
    bp_attend(w, n);
}

void bp_layer_gate(struct backprop_work *w, const struct bp_layer *l, uint32_t n)
{
    const struct hparams *hp = &w->b->hp;
    const uint32_t d = hp->d_model;
    struct bp_acts *a = &w->acts;

    bp_norm(a->normed, a->mid, l->ffn_norm, n, d, hp->rms_eps);
    bp_multiply(a->gate, a->normed, l->gate, n, hp->n_ff, d, 0);
    bp_multiply(a->up, a->normed, l->up, n, hp->n_ff, d, 0);
    for (size_t i = 0; i < (size_t)n * hp->n_ff; i++)
        a->act[i] = a->gate[i] * sigmoid(a->gate[i]) * a->up[i];
}

void bp_layer_forward(struct backprop_work *w, const struct bp_layer *l, uint32_t n, float *y)
{
    const struct hparams *hp = &w->b->hp;
    const uint32_t d = hp->d_model;
    struct bp_acts *a = &w->acts;

    bp_layer_attend(w, l, n);
    memcpy(a->mid, a->x, (size_t)n * d * sizeof(*a->mid));
    bp_multiply(a->mid, a->mixed, l->o, n, d, hp->n_heads * hp->head_dim, 1);
    bp_layer_gate(w, l, n);
    memcpy(y, a->mid, (size_t)n * d * sizeof(*y));
    bp_multiply(y, a->act, l->down, n, d, hp->n_ff, 1);
}

/* d_gate holds the gradients of act. act = g s(g) u, and its slope by g is
 * u s(g) (1 + g (1 - s(g))), with s the sigmoid. */
static void gate_backward(struct backprop_work *w, size_t values, uint32_t samples)
{
    for (size_t i = 0; i < values; i++) {
        const float g = w->acts.gate[i], u = w->acts.up[i], s = sigmoid(g);
        const float by_gate = u * s * (1 + g * (1 - s)), by_up = g * s;

        for (size_t at = i; at < samples * values; at += values) {
            const float d = w->d_gate[at];
            w->d_gate[at] = d * by_gate;
            w->d_up[at] = d * by_up;
        }
    }
}

void bp_layer_backward(struct backprop_work *w, const struct bp_layer *l, uint32_t n,
                       uint32_t samples, float *grads)
{
    const struct hparams *hp = &w->b->hp;
    const uint32_t d = hp->d_model, q_cols = hp->n_heads * hp->head_dim;
    const uint32_t kv_cols = hp->n_kv_heads * hp->head_dim, rows = samples * n;
    const struct bp_acts *a = &w->acts;

    bp_multiply_back(w->d_gate, grads, l->down, rows, d, hp->n_ff, 0);
    gate_backward(w, (size_t)n * hp->n_ff, samples);
    bp_multiply_back(w->d_normed, w->d_gate, l->gate, rows, hp->n_ff, d, 0);
    bp_multiply_back(w->d_normed, w->d_up, l->up, rows, hp->n_ff, d, 1);
    bp_norm_backward(grads, w->d_normed, a->mid, l->ffn_norm, n, samples, d, hp->rms_eps);

    bp_multiply_back(w->d_mixed, grads, l->o, rows, d, q_cols, 0);
    bp_attend_backward(w, n, samples);
    for (uint32_t s = 0; s < samples; s++) {
        bp_rotate(w, w->d_q + (size_t)s * n * q_cols, n, hp->n_heads, -1);
        bp_rotate(w, w->d_k + (size_t)s * n * kv_cols, n, hp->n_kv_heads, -1);
    }
    bp_multiply_back(w->d_normed, w->d_q, l->q, rows, q_cols, d, 0);
    bp_multiply_back(w->d_normed, w->d_k, l->k, rows, kv_cols, d, 1);
    bp_multiply_back(w->d_normed, w->d_v, l->v, rows, kv_cols, d, 1);
    bp_norm_backward(grads, w->d_normed, a->x, l->attn_norm, n, samples, d, hp->rms_eps);
}
