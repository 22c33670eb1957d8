/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/arch.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct arch *const arches[] = {&arch_llama, &arch_qwen2};

#define N_ARCHES (sizeof(arches) / sizeof(arches[0]))

#define LAYERS_MAX  1024u
#define HEADS_MAX   1024u
#define D_MODEL_MAX 16384u /* the codec's widest row */
#define FF_MAX      262144u
#define VOCAB_MAX   2097152u
#define CTX_MAX     16777216u

/* Reading one model: the first problem sticks and later reads do nothing. */
struct reader {
    const struct gguf *g;
    const char *arch;
    char *err;
    int rc;
};

static void fail(struct reader *r, int rc, const char *key, const char *what)
{
    if (r->rc)
        return;
    r->rc = gguf_fail(gguf_path(r->g), r->err, rc, "%s.%s: %s", r->arch, key, what);
}

static const char *full_key(const struct reader *r, const char *key, char buf[96])
{
    snprintf(buf, 96, "%s.%s", r->arch, key);
    return buf;
}

/* A whole number in [min, max], a multiple of `multiple`; the default where it may be left out. */
static uint32_t read_u32(struct reader *r, const char *key, uint32_t min, uint32_t max,
                         uint32_t multiple, const uint32_t *or_else)
{
    char buf[96], what[96];
    uint32_t v = 0;
    int rc = gguf_u32(r->g, full_key(r, key, buf), &v);

    if (rc == -ENOENT && or_else) {
        v = *or_else;
    } else if (rc) {
        fail(r, -EBADMSG, key, rc == -ENOENT ? "missing" : "must be one whole number");
        return min;
    }
    if (v < min || v > max || v % multiple) {
        if (multiple > 1)
            snprintf(what, sizeof(what), "%u is not a multiple of %u in [%u, %u]", v, multiple, min,
                     max);
        else
            snprintf(what, sizeof(what), "%u is outside [%u, %u]", v, min, max);
        fail(r, -EBADMSG, key, what);
        return min;
    }
    return v;
}

static float read_f32(struct reader *r, const char *key, float above, float max,
                      const float *or_else)
{
    char buf[96], what[96];
    float v = 0;
    int rc = gguf_f32(r->g, full_key(r, key, buf), &v);

    if (rc == -ENOENT && or_else)
        return *or_else;
    if (rc) {
        fail(r, -EBADMSG, key, rc == -ENOENT ? "missing" : "must be a number");
        return max;
    }
    if (!(v > above && v <= max)) { /* a NaN too */
        snprintf(what, sizeof(what), "%g is outside (%g, %g]", (double)v, (double)above,
                 (double)max);
        fail(r, -EBADMSG, key, what);
        return max;
    }
    return v;
}

/* Features that change the arithmetic and that we don't have. */
static void refuse_unsupported(struct reader *r, uint32_t n_ctx)
{
    char buf[96];
    uint32_t u;
    bool b;

    if (gguf_u32(r->g, full_key(r, "expert_count", buf), &u) != -ENOENT && u > 0)
        fail(r, -ENOTSUP, "expert_count", "mixtures of experts are not supported");
    if (gguf_bool(r->g, full_key(r, "attention.causal", buf), &b) == 0 && !b)
        fail(r, -ENOTSUP, "attention.causal", "models without causal attention are not supported");
    if (gguf_u32(r->g, full_key(r, "attention.sliding_window", buf), &u) == 0 && u && u < n_ctx)
        fail(r, -ENOTSUP, "attention.sliding_window", "a sliding window is not supported");
}

/* Linear scaling, under its present and its old key. */
static double read_rope_scale(struct reader *r)
{
    const float none = 1;
    struct gguf_str type;
    char buf[96], what[96];
    int rc = gguf_str(r->g, full_key(r, "rope.scaling.type", buf), &type);

    if (rc == -ENOENT)
        return 1 / (double)read_f32(r, "rope.scale_linear", 0, 65536, &none);
    if (rc == 0 && type.len == 4 && !memcmp(type.ptr, "none", 4))
        return 1;
    if (rc == 0 && type.len == 6 && !memcmp(type.ptr, "linear", 6))
        return 1 / (double)read_f32(r, "rope.scaling.factor", 0, 65536, &none);
    if (rc == 0)
        snprintf(what, sizeof(what), "\"%.*s\" is not supported (have: none, linear)",
                 type.len < 32 ? (int)type.len : 32, type.ptr);
    fail(r, rc ? -EBADMSG : -ENOTSUP, "rope.scaling.type", rc ? "must be a string" : what);
    return 1;
}

