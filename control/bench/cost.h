/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model needs at least for some tokens: bytes read from memory and integer operations. The
 * time that a machine must take for it is the longer of the two at its best rates; a bound ratio is
 * that time over the one that was taken.
 */
#ifndef ISTHMUS_CONTROL_BENCH_COST_H
#define ISTHMUS_CONTROL_BENCH_COST_H

#include <stddef.h>
#include <stdint.h>

struct gguf;

/* Of the layers that a stage holds. */
struct cost_model {
    double weights_bytes;      /* that a step reads: panels, the head among them */
    double kv_bytes_per_token; /* of the cache */
    double layer_macs;         /* multiply-adds a token: the layers' matrices */
    double head_macs;          /* and the head's, for each row of logits; 0: no head here */
};

/* The multiply-adds of layers [first, end) of n_layers, from the file's metadata. */
void cost_count_macs(const struct gguf *g, uint32_t first, uint32_t end, uint32_t n_layers,
                     struct cost_model *m);

struct cost {
    double bytes, ops; /* an operation is half a multiply-add */
};

/* One sequence reads `tokens` more after `depth`, with the logits of the last; weights are read at
 * least once. */
struct cost cost_prefill(const struct cost_model *m, uint32_t depth, uint32_t tokens);

/* `batch` sequences get `tokens` more each after `depth`, together, one step a token: each step
 * reads the weights once and every sequence's keys and values, the new token's among them. */
struct cost cost_decode(const struct cost_model *m, uint32_t depth, uint32_t tokens,
                        uint32_t batch);

struct cost_bound {
    double s;         /* the least time */
    const char *what; /* "memory" or "products": which takes so long */
};

/* At rates in bytes and operations a second. */
struct cost_bound cost_bound(struct cost c, double bytes_per_s, double ops_per_s);

#endif
