/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner: the best of all configurations of a split under limits, exactly. Every combination
 * is considered: split, both stages' storage, the cache's format and home, codec, chunk, context
 * and sessions. What is passed over is what bounds prove to be worse or beyond a limit.
 */
#ifndef ISTHMUS_CONTROL_PLAN_SEARCH_H
#define ISTHMUS_CONTROL_PLAN_SEARCH_H

#include "control/plan/latency.h"
#include "control/plan/memory.h"
#include "control/plan/quality.h"

/* What is limited, in the order in which limits are looked at; each may be the objective, too. */
enum plan_metric {
    PLAN_EDGE_BYTES,
    PLAN_CLOUD_BYTES,
    PLAN_KL,
    PLAN_TTFT,
    PLAN_TPOT,
    PLAN_METRICS,
};

#define PLAN_LIST_MAX 16u

/* Planned memory is good to so much of it: that part of a limit of memory is not planned for. */
#define PLAN_RESERVE .02
/* What is planned for under a limit, and the least limit for what is planned: of other metrics they
 * are the same. */
static inline double plan_within(enum plan_metric m, double limit)
{
    return m <= PLAN_CLOUD_BYTES ? limit * (1 - PLAN_RESERVE) : limit;
}
static inline double plan_limit_for(enum plan_metric m, double planned)
{
    return m <= PLAN_CLOUD_BYTES ? planned / (1 - PLAN_RESERVE) : planned;
}

struct plan_wish {
    const struct plan_model *m;
    struct plan_speed *edge, *cloud;
    const struct plan_link *link;
    const struct plan_quality *quality;
    uint64_t packet_bytes;      /* of a host's port */
    bool beside;                /* both on one host */
    double limit[PLAN_METRICS]; /* plan_within of what was asked: bytes, nats, seconds; INFINITY:
                                 * none */
    bool serves;                /* the edge, HTTP */
    bool cloud_held;            /* to its limit, by --memory-budget */
    enum plan_metric
        least;       /* the objective; ties by KL, TPOT, TTFT, memory, then the order below */
    uint32_t prompt; /* tokens; 0: all of the context but one */

    /* What is tried. Of contexts and sessions the greatest product that fits is taken. */
    uint32_t n_contexts, contexts[PLAN_LIST_MAX];
    uint32_t n_sessions, sessions[PLAN_LIST_MAX];
    uint32_t n_chunks, chunks[PLAN_LIST_MAX]; /* rising */
    uint32_t split_min, split_max;
    bool front[PLAN_SCHEMES], back[PLAN_SCHEMES];
    bool kv[KV_FORMATS], home[PLAN_KV_HOMES];
    bool codec[PLAN_CODECS_MAX];
};

struct plan {
    uint32_t split, context, sessions, chunk;
    enum plan_scheme front, back;
    enum kv_format kv;
    enum plan_kv_home home;
    uint32_t codec; /* of quality */
    struct plan_codec_point row;
    double front_kl, back_kl, kv_kl;
    struct plan_memory edge, cloud;
    struct plan_latency time;
    double metric[PLAN_METRICS];
};

struct plan_answer {
    bool found;
    struct plan best;
    /* Neighbours: the best of those that need less of one metric than the best does. */
    bool has_next[PLAN_METRICS];
    struct plan next[PLAN_METRICS];

    /* Not found: the limit that left none of those that the limits before it had left, and for each
     * limit the plan that keeps all others and needs the least more of this one. */
    enum plan_metric ruled_out;
    bool has_change[PLAN_METRICS];
    struct plan change[PLAN_METRICS];
    struct plan nearest; /* the one whose limits are passed by the least factor together */
    bool has_nearest;
    uint32_t longest; /* context that would fit with the fewest sessions; 0: none */

    /* Configurations that no bound ruled out together with others; those computed to the end. */
    uint64_t n_all, n_timed;
};

/* 0, also when none was found; -ENOMEM. */
int plan_search(const struct plan_wish *w, struct plan_answer *a);

/* One configuration, computed: its fields but memory, time and metrics are given. 0; -ENOENT: it
 * has no measured quality or times; -ENOMEM. */
int plan_evaluate(const struct plan_wish *w, struct plan *p);

/* Whether a keeps the limits; whether it is better than b. */
bool plan_fits(const struct plan_wish *w, const struct plan *p);
bool plan_better(const struct plan_wish *w, const struct plan *a, const struct plan *b);

#endif
