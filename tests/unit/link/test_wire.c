/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire.h"

#define PAYLOAD 37u
#define FRAME   (WIRE_OVERHEAD + PAYLOAD)

static const struct wire_header example = {
    .type = WIRE_DATA,
    .flags = WIRE_FLAG_REPLY,
    .connection = 0x01020304,
    .epoch = 0x0506,
    .message = 0x0708090a,
    .fragment = 1,
    .n_fragments = 3,
    .session = 0x0b0c0d0e,
    .hop = 2,
    .cls = WIRE_PREFILL,
    .payload_bytes = PAYLOAD,
};

static struct pkt *sealed(struct pkt_pool *pool, const struct wire_header *h)
{
    struct pkt *p = pkt_alloc(pool);

    for (unsigned i = 0; i < h->payload_bytes; i++)
        p->data[WIRE_PAYLOAD_AT + i] = (uint8_t)(i * 7);
    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, h), 0);
    return p;
}

static void test_round_trip(void **state)
{
    struct pkt_pool *pool = pkt_pool_heap(2, 300);
    struct pkt *p = sealed(pool, &example);
    struct wire_header h;
    const uint8_t *payload;

    assert_int_equal(p->len, FRAME);
    assert_int_equal(wire_open(NULL, p->data, p->len, &h, &payload), 0);
    assert_int_equal(h.version, WIRE_VERSION);
    assert_int_equal(h.type, example.type);
    assert_int_equal(h.flags, example.flags);
    assert_int_equal(h.connection, example.connection);
    assert_int_equal(h.epoch, example.epoch);
    assert_int_equal(h.message, example.message);
    assert_int_equal(h.fragment, example.fragment);
    assert_int_equal(h.n_fragments, example.n_fragments);
    assert_int_equal(h.session, example.session);
    assert_int_equal(h.hop, example.hop);
    assert_int_equal(h.cls, example.cls);
    assert_int_equal(h.payload_bytes, example.payload_bytes);
    assert_ptr_equal(payload, p->data + WIRE_PAYLOAD_AT);
    for (unsigned i = 0; i < PAYLOAD; i++)
        assert_int_equal(payload[i], (uint8_t)(i * 7));
    pkt_unref(p);
    pkt_pool_heap_close(pool);
}

/* The format is frozen: docs/wire.md. */
static void test_bytes(void **state)
{
    static const uint8_t outer[] = {
        0x02, 'i',  's',  't',  'h',  0x02, 0x02, 'i',  's',  't',  'h',  0x01, 0x08, 0x00,
        0x45, 0x00, 0x00, 0x69, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x25, 0xf0, 0x0a, 0x49,
        0x00, 0x01, 0x0a, 0x49, 0x00, 0x02, 0x1c, 0x84, 0x1c, 0x84, 0x00, 0x55, 0x00, 0x00,
    };
    static const uint8_t header[] = {
        0x40, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
        0x00, 0x01, 0x00, 0x03, 0x0b, 0x0c, 0x0d, 0x0e, 0x02, 0x01, 0x00, 0x25,
    };
    static const uint8_t tag[] = {0xee, 0x1d, 0x9c, 0x91, 0x5d, 0x70, 0x2c, 0x95,
                                  0x3c, 0x9e, 0xcf, 0x50, 0xae, 0x93, 0xcf, 0x17};
    struct pkt_pool *pool = pkt_pool_heap(2, 300);
    struct pkt *p = sealed(pool, &example);

    assert_memory_equal(p->data, outer, sizeof outer);
    assert_memory_equal(p->data + WIRE_L2L4_BYTES, header, sizeof header);
    assert_memory_equal(p->data + WIRE_PAYLOAD_AT + PAYLOAD, tag, sizeof tag);
    pkt_unref(p);
    pkt_pool_heap_close(pool);
}

static void test_every_bit_counts(void **state)
{
    struct pkt_pool *pool = pkt_pool_heap(2, 300);
    struct pkt *p = sealed(pool, &example);
    struct wire_header h;
    const uint8_t *payload;

    for (unsigned bit = 0; bit < FRAME * 8; bit++) {
        unsigned byte = bit / 8;
        /* Routers and switches may change these: addresses of Ethernet, ports, UDP checksum. */
        bool free_field = byte < 12 || (byte >= 34 && byte < 38) || (byte >= 40 && byte < 42);

        p->data[byte] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(wire_open(NULL, p->data, p->len, &h, &payload), free_field ? 0 : -EBADMSG);
        p->data[byte] ^= (uint8_t)(1u << bit % 8);
    }
    pkt_unref(p);
    pkt_pool_heap_close(pool);
}

