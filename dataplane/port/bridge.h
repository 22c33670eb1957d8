/* SPDX-License-Identifier: Apache-2.0 */
/* Two interfaces joined by an impaired path each way (dataplane/netem.h), in real time. */
#ifndef ISTHMUS_DATAPLANE_PORT_BRIDGE_H
#define ISTHMUS_DATAPLANE_PORT_BRIDGE_H

#include "dataplane/netem.h"
#include "dataplane/port/rawif.h"

#define BRIDGE_ERR RAWIF_ERR

struct bridge;

struct bridge_stats {
    struct netem_stats path;
    uint64_t super_frames; /* as in struct rawif_stats, of the interface that it comes from, */
    uint64_t unreadable;
    uint64_t kernel_dropped;
    uint64_t send_failed;     /* and of the one that it goes to */
    uint64_t lateness_max_ns; /* the longest that a frame left after its time */
};

/* Way 0 is from a to b, way 1 from b to a, with the next seed. err: BRIDGE_ERR bytes. 0, -EINVAL,
 * -ENODEV, -EPERM, -ENOMEM, or what a socket gave. */
int bridge_open(const char *a, const char *b, const struct netem_params *p, struct bridge **out,
                char *err);
void bridge_close(struct bridge *b);

/* Receive, send what is due, then sleep until there is more to do, deadline_ns (CLOCK_MONOTONIC) or
 * a signal. 0, or -ENODEV: one of the interfaces is gone. */
int bridge_poll(struct bridge *b, uint64_t deadline_ns);

void bridge_stats(struct bridge *b, int way, struct bridge_stats *s);

#endif
