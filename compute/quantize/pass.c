/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/quantize/pass.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compute/backprop/impl.h"
#include "compute/embed.h"

#define CHUNK_WINDOWS 4u  /* whose inputs are held at once */
#define BLOCK_COLS    64u /* of a sum that one thread makes */

enum { WAS, NOW, STREAMS };

struct quantize_pass {
    const struct gguf *g;
    struct team *team;
    struct backprop b;            /* the model without layers */
    struct backprop_work **works; /* [team_size] */
    uint32_t n_windows, window;
    struct bp_layer layer[STREAMS]; /* NOW's matrices are WAS's until they are set */
    bool apart;                     /* whether the streams may differ: else only one is kept up */
    float *x[STREAMS];              /* [tokens][d_model] */
    float *mixed[STREAMS];          /* [tokens][n_heads * head_dim] */
    float *in[STREAMS];             /* [CHUNK_WINDOWS * window][widest] */
    float *weight;                  /* [CHUNK_WINDOWS * window] of the chunk's rows */
    float *moments, *cross;
    uint32_t widest;
};

/* --- a layer's matrices ---------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum quantize_input_of input;
} matrices[QUANTIZE_MATRICES] = {
    [QUANTIZE_Q] = {"attn_q.weight", QUANTIZE_INPUT_QKV},
    [QUANTIZE_K] = {"attn_k.weight", QUANTIZE_INPUT_QKV},
    [QUANTIZE_V] = {"attn_v.weight", QUANTIZE_INPUT_QKV},
    [QUANTIZE_O] = {"attn_output.weight", QUANTIZE_INPUT_O},
    [QUANTIZE_GATE] = {"ffn_gate.weight", QUANTIZE_INPUT_FFN},
    [QUANTIZE_UP] = {"ffn_up.weight", QUANTIZE_INPUT_FFN},
    [QUANTIZE_DOWN] = {"ffn_down.weight", QUANTIZE_INPUT_DOWN},
};

const char *quantize_matrix_name(enum quantize_matrix_of m)
{
    return matrices[m].name;
}

enum quantize_input_of quantize_matrix_input(enum quantize_matrix_of m)
{
    return matrices[m].input;
}

static float **matrix_of(struct bp_layer *l, enum quantize_matrix_of m)
{
    float **const all[QUANTIZE_MATRICES] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};

    return all[m];
}

static uint32_t q_cols(const struct hparams *hp)
{
    return hp->n_heads * hp->head_dim;
}

static uint32_t input_cols(const struct hparams *hp, enum quantize_input_of input)
{
    return input == QUANTIZE_INPUT_O      ? q_cols(hp)
           : input == QUANTIZE_INPUT_DOWN ? hp->n_ff
                                          : hp->d_model;
}

static uint32_t matrix_rows(const struct hparams *hp, enum quantize_matrix_of m)
{
    switch (m) {
    case QUANTIZE_Q:
        return q_cols(hp);
    case QUANTIZE_K:
    case QUANTIZE_V:
        return hp->n_kv_heads * hp->head_dim;
    case QUANTIZE_GATE:
    case QUANTIZE_UP:
        return hp->n_ff;
    default:
        return hp->d_model;
    }
}

static void drop_layer(struct quantize_pass *p)
{
    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++) {
        float **now = matrix_of(&p->layer[NOW], m);
        if (*now != *matrix_of(&p->layer[WAS], m))
            free(*now);
    }
    bp_layer_free(&p->layer[WAS]);
    p->layer[WAS] = p->layer[NOW] = (struct bp_layer){0};
}

/* --- open, close ----------------------------------------------------------------------------- */

static uint32_t widest_of(const struct hparams *hp)
{
    uint32_t n = hp->d_model;

    for (unsigned i = 0; i < QUANTIZE_INPUTS; i++)
        n = input_cols(hp, i) > n ? input_cols(hp, i) : n;
    return n;
}

static bool alloc_rows(struct quantize_pass *p)
{
    const size_t tokens = (size_t)p->n_windows * p->window, d = p->b.hp.d_model;
    const size_t chunk = (size_t)CHUNK_WINDOWS * p->window, wide = p->widest;

    for (unsigned s = 0; s < STREAMS; s++) {
        p->x[s] = malloc(tokens * d * sizeof(float));
        p->mixed[s] = malloc(tokens * q_cols(&p->b.hp) * sizeof(float));
        p->in[s] = malloc(chunk * wide * sizeof(float));
        if (!p->x[s] || !p->mixed[s] || !p->in[s])
            return false;
    }
    p->weight = malloc(chunk * sizeof(float));
    p->moments = malloc(wide * wide * sizeof(float));
    p->cross = malloc(wide * wide * sizeof(float));
    return p->weight && p->moments && p->cross;
}

