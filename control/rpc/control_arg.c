/* SPDX-License-Identifier: Apache-2.0 */
/* Options of the control socket, and where it lies. */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/options.h"
#include "control/rpc/control.h"

enum { OPT_GROUP = OPT_OWN + 0x400, OPT_ADMIN_GROUP, OPT_OPERATOR_GROUP };

static const struct argp_option options[] = {
    {"control-group", OPT_GROUP, "GROUP", 0,
     "Whose members may connect to the control socket (default: the process's group)", 6},
    {"control-operator-group", OPT_OPERATOR_GROUP, "GROUP", 0,
     "Whose members may, of those, drain, kill, set and capture (default: all of them)", 6},
    {"control-admin-group", OPT_ADMIN_GROUP, "GROUP", 0,
     "Whose members may do everything, as root and the process's user may (default: nobody else)",
     6},
    {0},
};

static gid_t group_of(struct argp_state *state, const char *option, const char *name)
{
    char *end;
    const unsigned long id = strtoul(name, &end, 10);
    if (*name && !*end && id < RPC_NO_GROUP)
        return (gid_t)id;
    errno = 0;
    const struct group *g = getgrnam(name);
    if (!g)
        argp_error(state, "%s %s: %s", option, name, errno ? strerror(errno) : "no such group");
    return g ? g->gr_gid : RPC_NO_GROUP;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct control_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct control_options){RPC_NO_GROUP, RPC_NO_GROUP, RPC_NO_GROUP};
        return 0;
    case OPT_GROUP:
        o->group = group_of(state, "--control-group", arg);
        return 0;
    case OPT_OPERATOR_GROUP:
        o->operator_group = group_of(state, "--control-operator-group", arg);
        return 0;
    case OPT_ADMIN_GROUP:
        o->admin_group = group_of(state, "--control-admin-group", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp control_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

bool control_default_path(unsigned n, const char *name, char path[CONTROL_PATH])
{
    const char *of_user = getenv("XDG_RUNTIME_DIR");
    int bytes = 0;
    if (n == 0)
        bytes = snprintf(path, CONTROL_PATH, "/run/isthmus/%s/control.sock", name);
    else if (n == 1 && of_user && *of_user == '/')
        bytes = snprintf(path, CONTROL_PATH, "%s/isthmus/%s/control.sock", of_user, name);
    return bytes > 0 && bytes < (int)CONTROL_PATH;
}
