/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench transport`: round trips and one-way streams between two processes.
 *
 * A case is a port, a message size and a number of sessions. All kinds take turns in it: messages
 * of the link, packets of the same port without it, plain UDP, TCP and TLS over loopback. The other
 * process is this binary with --listen, started here unless --connect says that one is there.
 */
#include <argp.h>
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "compute/team.h"
#include "control/bench/bench.h"
#include "control/bench/machine.h"
#include "control/bench/transport_load.h"
#include "control/bench/transport_tls.h"
#include "control/child.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/options.h"
#include "control/port_arg.h"
#include "control/privileges.h"
#include "control/progress.h"
#include "control/signals.h"
#include "control/table.h"
#include "dataplane/port/uri.h"

#define URI_BYTES       96
#define SESSIONS_MAX    2000u /* the link has no more messages under way */
#define SIZE_MAX_BYTES  (1u << 20)
#define RATE_MAX        1e7
#define TRANSFER_MAX    1000000u
#define TURNS           4u         /* of each kind, at least */
#define TURN_MAX_NS     500000000u /* longer, and the link's peer might think us dead meanwhile */
#define TURNS_FAR       2u /* over a path of --connect or --netem: it takes a while to be filled */
#define TURN_FAR_MAX_NS 8000000000u
#define WARM_NS         5000000u
#define CONNECT_NS      20000000000u
#define CONNECT_WAIT_NS 120000000000u /* for a peer that somebody else starts */

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

struct options {
    struct security_options security;
    struct netem_options netem;
    const char *ports[PORTS_MAX];
    unsigned n_ports;
    bool listen, connect, once;
    uint32_t floors_ip; /* 0: none */
    int core;           /* -1: any */
    bool kinds[TRANSPORT_KINDS];
    struct opt_list sizes, sessions;
    double rate_per_s, time_s;
    uint32_t transfer;
    enum table_format format;
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

static void check_ports(struct argp_state *state, const struct options *o)
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

static void check_all(struct argp_state *state, const struct options *o)
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
    struct options *o = state->input;

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
    "due. raw, udp, tcp and tls poll at both ends without a pause; the link waits as edge and "
    "cloud do. "
    "CPU time is that of both processes. --netem impairs the port, so link and raw, not udp, tcp "
    "and tls. "
    "A message longer than a packet has no raw, one longer than a datagram no udp.",
    children,
    NULL,
    NULL,
};

/* --- the two processes -------------------------------------------------------------------------
 */

struct bench {
    const struct options *o;
    char cpu[MACHINE_NAME_MAX], kernel[80];
    unsigned cores;
    struct progress progress;
    cpu_set_t cpus; /* that were allowed before this process bound itself */

    /* the port */
    char uri[URI_BYTES];
    struct security security;
    struct child child;
    struct port *port;
    struct asker *asker;
    struct way *ways[TRANSPORT_KINDS]; /* NULL: not measured */
    char gone[96];
};

/* For loops that wait for the peer: why not to go on. */
static const char *over(void *arg)
{
    struct bench *b = arg;
    char fate[64];

    if (signals_caught())
        return "interrupted";
    if (!b->child.pid || !child_gone(&b->child, 0))
        return NULL;
    snprintf(b->gone, sizeof b->gone, "it %s", child_fate(&b->child, fate, sizeof fate));
    return b->gone;
}

/* Why the other process is lost, as the user should know it: its end closes its sockets before it
 * can be waited for. */
static int say_lost(struct bench *b, const char *why)
{
    if (signals_caught())
        return EXIT_INTERRUPTED;
    if (b->child.pid && child_gone(&b->child, 200))
        why = over(b);
    log_error("the other process is lost: %s (port %s)", why, b->uri);
    return EXIT_FAILED;
}

/* A UDP port that nobody has now. */
static int free_udp_port(uint16_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int rc = 0;

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    *port = ntohs(at.sin_port);
    return rc;
}

static int name_port(struct bench *b, const char *port)
{
    uint64_t name[2];
    uint16_t number;
    int rc = 0;

    if (!strcmp(port, "memif")) { /* abstract, under a name nobody can guess */
        if (getrandom(name, sizeof name, 0) != (ssize_t)sizeof name)
            rc = -errno;
        snprintf(b->uri, URI_BYTES, PORT_ARG_OWN "%016" PRIx64 "%016" PRIx64, name[0], name[1]);
    } else if (!strcmp(port, "udp")) {
        rc = free_udp_port(&number);
        snprintf(b->uri, URI_BYTES, "udp:127.0.0.1:%u", number);
    } else if (snprintf(b->uri, URI_BYTES, "%s", port) >= URI_BYTES) {
        log_error("--port %s: longer than %d characters", port, URI_BYTES - 1);
        return EXIT_USAGE;
    }
    if (rc < 0)
        log_error("no name for a port %s: %s", port, strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

static int start_child(struct bench *b, int identity_fd)
{
    char identity[16], peer[FINGERPRINT_TEXT];
    const char *argv[20];
    int n = 0;

    argv[n++] = "isthmus";
    argv[n++] = "bench";
    argv[n++] = "transport";
    argv[n++] = "--listen";
    argv[n++] = "--once";
    argv[n++] = "--floors";
    argv[n++] = "127.0.0.1";
    argv[n++] = "--port";
    argv[n++] = b->uri;
    if (b->cores > 1) {
        argv[n++] = "--core";
        argv[n++] = "1";
    }
    if (b->o->netem.text) {
        argv[n++] = "--netem";
        argv[n++] = b->o->netem.text;
    }
    if (identity_fd >= 0) {
        snprintf(identity, sizeof identity, "fd:%d", CHILD_SECRET_FD);
        argv[n++] = "--identity";
        argv[n++] = identity;
        argv[n++] = "--peer";
        argv[n++] = fingerprint_format(identity_fingerprint(b->security.identity), peer);
    } else {
        argv[n++] = "--insecure";
    }
    argv[n] = NULL;
    const int rc = child_start(&b->child, (char *const *)argv, identity_fd);
    if (rc < 0)
        log_error("cannot start the other process: %s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

/* Its key is handed over as a file without a name. */
static int start_other(struct bench *b)
{
    struct security other = {.identity = NULL};
    int rc, fd = -1;

    if (b->o->security.insecure) {
        b->security = (struct security){.insecure = true};
        return start_child(b, -1);
    }
    rc = security_throw_away(&b->security, &other);
    if (rc == EXIT_OK) {
        fd = identity_to_fd(other.identity);
        if (fd < 0)
            log_error("cannot hand the other process its key: %s", strerror(-fd));
        rc = fd < 0 ? EXIT_FAILED : start_child(b, fd);
    }
    if (fd >= 0)
        close(fd);
    security_close(&other);
    return rc;
}

static int meet(struct bench *b)
{
    const uint64_t timeout_ns = b->o->connect ? CONNECT_WAIT_NS : CONNECT_NS;
    const bool far = b->o->connect || b->o->netem.text;
    struct transport_told told;
    const char *why = NULL;
    char ip[URI_IP_TEXT];
    int rc = asker_open(b->port, &b->security, far, &b->asker);

    if (rc < 0) {
        log_error("port %s: %s", b->uri, strerror(-rc));
        return EXIT_FAILED;
    }
    if (asker_ask(b->asker, timeout_ns, over, b, &told, &why) < 0)
        return say_lost(b, why);
    b->ways[TRANSPORT_LINK] = asker_way(b->asker, TRANSPORT_LINK);
    b->ways[TRANSPORT_RAW] = asker_way(b->asker, TRANSPORT_RAW);
    const uint32_t bytes_max = b->ways[TRANSPORT_LINK]->bytes_max;
    for (unsigned i = 0; i < b->o->sizes.n; i++) {
        if (b->o->sizes.at[i] > bytes_max) {
            log_error("--size %u: port %s takes messages of up to %u bytes", b->o->sizes.at[i],
                      b->uri, bytes_max);
            return EXIT_USAGE;
        }
    }
    if (!told.udp_port)
        return EXIT_OK;
    rc = way_udp_open(&told, far, bytes_max, &b->ways[TRANSPORT_UDP]);
    if (!rc)
        rc = way_tcp_open(&told, bytes_max, &b->ways[TRANSPORT_TCP]);
    if (!rc)
        rc = way_tls_open(&told, bytes_max, &b->ways[TRANSPORT_TLS]);
    if (rc < 0)
        log_error("plain UDP, TCP and TLS at %s: %s", port_uri_ip(told.floors_ip, ip),
                  strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

/* Each process its core: on one and the same, which the scheduler likes for two that wake each
 * other, neither could poll. */
static int bind_to(int core)
{
    const int rc = topology_bind((unsigned)core);

    if (rc == -ENOENT)
        log_error("--core %d: there are not so many cores that this process may use", core);
    else if (rc < 0)
        log_error("cannot bind to core %d: %s", core, strerror(-rc));
    return rc == -ENOENT ? EXIT_USAGE : rc < 0 ? EXIT_FAILED : EXIT_OK;
}

static int port_up(struct bench *b, const char *port)
{
    const int core = b->o->connect ? b->o->core : b->cores > 1 ? 0 : -1;
    int rc = name_port(b, port);

    if (rc == EXIT_OK)
        rc = b->o->connect ? security_open(&b->o->security, false, &b->security) : start_other(b);
    if (rc == EXIT_OK && core >= 0)
        rc = bind_to(core); /* after the other was started, which would inherit it */
    if (rc == EXIT_OK)
        rc = port_arg_open(b->uri, PORT_CLIENT, &b->security, &b->o->netem, &b->port);
    if (rc == EXIT_OK)
        rc = privileges_drop_brief(b->uri, b->security.user);
    return rc == EXIT_OK ? meet(b) : rc;
}

static void port_down(struct bench *b)
{
    way_kernel_close(b->ways[TRANSPORT_UDP]);
    way_kernel_close(b->ways[TRANSPORT_TCP]);
    way_kernel_close(b->ways[TRANSPORT_TLS]);
    memset(b->ways, 0, sizeof b->ways);
    asker_close(b->asker);
    port_close(b->port);
    b->asker = NULL;
    b->port = NULL;
    child_stop(&b->child);
    security_close(&b->security);
    sched_setaffinity(0, sizeof b->cpus, &b->cpus);
}

/* --- results -----------------------------------------------------------------------------------
 */

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"port", "port", TABLE_TEXT},
    {"kind", "kind", TABLE_TEXT},
    {"cipher", "cipher", TABLE_TEXT},
    {"size_bytes", "bytes", TABLE_COUNT},
    {"sessions", "sessions", TABLE_COUNT},
    {"rate_per_s", NULL, TABLE_REAL},
    {"rtt_ns_min", "RTT ns min", TABLE_COUNT},
    {"rtt_ns_p50", "p50", TABLE_COUNT},
    {"rtt_ns_p90", "p90", TABLE_COUNT},
    {"rtt_ns_p99", "p99", TABLE_COUNT},
    {"rtt_ns_p999", "p99.9", TABLE_COUNT},
    {"rtt_ns_max", "max", TABLE_COUNT},
    {"round_trips", NULL, TABLE_COUNT},
    {"round_trips_per_s", "round trips/s", TABLE_COUNT},
    {"lost", "lost", TABLE_COUNT},
    {"messages_per_s", "messages/s", TABLE_COUNT},
    {"goodput_bit_per_s", "goodput bit/s", TABLE_REAL},
    {"cpu_ns_per_message", "CPU ns/message", TABLE_COUNT},
    {"retransmits", "sent again", TABLE_COUNT},
    {"copied_bytes", "copied", TABLE_COUNT},
    {"driver_copied_bytes", "copied by the driver", TABLE_COUNT},
    {"time_s", NULL, TABLE_REAL},
    {"netem", NULL, TABLE_TEXT},
    {"cpu", NULL, TABLE_TEXT},
    {"cores", NULL, TABLE_COUNT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

struct link_counts { /* while its turns lasted */
    uint64_t retransmits, copied_bytes, driver_copied_bytes;
};

static int print_row(const struct bench *b, const struct load *l, enum transport_kind k,
                     const struct load_result *r, const struct link_counts *link)
{
    const bool open = l->rate_per_s > 0;
    const double trips_per_s =
        r->round_trip_ns ? (double)r->round_trips * 1e9 / (double)r->round_trip_ns : NAN;
    const double per_s = open            ? trips_per_s
                         : r->message_ns ? (double)r->messages * 1e9 / (double)r->message_ns
                                         : NAN;
    struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;

    (cell++)->text = "transport";
    (cell++)->text = b->port->caps.name;
    (cell++)->text = transport_kind_name(k);
    (cell++)->text = k == TRANSPORT_LINK  ? asker_cipher(b->asker)
                     : k == TRANSPORT_TLS ? TLS_CIPHER
                                          : "none";
    (cell++)->value = l->size_bytes;
    (cell++)->value = l->sessions;
    (cell++)->value = open ? l->rate_per_s : NAN;
    (cell++)->value = r->rtt.n ? (double)r->rtt.min_ns : NAN;
    (cell++)->value = histogram_at(&r->rtt, .5);
    (cell++)->value = histogram_at(&r->rtt, .9);
    (cell++)->value = histogram_at(&r->rtt, .99);
    (cell++)->value = histogram_at(&r->rtt, .999);
    (cell++)->value = r->rtt.n ? (double)r->rtt.max_ns : NAN;
    (cell++)->value = (double)r->round_trips;
    (cell++)->value = round(trips_per_s);
    (cell++)->value = (double)r->lost;
    (cell++)->value = round(per_s);
    (cell++)->value = per_s * 8 * l->size_bytes;
    (cell++)->value = r->cpu_messages ? round((double)r->cpu_ns / (double)r->cpu_messages) : NAN;
    (cell++)->value = k == TRANSPORT_LINK ? (double)link->retransmits : NAN;
    (cell++)->value = k == TRANSPORT_LINK ? (double)link->copied_bytes : NAN;
    (cell++)->value = k == TRANSPORT_LINK && b->port->caps.driver_copies
                          ? (double)link->driver_copied_bytes
                          : NAN;
    (cell++)->value = (double)(r->round_trip_ns + r->message_ns) / 1e9;
    (cell++)->text = b->o->netem.text && k < TRANSPORT_UDP ? b->o->netem.text : NULL;
    (cell++)->text = b->cpu;
    (cell++)->value = b->cores;
    (cell++)->text = b->kernel;
    (cell++)->text = ISTHMUS_VERSION;
    (cell++)->text = ISTHMUS_COMMIT;
    return table_row(b->o->format, columns, cells);
}

/* --- cases -------------------------------------------------------------------------------------
 */

static int take_turn(struct bench *b, struct way *w, const struct load *l, uint64_t time_ns,
                     struct load_result *r)
{
    const struct load_env env = {.asker = b->asker, .gone = over, .arg = b};
    const bool open = l->rate_per_s > 0;
    const char *why = NULL;

    if (w->kind != TRANSPORT_LINK)
        asker_settle(b->asker); /* what it still had to say would fall into this one's time */
    int rc = l->transfer ? 0 : load_round_trips(w, l, open ? time_ns : time_ns / 2, &env, r, &why);
    if (!rc && !open) {
        if (w->kind == TRANSPORT_RAW) /* it drops what the link would say */
            asker_settle(b->asker);
        rc = load_one_way(w, l, time_ns / 2, &env, r, &why);
    }
    if (rc == -ENOMEM) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    return rc < 0 ? say_lost(b, why) : EXIT_OK;
}

static struct link_counts counts_now(const struct bench *b)
{
    return (struct link_counts){asker_retransmits(b->asker), asker_copied_bytes(b->asker),
                                asker_driver_copied_bytes(b->asker)};
}

static bool is_measured(const struct bench *b, unsigned kind, uint32_t size_bytes)
{
    return b->o->kinds[kind] && b->ways[kind] && size_bytes <= b->ways[kind]->bytes_max;
}

static int run_case(struct bench *b, uint32_t size_bytes, uint32_t sessions)
{
    const struct load l = {size_bytes, sessions, b->o->rate_per_s, b->o->transfer};
    struct load_result *results =
        calloc(TRANSPORT_KINDS + 1, sizeof *results); /* last: warming up */
    struct link_counts counts = {0}, before;
    unsigned kinds = 0;
    int rc = results ? EXIT_OK : EXIT_FAILED;

    for (unsigned k = 0; k < TRANSPORT_KINDS; k++)
        kinds += is_measured(b, k, size_bytes);
    if (!kinds && results)
        log_error("--size %u: none of --kind takes it", size_bytes);
    if (!kinds) {
        free(results);
        return results ? EXIT_USAGE : EXIT_FAILED;
    }
    const bool far = b->o->connect || b->o->netem.text;
    const double share_ns = b->o->time_s * 1e9 / kinds;
    const unsigned turns =
        l.transfer ? 1
                   : (unsigned)fmax(far ? TURNS_FAR : TURNS,
                                    ceil(share_ns / (far ? TURN_FAR_MAX_NS : TURN_MAX_NS)));
    for (unsigned t = l.transfer ? 1 : 0; t <= turns && rc == EXIT_OK; t++) {
        for (unsigned k = 0; k < TRANSPORT_KINDS && rc == EXIT_OK; k++) {
            if (!is_measured(b, k, size_bytes))
                continue;
            before = counts_now(b);
            rc = take_turn(b, b->ways[k], &l, t ? (uint64_t)(share_ns / turns) : WARM_NS,
                           &results[t ? k : TRANSPORT_KINDS]);
            if (t && k == TRANSPORT_LINK) {
                const struct link_counts after = counts_now(b);
                counts.retransmits += after.retransmits - before.retransmits;
                counts.copied_bytes += after.copied_bytes - before.copied_bytes;
                counts.driver_copied_bytes +=
                    after.driver_copied_bytes - before.driver_copied_bytes;
            }
        }
    }
    progress_clear(&b->progress);
    for (unsigned k = 0; k < TRANSPORT_KINDS && rc == EXIT_OK; k++)
        if (is_measured(b, k, size_bytes))
            rc = print_row(b, &l, (enum transport_kind)k, &results[k], &counts);
    free(results);
    progress_step(&b->progress);
    return rc;
}

static int run_port(struct bench *b, const char *port)
{
    const struct options *o = b->o;
    int rc = port_up(b, port);

    for (unsigned s = 0; s < o->sizes.n; s++)
        for (unsigned n = 0; n < o->sessions.n && rc == EXIT_OK; n++)
            rc = run_case(b, o->sizes.at[s], o->sessions.at[n]);
    port_down(b);
    return rc;
}

/* --- the command -------------------------------------------------------------------------------
 */

static int listen_at(const struct options *o)
{
    struct security security;
    int rc = security_open(&o->security, true, &security);

    log_set_name(o->once ? "other process: " : "");
    if (rc == EXIT_OK && o->core >= 0)
        rc = bind_to(o->core);
    if (rc == EXIT_OK)
        rc = transport_peer(o->ports[0], &security, &o->netem, o->floors_ip, o->once);
    security_close(&security);
    return rc;
}

static void look_around(struct bench *b)
{
    struct topology t = {0};
    struct utsname u = {0};

    machine_cpu_name(b->cpu);
    topology_read(&t);
    b->cores = t.allowed_cores;
    uname(&u);
    sched_getaffinity(0, sizeof b->cpus, &b->cpus);
    snprintf(b->kernel, sizeof b->kernel, "%.20s %.50s", u.sysname, u.release);
}

int bench_transport(int argc, char **argv)
{
    static const char *const own[] = {"memif", "udp"};
    struct options o = {.sizes = {3, {300, 1400, 65536}},
                        .sessions = {2, {1, 64}},
                        .time_s = 1,
                        .core = -1,
                        .kinds = {true, true, true, true, true}};
    struct bench b = {.o = &o, .child = {.report_fd = -1}};

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.listen)
        return listen_at(&o);
    for (; o.n_ports < 2 && (o.n_ports == 0 || o.ports[0] == own[0]); o.n_ports++)
        o.ports[o.n_ports] = own[o.n_ports];
    look_around(&b);
    signals_catch();
    if (o.format == TABLE_MD)
        printf("%s, %u cores; %s; isthmus %s (%s)\n\n", b.cpu, b.cores, b.kernel, ISTHMUS_VERSION,
               ISTHMUS_COMMIT);
    int rc = table_head(o.format, columns);
    progress_start(&b.progress, "bench transport", o.n_ports * o.sizes.n * o.sessions.n);
    for (unsigned i = 0; i < o.n_ports && rc == EXIT_OK; i++)
        rc = run_port(&b, o.ports[i]);
    return rc;
}
