/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus netem`: two interfaces joined by an impaired path, until a signal comes. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "control/signals.h"
#include "dataplane/port.h"
#include "dataplane/port/bridge.h"
#include "dataplane/port/netif.h"

#define STEP_NS UINT64_C(200000000) /* how long a signal that came just before a sleep may wait */

enum { OPT_TIME = OPT_OWN, OPT_JSON };

struct options {
    const char *names[2];
    const char *spec;
    struct netem_params params;
    uint32_t time_s; /* 0: until a signal */
    bool json;
};

static const struct argp_option option_list[] = {
    {"time", OPT_TIME, "SECONDS", 0, "End after so long; otherwise a signal (Ctrl-C) ends it", 0},
    {"json", OPT_JSON, NULL, 0, "The counts at the end as one JSON object", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;
    char err[NETEM_ERR];
    switch (key) {
    case OPT_TIME:
        o->time_s = opt_u32(state, "--time", arg, 1, 7 * 86400);
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num < 2) {
            o->names[state->arg_num] = arg;
        } else if (state->arg_num == 2) {
            if (netem_parse(arg, &o->params, err) < 0)
                argp_error(state, "%s", err);
            o->spec = arg;
        } else {
            return ARGP_ERR_UNKNOWN;
        }
        return 0;
    case ARGP_KEY_END:
        if (!o->spec)
            argp_error(state, "give two interfaces and what happens between them: IF1 IF2 "
                              "'delay=25ms,drop=1%%,rate=20mbit,seed=7'");
        if (!strcmp(o->names[0], o->names[1]))
            argp_error(state, "%s twice: it takes two interfaces", o->names[0]);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    "IF1 IF2 SPEC",
    "Join two network interfaces by a path that is impaired the same both ways, so that TCP and "
    "any "
    "program are measured over it.\v"
    "SPEC, all of it optional, as for --netem elsewhere: delay=25ms, jitter=2ms (order is kept), "
    "rate=20mbit, queue=100kB or 50p (before the bottleneck; 1000p when only a rate is given), "
    "drop=1%, burst=4 (drops come together, so many on average), dup=1%, reorder=1%, depth=4 (held "
    "back for at most so many), corrupt=.1% (one bit), seed=7.\n\n"
    "It needs CAP_NET_RAW. The interfaces need no addresses; in one namespace with it, veths lead "
    "to "
    "others. Super-frames (TSO, GRO) are cut to packets and checksums completed, so offloads may "
    "stay on.",
    NULL,
    NULL,
    NULL,
};

/* What can be wrong with them, said before sockets fail in their own words. */
static int check_interfaces(const struct options *o)
{
    struct netif n[2];
    char names[256];
    for (int i = 0; i < 2; i++) {
        if (netif_read(o->names[i], &n[i]) < 0) {
            log_error("there is no interface %s; here are: %s", o->names[i],
                      netif_names(names, sizeof names));
            return EXIT_USAGE;
        }
        if (!n[i].ethernet) {
            log_error("%s is no Ethernet interface; here are: %s", o->names[i],
                      netif_names(names, sizeof names));
            return EXIT_USAGE;
        }
        if (!n[i].up)
            log_warn("%s is down: nothing passes until `ip link set %s up`", o->names[i],
                     o->names[i]);
    }
    if (!netif_may(CAP_NET_RAW)) {
        log_error(
            "raw sockets need CAP_NET_RAW: run it by sudo, or once `sudo setcap cap_net_raw+ep` on "
            "the isthmus binary");
        return EXIT_FAILED;
    }
    if (n[0].mtu_bytes != n[1].mtu_bytes)
        log_warn("%s has MTU %u, %s %u: what is longer than the smaller is lost", o->names[0],
                 n[0].mtu_bytes, o->names[1], n[1].mtu_bytes);
    return EXIT_OK;
}

/* Counts of a way, for people and for programs. */
static const struct count {
    const char *name,
        *words; /* words: NULL: not said to people when it is 0, by its name otherwise */
    size_t at;
} counts[] = {
#define PATH(field) offsetof(struct bridge_stats, path.field)
    {"packets", "packets in", PATH(packets)},
    {"bytes", "bytes", PATH(bytes)},
    {"out_packets", "packets out", PATH(out_packets)},
    {"out_bytes", "bytes", PATH(out_bytes)},
    {"dropped", "dropped", PATH(dropped)},
    {"overflowed", "overflowed", PATH(overflowed)},
    {"too_long", "too long", PATH(too_long)},
    {"duplicated", "duplicated", PATH(duplicated)},
    {"reordered", "reordered", PATH(reordered)},
    {"corrupted", "corrupted", PATH(corrupted)},
    {"queue_max_packets", "packets in the longest queue", PATH(queue_max_packets)},
    {"queue_max_bytes", "bytes in it", PATH(queue_max_bytes)},
#undef PATH
    {"super_frames", NULL, offsetof(struct bridge_stats, super_frames)},
    {"unreadable", NULL, offsetof(struct bridge_stats, unreadable)},
    {"kernel_dropped", NULL, offsetof(struct bridge_stats, kernel_dropped)},
    {"send_failed", NULL, offsetof(struct bridge_stats, send_failed)},
    {"lateness_max_ns", NULL, offsetof(struct bridge_stats, lateness_max_ns)},
};

#define COUNTS (sizeof counts / sizeof *counts)

static uint64_t count_of(const struct bridge_stats *s, size_t i)
{
    uint64_t x;
    memcpy(&x, (const char *)s + counts[i].at, sizeof x);
    return x;
}

static void print_way(const char *from, const char *to, const struct bridge_stats *s)
{
    printf("%s to %s:", from, to);
    const char *between = " ";
    for (size_t i = 0; i < COUNTS; i++) {
        const uint64_t x = count_of(s, i);
        if (!counts[i].words && !x)
            continue;
        printf("%s%" PRIu64 " %s", between, x, counts[i].words ? counts[i].words : counts[i].name);
        between = ", ";
    }
    putchar('\n');
}

static json_t *way_json(const char *from, const char *to, const struct bridge_stats *s)
{
    json_t *way = json_pack("{s:s, s:s}", "from", from, "to", to);
    for (size_t i = 0; i < COUNTS; i++)
        json_object_set_new(way, counts[i].name, json_integer((json_int_t)count_of(s, i)));
    return way;
}

/* What was lost and was not asked for makes a measurement wrong. */
static void warn_of_losses(const char *from, const char *to, const struct bridge_stats *s)
{
    if (s->kernel_dropped)
        log_warn("%" PRIu64 " frames from %s were lost because this program did not keep up",
                 s->kernel_dropped, from);
    if (s->send_failed)
        log_warn("%" PRIu64 " frames could not be sent by %s: too long for it, or it was down",
                 s->send_failed, to);
    if (s->unreadable)
        log_warn("%" PRIu64
                 " super-frames from %s could not be cut: switch off at their sender what "
                 "makes them (ethtool -K INTERFACE gso off tso off)",
                 s->unreadable, from);
}

static int report(struct bridge *b, const struct options *o, uint64_t elapsed_ns)
{
    json_t *ways = json_array();
    for (int i = 0; i < 2; i++) {
        const char *from = o->names[i], *to = o->names[1 - i];
        struct bridge_stats s;
        bridge_stats(b, i, &s);
        warn_of_losses(from, to, &s);
        if (o->json)
            json_array_append_new(ways, way_json(from, to, &s));
        else
            print_way(from, to, &s);
    }
    if (o->json) {
        json_t *all = json_pack("{s:s, s:f, s:O}", "netem", o->spec, "elapsed_s",
                                (double)elapsed_ns / 1e9, "ways", ways);
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(all);
    }
    json_decref(ways);
    if (fflush(stdout) == EOF || ferror(stdout)) {
        log_error("cannot write the counts: %s", strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static int serve(struct bridge *b, const struct options *o, uint64_t start_ns)
{
    const uint64_t end_ns = o->time_s ? start_ns + o->time_s * UINT64_C(1000000000) : UINT64_MAX;
    for (uint64_t now_ns = start_ns; !signals_caught() && now_ns < end_ns; now_ns = port_now_ns()) {
        const uint64_t step_ns = now_ns + STEP_NS;
        if (bridge_poll(b, step_ns < end_ns ? step_ns : end_ns) < 0) {
            log_error("an interface is gone: %s or %s", o->names[0], o->names[1]);
            return EXIT_FAILED;
        }
    }
    return EXIT_OK;
}

int cmd_netem(int argc, char **argv)
{
    struct options o = {.spec = NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    struct bridge *b;
    char err[BRIDGE_ERR] = "";
    int rc = check_interfaces(&o);
    if (rc != EXIT_OK)
        return rc;
    signals_catch();
    if (bridge_open(o.names[0], o.names[1], &o.params, &b, err) < 0) {
        log_error("%s", err);
        return EXIT_FAILED;
    }
    const uint64_t start_ns = port_now_ns();
    log_info("bridging %s and %s, both ways: %s", o.names[0], o.names[1],
             *o.spec ? o.spec : "not impaired");
    rc = serve(b, &o, start_ns);
    const int printed = report(b, &o, port_now_ns() - start_ns);
    bridge_close(b);
    return rc == EXIT_OK ? printed : rc;
}
