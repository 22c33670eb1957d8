/* SPDX-License-Identifier: Apache-2.0 */
/* What a path takes: found, lost and found again; and packets that it does not take whole any more.
 */
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

#define MS    1000000ull
#define SURE  1280u
#define MOST  9000u
#define ROOM  9100u
#define DELAY (2 * MS)

/* A path of its own MTU each way, that loses what it is told to. */
struct path {
    uint32_t mtu[2];
    bool (*loses)(const struct pkt *p); /* NULL: nothing else */
    uint64_t n[16], longest;            /* frames that got through by type; longest DATA or PIECE */
};

static struct pkt_pool *pool;
static struct link *side[2]; /* initiator, responder */
static struct path way;
static uint64_t now;

static enum wire_type type_of(const struct pkt *p)
{
    return p->data[WIRE_L2L4_BYTES] & 15;
}

static struct link_params params(bool initiator, uint32_t sure, uint32_t most)
{
    return (struct link_params){.path = initiator ? &wire_path_edge : &wire_path_cloud,
                                .initiator = initiator,
                                .connection = initiator ? 77 : 0,
                                .mtu_bytes = most,
                                .mtu_sure_bytes = sure};
}

static void begin(uint32_t most, uint32_t up, uint32_t down)
{
    for (int i = 0; i < 2; i++) {
        struct link_params p = params(i == 0, SURE, most);

        assert_int_equal(link_open(&p, now, &side[i]), 0);
    }
    way = (struct path){.mtu = {up, down}};
}

static void carry(int from, struct pkt *p)
{
    const enum wire_type type = type_of(p);
    bool gone = p->len > way.mtu[from] + OUTER_ETHERNET_BYTES || (way.loses && way.loses(p));
    struct pkt *c = gone ? NULL : pkt_alloc(pool);

    if (c) {
        way.n[type]++;
        if ((type == WIRE_DATA || type == WIRE_PIECE) && p->len > way.longest)
            way.longest = p->len;
        memcpy(c->data, p->data, p->len);
        c->len = p->len;
        assert_int_equal(link_input(side[!from], c, now), 0);
    }
    pkt_unref(p);
}

/* Everything that can be said now; how many frames. */
static int turn(void)
{
    struct pkt *pkts[7];
    uint64_t deadline;
    int n = 0, k;

    for (int i = 0; i < 2; i++) {
        (void)link_tick(side[i], now, &deadline);
        while ((k = link_output(side[i], pkts, 7, pool, now)) > 0) {
            for (int j = 0; j < k; j++)
                carry(i, pkts[j]);
            n += k;
        }
    }
    return n;
}

static void pass(uint64_t ns)
{
    for (const uint64_t end = now + ns; now < end; now += DELAY) {
        while (turn())
            ;
    }
}

static void send(int from, uint32_t bytes, uint8_t fill)
{
    struct pkt *p = bytes + WIRE_OVERHEAD + LINK_PREFIX_BYTES > ROOM
                        ? pkt_lone(bytes + WIRE_OVERHEAD + LINK_PREFIX_BYTES)
                        : pkt_alloc(pool);
    uint16_t n = (uint16_t)bytes;

    memset(p->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES, fill, bytes);
    assert_true(link_send(side[from], 1, WIRE_PREFILL, -1, &p, &n, 1) > 0);
}

static void expect(int at, uint32_t bytes, uint8_t fill)
{
    struct link_message m;
    const uint8_t *p;
    size_t n;

    assert_true(link_recv(side[at], &m));
    p = link_message_payload(&m, 0, &n);
    assert_int_equal(n, bytes);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(p[i], fill);
    link_message_free(&m);
}

static void expect_none(int at)
{
    struct link_message m;

    assert_false(link_recv(side[at], &m));
}

/* Of a message that fills a packet of this MTU. */
static uint32_t filling(uint32_t mtu)
{
    return wire_payload_max(mtu) - LINK_PREFIX_BYTES;
}

static void meet(void)
{
    send(0, 8, 1);
    pass(20 * MS);
    expect(1, 8, 1);
}

static struct link_stats stats(int i)
{
    struct link_stats s;

    link_stats(side[i], &s);
    return s;
}

static int setup(void **state)
{
    pool = pkt_pool_heap(256, ROOM);
    now = 1000 * MS;
    return 0;
}

static int teardown(void **state)
{
    for (int i = 0; i < 2; i++) {
        link_close(side[i]);
        side[i] = NULL;
    }
    if (pool->n_free != pool->n_total)
        return 1;
    pkt_pool_heap_close(pool);
    return 0;
}

