/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/meminfo.h"
#include "control/progress.h"
#include "control/quantize/file.h"

/* Holds w' at w where it is fitted to the quantized layers below: the moments are an estimate. */
#define RETARGET_DAMP .05f

struct run {
    struct quantize_job *j;
    const struct model *m;
    struct team *team;
    struct quantize_pass *pass; /* NULL: no calibration */
    struct quantize_hash *hash;
    struct quantize_file files[QUANTIZE_HALVES]; /* with as_f16 only the first */
    struct quantize_result *r;
    struct progress progress;
    float *w; /* f32 of the largest matrix */
};

static struct quantize_file *file_of(struct run *x, uint32_t layer)
{
    return &x->files[x->j->as_f16 || layer < x->j->split ? QUANTIZE_FRONT : QUANTIZE_BACK];
}

/* --- what there is --------------------------------------------------------------------------- */

/* "blk.LAYER." in front of a name, a plain number without zeros before it. */
static bool layer_of(const char *name, uint32_t *layer)
{
    const char *p = name + 4;
    uint64_t v = 0;

    if (strncmp(name, "blk.", 4) != 0 || *p < '0' || *p > '9' || (*p == '0' && p[1] != '.'))
        return false;
    for (; *p >= '0' && *p <= '9' && v < UINT32_MAX; p++)
        v = v * 10 + (unsigned)(*p - '0');
    *layer = (uint32_t)v;
    return *p == '.' && v < UINT32_MAX;
}

/* Which of the layer's matrices a tensor is; QUANTIZE_MATRICES: none. */
static enum quantize_matrix_of matrix_of(const struct gguf_tensor *t)
{
    const char *name = strchr(t->name + 4, '.');

    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++)
        if (name && strcmp(name + 1, quantize_matrix_name(m)) == 0)
            return m;
    return QUANTIZE_MATRICES;
}

/* The scheme of a layer's tensor; keep for what is no matrix. */
static struct quantize_scheme scheme_of(const struct run *x, uint32_t layer,
                                        const struct gguf_tensor *t)
{
    const enum quantize_matrix_of m = matrix_of(t);

    if (m == QUANTIZE_MATRICES)
        return (struct quantize_scheme){.kind = QUANTIZE_KEEP};
    return quantize_job_scheme(x->j, layer, m, (uint32_t)t->ne[0]);
}

static bool in_stage(const struct run *x, const struct gguf_tensor *t, unsigned stage)
{
    const bool embedding = strcmp(t->name, "token_embd.weight") == 0;

    if (x->j->as_f16)
        return stage == QUANTIZE_FRONT;
    if (strcmp(t->name, "rope_freqs.weight") == 0)
        return true;
    const bool tied = !gguf_find(x->m->gguf, "output.weight");

    if (stage == QUANTIZE_FRONT) /* with the head, where that is all that it takes */
        return embedding || (tied && strcmp(t->name, "output_norm.weight") == 0);
    return !embedding || tied;
}

/* --- shapes ---------------------------------------------------------------------------------- */

static bool skip_key(const char *key, size_t len)
{
    static const char type[] = "general.file_type";

    return len == sizeof(type) - 1 && memcmp(key, type, len) == 0;
}

static void name_asked(const struct quantize_scheme *s, char buf[QUANTIZE_NAME_MAX])
{
    char *colon;

    snprintf(buf, QUANTIZE_NAME_MAX, "%s", quantize_scheme_name(s, (char[QUANTIZE_NAME_MAX]){0}));
    colon = strchr(buf, ':');
    if (colon)
        *colon = '\0';
}

#define PAIR_UNKNOWN "00000000000000000000000000000000"

