/* SPDX-License-Identifier: Apache-2.0 */
#include "control/options.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/kernels/attend.h"
#include "compute/team.h"
#include "control/codec_arg.h"
#include "control/log.h"
#include "control/need.h"
#include "control/quality_arg.h"

uint32_t opt_u32(struct argp_state *state, const char *name, const char *arg, uint32_t min,
                 uint32_t max)
{
    char *end;
    errno = 0;
    const long long v = strtoll(arg, &end, 10);
    if (errno || end == arg || *end != '\0' || v < (long long)min || v > (long long)max)
        argp_error(state, "%s %s: must be a whole number from %u to %u", name, arg, min, max);
    return (uint32_t)v;
}

void opt_u32_list(struct argp_state *state, const char *name, char *text, uint32_t min,
                  uint32_t max, struct opt_list *list)
{
    char *save = NULL;

    list->n = 0;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        if (list->n == OPT_LIST_MAX)
            argp_error(state, "%s: at most %u of them", name, OPT_LIST_MAX);
        list->at[list->n++] = opt_u32(state, name, item, min, max);
    }
    if (list->n == 0)
        argp_error(state, "%s: must be whole numbers with commas between them", name);
}

double opt_f64(struct argp_state *state, const char *name, const char *arg, double min, double max)
{
    char *end;
    const double v = strtod(arg, &end);
    if (end == arg || *end != '\0' || !(v >= min && v <= max))
        argp_error(state, "%s %s: must be a number from %g to %g", name, arg, min, max);
    return v;
}

uint64_t opt_u64(struct argp_state *state, const char *name, const char *arg)
{
    char *end;
    errno = 0;
    const uint64_t v = strtoull(arg, &end, 10);
    if (errno || end == arg || *end != '\0' || *arg == '-')
        argp_error(state, "%s %s: must be a whole number from 0 to 2^64-1", name, arg);
    return v;
}

uint64_t opt_size(struct argp_state *state, const char *name, const char *arg)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1}, {"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    char *end;
    const double n = strtod(arg, &end);
    double bytes = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0)
            bytes = n * units[i].bytes;
    if (end == arg || !(bytes >= 1 && bytes <= 1e18))
        argp_error(state, "%s %s: must be a size such as 64MB, 1.5GB or 2000000", name, arg);
    return (uint64_t)bytes;
}

void opt_table_format(struct argp_state *state, const char *arg, enum table_format *format)
{
    if (table_parse_format(arg, format) < 0)
        argp_error(state, "--format %s: must be md, csv or jsonl", arg);
}

unsigned opt_cpu_mask(struct argp_state *state, const char *arg)
{
    unsigned mask;
    if (cpu_parse_mask(arg, &mask) < 0)
        argp_error(state, "--cpu-mask %s: must be c, avx2, avx512, vnni, all or a number", arg);
    cpu_set_mask(mask);
    return mask;
}

enum kv_format opt_kv_format(struct argp_state *state, const char *arg)
{
    int f = 0;

    while (f < KV_FORMATS && strcmp(arg, kv_format_name(f)) != 0)
        f++;
    if (f == KV_FORMATS)
        argp_error(state, "keys and values as %s: must be f16, q8, k8v4 or q4", arg);
    return (enum kv_format)f;
}

void opt_check_kv_least(struct argp_state *state, uint32_t kv_least, enum kv_format kv)
{
    if (kv_least && kv_least - 1 < (uint32_t)kv)
        argp_error(state, "--kv-least %s: --kv %s is coarser",
                   kv_format_name((enum kv_format)(kv_least - 1)), kv_format_name(kv));
}

/* --- model ---------------------------------------------------------------------------------------
 */

static const struct argp_option model_options[] = {
    {"model", 'm', "FILE", 0, "The model, a GGUF file", 1},
    {"threads", OPT_THREADS, "N", 0, "Compute threads of a stage", 1},
    {"first-core", OPT_FIRST_CORE, "N", 0,
     "First of the allowed cores to pin threads to; -1: do not pin", 1},
    {"cpus", OPT_CPUS, "LIST", 0,
     "Use only these CPUs, like 0-3,8, a thread on each (default: one on each allowed core)", 1},
    {"numa", OPT_NUMA, "N", 0, "Use only cores of this NUMA node (default: any)", 1},
    {"mlock", OPT_MLOCK, NULL, 0, "Keep the weights from being swapped out", 1},
    {"cpu-mask", OPT_CPU_MASK, "MASK", 0,
     "Instruction sets to use: c, avx2, avx512, vnni or all (default all). Changes speed, never "
     "results",
     1},
    {"ctx", OPT_CTX, "N", 0, "Longest sequence in tokens (default: the model's, at most 8192)", 1},
    {"no-memory-check", OPT_NO_MEMORY_CHECK, NULL, 0,
     "Load a model even where it seems not to fit in memory", 1},
    {"kv", OPT_KV, "f16|q8|k8v4|q4", 0,
     "How keys and values are cached (default f16): q8 takes half of the memory, k8v4 (keys as "
     "q8, values as q4) two fifths, q4 a quarter. An edge's choice is its sessions' at the cloud, "
     "too; a cloud's own is what its room is counted in",
     1},
    {0},
};

