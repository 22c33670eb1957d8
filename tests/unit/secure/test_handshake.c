/* SPDX-License-Identifier: Apache-2.0 */
/* Handshakes over a simulated network under a virtual clock. */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "dataplane/secure/handshake.h"
#include "tests/sim/network.h"

#define MS     1000000ull
#define SECOND (1000 * MS)

static struct identity *edge_id, *cloud_id, *stranger_id;

static int make_identities(void **state)
{
    return identity_new(&edge_id) || identity_new(&cloud_id) || identity_new(&stranger_id);
}

static int drop_identities(void **state)
{
    identity_close(edge_id);
    identity_close(cloud_id);
    identity_close(stranger_id);
    return 0;
}

static bool admits(void *arg, const struct fingerprint *peer)
{
    return fingerprint_equal(arg, peer);
}

static void *print_of(const struct identity *id)
{
    return (void *)identity_fingerprint(id);
}

struct pair {
    struct network *net;
    struct handshake *side[2]; /* initiator, responder */
    struct handshake_result result[2];
    bool done[2];
    uint64_t now, frames[2];
};

static struct handshake_params initiator(uint32_t connection, uint32_t mtu)
{
    return (struct handshake_params){.identity = edge_id,
                                     .admits = admits,
                                     .arg = print_of(cloud_id),
                                     .initiator = true,
                                     .connection = connection,
                                     .path = &wire_path_edge,
                                     .payload_max_bytes = wire_payload_max(mtu)};
}

static struct handshake_params responder(uint32_t mtu)
{
    return (struct handshake_params){.identity = cloud_id,
                                     .admits = admits,
                                     .arg = print_of(edge_id),
                                     .payload_max_bytes = wire_payload_max(mtu)};
}

static void pair_open(struct pair *t, uint64_t seed, const struct network_params *np, uint32_t mtu,
                      struct handshake_params a, struct handshake_params b)
{
    *t = (struct pair){.net = network_open(seed, np, 512, mtu)};
    assert_int_equal(handshake_open(&a, 0, &t->side[0]), 0);
    assert_int_equal(handshake_open(&b, 0, &t->side[1]), 0);
}

static void pair_close(struct pair *t)
{
    for (int i = 0; i < 2; i++) {
        handshake_close(t->side[i]);
        handshake_wipe(&t->result[i]);
    }
    network_close(t->net);
}

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* One call of each side's owner; virtual time goes on to what comes next. */
static void step(struct pair *t)
{
    uint64_t next = UINT64_MAX, deadline;
    struct pkt *p[32];

    network_set_now(t->net, t->now);
    for (int i = 0; i < 2; i++) {
        struct port *port = network_port(t->net, i);
        int n;

        while ((n = port_rx(port, p, 32)) > 0) {
            for (int k = 0; k < n; k++)
                handshake_input(t->side[i], p[k], t->now);
        }
        handshake_tick(t->side[i], t->now, &deadline);
        t->done[i] = handshake_take(t->side[i], &t->result[i]) || t->done[i];
        n = handshake_output(t->side[i], p, 32, port->pool, t->now);
        for (int k = 0; k < n; k++) {
            (void)port_tx(port, &p[k], 1); /* refused: it is sent again in time */
            pkt_unref(p[k]);
        }
        t->frames[i] += (uint64_t)n;
        next = min64(next, handshake_deadline(t->side[i]));
        if (handshake_has_output(t->side[i]))
            next = t->now;
    }
    for (int i = 0; i < 2; i++)
        next = min64(next, network_next(t->net, i));
    t->now = next == UINT64_MAX ? t->now + MS : next > t->now ? next : t->now + 1000;
}

static bool finishes(struct pair *t, uint64_t within)
{
    uint64_t end = t->now + within;

    while (!(t->done[0] && t->done[1]) && t->now < end && !handshake_error(t->side[0]))
        step(t);
    return t->done[0] && t->done[1];
}

