/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/arch/arch.h"
#include "compute/kernels/kernels.h"
#include "compute/quantize/quantize.h"
#include "compute/stage.h"

static const char *const names[PLAN_SCHEMES] = {
    [PLAN_KEEP] = "keep", [PLAN_Q8_0] = "Q8_0", [PLAN_Q6_K] = "Q6_K", [PLAN_Q5_0] = "Q5_0",
    [PLAN_Q4_1] = "Q4_1", [PLAN_Q4_0] = "Q4_0", [PLAN_G4] = "g4",     [PLAN_G3] = "g3",
    [PLAN_G2] = "g2",     [PLAN_SQ4] = "sq4",   [PLAN_SQ3] = "sq3",   [PLAN_SQ2] = "sq2",
};

const char *plan_scheme_name(enum plan_scheme s)
{
    return s < PLAN_SCHEMES ? names[s] : "?";
}

int plan_scheme_parse(const char *name, enum plan_scheme *s)
{
    for (unsigned i = 0; i < PLAN_SCHEMES; i++) {
        if (strcmp(name, names[i]) == 0) {
            *s = (enum plan_scheme)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* What `isthmus quantize` takes the name for. */
static struct quantize_scheme quantizes(enum plan_scheme s)
{
    struct quantize_scheme q = {.kind = QUANTIZE_KEEP};

    quantize_scheme_parse(names[s], &q); /* it knows them all: a test holds it */
    return q;
}

bool plan_scheme_is_standard(enum plan_scheme s)
{
    const enum quantize_kind kind = quantizes(s).kind;

    return kind == QUANTIZE_KEEP || kind == QUANTIZE_BLOCKS;
}

struct scheme plan_scheme_storage(enum plan_scheme s)
{
    const struct quantize_scheme q = quantizes(s);
    const bool groups = q.kind == QUANTIZE_GROUPS;

    return (struct scheme){.kind = groups                      ? SCHEME_G
                                   : q.kind == QUANTIZE_LEVELS ? SCHEME_SQ
                                                               : SCHEME_NONE,
                           .bits = q.bits,
                           .group_cols = groups ? q.group : 0};
}

uint32_t plan_matrix_sparse(const struct plan_matrix *m, enum plan_scheme s)
{
    const struct quantize_scheme q = quantizes(s);

    return (uint32_t)quantize_n_sparse(&q, m->rows, m->cols);
}

bool plan_matrix_takes(const struct plan_matrix *m, enum plan_scheme s)
{
    struct quantize_scheme q = quantizes(s);

    quantize_scheme_fit(&q, m->cols);
    return !quantize_scheme_refuses(&q, m->cols);
}

/* --- bytes ----------------------------------------------------------------------------------- */

enum qtype plan_matrix_type(const struct plan_matrix *m, enum plan_scheme s)
{
    if (s == PLAN_KEEP)
        return m->type;
    struct quantize_scheme q = quantizes(s);
    quantize_scheme_fit(&q, m->cols);
    return q.type;
}

size_t plan_matrix_bytes(const struct plan_matrix *m, enum plan_scheme s)
{
    if (s == PLAN_KEEP)
        return mat_bytes_for(m->type, m->rows, m->cols);
    const struct scheme stored = plan_scheme_storage(s);
    return stored.kind ? mat_bytes_for_scheme(&stored, m->rows, m->cols, plan_matrix_sparse(m, s))
                       : mat_bytes_for(plan_matrix_type(m, s), m->rows, m->cols);
}

size_t plan_layer_bytes(const struct plan_layer *l, enum plan_scheme s)
{
    size_t bytes = l->vector_bytes;

    for (uint32_t i = 0; i < l->n_mats; i++)
        bytes += plan_matrix_bytes(&l->mats[i], s);
    return bytes;
}

int plan_model_sum(struct plan_model *m)
{
    m->sums = calloc(m->n_layers + 1, sizeof(*m->sums));
    if (!m->sums)
        return -ENOMEM;
    for (uint32_t l = 0; l < m->n_layers; l++)
        for (unsigned s = 0; s < PLAN_SCHEMES; s++)
            m->sums[l + 1][s] =
                m->sums[l][s] + plan_layer_bytes(&m->layers[l], (enum plan_scheme)s);
    return 0;
}

double plan_layer_macs(const struct plan_layer *l)
{
    double macs = 0;

    for (uint32_t i = 0; i < l->n_mats; i++)
        macs += (double)l->mats[i].rows * l->mats[i].cols;
    return macs;
}

/* --- reading --------------------------------------------------------------------------------- */

/* "blk.12.attn_q.weight" -> 12, or -1. */
static int layer_of(const char *name)
{
    unsigned layer;
    char dot;

    if (sscanf(name, "blk.%u%c", &layer, &dot) != 2 || dot != '.' || layer >= PLAN_LAYERS_MAX)
        return -1;
    return (int)layer;
}

static struct plan_matrix matrix_of(const struct gguf_tensor *t)
{
    return (struct plan_matrix){
        .rows = (uint32_t)t->ne[1], .cols = (uint32_t)t->ne[0], .type = t->type};
}

static int add(const struct gguf *g, struct plan_model *m, const struct gguf_tensor *t, char *err)
{
    const int layer = layer_of(t->name);

    if (layer < 0)
        return 0;
    struct plan_layer *l = (uint32_t)layer < m->n_layers ? &m->layers[layer] : NULL;
    if (!l || t->n_dims > 2 || (t->n_dims == 2 && l->n_mats == PLAN_MATRICES) ||
        t->ne[0] > UINT32_MAX || t->ne[1] > UINT32_MAX)
        return gguf_fail(gguf_path(g), err, -EBADMSG,
                         "tensor %s: not part of a model that is known here", t->name);
    if (t->n_dims == 2)
        l->mats[l->n_mats++] = matrix_of(t);
    else
        l->vector_bytes += (size_t)t->ne[0] * sizeof(float);
    return 0;
}

static uint64_t text_of(const struct gguf *g, const char *key, uint32_t *n)
{
    struct gguf_str_iter it;
    struct gguf_str s;
    uint64_t bytes = 0, count;

    *n = 0;
    if (gguf_str_array(g, key, &it, &count))
        return 0;
    while (gguf_str_next(&it, &s)) {
        bytes += s.len;
        (*n)++;
    }
    return bytes;
}

/* What a stage would refuse has no plan either: names, types and shapes are those of a model whose
 * weights are plain tensors. */
static int prove(const struct gguf *g, char *err)
{
    const struct stage_params whole = {0};
    size_t weights_bytes, kv_bytes;
    struct gguf_str key;

    if (gguf_key_from(g, "isthmus.scheme.", &key))
        return gguf_fail(gguf_path(g), err, -ENOTSUP,
                         "%.*s: was written by isthmus quantize: give the model that it was made "
                         "from",
                         (int)key.len, key.ptr);
    return stage_footprint(g, &whole, 1, &weights_bytes, &kv_bytes, err);
}

int plan_model_sizes(const struct gguf *g, struct plan_model *m, char *err)
{
    struct hparams hp;
    uint32_t n_tokens;
    const int rc = hparams_read(g, &hp, err);

    memset(m, 0, sizeof(*m));
    if (rc)
        return rc;
    *m = (struct plan_model){
        .n_layers = hp.n_layers,
        .d_model = hp.d_model,
        .n_ff = hp.n_ff,
        .n_heads = hp.n_heads,
        .n_kv_heads = hp.n_kv_heads,
        .head_dim = hp.head_dim,
        .rope_dims = hp.rope_dims,
        .n_vocab = hp.n_vocab,
        .n_ctx = hp.n_ctx,
        .qkv_bias = hp.arch->qkv_bias,
    };
    m->text_bytes = text_of(g, "tokenizer.ggml.tokens", &n_tokens);
    m->text_bytes += text_of(g, "tokenizer.ggml.merges", &m->n_merges);
    return 0;
}

int plan_model_read(const struct gguf *g, struct plan_model *m, char *err)
{
    uint8_t fingerprint[16];
    int rc = plan_model_sizes(g, m, err);

    if (rc == 0)
        rc = prove(g, err);
    if (rc)
        return rc;
    m->layers = calloc(m->n_layers, sizeof(*m->layers));
    if (!m->layers)
        return gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < gguf_n_tensors(g) && rc == 0; i++)
        rc = add(g, m, gguf_tensor_at(g, i), err);
    const struct gguf_tensor *head = gguf_find(g, "output.weight");
    const struct gguf_tensor *rope = gguf_find(g, "rope_freqs.weight");
    if (!head)
        head = gguf_find(g, "token_embd.weight");
    if (rc == 0) {
        m->head = matrix_of(head);
        m->rope_bytes = rope ? (size_t)rope->ne[0] * sizeof(float) : 0;
        rc = gguf_fingerprint(g, fingerprint);
        if (rc)
            gguf_fail(gguf_path(g), err, rc, "%s", strerror(-rc));
    }
    if (rc == 0 && plan_model_sum(m) < 0)
        rc = gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < sizeof fingerprint && rc == 0; i++)
        snprintf(m->fingerprint + 2 * i, 3, "%02x", fingerprint[i]);
    if (rc)
        plan_model_free(m);
    return rc;
}

void plan_model_free(struct plan_model *m)
{
    free(m->layers);
    free(m->sums);
    memset(m, 0, sizeof(*m));
}
