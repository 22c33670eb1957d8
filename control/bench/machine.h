/* SPDX-License-Identifier: Apache-2.0 */
/* What a result has to say about the machine it comes from. */
#ifndef ISTHMUS_CONTROL_BENCH_MACHINE_H
#define ISTHMUS_CONTROL_BENCH_MACHINE_H

#include <stddef.h>

#define MACHINE_NAME_MAX 96

/* The processor's model name, or "unknown CPU". */
void machine_cpu_name(char name[MACHINE_NAME_MAX]);

struct machine {
    char cpu[MACHINE_NAME_MAX];
    char kernel[2 * MACHINE_NAME_MAX]; /* "Linux 6.1.0" */
    unsigned cores;                    /* that this process may use */
};

/* 0 or -errno of reading the topology. */
int machine_read(struct machine *m);

/* How much memory to read for its speed: 1 GiB, or a quarter of what is free where that is less. */
size_t machine_dram_bytes(void);

#endif
