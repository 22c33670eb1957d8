/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/tap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct port_tap {
    struct port_ops ops; /* first: the port's table while it is watched, by which we are found */
    const struct port_ops *real;
    struct port *port;
    struct port_watcher watcher;
};

static struct port_tap *tap_of(const struct port *p)
{
    return (struct port_tap *)(uintptr_t)p->ops;
}

/* A port's own functions may look at its table: they find the one they made. */
#define WITH_REAL(p, t, call)                                                                      \
    do {                                                                                           \
        (p)->ops = (t)->real;                                                                      \
        call;                                                                                      \
        (p)->ops = &(t)->ops;                                                                      \
    } while (0)

static void show(struct port_tap *t, bool sent, struct pkt *const *pkts, int n)
{
    if (n <= 0)
        return;
    const uint64_t now_ns = port_now_ns();
    for (int i = 0; i < n; i++)
        t->watcher.frame(t->watcher.arg, sent, pkts[i]->data, pkts[i]->len, now_ns);
}

static int tap_rx(struct port *p, struct pkt **pkts, int n)
{
    struct port_tap *t = tap_of(p);
    int got;
    WITH_REAL(p, t, got = port_rx(p, pkts, n));
    show(t, false, pkts, got);
    return got;
}

static int tap_tx(struct port *p, struct pkt **pkts, int n)
{
    struct port_tap *t = tap_of(p);
    int taken;
    WITH_REAL(p, t, taken = port_tx(p, pkts, n));
    show(t, true, pkts, taken);
    return taken;
}

static int tap_wait(struct port *p, uint64_t deadline_ns)
{
    struct port_tap *t = tap_of(p);
    int rc;
    WITH_REAL(p, t, rc = port_wait(p, deadline_ns));
    return rc;
}

static int tap_alive(struct port *p)
{
    struct port_tap *t = tap_of(p);
    int rc;
    WITH_REAL(p, t, rc = port_alive(p));
    return rc;
}

static void tap_close(struct port *p)
{
    struct port_tap *t = tap_of(p);
    const struct port_watcher w = t->watcher;
    p->ops = t->real;
    free(t);
    if (w.closed)
        w.closed(w.arg);
    port_close(p);
}

int port_tap_begin(struct port *p, const struct port_watcher *w, struct port_tap **out)
{
    struct port_tap *t = malloc(sizeof *t);
    if (!t)
        return -ENOMEM;
    /* Copied first: what a port has beside these five stays as it is. */
    *t = (struct port_tap){.ops = *p->ops, .real = p->ops, .port = p, .watcher = *w};
    t->ops.rx = tap_rx;
    t->ops.tx = tap_tx;
    t->ops.wait = tap_wait;
    t->ops.alive = tap_alive;
    t->ops.close = tap_close;
    p->ops = &t->ops;
    *out = t;
    return 0;
}

void port_tap_end(struct port_tap *t)
{
    assert(t->port->ops == &t->ops && "the last tap ends first");
    t->port->ops = t->real;
    free(t);
}
