/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine allows: how fast its memory and caches can be read and copied, and how fast its
 * units multiply, by the threads of a team together. Each is the best of several loops that take
 * turns; a part reads memory that it touched first itself.
 */
#ifndef ISTHMUS_CONTROL_BENCH_BOUNDS_H
#define ISTHMUS_CONTROL_BENCH_BOUNDS_H

#include <stddef.h>

struct team;

enum bound_kind {
    BOUND_DRAM_READ, /* GB/s */
    BOUND_DRAM_COPY, /* GB/s that are copied: as many are read, and as many written */
    BOUND_L2_READ,
    BOUND_L3_READ,
    BOUND_DOT, /* GOP/s of u8 x s8 products, summed as kernels do; a multiply-add is two */
    BOUND_FMA, /* GFLOP/s of f32 multiply-adds */
    BOUND_KINDS,
};
#define BOUND(kind) (1u << (kind))

/* Without an instruction set in its name: of the best. */
#define BOUND_ANY_ISA (~0u)

struct bound {
    enum bound_kind kind;
    const char *how; /* the loop */
    unsigned isa;    /* what the loop needs, of cpu_detect() */
    size_t bytes;    /* that all threads together go round in; 0: on registers */
    double rate;     /* of the fastest turn; NaN: not measured */
    double sd;       /* of the turns of the last call */
    unsigned turns;  /* of the last call */
};

struct bounds;

/* kinds: BOUND()s; dram_bytes for all threads together, as much as is far beyond the caches. The
 * memory is mapped and touched now. 0, -ENOMEM, or -errno of reading the topology. */
int bounds_open(struct team *team, unsigned kinds, size_t dram_bytes, struct bounds **out);
void bounds_close(struct bounds *b);

/* About time_s seconds, and five turns of each loop at least. May be called again, between other
 * work: the best of all calls counts, and loops that were far behind are left out from then on.
 * 0 or -ENOMEM. */
int bounds_measure(struct bounds *b, double time_s);

/* The best loop of a kind, of those that need exactly isa (or BOUND_ANY_ISA). Its rate is NaN when
 * there is none. */
struct bound bounds_best(const struct bounds *b, enum bound_kind kind, unsigned isa);

/* Of the memory that is read: bytes, and how many of them lie on huge pages. */
size_t bounds_dram_bytes(const struct bounds *b);
size_t bounds_huge_bytes(const struct bounds *b);

/* Says so, once, when most of it does not. */
void bounds_say_pages(const struct bounds *b);

#endif
