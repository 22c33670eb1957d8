/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus edge`: the front half, joined to an `isthmus cloud` that was started by itself. */
#include "control/cmd.h"
#include "control/front.h"

enum { OPT_CONNECT = OPT_OWN };

struct edge_options {
    struct front_options front;
    struct port_options port;
    struct security_options security;
    uint32_t connect_s;
};

static const struct argp_option options[] = {
    {"connect", OPT_CONNECT, "SECONDS", 0, "How long to wait for the cloud (default 10)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct edge_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->front;
        state->child_inputs[1] = &o->port;
        state->child_inputs[2] = &o->security;
        return 0;
    case OPT_CONNECT:
        o->connect_s = opt_u32(state, "--connect", arg, 1, 86400);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&front_argp, 0, NULL, 0}, {&port_argp, 0, NULL, 0}, {&security_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    options,  parse,
    NULL,     "Generate text with the front layers here and the back layers in an `isthmus cloud`.",
    children, NULL,
    NULL,
};

int cmd_edge(int argc, char **argv)
{
    struct edge_options o = {.connect_s = 10};
    argp_parse(&argp, argc, argv, 0, NULL, &o);

    struct front f;
    int rc = front_open(&f, &o.front);
    if (rc == EXIT_OK)
        rc = security_open(&o.security, false, &f.security);
    if (rc == EXIT_OK)
        rc = front_plan(&f);
    if (rc == EXIT_OK)
        rc = front_join(&f, &o.port, 1, 0, o.connect_s * UINT64_C(1000000000));
    if (rc == EXIT_OK)
        rc = front_answer(&f);
    front_close(&f);
    return rc;
}
