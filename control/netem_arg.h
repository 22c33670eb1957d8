/* SPDX-License-Identifier: Apache-2.0 */
/* `--netem SPEC`, and a port behind it. */
#ifndef ISTHMUS_CONTROL_NETEM_ARG_H
#define ISTHMUS_CONTROL_NETEM_ARG_H

#include <argp.h>

#include "dataplane/port.h"

/* An argp child, as those of options.h. */
struct netem_options {
    const char *text; /* NULL: not given */
    struct netem_params params;
};
extern const struct argp netem_argp;

/* port_open, behind the impairments of n if any were given; errors said. EXIT_OK or an exit code.
 */
int netem_port_open(const char *uri, enum port_role role, const struct netem_options *n,
                    struct port **out);

#endif
