/* SPDX-License-Identifier: Apache-2.0 */
#include "control/netem_arg.h"

#include "control/options.h"

static const struct argp_option netem_option_list[] = {
    {"netem", OPT_NETEM, "SPEC", 0,
     "Impair what is sent, for tests: delay=25ms,jitter=2ms,rate=20mbit,queue=100kB,drop=1%,"
     "burst=4,dup=1%,reorder=1%,depth=4,corrupt=.1%,mtu=1400,seed=7, any of them, "
     "and rate@5s=4mbit,delay@5s=40ms,mtu@5s=1400 from then on; see isthmus-netem(1)",
     2},
    {0},
};

static error_t netem_parse_option(int key, char *arg, struct argp_state *state)
{
    struct netem_options *o = state->input;
    char err[NETEM_ERR];
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct netem_options){.text = NULL};
        return 0;
    case OPT_NETEM:
        if (netem_parse(arg, &o->params, err) < 0)
            argp_error(state, "--netem: %s", err);
        o->text = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp netem_argp = {
    netem_option_list, netem_parse_option, NULL, NULL, NULL, NULL, NULL};