static int embed(struct quantize_pass *p, const int32_t *ids, char *err)
{
    const size_t tokens = (size_t)p->n_windows * p->window;
    const struct gguf_tensor *t = gguf_find(p->g, "token_embd.weight");
    struct embed *e;
    int rc = embed_open(p->g, t, &e, err);

    if (rc)
        return rc;
    rc = embed_rows(e, ids, tokens, p->x[WAS]);
    embed_close(e);
    if (rc)
        return gguf_fail(gguf_path(p->g), err, rc, "tensor %s: %s", t->name, strerror(-rc));
    memcpy(p->x[NOW], p->x[WAS], tokens * p->b.hp.d_model * sizeof(float));
    return 0;
}

int quantize_pass_open(const struct gguf *g, const int32_t *ids, uint32_t n_windows,
                       uint32_t window, struct team *team, struct quantize_pass **out, char *err)
{
    struct quantize_pass *p = calloc(1, sizeof(*p));
    int rc = -ENOMEM;

    *out = NULL;
    err[0] = '\0';
    if (!p)
        goto fail;
    *p = (struct quantize_pass){.g = g, .team = team, .n_windows = n_windows, .window = window};
    rc = bp_rows_open(g, &p->b, err);
    if (rc)
        goto fail;
    p->widest = widest_of(&p->b.hp);
    rc = -ENOMEM;
    p->works = calloc(team_size(team), sizeof(*p->works));
    if (!p->works || !alloc_rows(p))
        goto fail;
    for (unsigned i = 0; i < team_size(team); i++)
        if ((rc = backprop_work_open(&p->b, window, 0, &p->works[i])))
            goto fail;
    rc = embed(p, ids, err);
    if (rc)
        goto fail;
    *out = p;
    return 0;
fail:
    if (!err[0])
        gguf_fail(gguf_path(g), err, rc, "%s", strerror(-rc));
    quantize_pass_close(p);
    return rc;
}

void quantize_pass_close(struct quantize_pass *p)
{
    if (!p)
        return;
    drop_layer(p);
    for (unsigned i = 0; p->works && i < team_size(p->team); i++)
        backprop_work_close(p->works[i]);
    for (unsigned s = 0; s < STREAMS; s++) {
        free(p->x[s]);
        free(p->mixed[s]);
        free(p->in[s]);
    }
    free(p->works);
    free(p->weight);
    free(p->moments);
    free(p->cross);
    free(p->b.rope_factors);
    free(p);
}

int quantize_pass_footprint(const struct gguf *g, uint64_t tokens, uint32_t window,
                            unsigned threads, size_t *bytes, char *err)
{
    struct hparams hp;
    size_t weights, work, floats = 0;
    int rc = hparams_read(g, &hp, err);

    /* Weights of one layer, as many work rows as threads. */
    if (rc == 0)
        rc = backprop_footprint(g, hp.n_layers - 1, window, 0, &weights, &work, err);
    if (rc)
        return rc;
    const size_t wide = widest_of(&hp), chunk = (size_t)CHUNK_WINDOWS * window;
    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++)
        floats += 2 * (size_t)matrix_rows(&hp, m) * input_cols(&hp, matrices[m].input);
    floats += STREAMS * (tokens * (hp.d_model + q_cols(&hp)) + chunk * wide);
    floats += chunk + 2 * wide * wide;
    *bytes = floats * sizeof(float) + threads * work;
    return 0;
}

/* --- a layer --------------------------------------------------------------------------------- */

int quantize_pass_layer(struct quantize_pass *p, uint32_t layer, char *err)
{
    drop_layer(p);
    const int rc = bp_layer_load(p->g, layer, &p->layer[WAS], err);

    p->layer[NOW] = p->layer[WAS];
    return rc;
}

const float *quantize_pass_weights(const struct quantize_pass *p, enum quantize_matrix_of m,
                                   uint32_t *n_rows, uint32_t *n_cols)
{
    struct bp_layer l = p->layer[WAS];

    *n_rows = matrix_rows(&p->b.hp, m);
    *n_cols = input_cols(&p->b.hp, matrices[m].input);
    return *matrix_of(&l, m);
}

int quantize_pass_set(struct quantize_pass *p, enum quantize_matrix_of m, const float *values)
{
    const size_t n = (size_t)matrix_rows(&p->b.hp, m) * input_cols(&p->b.hp, matrices[m].input);
    float **now = matrix_of(&p->layer[NOW], m);
    float *copy = malloc(n * sizeof(*copy));

    if (!copy)
        return -ENOMEM;
    memcpy(copy, values, n * sizeof(*copy));
    if (*now != *matrix_of(&p->layer[WAS], m))
        free(*now);
    *now = copy;
    return 0;
}

