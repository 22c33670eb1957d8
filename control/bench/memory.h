/* SPDX-License-Identifier: Apache-2.0 */
/* Plain reading and copying: the bounds that kernels are held against. One thread. */
#ifndef ISTHMUS_CONTROL_BENCH_MEMORY_H
#define ISTHMUS_CONTROL_BENCH_MEMORY_H

#include <stddef.h>

/* With the widest loads and stores this machine has, in whole steps of 512 bytes at most: the last
 * few bytes are left out. */
void memory_read(const void *src, size_t bytes);
void memory_copy(void *dst, const void *src, size_t bytes);

/* Bytes a ns (GB/s) of buffers far beyond the last cache, l3_bytes (0: unknown). 0 or -ENOMEM. */
int memory_dram(size_t l3_bytes, double time_s, double *read, double *copy);

#endif
