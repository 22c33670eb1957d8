/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench transport`: round trips and one-way streams between two processes.
 *
 * A case is a port, a message size and a number of sessions. All kinds take turns in it: messages
 * of the link, packets of the same port without it, plain UDP, TCP and TLS over loopback. The other
 * process is this binary with --listen, started here unless --connect says that one is there.
 */
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
#include "control/bench/transport_options.h"
#include "control/bench/transport_report.h"
#include "control/child.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/port_arg.h"
#include "control/privileges.h"
#include "control/progress.h"
#include "control/signals.h"
#include "dataplane/port/uri.h"

#define URI_BYTES       96
#define TURNS           4u         /* of each kind, at least */
#define TURN_MAX_NS     500000000u /* longer, and the link's peer might think us dead meanwhile */
#define TURNS_FAR       2u /* over a path of --connect or --netem: it takes a while to be filled */
#define TURN_FAR_MAX_NS 8000000000u
#define WARM_NS         5000000u
#define CONNECT_NS      20000000000u
#define CONNECT_WAIT_NS 120000000000u /* for a peer that somebody else starts */

/* --- the two processes -------------------------------------------------------------------------
 */

struct bench {
    const struct transport_options *o;
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

/* --- cases -------------------------------------------------------------------------------------
 */

static int take_turn(struct bench *b, struct way *w, const struct load *l, uint64_t time_ns,
                     struct load_result *r)
{
    /* --netem's port does not tell when it sleeps. */
    const bool one_clock = (!b->o->connect || b->port->caps.same_host) && !b->o->netem.text;
    const struct load_env env = {
        .asker = b->asker, .one_clock = one_clock, .gone = over, .arg = b};
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
    const struct transport_report report = {.format = b->o->format,
                                            .caps = &b->port->caps,
                                            .cipher = asker_cipher(b->asker),
                                            .netem = b->o->netem.text,
                                            .cpu = b->cpu,
                                            .kernel = b->kernel,
                                            .cores = b->cores};
    for (unsigned k = 0; k < TRANSPORT_KINDS && rc == EXIT_OK; k++)
        if (is_measured(b, k, size_bytes))
            rc = transport_report_row(&report, &l, (enum transport_kind)k, &results[k], &counts);
    free(results);
    progress_step(&b->progress);
    return rc;
}

static int run_port(struct bench *b, const char *port)
{
    const struct transport_options *o = b->o;
    int rc = port_up(b, port);

    for (unsigned s = 0; s < o->sizes.n; s++)
        for (unsigned n = 0; n < o->sessions.n && rc == EXIT_OK; n++)
            rc = run_case(b, o->sizes.at[s], o->sessions.at[n]);
    port_down(b);
    return rc;
}

/* --- the command -------------------------------------------------------------------------------
 */

static int listen_at(const struct transport_options *o)
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
    struct transport_options o;
    struct bench b = {.o = &o, .child = {.report_fd = -1}};

    transport_options_parse(argc, argv, &o);
    if (o.listen)
        return listen_at(&o);
    look_around(&b);
    signals_catch();
    if (o.format == TABLE_MD)
        printf("%s, %u cores; %s; isthmus %s (%s)\n\n", b.cpu, b.cores, b.kernel, ISTHMUS_VERSION,
               ISTHMUS_COMMIT);
    int rc = transport_report_head(o.format);
    progress_start(&b.progress, "bench transport", o.n_ports * o.sizes.n * o.sessions.n);
    for (unsigned i = 0; i < o.n_ports && rc == EXIT_OK; i++)
        rc = run_port(&b, o.ports[i]);
    return rc;
}
