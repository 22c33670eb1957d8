/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#define BURST        32
#define BURSTS_MAX   64           /* a flood must not keep the stage from running */
#define PORT_FULL_NS 50000u       /* when to try a full port again */
#define IDLE_PING_NS 5000000000u  /* often enough for what NATs remember */
#define IDLE_DEAD_NS 15000000000u /* what an idle edge may be silent */
#define POOL_MIN     128u
#define SMALL_MAX    LINK_MESSAGES_MAX /* small messages that wait */
#define SMALL_SHARE  8u /* they leave this part of the pool free: acknowledgements come by it */

struct pump_small {
    struct pump_small *next;
    int64_t reply_to;
    uint32_t session;
    enum wire_class cls;
    uint16_t n;
    uint8_t bytes[];
};

/* --- who is there --------------------------------------------------------------------------------
 */

static bool admits(void *arg, const struct fingerprint *peer)
{
    return authorized_find(arg, peer);
}

static int open_handshake(struct pump *p)
{
    const struct handshake_params hp = {
        .identity = p->security.identity,
        .admits = admits,
        .arg = (void *)p->security.peers,
        .initiator = p->params.initiator,
        .connection = p->params.connection,
        .path = p->params.path,
        .hop = p->params.hop,
        .payload_max_bytes =
            smaller(wire_payload_max(p->port->caps.mtu_bytes), p->port->pool->room - WIRE_OVERHEAD),
    };

    return handshake_open(&hp, p->now_ns, &p->handshake);
}

/* Fresh keys for the next link, not ready until a peer is met. */
static int open_keys(struct pump *p, struct keys **out)
{
    const struct keys_params kp = {.initiator = p->params.initiator};

    *out = NULL;
    return p->security.identity ? keys_open(&kp, out) : 0;
}

/* The link speaks with this peer from now on. */
static void meet(struct pump *p, struct handshake_result *r)
{
    if (keys_set(p->params.keys, r->initiator, r->responder))
        p->dead = "out of memory";
    OPENSSL_cleanse(r->initiator, sizeof r->initiator);
    OPENSSL_cleanse(r->responder, sizeof r->responder);
    p->met = *r;
    p->confirmed = false;
}

/* Another peer has our attention: say so, under the keys made with this one. */
static void turn_away(struct pump *p, struct handshake_result *r)
{
    handshake_wipe(&p->away);
    p->away = *r;
    handshake_wipe(r);
}

static void say_goodbye(struct pump *p)
{
    struct handshake_result *r = &p->away;
    const struct wire_header h = {.type = WIRE_CLOSE,
                                  .connection = r->connection,
                                  .message = 1,
                                  .n_fragments = 1,
                                  .hop = p->params.hop,
                                  .cls = WIRE_CONTROL};
    struct pkt *pkt = pkt_alloc(p->port->pool);
    struct keys *keys = NULL;

    if (pkt && !open_keys(p, &keys) && !keys_set(keys, r->initiator, r->responder) &&
        !wire_seal(keys, pkt, &r->path, &h))
        (void)port_tx(p->port, &pkt, 1);
    if (pkt)
        pkt_unref(pkt);
    keys_close(keys);
    handshake_wipe(r);
}

/*
 * A cloud's link has a peer already. If that was never heard the new one takes its place. Else,
 * where the port does not tell that ours is gone, ours is asked, and the new one taken if it stays
 * silent; also when both have one identity: that may be a restart, or two edges that share it.
 */
static void another(struct pump *p, struct handshake_result *r)
{
    if (p->params.initiator || (link_heard(p->link) && !link_contest(p->link))) {
        turn_away(p, r);
        return;
    }
    handshake_wipe(&p->next);
    p->next = *r;
    handshake_wipe(r);
    if (!link_heard(p->link) && pump_renew(p, p->now_ns))
        p->dead = "out of memory";
}

static void take_hands(struct pump *p)
{
    struct handshake_result r;

    while (handshake_take(p->handshake, &r)) {
        if (keys_ready(p->params.keys))
            another(p, &r);
        else
            meet(p, &r);
    }
}

static void shake_hands(struct pump *p)
{
    uint64_t deadline;

    handshake_tick(p->handshake, p->now_ns, &deadline);
    if (handshake_denied(p->handshake) && link_heard(p->link))
        link_doubt(p->link);
    if (p->next.connection && !p->dead && link_heard(p->link) && !link_contested(p->link))
        turn_away(p, &p->next); /* ours is there */
    if (!p->confirmed && link_heard(p->link)) {
        p->confirmed = true;
        handshake_confirm(p->handshake, p->met.connection);
    }
}

const char *pump_refused(const struct pump *p)
{
    return p->handshake ? handshake_error(p->handshake) : NULL;
}

const struct authorized_peer *pump_peer(const struct pump *p)
{
    return p->handshake && keys_ready(p->params.keys)
               ? authorized_find(p->security.peers, &p->met.peer)
               : NULL;
}

const char *pump_cipher(const struct pump *p)
{
    return p->handshake ? "AES-128-GCM" : "none";
}

/* --- life ----------------------------------------------------------------------------------------
 */