static void assert_same_secrets(const struct pair *t)
{
    static const uint8_t zeros[KEYS_SECRET_BYTES];

    assert_memory_equal(t->result[0].initiator, t->result[1].initiator, KEYS_SECRET_BYTES);
    assert_memory_equal(t->result[0].responder, t->result[1].responder, KEYS_SECRET_BYTES);
    assert_memory_not_equal(t->result[0].initiator, t->result[0].responder, KEYS_SECRET_BYTES);
    assert_memory_not_equal(t->result[0].initiator, zeros, KEYS_SECRET_BYTES);
    assert_int_equal(t->result[0].connection, 7);
    assert_int_equal(t->result[1].connection, 7);
    assert_true(fingerprint_equal(&t->result[0].peer, print_of(cloud_id)));
    assert_true(fingerprint_equal(&t->result[1].peer, print_of(edge_id)));
    assert_int_equal(t->result[1].path.dst_ip, wire_path_edge.src_ip);
}

static const struct network_params quiet = {.delay_min_ns = 5000, .delay_max_ns = 5000};

static void test_meets(void **state)
{
    static const uint32_t mtus[] = {1500, 576, 400, 9000};

    for (unsigned i = 0; i < 4; i++) {
        uint8_t first[KEYS_SECRET_BYTES];
        struct pair t;

        for (unsigned again = 0; again < 2; again++) {
            pair_open(&t, 1, &quiet, mtus[i], initiator(7, mtus[i]), responder(mtus[i]));
            assert_true(finishes(&t, SECOND));
            assert_same_secrets(&t);
            if (!again) {
                memcpy(first, t.result[0].initiator, sizeof first);
                print_message("MTU %u: %.3f ms, %u + %u frames\n", mtus[i], (double)t.now * 1e-6,
                              (unsigned)t.frames[0], (unsigned)t.frames[1]);
            } else {
                assert_memory_not_equal(first, t.result[0].initiator, sizeof first);
            }
            for (unsigned k = 0; k < 100; k++) /* all is acknowledged, nobody speaks any more */
                step(&t);
            assert_int_equal(handshake_deadline(t.side[0]), UINT64_MAX);
            pair_close(&t);
        }
    }
}

static void test_loss(void **state)
{
    static const double drops[] = {.1, .3, .5};

    for (unsigned i = 0; i < 3; i++) {
        uint64_t times[20];

        for (unsigned k = 0; k < 20; k++) {
            struct network_params np = {.drop = drops[i],
                                        .duplicate = .2,
                                        .flip = .1,
                                        .replay = .2,
                                        .noise = .1,
                                        .refuse = .1,
                                        .delay_min_ns = 10000,
                                        .delay_max_ns = k % 2 ? 20000 : 5 * MS};
            struct pair t;

            pair_open(&t, 100 * i + k, &np, 1500, initiator(7, 1500), responder(1500));
            assert_true(finishes(&t, 60 * SECOND));
            assert_same_secrets(&t);
            times[k] = t.now;
            pair_close(&t);
        }
        for (unsigned a = 0; a < 20; a++) {
            for (unsigned b = a + 1; b < 20; b++) {
                if (times[b] < times[a]) {
                    uint64_t x = times[a];

                    times[a] = times[b];
                    times[b] = x;
                }
            }
        }
        print_message("drop %.0f %%: p50 %.0f ms, longest %.0f ms\n", drops[i] * 100,
                      (double)times[10] * 1e-6, (double)times[19] * 1e-6);
    }
}

static void test_long_path(void **state)
{
    struct network_params far = {.delay_min_ns = 150 * MS, .delay_max_ns = 150 * MS, .drop = .05};
    struct pair t;

    pair_open(&t, 3, &far, 1500, initiator(7, 1500), responder(1500));
    assert_true(finishes(&t, 30 * SECOND));
    assert_same_secrets(&t);
    pair_close(&t);
}

/* Each side insists on the other's fingerprint, and says what was wrong. */
static void test_refused(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct handshake_params a = initiator(7, 1500), b = responder(1500);
        struct handshake_stats s;
        struct fingerprint last;
        char print[FINGERPRINT_TEXT];
        struct pair t;

        if (i)
            a.identity = stranger_id;
        else
            b.identity = stranger_id;
        pair_open(&t, 1, &quiet, 1500, a, b);
        assert_false(finishes(&t, 10 * SECOND));
        assert_false(t.done[0] || t.done[1]);
        assert_non_null(handshake_error(t.side[0]));
        print_message("%s\n", handshake_error(t.side[0]));
        assert_non_null(
            strstr(handshake_error(t.side[0]), fingerprint_format(print_of(stranger_id), print)));
        assert_true(t.now < SECOND);
        handshake_stats(t.side[i], &s);
        assert_int_equal(s.refused, 3);
        assert_int_equal(handshake_refused(t.side[i], &last), 3);
        assert_true(fingerprint_equal(&last, print_of(stranger_id)));
        pair_close(&t);
    }
}

