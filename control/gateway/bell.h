/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the engine's thread to the gateway's, without a lock: rungs are pushed by the one and taken
 * all at once by the other, which is woken by an eventfd when there was none before.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_BELL_H
#define ISTHMUS_CONTROL_GATEWAY_BELL_H

#include <stdatomic.h>

struct rung {
    struct rung *next;
    void *what;
};

struct bell {
    _Atomic(struct rung *) top;
    int fd;
};

int bell_open(struct bell *b); /* 0 or -errno */
void bell_close(struct bell *b);

/* A rung may be pushed again only once it was taken. */
void bell_ring(struct bell *b, struct rung *r);

/* All rungs there are, the last one pushed first. */
struct rung *bell_take(struct bell *b);

#endif
