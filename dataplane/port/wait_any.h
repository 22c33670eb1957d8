/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a port has for a thread that waits on several at once: its rhythm, a look that costs little,
 * and the descriptors to sleep on. A port that has to announce its sleep to its peer does so in
 * `doze`, and takes it back in `woken`.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_WAIT_ANY_H
#define ISTHMUS_DATAPLANE_PORT_WAIT_ANY_H

#include <poll.h>

#include "dataplane/port.h"
#include "dataplane/port/rhythm.h"

#define PORT_DOZE_FDS 16u

struct port_waiter {
    /* Before anything: work that waits for its time. True: no sleep, there is something. */
    bool (*begin)(struct port *p, uint64_t now_ns);
    bool (*look)(struct port *p);     /* are packets there? */
    bool (*may_spin)(struct port *p); /* NULL: always */
    const struct rhythm *(*rhythm)(struct port *p);
    /* The thread is going to sleep: the descriptors to poll (PORT_DOZE_FDS at most), and *until_ns
     * no later than the port can sleep. Packets are looked for after that. */
    unsigned (*doze)(struct port *p, struct pollfd *fds, uint64_t now_ns, uint64_t *until_ns);
    /* It is awake; fds as polled, revents 0 where it did not sleep. */
    void (*woken)(struct port *p, const struct pollfd *fds, unsigned n);
};

#endif
