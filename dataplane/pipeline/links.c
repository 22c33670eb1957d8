/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/links.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/range.h"

#define LEAVE_NS     5000000000u /* how long a CLOSE is repeated to who goes on */
#define SILENT_NS    500000000u  /* who was heard since then need not be asked */
#define SHARE_MIN    4u
#define SHARE_IDLE   32u /* what an edge may send before it knows our credit */

/* --- life ------------------------------------------------------------------------------------- */

/* The list may be another one by then. */
static bool admits(void *arg, const struct fingerprint *peer)
{
    const struct links *l = arg;

    return authorized_find(l->p.security.peers, peer);
}

static int open_handshake(struct links *l)
{
    const struct handshake_params hp = {
        .identity = l->p.security.identity,
        .admits = admits,
        .arg = l,
        .hop = l->p.link.hop,
        .payload_max_bytes = (uint32_t)pump_payload_sure(l->p.port),
    };

    return handshake_open(&hp, l->now_ns, &l->handshake);
}

int links_open(struct links *l, const struct links_params *p, uint64_t now_ns)
{
    int rc = 0;

    *l = (struct links){.p = *p, .n_places = p->max + LINKS_AWAY, .now_ns = now_ns};
    if (!p->max || p->max > LINKS_MAX || p->port->pool->n_total < PUMP_POOL_MIN)
        return -EINVAL;
    l->peers = calloc(l->n_places, sizeof l->peers[0]);
    if (!l->peers)
        return -ENOMEM;
    if (p->security.identity)
        rc = open_handshake(l);
    if (rc)
        links_close(l);
    return rc;
}

static void forget(struct links *l, struct links_peer *p)
{
    if (links_is_live(p))
        l->n_live--;
    if (!l->handshake)
        l->ended[l->n_ended++ % LINKS_ENDED] = p->pump.params.connection;
    pump_close(&p->pump);
    *p = (struct links_peer){0};
    while (l->n_used && !l->peers[l->n_used - 1].pump.link)
        l->n_used--;
}

void links_close(struct links *l)
{
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (!p->pump.link)
            continue;
        link_shutdown(p->pump.link);
        pump_out(&p->pump);
        forget(l, p);
    }
    handshake_close(l->handshake);
    free(l->peers);
    *l = (struct links){0};
}

void links_end(struct links *l, struct links_peer *p)
{
    if (link_why_dead(p->pump.link)) { /* it knows already, or is past knowing */
        forget(l, p);
        return;
    }
    link_shutdown(p->pump.link);
    l->n_live--;
    p->leaving = true;
    p->until_ns = l->now_ns + LEAVE_NS;
}

/* --- joining ---------------------------------------------------------------------------------- */

static struct links_peer *find(struct links *l, uint32_t connection)
{
    for (uint32_t i = 0; i < l->n_used; i++) {
        if (l->peers[i].pump.link && l->peers[i].pump.params.connection == connection)
            return &l->peers[i];
    }
    return NULL;
}

/* There is one, for no more than `max` live: free, or of who has been told to go for longest. */
static struct links_peer *place(struct links *l)
{
    struct links_peer *oldest = NULL;

    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (!p->pump.link)
            return p;
        if (p->leaving && (!oldest || p->until_ns < oldest->until_ns))
            oldest = p;
    }
    if (l->n_used < l->n_places)
        return &l->peers[l->n_used];
    if (oldest)
        forget(l, oldest);
    return oldest;
}

static uint64_t clock_of(void *arg)
{
    return links_now(arg);
}

/* NULL: out of memory, and it hears nothing. */
static struct links_peer *join(struct links *l, uint32_t connection, uint16_t epoch,
                               struct handshake_result *met)
{
    const struct port *port = l->p.port;
    const struct wire_path *path = port->path ? port->path : &wire_path_cloud;
    struct link_params params = l->p.link;
    struct links_peer *p = place(l);

    if (!p)
        return NULL;
    params.initiator = false;
    params.connection = connection;
    params.epoch = epoch;
    if (pump_open_met(&p->pump, l->p.port, &params, met, path, l->now_ns))
        return NULL;
    if (p == &l->peers[l->n_used])
        l->n_used++;
    p->pump.clock = clock_of;
    p->pump.clock_arg = l;
    p->joined_ns = l->now_ns;
    p->serial = ++l->n_joined;
    l->n_live++;
    return p;
}

static void doubt(const struct links *l, struct links_peer *p)
{
    link_doubt(p->pump.link, l->now_ns);
    p->pump.now_ns = l->now_ns;
}

void links_contest(struct links *l, const struct links_peer *except)
{
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (links_is_live(p) && p != except && !p->pump.dead &&
            link_silent_ns(p->pump.link) > SILENT_NS)
            doubt(l, p);
    }
}

