/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips between two processes over a port: 350-byte frames, echoed at once by a peer that
 * waits with port_wait (spin, then sleep); and how many frames a second come back with 64 under
 * way.
 *
 *     bench_port                                   memif
 *     bench_port SERVER CLIENT                     two port names
 *     bench_port SERVER CLIENT NAMESPACE           the server in that network namespace, as root
 *
 *   spinning: we poll port_rx.
 *   waiting, peer awake: we use port_wait, too.
 *   waiting, peer asleep: after a pause long enough for the peer to sleep; ours is a wake-up as
 * well when its answer takes longer than we spin.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/port/peer.h"

#define FRAME  350u
#define LONG   1514u
#define FLIGHT 64u

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t round_trip(struct port *p, struct pkt *o, bool wait)
{
    struct pkt *in;
    const uint64_t from = port_now_ns();
    while (port_tx(p, &o, 1) != 1)
        continue;
    while (port_rx(p, &in, 1) != 1) {
        if (wait)
            port_wait(p, from + 1000000000u);
        if (port_now_ns() > from + 2000000000u) {
            fprintf(stderr, "an echo was lost\n");
            exit(1);
        }
    }
    pkt_unref(in);
    return port_now_ns() - from;
}

static void measure(const char *name, struct port *p, struct pkt *o, int n, bool wait,
                    long pause_ns)
{
    uint64_t *ns = malloc((size_t)n * sizeof(*ns));
    if (!ns)
        exit(1);
    for (int i = 0; i < n; i++) {
        if (pause_ns)
            nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
        ns[i] = round_trip(p, o, wait);
    }
    qsort(ns, (size_t)n, sizeof(*ns), by_value);
    printf("{\"bench\":\"port\",\"port\":\"%s\",\"mode\":\"%s\",\"n\":%d,\"rtt_ns_min\":%llu,\"rtt_"
           "ns_p50\":%llu,"
           "\"rtt_ns_p99\":%llu}\n",
           p->caps.name, name, n, (unsigned long long)ns[0], (unsigned long long)ns[n / 2],
           (unsigned long long)ns[n - 1 - n / 100]);
    free(ns);
}

/* Frames there and back with many under way, for a second. */
static void stream(struct port *p, struct pkt *o)
{
    const uint64_t from = port_now_ns(), until = from + 1000000000u;
    uint64_t sent = 0, came = 0, now = from;
    struct pkt *out[32], *in[32];
    for (int i = 0; i < 32; i++)
        out[i] = o;
    uint64_t heard = from;
    while (now < until) {
        if (sent - came <= FLIGHT - 32)
            sent += (uint64_t)port_tx(p, out, 32);
        int n = port_rx(p, in, 32);
        for (int i = 0; i < n; i++)
            pkt_unref(in[i]);
        came += (uint64_t)n;
        now = port_now_ns();
        if (n)
            heard = now;
        else if (now > heard + 20000000u)
            sent = came; /* some were lost */
    }
    printf("{\"bench\":\"port\",\"port\":\"%s\",\"mode\":\"stream\",\"frame_bytes\":%u,"
           "\"frames_per_s\":%.0f,\"goodput_bit_per_s\":%.3g}\n",
           p->caps.name, o->len, (double)came * 1e9 / (double)(now - from),
           (double)came * 8e9 * o->len / (double)(now - from));
    while (port_now_ns() < now + 100000000u)
        for (int i = 0, n = port_rx(p, in, 32); i < n; i++)
            pkt_unref(in[i]);
}

static void address(struct port *p, struct pkt *o, uint32_t bytes)
{
    memset(o->data, 1, bytes);
    o->len = bytes;
    if (p->path)
        outer_write(o->data, p->path, (uint16_t)(bytes - OUTER_BYTES + 8));
}

static pid_t start_peer(const char *uri, const char *space)
{
    char path[128];
    snprintf(path, sizeof(path), "/run/netns/%s", space ? space : "");
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int theirs = space ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (space && (theirs < 0 || setns(theirs, CLONE_NEWNET) < 0)) {
        perror(path);
        exit(1);
    }
    pid_t pid = peer_start("echo", PORT_SERVER, uri);
    if (space && setns(own, CLONE_NEWNET) < 0)
        exit(1);
    return pid;
}

int main(int argc, char **argv)
{
    peer_main(argc, argv);
    char name[64], err[PORT_ERR];
    snprintf(name, sizeof(name), "memif:@isthmus-bench-%u", (unsigned)port_now_ns());
    const char *server = argc > 2 ? argv[1] : name, *client = argc > 2 ? argv[2] : name;
    struct port *p;
    pid_t pid = start_peer(server, argc > 3 ? argv[3] : NULL);
    nanosleep(&(struct timespec){.tv_nsec = 800000000}, NULL);
    const uint64_t from = port_now_ns();
    if (port_open(client, PORT_CLIENT, &p, err) < 0) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    printf("{\"bench\":\"port\",\"port\":\"%s\",\"how\":\"%s\",\"open_ms\":%.1f,\"eal_rss_bytes\":%"
           "llu}\n",
           p->caps.name, p->caps.how, (double)(port_now_ns() - from) / 1e6,
           (unsigned long long)port_eal_rss_bytes());
    if (!peer_await(p, 1, 10000)) {
        fprintf(stderr, "the peer did not come\n");
        return 1;
    }
    struct pkt *o = pkt_alloc(p->pool);
    address(p, o, FRAME);
    measure("spinning", p, o, 50000, false, 0);
    measure("waiting, peer awake", p, o, 20000, true, 0);
    measure("waiting, peer asleep", p, o, 1000, true, 300000);
    stream(p, o);
    address(p, o, LONG);
    stream(p, o);
    pkt_unref(o);
    port_close(p);
    peer_kill(pid);
    return 0;
}
