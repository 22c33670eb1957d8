/* SPDX-License-Identifier: Apache-2.0 */
/* The assertion that what a driver gets to send lies where it was written. No EAL: mbufs by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/port/mbuf.h"
#include "tests/unit/dies.h"

struct buffer {
    struct rte_mbuf mbuf;
    struct pkt pkt; /* its private area */
    uint8_t bytes[2048];
};

static struct buffer buffers[2];

static struct pkt *packet(unsigned i)
{
    struct buffer *b = &buffers[i];

    memset(b, 0, sizeof *b);
    b->mbuf.buf_addr = b->bytes;
    b->pkt = (struct pkt){.data = b->bytes + 128, .len = 300, .room = 1514, .refs = 1};
    return &b->pkt;
}

static void one_is_sent_from_where_it_was_written(void **state)
{
    struct pkt *p = packet(0);

    (void)state;
    pkt_made(p, p->data + 60);
    assert_ptr_equal(mbuf_to_send(p), &buffers[0].mbuf);
    assert_ptr_equal(rte_pktmbuf_mtod(&buffers[0].mbuf, uint8_t *), p->data);
    assert_int_equal(buffers[0].mbuf.data_len, 300);
    p = packet(1); /* an acknowledgement, say: nobody wrote a payload */
    assert_ptr_equal(mbuf_to_send(p), &buffers[1].mbuf);
}

#ifndef NDEBUG
static void moved_into_another(void)
{
    struct pkt *from = packet(0), *to = packet(1);

    pkt_made(from, from->data + 60);
    to->made = from->made;
    memcpy(to->data, from->data, from->len);
    mbuf_to_send(to);
}

static void longer_than_what_is_sent(void)
{
    struct pkt *p = packet(0);

    pkt_made(p, p->data + 400);
    mbuf_to_send(p);
}

static void data_elsewhere(void)
{
    static uint8_t far[1 << 20]; /* further than an mbuf's offset reaches */
    struct pkt *p = packet(0);

    p->data = far + sizeof far / 2;
    mbuf_to_send(p);
}

static void copies_are_found_out(void **state)
{
    (void)state;
    assert_true(dies_saying(moved_into_another, "sent from where it was written"));
    assert_true(dies_saying(longer_than_what_is_sent, "sent from where it was written"));
    assert_true(dies_saying(data_elsewhere, "sent from where it was written"));
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_sent_from_where_it_was_written),
#ifndef NDEBUG
        cmocka_unit_test(copies_are_found_out),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
