/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus eval`: what codecs cost. A text and a multiple-choice suite go through the model, once
 * as it is and once for each codec at each split through real tiles; the distributions and the
 * answers are compared.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/eval/choice.h"
#include "control/eval/compare.h"
#include "control/eval/plot.h"
#include "control/eval/result.h"
#include "control/eval/suite.h"
#include "control/eval/text.h"
#include "control/eval/trial.h"
#include "control/gnuplot.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/quality_arg.h"
#include "control/split_plan.h"

#define CODECS_MAX 64u

enum {
    OPT_TEXT = OPT_OWN,
    OPT_TOKENS,
    OPT_CHUNKS,
    OPT_SUITE,
    OPT_ITEMS,
    OPT_ROWS,
    OPT_EXACT,
    OPT_FORMAT,
    OPT_PLOT,
    OPT_REFERENCE,
};

struct eval_options {
    struct model_options model;
    struct eval_text_options text; /* path NULL: none */
    const struct eval_suite_kind *suite;
    const char *suite_path;
    uint32_t items; /* 0: all */
    uint32_t splits[SPLITPASS_CUTS_MAX];
    unsigned n_splits;
    struct codec_params codecs[CODECS_MAX];
    unsigned n_codecs;
    struct codec_rate_target target; /* of all codecs */
    bool parameter_given;            /* by a --codec, of those that a target is to find */
    const char *profile_paths[SPLITPASS_CUTS_MAX];
    unsigned n_profiles;
    struct codec_profile *profiles[SPLITPASS_CUTS_MAX]; /* of splits[]; NULL: none */
    uint32_t rows;
    bool exact;
    enum table_format format;
    const char *plot;
    const char *reference; /* another model's file; NULL: codecs are evaluated */
    bool beside_reference; /* given: what has no meaning with it */
};

/* --- options --------------------------------------------------------------------------------- */

static const struct argp_option options[] = {
    {"text", OPT_TEXT, "FILE", 0, "Text to evaluate on, in windows of 512 tokens", 2},
    {"chunks", OPT_CHUNKS, "A-B", 0, "Only windows A to B of the text, from 0", 2},
    {"tokens", OPT_TOKENS, "N", 0, "Only the first N tokens of the text", 2},
    {"suite", OPT_SUITE, "NAME FILE", 0,
     "Multiple choice: hellaswag, arc or piqa, and a file of JSON lines with context, choices and "
     "label",
     2},
    {"items", OPT_ITEMS, "N", 0, "Only the first N items of the suite", 2},
    {"split", OPT_SPLIT, "N,...", 0,
     "Layers at the edge, one or more (default: the profiles', or a third of the model's); may be "
     "given many times",
     3},
    {"codec", OPT_CODEC, "CODEC", 0,
     "tsq (default) or tsq:tau=4,delta=.08,qmin=2,qmax=8; rans, xform (default with --profile) or "
     "xform:step=.0115; f16; f32; may be given many times",
     3},
    {"profile", OPT_PROFILE, "FILE", 0,
     "What `isthmus calibrate` learned of this model at a split, for xform and rans there; may be "
     "given many times, once for each split",
     3},
    {"quality", OPT_QUALITY, "kl=KL", 0,
     "Find tsq's delta or the step of rans and xform by the mean KL divergence that it costs, on "
     "the profile's curve",
     3},
    {"rate", OPT_RATE, "BYTESB/token", 0,
     "Find it, and go on finding it in every session, by the bytes a token takes: 200B/token", 3},
    {"rows", OPT_ROWS, "N", 0,
     "Rows in a message, which share its packets: 64 (default) as in prefill, 1 as in decode", 3},
    {"exact", OPT_EXACT, NULL, 0,
     "Evaluate in f32 arithmetic too, before the production kernels: slow", 3},
    {"format", OPT_FORMAT, "jsonl|md|csv", 0,
     "JSON lines (default), a Markdown table or comma-separated values", 4},
    {"plot", OPT_PLOT, "FILE.png", 0,
     "Draw mean KL over bytes a token, a curve for each mode and split (needs gnuplot)", 4},
    {"reference", OPT_REFERENCE, "FILE", 0,
     "Compare with another model of the same vocabulary over a text, instead of codecs: what fewer "
     "bits in the weights cost",
     5},
    {0},
};

static void add_splits(struct argp_state *state, struct eval_options *o, char *arg)
{
    char *save = NULL;

    for (char *s = strtok_r(arg, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        if (o->n_splits == SPLITPASS_CUTS_MAX)
            argp_error(state, "--split: at most %u of them", SPLITPASS_CUTS_MAX);
        o->splits[o->n_splits++] = opt_u32(state, "--split", s, 0, INT32_MAX);
    }
    if (o->n_splits == 0)
        argp_error(state, "--split: no number given");
}

static void set_suite(struct argp_state *state, struct eval_options *o, const char *arg)
{
    if (o->suite)
        argp_error(state, "--suite: one at a time");
    o->suite = eval_suite_kind(arg);
    if (!o->suite)
        argp_error(state, "--suite %s: must be hellaswag, arc or piqa, then a file", arg);
    if (state->next >= state->argc || state->argv[state->next][0] == '-')
        argp_error(state, "--suite %s: the file of JSON lines is missing after it", arg);
    o->suite_path = state->argv[state->next++];
}

static bool uses_profile(const struct eval_options *o)
{
    for (unsigned i = 0; i < o->n_codecs; i++)
        if (split_profile_is_for(o->codecs[i].mode))
            return true;
    return o->target.kind != CODEC_RATE_NONE;
}

static void check_options(struct argp_state *state, struct eval_options *o)
{
    if (!o->text.path && !o->suite)
        argp_error(state, "--text FILE or --suite NAME FILE is missing");
    if (!o->text.path && (o->text.tokens || o->text.chunks || o->plot))
        argp_error(state, "--tokens, --chunks and --plot need --text FILE");
    if (o->text.tokens && o->text.chunks)
        argp_error(state, "--tokens and --chunks: give one of them");
    if (o->items && !o->suite)
        argp_error(state, "--items needs --suite NAME FILE");
    if (o->reference &&
        (o->beside_reference || o->suite || o->plot || !o->text.path || o->model.kv))
        argp_error(state, "--reference FILE compares models over a --text FILE: of the other "
                          "options only --chunks, --tokens and --exact go with it");
    if (o->model.ctx)
        argp_error(state, "--ctx: windows always have %u tokens here", EVAL_WINDOW);
    if (o->n_codecs == 0)
        o->codecs[o->n_codecs++] = codec_params_default(o->n_profiles ? CODEC_XFORM : CODEC_TSQ);
    if (o->target.kind && o->parameter_given)
        argp_error(state, "--quality and --rate find the step or delta: leave it out of --codec");
    if (o->n_profiles && !uses_profile(o))
        argp_error(state, "--profile: no --codec given uses one: add rans or xform");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct eval_options *o = state->input;
    char err[CODEC_ARG_ERR];

    o->beside_reference |= key == OPT_SPLIT || key == OPT_CODEC || key == OPT_PROFILE ||
                           key == OPT_QUALITY || key == OPT_RATE || key == OPT_ROWS ||
                           key == OPT_FORMAT;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        o->rows = SPLITPASS_MESSAGE_ROWS;
        o->format = TABLE_JSONL;
        return 0;
    case OPT_TEXT:
        o->text.path = arg;
        return 0;
    case OPT_TOKENS:
        o->text.tokens = opt_u32(state, "--tokens", arg, 1, INT32_MAX);
        return 0;
    case OPT_CHUNKS:
        eval_text_set_chunks(state, &o->text, arg);
        return 0;
    case OPT_SUITE:
        set_suite(state, o, arg);
        return 0;
    case OPT_ITEMS:
        o->items = opt_u32(state, "--items", arg, 1, INT32_MAX);
        return 0;
    case OPT_SPLIT:
        add_splits(state, o, arg);
        return 0;
    case OPT_CODEC:
        if (o->n_codecs == CODECS_MAX)
            argp_error(state, "--codec: at most %u of them", CODECS_MAX);
        o->parameter_given |= quality_arg_conflicts(arg);
        if (codec_arg_parse(arg, &o->codecs[o->n_codecs++], err) < 0)
            argp_error(state, "%s", err);
        return 0;
    case OPT_QUALITY:
    case OPT_RATE:
        if ((key == OPT_RATE ? rate_arg_parse : quality_arg_parse)(arg, &o->target, err) < 0)
            argp_error(state, "%s", err);
        return 0;
    case OPT_PROFILE:
        if (o->n_profiles == SPLITPASS_CUTS_MAX)
            argp_error(state, "--profile: at most %u of them", SPLITPASS_CUTS_MAX);
        o->profile_paths[o->n_profiles++] = arg;
        return 0;
    case OPT_ROWS:
        o->rows = opt_u32(state, "--rows", arg, 1, EVAL_WINDOW);
        return 0;
    case OPT_EXACT:
        o->exact = true;
        return 0;
    case OPT_FORMAT:
        if (table_parse_format(arg, &o->format) < 0)
            argp_error(state, "--format %s: must be jsonl, md or csv", arg);
        return 0;
    case OPT_REFERENCE:
        o->reference = arg;
        return 0;
    case OPT_PLOT:
        o->plot = arg;
        return 0;
    case ARGP_KEY_END:
        check_options(state, o);
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
    "What codecs cost at splits: for each the bytes a token takes; over a text the KL divergence "
    "of "
    "the model's next-token distribution from the uncompressed one of the same arithmetic, and "
    "perplexity; over a suite the answers that come out right.",
    children,
    NULL,
    NULL,
};

static int ascending(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The splits proved against the model, in order, each once. Without any: the profiles'. */
static int resolve_splits(struct eval_options *o, const struct model *m,
                          struct codec_profile *const *profiles)
{
    unsigned n = 0;

    if (o->n_splits == 0)
        for (unsigned i = 0; i < o->n_profiles; i++)
            o->splits[o->n_splits++] = profiles[i]->split;
    if (o->n_splits == 0) {
        struct split_options none = {.split = -1};
        split_of_half(m, &none.split);
        const int split = split_resolve(&none, m->n_layers, m->path);
        if (split < 0)
            return EXIT_USAGE;
        o->splits[o->n_splits++] = (uint32_t)split;
    }
    for (unsigned i = 0; i < o->n_splits; i++) {
        struct split_options s = {.split = (int32_t)o->splits[i]};
        if (split_of_half(m, &s.split) != EXIT_OK)
            return EXIT_USAGE;
        if (split_resolve(&s, m->n_layers, m->path) < 0)
            return EXIT_USAGE;
    }
    qsort(o->splits, o->n_splits, sizeof o->splits[0], ascending);
    for (unsigned i = 0; i < o->n_splits; i++)
        if (n == 0 || o->splits[i] != o->splits[n - 1])
            o->splits[n++] = o->splits[i];
    o->n_splits = n;
    return EXIT_OK;
}

/* "5, 10" */
static char *list_splits(const struct eval_options *o, char list[SPLITPASS_CUTS_MAX * 12])
{
    size_t n = 0;

    for (unsigned i = 0; i < o->n_splits; i++)
        n += (size_t)sprintf(list + n, "%s%u", i ? ", " : "", o->splits[i]);
    return list;
}

/* Put a profile at its split. Taken from *profile. */
static int place_profile(struct eval_options *o, const char *path, struct codec_profile **profile)
{
    char list[SPLITPASS_CUTS_MAX * 12];
    unsigned at = 0;

    while (at < o->n_splits && o->splits[at] != (*profile)->split)
        at++;
    if (at == o->n_splits) {
        log_error("profile %s is for split %u, not %s: add --split %u, or leave the profile out",
                  path, (*profile)->split, list_splits(o, list), (*profile)->split);
        return EXIT_USAGE;
    }
    if (o->profiles[at]) {
        log_error("profile %s: another one is for split %u too", path, (*profile)->split);
        return EXIT_USAGE;
    }
    o->profiles[at] = *profile;
    *profile = NULL;
    return EXIT_OK;
}

/* Every codec has a curve at every split, and the target is on it. */
static int prove_target(const struct eval_options *o)
{
    for (unsigned cut = 0; cut < o->n_splits; cut++) {
        for (unsigned i = 0; i < o->n_codecs; i++) {
            struct codec_params p = o->codecs[i];
            const int rc = quality_apply(o->target, o->profiles[cut], o->splits[cut], &p);
            if (rc != EXIT_OK)
                return rc;
        }
    }
    return EXIT_OK;
}

/* Splits and the profiles at them. */
static int plan_splits(struct eval_options *o, const struct model *m)
{
    struct codec_profile *read[SPLITPASS_CUTS_MAX] = {NULL};
    int rc = EXIT_OK;

    for (unsigned i = 0; i < o->n_profiles && rc == EXIT_OK; i++)
        rc = split_profile_read(o->profile_paths[i], m, &read[i]);
    if (rc == EXIT_OK)
        rc = resolve_splits(o, m, read);
    for (unsigned i = 0; i < o->n_profiles && rc == EXIT_OK; i++)
        rc = place_profile(o, o->profile_paths[i], &read[i]);
    for (unsigned i = 0; i < o->n_profiles; i++)
        codec_profile_free(read[i]);
    if (rc == EXIT_OK)
        rc = prove_target(o);
    return rc;
}

/* --- the command ----------------------------------------------------------------------------- */

struct command_state {
    struct eval_options o;
    struct model model;
    struct team *team;
    struct eval_text text;   /* n 0: none */
    struct eval_suite suite; /* n 0: none */
    struct eval_print print;
    struct eval_result *results; /* for the plot */
    size_t n_results;
};

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void say_target(const struct eval_trial *t, const struct eval_result *r)
{
    const struct eval_carried *c = t->text.traffic.codec.rows ? &t->text : &t->suite;
    const struct quality_outcome o = {
        .rows = c->traffic.codec.rows,
        .bytes_per_token = r->bytes_per_token,
        .min = c->traffic.parameter.min,
        .max = c->traffic.parameter.max,
    };
    char whom[48];

    snprintf(whom, sizeof whom, "%s at split %u", codec_mode_name(t->params.mode), t->split);
    quality_kept(t->rate.target, t->rate.curve, &o, whom);
}

static int finish_trial(struct command_state *c, const struct eval *e, struct eval_trial *t)
{
    struct eval_result *r = &c->results[c->n_results++];

    *r = eval_result(e, t, c->suite.n ? c->suite.kind->name : NULL);
    say_target(t, r);
    const int rc = eval_print_result(&c->print, r);
    if (rc == EXIT_OK && c->text.n && !isfinite(r->kl_mean)) {
        log_error("the model's logits are not finite: its file must be damaged");
        return EXIT_FAILED;
    }
    return rc;
}

/* All codecs at all splits under one arithmetic. */
static int evaluate(struct command_state *c, bool exact)
{
    const struct eval_params p = {
        .codecs = c->o.codecs,
        .n_codecs = c->o.n_codecs,
        .splits = c->o.splits,
        .n_splits = c->o.n_splits,
        .profiles = c->o.profiles,
        .target = c->o.target,
        .message_rows = c->o.rows,
        .ctx = larger(c->text.n ? EVAL_WINDOW : 1, c->suite.longest),
        .n_seqs = c->suite.n ? EVAL_CHOICE_SEQS : 1,
        .batch_rows = larger(EVAL_WINDOW, eval_choice_batch_rows(&c->suite)),
        .text_rows = c->text.n,
        .rows = c->text.n + eval_choice_rows(&c->suite),
        .kv = c->o.model.kv,
        .exact = exact,
    };
    struct eval e;

    int rc = eval_open(&c->model, &p, c->team, &e);
    if (rc == EXIT_OK && c->text.n)
        rc = eval_text_run(&e, &c->text);
    if (rc == EXIT_OK && c->suite.n)
        rc = eval_choice_run(&e, &c->suite);
    for (unsigned i = 0; i < e.n_trials && rc == EXIT_OK; i++)
        rc = finish_trial(c, &e, &e.trials[i]);
    eval_close(&e);
    return rc;
}

/* What costs nothing is proved first. */
static int prepare(struct command_state *c)
{
    struct eval_options *o = &c->o;

    int rc = plan_splits(o, &c->model);
    if (rc == EXIT_OK && o->plot)
        rc = gnuplot_check(o->plot);
    if (rc == EXIT_OK && o->text.path)
        rc = eval_text_read(&c->model, &o->text, &c->text);
    if (rc == EXIT_OK && o->suite)
        rc = eval_suite_read(&c->model, o->suite, o->suite_path, o->items, &c->suite);
    if (rc == EXIT_OK)
        rc = model_team(&o->model, 0, 0, &c->team);
    if (rc != EXIT_OK)
        return rc;
    c->results = calloc((size_t)o->n_codecs * o->n_splits * 2, sizeof *c->results);
    if (!c->results) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    return eval_print_start(&c->print, o->format, c->text.n > 0, c->suite.n > 0,
                            o->target.kind != CODEC_RATE_NONE);
}

static int compare_models(struct command_state *c)
{
    struct model reference;
    int rc = model_open_as(MODEL_PAIR, c->o.reference, false, &reference);

    if (rc == EXIT_OK)
        rc = eval_text_read(&c->model, &c->o.text, &c->text);
    if (rc == EXIT_OK)
        rc = model_team(&c->o.model, 0, 0, &c->team);
    if (rc == EXIT_OK && c->o.exact)
        rc = eval_compare(&reference, &c->model, &c->text, true, c->team);
    if (rc == EXIT_OK)
        rc = eval_compare(&reference, &c->model, &c->text, false, c->team);
    model_close(&reference);
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    struct command_state c = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &c.o);
    int rc = model_open_as(MODEL_PAIR, c.o.model.path, true, &c.model);
    if (rc != EXIT_OK)
        return rc;
    rc = c.o.reference ? compare_models(&c) : prepare(&c);
    if (rc == EXIT_OK && !c.o.reference && c.o.exact)
        rc = evaluate(&c, true);
    if (rc == EXIT_OK && !c.o.reference)
        rc = evaluate(&c, false);
    if (rc == EXIT_OK && c.o.plot)
        rc = eval_plot(c.o.plot, c.results, c.n_results);

    for (unsigned i = 0; i < SPLITPASS_CUTS_MAX; i++)
        codec_profile_free(c.o.profiles[i]);
    free(c.results);
    eval_suite_free(&c.suite);
    eval_text_free(&c.text);
    team_close(c.team);
    model_close(&c.model);
    return rc;
}
