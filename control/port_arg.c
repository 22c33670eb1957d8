/* SPDX-License-Identifier: Apache-2.0 */
#include "control/port_arg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "dataplane/port/ether.h"
#include "dataplane/port/uri.h"

#define NAME_NS UINT64_C(500000000) /* a name is waited for before another address is tried */

static const struct argp_option option_list[] = {
    {"port", OPT_PORT, "URI", 0,
     "Where the halves meet: memif:PATH or memif:@NAME (one host), udp:HOST:PORT, "
     "packet:IF,ip=ADDR/LEN,peer=ADDR[,gw=ADDR], xdp:IF,..., pci:ADDRESS,... An edge may have "
     "several, of clouds that take each other's place",
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
        *o = (struct port_options){.n = 0};
        return 0;
    case OPT_PORT:
        if (port_uri_parse(arg, &uri, err) < 0)
            argp_error(state, "--port: %s", err);
        if (o->n == PORTS_MAX)
            argp_error(state, "--port: %u of them are enough", PORTS_MAX);
        o->uris[o->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->n && o->elsewhere)
            argp_error(state, "--port and --workers say both where the clouds are: give one of them");
        if (!o->n && !o->elsewhere)
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

/* Takes over inner. */
static int impair(struct port *inner, enum port_role role, const struct netem_options *n,
                  struct port **out)
{
    *out = inner;
    if (!n->text)
        return EXIT_OK;
    struct netem_params params = n->params;
    params.seed += role == PORT_SERVER; /* each way its own fate */
    const int rc = port_netem(inner, &params, out);
    if (rc < 0) {
        port_close(inner);
        *out = NULL;
        log_error("cannot impair the port: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

int port_arg_open(const char *uri, enum port_role role, const struct security *security,
                  const struct netem_options *n, struct port **out)
{
    char err[PORT_ERR] = "";
    struct port *inner;
    port_on_news(say_news);
    int rc = port_open(uri, role, &inner, err);
    if (rc < 0) {
        log_error("%s", err);
        return rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
    }
    rc = security_check_port(security, inner, uri);
    if (rc != EXIT_OK) {
        port_close(inner);
        return rc;
    }
    const char *where_sure = inner->caps.mtu_sure_bytes ? " where the path takes it" : "";
    if (strncmp(uri, PORT_ARG_OWN, strlen(PORT_ARG_OWN)) == 0)
        log_debug("%s, MTU %u%s", inner->caps.how, inner->caps.mtu_bytes, where_sure);
    else if (inner->caps.how[0])
        log_info("%s, MTU %u%s", inner->caps.how, inner->caps.mtu_bytes, where_sure);
    return impair(inner, role, n, out);
}

uint64_t port_arg_bytes(const char *uri)
{
    struct port_uri u;
    char err[PORT_ERR];

    if (!uri || port_uri_parse(uri, &u, err) < 0 || u.kind == URI_UDP)
        return PLAN_UDP_BYTES;
    return u.kind == URI_MEMIF ? PLAN_MEMIF_BYTES : ether_memory_bytes(&u);
}

/* Of an address as text: whether it is of another host; of a name that is not known. */
static bool reaches_out(const struct port_uri *u)
{
    uint8_t a[16];
    static const uint8_t loopback6[16] = {[15] = 1};
    if (u->kind != URI_UDP)
        return u->kind != URI_MEMIF;
    if (!u->name[0])
        return true;
    if (inet_pton(AF_INET, u->name, a) == 1)
        return a[0] != 127;
    return inet_pton(AF_INET6, u->name, a) == 1 && memcmp(a, loopback6, sizeof a) != 0;
}

int port_arg_check(const char *uri, enum port_role role, bool insecure)
{
    char err[PORT_ERR];
    struct port_uri u;
    if (port_uri_parse(uri, &u, err) < 0) {
        log_error("--port: %s", err);
        return EXIT_USAGE;
    }
    const size_t n = strlen(u.name), room = sizeof((struct sockaddr_un *)0)->sun_path;
    const char *wrong = NULL;
    if (u.kind == URI_MEMIF && (n < 1u + (u.name[0] == '@') || n >= room))
        wrong = "the name of a socket has 1 to 107 characters";
    else if (role == PORT_CLIENT && u.kind == URI_UDP && !u.name[0])
        wrong = "the edge needs the cloud's host: udp:HOST:PORT";
    else if (role == PORT_CLIENT && u.kind != URI_UDP && u.kind != URI_MEMIF && !u.peer)
        wrong = "the edge needs the cloud's address: peer=ADDR";
    else if (insecure && reaches_out(&u))
        wrong = "reaches beyond this host, which --insecure does not go with";
    if (!wrong)
        return EXIT_OK;
    log_error("--port %s: %s", uri, wrong);
    return EXIT_USAGE;
}

struct port *port_arg_reopen(const char *uri, const struct security *security,
                             const struct netem_options *n)
{
    static char said[PORT_ERR];
    char err[PORT_ERR] = "";
    struct port *inner = NULL, *port = NULL;
    if (port_open(uri, PORT_CLIENT, &inner, err) == 0 && !security_allows_port(security, inner)) {
        snprintf(err, sizeof err, "port %.120s reaches beyond this host: not with --insecure", uri);
        port_close(inner);
        inner = NULL;
    }
    if (inner && impair(inner, PORT_CLIENT, n, &port) == EXIT_OK)
        return port;
    if (*err && strcmp(err, said) != 0)
        log_warn("%s", err);
    snprintf(said, sizeof said, "%s", err);
    return NULL;
}

bool port_arg_may_move(const char *uri)
{
    char err[PORT_ERR];
    struct port_uri u;
    return port_uri_parse(uri, &u, err) == 0 && port_uri_has_name(&u);
}

bool port_arg_replace(const char *uri, const struct security *security,
                      const struct netem_options *n, struct port **port)
{
    if (!port_lookup_failed(uri)) { /* what it holds may be needed, and a name's turn ends */
        port_close(*port);
        *port = NULL;
    }
    struct port *opened = port_arg_reopen(uri, security, n);
    if (!opened)
        return false;
    port_close(*port);
    *port = opened;
    return true;
}

bool port_arg_awaits_name(const char *uri, uint64_t *since_ns)
{
    const uint64_t now_ns = port_now_ns();
    if (!*since_ns)
        *since_ns = now_ns;
    if (!port_looked_up(uri) && now_ns - *since_ns < NAME_NS)
        return true;
    *since_ns = 0;
    return false;
}

int port_arg_numa_node(const char *sysfs, const char *uri)
{
    char err[PORT_ERR], path[URI_NAME_MAX + 128];
    struct port_uri u;
    if (port_uri_parse(uri, &u, err) < 0)
        return -1;
    if (u.kind == URI_PCI)
        snprintf(path, sizeof path, "%.80s/bus/pci/devices/%s/numa_node", sysfs, u.name);
    else if (u.kind == URI_PACKET || u.kind == URI_XDP)
        snprintf(path, sizeof path, "%.80s/class/net/%s/device/numa_node", sysfs, u.name);
    else
        return -1;
    FILE *f = fopen(path, "re");
    int node = -1;
    if (f) {
        if (fscanf(f, "%d", &node) != 1 || node < 0)
            node = -1;
        fclose(f);
    }
    return node;
}
