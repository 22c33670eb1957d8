/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/port.h"

#define MANY 20000

/* Send MANY numbered packets through netem; which numbers arrive, in order. When `refuse_often`,
 * the receiver drains only after the ring refused one. */
static int arrivals(const struct netem_params *params, bool refuse_often, uint32_t *got, int max)
{
    struct port *inner, *a, *b;
    assert_int_equal(port_loop_pair(256, 8, 100, &inner, &b), 0);
    assert_int_equal(port_netem(inner, params, &a), 0);
    int n = 0;
    for (int sent = 0, drains = 0; drains < 100;) {
        bool taken = sent < MANY;
        while (taken) {
            struct pkt *p = pkt_alloc(a->pool);
            assert_non_null(p);
            memcpy(p->data, &sent, sizeof(sent));
            p->len = 60;
            taken = port_tx(a, &p, 1) == 1;
            pkt_unref(p);
            sent += taken;
            taken = taken && sent < MANY && refuse_often;
        }
        struct pkt *in[32];
        int k = port_rx(b, in, 32);
        for (int i = 0; i < k; i++) {
            assert_true(n < max);
            memcpy(&got[n++], in[i]->data, 4);
            pkt_unref(in[i]);
        }
        assert_int_equal(port_rx(a, in, 32), 0);
        drains += sent == MANY;
    }
    assert_int_equal(a->pool->n_free, a->pool->n_total); /* nothing is held for ever */
    port_close(a);
    port_close(b);
    return n;
}

static uint32_t first[2 * MANY + 100], second[2 * MANY + 100];

static void nothing_asked_nothing_done(void **state)
{
    struct netem_params p = {.seed = 3};
    assert_int_equal(arrivals(&p, false, first, 2 * MANY), MANY);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(first[i], i);
}

static void fractions_are_kept(void **state)
{
    struct netem_params p = {.drop = .2, .seed = 11};
    int n = arrivals(&p, false, first, 2 * MANY);
    assert_in_range(n, (int)(.78 * MANY), (int)(.82 * MANY));
    for (int i = 1; i < n; i++)
        assert_true(first[i] > first[i - 1]);

    p = (struct netem_params){.duplicate = .1, .seed = 11};
    n = arrivals(&p, false, first, 2 * MANY);
    assert_in_range(n, (int)(1.08 * MANY), (int)(1.12 * MANY));

    p = (struct netem_params){.reorder = .2, .reorder_depth = 3, .seed = 11};
    n = arrivals(&p, false, first, 2 * MANY);
    assert_int_equal(n, MANY);
    int late = 0;
    uint32_t high = 0;
    for (int i = 0; i < n; i++) {
        late += first[i] < high;
        if (first[i] < high)
            assert_true(high - first[i] <= 3); /* held back by at most depth sends */
        high = first[i] > high ? first[i] : high;
    }
    assert_in_range(late, (int)(.15 * MANY), (int)(.21 * MANY));

    p = (struct netem_params){.drop = 1, .seed = 1};
    assert_int_equal(arrivals(&p, false, first, 2 * MANY), 0);
}

static void same_seed_same_fate(void **state)
{
    struct netem_params p = {.drop = .2, .duplicate = .2, .reorder = .2, .seed = 42};
    int n = arrivals(&p, false, first, 2 * MANY + 100);
    assert_int_equal(arrivals(&p, false, second, 2 * MANY + 100), n);
    assert_memory_equal(first, second, (size_t)n * 4);

    /* Refusals on the way change no packet's fate: the same multiset arrives. */
    int m = arrivals(&p, true, second, 2 * MANY + 100);
    assert_int_equal(m, n);
    static uint8_t count[MANY];
    memset(count, 0, sizeof(count));
    for (int i = 0; i < n; i++) {
        count[first[i]]++;
        count[second[i]] = (uint8_t)(count[second[i]] + 16);
    }
    for (int i = 0; i < MANY; i++)
        assert_int_equal(count[i] >> 4, count[i] & 15);

    p.seed = 43;
    m = arrivals(&p, false, second, 2 * MANY + 100);
    assert_true(m != n || memcmp(first, second, (size_t)n * 4));
}

