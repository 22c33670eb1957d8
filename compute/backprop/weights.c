/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "compute/arch/weights.h"
#include "compute/backprop/impl.h"

/* No plain tensor of that name. */
static int none(const struct gguf *g, const char *name, char *err)
{
    struct gguf_str scheme;
    char key[96];

    snprintf(key, sizeof(key), "isthmus.scheme.%s", name);
    if (gguf_str(g, key, &scheme))
        return 0;
    return gguf_fail(gguf_path(g), err, -ENOTSUP,
                     "tensor %s: is stored as %.*s: calibrate the model it was made from", name,
                     (int)scheme.len, scheme.ptr);
}

/* A tensor, already proved to have its shape. *to is NULL when there is none, or it is but counted.
 * Here there is no arithmetic on codes: -ENOTSUP of a matrix in a scheme. */
static int load(const struct gguf *g, const char *name, bool count, float **to, size_t *bytes,
                char *err)
{
    const struct gguf_tensor *t = gguf_find(g, name);

    *to = NULL;
    if (!t)
        return none(g, name, err);
    const size_t n = (size_t)(t->ne[0] * t->ne[1]);
    *bytes += n * sizeof(**to);
    if (count)
        return 0;
    void *raw = malloc(t->bytes);
    int rc = -ENOMEM;
    *to = malloc(n * sizeof(**to));
    if (raw && *to)
        rc = gguf_read(g, t, 0, raw, t->bytes, err);
    else
        gguf_fail(gguf_path(g), err, rc, "tensor %s: out of memory", name);
    if (rc == 0 && !qtype_finite(t->type, raw, n))
        rc = gguf_fail(gguf_path(g), err, -EBADMSG, "tensor %s: an infinite or NaN value", name);
    if (rc == 0)
        qtype_dequantize(t->type, raw, *to, n);
    free(raw);
    return rc;
}

static int load_layer(const struct gguf *g, uint32_t layer, bool count, struct bp_layer *l,
                      size_t *bytes, char *err)
{
    const struct {
        const char *name;
        float **to;
    } tensors[] = {
        {"attn_norm.weight", &l->attn_norm},
        {"ffn_norm.weight", &l->ffn_norm},
        {"attn_q.weight", &l->q},
        {"attn_k.weight", &l->k},
        {"attn_v.weight", &l->v},
        {"attn_q.bias", &l->q_bias},
        {"attn_k.bias", &l->k_bias},
        {"attn_v.bias", &l->v_bias},
        {"attn_output.weight", &l->o},
        {"ffn_gate.weight", &l->gate},
        {"ffn_up.weight", &l->up},
        {"ffn_down.weight", &l->down},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]) && rc == 0; i++) {
        char name[64];

        snprintf(name, sizeof(name), "blk.%u.%s", layer, tensors[i].name);
        rc = load(g, name, count, tensors[i].to, bytes, err);
    }
    return rc;
}

int bp_weights_load(const struct gguf *g, uint32_t first, bool count, struct backprop *b, char *err)
{
    size_t proved;
    int rc = weights_count(g, &b->hp, first, b->hp.n_layers, true, &proved, err);

    if (rc)
        return rc;
    b->n_layers = b->hp.n_layers - first;
    b->layers = calloc(b->n_layers, sizeof(*b->layers));
    if (!b->layers)
        return gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < b->n_layers && rc == 0; i++)
        rc = load_layer(g, first + i, count, &b->layers[i], &b->bytes, err);
    if (rc == 0)
        rc = load(g, "rope_freqs.weight", count, &b->rope_factors, &b->bytes, err);
    if (rc == 0)
        rc = load(g, "output_norm.weight", count, &b->out_norm, &b->bytes, err);
    if (rc == 0)
        rc = load(g, "output.weight", count, &b->head, &b->bytes, err);
    if (rc == 0 && !gguf_find(g, "output.weight"))
        rc = load(g, "token_embd.weight", count, &b->head, &b->bytes, err);
    return rc;
}

int bp_layer_load(const struct gguf *g, uint32_t layer, struct bp_layer *l, char *err)
{
    size_t bytes = 0;

    return load_layer(g, layer, false, l, &bytes, err);
}

int bp_rows_open(const struct gguf *g, struct backprop *b, char *err)
{
    int rc = hparams_read(g, &b->hp, err);
    size_t proved;

    if (rc == 0)
        rc = weights_count(g, &b->hp, 0, b->hp.n_layers, true, &proved, err);
    if (rc == 0)
        rc = load(g, "rope_freqs.weight", false, &b->rope_factors, &b->bytes, err);
    return rc;
}
