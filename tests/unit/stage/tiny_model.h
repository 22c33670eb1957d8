/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A synthetic model of a few thousand random weights, written to a temporary GGUF file: everything
 * a stage does can be checked on it against plain arithmetic.
 */
#ifndef ISTHMUS_TESTS_TINY_MODEL_H
#define ISTHMUS_TESTS_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/gguf.h"

#define TINY_LAYERS   3u
#define TINY_D        64u
#define TINY_HEADS    4u
#define TINY_KV_HEADS 2u
#define TINY_HEAD_DIM 16u
#define TINY_FF       96u
#define TINY_VOCAB    80u
#define TINY_CTX      96u
#define TINY_EPS      1e-5f
#define TINY_BASE     10000.0f
#define TINY_PARENT   "0123456789abcdef0123456789abcdef"
#define TINY_PAIR     "fedcba9876543210fedcba9876543210"

struct tiny_params {
    const char *arch; /* "llama" or "qwen2" */
    uint64_t seed;
    uint32_t head_dim; /* 0: TINY_HEAD_DIM, and not said */
    uint32_t n_ctx;    /* 0: TINY_CTX */
    bool tied;         /* no output.weight */
    bool rope_factors; /* rope_freqs.weight */
    /* Store the matrices of layers in this scheme, with a sparse part; NULL: plain. */
    const char *scheme;
    /* "edge" or "cloud": only that half's tensors, cut before layer `split`; NULL: whole. */
    const char *half;
    uint32_t split;
    /* Defects, each by the tensor's name; NULL: none. */
    const char *missing, *misshapen, *extra;
    /* A metadata key (after the arch's prefix) with another value, or one more. */
    const char *key;
    uint32_t value;
    const char *string_key, *string_value;
    uint32_t n_tokens; /* of tokenizer.ggml.tokens; 0: no such key */
};

/* Write the file; path is malloc'd, the caller unlinks it. */
char *tiny_write(const struct tiny_params *p);

/* The values of a tensor, malloc'd; NULL: no such tensor. */
float *tiny_tensor(const struct gguf *g, const char *name);

#endif