static bool no_secrets;

/* In place of OpenSSL's, which it calls: no peer of ours can be made to give no secrets. */
int SSL_export_keying_material(SSL *s, unsigned char *out, size_t n, const char *label,
                               size_t label_bytes, const unsigned char *context,
                               size_t context_bytes, int use_context)
{
    int (*right)(SSL *, unsigned char *, size_t, const char *, size_t, const unsigned char *,
                 size_t, int) =
        (int (*)(SSL *, unsigned char *, size_t, const char *, size_t, const unsigned char *,
                 size_t, int))dlsym(RTLD_NEXT, __func__);

    if (no_secrets || !right)
        return 0;
    return right(s, out, n, label, label_bytes, context, context_bytes, use_context);
}

/* DTLS is content, but there are no secrets: tried again, then said, and not waited for. */
static void test_no_secrets(void **state)
{
    struct handshake_stats s;
    struct pair t;

    pair_open(&t, 1, &quiet, 1500, initiator(7, 1500), responder(1500));
    no_secrets = true;
    assert_false(finishes(&t, 4 * SECOND));
    no_secrets = false;
    assert_non_null(handshake_error(t.side[0]));
    print_message("%s\n", handshake_error(t.side[0]));
    handshake_stats(t.side[0], &s);
    assert_int_equal(s.failed, 3);
    assert_int_equal(s.finished, 0);
    pair_close(&t);
}

/* A responder that isn't there yet. */
static void test_late_responder(void **state)
{
    struct handshake_params b = responder(1500);
    struct network_params deaf = {.drop = 1};
    struct pair t;

    pair_open(&t, 1, &deaf, 1500, initiator(7, 1500), b);
    assert_false(finishes(&t, 20 * SECOND));
    assert_null(handshake_error(t.side[0]));
    network_set_params(t.net, &quiet);
    assert_true(finishes(&t, SECOND));
    assert_same_secrets(&t);
    pair_close(&t);
}

static unsigned clock_steps_each; /* so often it was looked at; 0: never */

static time_t some_time(void)
{
    static uint64_t n, steps = 1;

    if (clock_steps_each && ++n % clock_steps_each == 0)
        steps++;
    return (time_t)(steps * 0x9e3779b97f4a7c15u >> 30);
}

/* In place of libc's, for OpenSSL, which looks at the clock on the wall. */
#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

SEEN_BY_LIBRARIES time_t time(time_t *to)
{
    const time_t now = some_time();

    if (to)
        *to = now;
    return now;
}

static unsigned n_looked;

SEEN_BY_LIBRARIES int gettimeofday(struct timeval *tv, void *zone)
{
    n_looked++;
    *tv = (struct timeval){.tv_sec = some_time()};
    return 0;
}

/* It steps, to anywhere from 1970 to 2500, while hands are shaken, again and again: that costs packets at
 * most. */
static void test_clock_on_the_wall(void **state)
{
    const struct network_params lossy = {.drop = .3, .delay_min_ns = MS, .delay_max_ns = 2 * MS};

    for (unsigned i = 0; i < 20; i++) {
        struct pair t;

        clock_steps_each = 3 + i % 10;
        pair_open(&t, 500 + i, &lossy, 1500, initiator(7, 1500), responder(1500));
        assert_true(finishes(&t, 60 * SECOND));
        clock_steps_each = 0;
        assert_same_secrets(&t);
        pair_close(&t);
    }
    assert_true(n_looked > 0); /* else these would not be OpenSSL's */
}

/* --- floods --------------------------------------------------------------------------------------
 */

static struct pkt_pool *pool;

/* All that h has to say is given to the other, or thrown away. */
static unsigned carry(struct handshake *h, struct handshake *to, uint64_t now)
{
    struct pkt *p[32];
    unsigned total = 0;
    int n;

    while ((n = handshake_output(h, p, 32, pool, now)) > 0) {
        for (int i = 0; i < n; i++) {
            if (to)
                handshake_input(to, p[i], now);
            else
                pkt_unref(p[i]);
        }
        total += (unsigned)n;
    }
    return total;
}

