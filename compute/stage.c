/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/stage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/arch/decoder.h"
#include "compute/embed.h"
#include "compute/gguf.h"
#include "compute/kv.h"
#include "compute/stage_file.h"
#include "compute/team.h"

#define MAX_ROWS_DEFAULT 128u
#define MAX_ROWS_LIMIT   4096u
#define MAX_SEQS_LIMIT   4096u
#define N_CTX_DEFAULT    8192u

/* Changes with the order of operations here; the kernels have their own. */
#define STAGE_NUMERICS_ID 3u

/* A stage on this machine's cores. */
struct cpu_stage {
    struct stage base;
    struct stage_info info;
    struct hparams hp;
    struct weights weights;
    struct embed *embed; /* NULL: another stage has the embedding */
    struct kv *kv;
    struct decoder *decoder;
    struct decoder_row *rows; /* [max_rows] of the running batch */
    uint32_t *wanted;         /* [max_rows] rows of it of which something is wanted, */
    bool *hidden;             /* [max_rows] and whether that is the hidden state */
};

static struct cpu_stage *self(struct stage *s)
{
    return (struct cpu_stage *)s;
}

/* --- sequences ------------------------------------------------------------------------------- */

static const struct stage_info *cpu_info(const struct stage *s)
{
    return &((const struct cpu_stage *)s)->info;
}

static size_t cpu_seq_bytes(const struct stage *s, enum kv_format f, uint32_t max_tokens)
{
    return kv_bytes_for(kv_shape(((const struct cpu_stage *)s)->kv), f, max_tokens);
}

static size_t cpu_seq_own_bytes(const struct stage *s, int seq)
{
    return kv_own_bytes(((const struct cpu_stage *)s)->kv, seq);
}

/* What the sequences take, for whoever asks. */
static void keep_account(struct cpu_stage *s)
{
    const struct kv_account a = kv_account(s->kv);

    s->info.kv_bytes = a.resident_bytes;
    s->info.kv_budget_bytes = a.budget_bytes;
    s->info.kv_reserved_bytes = a.reserved_bytes;
    s->info.kv_shared_bytes = a.shared_bytes;
}

static int cpu_seq_open(struct stage *s, enum kv_format f, uint32_t max_tokens)
{
    if (max_tokens == 0 || max_tokens > self(s)->info.n_ctx)
        return -ERANGE;
    if (!stage_has_kv(&self(s)->info, f))
        return -ENOTSUP;
    int seq = kv_seq_open(self(s)->kv, f, max_tokens);
    keep_account(self(s));
    return seq;
}

static int cpu_seq_fork(struct stage *s, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    if (max_tokens == 0 || max_tokens > self(s)->info.n_ctx)
        return -ERANGE;
    int fork = kv_seq_fork(self(s)->kv, seq, n_tokens, max_tokens);
    keep_account(self(s));
    return fork;
}

static int cpu_seq_truncate(struct stage *s, int seq, uint32_t n_tokens)
{
    int rc = kv_seq_truncate(self(s)->kv, seq, n_tokens);
    keep_account(self(s));
    return rc;
}

static void cpu_seq_close(struct stage *s, int seq)
{
    kv_seq_close(self(s)->kv, seq);
    keep_account(self(s));
}

/* --- running --------------------------------------------------------------------------------- */

struct counts {
    uint32_t rows, wanted, hidden;
};

/* Prove the batch and lay it out in rows and wanted. 0 or -EINVAL. */
static int plan(struct cpu_stage *s, const struct stage_rows *batch, size_t n_batch,
                struct counts *n)
{
    *n = (struct counts){0};
    if (n_batch > s->info.max_seqs)
        return -EINVAL;
    for (size_t b = 0; b < n_batch; b++) {
        const struct stage_rows *r = &batch[b];
        const uint32_t n_wanted = r->n_logits ? r->n_logits : r->n_hidden;

        if (r->n == 0 || r->n > s->info.max_rows - n->rows || n_wanted > r->n ||
            (n_wanted && !s->weights.ends) || (r->n_logits && (r->n_hidden || !s->weights.head)))
            return -EINVAL;
        if (kv_tokens(s->kv, r->seq) != r->pos ||
            kv_max_tokens(s->kv, r->seq) < (int64_t)r->pos + r->n)
            return -EINVAL;
        for (size_t other = 0; other < b; other++)
            if (batch[other].seq == r->seq)
                return -EINVAL;
        for (uint32_t i = 0; i < r->n; i++) {
            if (i >= r->n - n_wanted) {
                s->hidden[n->wanted] = r->n_hidden;
                s->wanted[n->wanted++] = n->rows;
            }
            s->rows[n->rows++] = (struct decoder_row){.seq = r->seq, .pos = r->pos + i};
        }
        n->hidden += r->n_hidden;
    }
    return 0;
}

