/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/arch/fill.h"

enum dim { MODEL, Q, KV, FF, VOCAB, ROPE_PAIRS, N_DIMS };

/* One tensor: a matrix W[rows][cols], or a vector where rows is NONE. */
enum { NONE = N_DIMS };
enum need { REQUIRED, OPTIONAL, QKV_BIAS };

struct spec {
    const char *name; /* of a layer's: after "blk.N." */
    unsigned cols, rows;
    enum need need;
    size_t at; /* its pointer in struct layer_weights, or struct weights */
};

#define AT(field) offsetof(struct layer_weights, field)
static const struct spec layer_specs[] = {
    {"attn_norm.weight", MODEL, NONE, REQUIRED, AT(attn_norm)},
    {"attn_q.weight", MODEL, Q, REQUIRED, AT(q)},
    {"attn_k.weight", MODEL, KV, REQUIRED, AT(k)},
    {"attn_v.weight", MODEL, KV, REQUIRED, AT(v)},
    {"attn_q.bias", Q, NONE, QKV_BIAS, AT(q_bias)},
    {"attn_k.bias", KV, NONE, QKV_BIAS, AT(k_bias)},
    {"attn_v.bias", KV, NONE, QKV_BIAS, AT(v_bias)},
    {"attn_output.weight", Q, MODEL, REQUIRED, AT(o)},
    {"ffn_norm.weight", MODEL, NONE, REQUIRED, AT(ffn_norm)},
    {"ffn_gate.weight", MODEL, FF, REQUIRED, AT(gate)},
    {"ffn_up.weight", MODEL, FF, REQUIRED, AT(up)},
    {"ffn_down.weight", FF, MODEL, REQUIRED, AT(down)},
};
#undef AT

#define AT(field) offsetof(struct weights, field)
static const struct spec rope_spec = {"rope_freqs.weight", ROPE_PAIRS, NONE, OPTIONAL,
                                      AT(rope_factors)};
static const struct spec norm_spec = {"output_norm.weight", MODEL, NONE, REQUIRED, AT(out_norm)};
static const struct spec head_spec = {"output.weight", MODEL, VOCAB, OPTIONAL, AT(head)};
static const struct spec embd_spec = {"token_embd.weight", MODEL, VOCAB, REQUIRED, AT(head)};
#undef AT

static const struct spec *const model_specs[] = {&rope_spec, &norm_spec, &head_spec, &embd_spec};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* --- proving --------------------------------------------------------------------------------- */

static uint32_t dim(const struct hparams *hp, unsigned d)
{
    const uint32_t dims[N_DIMS + 1] = {
        [MODEL] = hp->d_model,
        [Q] = hp->n_heads * hp->head_dim,
        [KV] = hp->n_kv_heads * hp->head_dim,
        [FF] = hp->n_ff,
        [VOCAB] = hp->n_vocab,
        [ROPE_PAIRS] = hp->rope_dims / 2,
        [NONE] = 1,
    };

    return dims[d];
}

/* A tensor, or the parts of a matrix in a scheme. */
struct found {
    const struct gguf_tensor *t;
    struct scheme_weight scheme; /* where t is NULL */
};

static bool there(const struct found *f)
{
    return f->t || f->scheme.scheme.kind != SCHEME_NONE;
}

static int find_scheme(const struct gguf *g, const char *name, uint32_t cols, uint32_t rows,
                       struct scheme_weight *w, char *err)
{
    int rc = scheme_find(g, name, w, err);

    if (rc || (w->rows == rows && w->cols == cols))
        return rc;
    return gguf_fail(gguf_path(g), err, -EBADMSG,
                     "tensor %s: its codes are %u columns by %u rows, the hyper-parameters say "
                     "[%u, %u]",
                     name, w->cols, w->rows, cols, rows);
}