static void declare_metadata(struct run *x, unsigned stage)
{
    struct gguf_writer *w = x->files[stage].w;
    const struct quantize_job *j = x->j;
    char front[QUANTIZE_NAME_MAX], back[QUANTIZE_NAME_MAX];

    gguf_write_copy(w, x->m->gguf, skip_key);
    if (j->as_f16)
        return;
    name_asked(&j->scheme[QUANTIZE_FRONT], front);
    name_asked(&j->scheme[QUANTIZE_BACK], back);
    gguf_write_u32(w, "isthmus.version", 1);
    gguf_write_str(w, "isthmus.stage", stage == QUANTIZE_FRONT ? "edge" : "cloud");
    gguf_write_u32(w, "isthmus.split", j->split);
    gguf_write_u32(w, "isthmus.layers", j->n_layers);
    gguf_write_str(w, "isthmus.front", front);
    gguf_write_str(w, "isthmus.back", back);
    gguf_write_str(w, "isthmus.parent", j->parent_hex);
    gguf_write_str(w, "isthmus.pair", PAIR_UNKNOWN);
}

/* What a pair's identity stands for besides its data. */
static void hash_job(struct run *x)
{
    const struct quantize_job *j = x->j;
    char front[QUANTIZE_NAME_MAX], back[QUANTIZE_NAME_MAX], text[160];

    name_asked(&j->scheme[QUANTIZE_FRONT], front);
    name_asked(&j->scheme[QUANTIZE_BACK], back);
    const int n = snprintf(text, sizeof(text), "1 %u %u %s %s %s", j->split, j->n_layers, front,
                           back, j->parent_hex);
    quantize_hash_add(x->hash, text, (size_t)n);
}

static struct quantize_scheme as_written(const struct run *x, const struct quantize_scheme *s)
{
    if (x->j->as_f16 && s->kind != QUANTIZE_KEEP)
        return (struct quantize_scheme){.kind = QUANTIZE_F16};
    return *s;
}

/* Said once, of the first. */
static void say_fitted(const struct run *x, uint32_t layer, const struct gguf_tensor *t, bool *said)
{
    struct quantize_scheme s = x->j->scheme[layer < x->j->split ? QUANTIZE_FRONT : QUANTIZE_BACK];

    if (*said || matrix_of(t) == QUANTIZE_MATRICES || !quantize_scheme_fit(&s, (uint32_t)t->ne[0]))
        return;
    log_info("%s and others have %u columns, which are no multiple of 256: Q8_0 instead of Q6_K",
             t->name, (unsigned)t->ne[0]);
    *said = true;
}

static void declare_layers(struct run *x, uint64_t *work)
{
    bool said = false;

    for (uint32_t layer = 0; layer < x->j->n_layers; layer++)
        for (uint32_t i = 0; i < gguf_n_tensors(x->m->gguf); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(x->m->gguf, i);
            uint32_t of;

            if (!layer_of(t->name, &of) || of != layer)
                continue;
            const struct quantize_scheme s = scheme_of(x, layer, t), to = as_written(x, &s);
            say_fitted(x, layer, t, &said);
            if (s.kind == QUANTIZE_KEEP) {
                quantize_file_keep(file_of(x, layer), t);
            } else {
                quantize_file_matrix(file_of(x, layer), t->name, (uint32_t)t->ne[1],
                                     (uint32_t)t->ne[0], &to);
                *work += t->ne[0] * t->ne[1];
            }
        }
}

static int each_other(struct run *x, unsigned stage, bool put)
{
    int rc = EXIT_OK;

    for (uint32_t i = 0; i < gguf_n_tensors(x->m->gguf) && rc == EXIT_OK; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(x->m->gguf, i);
        uint32_t layer;

        if (layer_of(t->name, &layer) || !in_stage(x, t, stage))
            continue;
        if (put)
            rc = quantize_file_put(&x->files[stage], t);
        else
            quantize_file_keep(&x->files[stage], t);
    }
    return rc;
}

static unsigned n_files(const struct run *x)
{
    return x->j->as_f16 ? 1 : QUANTIZE_HALVES;
}

static int begin_files(struct run *x)
{
    static const char *const names[QUANTIZE_HALVES] = {"edge.gguf", "cloud.gguf"};
    uint64_t work = 0;
    int rc = EXIT_OK;

    x->hash = quantize_hash_new();
    if (!x->hash) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++) {
        rc = quantize_file_open(x->m, x->j->out, x->j->as_f16 ? "model.gguf" : names[i], x->hash,
                                &x->files[i]);
        if (rc == EXIT_OK) {
            declare_metadata(x, i);
            rc = each_other(x, i, false);
        }
    }
    if (rc != EXIT_OK)
        return rc;
    declare_layers(x, &work);
    hash_job(x);
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++)
        rc = quantize_file_begin(&x->files[i]);
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++) {
        x->r->file_bytes[i] = gguf_write_bytes(x->files[i].w);
        rc = each_other(x, i, true);
    }
    progress_start(&x->progress, "quantize", work);
    return rc;
}

