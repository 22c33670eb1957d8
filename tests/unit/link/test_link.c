/* SPDX-License-Identifier: Apache-2.0 */
/* The link's rules one by one; tests/sim drives them all at once. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/link.h"

#define MS        1000000ull
#define ACK_DELAY (10 * MS)
#define ROOM      1600u

struct pair {
    struct pkt_pool *pool;
    struct link *a, *b; /* initiator, responder */
    uint64_t now;
};

static const struct link_params edge_params = {
    .path = &wire_path_edge, .initiator = true, .connection = 77, .epoch = 3};
static const struct link_params cloud_params = {.path = &wire_path_cloud};

static void pair_open(struct pair *t, struct link_params a, struct link_params b)
{
    *t = (struct pair){.pool = pkt_pool_heap(4096, ROOM), .now = 5 * MS};
    assert_int_equal(link_open(&a, t->now, &t->a), 0);
    assert_int_equal(link_open(&b, t->now, &t->b), 0);
}

static void pair_close(struct pair *t)
{
    link_close(t->a);
    link_close(t->b);
    assert_int_equal(t->pool->n_free, t->pool->n_total);
    pkt_pool_heap_close(t->pool);
}

static int64_t send_reply(struct pair *t, struct link *l, uint32_t session, enum wire_class cls,
                          int64_t reply_to, unsigned n, uint8_t fill)
{
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];

    for (unsigned i = 0; i < n; i++) {
        pkts[i] = pkt_alloc(t->pool);
        bytes[i] = 8;
        memset(pkts[i]->data + WIRE_PAYLOAD_AT + link_payload_offset(reply_to >= 0, i), fill, 8);
    }
    return link_send(l, session, cls, reply_to, pkts, bytes, (uint16_t)n);
}

static int64_t send_one(struct pair *t, struct link *l, uint32_t session, uint8_t fill)
{
    return send_reply(t, l, session, WIRE_DECODE, -1, 1, fill);
}

/* What l has to send: frames taken off it. */
static int take(struct pair *t, struct link *l, struct pkt **out, int most)
{
    uint64_t deadline;

    (void)link_tick(l, t->now, &deadline);
    return link_output(l, out, most, t->pool, t->now);
}

static struct pkt *copy(struct pair *t, const struct pkt *p)
{
    struct pkt *c = pkt_alloc(t->pool);

    memcpy(c->data, p->data, p->len);
    c->len = p->len;
    return c;
}

static void give(struct pair *t, struct link *to, struct pkt *p)
{
    (void)link_input(to, copy(t, p), t->now);
    pkt_unref(p);
}

/* Carry all frames that wait, both ways, until none is left; how many. */
static int carry(struct pair *t)
{
    struct pkt *pkts[64];
    int n, total = 0;

    do {
        n = take(t, t->a, pkts, 64);
        for (int i = 0; i < n; i++)
            give(t, t->b, pkts[i]);
        total += n;
        int m = take(t, t->b, pkts, 64);
        for (int i = 0; i < m; i++)
            give(t, t->a, pkts[i]);
        total += m;
        n += m;
    } while (n);
    return total;
}

static void drop_output(struct pair *t, struct link *l)
{
    struct pkt *pkts[64];
    int n;

    while ((n = take(t, l, pkts, 64)) > 0) {
        while (n)
            pkt_unref(pkts[--n]);
    }
}

/* The next message must be this one. */
static uint32_t expect(struct link *l, uint32_t session, uint8_t fill)
{
    struct link_message m;
    const uint8_t *p;
    size_t len;

    assert_true(link_recv(l, &m));
    assert_int_equal(m.session, session);
    p = link_message_payload(&m, 0, &len);
    assert_int_equal(len, 8);
    assert_int_equal(p[0], fill);
    assert_int_equal(p[7], fill);
    uint32_t number = m.message;
    link_message_free(&m);
    link_message_free(&m); /* twice does no harm */
    return number;
}

static void expect_none(struct link *l)
{
    struct link_message m;

    assert_false(link_recv(l, &m));
}

static uint8_t type_of(const struct pkt *p)
{
    return p->data[WIRE_L2L4_BYTES] & 15;
}

static uint8_t flags_of(const struct pkt *p)
{
    return p->data[WIRE_L2L4_BYTES + 1];
}

/* A connection on which both have heard each other. */
static void connect_pair(struct pair *t)
{
    assert_int_equal(send_one(t, t->a, 0, 1), 1);
    carry(t);
    expect(t->b, 0, 1);
    t->now += ACK_DELAY;
    carry(t);
    assert_true(link_idle(t->a));
    assert_true(link_heard(t->a) && link_heard(t->b));
}

static void test_reply_acknowledges(void **state)
{
    struct pair t;
    struct link_stats s;
    uint32_t request;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    for (uint8_t i = 0; i < 50; i++) {
        request = (uint32_t)send_one(&t, t.a, 9, i);
        assert_int_equal(carry(&t), 1); /* the request alone */
        t.now += MS / 10;
        assert_int_equal(expect(t.b, 9, i), request);
        assert_true(send_reply(&t, t.b, 9, WIRE_DECODE, request, 1, i) > 0);
        assert_int_equal(carry(&t), 1); /* the reply alone: no other acknowledgement */
        assert_true(link_idle(t.a));
        struct link_message m;
        assert_true(link_recv(t.a, &m));
        assert_true(m.is_reply);
        assert_int_equal(m.reply_to, request);
        request = m.message;
        link_message_free(&m);
        t.now += MS / 10;
        /* and the next request answers the reply */
        assert_true(send_reply(&t, t.a, 9, WIRE_DECODE, request, 1, i) > 0);
        assert_int_equal(carry(&t), 1);
        assert_true(link_idle(t.b));
        expect(t.b, 9, i);
        t.now += ACK_DELAY;
        assert_int_equal(carry(&t), 1); /* the delayed acknowledgement */
    }
    link_stats(t.a, &s);
    assert_int_equal(s.retransmits, 0);
    assert_int_equal(s.duplicates, 0);
    assert_int_equal(s.rtt_p50_ns,
                     0); /* the virtual wire takes no time, and holding does not count */
    assert_int_equal(s.tx_messages, 101);
    assert_int_equal(s.rx_messages, 50);
    pair_close(&t);
}

