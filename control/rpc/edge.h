/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Methods of an edge that serves: health, stats, sessions, link.stats, codec.get, codec.set,
 * workers, drain.
 */
#ifndef ISTHMUS_CONTROL_RPC_EDGE_H
#define ISTHMUS_CONTROL_RPC_EDGE_H

#include "control/rpc/rpc.h"
#include "control/service/service.h"

/* Borrowed. */
struct rpc_edge {
    struct service *service;
    struct front *front; /* looked into in the engine's thread only */
};

/* Their arg is a struct rpc_edge. */
extern const struct rpc_method edge_methods[];

#endif
