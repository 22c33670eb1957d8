/* SPDX-License-Identifier: Apache-2.0 */
/* What this processor's arithmetic units give when nothing else is in the way: loops on registers
 * alone. On the calling thread. */
#ifndef ISTHMUS_CONTROL_BENCH_UNITS_H
#define ISTHMUS_CONTROL_BENCH_UNITS_H

#include <stdbool.h>

struct units_loop {
    const char *name;  /* the instructions */
    unsigned needs;    /* of cpu_detect() */
    bool floats;       /* fused multiply-adds of f32; else products of u8 and s8, summed */
    double ops;        /* of a run; a multiply-add is two */
    void (*run)(void); /* tens of us */
};

/* How many there are, and the nth. */
unsigned units_loops(void);
const struct units_loop *units_loop(unsigned nth);

#endif