static bool honest_meets(struct handshake *b, uint64_t *now)
{
    struct handshake_params ip = initiator(7, 1500);
    struct handshake_result ra, rb;
    struct handshake *a;
    uint64_t deadline, end = *now + 20 * SECOND;
    bool da = false, db = false;

    assert_int_equal(handshake_open(&ip, *now, &a), 0);
    while (!(da && db) && *now < end) {
        carry(a, b, *now);
        carry(b, a, *now);
        da = handshake_take(a, &ra) || da;
        db = handshake_take(b, &rb) || db;
        *now += MS;
        handshake_tick(a, *now, &deadline);
        handshake_tick(b, *now, &deadline);
    }
    handshake_close(a);
    return da && db && !memcmp(ra.initiator, rb.initiator, KEYS_SECRET_BYTES);
}

/* The first packet of an initiator as of another connection: its cookie will be another. */
static void knock(struct handshake *b, const struct pkt *first, uint32_t connection, uint64_t now)
{
    struct pkt *p = pkt_alloc(pool);
    struct wire_header h;
    const uint8_t *payload;

    memcpy(p->data, first->data, first->len);
    assert_int_equal(wire_open(NULL, p->data, first->len, &h, &payload), 0);
    h.connection = connection;
    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
    handshake_input(b, p, now);
}

/* 10,000 that never return a cookie, and 10,000 that stop after it: memory stays flat, few are half
 * open, and the honest one is served. */
