/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dataplane/range.h"

#define STUCK_MIN_NS 50000u            /* when to try a full port again: after as long as it was */
#define STUCK_MAX_NS 1000000u          /* full, within these */
#define IDLE_PING_NS 5000000000u       /* often enough for what NATs remember */
#define IDLE_DEAD_NS 15000000000u      /* what an idle edge may be silent */
/* Where nothing queues so many under way keep both sides busy, and stay in a core's cache; the rows
 * of a run go at once. */
#define UNQUEUED_PACKETS 256u
#define SMALL_SHARE  8u /* they leave this part of the pool free: acknowledgements come by it */

struct pump_small {
    struct pump_small *next;
    int64_t reply_to;
    uint32_t session;
    enum wire_class cls;
    bool reserved; /* by pump_reserve */
    size_t n, part;
    uint8_t bytes[];
};

/* --- life ----------------------------------------------------------------------------------------
 */

int pump_draw_connection(uint32_t *connection)
{
    do
        if (getrandom(connection, sizeof *connection, 0) != (ssize_t)sizeof *connection)
            return -errno;
    while (!*connection);
    return 0;
}

/* The longest packet of a port, which its pool's are made for. */
static uint32_t mtu_of(const struct port *port)
{
    return smaller(port->caps.mtu_bytes, port->pool->room - OUTER_ETHERNET_BYTES);
}

static uint32_t mtu_sure_of(const struct port *port)
{
    return port->caps.mtu_sure_bytes ? smaller(port->caps.mtu_sure_bytes, mtu_of(port))
                                     : mtu_of(port);
}

/* What both kinds of pump have in common; p->params and the path are the caller's. */
static int prepare(struct pump *p, struct port *port, const struct link_params *params,
                   const struct wire_path *path, bool encrypted, uint64_t now_ns)
{
    const uint32_t share = port->pool->n_total / PUMP_POOL_SHARE;

    *p =
        (struct pump){.port = port, .params = *params, .now_ns = now_ns, .packets_max = UINT32_MAX};
    pump_expect(p, 0);
    p->end = &p->first;
    if (port->pool->n_total < PUMP_POOL_MIN)
        return -EINVAL;
    if (!p->params.path)
        p->params.path = path;
    p->params.unpaced = port->caps.unqueued;
    if (!port->caps.tells_loss && !p->params.idle_dead_after_ns) {
        p->params.idle_ping_ns = IDLE_PING_NS;
        p->params.idle_dead_after_ns = IDLE_DEAD_NS;
    }
    if (!p->params.rx_budget_packets)
        p->params.rx_budget_packets = smaller(2048, share);
    if (!p->params.window_packets)
        p->params.window_packets = smaller(port->caps.unqueued ? UNQUEUED_PACKETS : 2048, share);
    p->params.mtu_bytes = mtu_of(port);
    p->params.mtu_sure_bytes = mtu_sure_of(port);
    p->params.keys = NULL;
    return encrypted
               ? keys_open(&(struct keys_params){.initiator = p->params.initiator}, &p->params.keys)
               : 0;
}

int pump_open(struct pump *p, struct port *port, const struct link_params *params,
              const struct pipeline_security *security, const struct wire_path *path,
              uint32_t connection, uint64_t now_ns)
{
    struct link_params lp = *params;
    int rc;

    lp.initiator = true;
    lp.connection = connection;
    rc = prepare(p, port, &lp, port->path ? port->path : path, security->identity, now_ns);
    p->security = *security;
    if (!rc && p->security.identity)
        rc = peer_open(p);
    if (!rc)
        rc = link_open(&p->params, now_ns, &p->link);
    if (rc)
        pump_close(p);
    return rc;
}

int pump_open_met(struct pump *p, struct port *port, const struct link_params *params,
                  struct handshake_result *met, const struct wire_path *path, uint64_t now_ns)
{
    int rc = prepare(p, port, params, path, met, now_ns);

    if (!rc)
        rc = link_open(&p->params, now_ns, &p->link);
    if (!rc && met) {
        link_met_at(p->link, &met->path);
        peer_meet(p, met);
        rc = p->dead ? -ENOMEM : 0;
    }
    if (rc)
        pump_close(p);
    return rc;
}

