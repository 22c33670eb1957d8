/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the process's ports into a pcapng file: methods capture.start, capture.stop and
 * capture.status. The engine's thread only copies them into a ring, and drops (and counts) what
 * does not fit; the control socket's thread writes the file.
 */
#ifndef ISTHMUS_CONTROL_RPC_CAPTURE_H
#define ISTHMUS_CONTROL_RPC_CAPTURE_H

#include "control/rpc/rpc.h"
#include "dataplane/port.h"

#define CAPTURE_PORTS_MAX 64u

struct capture_params {
    /* The ports there are now: up to max, their number. In the engine's thread. */
    uint32_t (*ports)(void *arg, struct port **ports, uint32_t max);
    void *arg;
    const char *beside; /* a path: files that are given none are made in its folder */
};

struct capture;

/* 0 or -ENOMEM. */
int capture_open(const struct capture_params *p, struct capture **out);

/* In the engine's thread, when the socket is closed: what runs is ended and its file is whole. The
 * ports are still there, or their closing was noticed. */
void capture_close(struct capture *c);

/* Their arg is the capture. */
extern const struct rpc_method capture_methods[];

/* rpc_params' tick; arg is the capture. */
uint64_t capture_tick(void *arg, const struct rpc_hop *hop);

#endif
