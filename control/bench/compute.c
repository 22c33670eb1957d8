/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench compute`: a model's prefill and decode, each beside the least time that this
 * machine must take for it.
 *
 * For each number of threads the stage is loaded once and all cases take turns, and so does
 * measuring what that many threads can read and multiply; the fastest turn of each counts.
 */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/bench/bench.h"
#include "control/bench/bounds.h"
#include "control/bench/compute_run.h"
#include "control/bench/cost.h"
#include "control/bench/machine.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/progress.h"
#include "control/signals.h"
#include "control/table.h"

#define CHUNK_DEFAULT 128u
#define ROUNDS_MAX    1000u
#define BOUNDS_S      .2 /* of a round */
#define CASES_MAX     (2 * OPT_LIST_MAX * OPT_LIST_MAX)
/* For the time that is left only: a step of one row reads as many bytes as one of a few. */
#define DECODE_STEP_WORK 4u

enum {
    OPT_PREFILL = OPT_OWN,
    OPT_DECODE,
    OPT_DEPTH,
    OPT_BATCH,
    OPT_LAYERS,
    OPT_ROUNDS,
    OPT_CHUNK,
    OPT_FORMAT,
};

struct options {
    const char *path;
    struct opt_list prefill, depth, batch, threads;
    uint32_t decode;
    bool depth_given, batch_given;
    int first_core;
    uint32_t first_layer, end_layer; /* end 0: to the model's end */
    uint32_t rounds, chunk;
    enum kv_format kv;
    enum table_format format;
};

static const struct argp_option option_list[] = {
    {"model", 'm', "FILE", 0, "The model, a GGUF file", 1},
    {"prefill", OPT_PREFILL, "N,...", 0, "Tokens of a prompt (default 512); 0: no prefill", 1},
    {"decode", OPT_DECODE, "N", 0, "Tokens made one after another (default 128); 0: no decode", 1},
    {"depth", OPT_DEPTH, "N,...", 0, "Tokens that a sequence has before (default 0,2048)", 1},
    {"batch", OPT_BATCH, "N,...", 0,
     "Sequences that decode together (default 1,16; more than one at depth 0 only, unless --depth "
     "or --batch is given)",
     1},
    {"threads", OPT_THREADS, "N,...", 0,
     "Compute threads, a core each (default: 1, and all cores that this process may use)", 1},
    {"kv", OPT_KV, "f16|q8|k8v4|q4", 0, "How keys and values are cached (default f16)", 1},
    {"layers", OPT_LAYERS, "A-B", 0, "Only layers A up to, not including, B: a stage", 1},
    {"rounds", OPT_ROUNDS, "N", 0, "Turns of each case (default 5)", 1},
    {"chunk", OPT_CHUNK, "N", 0, "Rows of a step of prefill at most (default 128)", 1},
    {"first-core", OPT_FIRST_CORE, "N", 0,
     "First of the allowed cores to pin threads to; -1: do not pin (default 0)", 1},
    {"cpu-mask", OPT_CPU_MASK, "MASK", 0,
     "Instruction sets to use: c, avx2, avx512, vnni or all; the bound stays the machine's", 1},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 1},
    {0},
};

static void parse_layers(struct argp_state *state, const char *arg, struct options *o)
{
    unsigned first, end;
    int used = 0;

    if (sscanf(arg, "%u-%u%n", &first, &end, &used) != 2 || arg[used] || first >= end)
        argp_error(state, "--layers %s: must be like 0-10, the second number the greater", arg);
    o->first_layer = first;
    o->end_layer = end;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    switch (key) {
    case 'm':
        o->path = arg;
        return 0;
    case OPT_PREFILL:
        opt_u32_list(state, "--prefill", arg, 0, 1u << 20, &o->prefill);
        return 0;
    case OPT_DECODE:
        o->decode = opt_u32(state, "--decode", arg, 0, 1u << 20);
        return 0;
    case OPT_DEPTH:
        opt_u32_list(state, "--depth", arg, 0, 1u << 20, &o->depth);
        o->depth_given = true;
        return 0;
    case OPT_BATCH:
        opt_u32_list(state, "--batch", arg, 1, 1024, &o->batch);
        o->batch_given = true;
        return 0;
    case OPT_THREADS:
        opt_u32_list(state, "--threads", arg, 1, 1024, &o->threads);
        return 0;
    case OPT_KV:
        o->kv = opt_kv_format(state, arg);
        return 0;
    case OPT_LAYERS:
        parse_layers(state, arg, o);
        return 0;
    case OPT_ROUNDS:
        o->rounds = opt_u32(state, "--rounds", arg, 1, ROUNDS_MAX);
        return 0;
    case OPT_CHUNK:
        o->chunk = opt_u32(state, "--chunk", arg, 1, 4096);
        return 0;
    case OPT_FIRST_CORE:
        o->first_core =
            strcmp(arg, "-1") == 0 ? -1 : (int)opt_u32(state, "--first-core", arg, 0, 4095);
        return 0;
    case OPT_CPU_MASK:
        opt_cpu_mask(state, arg);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    case ARGP_KEY_END:
        if (!o->path)
            argp_error(state, "-m FILE is missing: `tools/fetch-model smollm2` prints the path of "
                              "a small model");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "A model's speed on this machine: tokens a second of reading a prompt (prefill) and of making "
    "one token after another (decode), by depth, sequences together and threads, each with its "
    "ratio to what this machine allows.\v"
    "The bound is the time to read the bytes that must be read (the weights, once a step or once a "
    "prompt, and the keys and values of every sequence), or to multiply what must be multiplied "
    "(the matrices; attention is not counted, and no product twice), whichever is longer, at the "
    "best rates that as many threads reached in the same run; `bound ratio` is that time over the "
    "one taken, the column beside it says which. All cases of a number of threads take turns; the "
    "fastest counts, sd is the standard deviation of their tokens a second. Sequences are filled "
    "to their depth by prefill, each with keys and values of its own.",
    NULL,
    NULL,
    NULL,
};

/* --- cases -------------------------------------------------------------------------------------
 */

struct test_case {
    bool decode;
    uint32_t tokens, batch;
    unsigned depth; /* index of bench.depths */
    double tokens_per_s[ROUNDS_MAX];
};

struct bench {
    const struct options *o;
    struct machine machine;
    struct model model;
    const char *name; /* of the model's file */
    struct cost_model cost;

    unsigned n_cases, n_depths;
    struct test_case *cases; /* [CASES_MAX] */
    struct run_depth depths[OPT_LIST_MAX];
    struct progress progress;

    /* with one number of threads */
    unsigned threads;
    struct team *team;
    struct stage *stage;
    struct compute_run *run;
    struct bounds *bounds;
};

static void add_case(struct bench *b, const struct test_case *c)
{
    struct run_depth *d = &b->depths[c->depth];

    if (c->tokens == 0)
        return;
    b->cases[b->n_cases++] = *c;
    d->n_seqs = d->n_seqs > c->batch ? d->n_seqs : c->batch;
    d->more = d->more > c->tokens ? d->more : c->tokens;
}

static void list_cases(struct bench *b)
{
    const struct options *o = b->o;
    const bool all = o->depth_given || o->batch_given;

    for (unsigned d = 0; d < o->depth.n; d++) {
        b->depths[b->n_depths++] = (struct run_depth){.depth = o->depth.at[d]};
        for (unsigned i = 0; i < o->prefill.n; i++)
            add_case(b, &(struct test_case){.tokens = o->prefill.at[i], .batch = 1, .depth = d});
        for (unsigned i = 0; i < o->batch.n; i++)
            if (all || o->batch.at[i] == 1 || o->depth.at[d] == 0)
                add_case(b, &(struct test_case){.decode = true,
                                                .tokens = o->decode,
                                                .batch = o->batch.at[i],
                                                .depth = d});
    }
}

static uint64_t case_work(const struct test_case *c)
{
    return c->decode ? (uint64_t)c->tokens * (DECODE_STEP_WORK + c->batch) : c->tokens;
}

static uint64_t all_work(const struct bench *b)
{
    uint64_t work = 0;

    for (unsigned i = 0; i < b->n_depths; i++)
        work += (uint64_t)b->depths[i].depth * b->depths[i].n_seqs;
    for (unsigned i = 0; i < b->n_cases; i++)
        work += b->o->rounds * case_work(&b->cases[i]);
    return work;
}

/* The longest sequence, or 0: said that the model's context does not take it. */
static uint32_t needed_ctx(const struct bench *b)
{
    const struct gguf *g = b->model.gguf;
    uint32_t need = 0, ctx = UINT32_MAX;
    struct gguf_str arch;
    char key[128];

    if (gguf_str(g, "general.architecture", &arch) == 0) {
        snprintf(key, sizeof(key), "%.*s.context_length", (int)(arch.len < 64 ? arch.len : 64),
                 arch.ptr);
        gguf_u32(g, key, &ctx);
    }
    for (unsigned i = 0; i < b->n_depths; i++) {
        const uint32_t depth = b->depths[i].depth, more = b->depths[i].more;
        if (depth > ctx || more > ctx - depth) {
            log_error("--depth %u and %u tokens more are %u: the context of %s is %u", depth, more,
                      depth + more, b->o->path, ctx);
            return 0;
        }
        need = need > depth + more ? need : depth + more;
    }
    return need;
}

/* --- a number of threads -----------------------------------------------------------------------
 */

static int open_stage(struct bench *b, uint32_t n_ctx)
{
    const struct options *o = b->o;
    struct stage_params p = {
        .first_layer = o->first_layer,
        .end_layer = o->end_layer,
        .max_rows = o->chunk,
        .kv_format = o->kv,
        .n_ctx = n_ctx,
    };
    char err[GGUF_ERR] = "";
    size_t weights, kv_bytes;
    int rc = team_open(b->threads, o->first_core, &b->team, &b->threads);

    if (rc < 0) {
        log_error("cannot start %u compute threads: %s", b->threads, strerror(-rc));
        return EXIT_FAILED;
    }
    for (unsigned i = 0; i < b->n_depths; i++)
        p.max_seqs += b->depths[i].n_seqs;
    for (unsigned i = 0; i < b->n_cases; i++)
        p.max_rows = p.max_rows > b->cases[i].batch ? p.max_rows : b->cases[i].batch;
    const struct need_process with = {.threads = b->threads, .logit_rows = p.max_seqs};
    rc = model_open_stage(&b->model, &p, &with, b->team, &b->stage);
    if (rc != EXIT_OK)
        return rc;
    /* Over many tokens whole pages do not show. */
    rc = stage_footprint(b->model.gguf, &p, 1u << 20, &weights, &kv_bytes, err);
    if (rc == 0)
        rc = run_open(b->stage, &b->run);
    if (rc == 0)
        rc = bounds_open(b->team, BOUND(BOUND_DRAM_READ) | BOUND(BOUND_DOT), machine_dram_bytes(),
                         &b->bounds);
    if (rc < 0) {
        log_error("%s", err[0] ? err : strerror(-rc));
        return EXIT_FAILED;
    }
    const struct stage_info *info = stage_info(b->stage);
    b->cost.weights_bytes = (double)info->weights_bytes;
    b->cost.kv_bytes_per_token = (double)kv_bytes / (1u << 20);
    cost_count_macs(b->model.gguf, info->first_layer, info->end_layer, info->n_layers, &b->cost);
    bounds_say_pages(b->bounds);
    return EXIT_OK;
}

static void close_stage(struct bench *b)
{
    for (unsigned i = 0; b->run && i < b->n_depths; i++)
        run_empty(b->run, &b->depths[i]);
    bounds_close(b->bounds);
    run_close(b->run);
    stage_close(b->stage);
    team_close(b->team);
    b->bounds = NULL;
    b->run = NULL;
    b->stage = NULL;
    b->team = NULL;
}

static int run_case(struct bench *b, struct test_case *c, uint32_t tokens, double *s)
{
    const struct run_depth *d = &b->depths[c->depth];

    return c->decode ? run_decode(b->run, d, tokens, c->batch, s)
                     : run_prefill(b->run, d, tokens, s);
}

/* Fills the sequences, lets everything run once for its first touch, then takes turns. */
static int take_turns(struct bench *b)
{
    double s;
    int rc = 0;

    for (unsigned i = 0; i < b->n_depths && rc == 0; i++) {
        rc = run_fill(b->run, &b->depths[i]);
        progress_add(&b->progress, (uint64_t)b->depths[i].depth * b->depths[i].n_seqs);
    }
    for (unsigned i = 0; i < b->n_cases && rc == 0; i++)
        rc = run_case(b, &b->cases[i], b->cases[i].tokens < 4 ? b->cases[i].tokens : 4, &s);
    for (unsigned round = 0; round < b->o->rounds && rc == 0; round++) {
        rc = bounds_measure(b->bounds, BOUNDS_S);
        for (unsigned i = 0; i < b->n_cases && rc == 0; i++) {
            struct test_case *c = &b->cases[i];
            rc = run_case(b, c, c->tokens, &s);
            c->tokens_per_s[round] = (double)c->tokens * c->batch / s;
            progress_add(&b->progress, case_work(c));
        }
    }
    return rc;
}

/* --- results -----------------------------------------------------------------------------------
 */

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"model", NULL, TABLE_TEXT},
    {"layers", NULL, TABLE_TEXT},
    {"kind", "kind", TABLE_TEXT},
    {"tokens", "tokens", TABLE_COUNT},
    {"depth", "depth", TABLE_COUNT},
    {"batch", "batch", TABLE_COUNT},
    {"threads", "threads", TABLE_COUNT},
    {"tokens_per_s", "tokens/s", 1},
    {"sd", "sd", 1},
    {"bound_ratio", "bound ratio", 3},
    {"bound", "bound", TABLE_TEXT},
    {"bound_gb_per_s", "read GB/s", 1},
    {"bound_gop_per_s", "products GOP/s", 0},
    {"bound_gb_per_s_sd", NULL, 1},
    {"bound_gop_per_s_sd", NULL, 1},
    {"kv", "KV", TABLE_TEXT},
    {"weights_bytes", NULL, TABLE_COUNT},
    {"kv_bytes_per_token", NULL, TABLE_COUNT},
    {"chunk", NULL, TABLE_COUNT},
    {"rounds", NULL, TABLE_COUNT},
    {"huge_page_bytes", NULL, TABLE_COUNT},
    {"cpu", NULL, TABLE_TEXT},
    {"cores", NULL, TABLE_COUNT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

static void summarize(const struct test_case *c, unsigned rounds, double *best, double *sd)
{
    double mean = 0, sq = 0;

    *best = 0;
    for (unsigned i = 0; i < rounds; i++) {
        mean += c->tokens_per_s[i] / rounds;
        *best = fmax(*best, c->tokens_per_s[i]);
    }
    for (unsigned i = 0; i < rounds; i++)
        sq += (c->tokens_per_s[i] - mean) * (c->tokens_per_s[i] - mean);
    *sd = rounds > 1 ? sqrt(sq / (rounds - 1)) : NAN;
}

static int print_case(const struct bench *b, const struct test_case *c)
{
    const struct bound read = bounds_best(b->bounds, BOUND_DRAM_READ, BOUND_ANY_ISA);
    const struct bound dot = bounds_best(b->bounds, BOUND_DOT, BOUND_ANY_ISA);
    const struct stage_info *info = stage_info(b->stage);
    const uint32_t depth = b->depths[c->depth].depth;
    const struct cost cost = c->decode ? cost_decode(&b->cost, depth, c->tokens, c->batch)
                                       : cost_prefill(&b->cost, depth, c->tokens);
    const struct cost_bound bound = cost_bound(cost, read.rate * 1e9, dot.rate * 1e9);
    struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;
    char layers[32];
    double best, sd;

    summarize(c, b->o->rounds, &best, &sd);
    snprintf(layers, sizeof(layers), "%u-%u", info->first_layer, info->end_layer);
    (cell++)->text = "compute";
    (cell++)->text = b->name;
    (cell++)->text = layers;
    (cell++)->text = c->decode ? "decode" : "prefill";
    (cell++)->value = c->tokens;
    (cell++)->value = depth;
    (cell++)->value = c->batch;
    (cell++)->value = b->threads;
    (cell++)->value = best;
    (cell++)->value = sd;
    (cell++)->value = bound.s * best / ((double)c->tokens * c->batch);
    (cell++)->text = bound.what;
    (cell++)->value = read.rate;
    (cell++)->value = dot.rate;
    (cell++)->value = read.sd;
    (cell++)->value = dot.sd;
    (cell++)->text = kv_format_name(b->o->kv);
    (cell++)->value = b->cost.weights_bytes;
    (cell++)->value = b->cost.kv_bytes_per_token;
    (cell++)->value = info->max_rows;
    (cell++)->value = b->o->rounds;
    (cell++)->value = (double)bounds_huge_bytes(b->bounds);
    (cell++)->text = b->machine.cpu;
    (cell++)->value = b->machine.cores;
    (cell++)->text = b->machine.kernel;
    (cell++)->text = ISTHMUS_VERSION;
    (cell++)->text = ISTHMUS_COMMIT;
    return table_row(b->o->format, columns, cells);
}

/* --- the command -------------------------------------------------------------------------------
 */

static int run_threads(struct bench *b, uint32_t threads, uint32_t n_ctx)
{
    b->threads = threads;
    int rc = open_stage(b, n_ctx);
    if (rc == EXIT_OK) {
        const int err = take_turns(b);
        progress_clear(&b->progress);
        if (err == -EINTR)
            rc = EXIT_INTERRUPTED;
        else if (err < 0) {
            log_error("%s with %u threads: %s", b->o->path, b->threads, strerror(-err));
            rc = EXIT_FAILED;
        }
        for (unsigned i = 0; i < b->n_cases && rc == EXIT_OK; i++)
            rc = print_case(b, &b->cases[i]);
    }
    close_stage(b);
    return rc;
}

/* Those asked for, as far as there are cores, each once. */
static void list_threads(const struct bench *b, struct opt_list *list)
{
    const unsigned cores = b->machine.cores;
    struct opt_list asked = b->o->threads;

    if (asked.n == 0)
        asked = (struct opt_list){.n = 2, .at = {1, cores}};
    list->n = 0;
    for (unsigned i = 0; i < asked.n; i++) {
        uint32_t n = asked.at[i];
        bool again = false;
        if (n > cores) {
            log_warn("--threads %u: only %u cores are allowed here, so %u are used", n, cores,
                     cores);
            n = cores;
        }
        for (unsigned k = 0; k < list->n; k++)
            again |= list->at[k] == n;
        if (!again)
            list->at[list->n++] = n;
    }
}

static int run_all(struct bench *b)
{
    struct opt_list threads;
    const uint32_t n_ctx = needed_ctx(b);

    if (!n_ctx)
        return EXIT_USAGE;
    list_threads(b, &threads);
    signals_catch();
    if (b->o->format == TABLE_MD)
        printf("%s, %u cores; %s; %s; isthmus %s (%s)\n\n", b->machine.cpu, b->machine.cores,
               b->machine.kernel, b->name, ISTHMUS_VERSION, ISTHMUS_COMMIT);
    int rc = table_head(b->o->format, columns);
    progress_start(&b->progress, "bench compute", threads.n * all_work(b));
    for (unsigned i = 0; i < threads.n && rc == EXIT_OK; i++)
        rc = run_threads(b, threads.at[i], n_ctx);
    return rc;
}

int bench_compute(int argc, char **argv)
{
    struct options o = {
        .prefill = {1, {512}},
        .depth = {2, {0, 2048}},
        .batch = {2, {1, 16}},
        .decode = 128,
        .rounds = 5,
        .chunk = CHUNK_DEFAULT,
    };
    struct bench b = {.o = &o};

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const char *slash = strrchr(o.path, '/');
    b.name = slash ? slash + 1 : o.path;
    int rc = model_open(o.path, false, &b.model);
    if (rc != EXIT_OK)
        return rc;
    b.cases = calloc(CASES_MAX, sizeof(*b.cases));
    const int err = b.cases ? machine_read(&b.machine) : -ENOMEM;
    if (err < 0) {
        log_error("%s", strerror(-err));
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK) {
        list_cases(&b);
        if (b.n_cases)
            rc = run_all(&b);
        else
            log_error("--prefill 0 --decode 0: nothing is left to be measured");
        rc = b.n_cases ? rc : EXIT_USAGE;
    }
    free(b.cases);
    model_close(&b.model);
    return rc;
}