static void drop_small(struct pump *p)
{
    while (p->first) {
        struct pump_small *s = p->first;

        p->first = s->next;
        free(s);
    }
    p->end = &p->first;
    p->n_small = 0;
}

void pump_close(struct pump *p)
{
    drop_small(p);
    link_close(p->link);
    p->link = NULL;
    keys_close(p->params.keys);
    p->params.keys = NULL;
    handshake_close(p->handshake);
    p->handshake = NULL;
}

uint64_t pump_now(struct pump *p)
{
    if (p->clock) {
        uint64_t now = p->clock(p->clock_arg);

        if (now > p->now_ns)
            p->now_ns = now;
    }
    return p->now_ns;
}

void pump_in(struct pump *p, uint64_t now_ns)
{
    const int burst = pump_burst(p->port);
    struct pkt *pkts[PUMP_BURST];

    if (now_ns > p->now_ns)
        p->now_ns = now_ns;
    for (int total = 0; total < PUMP_IN_MAX; total += burst) {
        const int n = port_rx(p->port, pkts, burst);

        for (int k = 0; k < n; k++) {
            if (!p->handshake || !peer_input(p, pkts[k]))
                (void)link_input(p->link, pkts[k], p->now_ns); /* bad frames are counted there */
        }
        if (n < burst)
            break;
        pump_amid(p);
    }
    if (p->handshake)
        peer_tick(p);
    pump_tick(p);
}

/* Of a path that takes less than the port, or now takes another size. */
static void tell_mtu(struct pump *p)
{
    const uint32_t mtu = link_mtu(p->link),
                   before = p->mtu_told ? p->mtu_told : p->params.mtu_bytes;

    if (mtu == p->mtu_told || !link_heard(p->link) || !link_mtu_settled(p->link))
        return;
    if (mtu != before)
        port_tell("port %s: the path to the peer takes packets of %u bytes, not of %u: longer ones "
                  "are not made",
                  p->port->caps.name, mtu, before);
    p->mtu_told = mtu;
}

void pump_tick(struct pump *p)
{
    if (link_tick(p->link, p->now_ns, NULL)) /* pump_deadline is asked when all is sent */
        p->dead = link_why_dead(p->link);
    tell_mtu(p);
}

/* What it sent and is not acknowledged takes all that it may: an acknowledgement will go on. */
static bool is_full(const struct pump *p)
{
    return link_unacknowledged(p->link) >= p->packets_max;
}

static bool send_small(struct pump *p, const struct pump_small *s)
{
    struct pkt_pool *pool = p->port->pool;
    const size_t packets = (s->n + s->part - 1) / s->part;
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX], n = 0;

    if (is_full(p) || pool->n_free < packets + pool->n_total / SMALL_SHARE)
        return false;
    for (size_t at = 0; at < s->n; at += s->part, n++) {
        pkts[n] = pkt_alloc(pool);
        if (!pkts[n]) {
            while (n)
                pkt_unref(pkts[--n]);
            return false;
        }
        bytes[n] = (uint16_t)(s->n - at < s->part ? s->n - at : s->part);
        memcpy(pkts[n]->data + WIRE_PAYLOAD_AT + link_payload_offset(s->reply_to >= 0, n),
               s->bytes + at, bytes[n]);
    }
    const int64_t number = link_send(p->link, s->session, s->cls, s->reply_to, pkts, bytes, n);
    if (number < 0 && number != -ENOBUFS)
        pump_link_ended(p);
    return number != -ENOBUFS; /* else when the oldest are acknowledged */
}

void pump_link_ended(struct pump *p)
{
    const char *why = link_why_dead(p->link);

    if (!p->dead)
        p->dead = why ? why : "the link takes no more messages";
}

static bool has_output(const struct pump *p)
{
    return (p->first && !p->dead && !is_full(p)) || link_has_output(p->link) ||
           (p->handshake && handshake_has_output(p->handshake));
}

