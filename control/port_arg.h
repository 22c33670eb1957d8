/* SPDX-License-Identifier: Apache-2.0 */
/* `--port URI`, and the port it names, behind `--netem`'s impairments. */
#ifndef ISTHMUS_CONTROL_PORT_ARG_H
#define ISTHMUS_CONTROL_PORT_ARG_H

#include <argp.h>

#include "control/netem_arg.h"
#include "control/security_arg.h"
#include "dataplane/port.h"

/* An argp child, as those of options.h: a bad URI ends the program with exit code 2. */
struct port_options {
    const char *uri; /* never NULL after parsing */
};
extern const struct argp port_argp;

/*
 * Open it, and say what was chosen where there was a choice. Without encryption a port that reaches
 * beyond this host is refused. EXIT_OK or an exit code, the error said.
 */
int port_arg_open(const struct port_options *o, enum port_role role, const struct security *security,
                  const struct netem_options *n, struct port **out);

#endif
