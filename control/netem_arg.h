/* SPDX-License-Identifier: Apache-2.0 */
/* `--netem SPEC`. */
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

#endif
