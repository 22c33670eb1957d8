/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which worker takes a session, and which of a fleet's workers an edge joins: pure functions, no
 * clock, no state, the same choice for the same arguments. Random numbers are counter-based: a seed
 * of the edge's and what the choice is for.
 */
#ifndef ISTHMUS_CONTROL_FLEET_PLACEMENT_H
#define ISTHMUS_CONTROL_FLEET_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "control/fleet/workers.h"

/* What this edge's sessions need; zero or "": not known, and then nothing is excluded by it. */
struct placement_need {
    char model[65];
    uint32_t split, codec_id, numerics_id;
};
/* A worker that says nothing of a property may have it; it is found out when it is joined. */
bool placement_fits(const struct worker *w, const struct placement_need *need);

/* A worker that could take a session now. */
struct placement_view {
    uint32_t sessions;      /* of this edge there */
    uint32_t shared_tokens; /* of the session's beginning that it has computed already */
    uint64_t rtt_ns;        /* 0: not known yet */
    bool full;              /* it had no room a moment ago */
    bool has_status;        /* it said, for all edges together: */
    uint32_t free_sessions;
    uint64_t free_tokens; /* of its KV cache */
};

/*
 * One of n views; -1: none has room, so that the session waits. need_tokens: what the session may
 * grow to, 0: not known. Of two drawn at random the one of lower cost, in nanoseconds: the round
 * trip, a step's share for each session of ours there, and so much more the less it has left. One
 * that has computed a good part of the session's beginning already is preferred to the two, as long
 * as it has no more sessions than they by PLACEMENT_LEAN.
 */
#define PLACEMENT_FULL_NS                                                                          \
    20000000u                     /* cost of a worker with one place left, and halved by two, ... */
#define PLACEMENT_STEP_NS 200000u /* what a session adds to the others' time for a token */
#define PLACEMENT_LEAN    4u
#define PLACEMENT_SHARED  32u /* tokens that are a good part */
int placement_choose(const struct placement_view *views, uint32_t n, uint64_t need_tokens,
                     uint64_t seed, uint64_t counter);

/*
 * Which workers an edge joins: up to max of those that fit and don't drain, by rendezvous hashing
 * with the edge's seed. So edges differ, and one worker more or less changes one choice. chosen:
 * indices into the list, ascending, room for max. Returns how many.
 */
size_t placement_join(const struct workers *w, const struct placement_need *need, uint64_t seed,
                      size_t max, uint32_t *chosen);

/* Well mixed bits of two numbers (splitmix64). */
uint64_t placement_hash(uint64_t a, uint64_t b);

#endif
