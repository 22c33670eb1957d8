/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus calibrate`: a codec profile for a split of a model, from a text. The rows at the split,
 * and gradients that say what errors in them cost, give the bases and deviations; real tiles give
 * the curves of quality over bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/calibrate/calibrate.h"
#include "control/calibrate/curves.h"
#include "control/calibrate/gather.h"
#include "control/calibrate/memory.h"
#include "control/calibrate/show.h"
#include "control/cmd.h"
#include "control/eval/text.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/profile.h"
#include "control/replace_file.h"
#include "control/splitpass.h"

#define WINDOWS_DEFAULT 32u
#define WINDOWS_MIN     4u /* what can be learned from fewer is worse than nothing */
#define WINDOWS_MAX     1024u
#define SAMPLES_DEFAULT 4u
#define CURVE_WINDOWS   4u /* most that curves are measured on, ... */
#define CURVE_SHARE     8u /* ... one in so many of the text's */
#define CLASSES_AUTO    UINT32_MAX
#define CLASS_TOKENS    32u

enum {
    OPT_TEXT = OPT_OWN,
    OPT_CHUNKS,
    OPT_SAMPLES,
    OPT_CLASSES,
    OPT_SHOW,
    OPT_JSON,
};

struct calibrate_options {
    struct model_options model;
    struct split_options split;
    struct eval_text_options text;
    uint32_t samples;
    uint32_t classes; /* CLASSES_AUTO: by the text's length */
    uint64_t seed;
    const char *out, *show;
    bool json;
    bool beside_show; /* given: what has no meaning with it */
};

/* --- options --------------------------------------------------------------------------------- */

static const struct argp_option options[] = {
    {"text", OPT_TEXT, "FILE", 0, "Text like that to come, in windows of 512 tokens", 2},
    {"chunks", OPT_CHUNKS, "A-B", 0, "Windows A to B of the text, from 0 (default: the first 32)",
     2},
    {"split", OPT_SPLIT, "N", 0, "Layers at the edge (default: a third of the model's)", 3},
    {"samples", OPT_SAMPLES, "N", 0, "Gradients for each token (default: 4)", 3},
    {"classes", OPT_CLASSES, "N", 0,
     "Classes of rows, 0 to 1024 (default: one for 32 tokens, a power of two)", 3},
    {"seed", OPT_SEED, "N", 0, "Seed of the tokens drawn (default: 0)", 3},
    {"output", 'o', "FILE", 0, "Where the profile goes", 4},
    {"show", OPT_SHOW, "FILE", 0, "Print what a profile is for, and its curves; needs no model", 5},
    {"json", OPT_JSON, NULL, 0, "Print JSON", 5},
    {0},
};

static bool model_given(const struct model_options *m)
{
    return *m->path || m->threads || m->ctx || m->first_core != INT32_MIN || m->cpus ||
           m->numa_node >= 0 || m->mlock || m->cpu_mask != CPU_ALL || m->no_memory_check || m->kv;
}

static void check_options(struct argp_state *state, struct calibrate_options *o)
{
    if (o->show) {
        if (o->beside_show || model_given(&o->model))
            argp_error(state, "--show FILE prints a profile that there is: of the other options "
                              "only --json goes with it");
        return;
    }
    if (o->json)
        argp_error(state, "--json needs --show FILE");
    if (!o->text.path)
        argp_error(state, "--text FILE is missing");
    if (!o->out)
        argp_error(state, "-o FILE is missing");
    if (o->model.kv)
        argp_error(state, "--kv: keys and values are cached as f16 here");
    if (o->model.ctx)
        argp_error(state, "--ctx: windows always have %u tokens here", EVAL_WINDOW);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct calibrate_options *o = state->input;

    if (arg && key != OPT_SHOW)
        o->beside_show = true; /* what shapes a profile has a value, --json has none */
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        o->split.split = -1;
        o->samples = SAMPLES_DEFAULT;
        o->classes = CLASSES_AUTO;
        o->text.windows_min = WINDOWS_MIN;
        return 0;
    case OPT_TEXT:
        o->text.path = arg;
        return 0;
    case OPT_CHUNKS:
        eval_text_set_chunks(state, &o->text, arg);
        return 0;
    case OPT_SPLIT:
        o->split.split = (int32_t)opt_u32(state, "--split", arg, 0, INT32_MAX);
        return 0;
    case OPT_SAMPLES:
        o->samples = opt_u32(state, "--samples", arg, 1, 64);
        return 0;
    case OPT_CLASSES:
        o->classes = opt_u32(state, "--classes", arg, 0, CODEC_CLASSES_MAX);
        return 0;
    case OPT_SEED:
        o->seed = opt_u64(state, "--seed", arg);
        return 0;
    case 'o':
        o->out = arg;
        return 0;
    case OPT_SHOW:
        o->show = arg;
        if (!o->model.path)
            o->model.path = ""; /* none is needed */
        return 0;
    case OPT_JSON:
        o->json = true;
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
    "Learn from a text how the rows at a split of a model are best compressed, and write it as a "
    "profile for the codecs rans and xform. Takes minutes.",
    children,
    NULL,
    NULL,
};

/* --- the command ----------------------------------------------------------------------------- */

static int read_text(const struct calibrate_options *o, const struct model *m, struct eval_text *t)
{
    const int rc = eval_text_read(m, &o->text, t);

    if (rc != EXIT_OK)
        return rc;
    if (!o->text.chunks && t->n > WINDOWS_DEFAULT * EVAL_WINDOW)
        t->n = WINDOWS_DEFAULT * EVAL_WINDOW;
    if (o->classes != CLASSES_AUTO && o->classes > t->n) {
        log_error("--classes %u: more than the %u tokens", o->classes, t->n);
        return EXIT_USAGE;
    }
    if (t->n < WINDOWS_MIN * EVAL_WINDOW || t->n > WINDOWS_MAX * EVAL_WINDOW) {
        log_error("--chunks %u-%u: %u windows of %u tokens; calibration takes %u to %u",
                  o->text.first_chunk, o->text.last_chunk, t->n / EVAL_WINDOW, EVAL_WINDOW,
                  WINDOWS_MIN, WINDOWS_MAX);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static uint32_t choose_classes(uint32_t tokens)
{
    uint32_t n = 1;

    while (n < CODEC_CLASSES_MAX && 2 * n <= tokens / CLASS_TOKENS)
        n *= 2;
    return n;
}

/* Each takes a pass for every point of every curve, which for a short text would be most of the
 * work.
 */
static uint32_t choose_curve_windows(uint32_t windows)
{
    const uint32_t n = windows / CURVE_SHARE;

    return n < 1 ? 1 : n > CURVE_WINDOWS ? CURVE_WINDOWS : n;
}

static int make_profile(const struct calibrate_options *o, struct team *team,
                        const struct gathered *g, struct codec_profile **p)
{
    const struct calibrate_data data = {
        .n = g->n,
        .cols = g->cols,
        .samples = g->samples,
        .classes = o->classes == CLASSES_AUTO ? choose_classes(g->n) : o->classes,
        .rows = g->rows,
        .token = g->token,
        .grads = g->grads,
    };
    const int rc = calibrate_profile(team, &data, p);

    if (rc == -EDOM)
        log_error(
            "the model's rows or gradients are not finite, or too large to fit: its file must be "
            "damaged");
    else if (rc)
        log_error("calibration: %s", strerror(-rc));
    return rc ? EXIT_FAILED : EXIT_OK;
}

static int calibrate(const struct calibrate_options *o, const struct model *m,
                     const struct eval_text *text, uint32_t split, struct team *team)
{
    const struct splitpass_params pp = {
        .cuts = &split, .n_cuts = 1, .ctx = EVAL_WINDOW, .n_seqs = 1, .exact = true};
    struct codec_profile *p = NULL;
    struct gathered g = {0};
    struct splitpass pass;

    int rc = splitpass_open(m, &pp, team, &pass);
    if (rc == EXIT_OK)
        rc = calibrate_check_memory(m, split, text->n, pass.d_model, o->samples, team_size(team));
    if (rc == EXIT_OK)
        rc = gather(m, &pass, team, split, text, o->samples, o->seed, &g);
    if (rc == EXIT_OK) {
        log_info("statistics of %u rows", g.n);
        rc = make_profile(o, team, &g, &p);
    }
    if (rc == EXIT_OK) {
        memcpy(p->fingerprint, stage_info(pass.parts[0])->fingerprint, sizeof(p->fingerprint));
        p->split = split;
        rc = calibrate_curves(&pass, &g, choose_curve_windows(g.n / EVAL_WINDOW), p);
    }
    if (rc == EXIT_OK)
        rc = profile_write_text(o->out, p, text->ids, text->n, EVAL_WINDOW);
    codec_profile_free(p);
    gathered_free(&g);
    splitpass_close(&pass);
    return rc;
}

static int show(const struct calibrate_options *o)
{
    struct codec_profile *p;
    int rc = profile_read(o->show, &p);

    if (rc == EXIT_OK)
        rc = calibrate_show(p, o->json);
    codec_profile_free(p);
    return rc;
}

int cmd_calibrate(int argc, char **argv)
{
    struct calibrate_options o = {0};
    struct eval_text text = {0};
    struct team *team = NULL;
    struct model model;
    int split = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.show)
        return show(&o);
    int rc = model_open(o.model.path, true, &model);
    if (rc != EXIT_OK)
        return rc;
    split = split_resolve(&o.split, model.n_layers, model.path);
    if (split < 0)
        rc = EXIT_USAGE;
    if (rc == EXIT_OK)
        rc = replace_file_check(o.out);
    if (rc == EXIT_OK)
        rc = read_text(&o, &model, &text);
    if (rc == EXIT_OK)
        rc = model_team(&o.model, 0, 0, &team);
    if (rc == EXIT_OK)
        rc = calibrate(&o, &model, &text, (uint32_t)split, team);

    eval_text_free(&text);
    team_close(team);
    model_close(&model);
    return rc;
}
