/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench codec`: encoding and decoding, for every codec, width, batch and instruction set.
 *
 * A case is a codec, a width and a batch. All its instruction sets take turns, and so do reading
 * and copying the same buffers. One message of a few rows over and over would be learnt by heart by
 * the branch predictor, so a case goes round a ring of messages with at least RING_ROWS rows.
 */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/bench/bench.h"
#include "control/bench/bounds.h"
#include "control/bench/coder.h"
#include "control/bench/layer.h"
#include "control/bench/machine.h"
#include "control/bench/memory.h"
#include "control/bench/transform.h"
#include "control/bench/turns.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/options.h"
#include "control/progress.h"
#include "control/table.h"

#define RING_ROWS      8u
#define DRAM_MIN_BYTES ((size_t)128 << 20)
#define DRAM_MAX_BYTES ((size_t)1 << 30)
#define ISAS_MAX       3u

enum { OPT_COLS = OPT_OWN, OPT_ROWS, OPT_FORMAT, OPT_TIME };

struct options {
    struct coder_spec codecs[OPT_LIST_MAX];
    unsigned n_codecs;
    struct opt_list cols, rows;
    enum table_format format;
    double time_s;
    uint64_t seed;
};

static const struct argp_option option_list[] = {
    {"codec", OPT_CODEC, "CODEC", 0,
     "f32, f16, tsq or tsq:tau=4,delta=.08,qmin=2,qmax=8; rans, xform or xform:step=.0115 by a "
     "made-up profile; or rans:lanes=4, 8, 16, 32 or 64, the entropy coder's kernel alone; may be "
     "given many times (default: f32, f16, tsq, rans, xform, and the kernel with 16, 32 and 64 "
     "lanes)",
     1},
    {"cols", OPT_COLS, "N,...", 0, "Widths of a row (default 576,896,2048,4096,8192)", 1},
    {"rows", OPT_ROWS, "N,...", 0, "Rows of a message (default 1,64,512)", 1},
    {"cpu-mask", OPT_CPU_MASK, "MASK", 0,
     "Instruction sets to compare with C, up to: c, avx2, avx512, vnni or all", 1},
    {"time", OPT_TIME, "S", 0, "Seconds for each codec, width and batch (default .3)", 1},
    {"seed", OPT_SEED, "N", 0, "Same seed, same rows (default 0)", 1},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 1},
    {0},
};

static const char *const defaults[] = {"f32",   "f16",           "tsq",           "rans",
                                       "xform", "rans:lanes=16", "rans:lanes=32", "rans:lanes=64"};
#define N_DEFAULTS (sizeof(defaults) / sizeof(defaults[0]))

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;
    char err[CODEC_ARG_ERR];

    switch (key) {
    case OPT_CODEC:
        if (o->n_codecs == OPT_LIST_MAX)
            argp_error(state, "--codec: at most %u of them", OPT_LIST_MAX);
        if (coder_spec_parse(arg, &o->codecs[o->n_codecs++], err) < 0)
            argp_error(state, "%s", err);
        return 0;
    case OPT_COLS:
        opt_u32_list(state, "--cols", arg, 1, CODEC_COLS_MAX, &o->cols);
        return 0;
    case OPT_ROWS:
        opt_u32_list(state, "--rows", arg, 1, CODEC_ROWS_MAX, &o->rows);
        return 0;
    case OPT_CPU_MASK:
        opt_cpu_mask(state, arg);
        return 0;
    case OPT_TIME:
        o->time_s = opt_f64(state, "--time", arg, .001, 3600);
        return 0;
    case OPT_SEED:
        o->seed = opt_u64(state, "--seed", arg);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    case ARGP_KEY_END:
        if (o->n_codecs == 0)
            for (; o->n_codecs < N_DEFAULTS; o->n_codecs++)
                coder_spec_parse(defaults[o->n_codecs], &o->codecs[o->n_codecs], err);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "How fast rows are encoded and decoded by one thread: nanoseconds a row and values a second "
    "for each codec, width, batch and instruction set of this machine, beside C and beside "
    "memory.\v"
    "The instruction sets take turns, and so do reading and copying the same rows; the fastest "
    "turn counts, median and standard deviation (sd) stand beside it. `of reading` is the time of "
    "only reading the rows over that of encoding them, `of copying` the time of copying them over "
    "that of decoding them, both in the cache the rows lie in. Rows look like hidden states: small "
    "values and 2 % of outliers; symbols for the kernel like their 4-bit codes; rows for rans and "
    "xform like their profile's, which says nothing of a model's bytes. `of layer` is the time of "
    "a "
    "row over that of a row in a layer's prefill: twelve products of a square Q4_1 matrix as wide "
    "as the rows with 64 of them, by the fastest kernels; for xform with the fastest instruction "
    "set: of all of encoding, all of decoding, and of the transform's products in them, analysis "
    "in the former and synthesis in the latter. Every instruction set's bytes are compared with "
    "C's.",
    NULL,
    NULL,
    NULL,
};

/* --- a case ----------------------------------------------------------------------------------- */

struct bench;

/* One instruction set's part in a case. */
struct contestant {
    struct bench *b;
    struct coder *coder;
    uint8_t *coded; /* as many as messages, each with room for b->room bytes */
    char *decoded;
};

struct bench {
    const struct options *o;
    char cpu[MACHINE_NAME_MAX];
    double dram_read, dram_copy; /* GB/s */
    unsigned isas[ISAS_MAX], n_isas, allowed;
    struct progress progress;

    /* the case */
    struct coder_spec coder;
    struct codec_profile *profile; /* NULL: none; coder points to it */
    struct layer *layer;           /* NULL: not compared */
    struct transform *transform;   /* the same */
    uint32_t cols, rows, messages;
    size_t message_values, message_bytes;
    char *values, *copy; /* the messages */
    size_t room;         /* for a message encoded */
    size_t *coded_bytes; /* of each */
    struct contestant contestants[ISAS_MAX];
};

static void run_encode(void *arg)
{
    struct contestant *c = arg;
    const struct bench *b = c->b;

    for (uint32_t i = 0; i < b->messages; i++)
        coder_encode(c->coder, b->values + i * b->message_bytes, c->coded + i * b->room, b->room);
}

static void run_decode(void *arg)
{
    struct contestant *c = arg;
    const struct bench *b = c->b;

    for (uint32_t i = 0; i < b->messages; i++)
        coder_decode(c->coder, c->coded + i * b->room, b->coded_bytes[i],
                     c->decoded + i * b->message_bytes);
}

static void run_read(void *arg)
{
    const struct bench *b = arg;

    memory_read(b->values, b->messages * b->message_bytes);
}

static void run_copy(void *arg)
{
    const struct bench *b = arg;

    memory_copy(b->copy, b->values, b->messages * b->message_bytes);
}

static void case_close(struct bench *b)
{
    for (unsigned i = 0; i < b->n_isas; i++) {
        coder_close(b->contestants[i].coder);
        free(b->contestants[i].coded);
        free(b->contestants[i].decoded);
        b->contestants[i] = (struct contestant){0};
    }
    codec_profile_free(b->profile);
    layer_close(b->layer);
    transform_close(b->transform);
    b->profile = NULL;
    b->layer = NULL;
    b->transform = NULL;
    free(b->values);
    free(b->copy);
    free(b->coded_bytes);
    b->values = b->copy = NULL;
    b->coded_bytes = NULL;
}

/* Aligned as a model's rows are; touched. */
static char *rows_alloc(const struct bench *b)
{
    const size_t bytes = (b->messages * b->message_bytes + 63) / 64 * 64;
    char *rows = aligned_alloc(64, bytes);

    return rows ? memset(rows, 0, bytes) : NULL;
}

static int contestant_open(struct bench *b, unsigned i)
{
    struct contestant *c = &b->contestants[i];

    c->b = b;
    c->coded = calloc(b->messages, b->room);
    c->decoded = rows_alloc(b);
    if (!c->coded || !c->decoded)
        return -ENOMEM;
    cpu_set_mask(b->isas[i]); /* a coder keeps the kernels it was opened with */
    return coder_open(&b->coder, b->rows, b->cols, b->values, &c->coder);
}

/* What is about to be timed works, and every instruction set gives what C, the first, gives. */
static int try_contestant(struct bench *b, struct contestant *c)
{
    const struct contestant *first = &b->contestants[0];

    for (uint32_t i = 0; i < b->messages; i++) {
        const size_t message = i * b->message_bytes, coded = i * b->room;
        int rc = coder_encode(c->coder, b->values + message, c->coded + coded, b->room);
        if (rc < 0)
            return rc;
        if (c == first)
            b->coded_bytes[i] = (size_t)rc;
        if ((size_t)rc != b->coded_bytes[i] ||
            memcmp(c->coded + coded, first->coded + coded, (size_t)rc) != 0)
            return -EILSEQ;
        rc = coder_decode(c->coder, c->coded + coded, b->coded_bytes[i], c->decoded + message);
        if (rc < 0)
            return rc;
    }
    return memcmp(c->decoded, first->decoded, b->messages * b->message_bytes) ? -EILSEQ : 0;
}

/* What codecs with a profile need besides. */
static int open_profiled(struct bench *b)
{
    if (!coder_profiled(&b->coder))
        return 0;
    int rc = coder_profile(b->cols, &b->profile);
    b->coder.params.profile = b->profile;
    if (rc < 0 || b->coder.params.mode != CODEC_XFORM || b->cols % 32)
        return rc;
    cpu_set_mask(b->allowed); /* they keep, or take, the kernels of their moment */
    rc = layer_open(b->cols, &b->layer);
    return rc < 0 ? rc : transform_open(b->profile, b->rows, &b->transform);
}

static int case_open(struct bench *b, const struct coder_spec *s, uint32_t cols, uint32_t rows)
{
    int rc = 0;

    b->coder = *s;
    b->cols = cols;
    b->rows = rows;
    b->messages = rows < RING_ROWS ? (RING_ROWS + rows - 1) / rows : 1;
    b->message_values = coder_message_values(s, rows, cols);
    b->message_bytes = b->message_values * coder_value_bytes(s);
    b->room = coder_bound(s, rows, cols);
    b->values = rows_alloc(b);
    b->copy = rows_alloc(b);
    b->coded_bytes = calloc(b->messages, sizeof(*b->coded_bytes));
    if (!b->values || !b->copy || !b->coded_bytes)
        rc = -ENOMEM;
    if (rc == 0)
        rc = open_profiled(b);
    if (rc == 0)
        rc = coder_fill(&b->coder, cols, b->values, b->messages * b->message_values, b->o->seed);
    for (unsigned i = 0; i < b->n_isas && rc == 0; i++) {
        rc = contestant_open(b, i);
        if (rc == 0)
            rc = try_contestant(b, &b->contestants[i]);
    }
    return rc;
}

/* --- results ---------------------------------------------------------------------------------- */

#define DIRECTION(name, heading, bound)                                                            \
    {name "_ns_per_row", heading " ns/row", 0}, {name "_ns_per_row_median", "median", 0},          \
        {name "_ns_per_row_sd", "sd", 0}, {name "_gvalues_per_s", "Gvalues/s", 2},                 \
        {name "_ratio_to_c", "x C", 1},                                                            \
    {                                                                                              \
        name "_ratio_to_" bound, "of " bound, 2                                                    \
    }

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"codec", "codec", TABLE_TEXT},
    {"cols", "cols", TABLE_COUNT},
    {"rows", "rows", TABLE_COUNT},
    {"isa", "ISA", TABLE_TEXT},
    {"bits_per_value", "bits/value", 2},
    DIRECTION("encode", "encode", "reading"),
    DIRECTION("decode", "decode", "copying"),
    {"encode_ratio_to_layer", "encode of layer", 3},
    {"analysis_ratio_to_layer", "analysis of layer", 3},
    {"decode_ratio_to_layer", "decode of layer", 3},
    {"synthesis_ratio_to_layer", "synthesis of layer", 3},
    {"read_gb_per_s", NULL, 1},
    {"copy_gb_per_s", NULL, 1},
    {"dram_read_gb_per_s", NULL, 1},
    {"dram_copy_gb_per_s", NULL, 1},
    {"working_set_bytes", NULL, TABLE_COUNT},
    {"turns", NULL, TABLE_COUNT},
    {"seed", NULL, TABLE_COUNT},
    {"cpu", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

static struct table_cell *put_direction(struct table_cell *cell, const struct bench *b,
                                        const struct turns_job *job, const struct turns_job *c,
                                        const struct turns_job *bound)
{
    (cell++)->value = job->best_ns;
    (cell++)->value = job->median_ns;
    (cell++)->value = job->sd_ns;
    (cell++)->value = b->cols / job->best_ns;
    (cell++)->value = c->best_ns / job->best_ns;
    (cell++)->value = bound->best_ns / job->best_ns;
    return cell;
}

/* A row's time over that of a layer's prefill of one; NaN where they aren't compared. jobs as
 * below. */
static struct table_cell *put_layer(struct table_cell *cell, const struct bench *b, unsigned isa,
                                    const struct turns_job *jobs)
{
    const struct turns_job *layer = &jobs[2 * b->n_isas + 2], *analysis = layer + 1;
    const struct turns_job *synthesis = layer + 2;
    const bool compared = b->layer && isa + 1 == b->n_isas;
    const double layer_ns = compared ? LAYER_MATRICES * layer->best_ns : NAN;

    (cell++)->value = jobs[2 * isa].best_ns / layer_ns;
    (cell++)->value = analysis->best_ns / layer_ns;
    (cell++)->value = jobs[2 * isa + 1].best_ns / layer_ns;
    (cell++)->value = synthesis->best_ns / layer_ns;
    return cell;
}

/* jobs: encode and decode of each instruction set, read, copy, and if there is a layer that,
 * analysis and synthesis. */
static int print_case(const struct bench *b, const struct turns_job *jobs)
{
    const struct turns_job *read = &jobs[2 * b->n_isas], *copy = read + 1;
    const double row_bytes = (double)b->message_bytes / b->rows;
    char codec[CODER_NAME_MAX];
    size_t bytes = 0;
    int rc = EXIT_OK;

    coder_spec_format(&b->coder, codec);
    for (uint32_t i = 0; i < b->messages; i++)
        bytes += b->coded_bytes[i];
    for (unsigned i = 0; i < b->n_isas && rc == EXIT_OK; i++) {
        struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;

        (cell++)->text = "codec";
        (cell++)->text = codec;
        (cell++)->value = b->cols;
        (cell++)->value = b->rows;
        (cell++)->text = cpu_level_name(b->isas[i]);
        (cell++)->value = 8 * (double)bytes / (double)b->messages / (double)b->message_values;
        cell = put_direction(cell, b, &jobs[2 * i], &jobs[0], read);
        cell = put_direction(cell, b, &jobs[2 * i + 1], &jobs[1], copy);
        cell = put_layer(cell, b, i, jobs);
        (cell++)->value = row_bytes / read->best_ns;
        (cell++)->value = row_bytes / copy->best_ns;
        (cell++)->value = b->dram_read;
        (cell++)->value = b->dram_copy;
        (cell++)->value = (double)(b->messages * b->message_bytes);
        (cell++)->value = jobs[0].turns;
        (cell++)->value = (double)b->o->seed;
        (cell++)->text = b->cpu;
        (cell++)->text = ISTHMUS_VERSION;
        (cell++)->text = ISTHMUS_COMMIT;
        rc = table_row(b->o->format, columns, cells);
    }
    return rc;
}

static int run_case(struct bench *b, const struct coder_spec *s, uint32_t cols, uint32_t rows)
{
    struct turns_job jobs[2 * ISAS_MAX + 5] = {{0}};
    unsigned n = 0;
    int rc = case_open(b, s, cols, rows);

    for (unsigned i = 0; i < b->n_isas; i++) {
        jobs[n++] = (struct turns_job){.run = run_encode, .arg = &b->contestants[i]};
        jobs[n++] = (struct turns_job){.run = run_decode, .arg = &b->contestants[i]};
    }
    jobs[n++] = (struct turns_job){.run = run_read, .arg = b};
    jobs[n++] = (struct turns_job){.run = run_copy, .arg = b};
    for (unsigned i = 0; i < n; i++)
        jobs[i].units = (double)b->messages * b->rows;
    if (b->layer) {
        cpu_set_mask(b->allowed); /* a product takes the kernels of its moment */
        jobs[n++] = (struct turns_job){.run = layer_run, .arg = b->layer, .units = LAYER_ROWS};
        jobs[n++] =
            (struct turns_job){.run = transform_analyse, .arg = b->transform, .units = b->rows};
        jobs[n++] =
            (struct turns_job){.run = transform_synthesise, .arg = b->transform, .units = b->rows};
    }
    if (rc == 0)
        rc = turns_take(jobs, n, b->o->time_s);
    progress_clear(&b->progress);
    if (rc == -EILSEQ)
        log_error("kernels of two instruction sets disagree at %u columns: please report it", cols);
    else if (rc < 0)
        log_error("%u rows of %u columns: %s", rows, cols, strerror(-rc));
    rc = rc < 0 ? EXIT_FAILED : print_case(b, jobs);
    progress_step(&b->progress);
    case_close(b);
    return rc;
}

/* --- the command ------------------------------------------------------------------------------ */

static void list_isas(struct bench *b)
{
    static const unsigned levels[ISAS_MAX] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
    const unsigned allowed = b->allowed = cpu_flags();

    for (unsigned i = 0; i < ISAS_MAX; i++)
        if ((levels[i] & allowed) == levels[i])
            b->isas[b->n_isas++] = levels[i];
}

static int measure_dram(struct bench *b)
{
    struct topology t = {0};
    struct bounds *bounds = NULL;
    struct team *team;

    topology_read(&t); /* without it: a size that is beyond most caches */
    size_t bytes = 4 * t.l3_bytes;
    if (bytes < DRAM_MIN_BYTES)
        bytes = DRAM_MIN_BYTES;
    if (bytes > DRAM_MAX_BYTES)
        bytes = DRAM_MAX_BYTES;
    int rc = team_open(1, -1, &team, NULL);
    if (rc == 0)
        rc = bounds_open(team, BOUND(BOUND_DRAM_READ) | BOUND(BOUND_DRAM_COPY), bytes, &bounds);
    if (rc == 0)
        rc = bounds_measure(bounds, b->o->time_s);
    if (rc == 0) {
        b->dram_read = bounds_best(bounds, BOUND_DRAM_READ, BOUND_ANY_ISA).rate;
        b->dram_copy = bounds_best(bounds, BOUND_DRAM_COPY, BOUND_ANY_ISA).rate;
    }
    bounds_close(bounds);
    team_close(team);
    if (rc < 0)
        log_error("%s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

static int run_cases(struct bench *b)
{
    const struct options *o = b->o;
    int rc = table_head(o->format, columns);

    progress_start(&b->progress, "bench codec", o->n_codecs * o->cols.n * o->rows.n);
    for (unsigned k = 0; k < o->n_codecs; k++)
        for (unsigned c = 0; c < o->cols.n; c++)
            for (unsigned r = 0; r < o->rows.n && rc == EXIT_OK; r++)
                rc = run_case(b, &o->codecs[k], o->cols.at[c], o->rows.at[r]);
    return rc;
}

int bench_codec(int argc, char **argv)
{
    struct options o = {
        .cols = {5, {576, 896, 2048, 4096, 8192}}, .rows = {3, {1, 64, 512}}, .time_s = .3};
    struct bench b = {.o = &o};

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    list_isas(&b);
    machine_cpu_name(b.cpu);
    int rc = measure_dram(&b);
    if (rc == EXIT_OK && o.format == TABLE_MD)
        printf("%s; isthmus %s (%s); memory beyond the caches: reading %.1f GB/s, copying %.1f "
               "GB/s\n\n",
               b.cpu, ISTHMUS_VERSION, ISTHMUS_COMMIT, b.dram_read, b.dram_copy);
    if (rc == EXIT_OK)
        rc = run_cases(&b);
    return rc;
}
