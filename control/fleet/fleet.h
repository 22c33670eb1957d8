/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An edge's uplinks follow a registry: workers that placement chooses of the newest list are
 * joined, those that drain, changed or are gone from it give their sessions to others and are left.
 * What the registry says places sessions only; that a worker is dead the link notices.
 *
 * All of it in the engine's thread, between two steps.
 */
#ifndef ISTHMUS_CONTROL_FLEET_FLEET_H
#define ISTHMUS_CONTROL_FLEET_FLEET_H

#include "control/fleet/placement.h"
#include "control/netem_arg.h"
#include "control/security_arg.h"
#include "dataplane/pipeline/pipeline.h"

#define FLEET_UPLINKS     8u
#define FLEET_UPLINKS_MAX (EDGE_UPLINKS_MAX / 2) /* as many may be on their way out */

struct fleet;

struct fleet_params {
    const char *where; /* registry_open */
    uint32_t max_uplinks;
    struct fleet_need need;
    const struct security *security; /* borrowed, as netem */
    const struct netem_options *netem;
    uint64_t seed; /* edges should differ */
};

/* EXIT_OK or an exit code, the error said. */
int fleet_open(const struct fleet_params *p, struct fleet **out);
/* After the edge, whose ports it closes. */
void fleet_close(struct fleet *f);

/* edge_params.place; arg: the fleet. */
int fleet_place(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session);
/* engine_split_each; arg: the fleet. */
uint64_t fleet_step(void *arg, struct edge *e, uint64_t now_ns);
/* Uplinks with a cloud now; *known: workers of the list. */
uint32_t fleet_joined(const struct fleet *f, const struct edge *e, size_t *known);

struct fleet_worker {
    struct worker worker; /* draining: as the registry says */
    enum fleet_state state;
    bool drained;         /* by fleet_drain */
    bool in_list;         /* false: the registry has it no more; it is being left */
    bool joined;          /* an uplink is there: */
    struct edge_uplink_stats uplink;
    char why[PIPELINE_ERR]; /* it is unfit, or away, or was; "": nothing to say */
};
/* Up to max of them, those joined first; returns how many there are. */
size_t fleet_list(const struct fleet *f, const struct edge *e, struct fleet_worker *list,
                  size_t max);
/* Of an uplink, whether a registry knows it or not. */
enum fleet_state fleet_uplink_state(const struct edge_uplink_stats *u);
/* How many there are of each, and those that this edge is joined to or tries, by name. */
struct fleet_counts {
    uint32_t n[FLEET_STATES], n_uplinks;
    struct fleet_up {
        char name[EDGE_UPLINK_NAME];
        bool up;
    } uplinks[EDGE_UPLINKS_MAX];
};
/* f NULL: of the uplinks of an edge without a registry, whose names are not given. */
void fleet_count(const struct fleet *f, const struct edge *e, struct fleet_counts *c);

/* Whatever the registry says, this edge places nothing there, and the sessions move. False: again.
 * 0 or -ENOENT. It lasts as long as the worker is in the list, and this process. */
int fleet_drain(struct fleet *f, const char *name, bool drain);

#endif
