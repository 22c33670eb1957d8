/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netem: drops, duplicates and reorders what is sent into another port.
 *
 * The fate of the i-th packet taken is a hash of (seed, i) alone: it depends neither on the fates
 * before it nor on refusals. What is held back is a copy.
 */
#include "dataplane/port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_DEFAULT 4u
#define DEPTH_MAX     64u

/* Held packets come out after this many calls of rx and wait without a send, so that the last one
 * of a conversation is late and not lost. */
#define IDLE_CALLS 16u

struct held {
    struct pkt *pkt;
    uint64_t due; /* goes out when this many packets were sent */
};

struct netem {
    struct port port; /* first */
    struct port *inner;
    struct netem_params params;
    uint64_t sent;                   /* packets taken so far */
    struct held held[2 * DEPTH_MAX]; /* in order of holding */
    uint32_t n_held;
    uint32_t idle_calls;
};

static uint64_t hash64(uint64_t x) /* the finaliser of splitmix64 */
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The k-th random number of packet i. */
static uint64_t draw(const struct netem *e, uint64_t i, unsigned k)
{
    return hash64(hash64(e->params.seed) + (i * 4 + k + 1) * 0x9e3779b97f4a7c15u);
}

static bool chance(const struct netem *e, uint64_t i, unsigned k, double fraction)
{
    return (double)(draw(e, i, k) >> 11) * 0x1p-53 < fraction;
}

static bool hold_copy(struct netem *e, const struct pkt *p, uint64_t due)
{
    if (e->n_held == sizeof(e->held) / sizeof(*e->held))
        return false;
    struct pkt *copy = pkt_alloc(e->port.pool);
    if (!copy)
        return false;
    if (p->len > copy->room) {
        pkt_unref(copy);
        return false;
    }
    memcpy(copy->data, p->data, p->len);
    copy->len = p->len;
    e->held[e->n_held++] = (struct held){copy, due};
    return true;
}

/* Send the held packets that are due, all when `all`. What the inner port refuses stays held. */
static void release(struct netem *e, bool all)
{
    uint32_t kept = 0;
    bool refused = false;
    for (uint32_t i = 0; i < e->n_held; i++) {
        struct held h = e->held[i];
        if (!refused && (all || h.due <= e->sent)) {
            refused = port_tx(e->inner, &h.pkt, 1) != 1;
            if (!refused) {
                pkt_unref(h.pkt);
                continue;
            }
        }
        e->held[kept++] = h;
    }
    e->n_held = kept;
}

/* One packet meets its fate. False: refused, and its fate stays open. */
static bool send_one(struct netem *e, struct pkt *p)
{
    uint64_t i = e->sent;
    bool drop = chance(e, i, 0, e->params.drop);
    bool duplicate = chance(e, i, 1, e->params.duplicate);
    bool reorder = chance(e, i, 2, e->params.reorder);
    uint64_t back = 1 + draw(e, i, 3) % e->params.reorder_depth;

    if (!drop) {
        bool now = !reorder || duplicate; /* reordered and duplicated: one now, one late */
        if (reorder && !hold_copy(e, p, i + 1 + back))
            return false;
        if (now && port_tx(e->inner, &p, 1) != 1) {
            if (reorder)
                pkt_unref(e->held[--e->n_held].pkt);
            return false;
        }
        if (duplicate && !reorder && port_tx(e->inner, &p, 1) != 1)
            hold_copy(e, p, i + 1); /* no room for a second one just now */
    }
    e->sent++;
    release(e, false);
    return true;
}

/* The wrapper shows the inner port's counts: what really went out and came in. */
static void mirror_stats(struct netem *e)
{
    uint64_t refused = e->port.stats.tx_refused;
    e->port.stats = e->inner->stats;
    e->port.stats.tx_refused = refused;
}

