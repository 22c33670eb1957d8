/* SPDX-License-Identifier: Apache-2.0 */
/* An edge's peer: its cloud, by the handshake, and the keys shared with it. */
#include <openssl/crypto.h>

#include "dataplane/pipeline/pump.h"

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
        .initiator = true,
        .connection = p->params.connection,
        .path = p->params.path,
        .hop = p->params.hop,
        .payload_max_bytes = (uint32_t)pump_payload_sure(p->port),
    };

    return handshake_open(&hp, p->now_ns, &p->handshake);
}

void peer_meet(struct pump *p, struct handshake_result *r)
{
    if (keys_set(p->params.keys, r->initiator, r->responder))
        p->dead = "out of memory";
    OPENSSL_cleanse(r->initiator, sizeof r->initiator);
    OPENSSL_cleanse(r->responder, sizeof r->responder);
    p->met = *r;
}

/* Our cloud was started again, or somebody says so: it can be asked where that is not proved. */
static void denied(struct pump *p, const struct handshake_denial *d)
{
    if (!link_heard(p->link))
        return;
    if (handshake_denial_counts(p->handshake, d) &&
        handshake_denial_proved(p->handshake, d, link_sent_tag(p->link, d->tag)))
        link_forgotten(p->link);
    else
        link_doubt(p->link, p->now_ns);
}

bool peer_input(struct pump *p, struct pkt *pkt)
{
    struct handshake_denial d;
    struct handshake_result r;

    if (!wire_is_handshake(pkt))
        return false;
    handshake_input(p->handshake, pkt, p->now_ns);
    while (handshake_take(p->handshake, &r)) { /* at once: the next packet may be sealed already */
        if (!keys_ready(p->params.keys))
            peer_meet(p, &r);
        handshake_wipe(&r);
    }
    if (handshake_denied(p->handshake, &d))
        denied(p, &d);
    return true;
}

void peer_tick(struct pump *p)
{
    uint64_t deadline;

    handshake_tick(p->handshake, p->now_ns, &deadline);
}

void peer_send(struct handshake *h, struct port *port, uint64_t now_ns)
{
    struct pkt *pkts[PUMP_BURST];
    int n;

    while ((n = handshake_output(h, pkts, PUMP_BURST, port->pool, now_ns)) > 0) {
        (void)port_tx(port, pkts, n);
        for (int i = 0; i < n; i++)
            pkt_unref(pkts[i]);
    }
}

void peer_output(struct pump *p)
{
    peer_send(p->handshake, p->port, p->now_ns);
}

const char *pump_refused(const struct pump *p)
{
    return p->handshake ? handshake_error(p->handshake) : NULL;
}
