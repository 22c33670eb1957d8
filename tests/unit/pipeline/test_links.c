/* SPDX-License-Identifier: Apache-2.0 */
/* A cloud's links at a port of the test's: who goes first, and how often a port that is full is tried. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/links.h"

#define US    1000ull
#define MS    (1000 * US)
#define EDGES 3u
#define ROOM  1600u
#define MOST  512u

/* What comes in is put there; of what goes out it is noted whose it is. */
struct fake {
    struct port port; /* first: the port is the fake */
    struct pkt *in[MOST];
    uint32_t n_in, at;
    uint32_t to[MOST], n_out; /* connections */
    bool full;
};

static struct fake fake;
static struct links links;
static struct link *edges[EDGES];

static int fake_rx(struct port *port, struct pkt **pkts, int n)
{
    int got = 0;

    while (got < n && fake.at < fake.n_in)
        pkts[got++] = fake.in[fake.at++];
    if (fake.at == fake.n_in)
        fake.at = fake.n_in = 0;
    return got;
}

static int fake_tx(struct port *port, struct pkt **pkts, int n)
{
    for (int i = 0; i < n && !fake.full; i++) {
        struct wire_header h;

        assert_int_equal(wire_peek(pkts[i]->data, pkts[i]->len, &h), 0);
        fake.to[fake.n_out++ % MOST] = h.connection;
    }
    return fake.full ? 0 : n;
}

static const struct port_ops fake_ops = {.rx = fake_rx, .tx = fake_tx};

static void arrives(const struct pkt *p)
{
    struct pkt *c = pkt_alloc(fake.port.pool);

    memcpy(c->data, p->data, p->len);
    c->len = p->len;
    fake.in[fake.n_in++] = c;
}

/* Its first message, which makes the connection. */
static struct pkt *hello(uint32_t i, uint64_t now)
{
    const struct link_params p = {
        .path = &wire_path_edge, .initiator = true, .connection = 10 + i, .epoch = 1};
    struct pkt *out = pkt_alloc(fake.port.pool);
    uint16_t bytes = 8;

    memset(out->data, 0, WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES + bytes);
    assert_int_equal(link_open(&p, now, &edges[i]), 0);
    assert_int_equal(link_send(edges[i], 1, WIRE_DECODE, -1, &out, &bytes, 1), 1);
    assert_int_equal(link_output(edges[i], &out, 1, fake.port.pool, now), 1);
    return out;
}

static int setup(void **state)
{
    fake = (struct fake){.port = {.ops = &fake_ops,
                                  .caps = {.name = "fake", .mtu_bytes = 1500, .unqueued = true}}};
    fake.port.pool = pkt_pool_heap(1024, ROOM);
    const struct links_params p = {.port = &fake.port, .max = EDGES};
    return links_open(&links, &p, MS);
}

static int teardown(void **state)
{
    links_close(&links);
    for (uint32_t i = 0; i < EDGES; i++) {
        link_close(edges[i]);
        edges[i] = NULL;
    }
    if (fake.port.pool->n_free != fake.port.pool->n_total)
        return 1;
    pkt_pool_heap_close(fake.port.pool);
    return 0;
}

/* All edges, after what each said first. */
static void join_all(struct pkt *said[EDGES])
{
    for (uint32_t i = 0; i < EDGES; i++) {
        said[i] = hello(i, MS);
        arrives(said[i]);
    }
    links_in(&links, MS);
    links_out(&links);
    assert_int_equal(links.n_live, EDGES);
    fake.n_out = 0;
}

/* A flood, in which each edge's copies want an acknowledgement again after each burst: it goes amid the
 * flood, and another edge's is the first each time. */
static void amid_a_flood(void **state)
{
    const uint32_t rounds = 4 * EDGES;
    uint32_t n_first[EDGES] = {0};
    struct pkt *said[EDGES];

    join_all(said);
    for (uint32_t i = 0; i < rounds * PUMP_BURST; i++)
        arrives(said[i % EDGES]);
    links_in(&links, 2 * MS);
    assert_int_equal(fake.n_out, rounds * EDGES);
    for (uint32_t i = 0; i < rounds; i++)
        n_first[fake.to[i * EDGES] - 10]++;
    for (uint32_t i = 0; i < EDGES; i++) {
        assert_int_equal(n_first[i], rounds / EDGES);
        pkt_unref(said[i]);
    }
}

/* So often links are called within that time who are called when they say. */
static unsigned calls(uint64_t from, uint64_t ns)
{
    unsigned n = 0;

    for (uint64_t now = from; now < from + ns; n++) {
        links_in(&links, now);
        links_out(&links);
        const uint64_t at = links_deadline(&links);
        assert_true(at > now);
        now = at;
    }
    return n;
}

/* A goodbye at a port that takes nothing: as all else it is tried again after as long as it was full. */
static void a_goodbye_waits(void **state)
{
    struct pkt *said[EDGES];
    bool gone = false;

    join_all(said);
    fake.full = true;
    links_end(&links, &links.peers[1]);
    assert_in_range(calls(2 * MS, 20 * MS), 20, 40);
    fake.full = false;
    assert_in_range(calls(22 * MS, 20 * MS), 1, 5);
    assert_true(fake.n_out > 0);
    for (uint32_t i = 0; i < fake.n_out; i++)
        gone |= fake.to[i] == 11;
    assert_true(gone);
    for (uint32_t i = 0; i < EDGES; i++)
        pkt_unref(said[i]);
}

/* "I know no such connection", for which there is no packet. */
static void a_reset_waits(void **state)
{
    struct pkt *said[EDGES], *all[1024];
    uint32_t n = 0;

    join_all(said);
    links_end(&links, &links.peers[0]);
    (void)calls(2 * MS, 6000 * MS); /* until it is forgotten */
    arrives(said[0]);
    while ((all[n] = pkt_alloc(fake.port.pool)))
        n++;
    pkt_unref(all[--n]); /* which comes back when the frame was looked at */
    links_in(&links, 7000 * MS);
    assert_true(links.reset.pending);
    all[n++] = pkt_alloc(fake.port.pool);
    all[n] = pkt_alloc(fake.port.pool);
    assert_non_null(all[n - 1]);
    n += all[n] != NULL;
    fake.n_out = 0;
    assert_in_range(calls(7000 * MS, 20 * MS), 20, 40);
    assert_int_equal(fake.n_out, 0);
    while (n)
        pkt_unref(all[--n]);
    (void)calls(7020 * MS, MS);
    assert_false(links.reset.pending);
    assert_int_equal(fake.to[0], 10);
    for (uint32_t i = 0; i < EDGES; i++)
        pkt_unref(said[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(amid_a_flood, setup, teardown),
        cmocka_unit_test_setup_teardown(a_goodbye_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reset_waits, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
