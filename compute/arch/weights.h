/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tensors of a stage: which there must be, of what shape, and their loading. Every tensor of
 * the file has to be one we know: one that is left out would give silently wrong tokens.
 */
#ifndef ISTHMUS_COMPUTE_WEIGHTS_H
#define ISTHMUS_COMPUTE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/arch/arch.h"
#include "compute/gguf.h"
#include "compute/kernels/kernels.h"
#include "compute/loading.h"
#include "compute/team.h"

struct layer_weights {
    float *attn_norm;                /* [d_model] */
    struct mat *q, *k, *v;           /* [n_heads * head_dim or n_kv_heads * head_dim][d_model] */
    float *q_bias, *k_bias, *v_bias; /* NULL: none */
    struct mat *o;                   /* [d_model][n_heads * head_dim] */
    float *ffn_norm;                 /* [d_model] */
    struct mat *gate, *up;           /* [n_ff][d_model] */
    struct mat *down;                /* [d_model][n_ff] */
};

struct weights {
    uint32_t n_layers;            /* held here */
    bool ends;                    /* with the model's last */
    struct layer_weights *layers; /* [n_layers] */
    float *rope_factors;          /* [rope_dims / 2], divide the frequencies; NULL: none */
    float *out_norm;              /* [d_model]; NULL: no head here */
    struct mat *head;             /* [n_vocab][d_model]; NULL: no head here */
    size_t bytes;                 /* resident, all of it */
};

/* Load layers [first, end), and the head if asked for, on the team that will run them. 0, -ENOTSUP
 * (a tensor we don't know), -EBADMSG (missing or misshapen), -ENOMEM, -EIO; err names the tensor. w
 * may be freed whatever comes back. */
int weights_load(const struct gguf *g, const struct hparams *hp, uint32_t first, uint32_t end,
                 bool head, struct team *team, const struct loading *loading, struct weights *w,
                 char *err);
void weights_free(struct weights *w);

/* The same checks and w->bytes, from the metadata alone: *bytes. */
int weights_count(const struct gguf *g, const struct hparams *hp, uint32_t first, uint32_t end,
                  bool head, size_t *bytes, char *err);

#endif
