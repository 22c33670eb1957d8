/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was acknowledged, what is lost, and when to send again.
 *
 * A packet counts as lost when one sent later was acknowledged and a reordering time has passed
 * (after RACK, RFC 8985), or when nothing was acknowledged for the timeout. The first timeout is a
 * tail loss probe's: as soon as an acknowledgement should have come, whatever the round trip. If
 * that brings nothing the further ones are RFC 6298's, with Karn's rule, a least time and
 * exponential backoff, which ends when anything is heard. A timeout sends two packets again: a peer
 * that is merely busy costs a few packets, and the acknowledgement of one brings out all real
 * losses.
 *
 * Timeouts that were too short: while every packet is acknowledged after it was sent again, as when
 * the round trip is longer than the timeout and so can't be measured, they get longer, and at once
 * where the peer tells that it had what a timeout sent again. How late a peer on a short path may
 * be is learnt from that, too, and kept beyond the next measured round trip: that does not contain
 * it.
 */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link/bytes.h"

#define RTO_INITIAL_NS       (100u * 1000000ull)
#define RTO_JITTER_NS        1000000ull /* the peer looks at its link about so often */
#define LATENESS_MAX         4u         /* or more seldom by so many powers of two */
#define RTO_LONGEST          10u        /* of rto_max_ns, where round trips are that long */
#define REORDER_MIN_NS       100000ull
#define REORDER_QUARTERS_MAX 8u   /* of the round trip: how late a packet may be and not be lost */
#define FORGET               256u /* acknowledgements after which the link dares a step less */
#define BACKOFF_MAX          16u
#define AMBIGUOUS_STEP       8u /* packets whose round trip is not known double the timeout once */
#define AMBIGUOUS_MAX        32u
#define AMBIGUOUS_FAR        56u /* where the round trip seems to be longer than rto_max_ns */
#define PROBES               2u  /* packets sent again at a timeout: one may be lost too */
#define ACK_ENTRY_BYTES      8u