/* --- the search ------------------------------------------------------------------------------- */

static void test_whole(void **state)
{
    begin(MOST, MOST, MOST);
    assert_int_equal(link_mtu(side[0]), SURE);
    assert_false(link_mtu_settled(side[0]));
    send(0, 8, 1);
    while (turn()) /* no time passes */
        ;
    expect(1, 8, 1);
    send(1, 8, 2);
    while (turn())
        ;
    expect(0, 8, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(link_mtu(side[i]), MOST);
        assert_true(link_mtu_settled(side[i]));
        assert_int_equal(stats(i).mtu_probes, 1);
        assert_int_equal(stats(i).mtu_bytes, MOST);
    }
    pass(3600ull * 1000 * MS); /* there is no more to look for; each ten minutes, whether it still is so */
    assert_in_range(stats(0).mtu_probes, 5, 7);
    assert_int_equal(link_mtu(side[0]), MOST);
}

/* An idle link sends nothing long that could be lost. */
static void test_narrower_while_idle(void **state)
{
    begin(MOST, MOST, MOST);
    meet();
    pass(1000 * MS);
    assert_int_equal(link_mtu(side[0]), MOST);
    way.mtu[0] = 1400;
    pass(610ull * 1000 * MS);
    assert_int_equal(link_mtu(side[0]), 1400);
    assert_int_equal(link_mtu(side[1]), MOST);
    assert_int_equal(stats(0).mtu_falls, 1);
}

/* What the port takes is known: nobody asks. */
static void test_fixed(void **state)
{
    struct link_params a = params(true, 0, 1500), b = params(false, 1500, 1500);

    assert_int_equal(link_open(&a, now, &side[0]), 0);
    assert_int_equal(link_open(&b, now, &side[1]), 0);
    way = (struct path){.mtu = {1500, 1500}};
    meet();
    assert_int_equal(link_mtu(side[0]), 1500);
    assert_true(link_mtu_settled(side[0]) && link_mtu_settled(side[1]));
    assert_int_equal(way.n[WIRE_PROBE], 0);
}

static void test_no_mtu(void **state)
{
    struct link_params a = params(true, 0, 0), b = params(false, 0, 0);

    assert_int_equal(link_open(&a, now, &side[0]), 0);
    assert_int_equal(link_open(&b, now, &side[1]), 0);
    way = (struct path){.mtu = {MOST, MOST}};
    assert_int_equal(link_mtu(side[0]), UINT32_MAX);
    send(0, 8000, 3);
    pass(20 * MS);
    expect(1, 8000, 3);
    assert_int_equal(way.n[WIRE_PROBE] + way.n[WIRE_PIECE], 0);
}

static void test_params(void **state)
{
    struct link_params p = params(true, 1400, 1399);
    struct link *l;

    assert_int_equal(link_open(&p, now, &l), -EINVAL);
    p = params(true, 1000, 1500); /* no room for a piece */
    assert_int_equal(link_open(&p, now, &l), -EINVAL);
    p = params(true, 600, 600);
    assert_int_equal(link_open(&p, now, &side[0]), 0);
    p = params(false, 600, 600);
    assert_int_equal(link_open(&p, now, &side[1]), 0);
    struct pkt *packet = pkt_alloc(pool);
    uint16_t n = 1000; /* the port would never take it, nor its pieces */
    assert_int_equal(link_send(side[0], 1, WIRE_PREFILL, -1, &packet, &n, 1), -EINVAL);
    link_close(side[0]);
    p = params(true, SURE, 1500);
    assert_int_equal(link_open(&p, now, &side[0]), 0);
    packet = pkt_lone(20000);
    n = 17000; /* it would be too many */
    assert_int_equal(link_send(side[0], 1, WIRE_PREFILL, -1, &packet, &n, 1), -EINVAL);
}

