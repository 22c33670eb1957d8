/* SPDX-License-Identifier: Apache-2.0 */
/* Plain reading and copying: the bounds that kernels are held against. On the calling thread. */
#ifndef ISTHMUS_CONTROL_BENCH_MEMORY_H
#define ISTHMUS_CONTROL_BENCH_MEMORY_H

#include <stddef.h>

/* With the widest loads and stores this machine has, in whole steps of 512 bytes at most: the last
 * few bytes are left out. */
void memory_read(const void *src, size_t bytes);
void memory_copy(void *dst, const void *src, size_t bytes);

/* No one loop is the fastest on every machine, so a bound is the best of these. Bytes in whole
 * steps of 8 KiB; what is left over is left out. */
struct memory_loop {
    const char *name;
    unsigned needs; /* of cpu_detect() */
    void (*read)(const char *src, size_t bytes);
};

/* How many there are, and the nth. */
unsigned memory_loops(void);
const struct memory_loop *memory_loop(unsigned nth);

/* Untouched memory on huge pages where the system has them, aligned to one; bytes are rounded up to
 * whole ones. NULL: there is none. */
void *memory_map(size_t bytes);
void memory_unmap(void *p, size_t bytes);

/* Of this process' memory, what lies on huge pages now, bytes. */
size_t memory_huge_bytes(void);

#endif
