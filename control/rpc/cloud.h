/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of a cloud: health, stats, link.stats, edges.list, drain. */
#ifndef ISTHMUS_CONTROL_RPC_CLOUD_H
#define ISTHMUS_CONTROL_RPC_CLOUD_H

#include "control/budget.h"
#include "control/rpc/rpc.h"
#include "dataplane/pipeline/pipeline.h"

/* Borrowed; looked into in the engine's thread only. */
struct rpc_cloud {
    struct cloud *cloud;
    const struct stage *stage;
    const char *port, *cipher;
    uint32_t max_sessions;
    uint64_t started_ns;
    const struct budget *budget; /* the ladder that keeps --memory-budget; NULL: none */
};

/* Their arg is a struct rpc_cloud. */
extern const struct rpc_method cloud_methods[];

#endif