/* Each direction its own; of the usual sizes the greatest that passes. */
static void test_narrow(void **state)
{
    static const uint32_t paths[][2] = {{1280, 1280}, {1300, 1280}, {1400, 1400}, {1419, 1400},
                                        {1420, 1420}, {1492, 1492}, {1499, 1492}, {1500, 1500},
                                        {4000, 2000}, {4400, 4352}, {8951, 8950}, {9000, 9000}};

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        begin(MOST, paths[i][0], MOST);
        meet();
        pass(8000 * MS);
        assert_true(link_mtu_settled(side[0]));
        assert_int_equal(link_mtu(side[0]), paths[i][1]);
        assert_int_equal(link_mtu(side[1]), MOST);
        assert_int_equal(stats(0).retransmits, 0); /* a lost probe is nothing else's loss */
        assert_int_equal(stats(0).mtu_falls, 0);
        send(0, filling(paths[i][1]), 9);
        pass(20 * MS);
        expect(1, filling(paths[i][1]), 9);
        assert_int_equal(stats(0).cut, 0);
        link_close(side[0]);
        link_close(side[1]);
        side[0] = side[1] = NULL;
    }
}

/* Counted from the sure size, that of IPv6 is 20 less in our headers: 1,480 is its 1,500. */
static void test_ipv6(void **state)
{
    struct link_params a = params(true, 1260, 1480), b = params(false, 1260, 1480);

    assert_int_equal(link_open(&a, now, &side[0]), 0);
    assert_int_equal(link_open(&b, now, &side[1]), 0);
    way = (struct path){.mtu = {1472, 1480}};
    meet();
    pass(8000 * MS);
    assert_int_equal(link_mtu(side[0]), 1472); /* 1,492 */
    assert_int_equal(link_mtu(side[1]), 1480);
}

static int n_lost;

static bool loses_two_probes(const struct pkt *p)
{
    return type_of(p) == WIRE_PROBE && n_lost < 2 && ++n_lost;
}

static void test_probes_lost(void **state)
{
    n_lost = 0;
    begin(1500, 1500, 1500);
    way.loses = loses_two_probes;
    meet();
    pass(1000 * MS);
    assert_int_equal(n_lost, 2);
    assert_int_equal(link_mtu(side[0]), 1500);
    assert_int_equal(link_mtu(side[1]), 1500);
}

static bool is_silent;

static bool long_probes_or_all(const struct pkt *p)
{
    const bool probe = type_of(p) == WIRE_PROBE && p->len > SURE + OUTER_ETHERNET_BYTES;

    n_lost += probe && p->len == MOST + OUTER_ETHERNET_BYTES;
    return probe || is_silent;
}

/* A probe counts as lost where something was heard after it, not at the time it was sent. */
static void test_heard_before(void **state)
{
    begin(MOST, SURE, MOST);
    way.loses = long_probes_or_all;
    n_lost = 0;
    is_silent = false;
    send(0, 8, 1);
    for (int i = 0; i < 10 && !n_lost; i++) /* no time passes */
        (void)turn();
    is_silent = true;
    pass(150 * MS);
    is_silent = false;
    pass(2000 * MS);
    assert_int_equal(n_lost, 2 + 3); /* of which the first two fell into the silence */
    expect(1, 8, 1);
}

static void test_raise(void **state)
{
    begin(MOST, 1500, MOST);
    meet();
    pass(8000 * MS);
    assert_int_equal(link_mtu(side[0]), 1500);
    way.mtu[0] = MOST;
    pass(500ull * 1000 * MS);
    assert_int_equal(link_mtu(side[0]), 1500);
    pass(200ull * 1000 * MS);
    assert_int_equal(link_mtu(side[0]), MOST);
}

static void test_moved(void **state)
{
    struct wire_path path = wire_path_edge;
    struct pkt *p;
    uint64_t deadline;

    begin(1500, 1500, 1500);
    meet();
    send(1, 8, 1);
    pass(20 * MS);
    expect(0, 8, 1);
    assert_int_equal(link_mtu(side[1]), 1500);
    path.src_ip += 16;
    send(0, 8, 2); /* from elsewhere, from now on */
    way.mtu[1] = 1400;
    for (int i = 0; i < 200; i++, now += DELAY) {
        (void)link_tick(side[0], now, &deadline);
        while (link_output(side[0], &p, 1, pool, now) == 1) {
            outer_readdress(p->data, &path);
            carry(0, p);
        }
        (void)link_tick(side[1], now, &deadline);
        while (link_output(side[1], &p, 1, pool, now) == 1)
            carry(1, p);
        if (stats(1).moves)
            break;
    }
    assert_int_equal(stats(1).moves, 1);
    assert_int_equal(link_mtu(side[1]), SURE);
    assert_false(link_mtu_settled(side[1]));
}

/* --- it becomes narrower ---------------------------------------------------------------------- */

