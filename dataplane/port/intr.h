/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memif driver's control callbacks, run by the thread that polls the port.
 *
 * DPDK runs them in its interrupt thread. There a disconnect unmaps the rings while the polling
 * thread is in a burst on them, and a peer that dies takes this process along. So the linker's
 * --wrap brings the driver's registrations here, and each port dispatches its own between bursts.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_INTR_H
#define ISTHMUS_DATAPLANE_PORT_INTR_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

#include <rte_interrupts.h>

#define INTR_MAX 8u

struct intr_source {
    struct rte_intr_handle *handle;
    int fd;
    rte_intr_callback_fn run;
    void *arg;
    rte_intr_unregister_callback_fn after; /* unregister when `run` returns, then call this */
};

struct intr {
    struct intr_source sources[INTR_MAX];
    unsigned n;
    int running_fd; /* source whose callback runs; -1: none */
    pid_t only_pid; /* the peer that may connect; 0: nobody */
};

void intr_init(struct intr *in);
void intr_close(struct intr *in); /* closes descriptors the driver left registered */

/* Between these, what this thread's DPDK calls register belongs to `in`. */
void intr_enter(struct intr *in);
void intr_leave(void);

/* Append the descriptors to poll; returns how many (<= INTR_MAX). */
unsigned intr_pollfds(const struct intr *in, struct pollfd *fds);
/* Run the callbacks of those that are readable. Never blocks. */
void intr_dispatch(struct intr *in);

#endif
