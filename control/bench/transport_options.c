/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_options.h"

#include <argp.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "control/bench/transport.h"
#include "control/options.h"
#include "dataplane/port/uri.h"

#define SESSIONS_MAX   2000u /* the link has no more messages under way */
#define SIZE_MAX_BYTES (1u << 20)
#define RATE_MAX       1e7
#define TRANSFER_MAX   1000000u

enum {
    OPT_LISTEN = OPT_OWN,
    OPT_CONNECT,
    OPT_SIZE,
    OPT_SESSIONS,
    OPT_MESSAGES,
    OPT_TIME,
    OPT_FORMAT,
    OPT_CORE,
    OPT_KIND,
    OPT_FLOORS,
    OPT_ONCE,
    OPT_TRANSFER
};

static const struct argp_option option_list[] = {
    {"port", OPT_PORT, "URI", 0,
     "memif or udp: one of its own, on this host (default: both, one after the other); or as with "
     "`isthmus edge`: memif:PATH, udp:HOST:PORT, packet:IF,..., xdp:IF,..., pci:ADDRESS,...; may "
     "be "
     "given many times",
     1},
    {"listen", OPT_LISTEN, NULL, 0,
     "Only be the answering process, at --port, until a signal comes", 1},
    {"connect", OPT_CONNECT, NULL, 0, "The answering process is there already, at --port", 1},
    {"size", OPT_SIZE, "N,...", 0, "Bytes of a message (default 300,1400,65536)", 1},
    {"sessions", OPT_SESSIONS, "N,...", 0,
     "Sessions over the one link, with a message under way each (default 1,64)", 1},
    {"rate", OPT_MESSAGES, "N", 0,
     "Open loop: N messages a second, all sessions together, each timed from when it was due", 1},
    {"transfer", OPT_TRANSFER, "N", 0,
     "Only this, once: N messages one way, on a connection that has carried nothing yet", 1},
    {"time", OPT_TIME, "S", 0, "Seconds for each port, size and number of sessions (default 1)", 1},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 1},
    {"core", OPT_CORE, "N", 0,
     "With --listen or --connect: the core to run on, of those allowed, from 0 (default: any). The "
     "two processes started here get one each, where there are two",
     1},
    {"kind", OPT_KIND, "link|raw|udp|tcp|tls,...", 0, "Only these (default: all that there are)",
     1},
    {"floors", OPT_FLOORS, "ADDRESS", 0,
     "With --listen: serve plain UDP, TCP and TLS, too, at this IPv4 address of this host and for "
     "anybody; --connect then measures them (default: not)",
     1},
    {"once", OPT_ONCE, NULL, OPTION_HIDDEN, "With --listen: end with the first who asks", 1},
    {0},
};

static void check_ports(struct argp_state *state, const struct transport_options *o)
{
    struct port_uri uri;
    char err[PORT_ERR];

    for (unsigned i = 0; i < o->n_ports; i++) {
        const char *p = o->ports[i];
        const bool own = !strcmp(p, "memif") || !strcmp(p, "udp");

        if (own && (o->listen || o->connect))
            argp_error(state, "--port %s: --listen and --connect need the whole name, as %s", p,
                       *p == 'm' ? "memif:/tmp/bench.sock" : "udp:127.0.0.1:7300");
        if (own)
            continue;
        if (port_uri_parse(p, &uri, err) < 0)
            argp_error(state, "--port: %s", err);
        if (!o->listen && !o->connect && uri.kind != URI_MEMIF && uri.kind != URI_UDP)
            argp_error(state,
                       "--port %s: its two ends have different names: start one with "
                       "--listen and one with --connect",
                       p);
    }
}

static void check_all(struct argp_state *state, const struct transport_options *o)
{
    if (o->listen && o->connect)
        argp_error(state, "--listen and --connect are the two ends: give one of them");
    if ((o->listen || o->connect) && o->n_ports != 1)
        argp_error(state, "--listen and --connect need one --port: where they meet");
    if (!o->listen && !o->connect && (o->security.identity || o->security.n_peers))
        argp_error(state, "--identity and --peer are for --listen and --connect: the two processes "
                          "started here make keys of their own");
    if (o->core >= 0 && !o->listen && !o->connect)
        argp_error(state,
                   "--core is for --listen and --connect: the two processes started here get "
                   "a core each");
    if (o->floors_ip && !o->listen)
        argp_error(state, "--floors is for --listen, which tells --connect");
    if (o->transfer && o->rate_per_s > 0)
        argp_error(state, "--transfer goes as fast as it can, --rate does not: give one of them");
    if (o->transfer && (o->n_ports != 1 || o->sizes.n != 1 || o->sessions.n != 1))
        argp_error(state, "--transfer: the connection of one --port, --size and --sessions");
    if (o->once && !o->listen)
        argp_error(state, "--once is for --listen");
    check_ports(state, o);
}