static struct keys *keys_of(bool initiator)
{
    static const uint8_t up[KEYS_SECRET_BYTES] = {1}, down[KEYS_SECRET_BYTES] = {2};
    struct keys_params p = {.initiator = initiator};
    struct keys *k;

    assert_int_equal(keys_open(&p, &k), 0);
    assert_int_equal(keys_set(k, up, down), 0);
    return k;
}

/* With keys as without, and the payload can't be read. */
static void test_every_bit_counts_sealed(void **state)
{
    struct pkt_pool *pool = pkt_pool_heap(2, 300);
    struct pkt *p = pkt_alloc(pool), *q = pkt_alloc(pool);
    struct keys *up = keys_of(true), *down = keys_of(false);
    struct wire_header h = example;
    const uint8_t *payload;

    h.epoch = 0;
    memset(p->data + WIRE_PAYLOAD_AT, 0x5a, PAYLOAD);
    assert_int_equal(wire_seal(up, p, &wire_path_edge, &h), 0);
    assert_int_equal(p->len, FRAME);
    assert_null(memmem(p->data, p->len, "\x5a\x5a\x5a", 3));
    for (unsigned bit = 0; bit < FRAME * 8; bit++) {
        unsigned byte = bit / 8;
        bool free_field = byte < 12 || (byte >= 34 && byte < 38) || (byte >= 40 && byte < 42);

        memcpy(q->data, p->data, p->len);
        q->data[byte] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(wire_open(down, q->data, p->len, &h, &payload), free_field ? 0 : -EBADMSG);
    }
    memcpy(q->data, p->data, p->len);
    assert_int_equal(wire_open(down, q->data, p->len, &h, &payload), 0);
    for (unsigned i = 0; i < PAYLOAD; i++)
        assert_int_equal(payload[i], 0x5a);
    h = example; /* of another epoch than the keys' */
    assert_int_equal(wire_seal(up, p, &wire_path_edge, &h), -EPERM);
    pkt_unref(p);
    pkt_unref(q);
    keys_close(up);
    keys_close(down);
    pkt_pool_heap_close(pool);
}

static void test_lengths(void **state)
{
    struct pkt_pool *pool = pkt_pool_heap(3, FRAME + 20);
    struct pkt *p = sealed(pool, &example), *small;
    struct wire_header h = example;
    const uint8_t *payload;

    for (unsigned len = 0; len < FRAME; len++) {
        struct pkt *cut = pkt_alloc(pool); /* its own allocation: a sanitizer sees reads past it */

        memcpy(cut->data, p->data, len);
        assert_int_equal(wire_open(NULL, cut->data, len, &h, &payload), -EBADMSG);
        pkt_unref(cut);
    }
    for (unsigned padding = 0; padding <= 20; padding++)
        assert_int_equal(wire_open(NULL, p->data, FRAME + padding, &h, &payload), 0);

    small = pkt_alloc(pool);
    h = example;
    h.payload_bytes = PAYLOAD + 20;
    assert_int_equal(wire_seal(NULL, small, &wire_path_edge, &h), 0);
    h.payload_bytes++;
    assert_int_equal(wire_seal(NULL, small, &wire_path_edge, &h), -ENOSPC);
    pkt_unref(small);
    pkt_unref(p);
    pkt_pool_heap_close(pool);
}

/* Well sealed, but nothing this version sends. */
static void test_nonsense(void **state)
{
    struct wire_header bad[] = {example, example, example, example, example, example, example};
    struct pkt_pool *pool = pkt_pool_heap(2, 300);
    struct wire_header h;
    const uint8_t *payload;

    bad[0].type = WIRE_ANSWER + 1;
    bad[1].cls = WIRE_CONTROL + 1;
    bad[2].fragment = 3;
    bad[3].n_fragments = 0;
    bad[4].flags = 0x08;
    bad[5].type = WIRE_ACK; /* in fragments */
    bad[6].type = WIRE_PING;
    bad[6].fragment = 0;
    bad[6].n_fragments = 1;
    bad[6].flags = WIRE_FLAG_HELLO;
    for (unsigned i = 0; i < 7; i++) {
        struct pkt *p = sealed(pool, &bad[i]);

        assert_int_equal(wire_open(NULL, p->data, p->len, &h, &payload), -EBADMSG);
        pkt_unref(p);
    }
    pkt_pool_heap_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_every_bit_counts), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_nonsense),         cmocka_unit_test(test_every_bit_counts_sealed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
