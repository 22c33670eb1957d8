/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench kernels`: products of quantized matrices and the row operations, on one thread.
 *
 * A product's matrices are several of one shape, together far larger than the caches, and a run
 * takes the next: so weights come from memory, as they do in a model. C is slow and steady: it has
 * three runs of a part of the rows.
 */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "codec/cpu.h"
#include "compute/kernels/kernels.h"
#include "compute/team.h"
#include "control/bench/bench.h"
#include "control/bench/bounds.h"
#include "control/bench/kernel_matmul.h"
#include "control/bench/kernel_rows.h"
#include "control/bench/machine.h"
#include "control/bench/turns.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/options.h"
#include "control/progress.h"
#include "control/table.h"

#define ISAS_MAX 4u
#define BOUNDS_S .5 /* before all others; then a little beside each */
#define JOBS_MAX (ISAS_MAX + 1)

enum { OPT_TYPE = OPT_OWN, OPT_SHAPE, OPT_TOKENS, OPT_TIME, OPT_FORMAT };

struct shape {
    uint32_t rows, cols;
};

struct options {
    struct matmul_format types[OPT_LIST_MAX];
    struct shape shapes[OPT_LIST_MAX];
    unsigned n_types, n_shapes;
    struct opt_list tokens;
    double time_s;
    enum table_format format;
};

static const struct argp_option option_list[] = {
    {"type", OPT_TYPE, "TYPE,...", 0,
     "Formats of the matrices: q4_1 and so on, or a scheme of `isthmus quantize`: sq3, g3:96, with "
     "+s a sparse part of .5 % of the weights (default: q4_0,q4_1,q5_0,q8_0,q4_k,q6_k,f16)",
     1},
    {"shape", OPT_SHAPE, "RxC,...", 0,
     "Rows, that are outputs, and columns, multiples of the format's block (default "
     "1536x768,768x1536)",
     1},
    {"tokens", OPT_TOKENS, "N,...", 0, "Rows multiplied at once (default 1,2,4,8,16,128)", 1},
    {"cpu-mask", OPT_CPU_MASK, "MASK", 0,
     "Instruction sets to compare with C, up to: c, avx2, avx512, vnni or all", 1},
    {"time", OPT_TIME, "S", 0, "Seconds for each format, shape and number of rows (default .1)", 1},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 1},
    {0},
};

static bool parse_type(const char *item, struct matmul_format *f)
{
    const size_t len = strlen(item), sparse = len > 2 && strcmp(item + len - 2, "+s") == 0 ? 2 : 0;

    *f = (struct matmul_format){.sparse = sparse};
    if (scheme_parse(item, len - sparse, &f->scheme) == 0)
        return true;
    f->scheme = (struct scheme){0};
    for (uint32_t t = 0; t <= QTYPE_BF16 && !sparse; t++)
        if (qtype_info(t) && !qtype_is_integer((enum qtype)t) &&
            strcasecmp(qtype_info(t)->name, item) == 0) {
            f->type = (enum qtype)t;
            return true;
        }
    return false;
}

static const char *type_name(const struct matmul_format *f, char buf[SCHEME_NAME + 2])
{
    if (f->scheme.kind == SCHEME_NONE)
        return qtype_info(f->type)->name;
    scheme_name(&f->scheme, buf);
    return f->sparse ? strcat(buf, "+s") : buf;
}

static void parse_types(struct argp_state *state, char *text, struct options *o)
{
    char *save = NULL;

    o->n_types = 0;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        if (o->n_types == OPT_LIST_MAX)
            argp_error(state, "--type: at most %u of them", OPT_LIST_MAX);
        if (!parse_type(item, &o->types[o->n_types++]))
            argp_error(state, "--type %s: must be among %s %s", item, qtype_supported(),
                       scheme_supported());
    }
    if (!o->n_types)
        argp_error(state, "--type: must be formats with commas between them");
}

static void parse_shapes(struct argp_state *state, char *text, struct options *o)
{
    char *save = NULL;

    o->n_shapes = 0;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        unsigned rows, cols;
        int used = 0;
        if (sscanf(item, "%ux%u%n", &rows, &cols, &used) != 2 || item[used] || rows < 1 ||
            rows > 1u << 20 || cols < ACT_BLOCK || cols > 1u << 18 || cols % ACT_BLOCK)
            argp_error(state,
                       "--shape %s: must be rows x columns, like 1536x576, the columns a "
                       "multiple of %u",
                       item, ACT_BLOCK);
        if (o->n_shapes == OPT_LIST_MAX)
            argp_error(state, "--shape: at most %u of them", OPT_LIST_MAX);
        o->shapes[o->n_shapes++] = (struct shape){rows, cols};
    }
    if (!o->n_shapes)
        argp_error(state, "--shape: must be shapes with commas between them");
}

static void check_blocks(struct argp_state *state, const struct options *o)
{
    for (unsigned t = 0; t < o->n_types; t++)
        for (unsigned s = 0; s < o->n_shapes; s++) {
            const struct qtype_info *q = qtype_info(o->types[t].type);
            if (!o->types[t].scheme.kind && o->shapes[s].cols % q->block_values)
                argp_error(state, "--shape %ux%u: columns of %s are multiples of %u",
                           o->shapes[s].rows, o->shapes[s].cols, q->name, q->block_values);
        }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    switch (key) {
    case OPT_TYPE:
        parse_types(state, arg, o);
        return 0;
    case OPT_SHAPE:
        parse_shapes(state, arg, o);
        return 0;
    case OPT_TOKENS:
        opt_u32_list(state, "--tokens", arg, 1, 1024, &o->tokens);
        return 0;
    case OPT_CPU_MASK:
        opt_cpu_mask(state, arg);
        return 0;
    case OPT_TIME:
        o->time_s = opt_f64(state, "--time", arg, .001, 3600);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    case ARGP_KEY_END:
        check_blocks(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "How fast one thread multiplies matrices of each format by rows of activations, and how fast "
    "it "
    "does what stands between the products, for each instruction set of this machine.\v"
    "Products: GOP/s count a multiply-add as two, GB/s are the bytes of the repacked matrix; the "
    "matrices of a shape go round in turn and are together larger than the caches, so that they "
    "come from memory. `bound` is what would take longest at this machine's best rates, measured "
    "in the same run: reading the matrix from memory, or its products (of u8 and s8; f32 "
    "multiply-adds for float formats); `bound ratio` is that time over the one taken. Row "
    "operations work in the caches: their bound is reading their operands there. The instruction "
    "sets take turns; the fastest turn counts, sd is the standard deviation.",
    NULL,
    NULL,
    NULL,
};

/* --- results -----------------------------------------------------------------------------------
 */

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"operation", "operation", TABLE_TEXT},
    {"type", "format", TABLE_TEXT},
    {"rows", "rows", TABLE_COUNT},
    {"cols", "columns", TABLE_COUNT},
    {"tokens", "tokens", TABLE_COUNT},
    {"isa", "ISA", TABLE_TEXT},
    {"ns", "ns", 0},
    {"ns_sd", "sd", 0},
    {"gop_per_s", "GOP/s", 1},
    {"gb_per_s", "GB/s", 1},
    {"ratio_to_c", "x C", 1},
    {"bound_ratio", "bound ratio", 3},
    {"bound", "bound", TABLE_TEXT},
    {"bound_gb_per_s", NULL, 1},
    {"bound_gop_per_s", NULL, 1},
    {"bytes", NULL, TABLE_COUNT},
    {"turns", NULL, TABLE_COUNT},
    {"cpu", NULL, TABLE_TEXT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

struct bench {
    const struct options *o;
    struct machine machine;
    unsigned isas[ISAS_MAX], n_isas;
    struct bounds *bounds;
    struct progress progress;
};

/* What was measured of one operation, and against what. */
struct result {
    const char *operation, *type;    /* type NULL: none */
    double rows, cols, tokens;       /* NaN: none */
    double bytes, ops;               /* of a run; ops NaN: not counted */
    double read_gb_per_s, gop_per_s; /* the bounds; the latter NaN: none */
    const char *memory, *arithmetic; /* their names */
    struct turns_job jobs[ISAS_MAX]; /* the first is C's */
};

static int print_result(const struct bench *b, const struct result *r)
{
    const double memory_ns = r->bytes / r->read_gb_per_s;
    const double ops_ns = isnan(r->gop_per_s) ? 0 : r->ops / r->gop_per_s;
    const double bound_ns = fmax(memory_ns, ops_ns);
    int rc = EXIT_OK;

    for (unsigned i = 0; i < b->n_isas && rc == EXIT_OK; i++) {
        const struct turns_job *job = &r->jobs[i];
        struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;
        (cell++)->text = "kernels";
        (cell++)->text = r->operation;
        (cell++)->text = r->type;
        (cell++)->value = r->rows;
        (cell++)->value = r->cols;
        (cell++)->value = r->tokens;
        (cell++)->text = cpu_level_name(b->isas[i]);
        (cell++)->value = job->best_ns;
        (cell++)->value = job->sd_ns;
        (cell++)->value = r->ops / job->best_ns;
        (cell++)->value = r->bytes / job->best_ns;
        (cell++)->value = r->jobs[0].best_ns / job->best_ns;
        (cell++)->value = bound_ns / job->best_ns;
        (cell++)->text = memory_ns > ops_ns ? r->memory : r->arithmetic;
        (cell++)->value = r->read_gb_per_s;
        (cell++)->value = r->gop_per_s;
        (cell++)->value = r->bytes;
        (cell++)->value = job->turns;
        (cell++)->text = b->machine.cpu;
        (cell++)->text = b->machine.kernel;
        (cell++)->text = ISTHMUS_VERSION;
        (cell++)->text = ISTHMUS_COMMIT;
        rc = table_row(b->o->format, columns, cells);
    }
    return rc;
}

/* --- products ----------------------------------------------------------------------------------
 */

static int run_tokens(struct bench *b, struct matmul *p, const struct matmul_format *f,
                      uint32_t tokens)
{
    const bool floats = !f->scheme.kind && qtype_info(f->type)->block_values == 1;
    char name[SCHEME_NAME + 2];
    struct result r = {
        .operation = "product",
        .type = type_name(f, name),
        .rows = matmul_rows(p),
        .cols = matmul_cols(p),
        .tokens = tokens,
        .bytes = (double)matmul_bytes(p),
        .ops = 2.0 * matmul_rows(p) * matmul_cols(p) * tokens,
        .memory = "memory",
        .arithmetic = floats ? "f32 units" : "products",
    };
    struct matmul_run runs[ISAS_MAX];
    int rc = matmul_set(p, tokens);

    for (unsigned i = 0; i < b->n_isas; i++) {
        runs[i] = (struct matmul_run){.matmul = p, .isa = b->isas[i]};
        r.jobs[i] = (struct turns_job){.run = matmul_run, .arg = &runs[i], .units = 1};
    }
    if (rc == 0)
        rc = matmul_time_c(p, tokens, &r.jobs[0]);
    if (rc == 0 && b->n_isas > 1)
        rc = turns_take(r.jobs + 1, b->n_isas - 1, b->o->time_s * .8);
    if (rc == 0)
        rc = bounds_measure(b->bounds, b->o->time_s * .2);
    if (rc < 0)
        return rc;
    r.read_gb_per_s = bounds_best(b->bounds, BOUND_DRAM_READ, BOUND_ANY_ISA).rate;
    r.gop_per_s = bounds_best(b->bounds, floats ? BOUND_FMA : BOUND_DOT, BOUND_ANY_ISA).rate;
    progress_clear(&b->progress);
    rc = print_result(b, &r) == EXIT_OK ? 0 : -EPIPE;
    progress_step(&b->progress);
    return rc;
}

static int run_products(struct bench *b)
{
    const struct options *o = b->o;
    int rc = 0;

    for (unsigned t = 0; t < o->n_types; t++)
        for (unsigned s = 0; s < o->n_shapes && rc == 0; s++) {
            struct matmul *p = NULL;
            rc = matmul_open(&o->types[t], o->shapes[s].rows, o->shapes[s].cols, b->isas, b->n_isas,
                             &p);
            for (unsigned i = 0; i < o->tokens.n && rc == 0; i++)
                rc = run_tokens(b, p, &o->types[t], o->tokens.at[i]);
            matmul_close(p);
        }
    return rc;
}

/* --- row operations ----------------------------------------------------------------------------
 */

static int run_row(struct bench *b, struct rows *rows, unsigned nth)
{
    struct row_run runs[ISAS_MAX], reading = {.rows = rows, .nth = nth};
    struct turns_job jobs[JOBS_MAX];
    struct result r = {.rows = NAN, .tokens = NAN, .ops = NAN, .gop_per_s = NAN, .memory = "cache"};

    for (unsigned i = 0; i < b->n_isas; i++) {
        runs[i] = (struct row_run){.rows = rows, .nth = nth, .isa = b->isas[i]};
        jobs[i] = (struct turns_job){.run = row_run, .arg = &runs[i], .units = 1};
    }
    jobs[b->n_isas] = (struct turns_job){.run = row_read, .arg = &reading, .units = 1};
    const int rc = turns_take(jobs, b->n_isas + 1, b->o->time_s);
    if (rc < 0)
        return rc;
    memcpy(r.jobs, jobs, b->n_isas * sizeof(*jobs));
    r.operation = row_name(nth);
    r.cols = row_values(nth);
    r.bytes = (double)row_bytes(nth);
    r.read_gb_per_s = r.bytes / jobs[b->n_isas].best_ns;
    progress_clear(&b->progress);
    return print_result(b, &r) == EXIT_OK ? 0 : -EPIPE;
}

static int run_rows(struct bench *b)
{
    struct rows *rows;
    int rc = rows_open(&rows);

    for (unsigned i = 0; i < row_operations() && rc == 0; i++) {
        rc = run_row(b, rows, i);
        progress_step(&b->progress);
    }
    rows_close(rows);
    return rc;
}

/* --- the command -------------------------------------------------------------------------------
 */

static void list_isas(struct bench *b)
{
    static const unsigned levels[ISAS_MAX] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512, CPU_ALL};
    const unsigned allowed = cpu_flags();

    for (unsigned i = 0; i < ISAS_MAX; i++)
        if ((levels[i] & allowed) == levels[i])
            b->isas[b->n_isas++] = levels[i];
}

static int run_all(struct bench *b)
{
    const struct options *o = b->o;
    struct team *team;
    int rc = team_open(1, 0, &team, NULL);

    if (rc == 0)
        rc = bounds_open(team, BOUND(BOUND_DRAM_READ) | BOUND(BOUND_DOT) | BOUND(BOUND_FMA),
                         machine_dram_bytes(), &b->bounds);
    if (rc == 0) {
        bounds_say_pages(b->bounds);
        rc = bounds_measure(b->bounds, BOUNDS_S);
    }
    if (rc == 0 && table_head(o->format, columns) != EXIT_OK)
        rc = -EPIPE;
    progress_start(&b->progress, "bench kernels",
                   (uint64_t)o->n_types * o->n_shapes * o->tokens.n + row_operations());
    if (rc == 0)
        rc = run_products(b);
    if (rc == 0)
        rc = run_rows(b);
    bounds_close(b->bounds);
    team_close(team);
    return rc;
}

int bench_kernels(int argc, char **argv)
{
    struct options o = {
        .types = {{QTYPE_Q4_0},
                  {QTYPE_Q4_1},
                  {QTYPE_Q5_0},
                  {QTYPE_Q8_0},
                  {QTYPE_Q4_K},
                  {QTYPE_Q6_K},
                  {QTYPE_F16}},
        .n_types = 7,
        .shapes = {{1536, 768}, {768, 1536}},
        .n_shapes = 2,
        .tokens = {6, {1, 2, 4, 8, 16, 128}},
        .time_s = .1,
    };
    struct bench b = {.o = &o};

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    list_isas(&b);
    int rc = machine_read(&b.machine);
    if (rc == 0 && o.format == TABLE_MD)
        printf("%s, one thread; %s; isthmus %s (%s)\n\n", b.machine.cpu, b.machine.kernel,
               ISTHMUS_VERSION, ISTHMUS_COMMIT);
    if (rc == 0)
        rc = run_all(&b);
    if (rc < 0 && rc != -EPIPE) /* that has been said */
        log_error("%s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}