/* A reply acknowledges its request alone: the requests that arrived before it are not lost. */
static void test_reply_overtakes(void **state)
{
    struct pair t;
    struct link_stats s;
    struct pkt *p[4];

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 2, 1);
    send_reply(&t, t.a, 2, WIRE_PREFILL, -1, 1, 2);
    assert_int_equal(take(&t, t.a, p, 4), 3);
    for (int i = 0; i < 3; i++)
        give(&t, t.b, p[i]);
    t.now += MS / 10;
    uint32_t request = (uint32_t)send_one(&t, t.a, 3, 3);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    give(&t, t.b, p[0]);
    t.now += MS;
    expect(t.b, 3, 3);
    assert_true(send_reply(&t, t.b, 3, WIRE_DECODE, request, 1, 3) > 0);
    assert_int_equal(take(&t, t.b, p, 4), 1);
    give(&t, t.a, p[0]);
    assert_int_equal(take(&t, t.b, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_ACK);
    give(&t, t.a, p[0]);
    assert_true(link_idle(t.a));
    /* Replies to all that wait, in one burst, need none. */
    int64_t first = send_one(&t, t.a, 1, 1), second = send_one(&t, t.a, 2, 2);
    expect(t.a, 3, 3);
    carry(&t);
    drop_output(&t, t.b);
    expect(t.b, 1, 1);
    expect(t.b, 2, 2);
    send_reply(&t, t.b, 1, WIRE_DECODE, first, 1, 1);
    send_reply(&t, t.b, 2, WIRE_DECODE, second, 1, 2);
    assert_int_equal(carry(&t), 2);
    assert_true(link_idle(t.a));
    link_stats(t.a, &s);
    assert_int_equal(s.retransmits, 0);
    pair_close(&t);
}

/* An acknowledgement waits for a reply, but where none can come only a little. */
static void test_acknowledgement_waits(void **state)
{
    struct pair t;
    struct pkt *p[4];
    uint64_t from;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    from = t.now;
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 2, 1);
    assert_int_equal(take(&t, t.a, p, 4), 2);
    give(&t, t.b, p[0]);
    assert_int_equal(link_deadline(t.b), from + MS); /* half a message */
    give(&t, t.b, p[1]);
    assert_int_equal(link_deadline(t.b), from + ACK_DELAY);
    send_one(&t, t.a, 1, 2);
    send_one(&t, t.a, 1, 3);
    assert_int_equal(take(&t, t.a, p, 4), 2);
    give(&t, t.b, p[1]);
    assert_int_equal(link_deadline(t.b), from + MS); /* it waits for an earlier one */
    give(&t, t.b, p[0]);
    assert_int_equal(link_deadline(t.b), from + ACK_DELAY);
    t.now = from + ACK_DELAY;
    carry(&t);
    assert_true(link_idle(t.a));
    pair_close(&t);
}

/* A message of a's reaches b after half the round trip; b's acknowledgement of it, which it sends by
 * itself, is on its way. */
static struct pkt *reaches(struct pair *t, uint64_t rtt)
{
    struct pkt *p[4];

    send_one(t, t->a, 1, 1);
    assert_int_equal(take(t, t->a, p, 4), 1);
    t->now += rtt / 2;
    give(t, t->b, p[0]);
    expect(t->b, 1, 1);
    t->now += ACK_DELAY;
    assert_int_equal(take(t, t->b, p, 4), 1);
    return p[0];
}

/* What is acknowledged late, for lack of a reply, was not lost: also where the round trip is long
 * and steady. */
static void test_timeout_allows_for_delay(void **state)
{
    struct pair t;
    struct link_stats s;
    struct pkt *p[4];
    uint64_t rtt = 250 * MS; /* far more than the timeout the link begins with */

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 150; i++) {
        uint64_t sent = t.now;
        int n;

        p[0] = reaches(&t, rtt);
        t.now = sent + rtt + ACK_DELAY;
        n = take(&t, t.a, p + 1, 3);
        if (i >= 100) /* it knows the round trip, and that it is steady */
            assert_int_equal(n, 0);
        while (n)
            pkt_unref(p[n--]);
        give(&t, t.a, p[0]);
        assert_true(link_idle(t.a));
    }
    link_stats(t.a, &s);
    assert_in_range(s.srtt_ns, 240 * MS, 251 * MS);
    pair_close(&t);
}

/* The peer tells of what was sent again needlessly: a few messages later the timeout is long
 * enough, though no round trip can be measured meanwhile. */
static void test_path_becomes_longer(void **state)
{
    struct pair t;
    struct pkt *p[4];

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 60; i++) {
        const uint64_t rtt = i < 50 ? 16 * MS : 120 * MS, end = t.now + rtt + ACK_DELAY;
        unsigned again = 0;

        p[0] = reaches(&t, rtt);
        while (link_deadline(t.a) < end) {
            t.now = link_deadline(t.a) > t.now ? link_deadline(t.a) : t.now;
            for (int n = take(&t, t.a, p + 1, 3); n; n--) {
                again += type_of(p[n]) == WIRE_DATA;
                give(&t, t.b, p[n]);
            }
        }
        t.now = end;
        give(&t, t.a, p[0]);
        carry(&t);
        assert_true(link_idle(t.a));
        if (i == 50)
            assert_true(again > 0);
        if ((i >= 10 && i < 50) || i >= 54) /* it knows the round trip */
            assert_int_equal(again, 0);
    }
    pair_close(&t);
}

/* Copies that nobody sent again say nothing about the timeout. */
static void test_copies_on_the_path(void **state)
{
    struct pair t;
    struct pkt *p[4];

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 20; i++) {
        send_one(&t, t.a, 1, 1);
        assert_int_equal(take(&t, t.a, p, 4), 1);
        t.now += 8 * MS;
        give(&t, t.b, copy(&t, p[0]));
        give(&t, t.b, p[0]);
        expect(t.b, 1, 1);
        assert_int_equal(take(&t, t.b, p, 4), 1);
        t.now += 8 * MS;
        give(&t, t.a, p[0]);
        assert_true(link_idle(t.a));
    }
    send_one(&t, t.a, 1, 1);
    drop_output(&t, t.a);
    t.now += 40 * MS; /* a round trip, its variance, the peer's delay: some 30 ms */
    assert_int_equal(take(&t, t.a, p, 4), 1);
    give(&t, t.b, p[0]);
    expect(t.b, 1, 1);
    pair_close(&t);
}

/* Messages without replies, over a round trip that is longer than any timeout at first: needless
 * copies until it is measured, none from then on. */
static void test_long_path(void **state)
{
    static const uint64_t rtts[] = {305 * MS, 590 * MS, 1000 * MS};

    for (unsigned k = 0; k < 3; k++) {
        struct pair t;
        struct link_stats s;
        struct pkt *p[4], *acks[16];

        pair_open(&t, edge_params, cloud_params);
        connect_pair(&t); /* near, as it was */
        for (unsigned i = 0; i < 60; i++) {
            const uint64_t end = t.now + rtts[k] + ACK_DELAY;
            unsigned again = 0, n_acks = 0;

            acks[n_acks++] = reaches(&t, rtts[k]);
            while (link_deadline(t.a) < end) {
                t.now = link_deadline(t.a) > t.now ? link_deadline(t.a) : t.now;
                for (int n = take(&t, t.a, p, 4); n; n--) {
                    again += type_of(p[n - 1]) == WIRE_DATA;
                    give(&t, t.b, p[n - 1]);
                }
                for (int n = take(&t, t.b, p, 4); n; n--) {
                    assert_true(n_acks < 16);
                    acks[n_acks++] = p[n - 1];
                }
            }
            t.now = end;
            for (unsigned n = 0; n < n_acks; n++)
                give(&t, t.a, acks[n]);
            carry(&t);
            assert_true(link_idle(t.a));
            if (i == 0)
                assert_true(again > 0);
            if (i >= 40)
                assert_int_equal(again, 0);
        }
        link_stats(t.a, &s);
        assert_in_range(s.srtt_ns, rtts[k] * 9 / 10, rtts[k] + MS);
        pair_close(&t);
    }
}

