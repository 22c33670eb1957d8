/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus doctor`: what this machine offers, what it lacks, and the mend. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/cmd.h"
#include "control/doctor.h"
#include "control/log.h"
#include "control/meminfo.h"
#include "control/model.h"
#include "dataplane/port/netif.h"
#include "dataplane/secure/aead.h"

/* A model as small as SmolLM2-135M, both halves, needs about this much. */
#define MEMORY_MIN_BYTES (512ull << 20)

#define PLACE_TEXT 400

static const char *const verdict_names[] = {"ok", "note", "missing", "unusable"};

void doctor_say(struct report *r, const char *name, enum verdict v, const char *mend,
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

void doctor_figure(struct report *r, const char *name, uint64_t value)
{
    json_object_set_new(r->figures, name, json_integer((json_int_t)value));
}

/* --- what the machine has ------------------------------------------------------------------------
 */

static void check_cpu(struct report *r)
{
    const unsigned has = cpu_detect();
    json_object_set_new(r->figures, "kernels", json_string(cpu_level_name(cpu_flags())));
    doctor_say(r, "cpu", has & CPU_AVX2 ? GOOD : NOTE,
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
        doctor_say(r, "cores", MISSING, "hwloc cannot read /sys: mount it", "unknown: %s",
                   strerror(-rc));
        return;
    }
    doctor_figure(r, "cores", t.cores);
    doctor_figure(r, "allowed_cores", t.allowed_cores);
    doctor_figure(r, "numa_nodes", t.numa_nodes);
    const bool one = t.allowed_cores < 2;
    doctor_say(
        r, "cores", one ? NOTE : GOOD,
        one ? "edge and cloud will take turns on one core: allow two (taskset, cgroup)" : NULL,
        "%u cores (%u threads) in %u sockets, %u NUMA nodes; allowed here: %u cores (%u threads)",
        t.cores, t.pus, t.sockets, t.numa_nodes, t.allowed_cores, t.allowed_pus);
}

/* "0-1", or "0-1 (NUMA node 0)" where there are several */
static void describe(unsigned threads, int first_core, char text[PLACE_TEXT])
{
    const struct team_params p = {
        .n_threads = threads, .first_core = first_core, .numa_node = -1, .near_numa_node = -1};
    struct team_plan plan;
    char err[TEAM_ERR];
    if (team_plan(&p, &plan, err) < 0)
        snprintf(text, PLACE_TEXT, "%s", err);
    else
        snprintf(text, PLACE_TEXT, "%s%s%s%s", plan.cpus, *plan.nodes ? " (NUMA node " : "",
                 plan.nodes, *plan.nodes ? ")" : "");
}

static void check_placement(struct report *r)
{
    const struct model_options none = {
        .first_core = INT32_MIN, .numa_node = -1, .cpu_mask = CPU_ALL};
    struct model_halves h;
    char edge[PLACE_TEXT], cloud[PLACE_TEXT], local[PLACE_TEXT];
    if (model_place_halves(&none, &h) != EXIT_OK)
        return; /* said of the cores */
    describe(h.threads, h.edge_core, edge);
    describe(h.threads, h.cloud_core, cloud);
    describe(0, 0, local);
    doctor_say(r, "placement", GOOD, NULL,
               "isthmus run: edge on CPUs %.120s, cloud on %.120s; --local: %.120s", edge, cloud,
               local);
}

static void check_memory(struct report *r)
{
    const uint64_t total = meminfo("MemTotal") << 10, available = meminfo("MemAvailable") << 10;
    doctor_figure(r, "memory_bytes", total);
    doctor_figure(r, "memory_available_bytes", available);
    const bool enough = available >= MEMORY_MIN_BYTES;
    doctor_say(r, "memory", enough ? GOOD : MISSING,
               enough ? NULL : "free some: the smallest model needs about 512 MB for both halves",
               "%.1f GB, %.1f GB available", (double)total / 1e9, (double)available / 1e9);
}

static void check_hugepages(struct report *r)
{
    const uint64_t n = meminfo("HugePages_Total"), kb = meminfo("Hugepagesize");
    doctor_figure(r, "hugepages", n);
    doctor_say(r, "hugepages", GOOD, NULL, "%llu of %llu kB reserved (none are needed)",
               (unsigned long long)n, (unsigned long long)kb);
}

static void check_thp(struct report *r)
{
    char mode[THP_MODE_BYTES];
    const bool on = huge_pages(mode);
    doctor_say(r, "transparent hugepages", on ? GOOD : NOTE,
               on ? NULL
                  : "weights are read faster with them: echo madvise | sudo tee "
                    "/sys/kernel/mm/transparent_hugepage/enabled",
               "%s", mode);
}

static void check_memlock(struct report *r)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_MEMLOCK, &l) < 0)
        return;
    const bool free_of_it = l.rlim_cur == RLIM_INFINITY || netif_may(CAP_IPC_LOCK);
    if (free_of_it)
        doctor_say(r, "locked memory", GOOD, NULL, "no limit (only --mlock needs it)");
    else
        doctor_say(r, "locked memory", NOTE,
                   "for --mlock the weights must fit: ulimit -l, or LimitMEMLOCK= of the service",
                   "%llu kB (only --mlock needs it)", (unsigned long long)l.rlim_cur >> 10);
}

static void check_encryption(struct report *r)
{
    const char *by = aead_implementation();
    const bool fast = strncmp(by, "OpenSSL", 7) != 0;
    json_object_set_new(r->figures, "aead", json_string(by));
    doctor_say(r, "encryption", fast ? GOOD : NOTE,
               fast ? NULL
                    : "it works; with libIPSec_MB.so.1 (package libipsec-mb1) a packet takes "
                      "half the time",
               "AES-128-GCM by %s", by);
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
        check_placement(&r);
        check_memory(&r);
        check_hugepages(&r);
        check_thp(&r);
        check_memlock(&r);
        check_encryption(&r);
        doctor_ports(&r);
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
