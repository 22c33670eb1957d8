/* SPDX-License-Identifier: Apache-2.0 */
/* The pump's peer: who it is, by the handshake, and the keys shared with it. */
#include <openssl/crypto.h>

#include "dataplane/pipeline/pump.h"

#define BURST         32
#define AWAY_NS       5000000000u
#define AWAY_TOLD_MAX 32u

static bool admits(void *arg, const struct fingerprint *peer)
{
    return authorized_find(arg, peer);
}

int peer_open(struct pump *p)
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
int peer_keys(struct pump *p, struct keys **out)
{
    const struct keys_params kp = {.initiator = p->params.initiator};

    *out = NULL;
    return p->security.identity ? keys_open(&kp, out) : 0;
}

/* The link speaks with this peer from now on. */
void peer_meet(struct pump *p, struct handshake_result *r)
{
    if (keys_set(p->params.keys, r->initiator, r->responder))
        p->dead = "out of memory";
    OPENSSL_cleanse(r->initiator, sizeof r->initiator);
    OPENSSL_cleanse(r->responder, sizeof r->responder);
    if (!p->params.initiator)
        link_met_at(p->link, &r->path);
    p->met = *r;
    p->confirmed = false;
}

static void away_end(struct pump_away *a)
{
    keys_close(a->keys);
    *a = (struct pump_away){0};
}

void peer_close(struct pump *p)
{
    for (unsigned i = 0; i < PUMP_AWAY_MAX; i++)
        away_end(&p->away[i]);
}

/* Another peer has our attention: say so, under the keys made with this one. */
static void turn_away(struct pump *p, struct handshake_result *r)
{
    struct pump_away *a = &p->away[0];

    for (unsigned i = 1; i < PUMP_AWAY_MAX && a->keys; i++) {
        if (!p->away[i].keys || p->away[i].until_ns < a->until_ns)
            a = &p->away[i];
    }
    away_end(a);
    a->connection = r->connection;
    a->path = r->path;
    a->until_ns = p->now_ns + AWAY_NS;
    a->due = true;
    if (peer_keys(p, &a->keys) || keys_set(a->keys, r->initiator, r->responder))
        away_end(a); /* out of memory: it hears nothing, and gives up in its own time */
    handshake_wipe(r);
}

/* Whether it is of one that was turned away; then it lacks our word. */
static bool of_away(struct pump *p, const struct wire_header *h)
{
    for (unsigned i = 0; i < PUMP_AWAY_MAX; i++) {
        struct pump_away *a = &p->away[i];

        if (a->keys && a->connection == h->connection) {
            a->due = a->due ||
                     ((h->type == WIRE_DATA || h->type == WIRE_PING) && a->n_told < AWAY_TOLD_MAX);
            return true;
        }
    }
    return false;
}

static void say_goodbye(struct pump *p, struct pump_away *a)
{
    const struct wire_header h = {.type = WIRE_CLOSE,
                                  .connection = a->connection,
                                  .message = a->n_told + 1,
                                  .n_fragments = 1,
                                  .hop = p->params.hop,
                                  .cls = WIRE_CONTROL};
    struct pkt *pkt = pkt_alloc(p->port->pool);

    if (!pkt)
        return; /* still due */
    a->due = false;
    a->n_told++;
    if (!wire_seal(a->keys, pkt, &a->path, &h))
        (void)port_tx(p->port, &pkt, 1);
    pkt_unref(pkt);
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
            peer_meet(p, &r);
    }
}

/* Takes over the packet where it is of the handshake. */
bool peer_input(struct pump *p, struct pkt *pkt)
{
    struct wire_header h;

    if (wire_is_handshake(pkt)) {
        handshake_input(p->handshake, pkt, p->now_ns);
        take_hands(p); /* the next packet may be sealed with the keys already */
        return true;
    }
    /* A connection of which we have no keys: perhaps we had, before a restart. */
    if (!p->params.initiator && !wire_peek(pkt->data, pkt->len, &h) &&
        h.connection != p->met.connection && !of_away(p, &h))
        handshake_deny(p->handshake, pkt);
    return false;
}

void peer_tick(struct pump *p)
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

/* What the port refuses is sent again in time. */
void peer_output(struct pump *p)
{
    struct pkt *pkts[BURST];
    int n;

    while ((n = handshake_output(p->handshake, pkts, BURST, p->port->pool, p->now_ns)) > 0) {
        (void)port_tx(p->port, pkts, n);
        for (int i = 0; i < n; i++)
            pkt_unref(pkts[i]);
    }
    for (unsigned i = 0; i < PUMP_AWAY_MAX; i++) { /* after the last packet of its handshake */
        struct pump_away *a = &p->away[i];

        if (a->due)
            say_goodbye(p, a);
        if (a->keys && p->now_ns >= a->until_ns)
            away_end(a);
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