static void narrow_under_way(uint32_t to)
{
    begin(MOST, MOST, MOST);
    meet();
    assert_int_equal(link_mtu(side[0]), MOST);
    way.mtu[0] = to;
    way.longest = 0;
}

static void test_fall(void **state)
{
    narrow_under_way(1400);
    for (uint8_t i = 0; i < 20; i++)
        send(0, i % 3 ? filling(MOST) : 100, i);
    pass(3000 * MS);
    for (uint8_t i = 0; i < 20; i++)
        expect(1, i % 3 ? filling(MOST) : 100, i);
    expect_none(1);
    assert_int_equal(stats(0).mtu_falls, 1);
    assert_true(stats(0).cut >= 13);
    assert_true(way.longest <= 1400 + OUTER_ETHERNET_BYTES);
    pass(8000 * MS);
    assert_int_equal(link_mtu(side[0]), 1400);
    assert_true(link_idle(side[0]));
    const uint64_t cut = stats(0).cut;
    send(0, filling(1400), 7);
    pass(20 * MS);
    expect(1, filling(1400), 7);
    assert_int_equal(stats(0).cut, cut);
}

static bool loses_long_data(const struct pkt *p)
{
    return type_of(p) == WIRE_DATA && p->len > 5000 && n_lost++ < 8;
}

/* Long packets are lost, but by chance: what is tried again gets through. */
static void test_false_alarm(void **state)
{
    n_lost = 0;
    begin(MOST, MOST, MOST);
    meet();
    way.loses = loses_long_data;
    send(0, filling(MOST), 5);
    pass(3000 * MS);
    assert_true(n_lost >= 8);
    expect(1, filling(MOST), 5);
    assert_true(stats(0).mtu_probes > 1);
    assert_int_equal(stats(0).mtu_falls, 0);
    assert_int_equal(stats(0).cut, 0);
    assert_int_equal(link_mtu(side[0]), MOST);
}

static bool loses_all(const struct pkt *p)
{
    return true;
}

/* Nothing gets through at all: that is no matter of sizes. */
static void test_outage(void **state)
{
    begin(MOST, MOST, MOST);
    meet();
    way.loses = loses_all;
    send(0, filling(MOST), 5);
    pass(6000 * MS);
    assert_int_equal(stats(0).mtu_falls, 0);
    way.loses = NULL;
    pass(3000 * MS);
    expect(1, filling(MOST), 5);
    assert_int_equal(stats(0).mtu_falls, 0);
    assert_int_equal(link_mtu(side[0]), MOST);
}

static void test_falls_and_rises(void **state)
{
    narrow_under_way(1280);
    send(0, filling(MOST), 1);
    pass(5000 * MS);
    expect(1, filling(MOST), 1);
    pass(10000 * MS);
    assert_int_equal(link_mtu(side[0]), 1280);
    way.mtu[0] = MOST;
    pass(610ull * 1000 * MS);
    assert_int_equal(link_mtu(side[0]), MOST);
    way.mtu[0] = 1500;
    send(0, filling(MOST), 2);
    pass(12000 * MS);
    expect(1, filling(MOST), 2);
    assert_int_equal(link_mtu(side[0]), 1500);
    assert_int_equal(stats(0).mtu_falls, 2);
}

/* --- pieces ----------------------------------------------------------------------------------- */

/* As a history's tiles of a cloud with longer packets. */
static void test_longer_than_the_port(void **state)
{
    begin(1500, 1500, 1500);
    meet();
    send(0, filling(MOST), 1);
    send(0, 16300, 2);
    send(0, filling(1500), 3);
    pass(200 * MS);
    expect(1, filling(MOST), 1);
    expect(1, 16300, 2);
    expect(1, filling(1500), 3);
    assert_int_equal(stats(0).cut, 2);
    assert_int_equal(stats(0).copied_bytes[WIRE_PREFILL],
                     8 + filling(1500) + 2 * (filling(MOST) + 16300) + 2 * LINK_PREFIX_BYTES);
}

static bool loses_some_pieces(const struct pkt *p)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return type_of(p) == WIRE_PIECE && state >> 29 < 3;
}

static void test_pieces_lost(void **state)
{
    begin(1500, 1500, 1500);
    meet();
    way.loses = loses_some_pieces;
    for (uint8_t i = 0; i < 30; i++)
        send(0, filling(MOST) - i, i);
    pass(20000 * MS);
    for (uint8_t i = 0; i < 30; i++)
        expect(1, filling(MOST) - i, i);
    expect_none(1);
    assert_true(link_idle(side[0]));
    assert_true(stats(0).cut > 30);
}