/* A peer that acknowledges late on a short path gets a copy too many now and then. */
static void test_late_peer(void **state)
{
    struct pair t;
    struct pkt *p[4];
    unsigned again = 0;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t end;

        send_one(&t, t.a, 1, 1);
        assert_int_equal(take(&t, t.a, p, 4), 1);
        give(&t, t.b, p[0]);
        expect(t.b, 1, 1);
        end = t.now + ACK_DELAY + 7 * MS; /* it slept */
        while (link_deadline(t.a) < end) {
            t.now = link_deadline(t.a);
            for (int n = take(&t, t.a, p, 4); n; n--) {
                again++;
                give(&t, t.b, p[n - 1]);
            }
        }
        t.now = end;
        carry(&t);
        assert_true(link_idle(t.a));
    }
    assert_in_range(again, 1, 5);
    pair_close(&t);
}

static void test_timeout_backs_off(void **state)
{
    struct pair t;
    struct pkt *first[1], *again[4];
    uint64_t deadline, before, gap = 0;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_one(&t, t.a, 1, 1);
    assert_int_equal(take(&t, t.a, first, 1), 1);
    for (unsigned i = 0; i < 8; i++) {
        before = t.now;
        for (;;) { /* to the next transmission of data */
            deadline = link_deadline(t.a);
            assert_true(deadline > t.now && deadline < t.now + 1000 * MS);
            t.now = deadline;
            int n = take(&t, t.a, again, 4);
            bool data = false;

            for (int k = 0; k < n; k++) { /* at most one, and perhaps a ping */
                if (type_of(again[k]) == WIRE_DATA) {
                    assert_false(data);
                    again[0] = again[k];
                    data = true;
                } else {
                    pkt_unref(again[k]);
                }
            }
            if (data)
                break;
        }
        assert_int_equal(again[0]->len, first[0]->len); /* the very same bytes */
        assert_memory_equal(again[0]->data, first[0]->data, first[0]->len);
        pkt_unref(again[0]);
        if (i == 0) /* a round trip, which is nothing here, and the peer's delay */
            assert_in_range(t.now - before, ACK_DELAY + MS, ACK_DELAY + MS + 1);
        if (i == 1)
            assert_int_equal(t.now - before, 20 * MS);
        assert_true(t.now - before >= gap);
        gap = t.now - before;
    }
    assert_int_equal(gap, 300 * MS);
    pkt_unref(first[0]);
    pair_close(&t);
}

/* An acknowledgement of a later packet brings out the loss long before the timeout. */
static void test_overtaken_is_lost(void **state)
{
    struct pair t;
    struct pkt *p[8];
    struct link_stats s;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 6, 42);
    assert_int_equal(take(&t, t.a, p, 8), 6);
    for (int i = 0; i < 6; i++) {
        if (i == 2)
            pkt_unref(p[i]);
        else
            give(&t, t.b, p[i]);
    }
    carry(&t);
    t.now += MS;
    carry(&t);
    expect(t.b, 1, 42);
    link_stats(t.a, &s);
    assert_int_equal(s.retransmits, 1);
    link_stats(t.b, &s);
    assert_int_equal(s.duplicates, 0);
    pair_close(&t);
}

static void test_duplicates(void **state)
{
    struct pair t;
    struct pkt *p[4];
    struct link_stats s;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_one(&t, t.a, 1, 5);
    send_reply(&t, t.a, 2, WIRE_PREFILL, -1, 2, 6);
    assert_int_equal(take(&t, t.a, p, 4), 3);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            (void)link_input(t.b, copy(&t, p[i]), t.now);
    }
    expect(t.b, 1, 5);
    expect(t.b, 2, 6);
    expect_none(t.b);
    link_stats(t.b, &s);
    assert_int_equal(s.duplicates, 6);
    drop_output(&t, t.b); /* all acknowledgements are lost */
    for (int i = 0; i < 3; i++)
        give(&t, t.b, p[i]);
    carry(&t); /* an old duplicate is acknowledged again */
    assert_true(link_idle(t.a));
    link_stats(t.a, &s);
    assert_int_equal(s.spurious, 9); /* it was told */
    assert_int_equal(link_lost_packets(&s), 0);
    struct link_stats sum = {.rtt_p50_ns = 7, .copied_bytes = {1, 2, 3, 4}};
    link_stats_add(&sum, &s);
    link_stats_add(&sum, &s);
    assert_int_equal(sum.spurious, 18);
    assert_int_equal(sum.tx_packets, 2 * s.tx_packets);
    assert_int_equal(sum.copied_bytes[3], 4 + 2 * s.copied_bytes[3]);
    assert_int_equal(sum.rtt_p50_ns, 7); /* of one link */
    expect_none(t.b);
    pair_close(&t);
}

static void test_order_within_session(void **state)
{
    struct pair t;
    struct pkt *p[8];

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 1, 10);
    send_reply(&t, t.a, 1, WIRE_DECODE, -1, 1, 11);
    send_reply(&t, t.a, 2, WIRE_PREFILL, -1, 1, 20);
    send_reply(&t, t.a, 1, WIRE_CONTROL, -1, 1, 12);
    send_reply(&t, t.a, 2, WIRE_DECODE, -1, 1, 21);
    assert_int_equal(take(&t, t.a, p, 8), 5);
    for (int i = 4; i >= 0; i--) { /* in reverse */
        give(&t, t.b, p[i]);
    }
    /* By session in order; a session's own earlier messages are not overtaken by its decode. */
    uint8_t next[3] = {0, 10, 20};
    struct link_message m;
    while (link_recv(t.b, &m)) {
        size_t len;
        assert_int_equal(link_message_payload(&m, 0, &len)[0], next[m.session]);
        next[m.session]++;
        link_message_free(&m);
    }
    assert_int_equal(next[1], 13);
    assert_int_equal(next[2], 22);
    carry(&t);
    pair_close(&t);
}

static void test_decode_first(void **state)
{
    struct pair t;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 20, 1);
    send_reply(&t, t.a, 4, WIRE_CONTROL, -1, 1, 4);
    send_reply(&t, t.a, 3, WIRE_DECODE, -1, 1, 3);
    struct pkt *p[32];
    assert_int_equal(take(&t, t.a, p, 32), 22);
    assert_int_equal(p[0]->data[WIRE_L2L4_BYTES + 21], WIRE_DECODE);
    assert_int_equal(p[1]->data[WIRE_L2L4_BYTES + 21], WIRE_CONTROL);
    for (int i = 21; i >= 0; i--)
        give(&t, t.b, p[i]);
    expect(t.b, 3, 3);
    expect(t.b, 1, 1);
    expect(t.b, 4, 4);
    pair_close(&t);
}

