/* SPDX-License-Identifier: Apache-2.0 */
/* Netem around a port: what is sent goes through a line (dataplane/netem.h) first. */
#include "dataplane/port.h"
#include "dataplane/port/wait_any.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Without delays, jitter or rate there is no time: what is held back for others to overtake it
 * comes out after this many calls of rx and wait without a send, so that the last one of a
 * conversation is late and not lost. And runs under a virtual clock stay the same whatever the real
 * one says. */
#define REFUSED_NS 1000000u /* until what was due and refused is tried again */
#define IDLE_CALLS 16u
#define MTU_SURE   1280u /* of a path of which more is not known */

#define CLOSE_MAX_NS UINT64_C(2000000000)

struct netem {
    struct port port; /* first */
    struct port *inner;
    struct netem_line *line;
    bool timed;
    uint64_t due_ns; /* of port_wait_any */
    uint64_t copied_bytes;
    uint32_t idle_calls;
};

static uint64_t now(const struct netem *e)
{
    return e->timed ? port_now_ns() : 0;
}

static bool send_copy(struct netem *e, const struct netem_frame *f)
{
    struct pkt *p = pkt_alloc(e->port.pool);
    if (!p)
        return false;
    bool gone = f->len > p->room; /* can't be: it came in such a packet */
    if (!gone) {
        memcpy(p->data, f->bytes, f->len);
        p->len = f->len;
        gone = port_tx(e->inner, &p, 1) == 1;
    }
    pkt_unref(p);
    return gone;
}

/* Send what is due. False: the port takes no more. */
static bool release(struct netem *e, uint64_t now_ns)
{
    for (const struct netem_frame *f; (f = netem_line_due(e->line, now_ns));) {
        if (!send_copy(e, f))
            return false;
        netem_line_pop(e->line);
    }
    return true;
}

/* The wrapper shows the inner port's counts: what really went out and came in. */
static void mirror_stats(struct netem *e)
{
    uint64_t refused = e->port.stats.tx_refused;
    e->port.stats = e->inner->stats;
    e->port.stats.tx_refused = refused;
    e->port.stats.copied_bytes += e->copied_bytes;
}

/* While something due is refused nothing more is taken: the sender feels the port's back-pressure.
 */
static int netem_tx(struct port *port, struct pkt **pkts, int n)
{
    struct netem *e = (struct netem *)port;
    const uint64_t now_ns = now(e);
    int taken = 0;
    bool free_way = release(e, now_ns);
    while (taken < n && free_way &&
           netem_line_put(e->line, now_ns, pkts[taken]->data, pkts[taken]->len) == 0) {
        e->copied_bytes += pkts[taken]->len > OUTER_BYTES ? pkts[taken]->len - OUTER_BYTES : 0;
        taken++;
        free_way = release(e, now_ns);
    }
    if (taken > 0)
        e->idle_calls = 0;
    port->stats.tx_refused += (uint64_t)(n - taken);
    mirror_stats(e);
    return taken;
}

static bool is_holding(const struct netem *e)
{
    return netem_line_next_ns(e->line) != UINT64_MAX;
}

/* False: the port takes no more. */
static bool idle_call(struct netem *e)
{
    if (!e->timed && is_holding(e) && ++e->idle_calls >= IDLE_CALLS)
        netem_line_stop_waiting(e->line);
    return release(e, now(e));
}

static int netem_rx(struct port *port, struct pkt **pkts, int n)
{
    struct netem *e = (struct netem *)port;
    idle_call(e);
    int got = port_rx(e->inner, pkts, n);
    mirror_stats(e);
    return got;
}

static int netem_wait(struct port *port, uint64_t deadline_ns)
{
    struct netem *e = (struct netem *)port;
    const bool holding =
        is_holding(e); /* untimed: no sleep, the caller may be waiting for the answer */
    const bool free_way = idle_call(e);
    uint64_t due_ns = netem_line_next_ns(e->line);
    if (!e->timed)
        due_ns = holding ? 0 : UINT64_MAX;
    if (!free_way) /* perhaps for long: the peer may be gone */
        due_ns = port_now_ns() + REFUSED_NS;
    int rc = port_wait(e->inner, due_ns < deadline_ns ? due_ns : deadline_ns);
    release(e, now(e));
    mirror_stats(e);
    return rc;
}