static int check_ids(const struct cpu_stage *s, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->info.n_vocab)
            return -EINVAL;
    return 0;
}

/* Of the wanted rows, which stand at the front of x: hidden states go out, the others move together
 * for the head. */
static void part_wanted(struct cpu_stage *s, const struct counts *n, float *out)
{
    const size_t d = s->info.d_model;
    float *x = decoder_x(s->decoder), *stay = x;

    for (uint32_t i = 0; i < n->wanted; i++, x += d) {
        float **to = s->hidden[i] ? &out : &stay;

        if (*to != x)
            memcpy(*to, x, d * sizeof *x);
        *to += d;
    }
}

static int cpu_run(struct stage *base, const struct stage_rows *batch, size_t n_batch,
                   const int32_t *ids, const float *in, float *out, float *logits)
{
    struct cpu_stage *s = self(base);
    float *x = decoder_x(s->decoder);
    struct counts n;
    int rc = plan(s, batch, n_batch, &n);

    if (rc || n.rows == 0)
        return rc;
    if (!ids == !!s->embed || !in == !s->embed || !out == (!s->weights.ends || n.hidden) ||
        (n.wanted > n.hidden && !logits))
        return -EINVAL;

    size_t bytes = (size_t)n.rows * s->info.d_model * sizeof(float);
    if (s->embed) {
        rc = check_ids(s, ids, n.rows);
        if (rc == 0)
            rc = embed_rows(s->embed, ids, n.rows, x);
        if (rc)
            return rc;
    } else {
        memcpy(x, in, bytes);
    }
    for (size_t b = 0; b < n_batch; b++)
        kv_seq_append(s->kv, batch[b].seq, batch[b].n);
    keep_account(s);

    decoder_run(s->decoder, s->rows, n.rows, s->wanted, n.wanted, n.hidden ? NULL : logits);
    if (!s->weights.ends) {
        memcpy(out, x, bytes);
    } else if (n.hidden) {
        part_wanted(s, &n, out);
        if (n.wanted > n.hidden)
            decoder_head(s->decoder, n.wanted - n.hidden, logits);
    }
    return 0;
}

static int cpu_head(struct stage *base, uint32_t n, const float *in, float *logits)
{
    struct cpu_stage *s = self(base);

    if (n > s->info.max_rows || !s->weights.head)
        return -EINVAL;
    if (n == 0)
        return 0;
    memcpy(decoder_x(s->decoder), in, (size_t)n * s->info.d_model * sizeof(float));
    decoder_head(s->decoder, n, logits);
    return 0;
}

static void cpu_set_poll(struct stage *s, void (*poll)(void *arg), void *arg)
{
    decoder_set_poll(self(s)->decoder, poll, arg);
}

static void cpu_close(struct stage *base)
{
    struct cpu_stage *s = self(base);

    decoder_close(s->decoder);
    kv_close(s->kv);
    embed_close(s->embed);
    weights_free(&s->weights);
    free(s->rows);
    free(s->wanted);
    free(s->hidden);
    free(s);
}

static const struct stage_ops cpu_ops = {
    .info = cpu_info,
    .seq_bytes = cpu_seq_bytes,
    .seq_own_bytes = cpu_seq_own_bytes,
    .seq_open = cpu_seq_open,
    .seq_fork = cpu_seq_fork,
    .seq_truncate = cpu_seq_truncate,
    .seq_close = cpu_seq_close,
    .run = cpu_run,
    .head = cpu_head,
    .set_poll = cpu_set_poll,
    .close = cpu_close,
};

/* --- opening --------------------------------------------------------------------------------- */

