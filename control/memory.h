/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that this process may still take. */
#ifndef ISTHMUS_CONTROL_MEMORY_H
#define ISTHMUS_CONTROL_MEMORY_H

#include <stdint.h>

/* Bytes that can be had without swapping: what the system has (MemAvailable), and what the limits
 * of our cgroup and those above it leave, their page cache counted as free. 0: unknown. */
uint64_t memory_there(void);

/* The same where /proc and /sys stand under `root`, for tests. */
uint64_t memory_there_under(const char *root);

/* With what was ours at the first call, which is to be before a stage is loaded: what the process
 * may come to in all, its code being page cache. 0: unknown. */
uint64_t memory_for_us(void);

#endif
