/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on their way in: duplicates, reassembly, order within a session, acknowledgement. */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link/bytes.h"

static struct rx_slot *slot_of(struct link *l, uint32_t number)
{
    return &l->rx_ring[number & RING_MASK];
}

/* --- delivery --------------------------------------------------------------------------------- */

static bool queue_has_session(const struct rx_queue *q, uint32_t session)
{
    for (const struct rx_message *m = q->head; m; m = m->next) {
        if (m->session == session)
            return true;
    }
    return false;
}

/* Decode overtakes the other classes, but not messages of its own session. */
static void make_ready(struct link *l, struct rx_message *m)
{
    bool first = m->cls == WIRE_DECODE && !queue_has_session(&l->ready_other, m->session);
    struct rx_queue *q = first ? &l->ready_decode : &l->ready_other;

    m->next = NULL;
    *q->tail = m;
    q->tail = &m->next;
    l->stats.rx_messages++;
}

/* The message before it in its session was handed over to delivery. (All below rx_base were.) */
static bool may_follow(struct link *l, uint32_t prev)
{
    return prev < l->rx_base || slot_of(l, prev)->delivered;
}

static void completed(struct link *l, struct rx_message *m)
{
    struct rx_slot *slot = slot_of(l, m->number);

    slot->complete = 1;
    if (!may_follow(l, m->prev))
        return;
    for (;;) { /* it, and those that waited for it */
        make_ready(l, m);
        slot->message = NULL;
        slot->delivered = 1;
        if (!slot->follower || !slot_of(l, slot->follower)->complete)
            break;
        slot = slot_of(l, slot->follower);
        m = slot->message;
    }
    while (slot_of(l, l->rx_base)->complete) {
        *slot_of(l, l->rx_base) = (struct rx_slot){0};
        l->rx_base++;
    }
}

bool link_recv(struct link *l, struct link_message *out)
{
    struct rx_queue *q = l->ready_decode.head ? &l->ready_decode : &l->ready_other;
    struct rx_message *m = q->head;

    if (!m)
        return false;
    q->head = m->next;
    if (!q->head)
        q->tail = &q->head;
    l->rx_held -= m->n_packets;
    if (l->credit_told < l->p.rx_budget_packets / 4 &&
        receive_credit(l) >= l->p.rx_budget_packets / 2)
        l->ack_now = true; /* the sender may be waiting for this */
    *out = (struct link_message){
        .session = m->session,
        .message = m->number,
        .cls = (enum wire_class)m->cls,
        .is_reply = m->is_reply,
        .reply_to = m->reply_to,
        .n_fragments = m->n,
        .n_packets = m->n_packets,
        .pkts = m->pkts,
    };
    return true;
}

static void free_message(struct rx_message *m)
{
    for (uint16_t i = 0; i < m->n; i++) {
        if (m->pkts[i])
            pkt_unref(m->pkts[i]);
    }
    free(m);
}

void link_message_free(struct link_message *m)
{
    if (!m->pkts)
        return;
    free_message((struct rx_message *)((char *)m->pkts - offsetof(struct rx_message, pkts)));
    m->pkts = NULL;
}

uint32_t link_message_held_ns(const struct link_message *m)
{
    return m->is_reply ? get_be32(m->pkts[0]->data + WIRE_PAYLOAD_AT + 8) : HOLD_UNKNOWN;
}

const uint8_t *link_message_payload(const struct link_message *m, uint16_t fragment, size_t *len)
{
    const uint8_t *frame = m->pkts[fragment]->data;
    uint32_t skip = link_payload_offset(m->is_reply, fragment);

    *len = get_be16(frame + WIRE_PAYLOAD_AT - 2) - skip;
    return frame + WIRE_PAYLOAD_AT + skip;
}

void receive_drop_all(struct link *l)
{
    struct rx_message *m;

    for (unsigned i = 0; i < LINK_MESSAGES_MAX; i++) {
        if (l->rx_ring[i].message)
            free_message(l->rx_ring[i].message);
        l->rx_ring[i] = (struct rx_slot){0};
    }
    while ((m = l->ready_decode.head)) {
        l->ready_decode.head = m->next;
        free_message(m);
    }
    while ((m = l->ready_other.head)) {
        l->ready_other.head = m->next;
        free_message(m);
    }
    piece_drop_partial(l);
    l->ready_decode.tail = &l->ready_decode.head;
    l->ready_other.tail = &l->ready_other.head;
    l->rx_held = 0;
}

/* --- acknowledgement -------------------------------------------------------------------------- */

static void owe(struct link *l, const struct wire_header *h)
{
    uint32_t i;

    if (!l->owed_packets++)
        l->owed_since_ns = l->now_ns;
    for (i = 0; i < l->n_owed && l->owed[i].message != h->message; i++)
        ;
    if (i == OWED_MAX || l->owed_packets >= ACK_EVERY) {
        l->ack_now = true;
    } else {
        l->owed[i].message = h->message;
        l->owed[i].at_ns = l->now_ns;
        l->n_owed = i == l->n_owed ? i + 1 : l->n_owed;
    }
    l->echo_message = h->message;
    l->echo_fragment = h->fragment;
    l->echo_ns = l->now_ns;
}

