/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that don't play by the rules: what they can make us send and hold is bounded. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/link.h"
#include "dataplane/link/bytes.h"
#include "tests/unit/dies.h"

#define MS      1000000ull
#define ROOM    1514u
#define POOL    8192u
#define PACKET  1400u
#define BUDGET  64u
#define AT_ONCE 17u /* packets of this size that go before anything is known of the path */

static struct pkt_pool *pool;
static uint64_t now;
static struct link *ours;
static uint32_t controls; /* of the peer */

static int setup(void **state)
{
    const struct link_params p = {.path = &wire_path_edge,
                                  .initiator = true,
                                  .connection = 7,
                                  .epoch = 1,
                                  .rx_budget_packets = BUDGET,
                                  .dead_after_ns = 1000000 * MS};

    pool = pkt_pool_heap(POOL, ROOM);
    now = 1000 * MS;
    controls = 0;
    assert_int_equal(link_open(&p, now, &ours), 0);
    return 0;
}

static int teardown(void **state)
{
    link_close(ours);
    if (pool->n_free != pool->n_total)
        return 1;
    pkt_pool_heap_close(pool);
    return 0;
}

static int from_peer(struct wire_header h, const void *payload, uint16_t n)
{
    struct pkt *p = pkt_alloc(pool);

    memcpy(p->data + WIRE_PAYLOAD_AT, payload, n);
    h.connection = 7;
    h.epoch = 1;
    h.payload_bytes = n;
    if (!h.n_fragments)
        h.n_fragments = 1;
    assert_int_equal(wire_seal(NULL, p, &wire_path_cloud, &h), 0);
    return link_input(ours, p, now);
}

static int acknowledge(uint32_t below, uint16_t credit, const uint8_t *entries, uint16_t n)
{
    uint8_t ack[64] = {0};

    put_be32(ack, below);
    put_be16(ack + 10, credit);
    put_be32(ack + 12, UINT32_MAX);
    if (n)
        memcpy(ack + 20, entries, n);
    return from_peer(
        (struct wire_header){.type = WIRE_ACK, .message = ++controls, .cls = WIRE_CONTROL}, ack,
        20 + n);
}

static void queue(uint32_t messages, uint16_t fragments)
{
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];

    while (messages--) {
        for (uint16_t i = 0; i < fragments; i++) {
            pkts[i] = pkt_alloc(pool);
            memset(pkts[i]->data, 0, ROOM);
            bytes[i] = PACKET;
        }
        assert_true(link_send(ours, 1, WIRE_PREFILL, -1, pkts, bytes, fragments) > 0);
    }
}

/* Data packets that go until `until`. */
static unsigned sent_until(uint64_t until)
{
    struct pkt *out[32];
    uint64_t deadline;
    unsigned count = 0;
    int n;

    do {
        assert_int_equal(link_tick(ours, now, &deadline), 0);
        while ((n = link_output(ours, out, 32, pool, now)) > 0) {
            while (n) {
                count += (out[--n]->data[WIRE_L2L4_BYTES] & 15) == WIRE_DATA;
                pkt_unref(out[n]);
            }
        }
        deadline = link_deadline(ours);
        now = deadline > now + MS ? deadline : now + MS;
    } while (now < until);
    return count;
}

/* It gets a first flight, then two packets for each timeout, which gets no shorter. */
static void one_that_never_acknowledges(void **state)
{
    struct link_stats s;

    queue(2000, 1);
    assert_int_equal(link_window_left(ours), 0); /* who asks first is held back */
    assert_in_range(sent_until(now + 20 * MS), 1, AT_ONCE);
    assert_in_range(sent_until(now + 60000 * MS), 2, 2 * 60000 / 300 + 12);
    link_stats(ours, &s);
    assert_true(s.in_flight_packets <= AT_ONCE);
    assert_int_equal(pool->n_free, POOL - 2000);
}

static void one_that_gives_no_credit(void **state)
{
    struct link_stats s;

    assert_int_equal(acknowledge(1, 0, NULL, 0), 0);
    queue(4, 100);
    assert_in_range(sent_until(now + 20 * MS), 1, 8); /* of the oldest message */
    assert_in_range(sent_until(now + 60000 * MS), 2, 2 * 60000 / 300 + 12);
    link_stats(ours, &s);
    assert_true(s.in_flight_packets <= 8);
}

static void one_that_gives_all_credit(void **state)
{
    assert_int_equal(acknowledge(1, UINT16_MAX, NULL, 0), 0);
    queue(2000, 1);
    assert_in_range(sent_until(now + 20 * MS), 1, AT_ONCE);
}

/* Claims to have all, whatever was sent. What was not sent stays ours to send; and however fast it
 * says things arrive, no more goes at once than the window. */