/* The class of the next packet. */
static uint8_t next_class(struct pair *t)
{
    struct pkt *p[1];
    uint8_t cls;

    assert_int_equal(take(t, t->a, p, 1), 1);
    cls = p[0]->data[WIRE_L2L4_BYTES + 21];
    pkt_unref(p[0]);
    return cls;
}

/* What waits while much of other classes goes has its turn; who waits longest first. */
static void test_aging(void **state)
{
    struct link_params a = edge_params;
    struct pair t;
    unsigned n[4] = {0}, decodes = 0;

    a.unpaced = true;
    pair_open(&t, a, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 20; i++) /* the credit allows for them */
        carry(&t);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 40, 1);
    send_reply(&t, t.a, 2, WIRE_REPLAY, -1, 40, 2);
    for (unsigned i = 0; i < 200; i++) {
        uint8_t cls;

        send_one(&t, t.a, 3, 3); /* there is always something to decode */
        cls = next_class(&t);
        n[cls]++;
        if (cls == WIRE_DECODE) {
            decodes++;
        } else {
            assert_in_range(decodes, cls == WIRE_PREFILL ? 7 : 0, 8);
            decodes = 0;
        }
    }
    assert_in_range(n[WIRE_PREFILL], 18, 24);
    assert_in_range(n[WIRE_REPLAY], 18, 24);
    pair_close(&t);
}

/* Over budget only the oldest message gets in; all is delivered in the end. */
static void test_budget(void **state)
{
    struct link_params b = cloud_params;
    struct pair t;
    struct pkt *p[64];
    struct link_stats s;

    b.rx_budget_packets = 4;
    pair_open(&t, edge_params, b);
    connect_pair(&t);
    for (uint8_t i = 0; i < 5; i++)
        send_reply(&t, t.a, i + 1u, WIRE_PREFILL, -1, 6, i);
    int n = take(&t, t.a, p, 64);
    assert_true(n <= 8);
    assert_true(link_window_left(t.a) == 0);
    for (int i = n; i-- > 0;) /* the oldest message's packets last */
        give(&t, t.b, p[i]);
    for (unsigned k = 0, got = 0; got < 5; k++) {
        struct link_message m;

        assert_true(k < 1000);
        t.now = t.now + 5 * MS;
        carry(&t);
        while (link_recv(t.b, &m)) {
            got++;
            link_message_free(&m);
        }
    }
    link_stats(t.b, &s);
    assert_true(s.over_budget > 0);
    pair_close(&t);
}

static void test_window(void **state)
{
    struct link_params a = edge_params;
    struct pair t;
    struct pkt *p[64];
    struct link_stats s;

    a.window_packets = 4;
    pair_open(&t, a, cloud_params);
    connect_pair(&t);
    assert_int_equal(link_window_left(t.a), 4);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 10, 1);
    assert_int_equal(link_window_left(t.a), 0);
    int n = take(&t, t.a, p, 64);
    assert_int_equal(n, 4);
    link_stats(t.a, &s);
    assert_int_equal(s.in_flight_packets, 4);
    while (n)
        give(&t, t.b, p[--n]);
    carry(&t);
    for (int i = 0; i < 5; i++) {
        t.now += ACK_DELAY;
        carry(&t);
    }
    expect(t.b, 1, 1);
    assert_int_equal(link_window_left(t.a), 4);
    pair_close(&t);
}

/* What the port did not take goes again, in order, and does not count as sent. */
static void test_refused(void **state)
{
    struct pair t;
    struct pkt *p[8];
    struct link_stats before, after;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    link_stats(t.a, &before);
    send_reply(&t, t.a, 1, WIRE_PREFILL, -1, 4, 1);
    assert_int_equal(take(&t, t.a, p, 8), 4);
    give(&t, t.b, p[0]);
    for (int i = 1; i < 4; i++)
        link_output_refused(t.a, p[i], t.now);
    assert_true(link_has_output(t.a));
    link_stats(t.a, &after);
    assert_int_equal(after.tx_packets, before.tx_packets + 1);
    assert_int_equal(take(&t, t.a, p, 8), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(p[i]->data[WIRE_L2L4_BYTES + 13], i + 1);
        give(&t, t.b, p[i]);
    }
    expect(t.b, 1, 1);
    /* An acknowledgement is made anew. */
    t.now += ACK_DELAY;
    assert_int_equal(take(&t, t.b, p, 8), 1);
    assert_int_equal(type_of(p[0]), WIRE_ACK);
    link_output_refused(t.b, p[0], t.now);
    assert_int_equal(take(&t, t.b, p, 8), 1);
    give(&t, t.a, p[0]);
    assert_true(link_idle(t.a));
    link_stats(t.a, &after);
    assert_int_equal(after.retransmits, 0);
    /* A retransmission that is refused is none; nor is a packet of a link that ended meanwhile. */
    send_one(&t, t.a, 1, 1);
    drop_output(&t, t.a);
    t.now += 50 * MS;
    assert_int_equal(take(&t, t.a, p, 8), 1);
    link_output_refused(t.a, p[0], t.now);
    link_stats(t.a, &after);
    assert_int_equal(after.retransmits, 0);
    assert_int_equal(take(&t, t.a, p, 8), 1);
    link_shutdown(t.a);
    link_output_refused(t.a, p[0], t.now);
    pair_close(&t);
}

static void test_silence(void **state)
{
    struct link_params a = edge_params;
    struct pair t;
    struct pkt *p[8];
    uint64_t deadline, from;
    unsigned pings = 0;

    a.dead_after_ns = 2000 * MS;
    pair_open(&t, a, cloud_params);
    t.now += 60000 * MS; /* nobody was asked anything: silence means nothing */
    assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
    connect_pair(&t);
    assert_null(link_why_dead(t.a));
    from = t.now;
    while (link_tick(t.a, t.now, &deadline) == 0) {
        int n = link_output(t.a, p, 8, t.pool, t.now);

        while (n) {
            pings += type_of(p[--n]) == WIRE_PING;
            pkt_unref(p[n]);
        }
        assert_true(link_deadline(t.a) > t.now);
        t.now = link_deadline(t.a);
    }
    assert_in_range(t.now - from, 1990 * MS, 2010 * MS);
    assert_int_equal(pings, 3);
    assert_non_null(strstr(link_why_dead(t.a), "silent"));
    assert_int_equal(send_one(&t, t.a, 1, 1), -EPIPE);
    assert_int_equal(link_deadline(t.a), UINT64_MAX);
    pair_close(&t);
}

static void test_pings_keep_alive(void **state)
{
    struct link_params a = edge_params;
    struct pair t;
    uint64_t deadline;

    a.dead_after_ns = 2000 * MS;
    pair_open(&t, a, cloud_params);
    connect_pair(&t);
    for (unsigned i = 0; i < 100; i++) {
        t.now += 100 * MS;
        carry(&t);
        assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
        assert_int_equal(link_tick(t.b, t.now, &deadline), 0);
    }
    t.now += 3600 * 1000 * MS; /* the owner was away: that is not the peer's silence */
    assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
    pair_close(&t);
}

