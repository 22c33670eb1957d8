/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbell: how one process wakes the other from its sleep in port_wait.
 *
 * A page shared by both holds a flag for each side: "I sleep". A sender looks at the flag after its
 * packets are in the ring, and only if it is set makes the system call. The bell itself is an
 * eventfd and not a futex, because the sleeper must also wake when a socket closes (its peer died).
 */
#ifndef ISTHMUS_DATAPLANE_PORT_DOORBELL_H
#define ISTHMUS_DATAPLANE_PORT_DOORBELL_H

#include <stdbool.h>

struct bell_page;

struct bell {
    struct bell_page *page;
    int page_fd;
    int event_fd[2]; /* [side] wakes that side */
    unsigned side;   /* ours */
};

#define BELL_FDS 3 /* page, event 0, event 1: what the creator sends to the other side */

void bell_init(struct bell *b);
int bell_create(struct bell *b, unsigned side);                         /* 0 or -errno */
int bell_adopt(struct bell *b, unsigned side, const int fds[BELL_FDS]); /* takes the fds */
void bell_fds(const struct bell *b, int fds[BELL_FDS]);
void bell_close(struct bell *b);

/* After packets were published: wake the peer if it sleeps. */
void bell_ring(struct bell *b);

/* Announce the sleep; then look once more for packets, and only then poll bell_fd(). */
void bell_before_sleep(struct bell *b);
void bell_after_sleep(struct bell *b);
int bell_fd(const struct bell *b);

/* The peer was last seen polling on the CPU we are on: spinning would only keep it from running.
 * Tells the peer our CPU, too. */
bool bell_shares_cpu(struct bell *b);

#endif
