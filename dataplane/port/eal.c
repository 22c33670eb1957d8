/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/eal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>

#include "dataplane/port.h"

/* Rings, hash and pools of a few ports; pages become resident only when used. */
#define MEMORY_MB "48"

static _Atomic uint64_t rss_bytes;
static char last_words[PORT_ERR];

uint64_t port_eal_rss_bytes(void)
{
    return atomic_load(&rss_bytes);
}

uint64_t eal_rss_now(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%*u %lu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void eal_rss_account(uint64_t rss_before)
{
    uint64_t now = eal_rss_now();
    if (now > rss_before)
        atomic_fetch_add(&rss_bytes, now - rss_before);
}

void eal_rss_release(uint64_t rss_before)
{
    uint64_t now = eal_rss_now(), counted = atomic_load(&rss_bytes);
    uint64_t less = rss_before > now ? rss_before - now : 0;
    while (!atomic_compare_exchange_weak(&rss_bytes, &counted, counted > less ? counted - less : 0))
        ;
}

const char *eal_last_words(void)
{
    return last_words;
}

/* DPDK logs to people's terminals and to syslog; here its last line goes into our errors. */
static ssize_t keep_last_line(void *cookie, const char *text, size_t len)
{
    size_t n = len;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    if (n > 0)
        snprintf(last_words, sizeof(last_words), "%.*s", (int)n, text);
    return (ssize_t)len;
}

static int redirect_log(void)
{
    FILE *f = fopencookie(NULL, "w", (cookie_io_functions_t){.write = keep_last_line});
    if (!f)
        return -ENOMEM;
    setvbuf(f, NULL, _IOLBF, 256);
    return rte_openlog_stream(f);
}

static int init(const char *pci)
{
    cpu_set_t cpus;
    if (pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus) != 0)
        return -EIO;
    int cpu = 0;
    while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &cpus))
        cpu++;

    char lcores[32];
    snprintf(lcores, sizeof(lcores), "--lcores=0@%d", cpu);
    char program[] = "isthmus", no_huge[] = "--no-huge", no_telemetry[] = "--no-telemetry",
         no_pci[] = "--no-pci", allow[] = "-a", no_shconf[] = "--no-shconf",
         log_level[] = "--log-level=error", m[] = "-m", mb[] = MEMORY_MB;
    char device[32], *argv[16];
    int argc = 0;
    argv[argc++] = program;
    argv[argc++] = no_huge;
    argv[argc++] = no_telemetry;
    argv[argc++] = no_shconf;
    argv[argc++] = log_level;
    argv[argc++] = m;
    argv[argc++] = mb;
    argv[argc++] = lcores;
    if (pci) {
        snprintf(device, sizeof(device), "%s", pci);
        argv[argc++] = allow;
        argv[argc++] = device;
    } else {
        argv[argc++] = no_pci;
    }
    argv[argc] = NULL;

    /* Without shared configuration EAL needs no runtime folder but makes one all the same, unless
     * it cannot; what was never made need not be swept when we die. */
    const char *env = getenv("RUNTIME_DIRECTORY");
    char *kept = env ? strdup(env) : NULL;
    setenv("RUNTIME_DIRECTORY", "/dev/null", 1);

    /* EAL's interrupt thread inherits the mask: signals are for the caller's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = rte_eal_init(argc, argv) < 0 ? -rte_errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus); /* EAL pinned us to one CPU */

    if (kept)
        setenv("RUNTIME_DIRECTORY", kept, 1);
    else
        unsetenv("RUNTIME_DIRECTORY");
    free(kept);
    return rc;
}

int eal_start(const char *pci, char *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool tried;
    static int result; /* rte_eal_init cannot be tried twice */
    static char taken[32];

    pthread_mutex_lock(&lock);
    if (!tried) {
        tried = true;
        uint64_t before = eal_rss_now();
        result = redirect_log();
        if (result == 0)
            result = init(pci);
        snprintf(taken, sizeof(taken), "%s", pci ? pci : "");
        eal_rss_account(before);
        if (result == 0)
            last_words[0] = '\0';
    }
    if (result < 0)
        snprintf(err, PORT_ERR, "cannot start DPDK (%s): %.120s; see `isthmus doctor`",
                 strerror(-result), last_words);
    bool other = result == 0 && pci && strcmp(pci, taken) != 0;
    if (other)
        snprintf(err, PORT_ERR, "port pci:%.15s: DPDK runs already, without this device", pci);
    pthread_mutex_unlock(&lock);
    return other ? -EBUSY : result;
}
