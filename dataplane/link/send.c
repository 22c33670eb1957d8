/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on their way out: numbering, order within a session, window, transmission. */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link/bytes.h"

/* Which class goes first. Control opens and closes sessions: small and rare. */
static const uint8_t precedence[N_CLASSES] = {WIRE_DECODE, WIRE_CONTROL, WIRE_PREFILL, WIRE_REPLAY};

/* With the window closed, the oldest message may still have this many packets under way: whatever
 * else is stuck at the receiver, it is the one that lets the receiver go on. */
#define OLDEST_PACKETS 8u

/* A class that waits while so many times its next packet's bytes of others go has its turn: it gets
 * a ninth of the path at least, however much there is to decode. */
#define PATIENCE 8u

#define DOUBT_AFTER 2u /* times that a long packet was sent in vain: does the path take it? */

static uint32_t bucket_of(uint32_t session)
{
    return session * 0x9e3779b1u >> 24;
}

struct tx_message *send_find(struct link *l, uint32_t number)
{
    if (number < l->tx_base || number >= l->tx_next)
        return NULL;
    return l->tx_ring[number & RING_MASK];
}

/* The session's latest message that the peer may not have, 0 if none. Messages below tx_base have
 * all arrived whole, so the chain ends there and nothing is kept for idle sessions. */
static uint32_t previous_of(struct link *l, uint32_t session)
{
    uint32_t number = l->newest[bucket_of(session)];

    while (number >= l->tx_base && number) {
        const struct tx_message *m = l->tx_ring[number & RING_MASK];

        if (m->session == session)
            return number;
        number = m->older;
    }
    return 0;
}

/* Waiting counts from when there is something to send. */
void send_waits(struct link *l, unsigned cls)
{
    if (list_empty(&l->queued[cls]) && list_empty(&l->lost[cls]))
        l->served_at[cls] = l->gone_bytes;
}

static int check(const struct link *l, enum wire_class cls, int64_t reply_to,
                 struct pkt *const *pkts, const uint16_t *payload_bytes, uint16_t n)
{
    if (l->end != LINK_ALIVE || l->tx_next == UINT32_MAX)
        return -EPIPE;
    if (!l->p.connection)
        return -ENOTCONN;
    if (n < 1 || n > LINK_FRAGMENTS_MAX || (unsigned)cls >= N_CLASSES || reply_to < -1 ||
        reply_to > UINT32_MAX)
        return -EINVAL;
    for (uint16_t i = 0; i < n; i++) {
        uint32_t bytes = link_payload_offset(reply_to >= 0, i) + payload_bytes[i];

        if (bytes > UINT16_MAX || bytes + WIRE_OVERHEAD > pkts[i]->room ||
            (bytes + WIRE_OVERHEAD > l->mtu.frame_sure && !piece_takes(l, bytes)))
            return -EINVAL;
    }
    if (l->tx_next - l->tx_base >= LINK_MESSAGES_MAX)
        return -ENOBUFS;
    return 0;
}

int64_t link_send(struct link *l, uint32_t session, enum wire_class cls, int64_t reply_to,
                  struct pkt **pkts, const uint16_t *payload_bytes, uint16_t n)
{
    int err = check(l, cls, reply_to, pkts, payload_bytes, n);
    struct tx_message *m = NULL;
    uint8_t *prefix;

    if (!err) {
        m = malloc(sizeof *m + n * sizeof m->fragments[0]);
        if (!m)
            err = -ENOMEM;
    }
    if (err) {
        for (uint16_t i = 0; i < n; i++)
            pkt_unref(pkts[i]);
        return err;
    }

