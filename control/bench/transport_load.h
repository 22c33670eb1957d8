/* SPDX-License-Identifier: Apache-2.0 */
/* What `isthmus bench transport` asks of a way, and what came of it. */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_LOAD_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_LOAD_H

#include "control/bench/histogram.h"
#include "control/bench/transport.h"

struct load {
    uint32_t size_bytes, sessions;
    double rate_per_s; /* of messages, all sessions together; 0: closed loop, a message of each
                        * session under way */
    uint32_t transfer; /* messages of a one-way stream; 0: as many as the time allows */
};

/* Sums over turns. */
struct load_result {
    struct histogram rtt;
    uint64_t round_trips, round_trip_ns; /* ns: all turns together */
    uint64_t lost;                       /* not answered */
    uint64_t messages, message_ns;       /* one way */
    uint64_t cpu_ns, cpu_messages;       /* of both processes */
    bool gaps_known;                     /* of link and raw's open loop on one host whose kernel
                                          * counts waits for a core, and so are */
    uint64_t lost_core_ns;               /* time of it without the core of either process, */
    struct histogram kept;               /* and those of rtt that no such time held up */
};

struct load_env {
    struct asker *asker; /* who asks the peer what came */
    bool one_clock;      /* the peer's is ours */
    const char *(*gone)(void *arg);
    void *arg;
};

/* Add a turn of about time_ns, or of so many messages. 0, -EPIPE (*why), -ENOMEM. */
int load_round_trips(struct way *w, const struct load *l, uint64_t time_ns,
                     const struct load_env *env, struct load_result *r, const char **why);
int load_one_way(struct way *w, const struct load *l, uint64_t time_ns, const struct load_env *env,
                 struct load_result *r, const char **why);

#endif