/* Names both files at the end: what is left to fail then is a rename. */
static int end_files(struct run *x)
{
    int rc = EXIT_OK;

    quantize_hash_hex(x->hash, x->j->pair_hex);
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++) {
        if (!x->j->as_f16)
            rc = quantize_file_pair(&x->files[i], x->j->pair_hex);
        if (rc == EXIT_OK)
            rc = quantize_file_end(&x->files[i]);
    }
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++) {
        rc = replacement_take(x->files[i].to);
        if (rc != EXIT_OK && i > 0)
            log_error("%s is the new one already: it makes no pair with what is beside it: "
                      "quantize again",
                      x->files[0].path);
    }
    for (unsigned i = 0; i < n_files(x) && rc == EXIT_OK; i++) {
        x->r->path[i] = strdup(x->files[i].path);
        if (!x->r->path[i])
            rc = EXIT_FAILED;
    }
    return rc;
}

/* --- one matrix ------------------------------------------------------------------------------ */

static int read_matrix(struct run *x, const struct gguf_tensor *t)
{
    const size_t n = (size_t)(t->ne[0] * t->ne[1]);
    void *raw = malloc(t->bytes);
    char err[GGUF_ERR] = "";
    int rc = EXIT_OK;

    if (!raw)
        gguf_fail(x->m->path, err, -ENOMEM, "tensor %s: out of memory", t->name);
    else if (gguf_read(x->m->gguf, t, 0, raw, t->bytes, err) == 0 && !qtype_finite(t->type, raw, n))
        gguf_fail(x->m->path, err, -EBADMSG, "tensor %s: an infinite or NaN value", t->name);
    if (err[0]) {
        log_error("%s", err);
        rc = EXIT_FAILED;
    } else {
        qtype_dequantize(t->type, raw, x->w, n);
    }
    free(raw);
    return rc;
}

static int say_failed(const struct gguf_tensor *t, int rc)
{
    log_error("%s: %s", t->name,
              rc == -EDOM ? "its values, or its inputs over the calibration text, are not "
                            "finite or all zero"
                          : strerror(-rc));
    return EXIT_FAILED;
}

/* What w is to be: fitted to what the layers below have become. */
static int target(struct run *x, enum quantize_matrix_of m, const struct quantize_scheme *s,
                  const struct quantize_moments *moments, struct quantize_input *in)
{
    const float *w = quantize_pass_weights(x->pass, m, &in->n_rows, &in->n_cols);

    memcpy(x->w, w, (size_t)in->n_rows * in->n_cols * sizeof(*w));
    in->w = x->w;
    in->moments = moments->moments;
    if (s->kind == QUANTIZE_BLOCKS)
        return 0;
    return quantize_retarget(x->w, in->n_rows, in->n_cols, moments->moments, moments->cross,
                             RETARGET_DAMP);
}

static int quantize_one(struct run *x, uint32_t layer, enum quantize_matrix_of m,
                        const struct gguf_tensor *t, const struct quantize_scheme *s,
                        const struct quantize_moments *moments, struct quantized *q)
{
    struct quantize_input in = {
        .n_rows = (uint32_t)t->ne[1], .n_cols = (uint32_t)t->ne[0], .w = x->w};
    int rc = 0;

    if (x->pass)
        rc = target(x, m, s, moments, &in);
    else if (read_matrix(x, t) != EXIT_OK)
        return EXIT_FAILED;
    if (rc == 0)
        rc = quantize_matrix(x->team, &in, s, q);
    if (rc == 0 && (x->pass || x->j->as_f16))
        rc = quantized_values(q, x->w);
    if (rc == 0 && x->pass)
        rc = quantize_pass_set(x->pass, m, x->w);
    progress_add(&x->progress, (uint64_t)in.n_rows * in.n_cols);
    return rc ? say_failed(t, rc) : EXIT_OK;
}