static void test_shutdown(void **state)
{
    struct pair t;
    struct pkt *p[4];
    uint64_t deadline;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);
    send_one(&t, t.b, 1, 1); /* never to arrive */
    link_shutdown(t.a);
    assert_int_equal(link_tick(t.a, t.now, &deadline), -EPIPE);
    assert_int_equal(send_one(&t, t.a, 1, 1), -EPIPE);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_CLOSE);
    link_output_refused(t.a, p[0], t.now); /* comes again */
    assert_int_equal(take(&t, t.a, p, 4), 1);
    pkt_unref(p[0]); /* lost: what the peer still sends is answered by another */
    t.now += 200 * MS;
    carry(&t);
    assert_int_equal(link_tick(t.b, t.now, &deadline), -EPIPE);
    assert_non_null(strstr(link_why_dead(t.b), "closed"));
    assert_int_equal(carry(&t), 0); /* and silence */
    pair_close(&t);
}

static void test_strangers(void **state)
{
    struct link_params other = edge_params;
    struct link *second, *fresh;
    struct pair t;
    struct pkt *p[4];
    struct link_stats s;
    uint64_t deadline;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t);

    other.connection = 78;
    assert_int_equal(link_open(&other, t.now, &second), 0);
    send_one(&t, second, 1, 1);
    assert_int_equal(take(&t, second, p, 4), 1);
    assert_true(flags_of(p[0]) & WIRE_FLAG_HELLO);
    (void)link_input(t.b, copy(&t, p[0]), t.now); /* b has a peer */
    (void)link_input(t.a, p[0], t.now);           /* a is no responder */
    expect_none(t.b);
    link_stats(t.b, &s);
    assert_int_equal(s.strangers, 1);
    link_stats(t.a, &s);
    assert_int_equal(s.strangers, 1);
    assert_int_equal(take(&t, t.a, p, 4), 0);
    assert_int_equal(take(&t, t.b, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_RESET);
    (void)link_input(t.a, copy(&t, p[0]), t.now); /* not meant for a */
    assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
    link_output_refused(t.b, p[0], t.now);
    assert_int_equal(take(&t, t.b, p, 4), 1);
    give(&t, second, p[0]);
    assert_int_equal(link_tick(second, t.now, &deadline), -EPIPE);
    assert_non_null(strstr(link_why_dead(second), "does not know"));
    link_close(second);

    /* A responder that restarted knows nothing of the old connection... */
    send_one(&t, t.a, 1, 1);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    assert_false(flags_of(p[0]) & WIRE_FLAG_HELLO);
    assert_int_equal(link_open(&cloud_params, t.now, &fresh), 0);
    assert_int_equal(send_one(&t, fresh, 1, 1), -ENOTCONN);
    give(&t, fresh, p[0]);
    assert_int_equal(take(&t, fresh, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_RESET);
    give(&t, t.a, p[0]);
    assert_int_equal(link_tick(t.a, t.now, &deadline), -EPIPE);
    /* ... but messages that overtake a new peer's first are only dropped. */
    link_close(t.a);
    other.connection = 79;
    assert_int_equal(link_open(&other, t.now, &t.a), 0);
    link_close(t.b);
    t.b = fresh;
    send_one(&t, t.a, 1, 1);
    send_one(&t, t.a, 1, 2);
    assert_int_equal(take(&t, t.a, p, 4), 2);
    give(&t, t.b, p[1]);
    assert_int_equal(take(&t, t.b, p + 1, 3), 0);
    give(&t, t.b, p[0]);
    t.now += 200 * MS;
    carry(&t);
    t.now += 200 * MS;
    carry(&t);
    expect(t.b, 1, 1);
    expect(t.b, 1, 2);
    /* Our own frames, sent back to us */
    send_one(&t, t.a, 1, 3);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    give(&t, t.a, p[0]);
    expect_none(t.a);
    pair_close(&t);
}

/*
 * A responder that restarted may get message 1 of the connection that it had: a late copy, or sent
 * again since its acknowledgement was lost. The epoch tells it from the one before: neither end
 * takes what is meant for that one, or comes from it, and both are told.
 */
static void test_restarted_responder(void **state)
{
    struct link *fresh;
    struct pkt *p[4], *first;
    struct link_stats s;
    uint64_t deadline;
    struct pair t;

    pair_open(&t, edge_params, cloud_params);
    send_one(&t, t.a, 1, 1);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    first = copy(&t, p[0]);
    give(&t, t.b, p[0]);
    expect(t.b, 1, 1);
    send_one(&t, t.b, 1, 2);
    carry(&t);
    expect(t.a, 1, 2);

    assert_int_equal(link_open(&cloud_params, t.now, &fresh), 0);
    give(&t, fresh, first);
    expect(fresh, 1, 1);
    send_one(&t, fresh, 1, 3);
    send_one(&t, fresh, 2, 4); /* of a number that the one before has not used */
    assert_int_equal(take(&t, fresh, p, 4), 2);
    give(&t, t.a, p[0]);
    give(&t, t.a, p[1]);
    expect_none(t.a);
    link_stats(t.a, &s);
    assert_int_equal(s.strangers, 2);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_RESET);

    send_one(&t, t.a, 2, 5);
    assert_int_equal(take(&t, t.a, p + 1, 3), 1);
    give(&t, fresh, p[1]);
    expect_none(fresh);
    assert_int_equal(take(&t, fresh, p + 1, 3), 1);
    assert_int_equal(type_of(p[1]), WIRE_RESET);

    give(&t, fresh, p[0]);
    assert_int_equal(link_tick(fresh, t.now, &deadline), -EPIPE);
    assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
    give(&t, t.a, p[1]);
    assert_int_equal(link_tick(t.a, t.now, &deadline), -EPIPE);
    assert_non_null(strstr(link_why_dead(t.a), "does not know"));
    link_close(fresh);
    pair_close(&t);
}

/* Who heard nothing yet can take its leave all the same. */
static void test_close_unheard(void **state)
{
    uint64_t deadline;
    struct pair t;
    struct pkt *p[4];

    pair_open(&t, edge_params, cloud_params);
    send_one(&t, t.a, 1, 1);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    give(&t, t.b, p[0]);
    link_shutdown(t.a);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    assert_int_equal(type_of(p[0]), WIRE_CLOSE);
    give(&t, t.b, p[0]);
    assert_int_equal(link_tick(t.b, t.now, &deadline), -EPIPE);
    assert_non_null(strstr(link_why_dead(t.b), "closed"));
    pair_close(&t);
}

/* A frame of the connection with any content, well sealed, as if the responder had been heard. */
static struct pkt *forged(struct pair *t, struct wire_header h, const void *payload, size_t n)
{
    static uint32_t control_number = 1000;
    struct pkt *p = pkt_alloc(t->pool);
    struct link_stats s;