static void the_last_packet_comes_out_and_is_a_copy(void **state)
{
    struct netem_params p = {.reorder = 1, .seed = 5};
    struct port *inner, *a, *b;
    assert_int_equal(port_loop_pair(8, 8, 100, &inner, &b), 0);
    assert_int_equal(port_netem(inner, &p, &a), 0);
    struct pkt *out = pkt_alloc(a->pool), *in = NULL;
    memset(out->data, 1, 60);
    out->len = 60;
    assert_int_equal(port_tx(a, &out, 1), 1);
    memset(out->data, 2, 60); /* the owner may do what it likes */
    for (int i = 0; i < 100 && port_rx(b, &in, 1) == 0; i++)
        assert_int_equal(port_wait(a, UINT64_MAX), 0); /* must not sleep on it */
    assert_non_null(in);
    assert_int_equal(in->data[0], 1);
    pkt_unref(in);

    assert_int_equal(port_tx(a, &out, 1), 1); /* held when the port closes: freed with it */
    pkt_unref(out);
    port_close(b);
    assert_int_equal(port_alive(a), -EPIPE);
    port_close(a);
}

/* Real time: never before its time; when the port closes it waits for what is on the way. */
static void delayed_ones_arrive_and_refusals_wait(void **state)
{
    struct netem_params p = {.delay_ns = 20000000, .rate_bit_per_s = 1000000000};
    struct port *inner, *a, *b;
    assert_int_equal(port_loop_pair(64, 4, 100, &inner, &b), 0);
    assert_int_equal(port_netem(inner, &p, &a), 0);
    const uint64_t start_ns = port_now_ns();
    for (uint8_t i = 0; i < 10; i++) {
        struct pkt *out = pkt_alloc(a->pool);
        memset(out->data, i, 60);
        out->len = 60;
        assert_int_equal(port_tx(a, &out, 1), 1);
        pkt_unref(out);
    }
    struct pkt *in[16];
    uint8_t next = 0;
    while (next < 6) { /* the ring takes 4 at once */
        assert_int_equal(port_wait(a, start_ns + 10000000000u), 0);
        assert_true(port_now_ns() < start_ns + 10000000000u);
        const int n = port_rx(b, in, 1);
        if (n)
            assert_true(port_now_ns() >= start_ns + 20000000);
        for (int i = 0; i < n; i++) {
            assert_int_equal(in[i]->data[0], next++);
            pkt_unref(in[i]);
        }
        assert_int_equal(port_rx(a, in, 16), 0);
    }
    port_close(a);
    for (int n; (n = port_rx(b, in, 16)) > 0;)
        for (int i = 0; i < n; i++) {
            assert_int_equal(in[i]->data[0], next++);
            pkt_unref(in[i]);
        }
    assert_int_equal(next, 10);
    port_close(b);
}

/* Of a path that may be narrow, what any takes is known; of one that is not, what it is. */
static void a_narrow_path_has_to_be_found_out(void **state)
{
    static const struct {
        struct netem_params p;
        uint32_t mtu, sure;
    } paths[] = {
        {{.mtu_bytes = 1400}, 1500, 1280},
        {{.n_changes = 1, .changes = {{.what = NETEM_MTU, .value = 1400}}}, 1500, 1280},
        {{.mtu_bytes = 1400}, 1280, 0},
        {{.drop = .1}, 1500, 0},
    };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct port *inner, *a, *b;
        assert_int_equal(port_loop_pair(8, 8, paths[i].mtu, &inner, &b), 0);
        assert_int_equal(port_netem(inner, &paths[i].p, &a), 0);
        assert_int_equal(a->caps.mtu_sure_bytes, paths[i].sure);
        port_close(a);
        port_close(b);
    }
}

