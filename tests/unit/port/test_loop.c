/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/port.h"

static struct pkt *make(struct port *port, uint32_t len, uint8_t first)
{
    struct pkt *p = pkt_alloc(port->pool);
    assert_non_null(p);
    for (uint32_t i = 0; i < len; i++)
        p->data[i] = (uint8_t)(first + i);
    p->len = len;
    return p;
}

static void pool_counts_and_runs_dry(void **state)
{
    struct pkt_pool *pool = pkt_pool_heap(2, 100);
    struct pkt *a = pkt_alloc(pool), *b = pkt_alloc(pool);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->room, 100);
    assert_int_equal(a->len, 0);
    assert_null(pkt_alloc(pool));
    assert_int_equal(pool->n_free, 0);
    pkt_ref(a);
    pkt_unref(a);
    assert_int_equal(pool->n_free, 0);
    pkt_unref(a);
    assert_int_equal(pool->n_free, 1);
    pkt_unref(b);
    pkt_pool_heap_close(pool);
}

static void frames_arrive_whole_and_in_order(void **state)
{
    struct port *a, *b;
    assert_int_equal(port_loop_pair(8, 4, 1500, &a, &b), 0);
    assert_int_equal(a->caps.mtu_bytes, 1500);
    assert_int_equal(port_alive(a), 1);

    struct pkt *out[5], *in[8];
    for (int i = 0; i < 5; i++)
        out[i] = make(a, 1514 - (uint32_t)i, (uint8_t)i);
    assert_int_equal(port_tx(a, out, 5), 4); /* the ring is full */
    assert_int_equal(a->stats.tx_refused, 1);
    assert_int_equal(port_rx(b, in, 8), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(in[i]->len, out[i]->len);
        assert_memory_equal(in[i]->data, out[i]->data, in[i]->len);
        assert_ptr_equal(in[i]->pool, b->pool);
        pkt_unref(in[i]);
    }
    assert_int_equal(port_rx(b, in, 8), 0);

    /* A held packet can be sent again, and stays what it was. */
    assert_int_equal(port_tx(a, &out[4], 1), 1);
    assert_int_equal(port_tx(a, &out[4], 1), 1);
    assert_int_equal(port_rx(b, in, 8), 2);
    assert_memory_equal(in[0]->data, out[4]->data, out[4]->len);
    assert_memory_equal(in[1]->data, out[4]->data, out[4]->len);
    assert_ptr_not_equal(in[0]->data, out[4]->data);
    for (int i = 0; i < 2; i++)
        pkt_unref(in[i]);
    for (int i = 0; i < 5; i++)
        pkt_unref(out[i]);
    port_close(a);
    port_close(b);
}

static void dry_pool_delays_but_loses_nothing(void **state)
{
    struct port *a, *b;
    assert_int_equal(port_loop_pair(2, 4, 100, &a, &b), 0);
    struct pkt *out = make(a, 10, 1), *in[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(port_tx(a, &out, 1), 1);
    pkt_unref(out);
    assert_int_equal(port_rx(b, in, 4), 2);
    assert_int_equal(port_rx(b, in + 2, 2), 0);
    pkt_unref(in[0]);
    pkt_unref(in[1]);
    assert_int_equal(port_rx(b, in, 4), 2);
    pkt_unref(in[0]);
    pkt_unref(in[1]);
    port_close(b);
    port_close(a);
}

static void a_closed_peer_is_seen_and_its_last_words_are_heard(void **state)
{
    struct port *a, *b;
    assert_int_equal(port_loop_pair(2, 4, 100, &a, &b), 0);
    struct pkt *p = make(a, 10, 7);
    assert_int_equal(port_tx(a, &p, 1), 1);
    pkt_unref(p);
    port_close(a);
    assert_int_equal(port_alive(b), -EPIPE);
    assert_int_equal(port_wait(b, UINT64_MAX), 0);
    assert_int_equal(port_rx(b, &p, 1), 1);
    assert_int_equal(p->data[0], 7);
    assert_int_equal(port_tx(b, &p, 1), 0);
    pkt_unref(p);
    port_close(b);
}

static void *send_late(void *arg)
{
    struct port *a = arg;
    uint64_t until = port_now_ns() + 5000000;
    port_wait(a, until); /* nothing comes: a plain sleep */
    if (port_now_ns() < until)
        return (void *)1;
    struct pkt *p = pkt_alloc(a->pool);
    p->len = 1;
    port_tx(a, &p, 1);
    pkt_unref(p);
    return NULL;
}

static void wait_ends_by_packet_or_deadline(void **state)
{
    struct port *a, *b;
    assert_int_equal(port_loop_pair(2, 4, 100, &a, &b), 0);
    uint64_t from = port_now_ns();
    assert_int_equal(port_wait(b, 0), 0);
    assert_int_equal(port_wait(b, from + 2000000), 0);
    assert_true(port_now_ns() >= from + 2000000);

    pthread_t thread;
    void *failed;
    assert_int_equal(pthread_create(&thread, NULL, send_late, a), 0);
    struct pkt *p;
    assert_int_equal(port_wait(b, UINT64_MAX), 0);
    assert_int_equal(port_rx(b, &p, 1), 1);
    pkt_unref(p);
    pthread_join(thread, &failed);
    assert_null(failed);
    port_close(a);
    port_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_counts_and_runs_dry),
        cmocka_unit_test(frames_arrive_whole_and_in_order),
        cmocka_unit_test(dry_pool_delays_but_loses_nothing),
        cmocka_unit_test(a_closed_peer_is_seen_and_its_last_words_are_heard),
        cmocka_unit_test(wait_ends_by_packet_or_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
