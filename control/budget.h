/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --memory-budget: what a process may take in all. At start each term is put beside it and what
 * cannot fit is refused; what is left is the cache's. While it runs a ladder keeps it: coarser
 * activations, for the histories that they are kept in; shorter contexts for new sessions; no new
 * sessions. Keys and values keep their format: a cache has one, agreed by both halves, so there is
 * no rung for it (--kv chooses it at start, and a refusal says what it would save).
 */
#ifndef ISTHMUS_CONTROL_BUDGET_H
#define ISTHMUS_CONTROL_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "control/account.h"

/* --- at start -----------------------------------------------------------------------------------
 */

/* Packet pools of a port at most, and DPDK with its own. */
#define BUDGET_PORT_BYTES UINT64_C(14000000)
/* What a program takes beside what is counted once it runs: threads, connections, answers. */
#define BUDGET_GROWTH_BYTES UINT64_C(6000000)
#define BUDGET_LINE         640

struct budget_plan {
    uint64_t budget_bytes;
    uint64_t program_bytes; /* resident before the weights */
    uint64_t history_bytes; /* of --history */
    uint32_t ports, sessions;
    bool has_head;
};

/*
 * The cache that the budget leaves, in p->kv_budget_bytes: no more than there was. 0, or -ENOMEM:
 * `line` names each term and what would fit; or as stage_footprint. p->max_seqs and n_ctx are the
 * stage's.
 */
int budget_start(const struct gguf *g, struct stage_params *p, uint32_t n_layers,
                 const struct budget_plan *b, char line[BUDGET_LINE]);

struct model;
/* The same for a command. EXIT_OK, or an exit code with the error said. */
int budget_begin(const struct model *m, struct stage_params *p, const struct budget_plan *b);

/* --- while it runs ------------------------------------------------------------------------------
 */

enum budget_rung { BUDGET_EASY, BUDGET_COARSER, BUDGET_SHORTER, BUDGET_REFUSE, BUDGET_RUNGS };
const char *budget_rung_name(enum budget_rung r);

struct budget {
    enum budget_rung rung;
    bool can_coarsen; /* somebody adapts activations */
    uint32_t coarser; /* steps of activations that are asked for */
    uint32_t calm;    /* looks in a row that would have allowed less */
    uint64_t steps;   /* taken so far, up and down */
    double fullest;   /* how full the tightest of them is: 1 is the limit */
};

/* Whether so much is resident that caches of sessions that have ended are to be given up, before
 * the ladder is climbed for it. */
bool budget_is_full(const struct budget *b, const struct account *a);

/* Look at the account, some ten times a second. True: the rung or `coarser` is another one. */
bool budget_look(struct budget *b, const struct account *a);

/* Of a context of n_ctx tokens, those that new sessions may have. */
uint32_t budget_context(const struct budget *b, uint32_t n_ctx);

#endif