static void rtt_sample(struct link *l, uint64_t rtt)
{
    l->rtt_samples[l->n_rtt_samples++ % RTT_SAMPLES] = rtt;
    pace_rtt(&l->pace, rtt, l->now_ns);
    if (!l->srtt_ns) {
        l->srtt_ns = rtt ? rtt : 1;
        l->rttvar_ns = rtt / 2;
        l->rtt_min_ns = rtt;
        return;
    }
    uint64_t off = rtt > l->srtt_ns ? rtt - l->srtt_ns : l->srtt_ns - rtt;

    l->rttvar_ns += (uint64_t)((int64_t)(off - l->rttvar_ns) / 4);
    l->srtt_ns += (uint64_t)((int64_t)(rtt - l->srtt_ns) / 8);
    if (!l->srtt_ns)
        l->srtt_ns = 1;
    if (rtt < l->rtt_min_ns)
        l->rtt_min_ns = rtt;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

uint64_t loss_rtt_p50(const struct link *l)
{
    uint32_t n = l->n_rtt_samples < RTT_SAMPLES ? l->n_rtt_samples : RTT_SAMPLES;
    uint64_t sorted[RTT_SAMPLES];

    if (!n)
        return 0;
    memcpy(sorted, l->rtt_samples, n * sizeof sorted[0]);
    qsort(sorted, n, sizeof sorted[0], by_size);
    return sorted[n / 2];
}

/* --- acknowledged ----------------------------------------------------------------------------- */

static void dare(struct link *l)
{
    l->reorder_quarters -= l->reorder_quarters > 1;
    l->lateness -= l->lateness > 0;
}

/* hold_ns: how long the peer held it before answering. sample: hold_ns is known. */
void loss_acked(struct link *l, struct tx_fragment *f, uint64_t hold_ns, bool sample)
{
    struct tx_message *m = f->message;
    uint64_t took = l->now_ns - f->sent_ns;

    if (f->state == TX_ACKED || f->state == TX_QUEUED) /* queued: the peer cannot have it */
        return;
    if (f->n_sent > 1)
        l->n_ambiguous += l->n_ambiguous < AMBIGUOUS_MAX;
    else
        l->n_ambiguous = l->n_again = l->n_needless = 0;
    if (sample && f->n_sent == 1)
        rtt_sample(l, took > hold_ns ? took - hold_ns : 0);
    /* A packet sent twice and acknowledged sooner than any round trip: it was the first copy, which
     * says nothing about packets sent before the second. */
    bool first_copy = f->n_sent > 1 && took < l->rtt_min_ns;

    if (f->order > l->rack_order && !first_copy) {
        l->rack_order = f->order;
        l->rack_rtt_ns = took;
    }
    if ((first_copy || f->state == TX_LOST) && l->reorder_quarters < REORDER_QUARTERS_MAX)
        l->reorder_quarters++; /* it was late, not lost */
    else if (++l->n_acked % FORGET == 0)
        dare(l);
    list_remove(&f->node);
    pace_acked(&l->pace, &f->mark, f->sent_ns, f->order, f->pkt->len, f->state == TX_SENT,
               first_copy, l->now_ns);
    f->state = TX_ACKED;
    pkt_unref(f->pkt);
    f->pkt = NULL;
    m->n_acked++;
    l->in_flight--;
    l->in_flight_more -= f->more;
    l->sealed[f->epoch % 2]--;
    l->backoff = 0;
    l->rto_from_ns = l->now_ns;
}

static void fragments_below_acked(struct link *l, struct tx_message *m, uint32_t end)
{
    for (uint32_t i = m->first_unacked; i < end; i++)
        loss_acked(l, &m->fragments[i], 0, false);
    while (m->first_unacked < m->n && m->fragments[m->first_unacked].state == TX_ACKED)
        m->first_unacked++;
}

/* The peer answered the message, hold_ns after it was whole. */
void loss_message_acked(struct link *l, struct tx_message *m, uint32_t hold_ns)
{
    if (m->n == 1)
        loss_acked(l, &m->fragments[0], hold_ns, hold_ns != HOLD_UNKNOWN);
    fragments_below_acked(l, m, m->n);
    send_release(l);
}

void loss_below_acked(struct link *l, uint32_t below)
{
    for (uint32_t number = l->tx_base; number < below && number < l->tx_next; number++) {
        struct tx_message *m = l->tx_ring[number & RING_MASK];

        fragments_below_acked(l, m, m->n);
    }
    send_release(l);
}

/* Where a list entry ends, or NULL when it is cut short, names more than there can be, or begins
 * below *next, where the one before it ended: so a list costs no more than its messages. */
static const uint8_t *entry_end(const uint8_t *entry, const uint8_t *end, uint64_t *next)
{
    uint32_t first, bits;

    if (end - entry < (ptrdiff_t)ACK_ENTRY_BYTES)
        return NULL;
    first = get_be16(entry + 4);
    bits = get_be16(entry + 6);
    if (get_be32(entry) < *next)
        return NULL;
    *next = (uint64_t)get_be32(entry) + (first == ACK_RUN ? bits : 1);
    if (first == ACK_RUN)
        return bits <= LINK_MESSAGES_MAX ? entry + ACK_ENTRY_BYTES : NULL;
    if (first + bits > LINK_FRAGMENTS_MAX ||
        end - entry < (ptrdiff_t)(ACK_ENTRY_BYTES + (bits + 7) / 8))
        return NULL;
    return entry + ACK_ENTRY_BYTES + (bits + 7) / 8;
}

static void read_run(struct link *l, uint32_t number, uint32_t n)
{
    for (; n; number++, n--) {
        struct tx_message *m = send_find(l, number);

        if (m)
            fragments_below_acked(l, m, m->n);
    }
}

static void read_entry(struct link *l, const uint8_t *entry)
{
    struct tx_message *m = send_find(l, get_be32(entry));
    uint32_t first = get_be16(entry + 4), bits = get_be16(entry + 6);

    if (first == ACK_RUN) {
        read_run(l, get_be32(entry), bits);
        return;
    }
    if (!m || first + bits > m->n)
        return;
    fragments_below_acked(l, m, first);
    for (uint32_t i = 0; i < bits; i++) {
        if (entry[ACK_ENTRY_BYTES + i / 8] >> i % 8 & 1)
            loss_acked(l, &m->fragments[first + i], 0, false);
    }
}

/* So many packets more came twice. Where timeouts sent them again the peer was late, or the path
 * has become longer: the timeout doubles for each, until a round trip can be measured; beyond
 * rto_max_ns for eight, and if most of what timeouts sent again meanwhile was needless. Other
 * copies are the path's. */
static void came_twice(struct link *l, uint32_t n)
{
    l->stats.spurious += n;
    n = (uint32_t)least(n, l->n_probes);
    if (!n)
        return;
    l->n_probes -= n;
    l->n_needless += n;
    l->lateness += l->lateness < LATENESS_MAX;
    if (l->n_ambiguous < AMBIGUOUS_MAX)
        l->n_ambiguous =
            (uint32_t)least(l->n_ambiguous + (uint64_t)n * AMBIGUOUS_STEP, AMBIGUOUS_MAX);
    else if (l->n_needless >= l->n_again / 4 * 3 && l->n_ambiguous < AMBIGUOUS_FAR)
        l->n_ambiguous++;
}

/* An ACK's payload; docs/wire.md has the table. Checked whole before anything is believed. */
int loss_read_ack(struct link *l, uint32_t control_number, const uint8_t *payload, size_t len)
{
    const uint8_t *end = payload + len, *entry;
    struct tx_message *echoed;
    uint64_t next = 0;
    uint32_t hold;

    if (len < ACK_HEAD_BYTES)
        return -EBADMSG;
    for (entry = payload + ACK_HEAD_BYTES; entry < end;) {
        entry = entry_end(entry, end, &next);
        if (!entry)
            return -EBADMSG;
    }
    next = 0;

    echoed = send_find(l, get_be32(payload + 4));
    hold = get_be32(payload + 12);
    if (echoed && get_be16(payload + 8) < echoed->n)
        loss_acked(l, &echoed->fragments[get_be16(payload + 8)], hold, hold != HOLD_UNKNOWN);
    for (entry = payload + ACK_HEAD_BYTES; entry < end; entry = entry_end(entry, end, &next))
        read_entry(l, entry);
    loss_below_acked(l, get_be32(payload));
    if (control_number > l->credit_number) { /* not overtaken by a later one */
        l->credit_number = control_number;
        l->credit = get_be16(payload + 10);
        came_twice(l, get_be32(payload + 16) - (uint32_t)l->stats.spurious);
    }
    return 0;
}

/* --- lost ------------------------------------------------------------------------------------- */

/* The least: of a probe as late as the peer has been found to be, of what follows it rto_min_ns. */
static uint64_t rto_least(const struct link *l)
{
    if (l->backoff || l->n_ambiguous >= AMBIGUOUS_STEP)
        return l->p.rto_min_ns;
    return least(l->p.ack_delay_ns + (RTO_JITTER_NS << l->lateness), l->p.rto_min_ns);
}

/* So often it doubles, to rto_max_ns, but not below what it was. */
static uint64_t doubled(const struct link *l, uint64_t ns, uint64_t n)
{
    return clamp(ns << n, ns, most(ns, l->p.rto_max_ns));
}

static uint64_t rto(const struct link *l)
{
    const uint64_t longest = RTO_LONGEST * l->p.rto_max_ns;
    const uint32_t backoff = l->srtt_ns && l->backoff ? l->backoff - 1 : l->backoff;
    const uint64_t near = least(l->n_ambiguous, AMBIGUOUS_MAX), far = l->n_ambiguous - near;
    uint64_t ns = RTO_INITIAL_NS;

    if (l->srtt_ns) /* and the peer may wait for a reply that carries the acknowledgement */
        ns = l->srtt_ns + clamp(4 * l->rttvar_ns, RTO_JITTER_NS, longest) + l->p.ack_delay_ns;
    ns = clamp(ns, rto_least(l), longest);
    ns = doubled(l, ns, near / AMBIGUOUS_STEP);
    ns = least(ns << far / AMBIGUOUS_STEP, longest);
    return doubled(l, ns, backoff);
}

/* When the packet is lost by the order of acknowledgements; UINT64_MAX: nothing sent after it was
 * acknowledged. */
static uint64_t overtaken_at(const struct link *l, const struct tx_fragment *f)
{
    uint64_t reorder = clamp(l->srtt_ns / 4 * l->reorder_quarters, REORDER_MIN_NS, l->p.rto_min_ns);

    return f->order < l->rack_order ? f->sent_ns + l->rack_rtt_ns + reorder : UINT64_MAX;
}

static uint64_t timeout_at(const struct link *l, const struct tx_fragment *f)
{
    uint64_t from = f->sent_ns > l->rto_from_ns ? f->sent_ns : l->rto_from_ns;

    return from + rto(l);
}

static void lose(struct link *l, struct tx_fragment *f)
{
    list_remove(&f->node);
    pace_lost(&l->pace, f->pkt->len);
    f->state = TX_LOST;
    send_waits(l, f->message->cls);
    list_append(&l->lost[f->message->cls], &f->node);
}

void loss_moved(struct link *l, uint64_t since_ns)
{
    struct list_node *node = l->sent.prev;

    while (node != &l->sent && ((struct tx_fragment *)node)->sent_ns >= since_ns)
        node = node->prev;
    for (node = node->next; node != &l->sent;) {
        struct tx_fragment *f = (struct tx_fragment *)node;

        node = node->next;
        lose(l, f);
    }
    l->probes = PROBES;
}

void loss_too_long(struct link *l)
{
    for (struct list_node *node = l->sent.next; node != &l->sent;) {
        struct tx_fragment *f = (struct tx_fragment *)node;

        node = node->next;
        if (f->pkt->len > l->mtu.frame_max)
            lose(l, f);
    }
}

void loss_tick(struct link *l)
{
    struct tx_fragment *f;

    while (!list_empty(&l->sent)) {
        f = (struct tx_fragment *)l->sent.next;
        if (l->now_ns < overtaken_at(l, f))
            break;
        lose(l, f);
    }
    if (list_empty(&l->sent))
        return;
    f = (struct tx_fragment *)l->sent.next;
    if (l->now_ns < timeout_at(l, f))
        return;
    for (unsigned i = 0; i < PROBES && !list_empty(&l->sent); i++) {
        struct tx_fragment *oldest = l->credit ? NULL : send_oldest(l, TX_SENT);

        lose(l, oldest ? oldest : (struct tx_fragment *)l->sent.next);
        l->n_probes++;
        l->n_again++;
    }
    l->probes = PROBES;
    l->rto_from_ns = l->now_ns;
    if (l->backoff < BACKOFF_MAX)
        l->backoff++;
}

uint64_t loss_deadline(const struct link *l)
{
    const struct tx_fragment *f = (const struct tx_fragment *)l->sent.next;
    uint64_t at, overtaken;

    if (list_empty(&l->sent))
        return UINT64_MAX;
    at = timeout_at(l, f);
    overtaken = overtaken_at(l, f);
    return overtaken < at ? overtaken : at;
}
