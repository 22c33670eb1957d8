/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/cost.h"

#include <stdio.h>

#include "compute/gguf.h"

static double macs(const struct gguf_tensor *t)
{
    return t && t->n_dims == 2 ? (double)t->ne[0] * (double)t->ne[1] : 0;
}

void cost_count_macs(const struct gguf *g, uint32_t first, uint32_t end, uint32_t n_layers,
                     struct cost_model *m)
{
    m->layer_macs = m->head_macs = 0;
    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        unsigned layer;
        if (sscanf(t->name, "blk.%u.", &layer) == 1 && layer >= first && layer < end)
            m->layer_macs += macs(t);
    }
    if (end == n_layers) {
        const struct gguf_tensor *head = gguf_find(g, "output.weight");
        m->head_macs = macs(head ? head : gguf_find(g, "token_embd.weight"));
    }
}

struct cost cost_prefill(const struct cost_model *m, uint32_t depth, uint32_t tokens)
{
    return (struct cost){
        .bytes = m->weights_bytes + m->kv_bytes_per_token * ((double)depth + tokens),
        .ops = 2 * (m->layer_macs * tokens + m->head_macs),
    };
}

struct cost cost_decode(const struct cost_model *m, uint32_t depth, uint32_t tokens, uint32_t batch)
{
    const double mean_length = depth + (tokens + 1.0) / 2;

    return (struct cost){
        .bytes = tokens * (m->weights_bytes + batch * m->kv_bytes_per_token * mean_length),
        .ops = 2.0 * tokens * batch * (m->layer_macs + m->head_macs),
    };
}

struct cost_bound cost_bound(struct cost c, double bytes_per_s, double ops_per_s)
{
    const double memory_s = c.bytes / bytes_per_s, products_s = c.ops / ops_per_s;

    return memory_s > products_s ? (struct cost_bound){memory_s, "memory"}
                                 : (struct cost_bound){products_s, "products"};
}
