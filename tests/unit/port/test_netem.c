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

static void text_is_parsed_or_refused(void **state)
{
    struct netem_params p;
    char err[PORT_ERR];
    assert_int_equal(netem_parse("drop=20%,dup=.1,reorder=100%,depth=3,seed=0x10", &p, err), 0);
    assert_true(p.drop == .2 && p.duplicate == .1 && p.reorder == 1);
    assert_int_equal(p.reorder_depth, 3);
    assert_int_equal(p.seed, 16);
    assert_int_equal(netem_parse("", &p, err), 0);
    assert_true(p.drop == 0 && p.duplicate == 0 && p.reorder == 0);
    const char *bad[] = {"drop",      "drop=",    "drop=x",    "drop=101%",
                         "drop=-.1",  "drop=nan", "loss=.1",   "depth=99",
                         "depth=-1",  "seed=",    "seed=1x",   "drop=.1;dup=.1",
                         "drop=.1%%", "=",        "drop=.1,,", "seed=99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        err[0] = '\0';
        if (netem_parse(bad[i], &p, err) != -EINVAL)
            fail_msg("'%s' was accepted", bad[i]);
        assert_non_null(strstr(err, "netem"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_asked_nothing_done),
        cmocka_unit_test(fractions_are_kept),
        cmocka_unit_test(same_seed_same_fate),
        cmocka_unit_test(the_last_packet_comes_out_and_is_a_copy),
        cmocka_unit_test(text_is_parsed_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