    link_stats(t->b, &s);
    h.connection = edge_params.connection;
    h.epoch = s.epoch;
    if (h.type != WIRE_DATA)
        h.message = ++control_number;
    h.payload_bytes = (uint16_t)n;
    h.flags |= WIRE_FLAG_INITIATOR;
    if (!h.n_fragments)
        h.n_fragments = 1;
    memcpy(p->data + WIRE_PAYLOAD_AT, payload, n);
    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
    return p;
}

static void test_bad_frames(void **state)
{
    static const uint8_t zeros[64], follows_5[8] = {0, 0, 0, 5}, follows_2[8] = {0, 0, 0, 2};
    struct pair t;
    struct link_stats s;
    struct pkt *p;

    pair_open(&t, edge_params, cloud_params);
    connect_pair(&t); /* message 1 was received */
#define BAD(header, payload, n)                                                                    \
    assert_int_equal(link_input(t.b, forged(&t, (struct wire_header)header, payload, n), t.now),   \
                     -EBADMSG)
#define H(...) {__VA_ARGS__}
    BAD(H(.message = 0), zeros, 8);
    BAD(H(.message = 5), zeros, 3);                            /* no prefix */
    BAD(H(.message = 5, .flags = WIRE_FLAG_REPLY), zeros, 11); /* half a prefix */
    BAD(H(.message = 5), follows_5, 8);                        /* follows itself */
    BAD(H(.message = 2 + LINK_MESSAGES_MAX), zeros, 8);        /* too far ahead */
    BAD(H(.message = 5, .n_fragments = LINK_FRAGMENTS_MAX + 1), zeros, 8);
    BAD(H(.message = 5, .fragment = 1, .n_fragments = 2, .flags = WIRE_FLAG_REPLY), zeros, 8);
    BAD(H(.type = WIRE_ACK), zeros, 19); /* cut short */
    BAD(H(.type = WIRE_ACK), zeros, 24);
    uint8_t ack[36] = {0};
    ack[27] = 64; /* an entry of 64 bits, without them */
    BAD(H(.type = WIRE_ACK), ack, 28);
    ack[24] = 0xff; /* beyond any message */
    BAD(H(.type = WIRE_ACK), ack, 36);
    /* Two fragments that disagree about their message */
    assert_int_equal(
        link_input(t.b,
                   forged(&t, (struct wire_header){.message = 3, .n_fragments = 3}, follows_2, 8),
                   t.now),
        0);
    BAD(H(.message = 3, .fragment = 1, .n_fragments = 4), zeros, 8);
    BAD(H(.message = 3, .fragment = 1, .n_fragments = 3, .session = 9), zeros, 8);
    BAD(H(.message = 3, .fragment = 1, .n_fragments = 3, .cls = 2), zeros, 8);
    BAD(H(.message = 4), follows_2, 8); /* message 2 has a successor already */
    /* Acknowledgements of what was never sent change nothing. */
    uint8_t wild[28] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0, 7, 0, 9, 0,
                        0,    0,    0,    0,    0, 0, 0, 0, 0, 0, 9, 0, 9};
    assert_int_equal(
        link_input(t.b, forged(&t, (struct wire_header){.type = WIRE_ACK}, wild, 28), t.now), 0);
    send_one(&t, t.b, 1, 1);
    memset(wild, 0, sizeof wild);
    wild[3] = wild[7] = wild[23] = 1; /* message 1 exists, but was not sent yet; has one fragment */
    wild[25] = 1;
    assert_int_equal(
        link_input(t.b, forged(&t, (struct wire_header){.type = WIRE_ACK}, wild, 28), t.now), 0);
    wild[25] = 2;
    assert_int_equal(
        link_input(t.b, forged(&t, (struct wire_header){.type = WIRE_ACK}, wild, 28), t.now), 0);
    assert_false(link_idle(t.b));
    p = pkt_alloc(t.pool);
    memset(p->data, 0xa5, 500);
    p->len = 500;
    assert_int_equal(link_input(t.b, p, t.now), -EBADMSG);
    link_stats(t.b, &s);
    assert_int_equal(s.bad_frames, 16);
    expect_none(t.b);
    pair_close(&t);
}

static void test_send_errors(void **state)
{
    struct link_params bad = edge_params;
    struct pair t;
    struct link *l;
    struct pkt *p;
    uint16_t bytes = ROOM - WIRE_OVERHEAD - LINK_PREFIX_BYTES + 1;

    bad.connection = 0;
    assert_int_equal(link_open(&bad, 0, &l), -EINVAL);
    bad = edge_params;
    bad.rto_min_ns = 400 * MS;
    assert_int_equal(link_open(&bad, 0, &l), -EINVAL);
    bad.path = NULL;
    assert_int_equal(link_open(&bad, 0, &l), -EINVAL);
    link_close(NULL);

    pair_open(&t, edge_params, cloud_params);
    p = pkt_alloc(t.pool);
    assert_int_equal(link_send(t.a, 1, WIRE_DECODE, -1, &p, &bytes, 1), -EINVAL);
    p = pkt_alloc(t.pool);
    bytes = 8;
    assert_int_equal(link_send(t.a, 1, (enum wire_class)4, -1, &p, &bytes, 1), -EINVAL);
    p = pkt_alloc(t.pool);
    assert_int_equal(link_send(t.a, 1, WIRE_DECODE, -2, &p, &bytes, 1), -EINVAL);
    assert_int_equal(link_send(t.a, 1, WIRE_DECODE, -1, &p, &bytes, 0), -EINVAL);
    for (unsigned i = 0; i < LINK_MESSAGES_MAX; i++)
        assert_true(send_one(&t, t.a, i % 7, 1) > 0);
    assert_int_equal(send_one(&t, t.a, 1, 1), -ENOBUFS);
    pair_close(&t);
}

/* --- with keys -------------------------------------------------------------------------------- */

static struct keys *fresh_keys(bool initiator, uint8_t seed, uint64_t worn_packets)
{
    uint8_t up[KEYS_SECRET_BYTES] = {seed, 1}, down[KEYS_SECRET_BYTES] = {seed, 2};
    struct keys_params p = {.initiator = initiator, .worn_packets = worn_packets};
    struct keys *k;

    assert_int_equal(keys_open(&p, &k), 0);
    if (seed)
        assert_int_equal(keys_set(k, up, down), 0);
    return k;
}

static void keyed_open(struct pair *t, struct link_params *a, struct link_params *b,
                       uint64_t worn_packets)
{
    *a = edge_params;
    *b = cloud_params;
    a->keys = fresh_keys(true, 1, worn_packets);
    b->keys = fresh_keys(false, 1, worn_packets);
    pair_open(t, *a, *b);
}

static void keyed_close(struct pair *t, struct link_params *a, struct link_params *b)
{
    pair_close(t);
    keys_close(a->keys);
    keys_close(b->keys);
}

