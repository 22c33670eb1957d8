/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/port/echo.h"

#define OUR_IP 0x0a000001u

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1};

/* A ping of 10.0.0.2 with 4 bytes, and its answer, as another implementation writes them. */
static const uint8_t request[46] = {2,    0,    0,    0, 0, 1,  2,    0,    0,    0,  0,  2,
                                    8,    0,    0x45, 0, 0, 32, 0x12, 0x34, 0x40, 0,  64, 1,
                                    0x14, 0xa7, 10,   0, 0, 2,  10,   0,    0,    1,  8,  0,
                                    0x60, 0x62, 0,    7, 0, 1,  'a',  'b',  'c',  'd'};

/* Ones' complement sum of 16-bit words: 0xffff when the checksum is right (RFC 1071). */
static uint16_t sum(const uint8_t *p, size_t n)
{
    uint32_t s = 0;
    for (size_t i = 0; i < n; i += 2)
        s += (uint32_t)(p[i] << 8 | p[i + 1]);
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

/* With checksums for these bytes. */
static void seal(uint8_t f[46])
{
    memset(f + 24, 0, 2);
    memset(f + 36, 0, 2);
    uint16_t ip = (uint16_t)~sum(f + 14, 20), icmp = (uint16_t)~sum(f + 34, 12);
    f[24] = (uint8_t)(ip >> 8);
    f[25] = (uint8_t)ip;
    f[36] = (uint8_t)(icmp >> 8);
    f[37] = (uint8_t)icmp;
}

static bool answer(uint8_t *f, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1); /* a sanitizer sees reads past it */
    memcpy(exact, f, len);
    bool is = echo_reply(exact, len, OUR_IP, our_mac);
    memcpy(f, exact, len);
    free(exact);
    return is;
}

static void pings_are_answered(void **state)
{
    for (int i = 0; i < 256; i++) { /* checksums of all kinds */
        uint8_t f[46];
        memcpy(f, request, sizeof(f));
        f[42] = (uint8_t)i;
        f[43] = (uint8_t)(i * 7);
        seal(f);
        uint8_t before[46];
        memcpy(before, f, sizeof(f));
        assert_true(answer(f, sizeof(f)));
        assert_memory_equal(f, request + 6, 6);
        assert_memory_equal(f + 6, our_mac, 6);
        assert_memory_equal(f + 26, request + 30, 4);
        assert_memory_equal(f + 30, request + 26, 4);
        assert_int_equal(f[34], 0);
        assert_memory_equal(f + 38, before + 38, 8);
        assert_int_equal(sum(f + 14, 20), 0xffff);
        assert_int_equal(sum(f + 34, 12), 0xffff);
    }
}

static void all_else_stays(void **state)
{
    uint8_t f[46], good[46];
    memcpy(good, request, sizeof(good));
    seal(good);
    for (size_t len = 0; len < sizeof(f); len++) {
        memcpy(f, good, len);
        assert_false(answer(f, len));
        assert_memory_equal(f, good, len);
    }
    /* EtherType, version, lengths, fragments, protocol, address, type, code; a group's address */
    static const uint8_t at[] = {12, 13, 14, 17, 20, 21, 23, 30, 33, 34, 35, 6};
    for (size_t i = 0; i < sizeof(at); i++) {
        memcpy(f, good, sizeof(f));
        f[at[i]] ^= at[i] == 20 ? 0x20 : at[i] == 17 ? 0x40 : 1;
        assert_false(answer(f, sizeof(f)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pings_are_answered),
        cmocka_unit_test(all_else_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
