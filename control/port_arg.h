/* SPDX-License-Identifier: Apache-2.0 */
/* `--port URI` and `--insecure`, and the port they name, behind `--netem`'s impairments. */
#ifndef ISTHMUS_CONTROL_PORT_ARG_H
#define ISTHMUS_CONTROL_PORT_ARG_H

#include <argp.h>
#include <stdbool.h>

#include "control/netem_arg.h"
#include "dataplane/port.h"

/* An argp child, as those of options.h: a bad URI ends the program with exit code 2. */
struct port_options {
    const char *uri; /* never NULL after parsing */
    bool insecure;
};
extern const struct argp port_argp;

/*
 * Open it, and say what was chosen where there was a choice. A port that reaches beyond this host
 * is refused unless o->insecure, for nothing is encrypted; then that is said loudly. EXIT_OK or an
 * exit code, the error said.
 */
int port_arg_open(const struct port_options *o, enum port_role role, const struct netem_options *n,
                  struct port **out);

#endif
