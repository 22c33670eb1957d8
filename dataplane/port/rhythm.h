/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a port waits: spin for a moment, then sleep; but be awake and spinning around the time when
 * an answer is due.
 *
 * A core that slept for milliseconds takes 100 us and more to wake, for every token on both sides.
 * But a peer's answers come as regularly as its steps: so wake shortly before the next is due,
 * going by the last two, spin until shortly after, and sleep the rest.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_RHYTHM_H
#define ISTHMUS_DATAPLANE_PORT_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

struct rhythm {
    uint64_t sent_ns;   /* since when we await an answer; 0: none */
    uint64_t gap_ns[2]; /* how long the last two took */
};

struct rhythm_ops {
    bool (*look)(void *arg);     /* are packets there? */
    bool (*may_spin)(void *arg); /* NULL: always */
    /* Sleep until packets may be there or `until`; 0 or -EINTR. */
    int (*sleep)(void *arg, uint64_t now_ns, uint64_t until_ns);
};

void rhythm_sent(struct rhythm *r, uint64_t now_ns);
/* What came then was looked at only now: it may be older than what was sent since. */
void rhythm_received(struct rhythm *r, uint64_t now_ns);

/* port_wait, when there was nothing at *now_ns, which becomes the latest time that it knows: of what
 * it found while it spun, a moment before that came. */
int rhythm_wait(const struct rhythm *r, const struct rhythm_ops *ops, void *arg, uint64_t *now_ns,
                uint64_t deadline_ns);

#endif