/* Of a half's file its own layers, whole. */
static int check_half(const struct gguf *g, const struct hparams *hp, const struct stage_file *f,
                      const struct stage_params *p, char *err)
{
    const uint32_t first = f->half == STAGE_CLOUD ? f->split : 0,
                   end = f->half == STAGE_EDGE ? f->split : f->n_layers;

    if (f->half == STAGE_WHOLE)
        return 0;
    if (f->n_layers != hp->n_layers)
        return gguf_fail(gguf_path(g), err, -EBADMSG,
                         "isthmus.layers: %u, the model's hyper-parameters say %u", f->n_layers,
                         hp->n_layers);
    /* An edge half has a head only where that is the embedding's matrix: with the output norm. */
    if (f->half == STAGE_EDGE && p->head == STAGE_HEAD_WITH && !gguf_find(g, "output_norm.weight"))
        return gguf_fail(gguf_path(g), err, -ERANGE,
                         "this edge half of a model has no head: leave out --head edge, or run "
                         "from the whole model (isthmus quantize gives an edge half a head where "
                         "the model's is its embedding, in pairs made since it does)");
    if (p->first_layer == first && p->end_layer == end)
        return 0;
    return gguf_fail(gguf_path(g), err, -ERANGE,
                     "this is the %s half of a model, layers %u to %u of %u: layers %u to %u are "
                     "not to be had from it",
                     stage_half_name(f->half), first, end - 1, f->n_layers, p->first_layer,
                     p->end_layer - 1);
}

static struct kv_shape shape_of(const struct hparams *hp, const struct stage_params *p)
{
    return (struct kv_shape){
        .n_layers = p->end_layer - p->first_layer,
        .n_kv_heads = hp->n_kv_heads,
        .head_dim = hp->head_dim,
    };
}

static uint32_t formats_of(const struct kv_shape *shape)
{
    uint32_t bits = 0;

    for (unsigned f = 0; f < KV_FORMATS; f++)
        bits |= (uint32_t)kv_shape_takes(shape, (enum kv_format)f) << f;
    return bits;
}

/* Defaults filled in and proved against the model. */
static int resolve(const struct gguf *g, const struct hparams *hp, const struct stage_params *in,
                   struct stage_params *p, char *err)
{
    struct stage_file file;
    int rc = stage_file_read(g, &file, err);

    if (rc)
        return rc;
    *p = *in;
    if (!p->end_layer)
        p->end_layer = hp->n_layers;
    if (!p->max_rows)
        p->max_rows = MAX_ROWS_DEFAULT;
    if (!p->max_seqs)
        p->max_seqs = 1;
    if (!p->n_ctx)
        p->n_ctx = hp->n_ctx < N_CTX_DEFAULT ? hp->n_ctx : N_CTX_DEFAULT;

    if (p->end_layer > hp->n_layers || p->first_layer >= p->end_layer)
        return gguf_fail(gguf_path(g), err, -ERANGE, "no layers [%u, %u): the model has %u",
                         p->first_layer, p->end_layer, hp->n_layers);
    rc = check_half(g, hp, &file, p, err);
    if (rc)
        return rc;
    if (p->n_ctx > hp->n_ctx)
        return gguf_fail(gguf_path(g), err, -ERANGE, "a context of %u tokens: the model has %u",
                         p->n_ctx, hp->n_ctx);
    const struct kv_shape shape = shape_of(hp, p);
    if (!kv_shape_takes(&shape, p->kv_format))
        return gguf_fail(gguf_path(g), err, -ERANGE,
                         "a %s KV cache: heads of %u dims, which must be a multiple of 32",
                         kv_format_name(p->kv_format), hp->head_dim);
    if (p->max_rows > MAX_ROWS_LIMIT || p->max_seqs > MAX_SEQS_LIMIT)
        return gguf_fail(gguf_path(g), err, -ERANGE,
                         "%u rows of %u sequences at once: at most %u and %u", p->max_rows,
                         p->max_seqs, MAX_ROWS_LIMIT, MAX_SEQS_LIMIT);
    return 0;
}

static bool has_head(const struct hparams *hp, const struct stage_params *p)
{
    return p->head == STAGE_HEAD_WITH ||
           (p->head == STAGE_HEAD_OWN && p->end_layer == hp->n_layers);
}

