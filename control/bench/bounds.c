/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/bounds.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/bench/memory.h"
#include "control/bench/turns.h"
#include "control/bench/units.h"
#include "control/log.h"

/* A turn reads an eighth of the memory, the next one each time, so that no cache helps. */
#define WINDOWS     8u
#define GRAIN       ((size_t)8192 * WINDOWS)
#define CACHE_LOOPS 8u                  /* times round a cache's bytes in a run */
#define FAR_BEHIND  .9                  /* of the best: a loop that can be left out */
#define L2_BYTES    ((size_t)512 << 10) /* where the topology does not know */
#define L3_PART     4u                  /* of what the cache has: others are in there too */
#define LOOPS_MAX   128u

/* One loop in one role. */
struct contender {
    struct bounds *b;
    struct bound bound;
    const struct memory_loop *memory; /* NULL: copying, or on registers */
    const struct units_loop *units;   /* NULL: memory */
    bool libc;                        /* copying: by memcpy */
    double units_a_run;               /* bytes or operations of all parts */
};

struct bounds {
    struct team *team;
    char *memory;
    size_t bytes, part_bytes; /* all, and each part's */
    size_t huge_bytes;
    size_t l2_bytes, l3_bytes; /* that a part goes round in; 0: not measured */
    unsigned window;           /* the next to be read */
    unsigned n;
    struct contender contenders[LOOPS_MAX];
};

/* --- one run -----------------------------------------------------------------------------------
 */

static void touch_part(void *arg, unsigned part, unsigned parts)
{
    struct bounds *b = arg;

    (void)parts;
    memset(b->memory + part * b->part_bytes, 1, b->part_bytes);
}

static void copy_part(const struct contender *c, char *memory)
{
    const size_t half = c->b->part_bytes / 2, bytes = half / WINDOWS;
    char *src = memory + c->b->window % WINDOWS * bytes;

    if (c->libc)
        memcpy(src + half, src, bytes); /* goes past the caches at this size */
    else
        memory_copy(src + half, src, bytes);
}

static void run_part(void *arg, unsigned part, unsigned parts)
{
    const struct contender *c = arg;
    const struct bounds *b = c->b;
    char *memory = b->memory + part * b->part_bytes;
    const size_t window = b->part_bytes / WINDOWS;

    (void)parts;
    switch (c->bound.kind) {
    case BOUND_DRAM_READ:
        c->memory->read(memory + b->window % WINDOWS * window, window);
        return;
    case BOUND_DRAM_COPY:
        copy_part(c, memory);
        return;
    case BOUND_L2_READ:
    case BOUND_L3_READ:
        for (unsigned i = 0; i < CACHE_LOOPS; i++)
            c->memory->read(memory, c->bound.kind == BOUND_L2_READ ? b->l2_bytes : b->l3_bytes);
        return;
    default:
        c->units->run();
        return;
    }
}

static void run(void *arg)
{
    struct contender *c = arg;

    team_run(c->b->team, run_part, c);
    if (c->bound.kind <= BOUND_DRAM_COPY)
        c->b->window++;
}

/* --- who takes part ----------------------------------------------------------------------------
 */

static struct contender *add(struct bounds *b, enum bound_kind kind, const char *how, unsigned isa,
                             size_t part_bytes, double units_a_part)
{
    const unsigned parts = team_size(b->team);

    if ((cpu_detect() & isa) != isa || b->n == LOOPS_MAX)
        return NULL;
    struct contender *c = &b->contenders[b->n++];
    *c = (struct contender){
        .b = b,
        .bound = {.kind = kind, .how = how, .isa = isa, .bytes = part_bytes * parts, .rate = NAN},
        .units_a_run = units_a_part * parts,
    };
    return c;
}

static void add_readers(struct bounds *b, enum bound_kind kind, size_t bytes, double a_run)
{
    for (unsigned i = 0; i < memory_loops() && bytes; i++) {
        const struct memory_loop *loop = memory_loop(i);
        struct contender *c = add(b, kind, loop->name, loop->needs, bytes, a_run);
        if (c)
            c->memory = loop;
    }
}

static void add_contenders(struct bounds *b, unsigned kinds)
{
    const double window = (double)(b->part_bytes / WINDOWS);

    if (kinds & BOUND(BOUND_DRAM_READ))
        add_readers(b, BOUND_DRAM_READ, b->part_bytes, window);
    if (kinds & BOUND(BOUND_DRAM_COPY)) {
        add(b, BOUND_DRAM_COPY, "loads and stores", 0, b->part_bytes, window / 2);
        add(b, BOUND_DRAM_COPY, "memcpy", 0, b->part_bytes, window / 2)->libc = true;
    }
    if (kinds & BOUND(BOUND_L2_READ))
        add_readers(b, BOUND_L2_READ, b->l2_bytes, CACHE_LOOPS * (double)b->l2_bytes);
    if (kinds & BOUND(BOUND_L3_READ))
        add_readers(b, BOUND_L3_READ, b->l3_bytes, CACHE_LOOPS * (double)b->l3_bytes);
    for (unsigned i = 0; i < units_loops(); i++) {
        const struct units_loop *loop = units_loop(i);
        const enum bound_kind kind = loop->floats ? BOUND_FMA : BOUND_DOT;
        struct contender *c =
            kinds & BOUND(kind) ? add(b, kind, loop->name, loop->needs, 0, loop->ops) : NULL;
        if (c)
            c->units = loop;
    }
}

