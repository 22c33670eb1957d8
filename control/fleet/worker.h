/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cloud worker as a registry describes it: where it is, who it is, and what it serves. Placement
 * (placement.h) chooses among them; the edge's pipeline joins those it is given.
 */
#ifndef ISTHMUS_CONTROL_FLEET_WORKER_H
#define ISTHMUS_CONTROL_FLEET_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/secure/identity.h"

#define WORKER_NAME 64u
#define WORKER_PORT 256u
#define WORKERS_MAX 4096u

struct worker {
    char name[WORKER_NAME]; /* unique in a list: "w1" */
    char port[WORKER_PORT]; /* as --port takes it: "udp:cloud1:7300" */
    bool has_peer;          /* it has a key of its own; else the edge's --peer */
    struct fingerprint peer;
    /* What it serves; zero or "": not said: it says so itself when joined */
    char model[65]; /* fingerprint of the model, hexadecimal */
    uint32_t split;
    uint32_t codec_id, numerics_id;
    bool draining; /* no new sessions; those it has should move */
};

#endif
