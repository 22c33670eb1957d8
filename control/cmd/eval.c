/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus eval`: what a codec costs. The text goes through the model in windows, once as it is and
 * once for each codec through real tiles at the split; the distributions are compared.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/divergence.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/progress.h"
#include "control/splitpass.h"
#include "dataplane/wire.h"

#define WINDOW     512u
#define CODECS_MAX 32u

enum { OPT_TEXT = OPT_OWN, OPT_TOKENS, OPT_EXACT, OPT_FORMAT };

struct eval_options {
    struct model_options model;
    const char *text;
    struct split_options split; /* its codec is not used: there may be many */
    struct codec_params codecs[CODECS_MAX];
    unsigned n_codecs;
    uint32_t tokens; /* 0: all */
    bool exact, markdown;
};

static const struct argp_option options[] = {
    {"text", OPT_TEXT, "FILE", 0, "Text to evaluate on", 2},
    {"split", OPT_SPLIT, "N", 0, "Layers at the edge (default: a third of the model's)", 2},
    {"codec", OPT_CODEC, "CODEC", 0,
     "tsq (default), f16, f32, or tsq:tau=4,delta=.08,qmin=2,qmax=8; may be given many times", 2},
    {"tokens", OPT_TOKENS, "N", 0, "Only the first N tokens of the text", 2},
    {"exact", OPT_EXACT, NULL, 0,
     "Evaluate in f32 arithmetic too, before the production kernels: slow", 2},
    {"format", OPT_FORMAT, "jsonl|md", 0, "JSON lines (default) or a Markdown table", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct eval_options *o = state->input;
    char err[CODEC_ARG_ERR];

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        o->split.split = -1;
        return 0;
    case OPT_TEXT:
        o->text = arg;
        return 0;
    case OPT_SPLIT:
        o->split.split = (int32_t)opt_u32(state, "--split", arg, 0, INT32_MAX);
        return 0;
    case OPT_CODEC:
        if (o->n_codecs == CODECS_MAX)
            argp_error(state, "--codec: at most %u of them", CODECS_MAX);
        if (codec_arg_parse(arg, &o->codecs[o->n_codecs++], err) < 0)
            argp_error(state, "%s", err);
        return 0;
    case OPT_TOKENS:
        o->tokens = opt_u32(state, "--tokens", arg, 1, INT32_MAX);
        return 0;
    case OPT_EXACT:
        o->exact = true;
        return 0;
    case OPT_FORMAT:
        o->markdown = strcmp(arg, "md") == 0;
        if (!o->markdown && strcmp(arg, "jsonl") != 0)
            argp_error(state, "--format %s: must be jsonl or md", arg);
        return 0;
    case ARGP_KEY_END:
        if (!o->text)
            argp_error(state, "--text FILE is missing");
        if (o->model.ctx)
            argp_error(state, "--ctx: windows always have %u tokens here", WINDOW);
        if (o->n_codecs == 0)
            o->codecs[o->n_codecs++] = codec_params_default(CODEC_TSQ);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&model_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    options,
    parse,
    NULL,
    "What codecs cost at a split: a line each with the KL divergence of the model's next-token "
    "distribution from the uncompressed one of the same arithmetic, over the whole vocabulary and "
    "all positions of 512-token windows of a text, and the bytes a token takes.",
    children,
    NULL,
    NULL,
};

/* --- text ------------------------------------------------------------------------------------ */

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room = 0, n = 0;

    *len = 0;
    if (!f)
        goto fail;
    do {
        *len += n;
        if (room - *len < 65536) {
            char *more = realloc(text, room = room * 2 + 65536);
            if (!more)
                goto fail;
            text = more;
        }
        n = fread(text + *len, 1, room - *len, f);
    } while (n);
    if (ferror(f))
        goto fail;
    fclose(f);
    return text;

fail:
    log_error("%s: %s", path, strerror(errno));
    free(text);
    if (f)
        fclose(f);
    return NULL;
}

static int read_ids(const struct eval_options *o, const struct model *m, int32_t **ids, uint32_t *n)
{
    size_t len;
    char *text = read_file(o->text, &len);

    if (!text)
        return EXIT_USAGE;
    /* No text has more tokens than bytes. */
    *ids = malloc((len + 1) * sizeof(**ids));
    int64_t got = *ids ? tok_encode(m->tok, text, len, false, *ids, len) : -ENOMEM;
    free(text);
    if (got < 0 || (uint64_t)got > len || got > INT32_MAX) {
        log_error("%s: cannot tokenize it: %s", o->text, strerror(got < 0 ? (int)-got : EOVERFLOW));
        return EXIT_FAILED;
    }
    if (got == 0) {
        log_error("%s: no text", o->text);
        return EXIT_USAGE;
    }
    if (o->tokens > got) {
        log_error("--tokens %u: %s has %lld", o->tokens, o->text, (long long)got);
        return EXIT_USAGE;
    }
    *n = o->tokens ? o->tokens : (uint32_t)got;
    return EXIT_OK;
}

/* --- evaluation ------------------------------------------------------------------------------ */

/* One codec under one arithmetic. */
struct trial {
    struct codec *codec;
    struct splitpass_traffic traffic;
    struct divergence divergence;
    double rel_l2; /* summed over tokens */
};

struct eval {
    const struct eval_options *o;
    struct splitpass pass;
    struct trial trials[CODECS_MAX];
    struct progress progress;
    bool exact;
    int32_t bos; /* -1: windows have none */

    /* one window */
    int32_t ids[WINDOW];
    uint32_t n;
    float *sent, *got; /* f32[WINDOW][d_model] */
    float *ref;        /* f32[WINDOW][n_vocab] logits */
};

static void keep_reference(void *arg, uint32_t first, uint32_t count, const float *logits)
{
    struct eval *e = arg;
    size_t n_vocab = e->pass.n_vocab;

    memcpy(e->ref + first * n_vocab, logits, count * n_vocab * sizeof(*logits));
}

struct comparison {
    const struct eval *e;
    struct trial *trial;
};

/* Perplexity counts the second half of a window, where every token has context. */
static int32_t scored_next(const struct eval *e, uint32_t pos)
{
    return pos >= e->n / 2 && pos + 1 < e->n ? e->ids[pos + 1] : -1;
}

static void compare(void *arg, uint32_t first, uint32_t count, const float *logits)
{
    const struct comparison *c = arg;
    size_t n_vocab = c->e->pass.n_vocab;

    for (uint32_t i = 0; i < count; i++)
        divergence_add(&c->trial->divergence, c->e->ref + (first + i) * n_vocab,
                       logits + i * n_vocab, scored_next(c->e, first + i));
}

/* ||x - x'|| / ||x||. */
static double relative_l2(const float *x, const float *y, size_t n)
{
    double diff = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)x[i] * x[i];
    }
    return norm > 0 ? sqrt(diff / norm) : 0;
}

static int run_trial(struct eval *e, struct trial *t)
{
    struct comparison c = {.e = e, .trial = t};
    size_t d = e->pass.d_model;
    int rc = splitpass_carry(t->codec, e->sent, e->n, (uint32_t)d, e->got, &t->traffic);

    for (uint32_t i = 0; i < e->n && rc == 0; i++)
        t->rel_l2 += relative_l2(e->sent + i * d, e->got + i * d, d);
    if (rc == 0)
        rc = splitpass_back(&e->pass, NULL, e->got, e->n, 0, compare, &c);
    progress_step(&e->progress);
    return rc;
}

static int run_window(struct eval *e)
{
    int rc = splitpass_front(&e->pass, e->ids, e->n, e->sent);

    if (rc == 0)
        rc = splitpass_back(&e->pass, NULL, e->sent, e->n, 0, keep_reference, e);
    progress_step(&e->progress);
    for (unsigned i = 0; i < e->o->n_codecs && rc == 0; i++) {
        rc = run_trial(e, &e->trials[i]);
        if (rc == -EDOM) {
            const struct codec_stats *s = &e->trials[i].traffic.codec;
            log_error("codec %u cannot carry the value at token %u of a window, column %u", i + 1,
                      s->bad_token, s->bad_col);
        }
    }
    return rc;
}

static uint32_t window_text(const struct eval *e)
{
    return WINDOW - (e->bos >= 0);
}

static int run_windows(struct eval *e, const int32_t *ids, uint32_t n)
{
    uint32_t step = window_text(e), windows = (n + step - 1) / step;
    int rc = 0;

    progress_start(&e->progress, e->exact ? "eval, f32 arithmetic" : "eval",
                   windows * (e->o->n_codecs + 1));
    for (uint32_t at = 0; at < n && rc == 0; at += step) {
        uint32_t count = n - at < step ? n - at : step, lead = e->bos >= 0;

        if (lead)
            e->ids[0] = e->bos;
        memcpy(e->ids + lead, ids + at, count * sizeof(*ids));
        e->n = lead + count;
        rc = run_window(e);
    }
    if (rc < 0 && rc != -EDOM)
        log_error("%s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

/* --- results --------------------------------------------------------------------------------- */

static void print_number(double v)
{
    if (isfinite(v))
        printf("%.6g", v);
    else
        printf("null"); /* perplexity of a text too short to be scored, or a damaged model's all */
}

static int print_trial(const struct eval *e, struct trial *t, const char *codec)
{
    const struct divergence_summary s = divergence_summary(&t->divergence);
    const double rows = (double)t->traffic.codec.rows, bytes = (double)t->traffic.codec.bytes;
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"bits_per_value", bytes * 8 / (double)t->traffic.codec.values},
        {"bytes_per_token", bytes / rows},
        {"wire_bytes_per_token", (bytes + (double)t->traffic.packets * WIRE_OVERHEAD) / rows},
        {"rel_l2", t->rel_l2 / rows},
        {"kl_mean", s.kl_mean},
        {"kl_p99", s.kl_p99},
        {"top1", s.top1},
        {"ppl", s.ppl},
        {"ppl_ref", s.ppl_ref},
    };
    const bool md = e->o->markdown;

    printf(md ? "| %s | %u | %s | %zu |"
              : "{\"codec\": \"%s\", \"split\": %u, \"exact\": %s, \"tokens\": %zu",
           codec, e->pass.split, e->exact ? "true" : "false", t->divergence.n);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        printf(md ? " " : ", \"%s\": ", fields[i].name);
        print_number(fields[i].value);
        printf(md ? " |" : "");
    }
    printf(md ? "\n" : "}\n");
    if (fflush(stdout)) {
        log_error("stdout: %s", strerror(errno));
        return EXIT_FAILED;
    }
    if (!isfinite(s.kl_mean)) {
        log_error("the model's logits are not finite: its file must be damaged");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

/* --- the command ----------------------------------------------------------------------------- */

static int open_trials(struct eval *e, uint32_t n_tokens)
{
    size_t positions = n_tokens + (size_t)n_tokens / window_text(e) + 1;
    size_t row = e->pass.d_model * sizeof(float);

    e->sent = malloc(WINDOW * row);
    e->got = malloc(WINDOW * row);
    e->ref = malloc((size_t)WINDOW * e->pass.n_vocab * sizeof(float));
    int rc = e->sent && e->got && e->ref ? 0 : -ENOMEM;
    for (unsigned i = 0; i < e->o->n_codecs && rc == 0; i++) {
        struct trial *t = &e->trials[i];

        rc = codec_open(&e->o->codecs[i], e->pass.d_model, &t->codec);
        if (rc == 0)
            rc = divergence_open(&t->divergence, e->pass.n_vocab, positions);
    }
    if (rc < 0)
        log_error("%s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

static void close_trials(struct eval *e)
{
    for (unsigned i = 0; i < e->o->n_codecs; i++) {
        codec_close(e->trials[i].codec);
        divergence_close(&e->trials[i].divergence);
    }
    free(e->sent);
    free(e->got);
    free(e->ref);
}

/* All codecs under one arithmetic. */
static int evaluate(const struct eval_options *o, const struct model *m, uint32_t split,
                    struct team *team, bool exact, const int32_t *ids, uint32_t n)
{
    struct eval *e = calloc(1, sizeof(*e));

    if (!e) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    e->o = o;
    e->exact = exact;
    e->bos = tok_add_bos(m->tok) ? tok_bos(m->tok) : -1;
    int rc = splitpass_open(m, split, WINDOW, exact, team, &e->pass);
    if (rc == EXIT_OK)
        rc = open_trials(e, n);
    if (rc == EXIT_OK)
        rc = run_windows(e, ids, n);
    for (unsigned i = 0; i < o->n_codecs && rc == EXIT_OK; i++) {
        char text[CODEC_ARG_MAX];

        rc = print_trial(e, &e->trials[i], codec_arg_format(&o->codecs[i], text));
    }
    close_trials(e);
    splitpass_close(&e->pass);
    free(e);
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    struct eval_options o = {0};
    struct model model;
    struct team *team = NULL;
    int32_t *ids = NULL;
    uint32_t n = 0;
    int split = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int rc = model_open(o.model.path, true, &model);
    if (rc != EXIT_OK)
        return rc;
    if ((split = split_resolve(&o.split, model.n_layers, model.path)) < 0)
        rc = EXIT_USAGE;
    if (rc == EXIT_OK)
        rc = read_ids(&o, &model, &ids, &n);
    if (rc == EXIT_OK)
        rc = model_team(&o.model, 0, 0, &team);
    if (rc == EXIT_OK && o.markdown)
        printf("| codec | split | exact | tokens | bits/value | bytes/token | wire bytes/token | "
               "relative L2 | mean KL | p99 KL | top-1 | perplexity | reference |\n"
               "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    if (rc == EXIT_OK && o.exact)
        rc = evaluate(&o, &model, (uint32_t)split, team, true, ids, n);
    if (rc == EXIT_OK)
        rc = evaluate(&o, &model, (uint32_t)split, team, false, ids, n);

    free(ids);
    team_close(team);
    model_close(&model);
    return rc;
}