/*
 * An edge has proved who it is. If it has other links it may have been started again: they are
 * asked whether they are still there. Two edges that share an identity are both served.
 */
static void meet(struct links *l, struct handshake_result *r)
{
    const struct authorized_peer *who = authorized_find(l->p.security.peers, &r->peer);
    struct links_peer *same = find(l, r->connection), *p;
    const struct fingerprint peer = r->peer;

    if (!who) /* it was taken off the list meanwhile */
        return;
    if (same) {
        /* Ours began anew before it knew our keys; else a number drawn twice: it will draw again.
         */
        if (same->heard || !fingerprint_equal(&same->pump.met.peer, &peer))
            return;
        forget(l, same);
    }
    if (l->n_live >= l->p.max) {
        l->turned_away++;
        links_contest(l, NULL);
        p = join(l, r->connection, 0, r);
        if (p)
            links_end(l, p);
        return;
    }
    p = join(l, r->connection, 0, r);
    if (!p)
        return;
    p->who = who;
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *other = &l->peers[i];

        if (other != p && links_is_live(other) && !other->pump.dead &&
            fingerprint_equal(&other->pump.met.peer, &peer))
            doubt(l, other);
    }
}

static void take_hands(struct links *l)
{
    struct handshake_result r;

    while (handshake_take(l->handshake, &r)) {
        meet(l, &r);
        handshake_wipe(&r);
    }
}

void links_readmit(struct links *l, const struct authorized *peers)
{
    l->p.security.peers = peers;
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (!links_is_live(p))
            continue;
        p->who = authorized_find(peers, &p->pump.met.peer);
        if (!p->who && !p->pump.dead)
            p->pump.dead = "it is not admitted any more";
    }
}

/* --- frames of nobody we know ------------------------------------------------------------------
 */

static bool has_ended(const struct links *l, uint32_t connection)
{
    for (uint32_t i = 0; i < LINKS_ENDED; i++) {
        if (l->ended[i] == connection)
            return true;
    }
    return false;
}

/*
 * Without encryption. The first message of a connection, sent before its sender heard us, opens it;
 * others that were sent so come again; to all else we say that we know no such connection. Takes the
 * packet over where it returns the link that it is for.
 */
static struct links_peer *stranger(struct links *l, struct pkt *pkt)
{
    const uint8_t *payload;
    struct wire_header h;
    bool ended;

    if (wire_open(NULL, pkt->data, pkt->len, &h, &payload) || !h.connection ||
        !(h.flags & WIRE_FLAG_INITIATOR) || h.hop != l->p.link.hop)
        return NULL;
    ended = has_ended(l, h.connection);
    if (h.type == WIRE_DATA && h.message == 1 && h.flags & WIRE_FLAG_HELLO && !ended) {
        if (l->n_live < l->p.max)
            return join(l, h.connection, h.epoch, NULL);
        l->turned_away++;
        links_contest(l, NULL);
    } else if (h.type == WIRE_DATA && h.flags & WIRE_FLAG_HELLO && !ended) {
        return NULL;
    }
    if (h.type != WIRE_DATA && h.type != WIRE_PING) /* never answer a RESET with one */
        return NULL;
    l->reset.pending = true;
    outer_way_back(pkt->data, &l->reset.path);
    l->reset.connection = h.connection;
    l->reset.epoch = h.epoch;
    return NULL;
}

static void send_reset(struct links *l)
{
    const struct wire_header h = {.type = WIRE_RESET,
                                  .connection = l->reset.connection,
                                  .epoch = l->reset.epoch,
                                  .message = ++l->n_resets ? l->n_resets : ++l->n_resets,
                                  .n_fragments = 1,
                                  .hop = l->p.link.hop,
                                  .cls = WIRE_CONTROL};
    struct pkt *pkt = pkt_alloc(l->p.port->pool);

    if (!pkt)
        return; /* still pending */
    l->reset.pending = false;
    if (!wire_seal(NULL, pkt, &l->reset.path, &h))
        (void)port_tx(l->p.port, &pkt, 1);
    pkt_unref(pkt);
}

/* --- arrival ---------------------------------------------------------------------------------- */

static void dispatch(struct links *l, struct pkt *pkt)
{
    struct links_peer *p;
    struct wire_header h;

    if (l->handshake && wire_is_handshake(pkt)) {
        handshake_input(l->handshake, pkt, l->now_ns);
        take_hands(l); /* the next packet may be sealed with the keys already */
        return;
    }
    if (wire_peek(pkt->data, pkt->len, &h)) {
        l->bad_frames++;
        pkt_unref(pkt);
        return;
    }
    p = find(l, h.connection);
    if (!p) {
        l->strangers++;
        if (l->handshake)
            handshake_deny(l->handshake, pkt); /* perhaps we had its keys before a restart */
        else
            p = stranger(l, pkt);
    }
    if (p)
        (void)link_input(p->pump.link, pkt, l->now_ns); /* bad ones are counted there */
    else
        pkt_unref(pkt);
}

