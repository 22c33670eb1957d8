/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command generates with, behind one table: the whole model in this process (local), or a
 * front stage joined to a cloud by a port (split). Requests and results are the pipeline's own.
 */
#ifndef ISTHMUS_CONTROL_ENGINE_H
#define ISTHMUS_CONTROL_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "control/adapt/steer.h"
#include "dataplane/pipeline/pipeline.h"

struct engine_stats {
    uint64_t wire_bytes_up, wire_bytes_down; /* whole frames */
    uint64_t tile_bytes_up, rows_up;
    struct codec_rate_range parameter; /* as the edge's */
    uint64_t link_rtt_ns_p50;
    uint64_t packets_up, packets_down;
    uint64_t retransmits, spurious, lost_packets; /* as link_stats and link_lost_packets */
    uint64_t mtu_bytes, mtu_falls, cut;           /* as link_stats */
    uint64_t reconnections, replayed_bytes, moved; /* as the edge's */
    uint64_t copied_bytes, port_copied_bytes, kept_bytes; /* as the edge's */
    bool driver_copies; /* as the edge's: all of wire_bytes_up and wire_bytes_down */
    uint64_t eal_rss_bytes, history_bytes;
    struct steer_view adapt; /* on false: the quality does not change */
    bool ready;         /* a cloud is there, or none is needed */
    const char *port;   /* "memif", "local" */
    const char *cipher; /* "AES-128-GCM", "none" */
};

struct engine_session {
    uint32_t n_shared;
    enum kv_format kv; /* of its keys and values */
    uint64_t tile_bytes_up, rows_up;
    double parameter; /* of its codec now, under a target; else 0 */
    char worker[64];  /* the cloud that it is at */
};

struct engine;

struct engine_ops {
    int64_t (*submit)(struct engine *e, const struct edge_request *r);
    void (*cancel)(struct engine *e, int64_t session);
    /* Do what can be done, then wait for what comes next, at most until_ns. Returns the number of
     * busy sessions, or -EPIPE or another -errno: error() says why, every session has ended. */
    int (*step)(struct engine *e, uint64_t until_ns);
    const char *(*error)(const struct engine *e);
    void (*stats)(const struct engine *e, struct engine_stats *s);
    void (*close)(struct engine *e);
    /* May be NULL, where nothing is coded. How a session does; false: it has ended. */
    bool (*session)(const struct engine *e, int64_t session, struct engine_session *out);
    int (*retarget)(struct engine *e, int64_t session, struct codec_rate_target target);
    uint32_t (*uplinks)(const struct engine *e, struct edge_uplink_stats *list, uint32_t max);
    bool (*make_room)(struct engine *e); /* as edge_make_room */
};

struct engine {
    const struct engine_ops *ops;
    const struct stage_info *info; /* of the stage in this process */
    bool stays; /* step waits though no session is busy, too: others bring them (port_wake_on) */
    void (*told)(void *arg); /* may be NULL: when callbacks were called, before what takes long */
    void *told_arg;
};

/* The stage must be whole; it is not owned. no_prefix: as edge_params'. 0 or -ENOMEM. */
int engine_local(struct stage *whole, uint32_t chunk_tokens, uint32_t max_sessions, bool no_prefix,
                 struct engine **out);

/* params as edge_open takes them, stage and port included; neither is owned. 0, or -errno with err
 * (PIPELINE_ERR bytes). */
int engine_split(const struct edge_params *params, struct engine **out, char *err);

/* What is done before each step of a split engine, in its thread; it returns when it wants to be called
 * again at the latest. */
void engine_split_each(struct engine *e,
                       uint64_t (*each)(void *arg, struct edge *edge, uint64_t now_ns), void *arg);
/* Adaptation, before each step too; not owned. NULL: none. */
void engine_split_steer(struct engine *e, struct steer *s);
/* The edge of a split engine, for its thread; NULL of a local one. */
struct edge *engine_edge(struct engine *e);

/* Session > 0, or as edge_submit. */
static inline int64_t engine_submit(struct engine *e, const struct edge_request *r)
{
    return e->ops->submit(e, r);
}

static inline void engine_cancel(struct engine *e, int64_t session)
{
    e->ops->cancel(e, session);
}

static inline int engine_step(struct engine *e, uint64_t until_ns)
{
    return e->ops->step(e, until_ns);
}

/* What of a step was told by callbacks has been told. */
static inline void engine_told(struct engine *e)
{
    if (e->told)
        e->told(e->told_arg);
}

/* The longest unused of the sessions that have ended is given up, with its cache. False: none is
 * left. */
static inline bool engine_make_room(struct engine *e)
{
    return e->ops->make_room(e);
}

static inline const char *engine_error(const struct engine *e)
{
    return e->ops->error(e);
}

static inline void engine_stats(const struct engine *e, struct engine_stats *s)
{
    e->ops->stats(e, s);
}

/* The clouds that it is joined to, or tries to be: how many were written. */
static inline uint32_t engine_uplinks(const struct engine *e, struct edge_uplink_stats *list,
                                      uint32_t max)
{
    return e->ops->uplinks ? e->ops->uplinks(e, list, max) : 0;
}

static inline void engine_close(struct engine *e)
{
    if (e)
        e->ops->close(e);
}

#endif
