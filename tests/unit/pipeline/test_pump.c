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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_port)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
