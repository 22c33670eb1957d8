/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --memory-budget: what a process may take in all. At start each term is put beside it and what
 * cannot fit is refused; what is left is the cache's. While it runs a ladder keeps it: coarser
 * activations, for the histories that they are kept in; coarser keys and values for new sessions,
 * whose format is a session's own at both halves; shorter contexts for them; no new sessions. A cloud
 * has no activations to make coarser, and asks edges for coarser keys and values.
 */
#ifndef ISTHMUS_CONTROL_BUDGET_H
#define ISTHMUS_CONTROL_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "control/account.h"
#include "control/need.h"
#include "control/plan/memory.h"

/* --- at start -----------------------------------------------------------------------------------
 */

/* All packets that a UDP port has where no budget says less. */
#define BUDGET_PORT_BYTES UINT64_C(14000000)
#define BUDGET_LINE       NEED_LINE
/* The coarsest keys and values that new sessions get when memory is short: where --kv-least may be
 * given 1 + the format, 0: not given. */
static inline enum kv_format budget_kv_least(uint32_t given)
{
    return given ? (enum kv_format)(given - 1) : PLAN_KV_LEAST;
}

struct budget_plan {
    uint64_t budget_bytes;
    uint32_t ports;      /* open at once */
    uint64_t port_bytes; /* of each, as port_arg_bytes */
    uint32_t sessions;
    struct need_process with; /* but packets and rows of logits, which follow from the above */
    uint64_t packet_bytes;    /* of each port, at most: budget_start's */
};

/*
 * What the budget leaves for the cache, in p->kv_budget_bytes: no more than there was; and for
 * packets. 0, or -ENOMEM: `line` names each term and what would fit; or as stage_footprint.
 * p->max_seqs and n_ctx are the stage's.
 */
int budget_start(const struct gguf *g, struct stage_params *p, uint32_t n_layers,
                 struct budget_plan *b, char line[BUDGET_LINE]);

struct model;
/* The same for a command, whose ports are opened later. EXIT_OK, or an exit code with the error
 * said. */
int budget_begin(const struct model *m, struct stage_params *p, struct budget_plan *b);

/* --- while it runs ------------------------------------------------------------------------------
 */

enum budget_rung {
    BUDGET_EASY,
    BUDGET_COARSER,
    BUDGET_KV,
    BUDGET_SHORTER,
    BUDGET_REFUSE,
    BUDGET_RUNGS
};
const char *budget_rung_name(enum budget_rung r);

struct budget {
    enum budget_rung rung;
    bool can_coarsen;              /* somebody adapts activations */
    uint64_t kv_one_bytes;         /* of a session at its longest, and how many of these there */
    uint32_t sessions;             /* can be: budget_cache. 0: not known */
    uint32_t coarser;              /* steps of activations that are asked for */
    uint32_t calm;                 /* looks in a row that would have allowed less */
    enum kv_format kv[KV_FORMATS]; /* of new sessions, after 0 .. kv_most steps: budget_formats */
    uint32_t kv_most, kv_steps, kv_calm;
    uint64_t steps; /* taken so far, up and down, of rungs and of formats */
    double fullest; /* how full the tightest of them is: 1 is the limit */
};

/* The formats that new sessions' keys and values step through when the cache gets full: from `from`
 * to `least`, the coarsest that is allowed, those that the stage has. Without it they keep one. */
void budget_formats(struct budget *b, const struct stage_info *info, enum kv_format from,
                    enum kv_format least);

/* There can be so many sessions, new ones in `own` format. Where the cache has room for all of them
 * at their longest it is no reason to climb, unless those that are there take more than in that
 * format: a cloud's edges choose theirs. */
void budget_cache(struct budget *b, const struct stage *s, enum kv_format own, uint32_t sessions);

/* Whether so much is resident that caches of sessions that have ended are to be given up, before
 * the ladder is climbed for it. */
bool budget_is_full(const struct budget *b, const struct account *a);

/* Look at the account, some ten times a second. True: the rung, `coarser` or `kv_steps` is another
 * one. */
bool budget_look(struct budget *b, const struct account *a);

/* That new sessions have. */
enum kv_format budget_kv(const struct budget *b);
/* That a cloud asks for: the same, but KV_F16, any, while it has taken no step. */
enum kv_format budget_kv_asked(const struct budget *b);
/* Of a context of n_ctx tokens, those that new sessions may have. */
uint32_t budget_context(const struct budget *b, uint32_t n_ctx);

#endif
