/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that this process may still take, and whether a stage fits it: better said before
 * gigabytes are read than by the kernel's killing somebody later. */
#ifndef ISTHMUS_CONTROL_MEMORY_H
#define ISTHMUS_CONTROL_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/stage.h"

/* Bytes that can be had without swapping: what the system has (MemAvailable), and what the limits
 * of our cgroup and those above it leave, their page cache counted as free. 0: unknown. */
uint64_t memory_there(void);

/* The same where /proc and /sys stand under `root`, for tests. */
uint64_t memory_there_under(const char *root);

/* A process beside its weights and caches: the program, tokenizer, scratch, logits, packet pools.
 */
#define MEMORY_REST_BYTES UINT64_C(40000000)

#define MEMORY_LINE 512

/* Whether a stage fits in `there` bytes: its weights, the cache of one sequence of the longest or
 * its budget if that is less, and the rest. 0; -ENOMEM: `line` says what is needed, what is there
 * and what would fit instead; or as stage_footprint, which stage_open will say too. n_layers: of
 * the model. */
int memory_fits(const struct gguf *g, const struct stage_params *p, uint32_t n_layers,
                uint64_t there, char line[MEMORY_LINE]);

/* The budget of a cache that was given none: 0 (all sequences at their longest) where that fits in
 * `there` bytes beside weights and the rest; else what is left, but one sequence of the longest. */
size_t memory_cache(const struct gguf *g, const struct stage_params *p, uint64_t there);

/* The cut at which a stage like p has room, that leaves it most, or 0: the end of one that has the
 * embedding, else the first layer of one with the head. n_layers: of the model. */
uint32_t memory_split(const struct stage_params *p, uint32_t n_layers,
                      bool (*has_room)(const void *arg, const struct stage_params *p), const void *arg);

/* --no-memory-check: memory_check is to let everything pass. */
void memory_check_skip(void);

/* memory_fits of what is there now, *there; 0 when all passes. */
int memory_check(const struct gguf *g, const struct stage_params *p, uint32_t n_layers,
                 uint64_t *there, char line[MEMORY_LINE]);

/* The same of two stages in files of their own, on one host. */
int memory_check_pair(const struct gguf *edge, const struct stage_params *edge_params,
                      const struct gguf *cloud, const struct stage_params *cloud_params,
                      char line[MEMORY_LINE]);

#endif
