/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus bench machine`: the bounds of this host. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/bench/bench.h"
#include "control/bench/bounds.h"
#include "control/bench/machine.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/options.h"
#include "control/table.h"

enum { OPT_FORMAT = OPT_OWN, OPT_TIME };

struct options {
    uint32_t threads; /* 0: all cores allowed */
    double time_s;
    enum table_format format;
};

static const struct argp_option option_list[] = {
    {"threads", OPT_THREADS, "N", 0,
     "Threads beside one alone, a core each (default: all cores that this process may use)", 1},
    {"time", OPT_TIME, "S", 0, "Seconds for one thread, and for all of them (default 3)", 1},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    switch (key) {
    case OPT_THREADS:
        o->threads = opt_u32(state, "--threads", arg, 1, 1024);
        return 0;
    case OPT_TIME:
        o->time_s = opt_f64(state, "--time", arg, .001, 3600);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "What this machine allows, by one core and by all: how fast memory is read and copied, how "
    "fast the caches are read, and how many integer products (u8 x s8, summed as the kernels sum "
    "them) and f32 multiply-adds its units give.\v"
    "Memory is 1 GiB on huge pages, or a quarter of what is free where that is less; each thread "
    "reads the part of it that it touched first. Of several loops (load widths, streams, "
    "prefetches) the best counts, and of its turns the fastest; the standard deviation (sd) of the "
    "turns stands beside it. Products are on registers alone. A multiply-add is two operations.",
    NULL,
    NULL,
    NULL,
};

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"bound", "bound", TABLE_TEXT},
    {"isa", "ISA", TABLE_TEXT},
    {"threads", "threads", TABLE_COUNT},
    {"rate", "rate", 1},
    {"sd", "sd", 1},
    {"unit", "unit", TABLE_TEXT},
    {"loop", "best loop", TABLE_TEXT},
    {"bytes", "bytes", TABLE_COUNT},
    {"turns", NULL, TABLE_COUNT},
    {"dram_bytes", NULL, TABLE_COUNT},
    {"huge_page_bytes", NULL, TABLE_COUNT},
    {"cpu", NULL, TABLE_TEXT},
    {"cores", NULL, TABLE_COUNT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

static const struct {
    const char *name, *unit;
} kinds[BOUND_KINDS] = {
    [BOUND_DRAM_READ] = {"DRAM read", "GB/s"}, [BOUND_DRAM_COPY] = {"DRAM copy", "GB/s"},
    [BOUND_L2_READ] = {"L2 read", "GB/s"},     [BOUND_L3_READ] = {"L3 read", "GB/s"},
    [BOUND_DOT] = {"int8 dot", "GOP/s"},       [BOUND_FMA] = {"f32 fma", "GFLOP/s"},
};

struct bench {
    const struct options *o;
    struct machine machine;
    struct bounds *bounds;
    unsigned threads; /* of the bounds */
};

/* Where the rate is not finite there was nothing to measure. */
static int print_bound(const struct bench *b, const struct bound *bound)
{
    struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;

    if (isnan(bound->rate))
        return EXIT_OK;
    (cell++)->text = "machine";
    (cell++)->text = kinds[bound->kind].name;
    (cell++)->text = bound->kind == BOUND_DRAM_COPY ? NULL : cpu_level_name(bound->isa);
    (cell++)->value = b->threads;
    (cell++)->value = bound->rate;
    (cell++)->value = bound->sd;
    (cell++)->text = kinds[bound->kind].unit;
    (cell++)->text = bound->how;
    (cell++)->value = bound->bytes ? (double)bound->bytes : NAN;
    (cell++)->value = bound->turns;
    (cell++)->value = (double)bounds_dram_bytes(b->bounds);
    (cell++)->value = (double)bounds_huge_bytes(b->bounds);
    (cell++)->text = b->machine.cpu;
    (cell++)->value = b->machine.cores;
    (cell++)->text = b->machine.kernel;
    (cell++)->text = ISTHMUS_VERSION;
    (cell++)->text = ISTHMUS_COMMIT;
    return table_row(b->o->format, columns, cells);
}

/* Memory by the best loop of all, units by the best of each instruction set. */
static int print_bounds(const struct bench *b)
{
    static const unsigned isas[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512, CPU_ALL};
    int rc = EXIT_OK;

    for (enum bound_kind kind = 0; kind < BOUND_KINDS; kind++)
        for (unsigned i = 0; i < sizeof(isas) / sizeof(isas[0]) && rc == EXIT_OK; i++) {
            const struct bound bound =
                bounds_best(b->bounds, kind, kind < BOUND_DOT ? BOUND_ANY_ISA : isas[i]);
            if (kind >= BOUND_DOT || i == 0)
                rc = print_bound(b, &bound);
        }
    return rc;
}

static int measure(struct bench *b, unsigned threads)
{
    struct team *team;
    int rc = team_open(threads, 0, &team, &b->threads);

    if (rc == 0)
        rc = bounds_open(team, BOUND(BOUND_KINDS) - 1, machine_dram_bytes(), &b->bounds);
    if (rc == 0) {
        bounds_say_pages(b->bounds);
        rc = bounds_measure(b->bounds, b->o->time_s);
    }
    if (rc < 0)
        log_error("%u threads: %s", threads, strerror(-rc));
    rc = rc < 0 ? EXIT_FAILED : print_bounds(b);
    bounds_close(b->bounds);
    b->bounds = NULL;
    team_close(team);
    return rc;
}

int bench_machine(int argc, char **argv)
{
    struct options o = {.time_s = 3};
    struct bench b = {.o = &o};

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int rc = machine_read(&b.machine);
    if (rc < 0) {
        log_error("the topology of this machine: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    if (o.threads > b.machine.cores)
        log_warn("--threads %u: only %u cores are allowed here, so %u are used", o.threads,
                 b.machine.cores, b.machine.cores);
    if (!o.threads || o.threads > b.machine.cores)
        o.threads = b.machine.cores;
    if (o.format == TABLE_MD)
        printf("%s, %u cores; %s; isthmus %s (%s)\n\n", b.machine.cpu, b.machine.cores,
               b.machine.kernel, ISTHMUS_VERSION, ISTHMUS_COMMIT);
    rc = table_head(o.format, columns);
    if (rc == EXIT_OK)
        rc = measure(&b, 1);
    if (rc == EXIT_OK && o.threads > 1)
        rc = measure(&b, o.threads);
    return rc;
}