    *m = (struct tx_message){
        .number = l->tx_next++,
        .session = session,
        .reply_to = reply_to >= 0 ? (uint32_t)reply_to : 0,
        .older = l->newest[bucket_of(session)],
        .cls = (uint8_t)cls,
        .is_reply = reply_to >= 0,
        .n = n,
    };
    send_waits(l, cls);
    prefix = pkts[0]->data + WIRE_PAYLOAD_AT;
    put_be32(prefix, previous_of(l, session));
    if (m->is_reply)
        put_be32(prefix + 4, m->reply_to);
    for (uint16_t i = 0; i < n; i++) {
        struct tx_fragment *f = &m->fragments[i];

        *f = (struct tx_fragment){
            .message = m,
            .pkt = pkts[i],
            .fragment = i,
            .payload_bytes = (uint16_t)(link_payload_offset(m->is_reply, i) + payload_bytes[i]),
            .state = TX_QUEUED,
        };
        list_append(&l->queued[cls], &f->node);
    }
    l->n_queued += n;
    for (uint16_t i = 0; i < n; i++) {
        l->queued_bytes += m->fragments[i].payload_bytes;
        if (!pkts[i]->made)
            l->stats.copied_bytes[cls] += payload_bytes[i];
    }
    l->tx_ring[m->number & RING_MASK] = m;
    l->newest[bucket_of(session)] = m->number;
    l->stats.tx_messages++;
    return m->number;
}

/* The oldest messages that are wholly acknowledged are forgotten. */
void send_release(struct link *l)
{
    while (l->tx_base < l->tx_next) {
        struct tx_message *m = l->tx_ring[l->tx_base & RING_MASK];

        if (m->n_acked < m->n)
            break;
        l->tx_ring[l->tx_base & RING_MASK] = NULL;
        l->tx_base++;
        free(m);
    }
}

void send_drop_all(struct link *l)
{
    for (; l->tx_base < l->tx_next; l->tx_base++) {
        struct tx_message *m = l->tx_ring[l->tx_base & RING_MASK];

        for (uint16_t i = 0; i < m->n; i++) {
            if (m->fragments[i].state != TX_ACKED)
                pkt_unref(m->fragments[i].pkt);
        }
        l->tx_ring[l->tx_base & RING_MASK] = NULL;
        free(m);
    }
    for (unsigned c = 0; c < N_CLASSES; c++) {
        list_init(&l->queued[c]);
        list_init(&l->lost[c]);
    }
    list_init(&l->refused);
    list_init(&l->sent);
    piece_drop_queued(l);
    l->n_queued = l->in_flight = l->in_flight_more = l->probes = 0;
    l->queued_bytes = 0;
    l->sealed[0] = l->sealed[1] = 0;
}

/*
 * First transmission: everything the headers and the tag cover is known now. Only here a fragment
 * is sealed, so its number is never used for other bytes.
 */
static int seal(struct link *l, struct tx_fragment *f)
{
    const struct tx_message *m = f->message;
    bool reply = m->is_reply && f->fragment == 0;
    struct wire_header h = {
        .type = WIRE_DATA,
        .flags = (uint8_t)((reply ? WIRE_FLAG_REPLY : 0) | (l->heard ? 0 : WIRE_FLAG_HELLO) |
                           (l->p.initiator ? WIRE_FLAG_INITIATOR : 0)),
        .connection = l->p.connection,
        .epoch = link_next_epoch(l),
        .message = m->number,
        .fragment = f->fragment,
        .n_fragments = m->n,
        .session = m->session,
        .hop = l->p.hop,
        .cls = m->cls,
        .payload_bytes = f->payload_bytes,
    };

    if (reply)
        put_be32(f->pkt->data + WIRE_PAYLOAD_AT + 8, receive_answered(l, m->reply_to));
    f->epoch = h.epoch;
    f->moves = l->moves;
    return wire_seal(l->p.keys, f->pkt, &l->path, &h);
}