static bool netem_begin(struct port *port, uint64_t now_ns)
{
    struct netem *e = (struct netem *)port;
    const bool holding = is_holding(e); /* as netem_wait */
    const bool free_way = idle_call(e);
    const bool something = e->inner->waiter->begin(e->inner, now_ns);
    e->due_ns = e->timed ? netem_line_next_ns(e->line) : holding ? 0 : UINT64_MAX;
    if (!free_way)
        e->due_ns = now_ns + REFUSED_NS;
    return something || e->due_ns <= now_ns;
}

static bool netem_look(struct port *port)
{
    struct netem *e = (struct netem *)port;
    return (e->due_ns != UINT64_MAX && port_now_ns() >= e->due_ns) ||
           e->inner->waiter->look(e->inner);
}

static bool netem_may_spin(struct port *port)
{
    struct port *inner = ((struct netem *)port)->inner;
    return !inner->waiter->may_spin || inner->waiter->may_spin(inner);
}

static const struct rhythm *netem_rhythm(struct port *port)
{
    struct port *inner = ((struct netem *)port)->inner;
    return inner->waiter->rhythm(inner);
}

static unsigned netem_doze(struct port *port, struct pollfd *fds, uint64_t now_ns,
                           uint64_t *until_ns)
{
    struct netem *e = (struct netem *)port;
    if (e->due_ns < *until_ns)
        *until_ns = e->due_ns;
    return e->inner->waiter->doze(e->inner, fds, now_ns, until_ns);
}

static void netem_woken(struct port *port, const struct pollfd *fds, unsigned n)
{
    struct netem *e = (struct netem *)port;
    e->inner->waiter->woken(e->inner, fds, n);
    release(e, now(e));
    mirror_stats(e);
}

static const struct port_waiter netem_waiter = {netem_begin,  netem_look, netem_may_spin,
                                                netem_rhythm, netem_doze, netem_woken};

static int netem_alive(struct port *port)
{
    return port_alive(((struct netem *)port)->inner);
}

/* What is on its way arrives though its sender leaves: a goodbye, above all. */
static void let_arrive(struct netem *e)
{
    const uint64_t end_ns = port_now_ns() + CLOSE_MAX_NS;
    for (uint64_t now_ns = port_now_ns(); now_ns < end_ns; now_ns = port_now_ns()) {
        const bool free_way = release(e, now_ns);
        uint64_t until_ns = netem_line_next_ns(e->line);
        if (until_ns == UINT64_MAX || port_alive(e->inner) < 0)
            return;
        if (!free_way)
            until_ns = now_ns + REFUSED_NS;
        if (until_ns > end_ns)
            until_ns = end_ns;
        const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                       .tv_nsec = (long)(until_ns % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}

static void netem_close(struct port *port)
{
    struct netem *e = (struct netem *)port;
    if (e->timed)
        let_arrive(e);
    netem_line_close(e->line);
    port_close(e->inner);
    free(e);
}

static const struct port_ops netem_ops = {netem_rx, netem_tx, netem_wait, netem_alive, netem_close};

int port_netem(struct port *inner, const struct netem_params *p, struct port **out)
{
    struct netem_line *line;
    /* A flipped bit of an address would send the frame to a stranger. */
    int rc = netem_line_open(p, OUTER_BYTES, &line);
    if (rc < 0)
        return rc;
    struct netem *e = calloc(1, sizeof(*e));
    if (!e) {
        netem_line_close(line);
        return -ENOMEM;
    }
    e->port = (struct port){
        .ops = &netem_ops, .caps = inner->caps, .pool = inner->pool, .path = inner->path};
    e->port.caps.unqueued = false; /* rate= makes a bottleneck */
    if (netem_is_narrow(p) && inner->caps.mtu_bytes > MTU_SURE)
        e->port.caps.mtu_sure_bytes =
            inner->caps.mtu_sure_bytes ? inner->caps.mtu_sure_bytes : MTU_SURE;
    e->port.waiter = inner->waiter ? &netem_waiter : NULL;
    e->inner = inner;
    e->line = line;
    e->timed = netem_is_timed(p);
    *out = &e->port;
    return 0;
}
