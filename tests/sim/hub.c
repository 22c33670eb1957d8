/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/wire.h"

#define FIRST_IP 0x0a490100u

struct hub {
    struct port port; /* first: the port is the hub */
    struct network *networks[HUB_NETWORKS];
    struct wire_path paths[HUB_NETWORKS];
    uint32_t n, first;
};

/* Of each in turn, so that none keeps the others from being heard. */
static int hub_rx(struct port *port, struct pkt **pkts, int count)
{
    struct hub *h = (struct hub *)port;
    uint32_t silent = 0;
    int got = 0;

    while (got < count && silent < h->n) {
        struct pkt *mine = pkt_alloc(port->pool), *p;

        if (!mine)
            break;
        if (port_rx(network_port(h->networks[h->first++ % h->n], 1), &p, 1) < 1) {
            pkt_unref(mine);
            silent++;
            continue;
        }
        silent = 0;
        memcpy(mine->data, p->data, p->len);
        mine->len = p->len;
        pkt_unref(p);
        pkts[got++] = mine;
    }
    return got;
}

static int hub_tx(struct port *port, struct pkt **pkts, int count)
{
    struct hub *h = (struct hub *)port;

    for (int i = 0; i < count; i++) {
        struct wire_path back;
        uint32_t to;

        outer_way_back(pkts[i]->data, &back);
        to = back.src_ip - FIRST_IP;
        if (to < h->n && port_tx(network_port(h->networks[to], 1), &pkts[i], 1) < 1)
            return i;
    }
    return count;
}

static int hub_wait(struct port *port, uint64_t deadline_ns)
{
    return 0;
}

static int hub_alive(struct port *port)
{
    return 1;
}

static void hub_port_close(struct port *port)
{
}

static const struct port_ops hub_ops = {hub_rx, hub_tx, hub_wait, hub_alive, hub_port_close};

struct hub *hub_open(uint32_t pool_packets, uint32_t mtu_bytes)
{
    struct hub *h = calloc(1, sizeof *h);

    if (!h)
        abort();
    h->port.ops = &hub_ops;
    h->port.caps = (struct port_caps){.name = "simulated", .mtu_bytes = mtu_bytes, .burst = 32};
    h->port.pool = pkt_pool_heap(pool_packets, mtu_bytes + 14);
    if (!h->port.pool)
        abort();
    return h;
}

void hub_close(struct hub *h)
{
    if (h->port.pool->n_free != h->port.pool->n_total) {
        fprintf(stderr, "simulation: the hub leaked %u packets\n",
                h->port.pool->n_total - h->port.pool->n_free);
        abort();
    }
    pkt_pool_heap_close(h->port.pool);
    free(h);
}

void hub_add(struct hub *h, struct network *n)
{
    if (h->n == HUB_NETWORKS)
        abort();
    h->paths[h->n] = wire_path_edge;
    h->paths[h->n].src_ip = FIRST_IP + h->n;
    network_port(n, 0)->path = &h->paths[h->n];
    h->networks[h->n++] = n;
}

struct port *hub_port(struct hub *h)
{
    return &h->port;
}
