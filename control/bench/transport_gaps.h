/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a polling process had its core: one that does nothing but poll looks at the clock every
 * few microseconds, so where much more lies between two looks than its work explains, the core was
 * taken: by the host of a virtual machine, by the kernel, by another process.
 */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_GAPS_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_GAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GAP_NS         10000u /* shorter ones are none */
#define GAP_PER_PACKET 1000u  /* nor is what a packet may take: twice what it does */
#define GAPS_MAX       1024u

struct gap {
    uint64_t from_ns, to_ns;
};

/* How long the kernel has let this thread wait for a core so far. -ENOTSUP: it does not count that,
 * or does not show it (CONFIG_SCHED_INFO). */
int gaps_queued(uint64_t *ns);

/* All zero but for `queued`: nothing seen. Of more than there is room for the oldest are
 * forgotten. */
struct gaps {
    int (*queued)(uint64_t *ns); /* gaps_queued, or a test's */
    bool known;                  /* `queued` has told each time */
    uint64_t looked_ns;          /* 0: the time before does not count */
    uint64_t queued_ns;          /* as `queued` said last */
    uint32_t first, n;
    struct gap at[GAPS_MAX]; /* from first on, round */
};

/* The time from now on counts: before, it did something else. */
void gaps_begin(struct gaps *g, uint64_t now_ns);
/*
 * A turn ended at now_ns, or a little ago, in which so many packets came or went; one that ended
 * before the last look at the clock was looked at within, and says no more. If it was long
 * and the kernel says that the thread was ready to run and did not they explain nothing. Where it
 * may have been idle only the kernel can tell.
 */
void gaps_turn(struct gaps *g, uint64_t now_ns, uint64_t packets, bool idle);
/* The oldest up to n, which are forgotten here; how many. */
uint32_t gaps_take(struct gaps *g, struct gap *to, uint32_t n);

/* By time, those that overlap as one; how many are left. */
size_t gaps_merge(struct gap *at, size_t n);
/* Time of merged gaps between two times. */
uint64_t gaps_within(const struct gap *at, size_t n, uint64_t from_ns, uint64_t to_ns);

/* A message of an open loop: when it was due, and how long after that its answer came. */
struct flight {
    uint64_t due_ns, rtt_ns;
};
/* Of gaps of a process that waits for messages, not merged: each begins when the first message was
 * due that it would have taken, for where nothing is due nobody can look too late. Those that are
 * none then are left out; how many are left. */
size_t gaps_since_due(struct gap *at, size_t n, const struct flight *flights, size_t n_flights);
/*
 * Make each merged gap last until what it held up was caught up with: until a message that was due
 * after it is answered as soon as if it had not been, within GAP_NS and twice the least time of
 * all. Flights in the order in which they were due. How many gaps are left, merged again.
 */
size_t gaps_until_caught_up(struct gap *at, size_t n, const struct flight *flights,
                            size_t n_flights);
/* Whether the flight touches a gap. *next: 0 before the first of flights in order. */
bool gaps_touch(const struct gap *at, size_t n, const struct flight *f, size_t *next);

#endif
