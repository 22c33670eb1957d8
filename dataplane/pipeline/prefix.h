/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions whose prompts begin alike share the cache of what they have in common: which one to begin
 * like, and room for a sequence where finished ones linger. For the edge, and for the model in one
 * process.
 *
 * Exact: what a row gives depends only on its sequence so far and its format: one of another format is
 * not to be considered.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_PREFIX_H
#define ISTHMUS_DATAPLANE_PIPELINE_PREFIX_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/stage.h"

#define PREFIX_MIN 16u /* fewer tokens in common are computed again: less trouble */

/* The sessions that a prompt could begin like: the one with most in common that has it already, and
 * the one with most that will have it, for it was there before and is on its way. */
struct prefix_search {
    const int32_t *prompt;
    uint32_t n_prompt;
    uint32_t n_now, n_later; /* tokens in common; 0: there is none */
    void *now, *later;
};

/* Consider a session with n_ids ids, of which the first n_run are in its cache, all of them
 * sometime if it `lives`. */
void prefix_consider(struct prefix_search *p, void *session, const int32_t *ids, uint32_t n_ids,
                     uint32_t n_run, bool lives);

/* Whether `later` is worth waiting for. */
bool prefix_waits(const struct prefix_search *p);

/* A sequence for max_tokens that begins as the first n tokens of seq (n 0: empty, of format f). While
 * there is no room, evict(arg) closes one that nobody needs, never seq; it returns false when there is
 * none. As stage_seq_fork. */
int prefix_open(struct stage *stage, enum kv_format f, int seq, uint32_t n, uint32_t max_tokens,
                bool (*evict)(void *arg), void *arg);

#endif
