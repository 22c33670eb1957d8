/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/backprop.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/backprop/impl.h"
#include "compute/gguf.h"
#include "compute/philox.h"

/* --- weights --------------------------------------------------------------------------------- */

static int weights_open(const struct gguf *g, uint32_t first_layer, bool count,
                        struct backprop **out, char *err)
{
    struct backprop *b = calloc(1, sizeof(*b));

    *out = NULL;
    err[0] = '\0';
    if (!b)
        return gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    int rc = hparams_read(g, &b->hp, err);
    if (rc == 0 && first_layer >= b->hp.n_layers)
        rc = gguf_fail(gguf_path(g), err, -ERANGE, "no layers from %u on: the model has %u",
                       first_layer, b->hp.n_layers);
    if (rc == 0)
        rc = bp_weights_load(g, first_layer, count, b, err);
    if (rc) {
        if (!err[0])
            gguf_fail(gguf_path(g), err, rc, "%s", strerror(-rc));
        backprop_close(b);
        return rc;
    }
    *out = b;
    return 0;
}

int backprop_open(const struct gguf *g, uint32_t first_layer, struct backprop **out, char *err)
{
    return weights_open(g, first_layer, false, out, err);
}

void bp_layer_free(struct bp_layer *l)
{
    float *const all[] = {l->attn_norm, l->ffn_norm, l->q, l->k,    l->v,  l->q_bias,
                          l->k_bias,    l->v_bias,   l->o, l->gate, l->up, l->down};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

void backprop_close(struct backprop *b)
{
    if (!b)
        return;
    for (uint32_t i = 0; b->layers && i < b->n_layers; i++)
        bp_layer_free(&b->layers[i]);
    free(b->layers);
    free(b->rope_factors);
    free(b->out_norm);
    free(b->head);
    free(b);
}

uint32_t backprop_cols(const struct backprop *b)
{
    return b->hp.d_model;
}

uint32_t backprop_vocab(const struct backprop *b)
{
    return b->hp.n_vocab;
}

size_t backprop_bytes(const struct backprop *b)
{
    return b->bytes;
}

/* --- scratch --------------------------------------------------------------------------------- */

static void fill_angles(struct backprop_work *w)
{
    const struct hparams *hp = &w->b->hp;
    const uint32_t pairs = hp->rope_dims / 2;

    for (uint32_t i = 0; i < pairs; i++) {
        const double factor = w->b->rope_factors ? (double)w->b->rope_factors[i] : 1;
        const double freq =
            pow((double)hp->rope_base, -2.0 * i / hp->rope_dims) * hp->rope_scale / factor;

        for (uint32_t t = 0; t < w->max_tokens; t++) {
            float *cs = w->cs + ((size_t)t * pairs + i) * 2;
            cs[0] = (float)cos(t * freq);
            cs[1] = (float)sin(t * freq);
        }
    }
}

/* Everything's place in a block, whose bytes are returned; with a block of NULL only those. */
static size_t lay_out(struct backprop_work *w, float *block)
{
    const struct hparams *hp = &w->b->hp;
    const size_t n = w->max_tokens, rows = n * w->max_samples, d = hp->d_model, ff = hp->n_ff;
    const size_t q = hp->n_heads * hp->head_dim, kv = hp->n_kv_heads * hp->head_dim;
    const struct {
        float **to;
        size_t floats;
    } parts[] = {
        {&w->cs, n * hp->rope_dims},
        {&w->inputs, (w->b->n_layers + 1) * n * d},
        {&w->acts.normed, n * d},
        {&w->acts.q, n * q},
        {&w->acts.k, n * kv},
        {&w->acts.v, n * kv},
        {&w->acts.mixed, n * q},
        {&w->acts.mid, n * d},
        {&w->acts.gate, n * ff},
        {&w->acts.up, n * ff},
        {&w->acts.act, n * ff},
        {&w->d_normed, rows * d},
        {&w->d_q, rows * q},
        {&w->d_mixed, rows * q},
        {&w->d_k, rows * kv},
        {&w->d_v, rows * kv},
        {&w->d_gate, rows * ff},
        {&w->d_up, rows * ff},
        {&w->probs, ATTENTION_ROWS * n},
        {&w->d_probs, ATTENTION_ROWS * n},
        {&w->logits, HEAD_ROWS * (size_t)hp->n_vocab},
    };
    size_t floats = 0;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (block)
            *parts[i].to = block + floats;
        floats += (parts[i].floats + 15) / 16 * 16;
    }
    return floats * sizeof(float);
}