static int build(struct cpu_stage *s, const struct gguf *g, const struct stage_params *p,
                 struct team *team, char *err)
{
    struct kv_shape shape = shape_of(&s->hp, p);
    size_t kv_budget = p->kv_budget_bytes
                           ? p->kv_budget_bytes
                           : p->max_seqs * kv_bytes_for(&shape, p->kv_format, p->n_ctx);
    int rc = weights_load(g, &s->hp, p->first_layer, p->end_layer, has_head(&s->hp, p), team,
                          &p->loading, &s->weights, err);

    if (rc == 0 && p->first_layer == 0)
        rc = embed_open(g, gguf_find(g, "token_embd.weight"), &s->embed, err);
    if (rc)
        return rc;

    s->rows = calloc(p->max_rows, sizeof(*s->rows));
    s->wanted = calloc(p->max_rows, sizeof(*s->wanted));
    s->hidden = calloc(p->max_rows, sizeof(*s->hidden));
    if (!s->rows || !s->wanted || !s->hidden || kv_open(&shape, p->max_seqs, kv_budget, &s->kv))
        return -ENOMEM;
    return decoder_open(&s->hp, &s->weights, s->kv, team, p->max_rows, p->n_ctx, p->exact,
                        &s->decoder);
}

int stage_open(const struct gguf *g, const struct stage_params *params, struct team *team,
               struct stage **out, char *err)
{
    struct cpu_stage *s = calloc(1, sizeof(*s));
    struct stage_params p;

    *out = NULL;
    err[0] = 0;
    if (!s)
        return gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    s->base.ops = &cpu_ops;
    int rc = hparams_read(g, &s->hp, err);
    if (rc == 0)
        rc = resolve(g, &s->hp, params, &p, err);
    if (rc == 0)
        rc = build(s, g, &p, team, err);
    if (rc)
        goto out;
    s->info = (struct stage_info){
        .first_layer = p.first_layer,
        .end_layer = p.end_layer,
        .n_layers = s->hp.n_layers,
        .d_model = s->hp.d_model,
        .n_vocab = s->hp.n_vocab,
        .n_ctx = p.n_ctx,
        .max_rows = p.max_rows,
        .max_seqs = p.max_seqs,
        .has_head = s->weights.head,
        .numerics_id = stage_numerics_with(
            STAGE_NUMERICS_ID << 24 | KERNELS_NUMERICS_ID << 1 | p.exact, p.kv_format),
        .kv_format = p.kv_format,
        .kv_formats = formats_of(kv_shape(s->kv)),
        .weights_bytes = s->weights.bytes,
        .scratch_bytes = decoder_bytes(s->decoder),
    };
    keep_account(s);
    struct stage_file file;
    rc = stage_file_read(g, &file, err);
    if (rc == 0)
        rc = stage_file_identity(g, &file, s->info.fingerprint);
    s->info.is_half = file.half != STAGE_WHOLE;
    memcpy(s->info.parent, file.parent, sizeof file.parent);
out:
    if (rc && !err[0])
        gguf_fail(gguf_path(g), err, rc, "%s", strerror(-rc));
    if (rc)
        cpu_close(&s->base);
    else
        *out = &s->base;
    return rc;
}

int stage_footprint(const struct gguf *g, const struct stage_params *params, uint32_t tokens,
                    size_t *weights_bytes, size_t *kv_bytes, char *err)
{
    struct stage_params p;
    struct hparams hp;
    int rc = hparams_read(g, &hp, err);

    if (rc == 0)
        rc = resolve(g, &hp, params, &p, err);
    if (rc == 0)
        rc = weights_count(g, &hp, p.first_layer, p.end_layer, has_head(&hp, &p), weights_bytes,
                           err);
    if (rc == 0) {
        struct kv_shape shape = shape_of(&hp, &p);

        *kv_bytes = kv_bytes_for(&shape, p.kv_format, tokens ? tokens : p.n_ctx);
    }
    return rc;
}

int stage_count_layers(const struct gguf *g, char *err)
{
    struct hparams hp;
    int rc = hparams_read(g, &hp, err);

    return rc ? rc : (int)hp.n_layers;
}
