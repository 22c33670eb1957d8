/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus quantize`: a model in two files, its front layers in fewer bits than its back ones, for
 * an edge and a cloud.
 */
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/quantize/job.h"

enum {
    OPT_FRONT = OPT_OWN,
    OPT_BACK,
    OPT_CALIBRATION,
    OPT_GROUP,
    OPT_SPARSE,
    OPT_TENSOR,
    OPT_AS,
    OPT_JSON,
};

struct quantize_options {
    struct model_options model;
    struct split_options split;
    struct quantize_job job;
    const char *front, *back;
    uint32_t group; /* 0: not given */
    double sparse;  /* < 0: not given */
    bool json;
};

static const struct argp_option options[] = {
    {"split", OPT_SPLIT, "N", 0, "Layers at the edge (default: a third of the model's)", 2},
    {"front", OPT_FRONT, "FMT", 0,
     "Scheme of the edge's layers: Q8_0, Q6_K, Q5_0, Q4_0, Q4_1 (read by other programs too); g4, "
     "g3, g2 (uniform, groups of columns); sq4, sq3, sq2 (each row its own levels); or keep",
     2},
    {"back", OPT_BACK, "FMT", 0, "Scheme of the cloud's layers (default: keep, as they are)", 2},
    {"calibration", OPT_CALIBRATION, "FILE", 0,
     "What `isthmus calibrate` made of this model: the text that g and sq schemes are fitted on",
     2},
    {"group", OPT_GROUP, "G", 0,
     "Columns that share a scale in g schemes, a multiple of 32 (default: 96)", 3},
    {"sparse", OPT_SPARSE, "PERCENT", 0,
     "Weights that g and sq schemes keep exactly beside the codes, 0 to 5 (default: sq3 .5, sq4 "
     ".38, sq2 .18, g none)",
     3},
    {"tensor", OPT_TENSOR, "NAME=FMT", 0,
     "Another scheme for a matrix, for experiments; NAME may have * and ?; may be given many times",
     3},
    {"output", 'o', "DIR", 0, "Where edge.gguf and cloud.gguf go", 4},
    {"as", OPT_AS, "f16", 0,
     "Write one whole model.gguf instead, the quantized weights' values as F16, for other programs",
     4},
    {"json", OPT_JSON, NULL, 0, "Print the result as JSON", 5},
    {0},
};

/* --- options --------------------------------------------------------------------------------- */

static struct quantize_scheme scheme_arg(struct argp_state *state, const char *option,
                                         const char *arg)
{
    struct quantize_scheme s;

    if (quantize_scheme_parse(arg, &s) < 0)
        argp_error(state, "%s %s: no such scheme; there are %s", option, arg, quantize_schemes());
    return s;
}

static void add_override(struct argp_state *state, struct quantize_job *j, char *arg)
{
    char *equals = strrchr(arg, '=');

    if (!equals || equals == arg)
        argp_error(state, "--tensor %s: must be NAME=FMT", arg);
    if (j->n_overrides == QUANTIZE_OVERRIDES_MAX)
        argp_error(state, "--tensor: at most %u of them", QUANTIZE_OVERRIDES_MAX);
    *equals = '\0';
    j->overrides[j->n_overrides++] = (struct quantize_override){
        .pattern = arg, .scheme = scheme_arg(state, "--tensor", equals + 1)};
}

/* --group and --sparse are of all schemes that have such a thing. */
static void apply_shape(const struct quantize_options *o, struct quantize_scheme *s, bool *grouped,
                        bool *coded)
{
    const bool own = s->kind == QUANTIZE_GROUPS || s->kind == QUANTIZE_LEVELS;

    if (o->group && s->kind == QUANTIZE_GROUPS) {
        s->group = o->group;
        *grouped = true;
    }
    if (o->sparse >= 0 && own) {
        s->sparse = (float)o->sparse;
        *coded = true;
    }
}

static void finish_schemes(struct argp_state *state, struct quantize_options *o)
{
    struct quantize_job *j = &o->job;
    bool grouped = o->group == 0, coded = o->sparse < 0;

    j->scheme[QUANTIZE_FRONT] = scheme_arg(state, "--front", o->front);
    j->scheme[QUANTIZE_BACK] = scheme_arg(state, "--back", o->back);
    for (unsigned i = 0; i < QUANTIZE_HALVES; i++)
        apply_shape(o, &j->scheme[i], &grouped, &coded);
    for (unsigned i = 0; i < j->n_overrides; i++)
        apply_shape(o, &j->overrides[i].scheme, &grouped, &coded);
    if (!grouped)
        argp_error(state, "--group: none of the schemes given is g4, g3 or g2");
    if (!coded)
        argp_error(state, "--sparse: none of the schemes given is a g or sq scheme");
}

static void check_options(struct argp_state *state, struct quantize_options *o)
{
    if (!o->front)
        argp_error(state, "--front FMT is missing: one of %s", quantize_schemes());
    if (!o->job.out)
        argp_error(state, "-o DIR is missing");
    if (o->group % 32)
        argp_error(state, "--group %u: must be a multiple of 32", o->group);
    if (o->model.ctx || o->model.kv)
        argp_error(state, "--ctx, --kv: nothing is generated here");
    finish_schemes(state, o);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct quantize_options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        o->split.split = -1;
        o->back = "keep";
        o->sparse = -1;
        return 0;
    case OPT_SPLIT:
        o->split.split = (int32_t)opt_u32(state, "--split", arg, 0, INT32_MAX);
        return 0;
    case OPT_FRONT:
        o->front = arg;
        return 0;
    case OPT_BACK:
        o->back = arg;
        return 0;
    case OPT_CALIBRATION:
        o->job.calibration = arg;
        return 0;
    case OPT_GROUP:
        o->group = opt_u32(state, "--group", arg, 32, 65536);
        return 0;
    case OPT_SPARSE:
        o->sparse = opt_f64(state, "--sparse", arg, 0, (double)QUANTIZE_SPARSE_MAX);
        return 0;
    case OPT_TENSOR:
        add_override(state, &o->job, arg);
        return 0;
    case 'o':
        o->job.out = arg;
        return 0;
    case OPT_AS:
        if (strcmp(arg, "f16") != 0)
            argp_error(state, "--as %s: must be f16", arg);
        o->job.as_f16 = true;
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
    "Write a model in two files, edge.gguf with its front layers and cloud.gguf with its back "
    "ones, their matrices in the schemes asked for. Embedding, head, norms and biases stay as they "
    "are. Takes minutes with a calibration.",
    children,
    NULL,
    NULL,
};

/* --- the command ----------------------------------------------------------------------------- */

int cmd_quantize(int argc, char **argv)
{
    struct quantize_options o = {0};
    struct quantize_result r = {0};
    struct team *team = NULL;
    struct model model;

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int rc = model_open(o.model.path, false, &model);
    if (rc != EXIT_OK)
        return rc;
    const int split = split_resolve(&o.split, model.n_layers, model.path);
    if (split < 0)
        rc = EXIT_USAGE;
    o.job.split = (uint32_t)split;
    o.job.memory_check = !o.model.no_memory_check;
    if (rc == EXIT_OK)
        rc = quantize_job_prepare(&o.job, &model);
    if (rc == EXIT_OK)
        rc = model_team(&o.model, 0, 0, &team);
    if (rc == EXIT_OK)
        rc = quantize_job_run(&o.job, &model, team, &r);
    if (rc == EXIT_OK)
        rc = quantize_result_print(&o.job, &r, o.json);
    if (rc != EXIT_OK)
        quantize_job_undo(&o.job);

    quantize_result_free(&r);
    quantize_job_free(&o.job);
    team_close(team);
    model_close(&model);
    return rc;
}
