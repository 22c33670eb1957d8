/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the backward pass share. Matrices are row-major. */
#ifndef ISTHMUS_COMPUTE_BACKPROP_IMPL_H
#define ISTHMUS_COMPUTE_BACKPROP_IMPL_H

#include <cblas.h>
#include <stdbool.h>
#include <stdint.h>

#include "compute/arch/arch.h"
#include "compute/backprop.h"

#define HEAD_ROWS      64u  /* rows whose logits are held at once */
#define ATTENTION_ROWS 128u /* queries whose scores are held at once */

struct bp_layer {
    float *attn_norm, *ffn_norm;     /* [d_model] */
    float *q, *k, *v;                /* [heads * head_dim][d_model] */
    float *q_bias, *k_bias, *v_bias; /* NULL: none */
    float *o;                        /* [d_model][n_heads * head_dim] */
    float *gate, *up;                /* [n_ff][d_model] */
    float *down;                     /* [d_model][n_ff] */
};

struct backprop {
    struct hparams hp;
    uint32_t n_layers; /* held here */
    struct bp_layer *layers;
    float *rope_factors; /* [rope_dims / 2]; NULL: none */
    float *out_norm;     /* [d_model] */
    float *head;         /* [n_vocab][d_model] */
    size_t bytes;
};

/* One layer's way, kept for the way back. */
struct bp_acts {
    float *x;               /* [n][d_model] in */
    float *normed;          /* [n][d_model] */
    float *q;               /* [n][n_heads][head_dim], rotated */
    float *k, *v;           /* [n][n_kv_heads][head_dim], k rotated */
    float *mixed;           /* [n][n_heads][head_dim] what attention gives */
    float *mid;             /* [n][d_model] after attention */
    float *gate, *up, *act; /* [n][n_ff] */
};

struct backprop_work {
    const struct backprop *b;
    uint32_t max_tokens, max_samples;
    float *cs;     /* [max_tokens][rope_dims / 2][2] cos, sin */
    float *inputs; /* [n_layers + 1][max_tokens][d_model] of every layer, and of the head */
    struct bp_acts acts;

    /* gradients, [max_samples * max_tokens] rows each */
    float *d_normed;      /* [d_model] */
    float *d_q, *d_mixed; /* [n_heads * head_dim] */
    float *d_k, *d_v;     /* [n_kv_heads * head_dim] */
    float *d_gate, *d_up; /* [n_ff] */

    float *probs;   /* [ATTENTION_ROWS][max_tokens] */
    float *d_probs; /* the same */
    float *logits;  /* [HEAD_ROWS][n_vocab] */
    void *block;    /* all the above in one piece */
};

/* count: prove them and set b->bytes, but load nothing. */
int bp_weights_load(const struct gguf *g, uint32_t first, bool count, struct backprop *b,
                    char *err);

/* One layer's weights; an empty model, without layers and head, to run them. As backprop_open. */
int bp_layer_load(const struct gguf *g, uint32_t layer, struct bp_layer *l, char *err);
void bp_layer_free(struct bp_layer *l);
int bp_rows_open(const struct gguf *g, struct backprop *b, char *err);

/* acts.mixed <- attention over acts.x; acts.act <- from acts.mid: the layer without the products
 * that add to the rows. */
void bp_layer_attend(struct backprop_work *w, const struct bp_layer *l, uint32_t n);
void bp_layer_gate(struct backprop_work *w, const struct bp_layer *l, uint32_t n);

/* acts <- what the layer makes of acts->x; the layer's result to y, f32[n][d_model]. */
void bp_layer_forward(struct backprop_work *w, const struct bp_layer *l, uint32_t n, float *y);

/* After bp_layer_forward of the same rows: grads f32[samples][n][d_model] of the result become
 * those of the input. */
void bp_layer_backward(struct backprop_work *w, const struct bp_layer *l, uint32_t n,
                       uint32_t samples, float *grads);

/* mixed <- attention of q, k and v in acts. */
void bp_attend(struct backprop_work *w, uint32_t n);
/* d_q, d_k, d_v <- of d_mixed. */
void bp_attend_backward(struct backprop_work *w, uint32_t n, uint32_t samples);

/* --- rows ------------------------------------------------------------------------------------ */

void bp_norm(float *y, const float *x, const float *weight, uint32_t n, uint32_t cols, float eps);
/* dx[s][n][cols] += of dy[s][n][cols]. */
void bp_norm_backward(float *dx, const float *dy, const float *x, const float *weight, uint32_t n,
                      uint32_t samples, uint32_t cols, float eps);
/* Rotate heads of x[n][heads][head_dim]; sign -1: back. */
void bp_rotate(const struct backprop_work *w, float *x, uint32_t n, uint32_t heads, float sign);

/* --- products -------------------------------------------------------------------------------- */

/* y[n][rows] = add * y + x[n][cols] W', W[rows][cols]. */
static inline void bp_multiply(float *y, const float *x, const float *weight, uint32_t n,
                               uint32_t rows, uint32_t cols, float add)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)rows, (int)cols, 1, x,
                (int)cols, weight, (int)cols, add, y, (int)rows);
}

/* dx[n][cols] = add * dx + dy[n][rows] W, W[rows][cols]. */
static inline void bp_multiply_back(float *dx, const float *dy, const float *weight, uint32_t n,
                                    uint32_t rows, uint32_t cols, float add)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)cols, (int)rows, 1, dy,
                (int)rows, weight, (int)cols, add, dx, (int)cols);
}

#endif