/* *f is the tensor, proved to have its shape; not there() when it may be left out and is. */
static int find(const struct gguf *g, const struct hparams *hp, const struct spec *s,
                const char *name, struct found *f, char *err)
{
    uint32_t cols = dim(hp, s->cols), rows = dim(hp, s->rows);
    bool required = s->need == REQUIRED || (s->need == QKV_BIAS && hp->arch->qkv_bias);
    const struct gguf_tensor **t = &f->t;

    *f = (struct found){0};
    if (s->rows != NONE) {
        int rc = find_scheme(g, name, cols, rows, &f->scheme, err);

        if (rc != -ENOENT)
            return rc;
        f->scheme = (struct scheme_weight){0};
    }
    *t = gguf_find(g, name);
    if (!*t)
        return required ? gguf_fail(gguf_path(g), err, -EBADMSG, "tensor %s: missing", name) : 0;
    if (qtype_is_integer((*t)->type))
        return gguf_fail(gguf_path(g), err, -ENOTSUP,
                         "tensor %s: type %s holds no weights by itself", name,
                         qtype_info((*t)->type)->name);
    if ((*t)->ne[0] != cols || (*t)->ne[1] != rows || (*t)->ne[2] != 1 || (*t)->ne[3] != 1)
        return gguf_fail(
            gguf_path(g), err, -EBADMSG,
            "tensor %s: shape [%llu, %llu, %llu, %llu], the hyper-parameters say [%u, %u]", name,
            (unsigned long long)(*t)->ne[0], (unsigned long long)(*t)->ne[1],
            (unsigned long long)(*t)->ne[2], (unsigned long long)(*t)->ne[3], cols, rows);
    return 0;
}

/* blk.N.<suffix> -> its suffix, when N is a plain number below n_layers. */
static const char *layer_suffix(const char *name, uint32_t n_layers)
{
    uint32_t n = 0;

    if (strncmp(name, "blk.", 4) || name[4] < '0' || name[4] > '9' ||
        (name[4] == '0' && name[5] != '.'))
        return NULL;
    for (name += 4; *name >= '0' && *name <= '9' && n < n_layers; name++)
        n = n * 10 + (uint32_t)(*name - '0');
    return *name == '.' && n < n_layers ? name + 1 : NULL;
}

static bool known(const char *name, uint32_t n_layers)
{
    const char *suffix = layer_suffix(name, n_layers);

    for (size_t i = 0; suffix && i < COUNT(layer_specs); i++)
        if (!strcmp(suffix, layer_specs[i].name))
            return true;
    for (size_t i = 0; !suffix && i < COUNT(model_specs); i++)
        if (!strcmp(name, model_specs[i]->name))
            return true;
    return false;
}

/* A part of a weight that we know and that has a scheme: whether it is one of that scheme's parts
 * is for scheme_find to say. */
static bool known_part(const struct gguf *g, const char *name, uint32_t n_layers)
{
    char weight[256], key[288];
    struct gguf_str scheme;
    size_t len;

    if (scheme_part_of(name, &len) == SCHEME_PARTS || len >= sizeof weight)
        return false;
    snprintf(weight, sizeof weight, "%.*s", (int)len, name);
    snprintf(key, sizeof key, "isthmus.scheme.%s", weight);
    return gguf_str(g, key, &scheme) == 0 && known(weight, n_layers);
}

static int refuse_unknown(const struct gguf *g, const struct hparams *hp, char *err)
{
    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const char *name = gguf_tensor_at(g, i)->name;

        if (!known(name, hp->n_layers) && !known_part(g, name, hp->n_layers))
            return gguf_fail(gguf_path(g), err, -ENOTSUP,
                             "tensor %s: not part of a model of architecture %s with %u layers",
                             name, hp->arch->name, hp->n_layers);
    }
    return 0;
}

/* --- walking --------------------------------------------------------------------------------- */

/* What is done with each tensor: `to` is the place of its pointer, NULL when only counting. */
struct walk {
    const struct gguf *g;
    const struct hparams *hp;
    size_t bytes;          /* resident, of what was met */
    struct fill_job *jobs; /* with room for all tensors; NULL when only counting */
    size_t n_jobs;
};

typedef int (*visit_fn)(struct walk *walk, const struct spec *s, const struct found *f, void *to,
                        char *err);

static void *place(void *base, const struct spec *s)
{
    return base ? (char *)base + s->at : NULL;
}

static int walk_layer(struct walk *walk, uint32_t layer, visit_fn visit, struct layer_weights *to,
                      char *err)
{
    for (size_t i = 0; i < COUNT(layer_specs); i++) {
        const struct spec *s = &layer_specs[i];
        struct found f;
        char name[64];

        snprintf(name, sizeof(name), "blk.%u.%s", layer, s->name);
        int rc = find(walk->g, walk->hp, s, name, &f, err);
        if (rc == 0 && there(&f))
            rc = visit(walk, s, &f, place(to, s), err);
        if (rc)
            return rc;
    }
    return 0;
}

