/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A text's way through a model while its layers are quantized, one after another, in f32: twice,
 * with the weights as they were and with those that have taken their place so far, so that each
 * matrix is fitted to what it will be given. Only one layer's weights are held, and four rows of
 * every token.
 *
 *     quantize_pass_open
 *     for each layer: quantize_pass_layer, then
 *         for each input, in order: quantize_pass_moments, quantize_pass_set of its matrices
 *         quantize_pass_advance
 *     or, for a layer that stays as it is: quantize_pass_skip
 */
#ifndef ISTHMUS_COMPUTE_QUANTIZE_PASS_H
#define ISTHMUS_COMPUTE_QUANTIZE_PASS_H

#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/team.h"

/* The inputs of a layer's matrices, in the order of its arithmetic. */
enum quantize_input_of {
    QUANTIZE_INPUT_QKV,
    QUANTIZE_INPUT_O,
    QUANTIZE_INPUT_FFN,
    QUANTIZE_INPUT_DOWN,
    QUANTIZE_INPUTS,
};

/* A layer's matrices, in that order too. */
enum quantize_matrix_of {
    QUANTIZE_Q,
    QUANTIZE_K,
    QUANTIZE_V,
    QUANTIZE_O,
    QUANTIZE_GATE,
    QUANTIZE_UP,
    QUANTIZE_DOWN,
    QUANTIZE_MATRICES,
};

/* "attn_q.weight" */
const char *quantize_matrix_name(enum quantize_matrix_of m);
enum quantize_input_of quantize_matrix_input(enum quantize_matrix_of m);

struct quantize_pass;

/* ids: n_windows sequences of `window` tokens each, inside the vocabulary. The team's. 0, or as
 * backprop_open, with err; keeps g. */
int quantize_pass_open(const struct gguf *g, const int32_t *ids, uint32_t n_windows,
                       uint32_t window, struct team *team, struct quantize_pass **out, char *err);
void quantize_pass_close(struct quantize_pass *p);

/* What it takes of memory, from the metadata alone: bytes. As quantize_pass_open. */
int quantize_pass_footprint(const struct gguf *g, uint64_t tokens, uint32_t window,
                            unsigned threads, size_t *bytes, char *err);

/* Load a layer. They come in order from 0. 0 or as quantize_pass_open. */
int quantize_pass_layer(struct quantize_pass *p, uint32_t layer, char *err);

/* Of the present layer; f32[n_rows][n_cols], valid until the next. */
const float *quantize_pass_weights(const struct quantize_pass *p, enum quantize_matrix_of m,
                                   uint32_t *n_rows, uint32_t *n_cols);

/* All f32 and the pass's, valid until the next call. x is an input of the model as it was, x' the
 * same of the one with the layers and matrices before quantized. */
struct quantize_moments {
    uint32_t n_cols;
    const float *moments; /* [n_cols][n_cols] sum x'_i x'_j */
    const float *cross;   /* [n_cols][n_cols] sum x_i x'_j */
};
/* 0 or -EDOM: not finite. */
int quantize_pass_moments(struct quantize_pass *p, enum quantize_input_of input,
                          struct quantize_moments *m);

/* A matrix as it is from now on; copied. 0 or -ENOMEM. */
int quantize_pass_set(struct quantize_pass *p, enum quantize_matrix_of m, const float *values);

/* On behind the layer. */
void quantize_pass_advance(struct quantize_pass *p);
void quantize_pass_skip(struct quantize_pass *p);

#endif
