/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the engine's thread to the gateway's, without a lock: rungs are pushed by the one and taken
 * all at once by the other, which is woken by an eventfd when there was none before.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_CHIME_H
#define ISTHMUS_CONTROL_GATEWAY_CHIME_H

#include <stdatomic.h>

struct rung {
    struct rung *next;
    void *what;
};

struct chime {
    _Atomic(struct rung *) top;
    int fd;
};

int chime_open(struct chime *b); /* 0 or -errno */
void chime_close(struct chime *b);

/* A rung may be pushed again only once it was taken. */
void chime_ring(struct chime *b, struct rung *r);

/* All rungs there are, the last one pushed first. */
struct rung *chime_take(struct chime *b);

#endif