/* --- windows --------------------------------------------------------------------------------- */

/* One stream's rows of one window, and the worker's scratch. */
struct place {
    struct quantize_pass *p;
    struct backprop_work *w;
    const struct bp_layer *l;
    float *x, *mixed, *in;
    uint32_t n;
};

static void input_qkv(const struct place *a)
{
    const struct hparams *hp = &a->p->b.hp;

    bp_norm(a->in, a->x, a->l->attn_norm, a->n, hp->d_model, hp->rms_eps);
}

static void input_o(const struct place *a)
{
    const size_t floats = (size_t)a->n * q_cols(&a->p->b.hp);

    a->w->acts.x = a->x;
    bp_layer_attend(a->w, a->l, a->n);
    memcpy(a->mixed, a->w->acts.mixed, floats * sizeof(float));
    memcpy(a->in, a->w->acts.mixed, floats * sizeof(float));
}

/* x becomes what it is after attention. */
static void input_ffn(const struct place *a)
{
    const struct hparams *hp = &a->p->b.hp;

    bp_multiply(a->x, a->mixed, a->l->o, a->n, hp->d_model, q_cols(hp), 1);
    bp_norm(a->in, a->x, a->l->ffn_norm, a->n, hp->d_model, hp->rms_eps);
}

static void input_down(const struct place *a)
{
    a->w->acts.mid = a->x;
    bp_layer_gate(a->w, a->l, a->n);
    memcpy(a->in, a->w->acts.act, (size_t)a->n * a->p->b.hp.n_ff * sizeof(float));
}

/* x becomes what it is after the layer, from the input of down. */
static void add_down(const struct place *a)
{
    const struct hparams *hp = &a->p->b.hp;

    bp_multiply(a->x, a->in, a->l->down, a->n, hp->d_model, hp->n_ff, 1);
}

static void whole_layer(const struct place *a)
{
    input_qkv(a);
    input_o(a);
    input_ffn(a);
    input_down(a);
    add_down(a);
}

static void down_and_add(const struct place *a)
{
    input_down(a);
    add_down(a);
}

struct task {
    struct quantize_pass *p;
    void (*fn)(const struct place *a);
    uint32_t first, count;        /* windows, of a chunk */
    unsigned from, to;            /* streams */
    enum quantize_input_of input; /* whose sums are made; QUANTIZE_INPUTS: none's */
};

/* The rows of `in` follow each other without gaps, as sums want them. */
static struct place place_of(const struct task *k, struct backprop_work *w, unsigned stream,
                             uint32_t window)
{
    struct quantize_pass *p = k->p;
    const struct hparams *hp = &p->b.hp;
    const size_t token = (size_t)(k->first + window) * p->window;
    const size_t cols = k->input == QUANTIZE_INPUTS ? p->widest : input_cols(hp, k->input);

    return (struct place){
        .p = p,
        .w = w,
        .l = &p->layer[stream],
        .x = p->x[stream] + token * hp->d_model,
        .mixed = p->mixed[stream] + token * q_cols(hp),
        .in = p->in[stream] + (size_t)window * p->window * cols,
        .n = p->window,
    };
}

static void work_windows(void *arg, unsigned part, unsigned parts)
{
    const struct task *k = arg;
    struct backprop_work *w = k->p->works[part];
    float *const mid = w->acts.mid; /* lent to the rows of a window */
    const unsigned streams = k->to - k->from;

    for (unsigned i = part; i < k->count * streams; i += parts) {
        const struct place a = place_of(k, w, k->from + i % streams, i / streams);
        k->fn(&a);
    }
    w->acts.mid = mid;
}

static void run_windows(struct quantize_pass *p, void (*fn)(const struct place *a),
                        enum quantize_input_of input, uint32_t first, uint32_t count, unsigned from,
                        unsigned to)
{
    struct task k = {p, fn, first, count, from, to, input};

    team_run(p->team, work_windows, &k);
}

/* --- sums ------------------------------------------------------------------------------------ */

/* out[from .. to)[at ..] += a' b over rows: a[n][a_cols], b[n][b_cols]. */
static void add_product(float *out, const float *a, uint32_t a_cols, const float *b,
                        uint32_t b_cols, uint32_t n, uint32_t from, uint32_t to, uint32_t at,
                        bool first)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(to - from), (int)(b_cols - at),
                (int)n, 1, a + from, (int)a_cols, b + at, (int)b_cols, first ? 0 : 1,
                out + (size_t)from * b_cols + at, (int)b_cols);
}

/* Whether what the matrix gives is added to the rows. */
static bool is_added(enum quantize_input_of input)
{
    return input == QUANTIZE_INPUT_O || input == QUANTIZE_INPUT_DOWN;
}

