/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers [first, L) and the head of a model in plain f32, with the way back: what the log
 * probability of tokens owes to the rows that came in. For calibration.
 *
 * Weights are held dequantized, 4 bytes each, the head too: .4 GB for layers 10-29 of
 * SmolLM2-135M, 1.4 GB for layers 8-23 of Qwen2.5-0.5B. Matrix products are BLAS calls of one
 * thread: parallel work is many windows at once, so that no result depends on the threads.
 */
#ifndef ISTHMUS_COMPUTE_BACKPROP_H
#define ISTHMUS_COMPUTE_BACKPROP_H

#include <stddef.h>
#include <stdint.h>

struct gguf;

/* The weights: read-only once open, shared by all threads. */
struct backprop;

/* 0, or as stage_open (err: GGUF_ERR bytes). Keeps nothing of g. */
int backprop_open(const struct gguf *g, uint32_t first_layer, struct backprop **out, char *err);
void backprop_close(struct backprop *b);
uint32_t backprop_cols(const struct backprop *b); /* d_model */
uint32_t backprop_vocab(const struct backprop *b);
size_t backprop_bytes(const struct backprop *b); /* of the weights */

/* One thread's scratch, for windows of up to max_tokens and up to max_samples gradients at once:
 * about max_tokens * (max_samples + 1) * (4 d_model + 3 n_ff) floats, and 64 rows of logits. */
struct backprop_work;

/* b must outlive it. 0, -EINVAL, -ENOMEM. */
int backprop_work_open(const struct backprop *b, uint32_t max_tokens, uint32_t max_samples,
                       struct backprop_work **out);
void backprop_work_close(struct backprop_work *w);

/* What backprop_open would hold, and each backprop_work_open beside it, from the metadata alone. 0
 * or as backprop_open. */
int backprop_footprint(const struct gguf *g, uint32_t first_layer, uint32_t max_tokens,
                       uint32_t max_samples, size_t *weights_bytes, size_t *work_bytes, char *err);

/* Logits f32[count][vocab] of rows first .. first + count - 1. */
typedef void (*backprop_fn)(void *arg, uint32_t first, uint32_t count, const float *logits);

/* Forward only. x f32[n][d_model]: the rows of tokens 0 .. n-1 of a sequence. */
void backprop_forward(struct backprop_work *w, const float *x, uint32_t n, backprop_fn fn,
                      void *arg);

/*
 * grads f32[samples][n][d_model]: of sum_t -log p(ids[s][t]) with respect to x, where p is the
 * model's distribution after token t.
 *   ids  i32[samples][n]: given when seed is NULL; else drawn from p, by Philox of *seed, the
 *        window, t and s
 */
void backprop_grads(struct backprop_work *w, const float *x, uint32_t n, uint32_t samples,
                    const uint64_t *seed, uint32_t window, int32_t *ids, float *grads);

#endif
