/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching a port: what is sent and received through it is shown to somebody, as it is on the wire
 * (so encrypted, where it is). The port's table of operations is replaced meanwhile: a port that
 * nobody watches pays nothing.
 *
 * In the thread that polls the port.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_TAP_H
#define ISTHMUS_DATAPLANE_PORT_TAP_H

#include "dataplane/port.h"

struct port_watcher {
    /* Of frames that the port took, and of those it gave. Must not block, nor keep frame. */
    void (*frame)(void *arg, bool sent, const uint8_t *frame, uint32_t len, uint64_t now_ns);
    /* The port is being closed: the tap is gone, and must not be ended any more. */
    void (*closed)(void *arg);
    void *arg;
};

struct port_tap;

/* 0 or -ENOMEM. One that is watched already can be watched once more; the last tap ends first. */
int port_tap_begin(struct port *p, const struct port_watcher *w, struct port_tap **out);
void port_tap_end(struct port_tap *t);

#endif