/* NULL: it can't be sealed (link_send checked the room, so the keys are used up). */
static struct pkt *transmit(struct link *l, struct tx_fragment *f)
{
    if (f->state == TX_QUEUED && seal(l, f)) {
        link_end(l, LINK_WORN_OUT);
        return NULL;
    }
    list_remove(&f->node);
    if (f->state == TX_QUEUED) {
        l->sealed[f->epoch % 2]++;
        f->message->n_started++;
        l->n_queued--;
        l->queued_bytes -= f->payload_bytes;
        l->in_flight++;
        if (!l->heard && !l->order)
            l->heard_ns = l->now_ns; /* an answer is expected from now on */
    } else if (f->n_sent) {
        l->stats.retransmits++;
        if (f->n_sent >= DOUBT_AFTER && f->pkt->len > l->mtu.frame_sure)
            mtu_doubt(l);
    }
    if (f->moves != l->moves) {
        outer_readdress(f->pkt->data, &l->path);
        f->moves = l->moves;
    }
    if (l->probes)
        l->probes--;
    l->gone_bytes += f->pkt->len;
    l->served_at[f->message->cls] = l->gone_bytes;
    pace_sent(&l->pace, &f->mark, f->pkt->len, l->now_ns);
    f->n_sent++;
    f->state = TX_SENT;
    f->sent_ns = l->now_ns;
    f->order = ++l->order;
    list_append(&l->sent, &f->node);
    l->stats.tx_packets++;
    l->stats.tx_bytes += f->pkt->len;
    return pkt_ref(f->pkt);
}

static uint32_t window(const struct link *l)
{
    return l->credit < l->p.window_packets ? l->credit : l->p.window_packets;
}

/* The first packet of the oldest message in this state, NULL if none. */
struct tx_fragment *send_oldest(struct link *l, enum tx_state state)
{
    struct tx_message *m = send_find(l, l->tx_base);

    for (uint16_t i = m ? m->first_unacked : 0; m && i < m->n_started; i++) {
        if (m->fragments[i].state == state)
            return &m->fragments[i];
    }
    return NULL;
}

/* A packet of the oldest message that may go although the window is closed. */
static struct tx_fragment *oldest_unsent(struct link *l)
{
    uint32_t most = OLDEST_PACKETS < l->p.window_packets ? OLDEST_PACKETS : l->p.window_packets;
    struct tx_message *m = send_find(l, l->tx_base);

    if (!m || m->n_started == m->n || (uint32_t)(m->n_started - m->n_acked) >= most)
        return NULL;
    return &m->fragments[m->n_started];
}

/* New packets wait while the keys are worn and can't be changed yet. */
static bool may_start(const struct link *l)
{
    return !l->p.keys || !keys_worn(l->p.keys) || !l->sealed[(keys_epoch(l->p.keys) + 1u) % 2];
}

/* The class's next: what was lost before what is new; NULL: none may go. */
static struct tx_fragment *head_of(struct link *l, unsigned cls, bool open)
{
    if (!list_empty(&l->lost[cls]))
        return (struct tx_fragment *)l->lost[cls].next;
    return open && !list_empty(&l->queued[cls]) ? (struct tx_fragment *)l->queued[cls].next : NULL;
}

/* By class, but before all others the one that has waited longest, if that is too long. */
static struct tx_fragment *next_of_classes(struct link *l, bool open)
{
    struct tx_fragment *next = NULL;
    uint64_t longest = 0;

    for (unsigned i = 0; i < N_CLASSES; i++) {
        struct tx_fragment *f = head_of(l, precedence[i], open);
        uint64_t waited;

        if (!f)
            continue;
        waited = l->gone_bytes - l->served_at[precedence[i]];
        if (!next) {
            next = f;
        } else if (waited > longest && waited >= PATIENCE * (WIRE_OVERHEAD + f->payload_bytes)) {
            next = f;
            longest = waited;
        }
    }
    return next;
}

/* What goes next: what the port refused, then as the classes say. A receiver that is full takes the
 * oldest message only. */
static struct tx_fragment *next_fragment(struct link *l)
{
    bool open = l->in_flight + l->in_flight_more < window(l) && may_start(l);
    struct tx_fragment *next;

