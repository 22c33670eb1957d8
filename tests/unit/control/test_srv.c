/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of name servers, well made and not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "control/fleet/srv.h"

struct message {
    uint8_t bytes[2048];
    size_t n;
};

static void u16(struct message *m, unsigned v)
{
    m->bytes[m->n++] = (uint8_t)(v >> 8);
    m->bytes[m->n++] = (uint8_t)v;
}

static void name(struct message *m, const char *text)
{
    while (*text) {
        const size_t n = strcspn(text, ".");
        m->bytes[m->n++] = (uint8_t)n;
        memcpy(m->bytes + m->n, text, n);
        m->n += n;
        text += n + (text[n] == '.');
    }
    m->bytes[m->n++] = 0;
}

static void head(struct message *m, unsigned answers, unsigned additional)
{
    m->n = 0;
    u16(m, 7);
    u16(m, 0x8180);
    u16(m, 1);
    u16(m, answers);
    u16(m, 0);
    u16(m, additional);
    name(m, "_isthmus._udp.example");
    u16(m, 33);
    u16(m, 1);
}

static void record(struct message *m, const char *owner, unsigned type, unsigned ttl_s)
{
    name(m, owner);
    u16(m, type);
    u16(m, 1);
    u16(m, 0);
    u16(m, ttl_s);
}

static void srv(struct message *m, unsigned ttl_s, unsigned port, const char *target)
{
    record(m, "_isthmus._udp.example", 33, ttl_s);
    u16(m, (unsigned)(6 + strlen(target) + (*target ? 2 : 1)));
    u16(m, 0);
    u16(m, 0);
    u16(m, port);
    name(m, target);
}

static void address(struct message *m, const char *owner, unsigned last, unsigned ttl_s)
{
    record(m, owner, 1, ttl_s);
    u16(m, 4);
    memcpy(m->bytes + m->n, (uint8_t[]){10, 0, 0, (uint8_t)last}, 4);
    m->n += 4;
}

static void address6(struct message *m, const char *owner, unsigned ttl_s)
{
    record(m, owner, 28, ttl_s);
    u16(m, 16);
    memset(m->bytes + m->n, 0, 16);
    m->bytes[m->n] = 0xfd;
    m->bytes[m->n + 15] = 9;
    m->n += 16;
}

static void test_targets(void **state)
{
    struct message m;
    struct srv_answer a;
    struct workers w;
    (void)state;
    head(&m, 6, 4);
    srv(&m, 30, 7300, "w2.pods.example");
    srv(&m, 20, 7300, "w1.pods.example");
    srv(&m, 30, 7301, "w1.pods.example");
    srv(&m, 30, 7300, "w2.pods.example"); /* twice */
    srv(&m, 30, 7300, "");                /* none */
    srv(&m, 30, 7300, "w3.pods.example"); /* without an address */
    address6(&m, "w1.pods.example", 40);
    address(&m, "W1.pods.example", 1, 5);
    address6(&m, "w2.pods.example", 40);
    address(&m, "w9.pods.example", 1, 1); /* nobody's */
    assert_int_equal(srv_parse(m.bytes, m.n, &a), 0);
    assert_int_equal(a.n, 4);
    assert_int_equal(a.ttl_s, 5);
    assert_int_equal(srv_workers(&a, &w), 0);
    assert_int_equal(w.n, 3);
    assert_string_equal(workers_find(&w, "w1.pods.example:7300")->port, "udp:10.0.0.1:7300");
    assert_string_equal(workers_find(&w, "w1.pods.example:7301")->port, "udp:10.0.0.1:7301");
    assert_string_equal(workers_find(&w, "w2")->port, "udp:[fd00::9]:7300");
    workers_free(&w);
    srv_free(&a);
}

static void test_an_address(void **state)
{
    char text[SRV_ADDRESS];
    struct message m;
    uint32_t ttl_s = 0;
    (void)state;
    head(&m, 1, 0);
    address(&m, "w1.pods.example", 4, 9);
    assert_true(srv_parse_address(m.bytes, m.n, text, &ttl_s));
    assert_string_equal(text, "10.0.0.4");
    assert_int_equal(ttl_s, 9);
    head(&m, 0, 0);
    assert_false(srv_parse_address(m.bytes, m.n, text, &ttl_s));
}

/* Every beginning of an answer, and every byte of it another. */
static void test_damaged(void **state)
{
    struct message m;
    struct srv_answer a;
    struct workers w;
    (void)state;
    head(&m, 2, 2);
    srv(&m, 30, 7300, "w2.pods.example");
    srv(&m, 20, 7300, "w1.pods.example");
    address(&m, "w1.pods.example", 1, 5);
    address(&m, "w2.pods.example", 2, 5);
    for (size_t n = 0; n < m.n; n++)
        if (srv_parse(m.bytes, n, &a) == 0) {
            assert_true(a.n <= 2);
            srv_free(&a);
        }
    for (size_t i = 0; i < m.n; i++)
        for (unsigned change = 1; change < 256; change = change * 2 + 1) {
            m.bytes[i] ^= (uint8_t)change;
            if (srv_parse(m.bytes, m.n, &a) == 0) {
                assert_int_equal(srv_workers(&a, &w), 0);
                assert_true(w.n <= 2);
                workers_free(&w);
                srv_free(&a);
            }
            m.bytes[i] ^= (uint8_t)change;
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_an_address),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
