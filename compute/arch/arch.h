/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Architectures: families of models that share the decoder block
 *
 *     x += Wo . attention(rope(Wq n + bq), rope(Wk n + bk), Wv n + bv),   n = rmsnorm(x)
 *     x += Wdown . (silu(Wgate m) * (Wup m)),                             m = rmsnorm(x)
 *
 * One file per family says how it differs; what a file asks for beyond that is refused by name.
 */
#ifndef ISTHMUS_COMPUTE_ARCH_H
#define ISTHMUS_COMPUTE_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/gguf.h"

struct arch {
    const char *name; /* general.architecture, and the prefix of its keys */
    bool rope_neox;   /* rotate pairs (i, i + n/2); else (2i, 2i + 1) */
    bool qkv_bias;    /* the biases of q, k and v must be there; else they may */
};

extern const struct arch arch_llama, arch_qwen2;

/* Hyper-parameters, each proved to be within limits that keep every product of two in 32 bits. */
struct hparams {
    const struct arch *arch;
    uint32_t n_layers;
    uint32_t d_model; /* multiple of 32 */
    uint32_t n_ff;    /* multiple of 32 */
    uint32_t n_heads;
    uint32_t n_kv_heads; /* divides n_heads */
    uint32_t head_dim;   /* multiple of 16; n_heads * head_dim a multiple of 32 */
    uint32_t rope_dims;  /* even, <= head_dim: the leading dims of a head that rotate */
    uint32_t n_vocab;
    uint32_t n_ctx; /* the model was trained for */
    float rms_eps;
    float rope_base;
    double rope_scale; /* positions are multiplied by this: 1, or 1/factor of linear scaling */
};

/* 0, -ENOTSUP (unknown architecture, or something it asks for that we don't have) or -EBADMSG
 * (missing or impossible values); err names it. */
int hparams_read(const struct gguf *g, struct hparams *hp, char *err);

#endif
