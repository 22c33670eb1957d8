/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/port/arp.h"

#define SECOND 1000000000ull
#define NET    0xffffff00u
#define OUR_IP 0x0a000001u
#define IP(n)  (0x0a000000u + (n))

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1}, her_mac[6] = {2, 0, 0, 0, 0, 2},
                     his_mac[6] = {2, 0, 0, 0, 0, 3};

/* Written out byte by byte: RFC 826. */
static void make(uint8_t f[42], const uint8_t dst[6], uint16_t op, const uint8_t sha[6],
                 uint32_t sip, const uint8_t tha[6], uint32_t tip)
{
    static const uint8_t fixed[] = {0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0};
    memcpy(f, dst, 6);
    memcpy(f + 6, sha, 6);
    memcpy(f + 12, fixed, 9);
    f[21] = (uint8_t)op;
    memcpy(f + 22, sha, 6);
    memcpy(f + 32, tha, 6);
    for (int i = 0; i < 4; i++) {
        f[28 + i] = (uint8_t)(sip >> (24 - 8 * i));
        f[38 + i] = (uint8_t)(tip >> (24 - 8 * i));
    }
}

static const uint8_t all[6] = {255, 255, 255, 255, 255, 255}, none[6];

static struct arp *open_arp(void)
{
    struct arp *a = malloc(sizeof(*a));
    arp_init(a, our_mac, OUR_IP, NET);
    return a;
}

static size_t give(struct arp *a, const uint8_t f[42], uint64_t now, uint8_t *reply)
{
    uint8_t *exact = malloc(42); /* a sanitizer sees reads past it */
    memcpy(exact, f, 42);
    size_t n = arp_input(a, exact, 42, now, reply);
    free(exact);
    return n;
}

static void who_asks_is_answered_and_known(void **state)
{
    struct arp *a = open_arp();
    uint8_t f[42], want[42], reply[ARP_FRAME_BYTES], mac[6];
    make(f, all, 1, her_mac, IP(2), none, OUR_IP);
    make(want, her_mac, 2, our_mac, OUR_IP, her_mac, IP(2));
    assert_int_equal(give(a, f, SECOND, reply), ARP_FRAME_BYTES);
    assert_memory_equal(reply, want, 42);
    for (int i = 42; i < (int)ARP_FRAME_BYTES; i++)
        assert_int_equal(reply[i], 0);
    assert_true(arp_find(a, IP(2), SECOND, mac));
    assert_memory_equal(mac, her_mac, 6);

    make(f, all, 1, her_mac, 0, none, OUR_IP); /* is the address taken? it is */
    assert_int_equal(give(a, f, SECOND, reply), ARP_FRAME_BYTES);
    make(f, all, 1, his_mac, IP(3), none, IP(9)); /* others among themselves */
    assert_int_equal(give(a, f, SECOND, reply), 0);
    assert_false(arp_find(a, IP(3), SECOND, mac));
    free(a);
}

static void we_ask_and_learn(void **state)
{
    struct arp *a = open_arp();
    uint8_t f[42], want[42], out[ARP_FRAME_BYTES], mac[6];
    uint64_t deadline, now = 5 * SECOND, asked[6];
    assert_int_equal(arp_poll(a, now, out, &deadline), 0);
    assert_true(deadline == UINT64_MAX);
    assert_false(arp_find(a, IP(2), now, mac));
    make(want, all, 1, our_mac, OUR_IP, none, IP(2));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(arp_poll(a, now, out, &deadline), ARP_FRAME_BYTES);
        assert_memory_equal(out, want, 42);
        asked[i] = now;
        assert_int_equal(arp_poll(a, now, out, &deadline), 0);
        assert_true(deadline > now && deadline <= now + SECOND);
        assert_int_equal(arp_poll(a, deadline - 1, out, &deadline), 0);
        now = deadline;
    }
    assert_true(asked[1] - asked[0] < SECOND / 2);
    assert_true(asked[5] - asked[4] == SECOND);
    make(f, our_mac, 2, her_mac, IP(2), our_mac, OUR_IP);
    assert_int_equal(give(a, f, now, out), 0);
    assert_true(arp_find(a, IP(2), now + 1, mac));
    assert_memory_equal(mac, her_mac, 6);
    assert_int_equal(arp_poll(a, now + 1, out, &deadline), 0);
    assert_int_equal(deadline, now + 30 * SECOND);

    make(f, all, 2, his_mac, IP(2), all, IP(2)); /* another took over the address, and says so */
    assert_int_equal(give(a, f, now + 2, out), 0);
    assert_true(arp_find(a, IP(2), now + 3, mac));
    assert_memory_equal(mac, his_mac, 6);
    free(a);
}