static int walk_one(struct walk *walk, const struct spec *s, visit_fn visit, struct weights *to,
                    char *err)
{
    struct found f;
    int rc = find(walk->g, walk->hp, s, s->name, &f, err);

    return rc || !there(&f) ? rc : visit(walk, s, &f, place(to, s), err);
}

static bool has(const struct gguf *g, const struct spec *s)
{
    char key[64];
    struct gguf_str scheme;

    snprintf(key, sizeof key, "isthmus.scheme.%s", s->name);
    return gguf_find(g, s->name) || gguf_str(g, key, &scheme) == 0;
}

static int walk_stage(struct walk *walk, uint32_t first, uint32_t end, bool with_head,
                      visit_fn visit, struct weights *to, char *err)
{
    struct found embd;
    int rc = refuse_unknown(walk->g, walk->hp, err);

    if (rc == 0 && (first == 0 || has(walk->g, &embd_spec))) /* the back half may lack it */
        rc = find(walk->g, walk->hp, &embd_spec, embd_spec.name, &embd, err);
    if (rc == 0 && first == 0 && !embd.t)
        rc = gguf_fail(gguf_path(walk->g), err, -ENOTSUP,
                       "tensor %s: rows of an embedding are read from the file: no scheme",
                       embd_spec.name);
    if (rc == 0)
        rc = walk_one(walk, &rope_spec, visit, to, err);
    for (uint32_t i = first; i < end && rc == 0; i++)
        rc = walk_layer(walk, i, visit, to ? &to->layers[i - first] : NULL, err);
    if (rc || !with_head)
        return rc;

    /* Without a matrix of its own the head is the embedding's. */
    const struct spec *head = has(walk->g, &head_spec) ? &head_spec : &embd_spec;
    rc = walk_one(walk, &norm_spec, visit, to, err);
    return rc ? rc : walk_one(walk, head, visit, to, err);
}

/* --- loading --------------------------------------------------------------------------------- */

/* Memory for one tensor, and the job to fill it. */
static int place_vector(const struct gguf *g, const struct gguf_tensor *t, float **to, char *err)
{
    size_t n = (size_t)t->ne[0];

    *to = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    return *to ? 0 : gguf_fail(gguf_path(g), err, -ENOMEM, "tensor %s: out of memory", t->name);
}

static int place_matrix(const struct gguf *g, const struct gguf_tensor *t, struct mat **to,
                        char *err)
{
    int rc = mat_new(t->type, t->ne[1], t->ne[0], to);

    if (rc == -ENOMEM)
        return gguf_fail(gguf_path(g), err, rc, "tensor %s: no memory for its panels", t->name);
    if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG,
                         "tensor %s: type %s, %llu x %llu is no matrix of whole blocks of columns",
                         t->name, qtype_info(t->type)->name, (unsigned long long)t->ne[1],
                         (unsigned long long)t->ne[0]);
    return 0;
}

static int plan_scheme(struct walk *walk, const struct scheme_weight *w, struct mat **to, char *err)
{
    int rc = mat_new_scheme(&w->scheme, w->rows, w->cols, w->n_sparse, to);

    if (rc)
        return gguf_fail(gguf_path(walk->g), err, rc, "tensor %s: no memory for its panels",
                         w->part[SCHEME_CODES]->name);
    walk->bytes += mat_bytes(*to);
    for (int i = 0; i < SCHEME_PARTS; i++)
        if (w->part[i])
            walk->jobs[walk->n_jobs++] =
                (struct fill_job){.t = w->part[i], .mat = *to, .part = (enum scheme_part)i};
    return 0;
}

static int plan(struct walk *walk, const struct spec *s, const struct found *f, void *to, char *err)
{
    const struct gguf_tensor *t = f->t;
    struct fill_job *job = &walk->jobs[walk->n_jobs];
    int rc;

    if (!t)
        return plan_scheme(walk, &f->scheme, to, err);
    *job = (struct fill_job){.t = t};
    if (s->rows == NONE) {
        float **vector = to;

        rc = place_vector(walk->g, t, vector, err);
        job->vector = *vector;
        walk->bytes += (size_t)t->ne[0] * sizeof(float);
    } else {
        struct mat **mat = to;

        rc = place_matrix(walk->g, t, mat, err);
        job->mat = *mat;
        walk->bytes += rc ? 0 : mat_bytes(*mat);
    }
    walk->n_jobs++;
    return rc;
}