/* The port takes one packet at a time, and then none. */
static void test_pieces_refused(void **state)
{
    struct pkt *pkts[16];
    uint64_t deadline;
    int n;

    begin(1500, 1500, 1500);
    meet();
    for (uint8_t i = 0; i < 5; i++)
        send(0, 8000, i);
    for (int i = 0; i < 200; i++, now += DELAY) {
        (void)link_tick(side[0], now, &deadline);
        n = link_output(side[0], pkts, 16, pool, now);
        if (n)
            carry(0, pkts[0]);
        for (int k = 1; k < n; k++)
            link_output_refused(side[0], pkts[k], now);
        (void)link_tick(side[1], now, &deadline);
        n = link_output(side[1], pkts, 16, pool, now);
        for (int k = 0; k < n; k++)
            carry(1, pkts[k]);
    }
    for (uint8_t i = 0; i < 5; i++)
        expect(1, 8000, i);
    assert_true(link_idle(side[0]));
}

/* The link ends while pieces wait, here and there. */
static void test_pieces_dropped(void **state)
{
    struct pkt *pkts[4];
    int n;

    begin(1500, 1500, 1500);
    meet();
    send(0, 16300, 1);
    n = link_output(side[0], pkts, 4, pool, now);
    assert_int_equal(n, 4);
    carry(0, pkts[0]);
    link_shutdown(side[0]);
    for (int k = 1; k < n; k++)
        link_output_refused(side[0], pkts[k], now);
    n = link_output(side[0], pkts, 4, pool, now);
    assert_int_equal(n, 1);
    assert_int_equal(type_of(pkts[0]), WIRE_CLOSE);
    pkt_unref(pkts[0]);
}

/* --- what a peer must not do ------------------------------------------------------------------ */

static int give(uint8_t type, const uint8_t *payload, uint16_t n)
{
    static uint32_t number = 1000;
    struct wire_header h = {.type = type,
                            .flags = WIRE_FLAG_INITIATOR,
                            .connection = 77,
                            .message = ++number,
                            .n_fragments = 1,
                            .cls = WIRE_CONTROL,
                            .payload_bytes = n};
    struct pkt *p = pkt_alloc(pool);
    struct link_stats s;

    link_stats(side[1], &s);
    h.epoch = s.epoch;
    memcpy(p->data + WIRE_PAYLOAD_AT, payload, n);
    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
    return link_input(side[1], p, now);
}

static int give_piece(uint32_t message, uint16_t fragment, uint16_t bytes, uint16_t i, uint16_t n)
{
    uint8_t payload[2000] = {0};

    put_be32(payload, message);
    put_be16(payload + 4, fragment);
    put_be16(payload + 6, bytes);
    put_be16(payload + 8, i);
    return give(WIRE_PIECE, payload, (uint16_t)(10 + n));
}

static void test_bad(void **state)
{
    uint8_t number[8] = {0};

    begin(1500, 1500, 1500);
    meet();
    assert_int_equal(give(WIRE_PROBED, number, 3), -EBADMSG);
    assert_int_equal(give(WIRE_PROBED, number, 5), -EBADMSG);
    for (uint32_t i = 0; i < 200; i++) { /* of what was never sent, or not just now */
        put_be32(number, i);
        assert_int_equal(give(WIRE_PROBED, number, 4), 0);
    }
    assert_int_equal(link_mtu(side[1]), 1500); /* by its own */
    assert_int_equal(give(WIRE_PIECE, number, 8), -EBADMSG);
    assert_int_equal(give_piece(9, 0, 40, 0, 40), -EBADMSG);      /* no frame is so short */
    assert_int_equal(give_piece(9, 0, 2000, 2, 976), -EBADMSG);   /* beyond its end */
    assert_int_equal(give_piece(9, 0, 2000, 1, 975), -EBADMSG);   /* too short */
    assert_int_equal(give_piece(9, 0, 2000, 0, 1025), -EBADMSG);  /* too long */
    assert_int_equal(give_piece(9, 0, 16385, 0, 1024), -EBADMSG); /* nor so long */
    assert_int_equal(give_piece(9, 0, 2000, 0, 1024), 0);
    assert_int_equal(give_piece(9, 0, 2000, 0, 1024), 0);
    assert_int_equal(give_piece(9, 0, 2000, 1, 976), -EBADMSG); /* all there, and no frame */
    for (uint16_t i = 0; i < 1000; i++)                         /* kept are a few */
        assert_int_equal(give_piece(9, i, 16384, i % 16, 1024), 0);
    assert_int_equal(give_piece(1, 0, 2000, 0, 1024), 0); /* it had that one */
    expect_none(1);
}

