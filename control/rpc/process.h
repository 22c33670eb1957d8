/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Methods of any process that holds a stage: version, threads, memory, port.stats, profile.dump,
 * config.reload, log.level.
 */
#ifndef ISTHMUS_CONTROL_RPC_PROCESS_H
#define ISTHMUS_CONTROL_RPC_PROCESS_H

#include "codec/codec.h"
#include "codec/profile.h"
#include "compute/stage.h"
#include "control/account.h"
#include "control/config/reload.h"
#include "control/rpc/rpc.h"
#include "dataplane/port.h"

/* All borrowed. */
struct rpc_process {
    const char *what;  /* "edge", "cloud" */
    const char *model; /* its file */
    uint64_t started_ns;
    const struct stage *stage;           /* asked in the engine's thread */
    const struct codec_params *codec;    /* NULL: nothing is coded */
    const struct codec_profile *profile; /* NULL: none */
    struct reload *reload;               /* NULL: there is no configuration to read again */
    /* In the engine's thread: the ports there are now, and the memory. */
    uint32_t (*ports)(void *arg, struct port **ports, uint32_t max);
    void (*account)(void *arg, struct account *a);
    void *arg;
};

/* Their arg is a struct rpc_process. */
extern const struct rpc_method process_methods[];

/* ns as ms with its fraction, for results. */
static inline json_t *rpc_ms(uint64_t ns)
{
    return json_real((double)ns / 1e6);
}

/* 0: not known, null. */
static inline json_t *rpc_known_ms(uint64_t ns)
{
    return ns ? rpc_ms(ns) : json_null();
}

static inline json_t *rpc_count(uint64_t n)
{
    return json_integer((json_int_t)n);
}

/* n / of, or null. */
static inline json_t *rpc_ratio(double n, double of)
{
    return of > 0 ? json_real(n / of) : json_null();
}

#endif