static void test_half_open(void **state)
{
    struct handshake_params bp = responder(1500);
    struct handshake_stats s;
    struct handshake_params fp = initiator(999, 1500);
    struct handshake *b, *other;
    struct pkt *first;
    uint64_t now = SECOND, deadline;
    size_t before;

    pool = pkt_pool_heap(64, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    assert_true(honest_meets(b, &now));
    assert_int_equal(handshake_open(&fp, now, &other), 0);
    assert_int_equal(handshake_output(other, &first, 1, pool, now), 1);
    for (unsigned round = 0; round < 2; round++) {
        before = 0;
        for (uint32_t i = 0; i < 10000; i++) {
            struct handshake_params ap = initiator(1000 + i, 1500);
            struct handshake *a;

            if (!round) {
                knock(b, first, 1000 + i, now);
                assert_true(carry(b, NULL, now) >= 1); /* also what the honest one may lack */
            } else {
                assert_int_equal(handshake_open(&ap, now, &a), 0);
                carry(a, b, now);
                carry(b, a, now);
                carry(a, b, now);
                carry(b, NULL, now);
                handshake_close(a);
            }
            now += MS / 4;
            handshake_tick(b, now, &deadline);
            handshake_stats(b, &s);
            assert_in_range(s.half_open, 0, round ? 64 : 0);
            if (i == 999)
                before = mallinfo2().uordblks;
        }
        print_message("round %u: %zu bytes more than after the first thousand; %u half open, %lu "
                      "not begun\n",
                      round, mallinfo2().uordblks - before, s.half_open, (unsigned long)s.crowded);
        if (mallinfo2().uordblks > 100000) /* a sanitizer's allocator tells nothing */
            assert_true(mallinfo2().uordblks < before + 200000);
        assert_true(s.verify_requests > 10000 * (round + 1));
        assert_true(honest_meets(b, &now));
    }
    now += 10 * SECOND;
    handshake_tick(b, now, &deadline);
    handshake_stats(b, &s);
    assert_int_equal(s.half_open, 0);
    pkt_unref(first);
    handshake_close(other);
    handshake_close(b);
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

/* More first packets than are looked at between two outputs: the rest is not, cookie or no. The
 * honest one among them comes again. */
static void test_knocks(void **state)
{
    struct handshake_params ap = initiator(7, 1500), bp = responder(1500),
                            fp = initiator(999, 1500);
    uint64_t now = SECOND, deadline;
    struct handshake *a, *b, *other;
    struct handshake_stats s;
    struct pkt *first;

    pool = pkt_pool_heap(256, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    assert_int_equal(handshake_open(&ap, now, &a), 0);
    assert_int_equal(handshake_open(&fp, now, &other), 0);
    assert_int_equal(handshake_output(other, &first, 1, pool, now), 1);
    carry(a, b, now);
    carry(b, a, now);
    for (uint32_t i = 0; i < 100; i++)
        knock(b, first, 1000 + i, now);
    carry(a, b, now); /* with its cookie */
    handshake_stats(b, &s);
    assert_int_equal(s.verify_requests, 65);
    assert_int_equal(s.half_open, 0);
    assert_int_equal(s.crowded, 37);
    assert_int_equal(carry(b, NULL, now), 64);
    now += 20 * MS;
    handshake_tick(a, now, &deadline);
    carry(a, b, now);
    handshake_stats(b, &s);
    assert_int_equal(s.half_open, 1);
    carry(b, NULL, now);
    pkt_unref(first);
    handshake_close(a);
    handshake_close(b);
    handshake_close(other);
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

/* The second packet of an initiator, which holds the cookie, from another address or too late: it
 * gets another verify request and nothing begins. */
static void test_cookie(void **state)
{
    struct handshake_params ap = initiator(7, 1500), bp = responder(1500);

    pool = pkt_pool_heap(64, 1600);
    for (unsigned i = 0; i < 4; i++) {
        struct wire_path elsewhere = wire_path_edge;
        struct handshake *a, *b;
        struct handshake_stats s;
        struct pkt *p[8];
        uint64_t now = SECOND;

        assert_int_equal(handshake_open(&ap, now, &a), 0);
        assert_int_equal(handshake_open(&bp, now, &b), 0);
        carry(a, b, now);
        carry(b, a, now);
        assert_int_equal(handshake_output(a, p, 8, pool, now), 1);
        if (i == 1)
            elsewhere.src_port++;
        else if (i == 2)
            elsewhere.src_mac[2]++; /* where part of an IPv6 address lies */
        else if (i == 3)
            now += 33 * SECOND;
        outer_readdress(p[0]->data, &elsewhere);
        handshake_input(b, p[0], now);
        handshake_stats(b, &s);
        assert_int_equal(s.half_open, i == 0);
        assert_int_equal(s.verify_requests, i == 0 ? 1 : 2);
        carry(b, NULL, now);
        handshake_close(a);
        handshake_close(b);
    }
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

/* Any bytes as a datagram of a running exchange, and as a first packet. */
static void test_garbage(void **state)
{
    struct handshake_params ap = initiator(7, 1500), bp = responder(1500);
    struct dice d = {5};
    uint64_t now = SECOND, deadline;
    struct handshake *b;

    pool = pkt_pool_heap(64, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    for (unsigned i = 0; i < 3000; i++) {
        struct pkt *p = pkt_alloc(pool);
        struct wire_header h = {.type = WIRE_HANDSHAKE,
                                .flags = WIRE_FLAG_INITIATOR,
                                .connection = (uint32_t)dice_between(&d, 0, 3),
                                .message = (uint32_t)dice_below(&d, 4),
                                .n_fragments = 1,
                                .session = (uint32_t)dice_below(&d, 2),
                                .cls = WIRE_CONTROL,
                                .payload_bytes = (uint16_t)dice_below(&d, 200)};

        for (unsigned k = 0; k < h.payload_bytes; k++)
            p->data[WIRE_PAYLOAD_AT + k] = (uint8_t)dice_next(&d);
        if (h.payload_bytes > 20 && dice_chance(&d, .5)) /* looks like a ClientHello's record */
            memcpy(p->data + WIRE_PAYLOAD_AT + 4, "\x16\xfe\xff\0\0\0\0\0\0\0\0\0\x60\x01", 14);
        assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
        handshake_input(b, p, now);
        carry(b, NULL, now);
        now += MS;
        handshake_tick(b, now, &deadline);
    }
    assert_true(honest_meets(b, &now));
    /* A running exchange is spoilt by packets that are forged for it - whoever sees its numbers can
     * do that - and begins anew. */
    {
        struct handshake *a;
        struct pkt *p = pkt_alloc(pool);
        struct wire_header h = {.type = WIRE_HANDSHAKE,
                                .connection = 7,
                                .n_fragments = 1,
                                .session = 1,
                                .cls = WIRE_CONTROL,
                                .payload_bytes = 60};
        struct handshake_result r;
        bool done = false;

        assert_int_equal(handshake_open(&ap, now, &a), 0);
        memset(p->data + WIRE_PAYLOAD_AT, 0, 60);
        h.message = 1; /* as if it were the first of the responder's flight */
        assert_int_equal(wire_seal(NULL, p, &wire_path_cloud, &h), 0);
        handshake_input(a, p, now);
        for (unsigned i = 0; i < 20000 && !done; i++) {
            carry(a, b, now);
            carry(b, a, now);
            done = handshake_take(a, &r);
            now += MS;
            handshake_tick(a, now, &deadline);
            handshake_tick(b, now, &deadline);
        }
        assert_true(done);
        handshake_close(a);
    }
    handshake_close(b);
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

/* An initiator that returned its cookie: the responder's exchange with it runs. */
static struct handshake *half_open(struct handshake *b, uint64_t now)
{
    struct handshake_params ap = initiator(7, 1500);
    struct handshake_stats s;
    struct handshake *a;

    assert_int_equal(handshake_open(&ap, now, &a), 0);
    carry(a, b, now);
    carry(b, a, now);
    carry(a, b, now);
    carry(b, NULL, now);
    handshake_stats(b, &s);
    assert_int_equal(s.half_open, 1);
    return a;
}

/* Its next packet, with this datagram. */
static void datagram(struct handshake *b, uint32_t number, const uint8_t *bytes, size_t n,
                     uint64_t now)
{
    struct pkt *p = pkt_alloc(pool);
    struct wire_header h = {.type = WIRE_HANDSHAKE,
                            .flags = WIRE_FLAG_INITIATOR,
                            .connection = 7,
                            .message = number,
                            .n_fragments = 1,
                            .session = 1,
                            .cls = WIRE_CONTROL,
                            .payload_bytes = (uint16_t)(4 + n)};

    memset(p->data + WIRE_PAYLOAD_AT, 0, 4);
    memcpy(p->data + WIRE_PAYLOAD_AT + 4, bytes, n);
    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
    handshake_input(b, p, now);
    carry(b, NULL, now);
}

/* A stranger that goes on sending junk in the right order keeps its place for a while only. */
static void test_old_age(void **state)
{
    struct handshake_params bp = responder(1500);
    uint64_t now = SECOND, deadline;
    const uint8_t junk[20] = {0};
    struct handshake_stats s;
    struct handshake *a, *b;

    pool = pkt_pool_heap(64, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    a = half_open(b, now);
    for (uint32_t i = 1; i < 25; i++) {
        datagram(b, 2 + i, junk, sizeof junk, now);
        now += SECOND;
        handshake_tick(b, now, &deadline);
        handshake_stats(b, &s);
        assert_int_equal(s.half_open, i < 20);
    }
    assert_int_equal(s.failed, 0);
    handshake_close(a);
    handshake_close(b);
    pkt_pool_heap_close(pool);
}

/* The first fragment of a Certificate that says how long the whole will be: no memory is laid aside
 * for what no peer of ours sends. */
static void test_long_certificate(void **state)
{
    struct handshake_params bp = responder(1500);

    pool = pkt_pool_heap(64, 1600);
    for (int i = 0; i < 2; i++) {
        const uint32_t claimed = i ? 90000 : 3000, part = 100;
        uint8_t bytes[13 + 12 + 100] = {22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 12 + 100, 11};
        uint64_t now = SECOND;
        struct handshake_stats s;
        struct handshake *a, *b;

        bytes[14] = (uint8_t)(claimed >> 16);
        bytes[15] = (uint8_t)(claimed >> 8);
        bytes[16] = (uint8_t)claimed;
        bytes[18] = 2; /* after the two ClientHellos */
        bytes[24] = (uint8_t)part;
        assert_int_equal(handshake_open(&bp, now, &b), 0);
        a = half_open(b, now);
        datagram(b, 3, bytes, sizeof bytes, now);
        handshake_stats(b, &s);
        assert_int_equal(s.failed, i);
        assert_int_equal(s.half_open, !i);
        handshake_close(a);
        handshake_close(b);
    }
    pkt_pool_heap_close(pool);
}

static void test_bad_params(void **state)
{
    struct handshake_params p = initiator(7, 1500);
    struct handshake *h;

    p.connection = 0;
    assert_int_equal(handshake_open(&p, 0, &h), -EINVAL);
    p = initiator(7, 1500);
    p.path = NULL;
    assert_int_equal(handshake_open(&p, 0, &h), -EINVAL);
    p = responder(1500);
    p.payload_max_bytes = 299;
    assert_int_equal(handshake_open(&p, 0, &h), -EINVAL);
    p = responder(1500);
    p.identity = NULL;
    assert_int_equal(handshake_open(&p, 0, &h), -EINVAL);
    handshake_close(NULL);
}

/* --- denials -------------------------------------------------------------------------------------
 */

#define HOSTS 200u

/* A frame of a connection that nobody has; its tag is in the last bytes. */
static struct pkt *stray(uint32_t host, uint16_t port, uint32_t number)
{
    const struct wire_header h = {.type = WIRE_PING,
                                  .flags = WIRE_FLAG_INITIATOR,
                                  .connection = 1000 + host,
                                  .message = number,
                                  .n_fragments = 1,
                                  .cls = WIRE_CONTROL};
    struct wire_path path = wire_path_edge;
    struct pkt *p = pkt_alloc(pool);

    path.src_ip += host;
    path.src_port = port;
    assert_int_equal(wire_seal(NULL, p, &path, &h), 0);
    return p;
}

/* Denials that go now, by the host that they go to; how many. */
static unsigned denials(struct handshake *b, uint64_t now, unsigned to[HOSTS])
{
    uint64_t deadline;
    struct pkt *p[32];
    int n;

    handshake_tick(b, now, &deadline);
    n = handshake_output(b, p, 32, pool, now);
    for (int i = 0; i < n; i++) {
        struct wire_path back;

        outer_way_back(p[i]->data, &back); /* back to us: where it goes is its source */
        to[back.src_ip - wire_path_edge.src_ip]++;
        pkt_unref(p[i]);
    }
    return (unsigned)n;
}

static void deny(struct handshake *b, struct pkt *p)
{
    handshake_deny(b, p);
    pkt_unref(p);
}

/* One host floods, from whatever ports; another, whose frame comes now and then and always after one
 * of the flood, has its turn. */
static void test_denials_in_turn(void **state)
{
    struct handshake_params bp = responder(1500);
    unsigned to[HOSTS] = {0}, sent = 0;
    uint64_t now = SECOND;
    struct handshake *b;

    pool = pkt_pool_heap(64, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    for (uint32_t i = 0; i < 1000; i++, now += MS) {
        for (uint16_t k = 0; k < 50; k++)
            deny(b, stray(1, k, i * 50 + k));
        if (i % 100 == 50)
            deny(b, stray(2, 7, i));
        sent += denials(b, now, to);
        if (i % 100 == 50 + 20) /* its turn comes within two of theirs */
            assert_int_equal(to[2], i / 100 + 1);
    }
    assert_in_range(sent, 99, 101);
    assert_int_equal(to[1] + to[2], sent); /* and the turns that nobody else wants are the flood's */
    handshake_close(b);
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

/* Of more hosts than wait at once the others come again, and each is told; nobody waits for ever, and
 * who waits is told the time. */
static void test_denials_of_many(void **state)
{
    struct handshake_params bp = responder(1500);
    unsigned to[HOSTS] = {0}, told = 0;
    uint64_t now = SECOND, deadline;
    struct handshake *b;

    pool = pkt_pool_heap(64, 1600);
    assert_int_equal(handshake_open(&bp, now, &b), 0);
    for (uint32_t i = 0; told < HOSTS && i < 4 * HOSTS; i++) {
        for (uint32_t host = 0; host < HOSTS; host++) {
            if (!to[host]) /* who was told is gone */
                deny(b, stray(host, 7, i));
        }
        told += denials(b, now, to);
        deadline = handshake_deadline(b);
        if (deadline == UINT64_MAX)
            break;
        assert_in_range(deadline, now + 1, now + 10 * MS);
        now = deadline;
    }
    for (uint32_t host = 0; host < HOSTS; host++)
        assert_int_equal(to[host], 1);
    assert_int_equal(handshake_deadline(b), UINT64_MAX);
    assert_false(handshake_has_output(b));
    assert_true(now <= SECOND + HOSTS * 10 * MS);
    handshake_close(b);
    assert_int_equal(pool->n_free, pool->n_total);
    pkt_pool_heap_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meets),          cmocka_unit_test(test_loss),
        cmocka_unit_test(test_long_path),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_late_responder), cmocka_unit_test(test_half_open),
        cmocka_unit_test(test_cookie),         cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_old_age),        cmocka_unit_test(test_long_certificate),
        cmocka_unit_test(test_no_secrets),     cmocka_unit_test(test_knocks),
        cmocka_unit_test(test_clock_on_the_wall),
        cmocka_unit_test(test_denials_in_turn), cmocka_unit_test(test_denials_of_many),
        cmocka_unit_test(test_bad_params),
    };
    return cmocka_run_group_tests(tests, make_identities, drop_identities);
}