static const struct arch *find_arch(const struct gguf *g, char *err, int *rc)
{
    struct gguf_str name;

    if (gguf_str(g, "general.architecture", &name)) {
        *rc = gguf_fail(gguf_path(g), err, -EBADMSG, "general.architecture: missing, or no string");
        return NULL;
    }
    for (size_t i = 0; i < N_ARCHES; i++)
        if (strlen(arches[i]->name) == name.len && !memcmp(arches[i]->name, name.ptr, name.len))
            return arches[i];

    char have[64] = "";
    for (size_t i = 0; i < N_ARCHES; i++)
        snprintf(have + strlen(have), sizeof(have) - strlen(have), " %s", arches[i]->name);
    *rc = gguf_fail(gguf_path(g), err, -ENOTSUP,
                    "general.architecture: \"%.*s\" is not supported (have:%s)",
                    name.len < 32 ? (int)name.len : 32, name.ptr, have);
    return NULL;
}

static uint32_t read_vocab(struct reader *r)
{
    const struct gguf_tensor *t = gguf_find(r->g, "token_embd.weight");
    const char *name = "token_embd.weight";
    struct gguf_str_iter tokens;
    uint64_t n;

    if (r->rc)
        return 1;
    if (!t && gguf_find(r->g, "output.weight")) /* the back half may have only this */
        t = gguf_find(r->g, name = "output.weight");
    if (!t || t->n_dims != 2 || t->ne[1] > VOCAB_MAX) {
        r->rc =
            gguf_fail(gguf_path(r->g), r->err, -EBADMSG, "tensor %s: %s", name,
                      t ? "must have two dimensions, the second within [1, 2097152]" : "missing");
        return 1;
    }
    /* Else some token would have no row, or some row no token. */
    if (gguf_str_array(r->g, "tokenizer.ggml.tokens", &tokens, &n) == 0 && n != t->ne[1])
        r->rc = gguf_fail(gguf_path(r->g), r->err, -EBADMSG,
                          "tokenizer.ggml.tokens: %llu tokens, %s has %llu rows",
                          (unsigned long long)n, name, (unsigned long long)t->ne[1]);
    return (uint32_t)t->ne[1];
}

int hparams_read(const struct gguf *g, struct hparams *hp, char *err)
{
    struct reader r = {.g = g, .err = err};

    memset(hp, 0, sizeof(*hp));
    hp->arch = find_arch(g, err, &r.rc);
    if (!hp->arch)
        return r.rc;
    r.arch = hp->arch->name;

    hp->n_layers = read_u32(&r, "block_count", 1, LAYERS_MAX, 1, NULL);
    hp->d_model = read_u32(&r, "embedding_length", 32, D_MODEL_MAX, 32, NULL);
    hp->n_ff = read_u32(&r, "feed_forward_length", 32, FF_MAX, 32, NULL);
    hp->n_heads = read_u32(&r, "attention.head_count", 1, HEADS_MAX, 1, NULL);
    hp->n_kv_heads = read_u32(&r, "attention.head_count_kv", 1, HEADS_MAX, 1, &hp->n_heads);
    hp->n_ctx = read_u32(&r, "context_length", 1, CTX_MAX, 1, NULL);
    if (r.rc)
        return r.rc;

    if (hp->n_heads % hp->n_kv_heads)
        fail(&r, -EBADMSG, "attention.head_count_kv", "does not divide attention.head_count");
    const uint32_t even_dim = hp->d_model / hp->n_heads;
    hp->head_dim = read_u32(&r, "attention.key_length", 16, 512, 16, &even_dim);
    if (read_u32(&r, "attention.value_length", 16, 512, 16, &hp->head_dim) != hp->head_dim)
        fail(&r, -ENOTSUP, "attention.value_length", "differs from attention.key_length");
    if (hp->n_heads * hp->head_dim % 32 || hp->n_heads * hp->head_dim > 2 * D_MODEL_MAX)
        fail(&r, -EBADMSG, "attention.head_count",
             "times the head's width is no multiple of 32, "
             "or past 32768");
    hp->rope_dims = read_u32(&r, "rope.dimension_count", 2, hp->head_dim, 2, &hp->head_dim);

    const float base = 10000;
    hp->rms_eps = read_f32(&r, "attention.layer_norm_rms_epsilon", 0, 1, NULL);
    hp->rope_base = read_f32(&r, "rope.freq_base", 1, 1e12f, &base);
    hp->rope_scale = read_rope_scale(&r);
    hp->n_vocab = read_vocab(&r);
    refuse_unsupported(&r, hp->n_ctx);
    return r.rc;
}