static int netem_tx(struct port *port, struct pkt **pkts, int n)
{
    struct netem *e = (struct netem *)port;
    int taken = 0;
    while (taken < n && send_one(e, pkts[taken]))
        taken++;
    if (taken > 0)
        e->idle_calls = 0;
    port->stats.tx_refused += (uint64_t)(n - taken);
    mirror_stats(e);
    return taken;
}

static void idle_call(struct netem *e)
{
    if (e->n_held > 0 && ++e->idle_calls >= IDLE_CALLS)
        release(e, true);
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
    bool holding = e->n_held > 0; /* then no sleep: the caller may be waiting for the answer */
    idle_call(e);
    int rc = port_wait(e->inner, holding ? 0 : deadline_ns);
    mirror_stats(e);
    return rc;
}

static int netem_alive(struct port *port)
{
    return port_alive(((struct netem *)port)->inner);
}

static void netem_close(struct port *port)
{
    struct netem *e = (struct netem *)port;
    for (uint32_t i = 0; i < e->n_held; i++)
        pkt_unref(e->held[i].pkt);
    port_close(e->inner);
    free(e);
}

static const struct port_ops netem_ops = {netem_rx, netem_tx, netem_wait, netem_alive, netem_close};

static bool is_fraction(double x)
{
    return x >= 0 && x <= 1; /* false for NaN */
}

int port_netem(struct port *inner, const struct netem_params *p, struct port **out)
{
    if (!is_fraction(p->drop) || !is_fraction(p->duplicate) || !is_fraction(p->reorder) ||
        p->reorder_depth > DEPTH_MAX)
        return -EINVAL;
    struct netem *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->port = (struct port){
        .ops = &netem_ops, .caps = inner->caps, .pool = inner->pool, .path = inner->path};
    e->inner = inner;
    e->params = *p;
    if (e->params.reorder_depth == 0)
        e->params.reorder_depth = DEPTH_DEFAULT;
    *out = &e->port;
    return 0;
}

/* "20%" or ".2". */
static int parse_fraction(const char *text, double *x)
{
    char *end;
    *x = strtod(text, &end);
    if (end == text)
        return -EINVAL;
    if (*end == '%') {
        *x /= 100;
        end++;
    }
    return *end == '\0' && is_fraction(*x) ? 0 : -EINVAL;
}

static int parse_u64(const char *text, uint64_t max, uint64_t *x)
{
    char *end;
    errno = 0;
    *x = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *x <= max ? 0 : -EINVAL;
}

static int parse_item(const char *key, const char *value, struct netem_params *p)
{
    uint64_t u = 0;
    int rc = -EINVAL;
    if (!strcmp(key, "drop"))
        rc = parse_fraction(value, &p->drop);
    else if (!strcmp(key, "dup"))
        rc = parse_fraction(value, &p->duplicate);
    else if (!strcmp(key, "reorder"))
        rc = parse_fraction(value, &p->reorder);
    else if (!strcmp(key, "seed"))
        rc = parse_u64(value, UINT64_MAX, &p->seed);
    else if (!strcmp(key, "depth")) {
        rc = parse_u64(value, DEPTH_MAX, &u);
        p->reorder_depth = (uint32_t)u;
    }
    return rc;
}

int netem_parse(const char *text, struct netem_params *p, char *err)
{
    *p = (struct netem_params){0};
    while (*text) {
        char item[64];
        size_t len = strcspn(text, ",");
        int rc = -EINVAL;
        if (len < sizeof(item)) {
            memcpy(item, text, len);
            item[len] = '\0';
            char *eq = strchr(item, '=');
            if (eq) {
                *eq = '\0';
                rc = parse_item(item, eq + 1, p);
            }
        }
        if (rc < 0) {
            snprintf(err, PORT_ERR,
                     "netem: cannot use '%.*s'; write drop=, dup=, reorder= (0 to 1, or 0%% to "
                     "100%%), depth= (1 to %u), seed= (number), joined by commas",
                     (int)(len < 40 ? len : 40), text, DEPTH_MAX);
            return rc;
        }
        text += len;
        text += *text == ',';
    }
    return 0;
}