static void parse_kinds(struct argp_state *state, const char *arg, bool *kinds)
{
    char text[32], *rest = text;

    if (snprintf(text, sizeof text, "%s", arg) >= (int)sizeof text)
        argp_error(state, "--kind %s: too long", arg);
    memset(kinds, 0, TRANSPORT_KINDS * sizeof *kinds);
    for (const char *word; (word = strsep(&rest, ","));) {
        unsigned k = 0;

        while (k < TRANSPORT_KINDS && strcmp(word, transport_kind_name((enum transport_kind)k)))
            k++;
        if (k == TRANSPORT_KINDS)
            argp_error(state, "--kind %s: each must be link, raw, udp, tcp or tls", arg);
        kinds[k] = true;
    }
}

static uint32_t parse_address(struct argp_state *state, const char *arg)
{
    struct in_addr at;

    if (inet_pton(AF_INET, arg, &at) != 1 || !at.s_addr)
        argp_error(state, "--floors %s: must be an IPv4 address of this host, as 192.0.2.7", arg);
    return ntohl(at.s_addr);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct transport_options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->netem;
        state->child_inputs[1] = &o->security;
        return 0;
    case OPT_PORT:
        if (o->n_ports == PORTS_MAX)
            argp_error(state, "--port: %u of them are enough", PORTS_MAX);
        o->ports[o->n_ports++] = arg;
        return 0;
    case OPT_LISTEN:
        o->listen = true;
        return 0;
    case OPT_CONNECT:
        o->connect = true;
        return 0;
    case OPT_FLOORS:
        o->floors_ip = parse_address(state, arg);
        return 0;
    case OPT_ONCE:
        o->once = true;
        return 0;
    case OPT_CORE:
        o->core = (int)opt_u32(state, "--core", arg, 0, 4095);
        return 0;
    case OPT_KIND:
        parse_kinds(state, arg, o->kinds);
        return 0;
    case OPT_SIZE:
        opt_u32_list(state, "--size", arg, TRANSPORT_HEAD_BYTES, SIZE_MAX_BYTES, &o->sizes);
        return 0;
    case OPT_SESSIONS:
        opt_u32_list(state, "--sessions", arg, 1, SESSIONS_MAX, &o->sessions);
        return 0;
    case OPT_MESSAGES:
        o->rate_per_s = opt_f64(state, "--rate", arg, 1, RATE_MAX);
        return 0;
    case OPT_TRANSFER:
        o->transfer = opt_u32(state, "--transfer", arg, 1, TRANSFER_MAX);
        return 0;
    case OPT_TIME:
        o->time_s = opt_f64(state, "--time", arg, .01, 3600);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    case ARGP_KEY_END:
        check_all(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&netem_argp, 0, NULL, 0}, {&security_argp, 0, NULL, 0}, {0}};

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "Round-trip times and one-way streams between two processes: messages of the link, encrypted "
    "as "
    "between edge and cloud, and beside them, in turns, packets of the same port without the link "
    "(raw) and plain UDP, TCP and TLS 1.3 (OpenSSL's, AES-128-GCM).\v"
    "Without --listen and --connect both processes are started here, with keys of their own. Half "
    "of "
    "the time goes to round trips, a message of each session under way, half to a stream one way; "
    "with --rate all of it to round trips, and a message that had to wait counts from when it was "
    "due; core_lost is then the share of time in which either process did not have its core "
    "(for 10 us or more), and p50 and p99 kept are of the messages that this did not hold up. "
    "raw, udp, tcp and tls poll at both ends without a pause; the link waits as edge and cloud do. "
    "CPU time is that of both processes. --netem impairs the port, so link and raw, not udp, tcp "
    "and tls. "
    "A message longer than a packet has no raw, one longer than a datagram no udp.",
    children,
    NULL,
    NULL,
};

void transport_options_parse(int argc, char **argv, struct transport_options *o)
{
    static const char *const own[] = {"memif", "udp"};

    *o = (struct transport_options){.sizes = {3, {300, 1400, 65536}},
                                    .sessions = {2, {1, 64}},
                                    .time_s = 1,
                                    .core = -1,
                                    .kinds = {true, true, true, true, true}};
    argp_parse(&argp, argc, argv, 0, NULL, o);
    if (o->listen || o->n_ports)
        return;
    for (; o->n_ports < 2; o->n_ports++)
        o->ports[o->n_ports] = own[o->n_ports];
}