static int count(struct walk *walk, const struct spec *s, const struct found *f, void *to,
                 char *err)
{
    const struct scheme_weight *w = &f->scheme;
    const struct gguf_tensor *t = f->t;

    if (!t) {
        walk->bytes += mat_bytes_for_scheme(&w->scheme, w->rows, w->cols, w->n_sparse);
        return 0;
    }
    walk->bytes += s->rows == NONE ? (size_t)t->ne[0] * sizeof(float)
                                   : mat_bytes_for(t->type, (uint32_t)t->ne[1], (uint32_t)t->ne[0]);
    return 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct fill_job *x = a, *y = b;

    return (x->t->offset > y->t->offset) - (x->t->offset < y->t->offset);
}

/* Before anything is multiplied: what the sparse parts hold are places in activations. */
static int close_sparse(const struct walk *walk, char *err)
{
    const char *path = gguf_path(walk->g);

    for (size_t i = 0; i < walk->n_jobs; i++) {
        const struct fill_job *job = &walk->jobs[i];
        uint32_t row;

        if (!job->mat || job->part != SCHEME_SP_ROWS)
            continue;
        int rc = mat_close_sparse(job->mat, &row);
        if (rc == -ERANGE)
            return gguf_fail(path, err, -EBADMSG,
                             "tensor %s: row %u: starts must rise from 0 to the number of entries",
                             job->t->name, row);
        if (rc == -ENOMEM)
            return gguf_fail(path, err, rc, "tensor %s: out of memory", job->t->name);
        if (rc)
            return gguf_fail(path, err, -EBADMSG,
                             "tensor %.*scols: row %u: columns must rise, below %u",
                             (int)strlen(job->t->name) - 4, job->t->name, row, mat_cols(job->mat));
    }
    return 0;
}

int weights_load(const struct gguf *g, const struct hparams *hp, uint32_t first, uint32_t end,
                 bool head, struct team *team, const struct loading *loading, struct weights *w,
                 char *err)
{
    struct walk walk = {.g = g, .hp = hp, .jobs = calloc(gguf_n_tensors(g), sizeof(*walk.jobs))};
    enum gguf_reading how = GGUF_READ_QUEUED;
    int rc;

    memset(w, 0, sizeof(*w));
    w->layers = calloc(end - first, sizeof(*w->layers));
    if (w->layers && walk.jobs) {
        w->n_layers = end - first;
        w->ends = end == hp->n_layers;
        rc = walk_stage(&walk, first, end, head, plan, w, err);
    } else {
        rc = gguf_fail(gguf_path(g), err, -ENOMEM, "out of memory");
    }
    w->bytes = walk.bytes;
    if (rc == 0) {
        qsort(walk.jobs, walk.n_jobs, sizeof(*walk.jobs), compare_offsets);
        if (loading->memory_bytes && gguf_file_bytes(g) + walk.bytes > loading->memory_bytes)
            how = GGUF_READ_DIRECT;
        rc = weights_fill(g, walk.jobs, walk.n_jobs, how, team, loading, err);
        if (rc == 0)
            rc = close_sparse(&walk, err);
    }
    free(walk.jobs);
    return rc;
}

int weights_count(const struct gguf *g, const struct hparams *hp, uint32_t first, uint32_t end,
                  bool head, size_t *bytes, char *err)
{
    struct walk walk = {.g = g, .hp = hp};
    int rc = walk_stage(&walk, first, end, head, count, NULL, err);

    *bytes = walk.bytes;
    return rc;
}

static void free_weight(const struct spec *s, void *base)
{
    void *p = (char *)base + s->at;

    if (s->rows == NONE)
        free(*(float **)p);
    else
        mat_free(*(struct mat **)p);
}

void weights_free(struct weights *w)
{
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (size_t i = 0; i < COUNT(layer_specs); i++)
            free_weight(&layer_specs[i], &w->layers[l]);
    free_weight(&rope_spec, w);
    free_weight(&norm_spec, w);
    free_weight(&head_spec, w);
    free(w->layers);
    memset(w, 0, sizeof(*w));
}