static void text_is_parsed_or_refused(void **state)
{
    struct netem_params p;
    char err[NETEM_ERR];
    assert_int_equal(netem_parse("drop=20%,dup=.1,reorder=100%,depth=3,seed=0x10", &p, err), 0);
    assert_true(p.drop == .2 && p.duplicate == .1 && p.reorder == 1);
    assert_int_equal(p.reorder_depth, 3);
    assert_int_equal(p.seed, 16);
    assert_int_equal(netem_parse("", &p, err), 0);
    assert_true(p.drop == 0 && p.duplicate == 0 && p.reorder == 0);
    assert_false(netem_is_timed(&p));
    assert_int_equal(
        netem_parse("delay=1.5s,jitter=250us,rate=2.5mbit,queue=100kB,drop=1%,burst=4.5,"
                    "corrupt=.1%",
                    &p, err),
        0);
    assert_int_equal(p.delay_ns, 1500000000);
    assert_int_equal(p.jitter_ns, 250000);
    assert_int_equal(p.rate_bit_per_s, 2500000);
    assert_int_equal(p.queue_bytes, 100000);
    assert_int_equal(p.queue_packets, 0);
    assert_true(p.drop == .01 && p.burst == 4.5 && p.corrupt == .001 && netem_is_timed(&p));
    assert_int_equal(netem_parse("rate=1000gbit,queue=50p,delay=60000000us,jitter=7ns", &p, err),
                     0);
    assert_int_equal(p.rate_bit_per_s, NETEM_RATE_MAX);
    assert_int_equal(p.queue_packets, 50);
    assert_int_equal(p.queue_bytes, 0);
    assert_int_equal(p.delay_ns, NETEM_DELAY_MAX_NS);
    assert_int_equal(p.jitter_ns, 7);
    assert_int_equal(netem_parse("rate=1kbit,queue=64KiB", &p, err), 0);
    assert_int_equal(p.queue_bytes, 65536);

    /* And what the error names. */
    static const char *const bad[][2] = {
        {"drop", "keys are"},
        {"drop=", "drop takes"},
        {"drop=x", "drop takes"},
        {"drop=101%", "drop takes"},
        {"drop=-.1", "drop takes"},
        {"drop=nan", "drop takes"},
        {"drop=1e-1", "drop takes"},
        {"drop=0x1p-3", "drop takes"},
        {"drop= .1", "drop takes"},
        {"drop=.", "drop takes"},
        {"drop=.1.1", "drop takes"},
        {"loss=.1", "keys are"},
        {"depth=99", "depth takes"},
        {"depth=0", "depth takes"},
        {"depth=-1", "depth takes"},
        {"seed=", "seed takes"},
        {"seed=1x", "seed takes"},
        {"seed=-1", "seed takes"},
        {"drop=.1;dup=.1", "drop takes"},
        {"drop=.1%%", "drop takes"},
        {"=", "keys are"},
        {"drop=.1,", "keys are"},
        {"drop=.1,,", "keys are"},
        {"seed=99999999999999999999", "seed takes"},
        {"delay=25", "delay takes"},
        {"delay=25 ms", "delay takes"},
        {"delay=25MS", "delay takes"},
        {"delay=25m", "delay takes"},
        {"delay=61s", "delay takes"},
        {"delay=.5ns", "delay takes"},
        {"delay=0.1234567891s", "delay takes"},
        {"delay=99999999999999999999ms", "delay takes"},
        {"delay=1ms,jitter=2ms", "jitter"},
        {"jitter=2ms", "jitter"},
        {"rate=20", "rate takes"},
        {"rate=20mbps", "rate takes"},
        {"rate=20Mbit", "rate takes"},
        {"rate=0mbit", "rate takes"},
        {"rate=2000gbit", "rate takes"},
        {"rate=999bit", "rate takes"},
        {"queue=100kB", "needs rate"},
        {"rate=1mbit,queue=100", "queue takes"},
        {"rate=1mbit,queue=0p", "queue takes"},
        {"rate=1mbit,queue=1.5p", "queue takes"},
        {"rate=1mbit,queue=100kb", "queue takes"},
        {"burst=4", "burst"},
        {"drop=1%,burst=.5", "burst takes"},
        {"drop=81%,burst=4", "burst"},
        {"corrupt=2", "corrupt takes"},
        {"drop=1%,drop=2%", "twice"},
        {"a-key-that-is-much-longer-than-any-of-those-that-are-known=1", "keys are"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        err[0] = '\0';
        if (netem_parse(bad[i][0], &p, err) != -EINVAL)
            fail_msg("'%s' was accepted", bad[i][0]);
        if (!strstr(err, "netem") || !strstr(err, bad[i][1]))
            fail_msg("'%s': %s", bad[i][0], err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_asked_nothing_done),
        cmocka_unit_test(fractions_are_kept),
        cmocka_unit_test(same_seed_same_fate),
        cmocka_unit_test(the_last_packet_comes_out_and_is_a_copy),
        cmocka_unit_test(delayed_ones_arrive_and_refusals_wait),
        cmocka_unit_test(text_is_parsed_or_refused),
        cmocka_unit_test(a_narrow_path_has_to_be_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