static void one_that_acknowledges_what_was_never_sent(void **state)
{
    uint8_t all[8] = {0, 0, 0, 1, 0xff, 0xff, LINK_MESSAGES_MAX >> 8, LINK_MESSAGES_MAX & 255};
    uint8_t more[8] = {
        0, 0, 0, 1, 0xff, 0xff, LINK_MESSAGES_MAX >> 8, (LINK_MESSAGES_MAX & 255) + 1};
    unsigned sent = 0;

    queue(2000, 1);
    assert_int_equal(acknowledge(1, 100, more, 8), -EBADMSG);
    assert_int_equal(acknowledge(UINT32_MAX, UINT16_MAX, all, 8), 0);
    assert_false(link_idle(ours)); /* nothing was sent */
    for (unsigned i = 0; i < 4000 && !link_idle(ours); i++) {
        unsigned at_once = sent_until(now + 1);

        assert_true(at_once <= 2048);
        sent += at_once;
        assert_int_equal(acknowledge(UINT32_MAX, UINT16_MAX, all, 8), 0);
    }
    assert_true(link_idle(ours));
    assert_int_equal(sent, 2000);
}

/* A list that goes back could name all messages with each of its entries: it is none. */
static void one_whose_list_goes_back(void **state)
{
    static const uint8_t again[] = {0, 0, 0, 1, 0xff, 0xff, 0, 2, 0, 0, 0, 2, 0xff, 0xff, 0, 2};
    static const uint8_t overlaps[] = {0, 0, 0, 1, 0xff, 0xff, 0, 2, 0, 0, 0, 2, 0, 1, 0, 0};
    static const uint8_t on[] = {0, 0, 0, 1, 0xff, 0xff, 0, 2, 0, 0, 0, 3, 0xff, 0xff, 0, 2};
    static const uint8_t same[] = {0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0};

    queue(4, 1);
    assert_int_equal(sent_until(now + 1), 4);
    assert_int_equal(acknowledge(1, 100, again, sizeof again), -EBADMSG);
    assert_int_equal(acknowledge(1, 100, overlaps, sizeof overlaps), -EBADMSG);
    assert_int_equal(acknowledge(1, 100, same, sizeof same), -EBADMSG);
    assert_false(link_idle(ours));
    assert_int_equal(acknowledge(1, 100, on, sizeof on), 0);
    assert_true(link_idle(ours));
}

/* Sends whatever our credit says, and keeps back what would let us hand it on. */
static void one_that_ignores_our_credit(void **state)
{
    static const uint8_t first[8] = {0};
    struct link_stats s;

    for (uint32_t i = 0; i < 4 * BUDGET; i++)
        assert_int_equal(from_peer((struct wire_header){.message = 2 + i,
                                                        .session = i,
                                                        .fragment = 0,
                                                        .n_fragments = LINK_FRAGMENTS_MAX,
                                                        .cls = WIRE_PREFILL},
                                   first, 8),
                         0);
    link_stats(ours, &s);
    assert_int_equal(s.over_budget, 3 * BUDGET);
    assert_int_equal(pool->n_free, POOL - BUDGET);
    /* The oldest message comes through all the same. */
    assert_int_equal(from_peer((struct wire_header){.message = 1, .cls = WIRE_PREFILL}, first, 8),
                     0);
    struct link_message m;
    assert_true(link_recv(ours, &m));
    link_message_free(&m);
}

/* What a producer wrote in place is not copied, and what was brought from elsewhere counts. */
static void copies_are_counted(void **state)
{
    struct pkt *p = pkt_alloc(pool), *q = pkt_alloc(pool);
    uint16_t bytes = 40;
    struct link_stats s;

    pkt_made(p, p->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES);
    assert_true(link_send(ours, 1, WIRE_DECODE, -1, &p, &bytes, 1) > 0);
    link_stats(ours, &s);
    assert_int_equal(s.copied_bytes[WIRE_DECODE], 0);
    assert_true(link_send(ours, 1, WIRE_DECODE, -1, &q, &bytes, 1) > 0);
    link_stats(ours, &s);
    assert_int_equal(s.copied_bytes[WIRE_DECODE], 40);
    assert_int_equal(sent_until(now + 1), 2);
}

#ifndef NDEBUG
static void seal_and_send(struct pkt *p)
{
    uint16_t bytes = 40;

    if (link_send(ours, 1, WIRE_DECODE, -1, &p, &bytes, 1) > 0)
        sent_until(now + 1);
}

static void written_into_another(void)
{
    struct pkt *p = pkt_alloc(pool), *other = pkt_alloc(pool);

    pkt_made(p, other->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES);
    seal_and_send(p);
}

/* As by code that copies a packet, with all that stands in it, into another one and sends that. */
static void moved_on_the_way(void)
{
    struct pkt *p = pkt_alloc(pool), *other = pkt_alloc(pool);

    pkt_made(other, other->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES);
    memset(other->data, 0, other->room);
    memcpy(p->data, other->data, p->room);
    p->made = other->made;
    seal_and_send(p);
}

static void written_beside_the_payload(void)
{
    struct pkt *p = pkt_alloc(pool);

    pkt_made(p, p->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES + 100);
    seal_and_send(p);
}

static void copies_are_found_out(void **state)
{
    assert_true(dies_saying(written_into_another, "written into this very packet"));
    assert_true(dies_saying(moved_on_the_way, "sealed where it was written"));
    assert_true(dies_saying(written_beside_the_payload, "sealed where it was written"));
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_that_never_acknowledges, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_gives_no_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_gives_all_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_acknowledges_what_was_never_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(one_whose_list_goes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_ignores_our_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_are_counted, setup, teardown),
#ifndef NDEBUG
        cmocka_unit_test_setup_teardown(copies_are_found_out, setup, teardown),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
