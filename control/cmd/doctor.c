/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus doctor`: what this machine offers, what it lacks, and the mend. */
#include <argp.h>
#include <errno.h>
#include <grp.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/meminfo.h"
#include "dataplane/port.h"

/* A model as small as SmolLM2-135M, both halves, needs about this much. */
#define MEMORY_MIN_BYTES (512ull << 20)

#define TRY_SECONDS 15u
#define TRY_PACKETS 1000
#define NOBODY      65534

enum verdict { GOOD, NOTE, MISSING, NOT_BUILT };
static const char *const verdict_names[] = {"ok", "note", "missing", "not built"};

struct report {
    json_t *checks; /* [{"name", "status", "found", "mend"}] */
    json_t *figures;
    bool usable;
};

/* mend: what to do about it, or NULL. `found` is a format. */
static void say(struct report *r, const char *name, enum verdict v, const char *mend,
                const char *found, ...) __attribute__((format(printf, 5, 6)));

static void say(struct report *r, const char *name, enum verdict v, const char *mend,
                const char *found, ...)
{
    char text[512];
    va_list args;
    va_start(args, found);
    vsnprintf(text, sizeof text, found, args);
    va_end(args);
    json_array_append_new(r->checks, json_pack("{s:s, s:s, s:s, s:s?}", "name", name, "status",
                                               verdict_names[v], "found", text, "mend", mend));
    if (v == MISSING)
        r->usable = false;
}

static void figure(struct report *r, const char *name, uint64_t value)
{
    json_object_set_new(r->figures, name, json_integer((json_int_t)value));
}

/* --- what the machine has ------------------------------------------------------------------------
 */

static void check_cpu(struct report *r)
{
    const unsigned has = cpu_detect();
    json_object_set_new(r->figures, "kernels", json_string(cpu_level_name(cpu_flags())));
    say(r, "cpu", has & CPU_AVX2 ? GOOD : NOTE,
        has & CPU_AVX2 ? NULL : "it works, slowly; a CPU with AVX2 is several times as fast",
        "AVX2 %s, AVX-512 %s, VNNI %s; kernels used: %s", has & CPU_AVX2 ? "yes" : "no",
        has & CPU_AVX512 ? "yes" : "no", has & CPU_VNNI ? "yes" : "no",
        cpu_level_name(cpu_flags()));
}

static void check_cores(struct report *r)
{
    struct topology t;
    const int rc = topology_read(&t);
    if (rc < 0) {
        say(r, "cores", MISSING, "hwloc cannot read /sys: mount it", "unknown: %s", strerror(-rc));
        return;
    }
    figure(r, "cores", t.cores);
    figure(r, "allowed_cores", t.allowed_cores);
    figure(r, "numa_nodes", t.numa_nodes);
    const bool one = t.allowed_cores < 2;
    say(r, "cores", one ? NOTE : GOOD,
        one ? "edge and cloud will take turns on one core: allow two (taskset, cgroup)" : NULL,
        "%u cores (%u threads) in %u sockets, %u NUMA nodes; allowed here: %u cores (%u threads)",
        t.cores, t.pus, t.sockets, t.numa_nodes, t.allowed_cores, t.allowed_pus);
}

static void check_memory(struct report *r)
{
    const uint64_t total = meminfo("MemTotal") << 10, available = meminfo("MemAvailable") << 10;
    figure(r, "memory_bytes", total);
    figure(r, "memory_available_bytes", available);
    const bool enough = available >= MEMORY_MIN_BYTES;
    say(r, "memory", enough ? GOOD : MISSING,
        enough ? NULL : "free some: the smallest model needs about 512 MB for both halves",
        "%.1f GB, %.1f GB available", (double)total / 1e9, (double)available / 1e9);
}

static void check_hugepages(struct report *r)
{
    const uint64_t n = meminfo("HugePages_Total"), kb = meminfo("Hugepagesize");
    figure(r, "hugepages", n);
    say(r, "hugepages", GOOD, NULL, "%llu of %llu kB reserved (none are needed)",
        (unsigned long long)n, (unsigned long long)kb);
}

static void check_thp(struct report *r)
{
    char line[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (f) {
        if (!fgets(line, sizeof line, f))
            line[0] = '\0';
        fclose(f);
    }
    const bool off = !*line || strstr(line, "[never]");
    char *chosen = strchr(line, '['), *end = chosen ? strchr(chosen, ']') : NULL;
    if (end)
        *end = '\0';
    say(r, "transparent hugepages", off ? NOTE : GOOD,
        off ? "weights are read faster with them: echo madvise | sudo tee "
              "/sys/kernel/mm/transparent_hugepage/enabled"
            : NULL,
        "%s", end ? chosen + 1 : "not in this kernel");
}

/* --- ports ---------------------------------------------------------------------------------------
 */

struct trial {
    int rc;
    char err[PORT_ERR];
    uint64_t rtt_ns, eal_rss_bytes, start_ns;
    bool unprivileged;
};

/* Send one packet and receive it on the other side. */
static bool cross(struct port *from, struct port *to)
{
    struct pkt *p = pkt_alloc(from->pool), *in = NULL;
    if (!p)
        return false;
    memset(p->data, 0x5a, 60);
    p->len = 60;
    const bool sent = port_tx(from, &p, 1) == 1;
    pkt_unref(p);
    if (!sent || port_rx(to, &in, 1) != 1)
        return false;
    const bool same = in->len == 60 && in->data[59] == 0x5a;
    pkt_unref(in);
    return same;
}

static int bounce(struct port *a, struct port *b, uint64_t *rtt_ns)
{
    const uint64_t from = port_now_ns();
    for (int i = 0; i < TRY_PACKETS; i++)
        if (!cross(a, b) || !cross(b, a))
            return -EIO;
    *rtt_ns = (port_now_ns() - from) / TRY_PACKETS;
    return 0;
}

/* Both ends of a memif in this process, packets to and fro. */
static void try_memif(struct trial *t)
{
    struct port *server = NULL, *client = NULL;
    char uri[64];
    snprintf(uri, sizeof uri, "memif:@isthmus-doctor-%d", (int)getpid());
    const uint64_t from = port_now_ns();
    t->rc = port_open(uri, PORT_SERVER, &server, t->err);
    if (t->rc == 0)
        t->rc = port_open(uri, PORT_CLIENT, &client, t->err);
    if (t->rc == 0) {
        while (port_alive(server) + port_alive(client) != 2) /* each call does its side's part */
            if (port_now_ns() - from > 5000000000u) {
                t->rc = -ETIMEDOUT;
                snprintf(t->err, sizeof t->err, "its two ends did not meet within 5 s");
                break;
            }
        t->start_ns = port_now_ns() - from;
    }
    if (t->rc == 0) {
        t->rc = bounce(server, client, &t->rtt_ns);
        if (t->rc < 0)
            snprintf(t->err, sizeof t->err, "packets were lost");
    }
    t->eal_rss_bytes = port_eal_rss_bytes();
    port_close(client);
    port_close(server);
}

/* In a child, because DPDK stays in the process that started it; and as an ordinary user, because
 * that is what it must work for. */
static void try_memif_in_child(struct trial *t)
{
    int fds[2];
    *t = (struct trial){.rc = -EIO};
    snprintf(t->err, sizeof t->err, "the trial process died");
    if (pipe(fds) < 0)
        return;
    const pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(TRY_SECONDS);
        close(fds[0]);
        t->unprivileged = geteuid() != 0 ||
                          (setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
        try_memif(t);
        _exit(write(fds[1], t, sizeof *t) != sizeof *t);
    }
    close(fds[1]);
    struct trial got;
    if (pid > 0 && read(fds[0], &got, sizeof got) == sizeof got)
        *t = got;
    close(fds[0]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void check_memif(struct report *r)
{
    struct trial t;
    try_memif_in_child(&t);
    if (t.rc < 0) {
        t.err[sizeof t.err - 1] = '\0';
        say(r, "port memif", MISSING,
            "the packages of tools/packages.txt, /dev/null and 64 MB of "
            "memory must be there; `isthmus run --local` works without it",
            "%s", t.err);
        return;
    }
    figure(r, "memif_round_trip_ns", t.rtt_ns);
    figure(r, "memif_start_ns", t.start_ns);
    figure(r, "eal_rss_bytes", t.eal_rss_bytes);
    say(r, "port memif", GOOD, NULL,
        "works%s: tried just now, %.0f ms to start, %.1f MB for DPDK with two packet pools, %.1f "
        "us "
        "there and back within one process",
        t.unprivileged ? " without privileges"
                       : " (tried as root: could not become an ordinary user)",
        (double)t.start_ns / 1e6, (double)t.eal_rss_bytes / 1e6, (double)t.rtt_ns / 1e3);
}

static void check_loop(struct report *r)
{
    struct port *a, *b;
    uint64_t rtt_ns;
    int rc = port_loop_pair(8, 8, 1500, &a, &b);
    if (rc == 0) {
        rc = bounce(a, b, &rtt_ns);
        port_close(a);
        port_close(b);
    }
    say(r, "port loop", rc == 0 ? GOOD : MISSING, rc == 0 ? NULL : "free some memory",
        rc == 0 ? "works (inside one process, for tests)" : "does not work");
}

static void check_ports(struct report *r)
{
    check_memif(r);
    check_loop(r);
    static const char *const absent[] = {"port af_xdp", "port af_packet", "port pci",
                                         "port udp (kernel)"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        say(r, absent[i], NOT_BUILT, NULL,
            "not built yet: both halves must be on one host (memif)");
}

/* --- the command ---------------------------------------------------------------------------------
 */

static void print_text(const struct report *r)
{
    size_t i;
    json_t *c;
    json_array_foreach(r->checks, i, c)
    {
        const char *mend = json_string_value(json_object_get(c, "mend"));
        printf("%-10s %-22s %s\n", json_string_value(json_object_get(c, "status")),
               json_string_value(json_object_get(c, "name")),
               json_string_value(json_object_get(c, "found")));
        if (mend)
            printf("%-10s %-22s mend: %s\n", "", "", mend);
    }
    puts(r->usable ? "\n`isthmus run` can work here." : "\n`isthmus run` cannot work here yet.");
}

static int print_json(const struct report *r)
{
    json_t *all = json_pack("{s:s, s:b, s:O, s:O}", "version", ISTHMUS_VERSION, "ok", r->usable,
                            "figures", r->figures, "checks", r->checks);
    if (!all)
        return -ENOMEM;
    const int rc = json_dumpf(all, stdout, 0) < 0 || putchar('\n') == EOF ? -EIO : 0;
    json_decref(all);
    return rc;
}

enum { OPT_JSON = 0x100 };

static const struct argp_option option_list[] = {
    {"json", OPT_JSON, NULL, 0, "One JSON object instead of text", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    if (key != OPT_JSON)
        return ARGP_ERR_UNKNOWN;
    *(bool *)state->input = true;
    return 0;
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "Says what this machine offers (CPU, cores, memory, ports) and what is missing, with the "
    "mend.\v"
    "The memif port is tried by opening one. Exit code 0 when `isthmus run` can work, 1 otherwise.",
    NULL,
    NULL,
    NULL,
};

int cmd_doctor(int argc, char **argv)
{
    bool as_json = false;
    argp_parse(&argp, argc, argv, 0, NULL, &as_json);

    struct report r = {.checks = json_array(), .figures = json_object(), .usable = true};
    int rc = r.checks && r.figures ? 0 : -ENOMEM;
    if (rc == 0) {
        check_cpu(&r);
        check_cores(&r);
        check_memory(&r);
        check_hugepages(&r);
        check_thp(&r);
        check_ports(&r);
        if (as_json)
            rc = print_json(&r);
        else
            print_text(&r);
    }
    json_decref(r.checks);
    json_decref(r.figures);
    if (rc < 0 || fflush(stdout) == EOF) {
        log_error("doctor: %s", rc < 0 ? strerror(-rc) : strerror(errno));
        return EXIT_FAILED;
    }
    return r.usable ? EXIT_OK : EXIT_FAILED;
}