int backprop_work_open(const struct backprop *b, uint32_t max_tokens, uint32_t max_samples,
                       struct backprop_work **out)
{
    struct backprop_work *w = calloc(1, sizeof(*w));

    *out = NULL;
    if (!w)
        return -ENOMEM;
    *w = (struct backprop_work){.b = b, .max_tokens = max_tokens, .max_samples = max_samples};
    w->block = aligned_alloc(64, lay_out(w, NULL));
    if (max_tokens == 0 || !w->block) {
        backprop_work_close(w);
        return max_tokens == 0 ? -EINVAL : -ENOMEM;
    }
    lay_out(w, w->block);
    fill_angles(w);
    *out = w;
    return 0;
}

int backprop_footprint(const struct gguf *g, uint32_t first_layer, uint32_t max_tokens,
                       uint32_t max_samples, size_t *weights_bytes, size_t *work_bytes, char *err)
{
    struct backprop *b;
    const int rc = weights_open(g, first_layer, true, &b, err);

    if (rc)
        return rc;
    struct backprop_work w = {.b = b, .max_tokens = max_tokens, .max_samples = max_samples};
    *weights_bytes = backprop_bytes(b);
    *work_bytes = lay_out(&w, NULL);
    backprop_close(b);
    return 0;
}

void backprop_work_close(struct backprop_work *w)
{
    if (!w)
        return;
    free(w->block);
    free(w);
}

/* --- forward --------------------------------------------------------------------------------- */

static float *layer_input(const struct backprop_work *w, uint32_t layer)
{
    return w->inputs + (size_t)layer * w->max_tokens * w->b->hp.d_model;
}

/* The rows that each layer, and the head, starts from. */
static void run_layers(struct backprop_work *w, const float *x, uint32_t n)
{
    memcpy(layer_input(w, 0), x, (size_t)n * w->b->hp.d_model * sizeof(*x));
    for (uint32_t i = 0; i < w->b->n_layers; i++) {
        w->acts.x = layer_input(w, i);
        bp_layer_forward(w, &w->b->layers[i], n, layer_input(w, i + 1));
    }
}

/* Logits of rows [from, from + count) of the last layer's result, whose norms are in acts.normed.
 */
static void run_head(struct backprop_work *w, uint32_t from, uint32_t count)
{
    const struct hparams *hp = &w->b->hp;
    const float *x = layer_input(w, w->b->n_layers) + (size_t)from * hp->d_model;

    bp_norm(w->acts.normed, x, w->b->out_norm, count, hp->d_model, hp->rms_eps);
    bp_multiply(w->logits, w->acts.normed, w->b->head, count, hp->n_vocab, hp->d_model, 0);
}

void backprop_forward(struct backprop_work *w, const float *x, uint32_t n, backprop_fn fn,
                      void *arg)
{
    run_layers(w, x, n);
    for (uint32_t from = 0; from < n; from += HEAD_ROWS) {
        const uint32_t count = n - from < HEAD_ROWS ? n - from : HEAD_ROWS;

        run_head(w, from, count);
        fn(arg, from, count, w->logits);
    }
}

/* --- backward -------------------------------------------------------------------------------- */

