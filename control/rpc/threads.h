/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of this process, as /proc knows them. */
#ifndef ISTHMUS_CONTROL_RPC_THREADS_H
#define ISTHMUS_CONTROL_RPC_THREADS_H

#include <stdbool.h>
#include <stdint.h>

struct thread_info {
    int tid;
    char name[32];
    char state;      /* R, S, ... */
    int cpu;         /* where it ran last */
    uint64_t cpu_ns; /* so far */
};

/* Up to max, in order of their ids; how many there are. */
uint32_t threads_list(struct thread_info *list, uint32_t max);

#endif
