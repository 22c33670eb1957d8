/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the engine's thread to the gateway's, without a lock: rungs are put on a stack by the one and
 * taken all at once by the other, which an eventfd wakes: once for all that the engine had to tell in
 * a step, not for each. The gateway never reads it: an edge-triggered epoll sees that it was written.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_CHIME_H
#define ISTHMUS_CONTROL_GATEWAY_CHIME_H

#include <stdatomic.h>
#include <stdbool.h>

struct rung {
    struct rung *next;
    void *what;
};

struct chime {
    _Atomic(struct rung *) top;
    int fd;
    bool due; /* of the engine's thread: something was put where nothing was */
};

int chime_open(struct chime *b); /* 0 or -errno */
void chime_close(struct chime *b);

/* The engine's thread. A rung may be put again only once it was taken; it is seen after chime_ring. */
void chime_put(struct chime *b, struct rung *r);
void chime_ring(struct chime *b);

/* The gateway has a turn, whatever there is. Any thread. */
void chime_wake(struct chime *b);

/* All rungs there are, the last one put first. */
struct rung *chime_take(struct chime *b);

#endif