/* For --as f16: x->w has the values. */
static int plain_values(struct run *x, struct quantized *q)
{
    const struct quantize_scheme f16 = {.kind = QUANTIZE_F16};
    const struct quantize_input in = {q->n_rows, q->n_cols, x->w, NULL};
    struct quantized as;
    const int rc = quantize_matrix(x->team, &in, &f16, &as);

    if (rc) {
        quantized_free(&as);
        return rc;
    }
    quantized_free(q);
    *q = as;
    return 0;
}

/* --- one layer ------------------------------------------------------------------------------- */

/* Results of a layer, written when all are there: the file's order need not be the arithmetic's. */
struct layer {
    const struct gguf_tensor *tensors[QUANTIZE_MATRICES];
    struct quantize_scheme schemes[QUANTIZE_MATRICES];
    struct quantized q[QUANTIZE_MATRICES];
    bool any;
};

/* quantize_job_prepare has proved that all of them are there. */
static void find_layer(const struct run *x, uint32_t layer, struct layer *l)
{
    *l = (struct layer){0};
    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++) {
        char name[64];

        snprintf(name, sizeof(name), "blk.%u.%s", layer, quantize_matrix_name(m));
        l->tensors[m] = gguf_find(x->m->gguf, name);
        l->schemes[m] = scheme_of(x, layer, l->tensors[m]);
        l->any |= l->schemes[m].kind != QUANTIZE_KEEP;
    }
}

static void note_result(struct run *x, uint32_t layer, const struct layer *l, unsigned m)
{
    struct quantize_matrix_result *to = &x->r->matrices[x->r->n++];
    const struct gguf_tensor *t = l->tensors[m];
    const bool kept = l->schemes[m].kind == QUANTIZE_KEEP;

    *to = (struct quantize_matrix_result){
        .scheme = l->schemes[m],
        .weights = t->ne[0] * t->ne[1],
        .bytes = kept ? t->bytes : quantized_bytes(&l->q[m]),
        .error = kept ? (double)NAN : l->q[m].error,
    };
    snprintf(to->name, sizeof(to->name), "%s", t->name);
}

static int quantize_layer(struct run *x, uint32_t layer, struct layer *l)
{
    struct quantize_moments moments = {0};
    unsigned have = QUANTIZE_INPUTS;
    int rc = EXIT_OK;

    for (unsigned m = 0; m < QUANTIZE_MATRICES && rc == EXIT_OK; m++) {
        if (x->pass && quantize_matrix_input(m) != have) {
            have = quantize_matrix_input(m);
            const int sums = quantize_pass_moments(x->pass, have, &moments);
            if (sums)
                return say_failed(l->tensors[m], sums);
        }
        if (l->schemes[m].kind != QUANTIZE_KEEP)
            rc = quantize_one(x, layer, m, l->tensors[m], &l->schemes[m], &moments, &l->q[m]);
        if (rc == EXIT_OK)
            note_result(x, layer, l, m);
        if (rc == EXIT_OK && x->j->as_f16 && l->schemes[m].kind != QUANTIZE_KEEP &&
            plain_values(x, &l->q[m]))
            rc = say_failed(l->tensors[m], -ENOMEM);
    }
    return rc;
}

static int put_layer(struct run *x, uint32_t layer, const struct layer *l)
{
    int rc = EXIT_OK;

    for (uint32_t i = 0; i < gguf_n_tensors(x->m->gguf) && rc == EXIT_OK; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(x->m->gguf, i);
        uint32_t of;

        if (!layer_of(t->name, &of) || of != layer)
            continue;
        const enum quantize_matrix_of m = matrix_of(t);
        if (m == QUANTIZE_MATRICES || l->schemes[m].kind == QUANTIZE_KEEP)
            rc = quantize_file_put(file_of(x, layer), t);
        else
            rc = quantize_file_put_matrix(file_of(x, layer), &l->q[m]);
    }
    return rc;
}