/* Until the link has no more or the port takes none. */
static void send_bursts(struct pump *p)
{
    const int burst = pump_burst(p->port);
    struct pkt *pkts[PUMP_BURST];
    bool sent = false;
    int n, taken;

    do {
        n = link_output(p->link, pkts, burst, p->port->pool, p->now_ns);
        taken = n ? port_tx(p->port, pkts, n) : 0;
        sent |= taken > 0;
        for (int i = 0; i < taken; i++)
            pkt_unref(pkts[i]);
        for (int i = taken; i < n; i++)
            link_output_refused(p->link, pkts[i], p->now_ns);
    } while (n && taken == n);
    if (taken == n && !has_output(p))
        p->stuck_ns = 0;
    else if (!p->stuck_ns || sent)
        p->stuck_ns = p->now_ns;
}

void pump_amid(struct pump *p)
{
    if (!link_has_output(p->link))
        return;
    (void)pump_now(p);
    send_bursts(p);
}

void pump_out(struct pump *p)
{
    while (p->first && !p->dead && send_small(p, p->first)) {
        struct pump_small *s = p->first;

        p->first = s->next;
        if (!p->first)
            p->end = &p->first;
        p->n_small--;
        free(s);
    }
    (void)pump_now(p);
    if (p->handshake)
        peer_output(p);
    send_bursts(p);
}

void pump_during_run(void *arg)
{
    struct pump *p = arg;

    if (!p->clock)
        return;
    pump_in(p, pump_now(p));
    pump_out(p);
}

uint64_t pump_retry_at(uint64_t now_ns, uint64_t stuck_ns)
{
    return now_ns + clamp(stuck_ns ? now_ns - stuck_ns : 0, STUCK_MIN_NS, STUCK_MAX_NS);
}

uint64_t pump_retry(const struct pump *p)
{
    return p->stuck_ns || has_output(p) ? pump_retry_at(p->now_ns, p->stuck_ns) : UINT64_MAX;
}

uint64_t pump_deadline(const struct pump *p)
{
    const uint64_t at = p->dead ? p->now_ns : link_deadline(p->link);

    return least(least(at, pump_retry(p)),
                 p->handshake ? handshake_deadline(p->handshake) : UINT64_MAX);
}

bool pump_can_alloc(const struct pump *p, uint32_t n)
{
    const struct pkt_pool *pool = p->port->pool;

    return pool->n_free >= n + pool->n_total / 2;
}

struct pkt *pump_alloc(struct pump *p)
{
    return pump_can_alloc(p, 1) ? pkt_alloc(p->port->pool) : NULL;
}

uint32_t pump_max_fragments(const struct pump *p)
{
    return smaller(LINK_FRAGMENTS_MAX, p->port->pool->n_total / (2 * PUMP_POOL_SHARE));
}

bool pump_holds(const struct pump *p, uint32_t session)
{
    for (const struct pump_small *s = p->first; s; s = s->next) {
        if (s->session == session && s->reserved)
            return true;
    }
    return false;
}

void pump_drop(struct pump *p, uint32_t session)
{
    struct pump_small **at = &p->first;

    while (*at) {
        struct pump_small *s = *at;

        if (s->session != session || !s->reserved) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        p->n_small--;
        free(s);
    }
    p->end = at;
}

size_t pump_payload(const struct pump *p)
{
    return wire_payload_max(link_mtu(p->link));
}

size_t pump_payload_sure(const struct port *port)
{
    return wire_payload_max(mtu_sure_of(port));
}

size_t pump_payload_most(const struct port *port)
{
    return wire_payload_max(mtu_of(port));
}

static struct pump_small *append(struct pump *p, uint32_t session, enum wire_class cls,
                                 int64_t reply_to, size_t n, size_t part)
{
    struct pump_small *s = p->n_small < p->small_max ? malloc(sizeof *s + n) : NULL;

    if (!s) {
        p->dead = p->n_small < p->small_max ? "out of memory" : "the peer acknowledges nothing";
        return NULL;
    }
    *s = (struct pump_small){
        .reply_to = reply_to, .session = session, .cls = cls, .n = n, .part = part};
    *p->end = s;
    p->end = &s->next;
    p->n_small++;
    return s;
}

uint8_t *pump_reserve(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
                      size_t n, size_t part)
{
    struct pump_small *s = append(p, session, cls, reply_to, n, part);

    if (!s)
        return NULL;
    s->reserved = true;
    return s->bytes;
}

void pump_send(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
               const uint8_t *bytes, size_t n)
{
    struct pump_small *s = append(p, session, cls, reply_to, n, n);

    if (s)
        memcpy(s->bytes, bytes, n);
}
