/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of command lines that commands share, as argp children:
 *
 *     static const struct argp_child children[] = { { &model_argp, 0, NULL, 0 }, { 0 } };
 *     case ARGP_KEY_INIT: state->child_inputs[0] = &my->model; ...
 *
 * A child fills its struct's defaults at ARGP_KEY_INIT and checks it at ARGP_KEY_END. Bad values
 * end the program through argp_error(), with exit code 2.
 */
#ifndef ISTHMUS_CONTROL_OPTIONS_H
#define ISTHMUS_CONTROL_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/rate.h"
#include "compute/kernels/attend.h"
#include "compute/sampler.h"
#include "compute/stage.h"
#include "control/table.h"

/* Keys of options without a letter; a command's own keys start at OPT_OWN. */
enum {
    OPT_THREADS = 0x100,
    OPT_FIRST_CORE,
    OPT_CPUS,
    OPT_NUMA,
    OPT_MLOCK,
    OPT_CPU_MASK,
    OPT_CTX,
    OPT_KV,
    OPT_NO_MEMORY_CHECK,
    OPT_KV_BUDGET,
    OPT_SPLIT,
    OPT_CODEC,
    OPT_PROFILE,
    OPT_QUALITY,
    OPT_RATE,
    OPT_HEAD,
    OPT_TEMP,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPEAT_PENALTY,
    OPT_SEED,
    OPT_NETEM,
    OPT_PORT,
    OPT_INSECURE,
    OPT_USER,
    OPT_IDENTITY,
    OPT_PEER,
    OPT_OWN,
};

/* -m FILE, --threads N, --first-core N, --cpus LIST, --numa N, --mlock, --cpu-mask MASK (takes effect at
 * once), --ctx N, --kv FORMAT. */
struct model_options {
    const char *path;  /* never NULL after parsing */
    uint32_t threads;  /* 0: not given */
    int first_core;    /* -1: do not pin; INT32_MIN: not given */
    const char *cpus;  /* NULL: not given */
    int numa_node;     /* -1: not given */
    bool mlock;
    uint32_t ctx;      /* 0: not given */
    unsigned cpu_mask; /* CPU_ALL: not given */
    enum kv_format kv;
    bool no_memory_check;
};
extern const struct argp model_argp;

/* --split N, --codec C, --profile FILE, --quality or --rate; split_plan.h makes a plan of them. */
struct split_options {
    int32_t split; /* layers at the edge; -1: not given */
    struct codec_params codec;
    bool codec_given;
    const char *profile; /* NULL: not given */
    struct codec_rate_target target;
    bool parameter_given; /* by --codec, of those that a target is to find */
};
extern const struct argp split_argp;

/* --local beside one of these, or beside other (NULL: nothing), ends the program by argp_error. */
void split_refuse_local(struct argp_state *state, const struct split_options *o, const char *other);

/* --head, of both halves -> enum head_place. */
enum head_place { HEAD_AT_CLOUD, HEAD_AT_EDGE };
extern const struct argp head_argp;
/* What the stages of the front and the back layers are told by it. */
static inline enum stage_head head_of_front(enum head_place p)
{
    return p == HEAD_AT_EDGE ? STAGE_HEAD_WITH : STAGE_HEAD_OWN;
}

static inline enum stage_head head_of_back(enum head_place p)
{
    return p == HEAD_AT_EDGE ? STAGE_HEAD_WITHOUT : STAGE_HEAD_OWN;
}

/* --temp, --top-k, --top-p, --min-p, --repeat-penalty, --seed -> struct sampler_params. */
extern const struct argp sampler_argp;

/* An option's value as a number in [min, max], or argp_error. */
uint32_t opt_u32(struct argp_state *state, const char *name, const char *arg, uint32_t min,
                 uint32_t max);
uint64_t opt_u64(struct argp_state *state, const char *name, const char *arg);
/* Bytes, at least one: "64MB", "1.5GB", "200kB" or a plain number; powers of 1000. */
uint64_t opt_size(struct argp_state *state, const char *name, const char *arg);
double opt_f64(struct argp_state *state, const char *name, const char *arg, double min, double max);

/* "1,64,512": up to OPT_LIST_MAX of them, or argp_error. Cuts text up. */
#define OPT_LIST_MAX 16u
struct opt_list {
    uint32_t n, at[OPT_LIST_MAX];
};
void opt_u32_list(struct argp_state *state, const char *name, char *text, uint32_t min,
                  uint32_t max, struct opt_list *list);

/* f16, q8, k8v4 or q4, or argp_error. */
enum kv_format opt_kv_format(struct argp_state *state, const char *arg);
/* --kv-least, 1 + the format, 0: not given, is not finer than --kv; or argp_error. */
void opt_check_kv_least(struct argp_state *state, uint32_t kv_least, enum kv_format kv);

/* --format: md, csv or jsonl, or argp_error. */
void opt_table_format(struct argp_state *state, const char *arg, enum table_format *format);

/* --cpu-mask: takes effect at once. */
unsigned opt_cpu_mask(struct argp_state *state, const char *arg);

/* Layers at the edge for a model of n_layers: what was asked for, or a third of them. -EINVAL, said
 * on stderr, when split is not in 1..n_layers-1. */
int split_resolve(const struct split_options *o, uint32_t n_layers, const char *path);

#endif