/* Nothing readable goes out; foreign keys, no keys, our own frames and handshakes are not taken. */
static void test_keyed(void **state)
{
    struct link_params a, b, c = edge_params;
    struct link_stats s;
    struct link *other;
    struct pair t;
    struct pkt *p[4];
    uint8_t fill[8];

    keyed_open(&t, &a, &b, 0);
    connect_pair(&t);
    memset(fill, 0x5a, sizeof fill);
    send_one(&t, t.a, 1, 0x5a);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    assert_null(memmem(p[0]->data, p[0]->len, fill, 3));
    assert_int_equal(link_input(t.a, copy(&t, p[0]), t.now), -EBADMSG); /* reflected */
    give(&t, t.b, p[0]);
    expect(t.b, 1, 0x5a);
    for (unsigned i = 0; i < 2; i++) {
        c.keys = i ? fresh_keys(true, 2, 0) : NULL;
        assert_int_equal(link_open(&c, t.now, &other), 0);
        send_one(&t, other, 1, 1);
        assert_int_equal(take(&t, other, p, 4), 1);
        assert_int_equal(link_input(t.b, p[0], t.now), -EBADMSG);
        link_close(other);
        keys_close(c.keys);
    }
    p[0] = forged(&t, (struct wire_header){.type = WIRE_HANDSHAKE}, fill, 8);
    assert_int_equal(link_input(t.b, p[0], t.now), -EBADMSG);
    p[0] = forged(&t, (struct wire_header){.type = WIRE_RESET}, fill, 0);
    assert_int_equal(link_input(t.b, p[0], t.now), -EBADMSG);
    link_stats(t.b, &s);
    assert_int_equal(s.bad_frames, 4);
    assert_int_equal(s.resets, 0);
    keyed_close(&t, &a, &b);
}

/* Messages may be queued before there are keys: they go out when there are. */
static void test_keys_come_later(void **state)
{
    struct link_params a = edge_params, b = cloud_params;
    uint8_t up[KEYS_SECRET_BYTES] = {1}, down[KEYS_SECRET_BYTES] = {2};
    struct pair t;
    struct pkt *p[4];
    uint64_t deadline;

    a.keys = fresh_keys(true, 0, 0);
    b.keys = fresh_keys(false, 0, 0);
    pair_open(&t, a, b);
    assert_int_equal(send_one(&t, t.a, 0, 1), 1);
    assert_int_equal(take(&t, t.a, p, 4), 0);
    assert_false(link_has_output(t.a));
    t.now += 60000 * MS; /* that is not the peer's silence */
    assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
    assert_int_equal(deadline, UINT64_MAX);
    assert_int_equal(keys_set(a.keys, up, down), 0);
    assert_int_equal(keys_set(b.keys, up, down), 0);
    assert_true(link_has_output(t.a));
    carry(&t);
    expect(t.b, 0, 1);
    keyed_close(&t, &a, &b);
}

/*
 * A flood between each two messages of two that speak with each other: all that one that listens has heard
 * comes again, at where it went and at where it came from, also cut short and with a bit flipped. Each
 * message arrives once, in order; no memory is taken; what is said for it is no more than an
 * acknowledgement a turn; and both go on.
 */
#define HEARD 64u

struct listener {
    struct pkt *heard[HEARD];
    bool from_a[HEARD];
    unsigned n;
};

static void hear(struct pair *t, struct listener *o, struct pkt *p, bool from_a)
{
    if (o->heard[o->n % HEARD])
        pkt_unref(o->heard[o->n % HEARD]);
    o->from_a[o->n % HEARD] = from_a;
    o->heard[o->n++ % HEARD] = copy(t, p);
}

static void flood(struct pair *t, const struct listener *o)
{
    for (unsigned i = 0; i < 4 * HEARD; i++) {
        const struct pkt *p = o->heard[i % HEARD];
        const bool back = i / HEARD == 1;
        struct pkt *c = p ? copy(t, p) : NULL;

        if (!c)
            continue;
        if (i / HEARD == 2)
            c->len -= 1 + i % (c->len - 1);
        else if (i / HEARD == 3)
            c->data[WIRE_L2L4_BYTES + i * 7 % (c->len - WIRE_L2L4_BYTES)] ^= 1u << i % 8;
        (void)link_input(o->from_a[i % HEARD] == back ? t->a : t->b, c, t->now);
    }
}

/* How many frames a has to say. */
static unsigned pass_on(struct pair *t, struct listener *o, bool from_a)
{
    struct pkt *p[64];
    const int n = take(t, from_a ? t->a : t->b, p, 64);

    for (int i = 0; i < n; i++) {
        hear(t, o, p[i], from_a);
        give(t, from_a ? t->b : t->a, p[i]);
    }
    return (unsigned)n;
}

static void test_flood_of_the_heard(void **state)
{
    for (unsigned keyed = 0; keyed < 2; keyed++) {
        struct link_params a = edge_params, b = cloud_params;
        struct listener o = {.n = 0};
        struct link_stats s;
        unsigned most = 0;
        struct pair t;

        if (keyed)
            keyed_open(&t, &a, &b, 100); /* and keys that change now and then */
        else
            pair_open(&t, a, b);
        connect_pair(&t);
        for (unsigned i = 0; i < 500; i++) {
            send_one(&t, t.a, 1, (uint8_t)i);
            send_one(&t, t.b, 2, (uint8_t)i);
            for (unsigned turn = 0; turn < 3; turn++) {
                unsigned n;

                flood(&t, &o);
                n = pass_on(&t, &o, true);
                most = n > most ? n : most;
                flood(&t, &o);
                n = pass_on(&t, &o, false);
                most = n > most ? n : most;
                t.now += MS;
            }
            expect(t.b, 1, (uint8_t)i);
            expect(t.a, 2, (uint8_t)i);
            expect_none(t.a);
            expect_none(t.b);
            assert_in_range(t.pool->n_free, t.pool->n_total - HEARD - 16, t.pool->n_total);
        }
        assert_in_range(most, 1, 4); /* a message, an acknowledgement, and what the MTU or a lost key asks */
        link_stats(t.b, &s);
        assert_true(s.duplicates > 10000 && s.bad_frames + s.strangers > 10000);
        assert_null(link_why_dead(t.a));
        assert_null(link_why_dead(t.b));
        for (unsigned i = 0; i < HEARD; i++)
            pkt_unref(o.heard[i]);
        if (keyed)
            keyed_close(&t, &a, &b);
        else
            pair_close(&t);
    }
}

/* A clock that goes back, or on by an hour, as when the machine slept: what was sent arrives, nobody is
 * taken for dead, and timers still end. */
