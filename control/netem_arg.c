/* SPDX-License-Identifier: Apache-2.0 */
#include "control/netem_arg.h"

#include "control/options.h"

static const struct argp_option netem_option_list[] = {
    {"netem", OPT_NETEM, "SPEC", 0,
     "Impair what is sent, for tests: drop=20%,dup=20%,reorder=20%,depth=4,seed=1", 2},
    {0},
};

static error_t netem_parse_option(int key, char *arg, struct argp_state *state)
{
    struct netem_options *o = state->input;
    char err[PORT_ERR];
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct netem_options){.text = NULL};
        return 0;
    case OPT_NETEM:
        if (netem_parse(arg, &o->params, err) < 0)
            argp_error(state, "--netem %s: %s", arg, err);
        o->text = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp netem_argp = {
    netem_option_list, netem_parse_option, NULL, NULL, NULL, NULL, NULL};