static void work_sums(void *arg, unsigned part, unsigned parts)
{
    const struct task *k = arg;
    struct quantize_pass *p = k->p;
    const uint32_t cols = input_cols(&p->b.hp, k->input), n = k->count * p->window;
    const float *now = p->in[NOW];
    unsigned at = 0;

    for (uint32_t i = 0; i < cols; i += BLOCK_COLS) {
        const uint32_t to = cols - i < BLOCK_COLS ? cols : i + BLOCK_COLS;

        if (at++ % parts == part)
            add_product(p->moments, now, cols, now, cols, n, i, to, i, k->first == 0);
        if (at++ % parts == part)
            add_product(p->cross, p->in[WAS], cols, now, cols, n, i, to, 0, k->first == 0);
    }
}

/* What is added to a row counts by how large the row is: the next norm divides by that. A first
 * token's row is a hundred times longer than others, and would be most of the sums. */
static void set_weights(struct quantize_pass *p, uint32_t first, uint32_t count)
{
    const uint32_t d = p->b.hp.d_model;
    const float *x = p->x[WAS] + (size_t)first * p->window * d;

    for (size_t t = 0; t < (size_t)count * p->window; t++, x += d)
        p->weight[t] = sqrtf((float)d) / (cblas_snrm2((int)d, x, 1) + 1e-20f);
}

/* inverse: take the weights off again. */
static void weigh(const struct quantize_pass *p, float *rows, uint32_t cols, uint32_t count,
                  bool inverse)
{
    for (size_t t = 0; t < (size_t)count * p->window; t++) {
        const float f = inverse ? 1 / p->weight[t] : p->weight[t];

        cblas_sscal((int)cols, f, rows + t * cols, 1);
    }
}

static void mirror(float *m, uint32_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            m[i * n + j] = m[j * n + i];
}

static bool all_finite(const float *m, uint32_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(m[i * n + i]))
            return false;
    return true;
}

int quantize_pass_moments(struct quantize_pass *p, enum quantize_input_of input,
                          struct quantize_moments *m)
{
    static void (*const inputs[QUANTIZE_INPUTS])(const struct place *a) = {
        [QUANTIZE_INPUT_QKV] = input_qkv,
        [QUANTIZE_INPUT_O] = input_o,
        [QUANTIZE_INPUT_FFN] = input_ffn,
        [QUANTIZE_INPUT_DOWN] = input_down,
    };
    const uint32_t cols = input_cols(&p->b.hp, input);

    p->apart = true;
    for (uint32_t first = 0; first < p->n_windows; first += CHUNK_WINDOWS) {
        const uint32_t left = p->n_windows - first,
                       count = left < CHUNK_WINDOWS ? left : CHUNK_WINDOWS;
        struct task sums = {.p = p, .first = first, .count = count, .input = input};

        run_windows(p, inputs[input], input, first, count, WAS, STREAMS);
        if (is_added(input)) {
            set_weights(p, first, count);
            weigh(p, p->in[WAS], cols, count, false);
            weigh(p, p->in[NOW], cols, count, false);
        }
        team_run(p->team, work_sums, &sums);
        if (input != QUANTIZE_INPUT_DOWN)
            continue;
        weigh(p, p->in[WAS], cols, count, true);
        run_windows(p, add_down, input, first, count, WAS, NOW);
    }
    mirror(p->moments, cols);
    *m = (struct quantize_moments){
        .n_cols = cols,
        .moments = p->moments,
        .cross = p->cross,
    };
    return all_finite(p->moments, cols) ? 0 : -EDOM;
}

/* --- on -------------------------------------------------------------------------------------- */

static void run_all(struct quantize_pass *p, void (*fn)(const struct place *a),
                    enum quantize_input_of input, unsigned from, unsigned to)
{
    for (uint32_t first = 0; first < p->n_windows; first += CHUNK_WINDOWS) {
        const uint32_t left = p->n_windows - first;

        run_windows(p, fn, input, first, left < CHUNK_WINDOWS ? left : CHUNK_WINDOWS, from, to);
    }
}

/* The other stream is there already: its way of down was known. */
void quantize_pass_advance(struct quantize_pass *p)
{
    run_all(p, down_and_add, QUANTIZE_INPUT_DOWN, NOW, STREAMS);
}

void quantize_pass_skip(struct quantize_pass *p)
{
    const size_t floats = (size_t)p->n_windows * p->window * p->b.hp.d_model;

    run_all(p, whole_layer, QUANTIZE_INPUTS, WAS, p->apart ? STREAMS : NOW);
    if (!p->apart)
        memcpy(p->x[NOW], p->x[WAS], floats * sizeof(float));
}