    if (!list_empty(&l->refused))
        return (struct tx_fragment *)l->refused.next;
    if (l->credit == 0) {
        struct tx_fragment *f = send_oldest(l, TX_LOST);

        return f ? f : oldest_unsent(l);
    }
    next = next_of_classes(l, open);
    return next || open ? next : oldest_unsent(l);
}

/* Whether one more packet may go as far as the path is concerned: now, and not too many at once.
 * What the port refused was let go before. */
static bool path_takes(const struct link *l)
{
    return l->probes || !list_empty(&l->refused) ||
           (l->pace.next_ns <= l->now_ns && !pace_is_full(&l->pace));
}

int send_output(struct link *l, struct pkt **out, int n, struct pkt_pool *pool)
{
    struct tx_fragment *f = NULL;
    bool replied = false;
    int count = 0;

    while (count < n && (f = next_fragment(l)) && path_takes(l)) {
        bool reply = f->state == TX_QUEUED && f->message->is_reply;
        struct pkt *p = transmit(l, f);

        if (!p)
            break;
        replied = replied || reply;
        const bool cut = p->len > l->mtu.frame_max || pkt_is_lone(p);
        l->in_flight_more -= f->more;
        f->more = cut ? (uint8_t)(piece_count(p) - 1) : 0;
        l->in_flight_more += f->more;
        if (cut) {
            piece_cut(l, p, pool);
            pkt_unref(p);
            count += piece_output(l, out + count, n - count);
            continue;
        }
        out[count++] = p;
    }
    if (count < n && !f)
        pace_starved(&l->pace, l->n_queued ? PACE_BY_CREDIT : PACE_BY_OWNER);
    if (replied)
        receive_replied(l);
    return count;
}

uint64_t send_deadline(const struct link *l)
{
    if (l->pace.next_ns <= l->now_ns || pace_is_full(&l->pace) || !next_fragment((struct link *)l))
        return UINT64_MAX;
    return l->pace.next_ns;
}

/* The port did not take it: as if it had not been sent. */
void send_refused(struct link *l, struct tx_fragment *f)
{
    list_remove(&f->node);
    pace_refused(&l->pace, f->pkt->len);
    if (--f->n_sent)
        l->stats.retransmits--;
    l->stats.tx_packets--;
    l->stats.tx_bytes -= f->pkt->len;
    f->state = TX_REFUSED;
    list_append(&l->refused, &f->node);
}

bool send_has_output(const struct link *l)
{
    return next_fragment((struct link *)l) && path_takes(l);
}

/* Beyond what the path takes at once as much again may wait: it goes when that is acknowledged. */
uint32_t link_window_left(const struct link *l)
{
    uint32_t used = l->in_flight + l->in_flight_more + l->n_queued, all = window(l);

    if (l->pace.pipe_bytes + l->queued_bytes >= 2 * l->pace.window_bytes)
        return 0;
    return used < all ? all - used : 0;
}

uint32_t link_unacknowledged(const struct link *l)
{
    return l->in_flight + l->n_queued;
}

bool link_idle(const struct link *l)
{
    return l->tx_base == l->tx_next;
}

static bool has_tag(const struct pkt *p, const uint8_t tag[WIRE_TAG_BYTES])
{
    return !memcmp(p->data + p->len - WIRE_TAG_BYTES, tag, WIRE_TAG_BYTES);
}

bool link_sent_tag(const struct link *l, const uint8_t tag[WIRE_TAG_BYTES])
{
    for (uint32_t number = l->tx_base; number < l->tx_next; number++) {
        const struct tx_message *m = l->tx_ring[number & RING_MASK];

        for (uint16_t i = m ? m->first_unacked : 0; m && i < m->n_started; i++) {
            const struct tx_fragment *f = &m->fragments[i];

            if (f->n_sent && f->state != TX_ACKED && has_tag(f->pkt, tag))
                return true;
        }
    }
    return l->has_pinged && !memcmp(l->ping_tag, tag, WIRE_TAG_BYTES);
}
