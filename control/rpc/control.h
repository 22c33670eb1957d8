/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a command that serves: its options, and the methods it offers. */
#ifndef ISTHMUS_CONTROL_RPC_CONTROL_H
#define ISTHMUS_CONTROL_RPC_CONTROL_H

#include <argp.h>
#include <stdbool.h>

#include "control/config/reload.h"
#include "control/rpc/rpc.h"
#include "control/service/service.h"
#include "control/split_plan.h"
#include "dataplane/pipeline/pipeline.h"

/* --control-group, --control-admin-group, --control-operator-group, beside daemon.h's --control.
 * RPC_NO_GROUP: not given. */
struct control_options {
    gid_t group, admin_group, operator_group;
};
extern const struct argp control_argp;

/* Where a process looks for a place for its socket, and `isthmus ctl` for one: the n-th, name
 * "edge" or "cloud". False: there are no more. */
#define CONTROL_PATH 108u /* of a Unix socket, with its zero */
bool control_default_path(unsigned n, const char *name, char path[CONTROL_PATH]);

struct control;

/*
 * Of an edge that serves; at `path` (daemon_control_path), or where it is NULL at the first default
 * one that can be had, and not at all where none can, which is said. Right before service_run, and
 * closed right after: in the engine's thread. reload: what reads the
 * configuration again; NULL: there is none.
 * EXIT_OK, with *out NULL where there is none ("none" says so, too); or an exit code, the error
 * said.
 */
int control_open_edge(const struct control_options *o, const char *path, struct service *s,
                      struct front *f, struct reload *reload, struct control **out);

/* Of a cloud; none where path is NULL. What it works with stays until control_close. */
struct control_cloud {
    struct cloud *cloud;
    struct port *port;
    const struct stage *stage;
    const struct split_plan *plan;
    const char *model;  /* its file */
    const char *cipher; /* pipeline_cipher */
    uint32_t max_sessions;
    uint64_t budget_bytes;       /* of memory; 0: none */
    const struct budget *budget; /* its ladder; NULL: none */
    struct reload *reload;       /* NULL: there is no configuration to read again */
    void (*wake)(void);          /* ends the wait of the cloud's loop; from any thread */
};
int control_open_cloud(const struct control_options *o, const char *path,
                       const struct control_cloud *c, struct control **out);

/* Root is about to become this user: an edge's first default place is made its own, unless it
 * is there. */
void control_hand_over(uid_t uid, gid_t gid);

/* A cloud's loop, in every turn: what was asked meanwhile. NULL: nothing. */
void control_run_pending(struct control *c);

/* The engine's thread, which does nothing of what is asked any more. */
void control_close(struct control *c);

#endif