static error_t model_parse(int key, char *arg, struct argp_state *state)
{
    struct model_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct model_options){.first_core = INT32_MIN, .numa_node = -1, .cpu_mask = CPU_ALL};
        return 0;
    case 'm':
        o->path = arg;
        return 0;
    case OPT_THREADS:
        o->threads = opt_u32(state, "--threads", arg, 1, 1024);
        return 0;
    case OPT_FIRST_CORE:
        o->first_core =
            strcmp(arg, "-1") == 0 ? -1 : (int)opt_u32(state, "--first-core", arg, 0, 4095);
        return 0;
    case OPT_CPUS:
        o->cpus = arg;
        return 0;
    case OPT_NUMA:
        o->numa_node = (int)opt_u32(state, "--numa", arg, 0, TEAM_NODES_MAX - 1);
        return 0;
    case OPT_MLOCK:
        o->mlock = true;
        return 0;
    case OPT_CPU_MASK:
        o->cpu_mask = opt_cpu_mask(state, arg);
        return 0;
    case OPT_CTX:
        o->ctx = opt_u32(state, "--ctx", arg, 1, 1u << 20);
        return 0;
    case OPT_NO_MEMORY_CHECK:
        o->no_memory_check = true;
        need_check_skip();
        return 0;
    case OPT_KV:
        o->kv = opt_kv_format(state, arg);
        return 0;
    case ARGP_KEY_END:
        if (!o->path)
            argp_error(state,
                       "-m FILE is missing: `tools/fetch-model smollm2` prints the path of a "
                       "small model");
        if (o->first_core == -1 && (o->cpus || o->numa_node >= 0))
            argp_error(state, "--first-core -1 does not pin: leave out %s",
                       o->cpus ? "--cpus" : "--numa");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp model_argp = {model_options, model_parse, NULL, NULL, NULL, NULL, NULL};

/* --- split ---------------------------------------------------------------------------------------
 */

static const struct argp_option split_option_list[] = {
    {"split", OPT_SPLIT, "N", 0,
     "Layers at the edge (default: the profile's, or a third of the model's)", 2},
    {"codec", OPT_CODEC, "CODEC", 0,
     "How activations are compressed: tsq or tsq:tau=4,delta=.08,qmin=2,qmax=8; rans, xform or "
     "xform:step=.0115; f16; f32 (default tsq, and with --profile xform)",
     2},
    {"profile", OPT_PROFILE, "FILE", 0,
     "What `isthmus calibrate` learned of this model at this split, for xform and rans; the same "
     "at both ends",
     2},
    {"quality", OPT_QUALITY, "kl=KL", 0,
     "Find tsq's delta or the step of rans and xform by the mean KL divergence that it costs, on "
     "the profile's curve",
     2},
    {"rate", OPT_RATE, "BYTESB/token", 0,
     "Find it, and go on finding it in every session, by the bytes a token takes: 200B/token", 2},
    {0},
};

static error_t split_parse(int key, char *arg, struct argp_state *state)
{
    struct split_options *o = state->input;
    char err[CODEC_ARG_ERR]; /* as long as QUALITY_ARG_ERR */
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct split_options){.split = -1, .codec = codec_params_default(CODEC_TSQ)};
        return 0;
    case OPT_SPLIT:
        o->split = (int32_t)opt_u32(state, "--split", arg, 0, INT32_MAX);
        return 0;
    case OPT_CODEC:
        if (codec_arg_parse(arg, &o->codec, err) < 0)
            argp_error(state, "%s", err);
        o->codec_given = true;
        o->parameter_given = quality_arg_conflicts(arg);
        return 0;
    case OPT_PROFILE:
        o->profile = arg;
        return 0;
    case OPT_QUALITY:
    case OPT_RATE:
        if ((key == OPT_RATE ? rate_arg_parse : quality_arg_parse)(arg, &o->target, err) < 0)
            argp_error(state, "%s", err);
        return 0;
    case ARGP_KEY_END:
        if (o->target.kind && o->parameter_given)
            argp_error(state, "--quality and --rate find the step or delta: leave it out of "
                              "--codec");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void split_refuse_local(struct argp_state *state, const struct split_options *o, const char *other)
{
    const char *given = o->split >= 0                        ? "--split"
                        : o->codec_given                     ? "--codec"
                        : o->profile                         ? "--profile"
                        : o->target.kind == CODEC_RATE_KL    ? "--quality"
                        : o->target.kind == CODEC_RATE_BYTES ? "--rate"
                                                             : other;
    if (given)
        argp_error(state, "--local does not split: leave out %s", given);
}

