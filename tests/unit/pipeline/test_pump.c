/* SPDX-License-Identifier: Apache-2.0 */
/* A pump alone: how often it looks at a port that takes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/pump.h"

#define US    1000ull
#define MS    (1000 * US)
#define DEPTH 8u

/* Small messages for four times what the port takes. */
static void fill(struct pump *p)
{
    const uint8_t bytes[64] = {0};

    for (unsigned i = 0; i < 4 * DEPTH; i++)
        pump_send(p, 1, WIRE_DECODE, -1, bytes, sizeof bytes);
}

static void empty(struct port *port)
{
    struct pkt *p;

    while (port_rx(port, &p, 1) == 1)
        pkt_unref(p);
}

/* Sleeps until the pump wants to be called again: how often in that time, and the longest in ns. */
static unsigned polls(struct pump *p, uint64_t ns, uint64_t *longest)
{
    const uint64_t end = p->now_ns + ns;
    unsigned n = 0;

    *longest = 0;
    for (uint64_t now = p->now_ns; now < end; n++) {
        pump_in(p, now);
        pump_out(p);
        const uint64_t at = pump_deadline(p);
        *longest = at - now > *longest ? at - now : *longest;
        now = at > now ? at : now + 1;
    }
    return n;
}

/* Of a port that is full for long each look comes after as long as it has been full, up to 1 ms; once it
 * takes something again, soon. */
static void test_full_port(void **state)
{
    const struct pipeline_security none = {0};
    const struct link_params params = {.hop = 0};
    struct port *near, *far;
    uint64_t longest;
    struct pump p;

    assert_int_equal(port_loop_pair(1024, DEPTH, 1500, &near, &far), 0);
    near->caps.unqueued = true; /* no pace */
    assert_int_equal(pump_open(&p, near, &params, &none, &wire_path_edge, 7, MS), 0);
    pump_expect(&p, 64);
    p.params.window_packets = 1024;
    fill(&p);
    (void)polls(&p, 300 * US, &longest);
    assert_true(p.stuck_ns);
    assert_in_range(longest, 50 * US, 300 * US);
    assert_in_range(polls(&p, 20 * MS, &longest), 20, 40);
    assert_in_range(longest, 900 * US, 1000 * US);
    empty(far);
    pump_in(&p, p.now_ns + 1);
    pump_out(&p);
    assert_true(pump_deadline(&p) <= p.now_ns + 50 * US);
    empty(far);
    pump_close(&p);
    empty(far);
    port_close(near);
    port_close(far);
}

/* --- amid a flood ----------------------------------------------------------------------------- */

static uint64_t clock_ns;

static uint64_t clock_of(void *arg)
{
    return clock_ns;
}

/* Frames that have come there, by type. */
static void come(struct port *port, struct link *to, unsigned n[16])
{
    struct pkt *p;

    memset(n, 0, 16 * sizeof n[0]);
    while (port_rx(port, &p, 1) == 1) {
        n[p->data[WIRE_L2L4_BYTES] & 15]++;
        assert_int_equal(link_input(to, p, clock_ns), 0);
    }
}

static void say(struct link *l, struct pkt_pool *pool)
{
    struct pkt *p = pkt_alloc(pool);
    uint16_t bytes = 8;

    memset(p->data, 0, WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES + bytes);
    assert_true(link_send(l, 1, WIRE_DECODE, -1, &p, &bytes, 1) > 0);
}

/* What the link can send by now goes, at the clock's time; small messages wait for pump_out. And it is
 * called within a flood: the peer hears of what it sent before all of that was looked at. */
static void test_amid(void **state)
{
    const struct link_params params = {.hop = 0},
                             there = {.path = &wire_path_cloud, .unpaced = true};
    const struct pipeline_security none = {0};
    const uint8_t bytes[8] = {0};
    struct port *near, *far;
    struct link *peer;
    struct pkt *pkts[32];
    unsigned n[16];
    struct pump p;

    clock_ns = MS;
    assert_int_equal(port_loop_pair(1024, 256, 1500, &near, &far), 0);
    near->caps.unqueued = true; /* no pace */
    near->caps.burst = 8;
    assert_int_equal(pump_open(&p, near, &params, &none, &wire_path_edge, 7, clock_ns), 0);
    p.clock = clock_of;
    assert_int_equal(link_open(&there, clock_ns, &peer), 0);
    pump_send(&p, 1, WIRE_DECODE, -1, bytes, sizeof bytes);
    pump_amid(&p);
    come(far, peer, n);
    assert_int_equal(n[WIRE_DATA], 0);
    pump_out(&p);
    come(far, peer, n);
    assert_int_equal(n[WIRE_DATA], 1);
    say(p.link, near->pool);
    clock_ns += MS;
    pump_amid(&p);
    assert_int_equal(p.now_ns, clock_ns);
    come(far, peer, n);
    assert_int_equal(n[WIRE_DATA], 1);

    for (unsigned i = 0; i < 32; i++)
        say(peer, far->pool);
    const int sent = link_output(peer, pkts, 32, far->pool, clock_ns);
    assert_in_range(sent, 3 * 8, 32); /* bursts */
    assert_int_equal(port_tx(far, pkts, sent), sent);
    for (int i = 0; i < sent; i++)
        pkt_unref(pkts[i]);
    pump_in(&p, clock_ns);
    come(far, peer, n);
    assert_in_range(n[WIRE_ACK], 1, 3);

    pump_close(&p);
    link_close(peer);
    port_close(near);
    port_close(far);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_port), cmocka_unit_test(test_amid)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
