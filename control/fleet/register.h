/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `cloud --register`: a worker puts its own line (workers.h) into etcd, bound to a lease that it
 * keeps alive, so that the line is gone soon after the worker. A thread of its own; etcd going away
 * and coming back is said once each and disturbs nothing.
 */
#ifndef ISTHMUS_CONTROL_FLEET_REGISTER_H
#define ISTHMUS_CONTROL_FLEET_REGISTER_H

#include <argp.h>

#include "control/fleet/worker.h"

/* An argp child, as those of options.h. */
struct register_options {
    const char *where; /* NULL: not asked for */
    const char *as;    /* NULL: the host's name */
    const char *port;  /* as edges see it; NULL: --port */
    uint32_t ttl_s;
};
extern const struct argp register_argp;

struct registration;

/* For --check-config, with the --port that it would serve at. EXIT_OK or an exit code, the error
 * said.
 */
int register_check(const struct register_options *o, const char *port);

/* self: what it serves; its name and, with --register-port, its port come from the options. The
 * worker serves already. EXIT_OK with *out NULL where nothing was asked for, or an exit code, the
 * error said. */
int register_open(const struct register_options *o, const struct worker *self,
                  struct registration **out);
/* Any thread. NULL: nothing. */
void register_draining(struct registration *r, bool draining);
/* Takes the line out, as far as etcd answers within a second. */
void register_close(struct registration *r);

#endif
