/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loop: two joined ports inside one process. Frames lie in a ring of their own between the pools,
 * as they do in memif's shared memory, so that a full pool on one side does not stop the other's
 * sends.
 */
#include "dataplane/port.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct ring {
    uint32_t head, count; /* oldest frame, frames inside */
    uint32_t *len;        /* [depth] */
    uint8_t *bytes;       /* [depth][frame_max] */
};

struct loop_side {
    struct port port; /* first: a port is its side */
    struct loop *loop;
    struct loop_side *peer;
    struct ring rx;
    pthread_cond_t arrived; /* a frame came into rx, or the peer closed */
    bool open;
};

struct loop {
    pthread_mutex_t lock;
    uint32_t depth, frame_max;
    struct loop_side side[2];
};

static int loop_rx(struct port *port, struct pkt **pkts, int n)
{
    struct loop_side *s = (struct loop_side *)port;
    struct loop *l = s->loop;
    int got = 0;
    pthread_mutex_lock(&l->lock);
    while (got < n && s->rx.count > 0) {
        struct pkt *p = pkt_alloc(port->pool);
        if (!p)
            break;
        p->len = s->rx.len[s->rx.head];
        memcpy(p->data, s->rx.bytes + (size_t)s->rx.head * l->frame_max, p->len);
        s->rx.head = (s->rx.head + 1) % l->depth;
        s->rx.count--;
        port->stats.rx_packets++;
        port->stats.rx_bytes += p->len;
        pkts[got++] = p;
    }
    pthread_mutex_unlock(&l->lock);
    return got;
}

static int loop_tx(struct port *port, struct pkt **pkts, int n)
{
    struct loop_side *s = (struct loop_side *)port;
    struct loop *l = s->loop;
    struct ring *r = &s->peer->rx;
    int sent = 0;
    pthread_mutex_lock(&l->lock);
    while (sent < n && s->peer->open && r->count < l->depth) {
        const struct pkt *p = pkts[sent++];
        if (p->len == 0 || p->len > l->frame_max)
            continue; /* taken and lost, as a wire would */
        uint32_t at = (r->head + r->count) % l->depth;
        r->len[at] = p->len;
        memcpy(r->bytes + (size_t)at * l->frame_max, p->data, p->len);
        r->count++;
        port->stats.tx_packets++;
        port->stats.tx_bytes += p->len;
    }
    if (sent > 0)
        pthread_cond_signal(&s->peer->arrived);
    pthread_mutex_unlock(&l->lock);
    port->stats.tx_refused += (uint64_t)(n - sent);
    return sent;
}

static int loop_wait(struct port *port, uint64_t deadline_ns)
{
    struct loop_side *s = (struct loop_side *)port;
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                             .tv_nsec = (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&s->loop->lock);
    if (s->rx.count == 0 && s->peer->open && deadline_ns > port_now_ns()) {
        port->stats.sleeps++;
        while (rc == 0 && s->rx.count == 0 && s->peer->open)
            rc = pthread_cond_timedwait(&s->arrived, &s->loop->lock, &until);
        port->stats.wakeups += rc == 0;
    }
    pthread_mutex_unlock(&s->loop->lock);
    return 0;
}

static int loop_alive(struct port *port)
{
    struct loop_side *s = (struct loop_side *)port;
    pthread_mutex_lock(&s->loop->lock);
    int alive = s->peer->open ? 1 : -EPIPE;
    pthread_mutex_unlock(&s->loop->lock);
    return alive;
}

static void loop_free(struct loop *l)
{
    for (int i = 0; i < 2; i++) {
        free(l->side[i].rx.len);
        free(l->side[i].rx.bytes);
        pthread_cond_destroy(&l->side[i].arrived);
    }
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void loop_close(struct port *port)
{
    struct loop_side *s = (struct loop_side *)port;
    struct loop *l = s->loop;
    pkt_pool_heap_close(port->pool);
    pthread_mutex_lock(&l->lock);
    s->open = false;
    bool last = !s->peer->open;
    pthread_cond_signal(&s->peer->arrived);
    pthread_mutex_unlock(&l->lock);
    if (last)
        loop_free(l);
}

static const struct port_ops loop_ops = {loop_rx, loop_tx, loop_wait, loop_alive, loop_close};

int port_loop_pair(uint32_t n, uint32_t depth, uint32_t mtu_bytes, struct port **a, struct port **b)
{
    if (n == 0 || depth == 0 || mtu_bytes == 0 || mtu_bytes > UINT16_MAX)
        return -EINVAL;
    struct loop *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->depth = depth;
    l->frame_max = mtu_bytes + 14;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        struct loop_side *s = &l->side[i];
        s->loop = l;
        s->peer = &l->side[1 - i];
        s->open = true;
        s->rx.len = calloc(depth, sizeof(*s->rx.len));
        s->rx.bytes = calloc(depth, l->frame_max);
        pthread_cond_init(&s->arrived, &monotonic);
        s->port.ops = &loop_ops;
        s->port.caps = (struct port_caps){.name = "loop",
                                          .mtu_bytes = mtu_bytes,
                                          .burst = 32,
                                          .tells_loss = true,
                                          .unqueued = true,
                                          .same_host = true};
        s->port.pool = pkt_pool_heap(n, l->frame_max);
        ok = ok && s->rx.len && s->rx.bytes && s->port.pool;
    }
    pthread_condattr_destroy(&monotonic);
    if (!ok) {
        pkt_pool_heap_close(l->side[0].port.pool);
        pkt_pool_heap_close(l->side[1].port.pool);
        loop_free(l);
        return -ENOMEM;
    }
    *a = &l->side[0].port;
    *b = &l->side[1].port;
    return 0;
}
