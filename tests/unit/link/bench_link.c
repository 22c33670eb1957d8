/* SPDX-License-Identifier: Apache-2.0 */
/* CPU time of link and wire for a decode step: one packet up, one reply down, no port between. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dataplane/link.h"

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void cross(struct link *from, struct link *to, struct pkt_pool *pool, uint64_t now)
{
    struct pkt *p[8];
    uint64_t deadline;
    int n;

    (void)link_tick(from, now, &deadline);
    n = link_output(from, p, 8, pool, now);
    for (int i = 0; i < n; i++)
        (void)link_input(to, p[i], now);
}

static int64_t answer(struct link *l, struct pkt_pool *pool, int64_t to, uint16_t bytes)
{
    struct pkt *p = pkt_alloc(pool);

    memset(p->data + WIRE_PAYLOAD_AT + link_payload_offset(to >= 0, 0), 1, bytes);
    return link_send(l, 1, WIRE_DECODE, to, &p, &bytes, 1);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000, now = 0, from;
    struct pkt_pool *pool = pkt_pool_heap(256, 1600);
    struct link_params pa = {
        .path = &wire_path_edge, .initiator = true, .connection = 1, .unpaced = true};
    struct link_params pb = {.path = &wire_path_cloud, .unpaced = true};
    struct link_message m;
    struct link *a, *b;
    int64_t last = -1;

    if (link_open(&pa, 0, &a) || link_open(&pb, 0, &b))
        return 1;
    from = cpu_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        answer(a, pool, last, 350);
        cross(a, b, pool, now += 1000);
        if (!link_recv(b, &m))
            return 1;
        answer(b, pool, m.message, 16);
        link_message_free(&m);
        cross(b, a, pool, now += 1000);
        if (!link_recv(a, &m))
            return 1;
        last = m.message;
        link_message_free(&m);
    }
    printf("{\"rounds\":%lu,\"cpu_ns_per_message\":%.0f}\n", (unsigned long)rounds,
           (double)(cpu_ns() - from) / (double)(2 * rounds));
    link_close(a);
    link_close(b);
    pkt_pool_heap_close(pool);
    return 0;
}