static uint32_t hold_since(const struct link *l, uint64_t then)
{
    uint64_t hold = l->now_ns - then;

    return hold < HOLD_UNKNOWN ? (uint32_t)hold : HOLD_UNKNOWN;
}

/* A reply to the message goes out and acknowledges it: how long it was held. */
uint32_t receive_answered(struct link *l, uint32_t message)
{
    for (uint32_t i = 0; i < l->n_owed; i++) {
        if (l->owed[i].message == message) {
            uint32_t hold = hold_since(l, l->owed[i].at_ns);

            l->owed[i] = l->owed[--l->n_owed];
            if (!l->n_owed && !l->ack_now)
                l->owed_packets = 0;
            return hold;
        }
    }
    return HOLD_UNKNOWN;
}

/*
 * Replies went out, each an acknowledgement of one message. To the sender those that arrived before
 * it would seem to be lost: say at once that they are not.
 */
void receive_replied(struct link *l)
{
    if (l->n_owed)
        l->ack_now = true;
}

uint32_t receive_credit(const struct link *l)
{
    uint32_t left = l->rx_held < l->p.rx_budget_packets ? l->p.rx_budget_packets - l->rx_held : 0;

    return left < UINT16_MAX ? left : UINT16_MAX;
}

/* Whether a message with packets to acknowledge can't be answered yet: it lacks some, or waits for
 * an earlier one. */
static bool owes_parts(const struct link *l)
{
    for (uint32_t i = 0; i < l->n_owed; i++) {
        uint32_t number = l->owed[i].message;

        if (number >= l->rx_base && !l->rx_ring[number & RING_MASK].delivered)
            return true;
    }
    return false;
}

/* No reply can carry an acknowledgement of parts, and the sender may wait for it. */
uint64_t receive_ack_deadline(const struct link *l)
{
    uint64_t delay = l->p.ack_delay_ns;

    if (!l->owed_packets)
        return UINT64_MAX;
    if (delay > ACK_PARTS_NS && owes_parts(l))
        delay = ACK_PARTS_NS;
    return l->owed_since_ns + delay;
}

static bool has_fragment(const struct rx_message *m, uint32_t i)
{
    return m->have[i / 64] >> i % 64 & 1;
}

/* Messages from this one on that are all whole. */
static uint32_t run_of(struct link *l, uint32_t number)
{
    uint32_t n = 0;

    while (number + n < l->rx_end && slot_of(l, number + n)->complete)
        n++;
    return n;
}

/* One list entry for messages above rx_base from this one on: its bytes, 0 when they don't fit; *n:
 * how many messages it tells of. */
static size_t write_entry(struct link *l, uint32_t number, uint8_t *p, size_t capacity, uint32_t *n)
{
    const struct rx_slot *slot = slot_of(l, number);
    const struct rx_message *m = slot->message;
    uint16_t first = 0, bits = 0;
    size_t bytes = 8;

    *n = 1;
    if (slot->complete) {
        *n = run_of(l, number);
        first = ACK_RUN;
        bits = (uint16_t)*n;
    } else {
        first = m->leading;
        bits = (uint16_t)(m->end - m->leading);
        bytes += (bits + 7u) / 8;
    }
    if (bytes > capacity)
        return 0;
    put_be32(p, number);
    put_be16(p + 4, first);
    put_be16(p + 6, bits);
    memset(p + 8, 0, bytes - 8);
    for (uint16_t i = 0; i < bits && first != ACK_RUN; i++)
        p[8 + i / 8] |= (uint8_t)(has_fragment(m, first + i) << i % 8);
    return bytes;
}

/*
 * The whole state of reception rather than what changed, so that a lost acknowledgement is made up
 * for by the next one.
 */
size_t receive_write_ack(struct link *l, uint8_t *payload, size_t capacity)
{
    size_t at = ACK_HEAD_BYTES;

    l->credit_told = receive_credit(l);
    put_be32(payload, l->rx_base);
    put_be32(payload + 4, l->echo_message);
    put_be16(payload + 8, l->echo_fragment);
    put_be16(payload + 10, (uint16_t)l->credit_told);
    put_be32(payload + 12, l->echo_message ? hold_since(l, l->echo_ns) : HOLD_UNKNOWN);
    put_be32(payload + 16, (uint32_t)l->stats.duplicates);

    /* Oldest first, but where they don't all fit the next list begins where this one ends. */
    uint32_t number =
        l->ack_from > l->rx_base && l->ack_from < l->rx_end ? l->ack_from : l->rx_base;
    l->ack_from = 0;
    for (uint32_t n; number < l->rx_end; number += n) {
        const struct rx_slot *slot = slot_of(l, number);
        size_t bytes;

        n = 1;
        if (!slot->message && !slot->complete)
            continue;
        bytes = write_entry(l, number, payload + at, capacity - at, &n);
        if (!bytes) {
            l->ack_from = number;
            break;
        }
        at += bytes;
    }
    l->ack_now = false;
    l->n_owed = l->owed_packets = 0;
    l->echo_message = 0;
    return at;
}