/* One in use is asked again; if it is gone, it is asked for as at first; unused ones are forgotten.
 */
static void neighbours_grow_old(void **state)
{
    struct arp *a = open_arp();
    uint8_t f[42], out[ARP_FRAME_BYTES], mac[6];
    uint64_t deadline, now = SECOND;
    make(f, all, 1, her_mac, IP(2), none, OUR_IP);
    (void)give(a, f, now, out);
    unsigned questions = 0;
    for (; now < 29 * SECOND; now += SECOND / 10) {
        assert_true(arp_find(a, IP(2), now, mac));
        assert_int_equal(arp_poll(a, now, out, &deadline), 0);
    }
    while (arp_find(a, IP(2), now, mac)) {
        questions += arp_poll(a, now, out, &deadline) > 0;
        now += SECOND / 10;
        assert_true(now < 60 * SECOND);
    }
    assert_int_equal(questions, 4);
    for (uint64_t until = now + 59 * SECOND; now < until; now += SECOND)
        questions += arp_poll(a, now, out, &deadline) > 0;
    assert_in_range(questions, 30, 65);
    now += 10 * SECOND;
    assert_int_equal(arp_poll(a, now, out, &deadline), 0);
    assert_true(deadline == UINT64_MAX);
    free(a);
}

static void foreign_and_broken_frames_change_nothing(void **state)
{
    struct arp *a = open_arp(), *before = open_arp();
    uint8_t good[42], f[42], reply[ARP_FRAME_BYTES];
    make(good, all, 1, her_mac, IP(2), none, OUR_IP);
    for (unsigned len = 0; len < 42; len++) {
        uint8_t *cut = malloc(len ? len : 1);
        memcpy(cut, good, len);
        assert_int_equal(arp_input(a, cut, len, 1, reply), 0);
        free(cut);
    }
    for (unsigned i = 12; i < 22; i++) { /* types, lengths, operation */
        memcpy(f, good, 42);
        f[i] ^= 0x40;
        assert_int_equal(give(a, f, 1, reply), 0);
    }
    make(f, all, 1, all, IP(2), none, OUR_IP); /* from everyone */
    assert_int_equal(give(a, f, 1, reply), 0);
    make(f, all, 1, none, IP(2), none, OUR_IP); /* from no one */
    assert_int_equal(give(a, f, 1, reply), 0);
    make(f, all, 1, our_mac, IP(2), none, OUR_IP); /* our own, come back */
    assert_int_equal(give(a, f, 1, reply), 0);
    make(f, all, 1, her_mac, 0x0b000001, none, OUR_IP); /* from another network */
    assert_int_equal(give(a, f, 1, reply), 0);
    assert_memory_equal(a, before, sizeof(*a));

    make(f, all, 1, her_mac, OUR_IP, none, OUR_IP); /* she uses our address */
    (void)give(a, f, 1, reply);
    assert_int_equal(a->conflicts, 1);
    free(a);
    free(before);
}

/* However many ask, those in use stay. */
static void a_flood_leaves_those_in_use(void **state)
{
    struct arp *a = open_arp();
    uint8_t f[42], reply[ARP_FRAME_BYTES], mac[6], theirs[6] = {2, 9, 9};
    make(f, all, 1, her_mac, IP(2), none, OUR_IP);
    (void)give(a, f, SECOND, reply);
    for (uint64_t i = 0; i < 5000; i++) {
        theirs[4] = (uint8_t)(i >> 8);
        theirs[5] = (uint8_t)i;
        make(f, all, 1, theirs, IP(3 + i % 250), none, OUR_IP);
        assert_int_equal(give(a, f, SECOND + i, reply), ARP_FRAME_BYTES);
        assert_true(arp_find(a, IP(2), SECOND + i, mac));
        assert_memory_equal(mac, her_mac, 6);
    }
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_asks_is_answered_and_known),
        cmocka_unit_test(we_ask_and_learn),
        cmocka_unit_test(neighbours_grow_old),
        cmocka_unit_test(foreign_and_broken_frames_change_nothing),
        cmocka_unit_test(a_flood_leaves_those_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
