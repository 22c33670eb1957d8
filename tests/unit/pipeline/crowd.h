/* SPDX-License-Identifier: Apache-2.0 */
/* A cloud and several edges, each over a network of its own, in one thread under a virtual clock. */
#ifndef ISTHMUS_TESTS_CROWD_H
#define ISTHMUS_TESTS_CROWD_H

#include "tests/sim/hub.h"
#include "tests/unit/pipeline/rig.h"

#define CROWD_MAX 16u

struct crowd_params {
    struct rig_params edge; /* of each edge; its seed is counted on. sessions: of one edge */
    struct fake_params cloud_stage;
    struct link_params cloud_link;
    uint32_t n_edges;
    uint32_t heads; /* bits: these edges have the head, if any has, the others none */
    uint32_t cloud_sessions, cloud_lingering;
    uint32_t max_edges;
    uint32_t pool_packets; /* the cloud's; 0: 2048 */
    bool secure;
    const char *limits[CROWD_MAX]; /* of the list of those admitted; NULL: none */
};

struct crowd {
    struct crowd_params p;
    uint64_t now_ns;
    struct rig edges[CROWD_MAX]; /* each with its network; edge NULL: killed */
    bool foreign[CROWD_MAX];     /* the test itself is that edge */
    struct hub *hub;
    struct stage *stage;
    struct cloud *cloud;
    struct authorized *list;
    char said[512]; /* the cloud's last word */
    char all_said[8192];
};

/* Made once. The edges' names in the list are e0, e1, ... */
const struct identity *crowd_identity(uint32_t edge);
/* Edges of the mask's bits, with p.limits. The caller's to close. */
struct authorized *crowd_list(const struct crowd_params *p, uint32_t mask);

void crowd_open(struct crowd *c, const struct crowd_params *p);
void crowd_close(struct crowd *c);
void crowd_start_edge(struct crowd *c, uint32_t i);
/* Without a word, as by kill -9. Its requests never end. */
void crowd_kill_edge(struct crowd *c, uint32_t i);
void crowd_start_cloud(struct crowd *c);
void crowd_kill_cloud(struct crowd *c);
/* One poll of each; virtual time goes on to what comes next. */
void crowd_step(struct crowd *c);
void crowd_run_for(struct crowd *c, uint64_t ns);

#endif
