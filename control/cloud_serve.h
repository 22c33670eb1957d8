/* SPDX-License-Identifier: Apache-2.0 */
/* The serving loop of `isthmus cloud`: signals, draining, reloading, what is said meanwhile. */
#ifndef ISTHMUS_CONTROL_CLOUD_SERVE_H
#define ISTHMUS_CONTROL_CLOUD_SERVE_H

#include "control/account.h"
#include "control/budget.h"
#include "control/fleet/register.h"
#include "control/rpc/control.h"
#include "control/security_arg.h"
#include "dataplane/pipeline/pipeline.h"

struct cloud_serve {
    struct cloud *cloud;
    struct port *port;
    bool once;                 /* end when the first edge has left, or at any signal */
    uint32_t drain_timeout_s;  /* 0: as long as it takes */
    struct security *security; /* its peers are replaced when SIGHUP reads --authorized again */
    struct control *control;   /* NULL: none */
    struct reload *reload;     /* cloud_serve_reloads */
    struct registration *registration; /* told of draining; NULL: none */
    const struct stage *stage;
    uint32_t max_sessions;
    uint64_t budget_bytes; /* of --memory-budget; 0: none */
    struct budget budget;  /* the ladder that keeps it */
};

#define DRAIN_TIMEOUT_S     30u
#define DRAIN_TIMEOUT_MAX_S 86400u

/* From here on signals are looked at by cloud_serve, and what waits ends by one: before the port is
 * opened, for from there on there is something to clean up. EXIT_OK, or an exit code, said. */
int cloud_serve_begin(void);
void cloud_serve_end(void);
/* Any thread: ends the wait of cloud_serve. */
void cloud_serve_wake(void);

/* What SIGHUP and the control socket have read the configuration again, for s->reload: closed after
 * the control socket. s stays where it is. EXIT_OK, or EXIT_FAILED, said. */
int cloud_serve_reloads(struct cloud_serve *s, struct reload **out);

/*
 * Serve until a signal: SIGTERM or SIGINT drains - no new sessions, which all edges are told -
 * until no session is left or the time is up; a second one ends it at once. SIGHUP reads the list
 * of edges and the configuration again (reload.h); in a terminal it ends, as that has gone.
 * EXIT_OK.
 */
int cloud_serve(struct cloud_serve *s);

/* Where a cloud's memory is, in the thread of its loop. budget_bytes: of --memory-budget, 0: none. */
void account_of_cloud(const struct cloud *c, const struct stage *stage, struct port *port,
                      uint32_t max_sessions, uint64_t budget_bytes, struct account *a);

#endif