int pump_open(struct pump *p, struct port *port, const struct link_params *params,
              const struct pipeline_security *security, const struct wire_path *path,
              uint32_t connection, uint64_t now_ns)
{
    int rc;
    uint32_t share = port->pool->n_total / PUMP_POOL_SHARE;

    *p = (struct pump){.port = port, .params = *params, .security = *security, .now_ns = now_ns};
    p->end = &p->first;
    if (port->pool->n_total < POOL_MIN)
        return -EINVAL;
    if (!p->params.path)
        p->params.path = port->path ? port->path : path;
    if (!port->caps.tells_loss && !p->params.idle_dead_after_ns) {
        p->params.idle_ping_ns = IDLE_PING_NS;
        p->params.idle_dead_after_ns = IDLE_DEAD_NS;
    }
    p->params.initiator = connection != 0;
    p->params.connection = connection;
    if (!p->params.rx_budget_packets)
        p->params.rx_budget_packets = smaller(1024, share);
    if (!p->params.window_packets)
        p->params.window_packets = smaller(512, share);
    rc = open_keys(p, &p->params.keys);
    if (!rc && p->security.identity)
        rc = open_handshake(p);
    if (!rc)
        rc = link_open(&p->params, now_ns, &p->link);
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
    handshake_wipe(&p->next);
    handshake_wipe(&p->away);
}

int pump_renew(struct pump *p, uint64_t now_ns)
{
    struct link_params params = p->params;
    struct link *fresh = NULL;
    int err = open_keys(p, &params.keys);

    if (!err)
        err = link_open(&params, now_ns, &fresh);
    if (err) {
        keys_close(params.keys);
        return err;
    }
    drop_small(p);
    link_close(p->link);
    keys_close(p->params.keys);
    p->met = (struct handshake_result){0};
    p->params = params;
    p->link = fresh;
    p->now_ns = now_ns;
    p->dead = NULL;
    p->port_full = false;
    if (p->next.connection) {
        meet(p, &p->next);
        handshake_wipe(&p->next);
    }
    return 0;
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

static void input(struct pump *p, struct pkt *pkt)
{
    struct wire_header h;

    if (p->handshake && wire_is_handshake(pkt)) {
        handshake_input(p->handshake, pkt, p->now_ns);
        take_hands(p); /* the next packet may be sealed with the keys already */
        return;
    }
    /* A connection of which we have no keys: perhaps we had, before a restart. */
    if (p->handshake && !p->params.initiator && !wire_peek(pkt->data, pkt->len, &h) &&
        h.connection != p->met.connection)
        handshake_deny(p->handshake, pkt);
    (void)link_input(p->link, pkt, p->now_ns); /* bad frames are counted there */
}

void pump_in(struct pump *p, uint64_t now_ns)
{
    struct pkt *pkts[BURST];
    uint64_t deadline;

    if (now_ns > p->now_ns)
        p->now_ns = now_ns;
    for (int i = 0; i < BURSTS_MAX; i++) {
        int n = port_rx(p->port, pkts, BURST);

        for (int k = 0; k < n; k++)
            input(p, pkts[k]);
        if (n < BURST)
            break;
    }
    if (p->handshake)
        shake_hands(p);
    if (link_tick(p->link, p->now_ns, &deadline))
        p->dead = link_why_dead(p->link);
}

static bool send_small(struct pump *p, const struct pump_small *s)
{
    struct pkt_pool *pool = p->port->pool;
    struct pkt *pkt = pool->n_free > pool->n_total / SMALL_SHARE ? pkt_alloc(pool) : NULL;

    if (!pkt)
        return false;
    memcpy(pkt->data + WIRE_PAYLOAD_AT + link_payload_offset(s->reply_to >= 0, 0), s->bytes, s->n);
    if (link_send(p->link, s->session, s->cls, s->reply_to, &pkt, &s->n, 1) < 0)
        p->dead = "the link takes no more messages";
    return true;
}

/* What the port refuses is sent again in time. */
static void handshake_out(struct pump *p)
{
    struct pkt *pkts[BURST];
    int n;

    while ((n = handshake_output(p->handshake, pkts, BURST, p->port->pool, p->now_ns)) > 0) {
        (void)port_tx(p->port, pkts, n);
        for (int i = 0; i < n; i++)
            pkt_unref(pkts[i]);
    }
    if (p->away.connection) /* after the last packet of its handshake */
        say_goodbye(p);
}

void pump_out(struct pump *p)
{
    struct pkt *pkts[BURST];
    int n, taken;

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
        handshake_out(p);
    do {
        n = link_output(p->link, pkts, BURST, p->port->pool, p->now_ns);
        taken = n ? port_tx(p->port, pkts, n) : 0;
        for (int i = 0; i < taken; i++)
            pkt_unref(pkts[i]);
        for (int i = taken; i < n; i++)
            link_output_refused(p->link, pkts[i], p->now_ns);
    } while (n && taken == n);
    p->port_full = taken < n;
}

void pump_during_run(void *arg)
{
    struct pump *p = arg;

    if (!p->clock)
        return;
    pump_in(p, pump_now(p));
    pump_out(p);
}

uint64_t pump_deadline(const struct pump *p)
{
    uint64_t at = p->dead ? p->now_ns : link_deadline(p->link);
    uint64_t shake = p->handshake ? handshake_deadline(p->handshake) : UINT64_MAX;

    at = shake < at ? shake : at;
    if (p->port_full || p->first || link_has_output(p->link) ||
        (p->handshake && handshake_has_output(p->handshake))) {
        if (at > p->now_ns + PORT_FULL_NS)
            at = p->now_ns + PORT_FULL_NS;
    }
    return at;
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

void pump_send(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
               const uint8_t *bytes, size_t n)
{
    struct pump_small *s = p->n_small < SMALL_MAX ? malloc(sizeof *s + n) : NULL;

    if (!s) {
        p->dead = p->n_small < SMALL_MAX ? "out of memory" : "the peer acknowledges nothing";
        return;
    }
    *s =
        (struct pump_small){.reply_to = reply_to, .session = session, .cls = cls, .n = (uint16_t)n};
    memcpy(s->bytes, bytes, n);
    *p->end = s;
    p->end = &s->next;
    p->n_small++;
}