static void test_clock_steps(void **state)
{
    static const int64_t steps[] = {-4000, 3600 * 1000, -3600 * 1000, 1, 86400 * 1000, -86400 * 1000};
    struct link_params a, b;
    struct link_stats s;
    uint64_t deadline;
    struct pair t;

    keyed_open(&t, &a, &b, 0);
    t.now += 100ull * 86400 * 1000 * MS;
    connect_pair(&t);
    for (unsigned i = 0; i < 60; i++) {
        const uint64_t before = t.now;

        send_one(&t, t.a, 1, (uint8_t)i);
        send_one(&t, t.b, 2, (uint8_t)i);
        if (i % 2)
            drop_output(&t, t.a); /* lost: only a timer brings it */
        t.now += (uint64_t)(steps[i % 6] * (int64_t)MS);
        carry(&t);
        for (unsigned k = 0; k < 400 && !(link_idle(t.a) && link_idle(t.b)); k++) {
            t.now = (t.now > before ? t.now : before) + MS;
            carry(&t);
        }
        assert_int_equal(link_tick(t.a, t.now, &deadline), 0);
        assert_int_equal(link_tick(t.b, t.now, &deadline), 0);
        expect(t.b, 1, (uint8_t)i);
        expect(t.a, 2, (uint8_t)i);
    }
    link_stats(t.a, &s);
    assert_in_range(s.retransmits, 30, 90);
    keyed_close(&t, &a, &b);
}

/* Old frames that come again change nothing, and don't make a silent peer look alive. */
static void test_replays(void **state)
{
    struct link_params a, b;
    struct link_stats s;
    struct pair t;
    struct pkt *old[3], *p[4];
    uint64_t deadline, from;
    int n = 0;

    keyed_open(&t, &a, &b, 0);
    connect_pair(&t);
    send_one(&t, t.a, 1, 7);
    assert_int_equal(take(&t, t.a, old, 1), 1); /* data */
    (void)link_input(t.b, copy(&t, old[0]), t.now);
    expect(t.b, 1, 7);
    t.now += 600 * MS;
    while (n < 2) { /* an acknowledgement and a ping of a */
        int got = take(&t, t.b, p, 4);

        for (int i = 0; i < got; i++)
            give(&t, t.a, p[i]);
        got = take(&t, t.a, p, 4);
        for (int i = 0; i < got; i++) {
            if (n < 2 && type_of(p[i]) != WIRE_DATA)
                old[1 + n++] = pkt_ref(p[i]);
            give(&t, t.b, p[i]);
        }
        t.now += 600 * MS;
    }
    from = t.now;
    while (link_tick(t.b, t.now, &deadline) == 0) { /* a is silent from now on */
        for (unsigned i = 0; i < 3; i++)
            (void)link_input(t.b, copy(&t, old[i]), t.now);
        drop_output(&t, t.b);
        expect_none(t.b);
        assert_true(t.now - from < 20000 * MS);
        t.now += 100 * MS;
    }
    link_stats(t.b, &s);
    assert_true(s.replays >= 100);
    assert_non_null(strstr(link_why_dead(t.b), "silent"));
    for (unsigned i = 0; i < 3; i++)
        pkt_unref(old[i]);
    keyed_close(&t, &a, &b);
}

/* Keys change at their limit; what is sent again keeps its bytes, and its epoch's successor's
 * successor waits for it. */
static void test_key_update(void **state)
{
    struct link_params a, b;
    struct link_stats s;
    struct pair t;
    struct pkt *p[4], *first, *frame;
    uint32_t sent = 0;

    keyed_open(&t, &a, &b, 10);
    connect_pair(&t);
    send_one(&t, t.a, 1, 1);
    assert_int_equal(take(&t, t.a, p, 4), 1);
    first = copy(&t, p[0]);
    pkt_unref(p[0]);             /* lost */
    for (; sent < 100; sent++) { /* the rest of this epoch and all of the next */
        send_one(&t, t.a, 2, (uint8_t)sent);
        int n = link_output(t.a, p, 4, t.pool, t.now);

        if (!n)
            break;
        while (n)
            give(&t, t.b, p[--n]);
        expect(t.b, 2, (uint8_t)sent);
    }
    assert_in_range(sent, 17, 19);
    link_stats(t.a, &s);
    assert_int_equal(s.epoch, 1);
    assert_false(link_has_output(t.a));
    t.now += 400 * MS; /* the lost one goes again */
    assert_true(take(&t, t.a, p, 1) == 1);
    for (frame = p[0]; frame->len != first->len || memcmp(frame->data, first->data, first->len);) {
        give(&t, t.b, frame);
        t.now += 400 * MS;
        assert_true(take(&t, t.a, p, 1) == 1);
        frame = p[0];
    }
    give(&t, t.b, frame);
    expect(t.b, 1, 1);
    t.now += ACK_DELAY;
    carry(&t); /* acknowledged: on to epoch 2 */
    expect(t.b, 2, (uint8_t)sent);
    link_stats(t.a, &s);
    assert_int_equal(s.epoch, 2);
    pkt_unref(first);
    keyed_close(&t, &a, &b);
}

/* Keys that are used up end the link rather than seal one packet more. */
static void test_keys_spent(void **state)
{
    struct keys_params kp = {.initiator = true, .worn_packets = 1000, .spent_packets = 20};
    uint8_t up[KEYS_SECRET_BYTES] = {1}, down[KEYS_SECRET_BYTES] = {2};
    struct link_params a = edge_params;
    uint64_t deadline;
    struct pair t;
    struct pkt *p[4];
    uint32_t sent = 0;

    assert_int_equal(keys_open(&kp, &a.keys), 0);
    assert_int_equal(keys_set(a.keys, up, down), 0);
    pair_open(&t, a, cloud_params);
    while (sent < 100 && send_one(&t, t.a, 1, 1) > 0 && take(&t, t.a, p, 1) == 1) {
        pkt_unref(p[0]);
        sent++;
    }
    assert_int_equal(sent, 20);
    assert_int_equal(link_tick(t.a, t.now, &deadline), -EPIPE);
    assert_non_null(strstr(link_why_dead(t.a), "keys"));
    pair_close(&t);
    keys_close(a.keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reply_acknowledges),
        cmocka_unit_test(test_reply_overtakes),
        cmocka_unit_test(test_acknowledgement_waits),
        cmocka_unit_test(test_timeout_allows_for_delay),
        cmocka_unit_test(test_path_becomes_longer),
        cmocka_unit_test(test_copies_on_the_path),
        cmocka_unit_test(test_long_path),
        cmocka_unit_test(test_late_peer),
        cmocka_unit_test(test_timeout_backs_off),
        cmocka_unit_test(test_overtaken_is_lost),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_order_within_session),
        cmocka_unit_test(test_decode_first),
        cmocka_unit_test(test_aging),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_pings_keep_alive),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_restarted_responder),
        cmocka_unit_test(test_close_unheard),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_send_errors),
        cmocka_unit_test(test_keyed),
        cmocka_unit_test(test_keys_come_later),
        cmocka_unit_test(test_replays),
        cmocka_unit_test(test_flood_of_the_heard),
        cmocka_unit_test(test_clock_steps),
        cmocka_unit_test(test_key_update),
        cmocka_unit_test(test_keys_spent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
