/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips between two processes over memif: 350-byte frames, echoed at once by a peer that
 * waits with port_wait (spin, then sleep).
 *   spinning: we poll port_rx.
 *   waiting, peer awake: we use port_wait, too.
 *   waiting, peer asleep: after a pause long enough for the peer to sleep; ours is a wake-up as
 * well when its answer takes longer than we spin.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/port/peer.h"

#define FRAME 350u

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
    while (port_rx(p, &in, 1) != 1)
        if (wait)
            port_wait(p, from + 1000000000u);
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
    printf("{\"bench\":\"memif\",\"mode\":\"%s\",\"n\":%d,\"rtt_ns_min\":%llu,\"rtt_ns_p50\":%llu,"
           "\"rtt_ns_p99\":%llu}\n",
           name, n, (unsigned long long)ns[0], (unsigned long long)ns[n / 2],
           (unsigned long long)ns[n - 1 - n / 100]);
    free(ns);
}

int main(int argc, char **argv)
{
    peer_main(argc, argv);
    char uri[64], err[PORT_ERR];
    snprintf(uri, sizeof(uri), "memif:@isthmus-bench-%u", (unsigned)port_now_ns());
    struct port *p;
    const uint64_t from = port_now_ns();
    if (port_open(uri, PORT_SERVER, &p, err) < 0) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    printf("{\"bench\":\"memif\",\"open_ms\":%.1f,\"eal_rss_bytes\":%llu}\n",
           (double)(port_now_ns() - from) / 1e6, (unsigned long long)port_eal_rss_bytes());
    pid_t pid = peer_start("echo", PORT_CLIENT, uri);
    if (!peer_await(p, 1, 10000)) {
        fprintf(stderr, "the peer did not come\n");
        return 1;
    }
    struct pkt *o = pkt_alloc(p->pool);
    memset(o->data, 1, FRAME);
    o->len = FRAME;
    measure("spinning", p, o, 200000, false, 0);
    measure("waiting, peer awake", p, o, 50000, true, 0);
    measure("waiting, peer asleep", p, o, 2000, true, 300000);
    pkt_unref(o);
    port_close(p);
    return peer_end(pid);
}