static void tick(struct links *l)
{
    uint64_t deadline;

    if (l->handshake)
        handshake_tick(l->handshake, l->now_ns, &deadline);
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (!p->pump.link)
            continue;
        if (p->leaving) {
            if (l->now_ns >= p->until_ns)
                forget(l, p);
            continue;
        }
        p->pump.now_ns = l->now_ns;
        pump_tick(&p->pump);
        if (!p->heard && link_heard(p->pump.link)) {
            p->heard = true;
            if (l->handshake)
                handshake_confirm(l->handshake, p->pump.params.connection);
        }
    }
}

/* Shares follow the number of edges that are at work. */
static void share(struct links *l)
{
    const uint32_t pool = l->p.port->pool->n_total / PUMP_POOL_SHARE;
    uint32_t most = l->p.link.rx_budget_packets ? l->p.link.rx_budget_packets : 2048;

    l->n_active = 0;
    for (uint32_t i = 0; i < l->n_used; i++)
        l->n_active += links_is_live(&l->peers[i]) && l->peers[i].active;
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[i];

        if (!links_is_live(p))
            continue;
        p->pump.packets_max = links_share(l, p, pool);
        link_set_budget(p->pump.link, smaller(most, p->pump.packets_max));
    }
}

uint32_t links_share(const struct links *l, const struct links_peer *p, uint32_t packets)
{
    uint32_t part = smaller(SHARE_IDLE, packets / l->p.max);

    if (l->n_live < 2)
        return packets;
    if (p->active && l->n_active && packets / l->n_active > part)
        part = packets / l->n_active;
    return part > SHARE_MIN ? part : SHARE_MIN;
}

/* All that have a link, another one first each time, as the port may not have room for all. */
static void in_turn(struct links *l, uint32_t *first, void (*visit)(struct pump *p))
{
    for (uint32_t i = 0; i < l->n_used; i++) {
        struct links_peer *p = &l->peers[(*first + i) % l->n_used];

        if (p->pump.link)
            visit(&p->pump);
    }
    *first = l->n_used ? (*first + 1) % l->n_used : 0;
}

void links_in(struct links *l, uint64_t now_ns)
{
    const int burst = pump_burst(l->p.port);
    struct pkt *pkts[PUMP_BURST];

    if (now_ns > l->now_ns)
        l->now_ns = now_ns;
    share(l);
    for (int total = 0; total < PUMP_IN_MAX; total += burst) {
        const int n = port_rx(l->p.port, pkts, burst);

        for (int k = 0; k < n; k++)
            dispatch(l, pkts[k]);
        if (n < burst)
            break;
        in_turn(l, &l->first_amid, pump_amid);
    }
    tick(l);
}

/* --- departure -------------------------------------------------------------------------------- */

/* Beside what the peers' pumps have. */
static bool has_output(const struct links *l)
{
    return l->reset.pending || (l->handshake && handshake_has_output(l->handshake));
}

void links_out(struct links *l)
{
    if (l->handshake && handshake_has_output(l->handshake))
        peer_send(l->handshake, l->p.port, links_now(l));
    if (l->reset.pending)
        send_reset(l);
    if (!has_output(l))
        l->stuck_ns = 0;
    else if (!l->stuck_ns)
        l->stuck_ns = l->now_ns;
    in_turn(l, &l->first, pump_out);
}

void links_during_run(void *arg)
{
    struct links *l = arg;

    if (!l->clock)
        return;
    links_in(l, links_now(l));
    links_out(l);
}

uint64_t links_now(struct links *l)
{
    if (l->clock) {
        const uint64_t now = l->clock(l->clock_arg);

        if (now > l->now_ns)
            l->now_ns = now;
    }
    return l->now_ns;
}

static uint64_t deadline_of(const struct links_peer *p)
{
    return p->leaving ? least(pump_retry(&p->pump), p->until_ns) : pump_deadline(&p->pump);
}

uint64_t links_deadline(const struct links *l)
{
    uint64_t at = l->handshake ? handshake_deadline(l->handshake) : UINT64_MAX;

    if (has_output(l))
        at = least(at, pump_retry_at(l->now_ns, l->stuck_ns));
    for (uint32_t i = 0; i < l->n_used; i++) {
        if (l->peers[i].pump.link)
            at = least(at, deadline_of(&l->peers[i]));
    }
    return at;
}
