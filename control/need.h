/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process with a stage of a model needs: the planner's account (control/plan/memory.h) of
 * it, from a file's metadata. At a start it is put beside what is there: better said before
 * gigabytes are read than by the kernel's killing somebody later.
 */
#ifndef ISTHMUS_CONTROL_NEED_H
#define ISTHMUS_CONTROL_NEED_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/codec.h"
#include "compute/gguf.h"
#include "compute/stage.h"
#include "control/plan/memory.h"

/* What a process has beside a stage. */
struct need_process {
    bool faces_users, serves;         /* as plan_process has them */
    uint32_t threads;                 /* 0: one */
    uint32_t logit_rows;              /* if the stage has the head; 0: one */
    uint32_t other_formats;           /* of keys and values, as plan_process has them */
    const struct codec_params *codec; /* NULL: it is not split */
    uint64_t packet_bytes;            /* of all its ports */
    uint64_t history_bytes;           /* at most */
    bool full;                        /* histories are; else there is that of one session */
};

/*
 * The least with which it runs: the cache, and the history, of one session of the longest, or its
 * budget if that is less. 0, or as stage_footprint, which stage_open will say too.
 */
int need_of(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
            struct plan_memory *need);

/* Its terms in MB as text, those that are not next to nothing: "weights 12.3, scratch 1.2". Returns
 * to. */
#define NEED_TERMS 256
char *need_terms(const struct plan_memory *need, char to[NEED_TERMS]);

#define NEED_LINE 1024

/* Whether that is no more than `there` bytes. 0; -ENOMEM: `line` says what is needed, what is there
 * and what would fit instead; or as need_of. */
int need_fits(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
              uint64_t there, char line[NEED_LINE]);

/* The budget of a cache that was given none: 0 (all sequences at their longest) where that fits in
 * `there` bytes beside the rest; else what is left, but one sequence of the longest. */
size_t need_cache(const struct gguf *g, const struct stage_params *p,
                  const struct need_process *with, uint64_t there);

/* The longest context, in whole pages, with which a stage like p has room; 0: none. */
uint32_t need_context(const struct stage_params *p,
                      bool (*has_room)(const void *arg, const struct stage_params *p),
                      const void *arg);

/* The cut at which a stage like p has room, that leaves it most, or 0: the end of one that has the
 * embedding, else the first layer of one with the head. n_layers: of the model. */
uint32_t need_split(const struct stage_params *p, uint32_t n_layers,
                    bool (*has_room)(const void *arg, const struct stage_params *p),
                    const void *arg);

/* --no-memory-check: need_check is to let everything pass. */
void need_check_skip(void);

/* need_fits of what this process may come to now, *there (0: unknown); 0 when all passes. */
int need_check(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
               uint64_t *there, char line[NEED_LINE]);

/* One of two processes that are to run on this host. */
struct need_half {
    const struct gguf *g;
    const struct stage_params *p;
    const struct need_process *with;
};
/* The same of both together, whose code is there once. */
int need_check_pair(const struct need_half *edge, const struct need_half *cloud,
                    char line[NEED_LINE]);

#endif