const struct argp split_argp = {split_option_list, split_parse, NULL, NULL, NULL, NULL, NULL};

/* --- head ----------------------------------------------------------------------------------------
 */

static const struct argp_option head_options[] = {
    {"head", OPT_HEAD, "cloud|edge", 0,
     "Where the head and the sampler are (default cloud). edge: clouds send hidden states instead "
     "of "
     "tokens and are told none; a cloud that is given it has no head, and refuses edges without "
     "one",
     2},
    {0},
};

static error_t head_parse(int key, char *arg, struct argp_state *state)
{
    enum head_place *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = HEAD_AT_CLOUD;
        return 0;
    case OPT_HEAD:
        if (strcmp(arg, "cloud") != 0 && strcmp(arg, "edge") != 0)
            argp_error(state, "--head %s: must be cloud or edge", arg);
        *o = strcmp(arg, "edge") == 0 ? HEAD_AT_EDGE : HEAD_AT_CLOUD;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp head_argp = {head_options, head_parse, NULL, NULL, NULL, NULL, NULL};

int split_resolve(const struct split_options *o, uint32_t n_layers, const char *path)
{
    if (n_layers < 2) {
        log_error("%s: a model of %u layers cannot be split: use --local", path, n_layers);
        return -EINVAL;
    }
    if (o->split < 0)
        return n_layers < 3 ? 1 : (int)(n_layers / 3);
    if (o->split < 1 || (uint32_t)o->split >= n_layers) {
        log_error("--split %d: %s has %u layers, so it must be 1 to %u", o->split, path, n_layers,
                  n_layers - 1);
        return -EINVAL;
    }
    return o->split;
}

/* --- sampler -------------------------------------------------------------------------------------
 */

static const struct argp_option sampler_options[] = {
    {"temp", OPT_TEMP, "T", 0, "Temperature (default 0: always the likeliest token)", 3},
    {"top-k", OPT_TOP_K, "N", 0, "Only the N likeliest tokens (default 0: off)", 3},
    {"top-p", OPT_TOP_P, "P", 0, "Only the likeliest tokens that sum to P (default 1: off)", 3},
    {"min-p", OPT_MIN_P, "P", 0,
     "Only tokens at least P times as likely as the likeliest (default 0: off)", 3},
    {"repeat-penalty", OPT_REPEAT_PENALTY, "R", 0,
     "Weigh generated tokens down by R (default 1: off)", 3},
    {"seed", OPT_SEED, "N", 0, "Same seed, same text (default 0)", 3},
    {0},
};

static error_t sampler_parse(int key, char *arg, struct argp_state *state)
{
    struct sampler_params *p = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *p = sampler_params_default();
        return 0;
    case OPT_TEMP:
        p->temp = (float)opt_f64(state, "--temp", arg, 0, 100);
        return 0;
    case OPT_TOP_K:
        p->top_k = opt_u32(state, "--top-k", arg, 0, UINT32_MAX);
        return 0;
    case OPT_TOP_P:
        p->top_p = (float)opt_f64(state, "--top-p", arg, 0, 1);
        return 0;
    case OPT_MIN_P:
        p->min_p = (float)opt_f64(state, "--min-p", arg, 0, 1);
        return 0;
    case OPT_REPEAT_PENALTY:
        p->repeat_penalty = (float)opt_f64(state, "--repeat-penalty", arg, 0.01, 100);
        return 0;
    case OPT_SEED:
        p->seed = opt_u64(state, "--seed", arg);
        return 0;
    case ARGP_KEY_END:
        if (sampler_params_check(p) < 0)
            argp_error(state, "these sampling parameters do not go together: --temp >= 0, "
                              "0 < --top-p <= 1, 0 <= --min-p <= 1, --repeat-penalty > 0");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp sampler_argp = {sampler_options, sampler_parse, NULL, NULL, NULL, NULL, NULL};