/* Logits to probabilities. */
static void softmax(float *row, uint32_t n)
{
    float max = row[0];
    double sum = 0;

    for (uint32_t i = 1; i < n; i++)
        max = fmaxf(max, row[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += (double)(row[i] = expf(row[i] - max));
    const float scale = (float)(1 / sum);
    for (uint32_t i = 0; i < n; i++)
        row[i] *= scale;
}

/* The likeliest id is the way out where rounding leaves u past the end. */
static int32_t draw(const float *probs, uint32_t n, double u)
{
    double sum = 0;
    uint32_t best = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += (double)probs[i];
        if (u < sum)
            return (int32_t)i;
        if (probs[i] > probs[best])
            best = i;
    }
    return (int32_t)best;
}

static double uniform(uint64_t seed, uint32_t window, uint32_t t, uint32_t sample)
{
    uint32_t ctr[4] = {window, t, sample, 0};

    philox4x32_10(ctr, (uint32_t)seed, (uint32_t)(seed >> 32));
    return ((double)ctr[0] + (double)ctr[1] * 0x1p-32) * 0x1p-32;
}

/* The gradient of -log p(id) by the logits is p, but p - 1 at id: W' p, the product, is the same
 * for all samples, and a row of W is taken off it. d_normed[samples][count] of the rows [from, from
 * + count). */
static void head_backward(struct backprop_work *w, uint32_t n, uint32_t samples, uint32_t from,
                          uint32_t count, const int32_t *ids)
{
    const uint32_t d = w->b->hp.d_model, n_vocab = w->b->hp.n_vocab;
    float *shared = w->acts.mid; /* of no use here */

    bp_multiply_back(shared, w->logits, w->b->head, count, n_vocab, d, 0);
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t r = 0; r < count; r++) {
            const float *id_row = w->b->head + (size_t)ids[(size_t)s * n + from + r] * d;
            float *to = w->d_normed + ((size_t)s * count + r) * d;

            for (uint32_t i = 0; i < d; i++)
                to[i] = shared[(size_t)r * d + i] - id_row[i];
        }
}

/* grads of rows [from, from + count) before the last norm. */
static void head_grads(struct backprop_work *w, uint32_t n, uint32_t samples, uint32_t from,
                       uint32_t count, float *grads)
{
    const struct hparams *hp = &w->b->hp;
    const size_t d = hp->d_model;
    const float *x = layer_input(w, w->b->n_layers) + from * d;

    for (uint32_t s = 0; s < samples; s++) {
        float *to = grads + ((size_t)s * n + from) * d;

        memset(to, 0, count * d * sizeof(*to));
        bp_norm_backward(to, w->d_normed + s * count * d, x, w->b->out_norm, count, 1, hp->d_model,
                         hp->rms_eps);
    }
}

void backprop_grads(struct backprop_work *w, const float *x, uint32_t n, uint32_t samples,
                    const uint64_t *seed, uint32_t window, int32_t *ids, float *grads)
{
    const uint32_t n_vocab = w->b->hp.n_vocab;

    run_layers(w, x, n);
    for (uint32_t from = 0; from < n; from += HEAD_ROWS) {
        const uint32_t count = n - from < HEAD_ROWS ? n - from : HEAD_ROWS;

        run_head(w, from, count);
        for (uint32_t r = 0; r < count; r++)
            softmax(w->logits + (size_t)r * n_vocab, n_vocab);
        for (uint32_t i = 0; seed && i < samples * count; i++) {
            const uint32_t s = i / count, t = from + i % count;
            ids[(size_t)s * n + t] = draw(w->logits + (size_t)(t - from) * n_vocab, n_vocab,
                                          uniform(*seed, window, t, s));
        }
        head_backward(w, n, samples, from, count, ids);
        head_grads(w, n, samples, from, count, grads);
    }
    for (uint32_t i = w->b->n_layers; i-- > 0;) {
        w->acts.x = layer_input(w, i);
        /* The result is thrown away: what comes behind this layer is done with. */
        bp_layer_forward(w, &w->b->layers[i], n, layer_input(w, i + 1));
        bp_layer_backward(w, &w->b->layers[i], n, samples, grads);
    }
}