/* --- arrival ---------------------------------------------------------------------------------- */

static struct rx_message *begin_message(struct link *l, const struct wire_header *h)
{
    struct rx_message *m = malloc(sizeof *m + h->n_fragments * sizeof m->pkts[0]);

    if (!m)
        return NULL;
    *m = (struct rx_message){
        .number = h->message, .session = h->session, .cls = h->cls, .n = h->n_fragments};
    memset(m->pkts, 0, h->n_fragments * sizeof m->pkts[0]);
    slot_of(l, h->message)->message = m;
    if (h->message >= l->rx_end)
        l->rx_end = h->message + 1;
    return m;
}

/* A first fragment's prefix. The message before it in its session must be an earlier one, and each
 * has one successor. */
static bool prefix_ok(struct link *l, const struct wire_header *h, const uint8_t *payload)
{
    bool reply = h->flags & WIRE_FLAG_REPLY;
    uint32_t prev;

    if (h->payload_bytes < link_payload_offset(reply, 0))
        return false;
    prev = get_be32(payload);
    return prev < h->message && (prev < l->rx_base || !slot_of(l, prev)->follower);
}

/* Room for one more packet, or it is needed so that anything goes on at all: it belongs to the
 * oldest incomplete message and nothing waits to be taken by link_recv. */
static bool within_budget(const struct link *l, uint32_t number)
{
    if (l->rx_held < l->p.rx_budget_packets)
        return true;
    return number == l->rx_base && !l->ready_decode.head && !l->ready_other.head;
}

static bool is_duplicate(struct link *l, const struct wire_header *h)
{
    const struct rx_slot *slot;

    if (h->message < l->rx_base)
        return true;
    slot = slot_of(l, h->message);
    if (slot->complete)
        return true;
    return slot->message && h->fragment < slot->message->n &&
           has_fragment(slot->message, h->fragment);
}

/* A fragment that did not arrive yet and may. */
bool receive_is_new(struct link *l, const struct wire_header *h)
{
    return h->message - l->rx_base < LINK_MESSAGES_MAX && !is_duplicate(l, h);
}

static void take(struct link *l, struct rx_message *m, struct pkt *p, const struct wire_header *h,
                 const uint8_t *payload)
{
    const uint32_t n_packets = pkt_is_lone(p) ? piece_count(p) : 1;

    m->pkts[h->fragment] = p;
    m->have[h->fragment / 64] |= 1ull << h->fragment % 64;
    m->n_have++;
    if (h->fragment != m->leading)
        l->ack_now = true; /* a gap: the sender wants to know */
    while (m->leading < m->n && has_fragment(m, m->leading))
        m->leading++;
    if (h->fragment >= m->end)
        m->end = h->fragment + 1;
    if (h->fragment == 0) {
        m->prev = get_be32(payload);
        if (m->prev >= l->rx_base)
            slot_of(l, m->prev)->follower = m->number;
        m->is_reply = h->flags & WIRE_FLAG_REPLY;
        m->reply_to = m->is_reply ? get_be32(payload + 4) : 0;
    }
    m->n_packets += n_packets;
    l->rx_held += n_packets;
}

/* Takes over p. -EBADMSG when the frame is not what a link of this version sends. */
int receive_data(struct link *l, struct pkt *p, const struct wire_header *h, const uint8_t *payload)
{
    bool first = h->fragment == 0;
    struct rx_message *m;

    if (h->message == 0 || h->n_fragments > LINK_FRAGMENTS_MAX ||
        (!first && h->flags & WIRE_FLAG_REPLY))
        goto bad;
    if (is_duplicate(l, h)) {
        l->stats.duplicates++;
        l->ack_now = true; /* its acknowledgement was lost, or is late */
        goto drop;
    }
    if (h->message - l->rx_base >= LINK_MESSAGES_MAX)
        goto bad;
    if (first && !prefix_ok(l, h, payload))
        goto bad;
    if (first && h->flags & WIRE_FLAG_REPLY) {
        struct tx_message *answered = send_find(l, get_be32(payload + 4));

        if (answered)
            loss_message_acked(l, answered, get_be32(payload + 8));
    }
    if (!within_budget(l, h->message)) {
        l->stats.over_budget++;
        l->ack_now = true; /* tells the credit */
        goto drop;
    }
    m = slot_of(l, h->message)->message;
    if (!m)
        m = begin_message(l, h);
    if (!m)
        goto drop; /* no memory: it will be sent again */
    if (m->n != h->n_fragments || m->session != h->session || m->cls != h->cls)
        goto bad;
    take(l, m, p, h, payload);
    owe(l, h);
    if (m->n_have == m->n)
        completed(l, m);
    return 0;

bad:
    pkt_unref(p);
    return -EBADMSG;
drop:
    pkt_unref(p);
    return 0;
}
