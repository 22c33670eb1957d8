/* SPDX-License-Identifier: Apache-2.0 */
/* The pump's peer: who it is, by the handshake, and the keys shared with it. */
#include <openssl/crypto.h>

#include "dataplane/pipeline/pump.h"

#define BURST 32

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

    if (pkt && !peer_keys(p, &keys) && !keys_set(keys, r->initiator, r->responder) &&
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
        h.connection != p->met.connection)
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
    if (p->away.connection) /* after the last packet of its handshake */
        say_goodbye(p);
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