/* --- opening -----------------------------------------------------------------------------------
 */

/* How much of each cache a part reads: half of its L2; of the L3 its share of a part of it, where
 * that is not in the L2 as well. */
static int size_caches(struct bounds *b)
{
    struct topology t;
    const int rc = topology_read(&t);

    if (rc < 0)
        return rc;
    const size_t l2 = t.l2_bytes ? t.l2_bytes : L2_BYTES;
    const size_t l3 = t.l3_bytes / L3_PART / team_size(b->team);
    b->l2_bytes = l2 / 2 / GRAIN * GRAIN;
    b->l3_bytes = l3 < 2 * l2 ? 0 : l3 / GRAIN * GRAIN;
    return 0;
}

int bounds_open(struct team *team, unsigned kinds, size_t dram_bytes, struct bounds **out)
{
    const unsigned parts = team_size(team);
    struct bounds *b = calloc(1, sizeof(*b));
    int rc = b ? 0 : -ENOMEM;

    *out = NULL;
    if (rc == 0) {
        b->team = team;
        rc = size_caches(b);
    }
    if (rc == 0) {
        size_t part = dram_bytes / parts;
        if (part < b->l2_bytes)
            part = b->l2_bytes;
        if (part < b->l3_bytes)
            part = b->l3_bytes;
        b->part_bytes = (part + GRAIN - 1) / GRAIN * GRAIN;
        b->bytes = b->part_bytes * parts;
        b->memory = memory_map(b->bytes);
        rc = b->memory ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        free(b);
        return rc;
    }
    const size_t huge = memory_huge_bytes();
    team_run(team, touch_part, b);
    const size_t huge_now = memory_huge_bytes();
    b->huge_bytes = huge_now > huge ? huge_now - huge : 0;
    add_contenders(b, kinds);
    *out = b;
    return 0;
}

void bounds_close(struct bounds *b)
{
    if (!b)
        return;
    memory_unmap(b->memory, b->bytes);
    free(b);
}

/* --- measuring ---------------------------------------------------------------------------------
 */

static bool worth_a_turn(const struct contender *c)
{
    const struct bound best = bounds_best(c->b, c->bound.kind, c->bound.isa);

    /* The best of all of a kind, too: narrower loads than the best's need no second chance. */
    const struct bound any = bounds_best(c->b, c->bound.kind, BOUND_ANY_ISA);
    return isnan(c->bound.rate) || (c->bound.rate >= FAR_BEHIND * best.rate &&
                                    (c->units || c->bound.rate >= FAR_BEHIND * any.rate));
}

int bounds_measure(struct bounds *b, double time_s)
{
    struct turns_job jobs[LOOPS_MAX];
    struct contender *of[LOOPS_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < b->n; i++) {
        if (!worth_a_turn(&b->contenders[i]))
            continue;
        of[n] = &b->contenders[i];
        jobs[n] = (struct turns_job){.run = run, .arg = of[n], .units = of[n]->units_a_run};
        n++;
    }
    const int rc = n ? turns_take(jobs, n, time_s) : 0;
    for (unsigned i = 0; i < n && rc == 0; i++) {
        const double rate = 1 / jobs[i].best_ns;
        if (!(of[i]->bound.rate >= rate))
            of[i]->bound.rate = rate;
        of[i]->bound.sd = jobs[i].sd_ns / jobs[i].median_ns / jobs[i].median_ns;
        of[i]->bound.turns = jobs[i].turns;
    }
    return rc;
}

struct bound bounds_best(const struct bounds *b, enum bound_kind kind, unsigned isa)
{
    struct bound best = {.kind = kind, .rate = NAN, .sd = NAN};

    for (unsigned i = 0; i < b->n; i++) {
        const struct bound *c = &b->contenders[i].bound;
        if (c->kind == kind && (isa == BOUND_ANY_ISA || c->isa == isa) && !isnan(c->rate) &&
            !(best.rate >= c->rate))
            best = *c;
    }
    return best;
}

size_t bounds_dram_bytes(const struct bounds *b)
{
    return b->bytes;
}

size_t bounds_huge_bytes(const struct bounds *b)
{
    return b->huge_bytes;
}

void bounds_say_pages(const struct bounds *b)
{
    if (b->huge_bytes < b->bytes / 10 * 9)
        log_warn("huge pages were to be had for %zu of %zu MiB only: memory reads slower than it "
                 "could (see /sys/kernel/mm/transparent_hugepage/enabled)",
                 b->huge_bytes >> 20, b->bytes >> 20);
}
