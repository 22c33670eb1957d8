/* SPDX-License-Identifier: Apache-2.0 */
#include "control/port_arg.h"

#include <errno.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "dataplane/port/uri.h"

static const struct argp_option option_list[] = {
    {"port", OPT_PORT, "URI", 0,
     "Where the halves meet: memif:PATH or memif:@NAME (one host), udp:HOST:PORT, "
     "packet:IF,ip=ADDR/LEN,peer=ADDR[,gw=ADDR], xdp:IF,..., pci:ADDRESS,...",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct port_options *o = state->input;
    char err[PORT_ERR];
    struct port_uri uri;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct port_options){.uri = NULL};
        return 0;
    case OPT_PORT:
        if (port_uri_parse(arg, &uri, err) < 0)
            argp_error(state, "--port: %s", err);
        o->uri = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o->uri)
            argp_error(state, "--port is missing: where edge and cloud meet, e.g. --port "
                              "memif:/tmp/isthmus.sock or --port udp:127.0.0.1:7300");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp port_argp = {option_list, parse, NULL, NULL, NULL, NULL, NULL};

static void say_news(const char *line)
{
    log_info("%s", line);
}

int port_arg_open(const struct port_options *o, enum port_role role,
                  const struct security *security, const struct netem_options *n, struct port **out)
{
    char err[PORT_ERR] = "";
    struct port *inner;
    port_on_news(say_news);
    int rc = port_open(o->uri, role, &inner, err);
    if (rc < 0) {
        log_error("%s", err);
        return rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
    }
    rc = security_check_port(security, inner, o->uri);
    if (rc != EXIT_OK) {
        port_close(inner);
        return rc;
    }
    if (inner->caps.how[0])
        log_info("%s, MTU %u", inner->caps.how, inner->caps.mtu_bytes);
    *out = inner;
    if (!n->text)
        return EXIT_OK;
    struct netem_params params = n->params;
    params.seed += role == PORT_SERVER; /* each way its own fate */
    rc = port_netem(inner, &params, out);
    if (rc < 0) {
        *out = inner;
        log_error("cannot impair the port: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}
