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
struct fleet_need {
    char model[65];
    uint32_t split, codec_id, numerics_id;
};
/* A worker that says nothing of a property may have it; it says so itself when it is joined. */
bool fleet_fits(const struct worker *w, const struct fleet_need *need);
/* What it has that is not needed: "split 5, not 10". text stays as it is where it fits. */
void fleet_misfit(const struct worker *w, const struct fleet_need *need, char *text, size_t room);

/* What a worker is to an edge. */
enum fleet_state {
    FLEET_KNOWN, /* of the registry, and others were chosen */
    FLEET_JOINED,
    FLEET_DRAINING, /* it, the registry or whoever operates the edge says so; it may be empty
                       already */
    FLEET_UNFIT,    /* another model, split, codec or arithmetic */
    FLEET_AWAY,     /* it doesn't answer; it, or another, is tried */
    FLEET_STATES
};
const char *fleet_state_name(enum fleet_state s);

/* A worker that could take a session now. */
struct fleet_view {
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
 * grow to, 0: not known. Of two drawn at random the one of lower cost: what a token takes there
 * (the round trip and FLEET_TOKEN_NS) for each session of ours with this one, and the more the
 * fewer places it has left, twice as much with FLEET_SCARCE. So a farther worker gets fewer
 * sessions, not none. One that has computed a good part of the session's beginning already is
 * preferred to the two, as long as it has no more sessions than they by FLEET_LEAN.
 */
#define FLEET_TOKEN_NS   UINT64_C(5000000)
#define FLEET_RTT_MAX_NS UINT64_C(10000000000)
#define FLEET_SCARCE     16u
#define FLEET_LEAN       4u
#define FLEET_SHARED     32u /* tokens that are a good part */
int fleet_choose(const struct fleet_view *views, uint32_t n, uint64_t need_tokens, uint64_t seed,
                 uint64_t counter);

/*
 * Which workers an edge joins: up to max of those that fit and don't drain, by rendezvous hashing
 * with the edge's seed. So edges differ, and one worker more or less changes one choice. chosen:
 * indices into the list, ascending, room for max. Returns how many.
 */
size_t fleet_select(const struct workers *w, const struct fleet_need *need, uint64_t seed,
                    size_t max, uint32_t *chosen);

/* Well mixed bits of two numbers (splitmix64). */
uint64_t fleet_hash(uint64_t a, uint64_t b);

#endif