/* Whether a layer from this one on has anything to learn from the text. */
static bool any_from(const struct run *x, uint32_t layer)
{
    struct layer l;

    for (; layer < x->j->n_layers; layer++) {
        find_layer(x, layer, &l);
        if (l.any)
            return true;
    }
    return false;
}

static int run_layer(struct run *x, uint32_t layer)
{
    char err[GGUF_ERR] = "";
    struct layer l;
    int rc = EXIT_OK;

    find_layer(x, layer, &l);
    const bool text = x->pass && any_from(x, layer);
    if (text && quantize_pass_layer(x->pass, layer, err)) {
        log_error("%s", err);
        return EXIT_FAILED;
    }
    if (l.any)
        rc = quantize_layer(x, layer, &l);
    else
        for (unsigned m = 0; m < QUANTIZE_MATRICES; m++)
            note_result(x, layer, &l, m);
    if (rc == EXIT_OK)
        rc = put_layer(x, layer, &l);
    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++)
        quantized_free(&l.q[m]);
    if (rc == EXIT_OK && text && l.any)
        quantize_pass_advance(x->pass);
    else if (rc == EXIT_OK && text)
        quantize_pass_skip(x->pass);
    return rc;
}

/* --- all ------------------------------------------------------------------------------------- */

static size_t largest_matrix(const struct run *x)
{
    size_t most = 0;

    for (uint32_t i = 0; i < gguf_n_tensors(x->m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(x->m->gguf, i);
        uint32_t layer;

        if (layer_of(t->name, &layer) && t->ne[0] * t->ne[1] > most)
            most = (size_t)(t->ne[0] * t->ne[1]);
    }
    return most;
}

static int check_memory(const struct run *x)
{
    const double available = (double)meminfo("MemAvailable") * 1024;
    char err[GGUF_ERR] = "";
    size_t bytes;

    if (quantize_pass_footprint(x->m->gguf, (uint64_t)x->j->n_windows * x->j->window, x->j->window,
                                team_size(x->team), &bytes, err)) {
        log_error("%s", err);
        return EXIT_USAGE;
    }
    /* The factor of the moments in f64 and f32, and the target of one matrix with its codes. */
    const double most = (double)bytes + 40 * (double)largest_matrix(x);
    if (!x->j->memory_check || available == 0 || most <= available)
        return EXIT_OK;
    log_error("this needs %.1f GB of memory and %.1f GB are available: calibrate on fewer windows "
              "(see also --no-memory-check)",
              most / 1e9, available / 1e9);
    return EXIT_FAILED;
}

static int open_pass(struct run *x)
{
    char err[GGUF_ERR] = "";

    if (!x->j->ids || !any_from(x, 0))
        return EXIT_OK;
    const int rc = check_memory(x);
    if (rc != EXIT_OK)
        return rc;
    if (quantize_pass_open(x->m->gguf, x->j->ids, x->j->n_windows, x->j->window, x->team, &x->pass,
                           err)) {
        log_error("%s", err);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int quantize_job_run(struct quantize_job *j, const struct model *m, struct team *team,
                     struct quantize_result *r)
{
    struct run x = {.j = j, .m = m, .team = team, .r = r};
    const double start = now_s();
    int rc = EXIT_OK;

    *r = (struct quantize_result){0};
    r->matrices = calloc((size_t)j->n_layers * QUANTIZE_MATRICES, sizeof(*r->matrices));
    x.w = malloc(largest_matrix(&x) * sizeof(*x.w));
    if (!r->matrices || !x.w) {
        log_error("out of memory");
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK)
        rc = open_pass(&x);
    if (rc == EXIT_OK)
        rc = begin_files(&x);
    for (uint32_t layer = 0; layer < j->n_layers && rc == EXIT_OK; layer++)
        rc = run_layer(&x, layer);
    progress_clear(&x.progress);
    if (rc == EXIT_OK)
        rc = end_files(&x);
    r->seconds = now_s() - start;

    for (unsigned i = 0; i < QUANTIZE_HALVES; i++)
        quantize_file_close(&x.files[i]);
    quantize_hash_free(x.hash);
    quantize_pass_close(x.pass);
    free(x.w);
    return rc;
}