/* A DATA frame of this length in pieces, as its sender would cut it. */
static void give_in_pieces(uint32_t message, uint16_t bytes)
{
    const uint16_t payload = bytes - WIRE_HEADER_BYTES - WIRE_TAG_BYTES;
    struct wire_header h = {.type = WIRE_DATA,
                            .flags = WIRE_FLAG_INITIATOR,
                            .connection = 77,
                            .epoch = stats(1).epoch,
                            .message = message,
                            .n_fragments = 1,
                            .session = message,
                            .cls = WIRE_PREFILL,
                            .payload_bytes = payload};
    struct pkt *whole = pkt_lone(WIRE_L2L4_BYTES + bytes);

    memset(whole->data, 0, WIRE_L2L4_BYTES + bytes);
    assert_int_equal(wire_seal(NULL, whole, &wire_path_edge, &h), 0);
    for (uint16_t i = 0; i * 1024 < bytes; i++) {
        const uint16_t n = bytes - i * 1024 < 1024 ? bytes - i * 1024 : 1024;
        uint8_t piece[10 + 1024] = {0};

        put_be32(piece, message);
        put_be16(piece + 6, bytes);
        put_be16(piece + 8, i);
        memcpy(piece + 10, whole->data + WIRE_L2L4_BYTES + i * 1024, n);
        assert_int_equal(give(WIRE_PIECE, piece, 10 + n), 0);
    }
    pkt_unref(whole);
}

static void begin_with_budget(uint32_t packets)
{
    begin(1500, 1500, 1500);
    for (int i = 0; i < 2; i++) {
        struct link_params p = params(i == 0, SURE, 1500);

        p.rx_budget_packets = packets;
        p.unpaced = true;
        link_close(side[i]);
        assert_int_equal(link_open(&p, now, &side[i]), 0);
    }
    meet();
}

/* Frames in pieces are memory beside the pool: who sends such without end, and keeps back the message
 * that would be let in whatever there is, has its budget of them and no more. */
static void test_budget_of_pieces(void **state)
{
    struct link_message m;
    uint32_t n = 0, packets = 0;

    begin_with_budget(64);
    for (uint32_t i = 0; i < 100; i++)
        give_in_pieces(3 + i, 16384);
    assert_int_equal(stats(1).over_budget, 96);
    for (; link_recv(side[1], &m); n++) {
        packets += m.n_packets;
        link_message_free(&m);
    }
    assert_int_equal(n, 4);
    assert_int_equal(packets, 64);
    for (uint32_t i = 0; i < 100; i++) /* shorter ones count for less */
        give_in_pieces(503 + i, 2000);
    assert_int_equal(stats(1).over_budget, 96 + 68);
}

/* And an honest sender counts them so, too, and sends none in vain. */
static void test_credit_of_pieces(void **state)
{
    begin_with_budget(32);
    for (uint8_t i = 0; i < 20; i++)
        send(0, 8000, i);
    for (uint8_t i = 0; i < 20;) {
        struct link_message m;

        while (turn())
            ;
        assert_true(stats(0).in_flight_packets <= 32 / 8);
        for (now += DELAY; link_recv(side[1], &m); i++) {
            assert_int_equal(m.n_packets, 8);
            link_message_free(&m);
        }
    }
    pass(50 * MS);
    assert_true(link_idle(side[0]));
    assert_int_equal(stats(0).in_flight_packets, 0);
    assert_int_equal(stats(1).over_budget, 0);
    assert_int_equal(stats(0).retransmits, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_whole),           TEST(test_fixed),
        TEST(test_no_mtu),          TEST(test_params),
        TEST(test_narrow),          TEST(test_ipv6),
        TEST(test_probes_lost),     TEST(test_raise),
        TEST(test_moved),           TEST(test_fall),
        TEST(test_false_alarm),     TEST(test_outage),
        TEST(test_falls_and_rises), TEST(test_longer_than_the_port),
        TEST(test_pieces_lost),     TEST(test_pieces_refused),
        TEST(test_pieces_dropped),  TEST(test_bad),
        TEST(test_heard_before),    TEST(test_narrower_while_idle),
        TEST(test_budget_of_pieces), TEST(test_credit_of_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
