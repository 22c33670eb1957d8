/* SPDX-License-Identifier: Apache-2.0 */
/* Several edges at one cloud: they share its batches and nothing else; what each may have;
 * draining. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/proto.h"
#include "tests/unit/pipeline/crowd.h"

#define SECOND (1000 * RIG_MS)

static const struct network_params quiet = {.delay_min_ns = 5000, .delay_max_ns = 5000};

static struct crowd_params plain(uint32_t n_edges, bool secure)
{
    return (struct crowd_params){.edge = {.network = quiet, .sessions = 3},
                                 .n_edges = n_edges,
                                 .cloud_sessions = 3 * n_edges,
                                 .secure = secure};
}

static void ask(struct crowd *c, uint32_t edge, struct rig_request *q, uint64_t seed,
                uint32_t n_prompt, uint32_t n_predict)
{
    rig_request(q, seed, n_prompt, n_predict);
    assert_true(rig_submit(&c->edges[edge], q) > 0);
}

static bool all_done(const struct rig_request *q, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!q[i].done)
            return false;
    }
    return true;
}

static void finish(struct crowd *c, const struct rig_request *q, uint32_t n, uint64_t within)
{
    const uint64_t until = c->now_ns + within;

    while (!all_done(q, n)) {
        assert_true(c->now_ns < until);
        crowd_step(c);
    }
}

static void expect_right(const struct crowd *c, uint32_t edge, struct rig_request *q)
{
    if (q->result.finish != EDGE_LENGTH)
        fail_msg("edge %u: %s", edge, q->result.error);
    assert_true(rig_right(&c->edges[edge], q));
    rig_request_free(q);
}

static struct cloud_stats stats_of(const struct crowd *c)
{
    struct cloud_stats s;

    cloud_stats(c->cloud, &s);
    return s;
}

/* --- together --------------------------------------------------------------------------------- */

/* All number their sessions alike; the batches hold rows of all. */
static void test_together(void **state)
{
    static struct rig_request q[15];

    for (int secure = 0; secure < 2; secure++) {
        struct crowd_params p = plain(5, secure);
        struct cloud_link links[8];
        struct crowd c;

        p.cloud_stage.run_ns = RIG_MS;
        crowd_open(&c, &p);
        for (uint32_t i = 0; i < 15; i++)
            ask(&c, i / 3, &q[i], 100 + i, 10 + 7 * i, 60);
        while (q[14].n_ids < 5)
            crowd_step(&c);
        assert_int_equal(stats_of(&c).edges, 5);
        assert_int_equal(stats_of(&c).sessions, 15);
        assert_int_equal(cloud_links(c.cloud, links, 8), 5);
        for (uint32_t i = 0; i < 5; i++) {
            char name[8];

            snprintf(name, sizeof name, "e%u", i);
            assert_string_equal(links[i].name, secure ? name : "");
            assert_int_equal(links[i].sessions, 3);
            assert_true(links[i].tokens > 0 && links[i].link.rx_messages > 0);
            if (i)
                assert_int_not_equal(links[i].connection, links[i - 1].connection);
        }
        assert_int_equal(cloud_links(c.cloud, links, 2), 2);
        finish(&c, q, 15, 10 * SECOND);
        for (uint32_t i = 0; i < 15; i++)
            expect_right(&c, i / 3, &q[i]);
        assert_true(fake_counts(c.stage)->largest_batch > 6);
        crowd_close(&c);
    }
}

/* One is killed: its sessions end with its lease, the others notice nothing. */
static void test_one_dies(void **state)
{
    static struct rig_request q[9];

    for (int secure = 0; secure < 2; secure++) {
        struct crowd_params p = plain(3, secure);
        uint64_t killed;
        struct crowd c;

        p.cloud_link.dead_after_ns = 3 * SECOND;
        crowd_open(&c, &p);
        for (uint32_t i = 0; i < 9; i++)
            ask(&c, i / 3, &q[i], 100 + i, 20, 900);
        while (q[8].n_ids < 20)
            crowd_step(&c);
        crowd_kill_edge(&c, 1);
        killed = c.now_ns;
        while (stats_of(&c).edges == 3) {
            const uint32_t before = q[0].n_ids;

            crowd_run_for(&c, 2 * RIG_MS);
            assert_true(q[0].done || q[0].n_ids > before); /* no pause */
            assert_true(c.now_ns < killed + 4 * SECOND);
        }
        assert_in_range(c.now_ns - killed, 2900 * RIG_MS, 3100 * RIG_MS);
        assert_non_null(strstr(c.said, "3 sessions ended, 2 edges left"));
        if (secure)
            assert_non_null(strstr(c.said, "e1 is gone"));
        finish(&c, q, 3, 10 * SECOND);
        finish(&c, q + 6, 3, 10 * SECOND);
        for (uint32_t i = 0; i < 9; i++) {
            if (i / 3 == 1)
                rig_request_free(&q[i]);
            else
                expect_right(&c, i / 3, &q[i]);
        }
        crowd_start_edge(&c, 1); /* and it may come again */
        ask(&c, 1, &q[3], 7, 20, 20);
        finish(&c, q + 3, 1, SECOND);
        expect_right(&c, 1, &q[3]);
        crowd_close(&c);
    }
}

static void test_one_leaves(void **state)
{
    const struct crowd_params p = plain(2, true);
    struct rig_request q[2];
    struct crowd c;

    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 2; i++)
        ask(&c, i, &q[i], i, 20, 100);
    while (q[0].n_ids < 20 || q[1].n_ids < 20)
        crowd_step(&c);
    edge_close(c.edges[0].edge);
    c.edges[0].edge = NULL;
    crowd_run_for(&c, RIG_MS);
    assert_int_equal(stats_of(&c).edges, 1);
    assert_int_equal(stats_of(&c).edges_left, 1);
    assert_int_equal(q[0].result.finish, EDGE_CANCELLED);
    rig_request_free(&q[0]);
    finish(&c, &q[1], 1, SECOND);
    expect_right(&c, 1, &q[1]);
    crowd_close(&c);
}

/* A restarted edge has its session's place although its old self is not known to be dead yet. */
static void test_one_restarts(void **state)
{
    for (int limited = 0; limited < 2; limited++) {
        struct crowd_params p = plain(2, true);
        struct rig_request q[2];
        uint64_t from;
        struct crowd c;

        if (limited)
            p.limits[0] = "sessions=1";
        else
            p.cloud_sessions = 1;
        crowd_open(&c, &p);
        ask(&c, 0, &q[0], 1, 20, 900);
        while (q[0].n_ids < 20)
            crowd_step(&c);
        crowd_kill_edge(&c, 0);
        rig_request_free(&q[0]);
        from = c.now_ns;
        crowd_start_edge(&c, 0);
        ask(&c, 0, &q[0], 2, 20, 20);
        finish(&c, q, 1, 4 * SECOND);
        expect_right(&c, 0, &q[0]);
        print_message("served %.2f s after it was killed\n", (double)(c.now_ns - from) * 1e-9);
        crowd_close(&c);
    }
}

/* Two that share an identity, both alive, are both served. */
static void test_shared_identity(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[2];
    struct crowd c;

    crowd_open(&c, &p);
    crowd_kill_edge(&c, 1);
    c.edges[1].p.edge_security.identity = crowd_identity(0);
    ask(&c, 0, &q[0], 1, 20, 900);
    while (q[0].n_ids < 20)
        crowd_step(&c);
    crowd_start_edge(&c, 1);
    ask(&c, 1, &q[1], 2, 20, 900);
    finish(&c, q, 2, 10 * SECOND);
    for (uint32_t i = 0; i < 2; i++)
        expect_right(&c, i, &q[i]);
    crowd_close(&c);
}

/* Two draw the same number: the second is not heard, and draws another. */
static void test_same_connection(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[2];
    struct crowd c;

    p.edge.link.connection = 7;
    p.edge.rejoin.timeout_ns = 60 * SECOND;
    p.edge.rejoin.attempt_timeout_ns = 2 * SECOND;
    p.edge.rejoin.several = true;
    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 2; i++)
        ask(&c, i, &q[i], i, 20, 400);
    finish(&c, q, 2, 30 * SECOND);
    for (uint32_t i = 0; i < 2; i++)
        expect_right(&c, i, &q[i]);
    crowd_close(&c);
}

/* Many prompts of one do not keep another's waiting: it gets every other batch. */
static void test_turns(void **state)
{
    struct crowd_params p = plain(2, true);
    static struct rig_request q[9];
    struct crowd c;

    p.edge.sessions = 8;
    p.cloud_sessions = 9;
    p.edge.chunk_tokens = 32;
    p.cloud_stage.max_rows = 41; /* one chunk, and nine that decode */
    p.cloud_stage.row_ns = 100000;
    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 8; i++)
        ask(&c, 0, &q[i], i, 600, 2);
    crowd_run_for(&c, 20 * RIG_MS);
    ask(&c, 1, &q[8], 9, 600, 2);
    finish(&c, q + 8, 1, 10 * SECOND);
    uint32_t early = 0;
    for (uint32_t i = 0; i < 8; i++)
        early += q[i].done;
    print_message("%u of 8 were done before it\n", early);
    assert_true(early <= 1);
    finish(&c, q, 8, 10 * SECOND);
    for (uint32_t i = 0; i < 9; i++)
        expect_right(&c, i / 8, &q[i]);
    crowd_close(&c);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_cache_limit(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[4];
    struct crowd c;

    p.limits[0] = "kv=800"; /* 100 tokens */
    p.cloud_lingering = 3;
    crowd_open(&c, &p);
    ask(&c, 0, &q[0], 1, 20, 40); /* 60 of them */
    ask(&c, 0, &q[1], 2, 20, 41); /* waits for those */
    ask(&c, 0, &q[2], 3, 60, 41); /* will never fit */
    ask(&c, 1, &q[3], 4, 60, 400);
    while (!q[2].done)
        crowd_step(&c);
    assert_int_equal(q[2].result.finish, EDGE_REFUSED);
    print_message("%s\n", q[2].result.error);
    assert_non_null(strstr(q[2].result.error, "e0 may have 800 bytes of cache"));
    rig_request_free(&q[2]);
    while (!all_done(q, 2)) {
        struct cloud_link l[2];

        crowd_step(&c);
        if (cloud_links(c.cloud, l, 2) == 2)
            assert_true(l[0].kv_bytes <= 800 && l[0].sessions <= 1);
        assert_true(q[0].done || !q[1].n_ids);
    }
    finish(&c, q + 3, 1, SECOND);
    for (uint32_t i = 0; i < 4; i++) {
        if (i != 2)
            expect_right(&c, i == 3, &q[i]);
    }
    crowd_close(&c);
}

/* By rows, and by bytes: 900 rows of 64 floats. Who has no limit is not held up. */
static void test_rate_limit(void **state)
{
    static const char *const limits[] = {"rate=1000rows/s", "rate=100kB/s"};
    static const uint64_t least[] = {2000, 3600}, most[] = {3200, 5200};

    for (unsigned i = 0; i < 2; i++) {
        struct crowd_params p = plain(2, true);
        struct rig_request q[2];
        uint64_t from;
        struct crowd c;

        p.limits[0] = limits[i];
        crowd_open(&c, &p);
        from = c.now_ns;
        ask(&c, 1, &q[1], 2, 900, 100);
        for (unsigned k = 0; k < (i ? 2 : 3);
             k++) { /* the same 900 rows; a second's worth is free */
            ask(&c, 0, &q[0], k + 1, 900, 100);
            finish(&c, q, 1, 10 * SECOND);
            expect_right(&c, 0, &q[0]);
            if (k == 0) {
                assert_true(q[1].done);
                assert_true(q[1].result.last_token_ns - from < SECOND / 2);
                expect_right(&c, 1, &q[1]);
            }
        }
        print_message("%s: %.2f s\n", limits[i], (double)(c.now_ns - from) * 1e-9);
        assert_in_range(c.now_ns - from, least[i] * RIG_MS, most[i] * RIG_MS);
        crowd_close(&c);
    }
}

/* The rate is the identity's: that connections come, and that those before them go, gives it no
 * more. */
static void test_rate_of_reconnections(void **state)
{
    struct crowd_params p = plain(1, true);
    const uint64_t rate = 20, message = 32, batch = 3 * message; /* of a session each */
    struct rig_request q;
    struct crowd c;
    uint64_t from;

    p.limits[0] = "rate=20rows/s";
    p.edge.chunk_tokens = (uint32_t)message;
    p.edge.no_prefix = true;
    crowd_open(&c, &p);
    from = c.now_ns;
    for (unsigned k = 0; k < 6; k++) {
        const uint64_t until = c.now_ns + 4 * SECOND;

        ask(&c, 0, &q, k + 1, 400, 2);
        while (c.now_ns < until) {
            const uint64_t may = rate * (c.now_ns - from) / SECOND + batch;

            crowd_step(&c);
            if (stats_of(&c).rows > may + 1)
                fail_msg("%u. connection: %u rows after %.2f s, at most %u by its rate", k + 1,
                         (unsigned)stats_of(&c).rows, (double)(c.now_ns - from) * 1e-9,
                         (unsigned)may);
        }
        crowd_kill_edge(&c, 0);
        rig_request_free(&q);
        crowd_start_edge(&c, 0);
    }
    print_message("%u rows in %.2f s\n", (unsigned)stats_of(&c).rows,
                  (double)(c.now_ns - from) * 1e-9);
    assert_true(stats_of(&c).rows > rate * 12); /* it had its share of the time that it was there */
    crowd_close(&c);
}

/* What waits by one's rate does not keep others' messages from being taken. */
static void test_rate_holds_nobody_up(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[5];
    struct cloud_link l[2];
    struct crowd c;

    p.limits[0] = "rate=20rows/s";
    p.pool_packets = 512; /* 128 of them for messages that wait */
    p.edge.sessions = 4;
    p.cloud_sessions = 8;
    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 4; i++)
        ask(&c, 0, &q[i], i, 600, 2);
    crowd_run_for(&c, SECOND);
    assert_int_equal(cloud_links(c.cloud, l, 2), 2);
    print_message("%u packets wait\n", l[0].held_packets);
    ask(&c, 1, &q[4], 9, 600, 100);
    finish(&c, q + 4, 1, SECOND);
    expect_right(&c, 1, &q[4]);
    for (uint32_t i = 0; i < 4; i++) {
        assert_false(q[i].done);
        assert_int_equal(edge_cancel(c.edges[0].edge, q[i].session), 0);
    }
    finish(&c, q, 4, SECOND);
    for (uint32_t i = 0; i < 4; i++)
        rig_request_free(&q[i]);
    crowd_close(&c);
}

/* Another list: who is not on it is cut off at once, others have their new limits. */
static void test_other_list(void **state)
{
    struct crowd_params p = plain(2, true), stricter = p;
    struct authorized *list;
    struct rig_request q[3];
    struct crowd c;

    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 2; i++)
        ask(&c, i, &q[i], i, 20, 900);
    while (q[0].n_ids < 20 || q[1].n_ids < 20)
        crowd_step(&c);
    stricter.limits[1] = "sessions=1";
    list = crowd_list(&stricter, 2);
    cloud_set_peers(c.cloud, list);
    finish(&c, q, 1, SECOND);
    assert_int_equal(q[0].result.finish, EDGE_LOST);
    assert_non_null(strstr(q[0].result.error, "closed the connection"));
    assert_non_null(strstr(c.all_said, "e0 is gone"));
    assert_non_null(strstr(c.all_said, "not admitted any more"));
    rig_request_free(&q[0]);
    ask(&c, 1, &q[2], 3, 20, 20);
    finish(&c, q + 2, 1, SECOND);
    assert_int_equal(q[2].result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q[2].result.error, "e1 may have 1 sessions"));
    rig_request_free(&q[2]);
    finish(&c, q + 1, 1, 10 * SECOND);
    expect_right(&c, 1, &q[1]);
    crowd_kill_edge(&c, 0);
    crowd_start_edge(&c, 0); /* nor does it get in again */
    ask(&c, 0, &q[0], 4, 20, 20);
    finish(&c, q, 1, 10 * SECOND);
    assert_non_null(strstr(q[0].result.error, "does not admit our identity"));
    rig_request_free(&q[0]);
    crowd_close(&c);
    authorized_close(list);
}

/* --- an edge made of a bare link -------------------------------------------------------------- */

struct bare {
    struct crowd *c;
    uint32_t edge;
    struct link *l;
    struct proto_status status;
    uint32_t n_status;
    uint64_t at_ns; /* of the last one */
    bool mute;      /* it acknowledges nothing */
};

static void bare_open(struct bare *b, struct crowd *c, uint32_t edge)
{
    const struct link_params lp = {
        .path = network_port(c->edges[edge].network, 0)->path, .initiator = true, .connection = 77};

    *b = (struct bare){.c = c, .edge = edge};
    edge_close(c->edges[edge].edge);
    c->edges[edge].edge = NULL;
    c->foreign[edge] = true;
    assert_int_equal(link_open(&lp, c->now_ns, &b->l), 0);
}

static void bare_send(struct bare *b, uint32_t session, const uint8_t *bytes, uint16_t n)
{
    struct pkt *pkt = pkt_alloc(network_port(b->c->edges[b->edge].network, 0)->pool);

    memcpy(pkt->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES, bytes, n);
    assert_true(link_send(b->l, session, WIRE_CONTROL, -1, &pkt, &n, 1) > 0);
}

static void bare_step(struct bare *b)
{
    struct port *port = network_port(b->c->edges[b->edge].network, 0);
    struct link_message m;
    struct pkt *pkt;
    uint64_t deadline;
    size_t len;

    while (port_rx(port, &pkt, 1)) {
        if (b->mute)
            pkt_unref(pkt);
        else
            (void)link_input(b->l, pkt, b->c->now_ns);
    }
    (void)link_tick(b->l, b->c->now_ns, &deadline);
    while (link_recv(b->l, &m)) {
        const uint8_t *p = link_message_payload(&m, 0, &len);

        if (proto_kind(p, len) == PROTO_STATUS) {
            assert_int_equal(m.session, 0);
            assert_int_equal(proto_read_status(p, len, &b->status), 0);
            b->n_status++;
            b->at_ns = b->c->now_ns;
        }
        link_message_free(&m);
    }
    while (link_output(b->l, &pkt, 1, port->pool, b->c->now_ns)) {
        assert_int_equal(port_tx(port, &pkt, 1), 1);
        pkt_unref(pkt);
    }
    crowd_step(b->c);
}

static void bare_run(struct bare *b, uint64_t ns)
{
    for (const uint64_t until = b->c->now_ns + ns; b->c->now_ns < until;)
        bare_step(b);
}

/* What an edge is told, and when. */
static void test_status(void **state)
{
    struct crowd_params p = plain(2, false);
    uint8_t bytes[PROTO_ASK_BYTES];
    struct rig_request q[2];
    struct bare b;
    uint32_t before;
    struct crowd c;

    p.cloud_stage.kv_budget_bytes = 4000 * FAKE_TOKEN_BYTES;
    p.cloud_stage.run_ns = 2 * RIG_MS;
    crowd_open(&c, &p);
    bare_open(&b, &c, 0);
    bare_send(&b, 0, bytes, (uint16_t)proto_write_ask(bytes));
    bare_run(&b, 50 * RIG_MS);
    assert_in_range(b.n_status, 1, 2); /* it joined, and it asked */
    assert_false(b.status.draining);
    assert_int_equal(b.status.sessions_free, 6);
    assert_int_equal(b.status.sessions_open, 0);
    assert_int_equal(b.status.tokens_max, FAKE_CTX);
    assert_int_equal(b.status.split, FAKE_SPLIT);
    assert_int_equal(b.status.tokens_free, b.status.tokens_total);
    assert_in_range(b.status.tokens_total, 3500, 4000);

    /* Another edge's sessions are news, and once a second will do. */
    before = b.n_status;
    bare_run(&b, 3 * SECOND);
    assert_int_equal(b.n_status, before);
    for (uint32_t i = 0; i < 2; i++)
        ask(&c, 1, &q[i], i, 100, 900);
    bare_run(&b, 1100 * RIG_MS);
    assert_in_range(b.n_status, before + 1, before + 2);
    assert_int_equal(b.status.sessions_free, 4);
    assert_int_equal(b.status.sessions_open, 2);
    assert_true(b.status.tokens_free < b.status.tokens_total - 1700);

    /* Draining at once, and no longer. */
    for (int draining = 1; draining >= 0; draining--) {
        const uint64_t from = c.now_ns;

        before = b.n_status;
        cloud_drain(c.cloud, draining);
        while (b.n_status == before)
            bare_step(&b);
        assert_int_equal(b.status.draining, draining);
        assert_int_equal(b.status.sessions_free, draining ? 0 : 6 - stats_of(&c).sessions);
        assert_true(b.at_ns - from < 5 * RIG_MS);
    }
    finish(&c, q, 2, 10 * SECOND);
    for (uint32_t i = 0; i < 2; i++)
        expect_right(&c, 1, &q[i]);
    link_close(b.l);
    crowd_close(&c);
}

/* No new sessions; those that run go on to their end. */
static void test_drain(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[2];
    struct crowd c;

    crowd_open(&c, &p);
    ask(&c, 0, &q[0], 1, 20, 900);
    while (q[0].n_ids < 20)
        crowd_step(&c);
    cloud_drain(c.cloud, true);
    assert_true(stats_of(&c).draining);
    ask(&c, 1, &q[1], 2, 20, 20);
    finish(&c, q + 1, 1, 12 * SECOND);
    assert_int_equal(q[1].result.finish, EDGE_REFUSED);
    print_message("%s\n", q[1].result.error);
    assert_non_null(strstr(q[1].result.error, "draining"));
    rig_request_free(&q[1]);
    finish(&c, q, 1, 10 * SECOND);
    expect_right(&c, 0, &q[0]);
    assert_int_equal(stats_of(&c).sessions, 0);
    cloud_drain(c.cloud, false);
    ask(&c, 1, &q[1], 2, 20, 20);
    finish(&c, q + 1, 1, SECOND);
    expect_right(&c, 1, &q[1]);
    crowd_close(&c);
}

/* Memory is short at the cloud: beside a session that runs long ones wait, then all; a first one does not. */
static void test_memory_is_short(void **state)
{
    struct crowd_params p = plain(2, true);
    struct rig_request q[4];
    struct crowd c;

    p.cloud_stage.run_ns = 2 * RIG_MS;
    crowd_open(&c, &p);
    cloud_set_limits(c.cloud, 100, true);
    ask(&c, 0, &q[0], 1, 20, 900); /* nobody is there whose end could be waited for */
    while (q[0].n_ids < 20)
        crowd_step(&c);
    ask(&c, 1, &q[1], 2, 20, 20);
    crowd_run_for(&c, 300 * RIG_MS);
    assert_int_equal(q[1].n_ids, 0);
    assert_int_equal(stats_of(&c).sessions, 1);

    cloud_set_limits(c.cloud, 100, false);
    ask(&c, 1, &q[2], 3, 20, 200);
    finish(&c, q + 1, 1, SECOND); /* it is short enough, */
    expect_right(&c, 1, &q[1]);
    assert_int_equal(q[2].n_ids, 0); /* this one is not */
    assert_true(q[0].n_ids < 900);
    cloud_set_limits(c.cloud, FAKE_CTX, false);
    finish(&c, q + 2, 1, 5 * SECOND);
    expect_right(&c, 1, &q[2]);
    finish(&c, q, 1, 20 * SECOND);
    expect_right(&c, 0, &q[0]);

    /* With the last of the others its reason to wait is gone. */
    ask(&c, 0, &q[0], 1, 20, 900);
    while (q[0].n_ids < 2)
        crowd_step(&c);
    cloud_set_limits(c.cloud, 100, false);
    ask(&c, 1, &q[3], 4, 20, 200);
    crowd_run_for(&c, 200 * RIG_MS);
    assert_int_equal(q[3].n_ids, 0);
    finish(&c, q, 1, 10 * SECOND);
    expect_right(&c, 0, &q[0]);
    finish(&c, q + 3, 1, 10 * SECOND); /* nobody is left: it is let in as the first was */
    expect_right(&c, 1, &q[3]);
    for (uint32_t n = stats_of(&c).lingering; n > 0; n--)
        assert_true(cloud_make_room(c.cloud));
    assert_false(cloud_make_room(c.cloud));
    assert_int_equal(stats_of(&c).lingering, 0);
    crowd_close(&c);
}

/* One fragment of a message: with rows of no session. */
static void send_part(struct port *port, uint32_t connection, uint32_t number, uint8_t flags,
                      uint16_t fragment, uint16_t n)
{
    const uint16_t head = (uint16_t)link_payload_offset(false, fragment);
    const struct wire_header h = {.flags = WIRE_FLAG_INITIATOR | flags,
                                  .connection = connection,
                                  .message = number,
                                  .fragment = fragment,
                                  .n_fragments = n,
                                  .session = 5,
                                  .payload_bytes = (uint16_t)(head + 1)};
    struct pkt *pkt = pkt_alloc(port->pool);

    memset(pkt->data + WIRE_PAYLOAD_AT, 0, head);
    pkt->data[WIRE_PAYLOAD_AT + head] = PROTO_ROWS;
    assert_int_equal(wire_seal(NULL, pkt, port->path, &h), 0);
    assert_int_equal(port_tx(port, &pkt, 1), 1);
    pkt_unref(pkt);
}

/* It makes the cloud speak: rows of no session are answered by an ERROR each. */
static void flood(struct port *port, uint32_t number)
{
    send_part(port, 7, number, WIRE_FLAG_HELLO, 0, 1);
}

/* One that asks much and acknowledges nothing takes neither the packets nor the others' time, and
 * is given up in the end. */
static void test_one_never_acknowledges(void **state)
{
    struct crowd_params p = plain(3, false);
    struct rig_request q[2];
    struct port *port;
    uint32_t least, number = 0;
    struct crowd c;

    p.pool_packets = 512;
    p.cloud_stage.run_ns = RIG_MS;
    crowd_open(&c, &p);
    least = hub_port(c.hub)->pool->n_total;
    crowd_kill_edge(&c, 0);
    port = network_port(c.edges[0].network, 0);
    for (uint32_t i = 0; i < 2; i++)
        ask(&c, 1 + i, &q[i], i, 20, 900);
    while (!all_done(q, 2)) {
        assert_true(c.now_ns < 2 * SECOND);
        flood(port, ++number);
        crowd_step(&c);
        if (hub_port(c.hub)->pool->n_free < least)
            least = hub_port(c.hub)->pool->n_free;
    }
    print_message("%.2f s, %u messages, at least %u of 512 packets free\n", (double)c.now_ns * 1e-9,
                  number, least);
    assert_true(least > 512 / 2);
    assert_non_null(strstr(c.all_said, "the peer acknowledges nothing"));
    for (uint32_t i = 0; i < 2; i++)
        expect_right(&c, 1 + i, &q[i]);
    crowd_close(&c);
}

/* A connection begins with a frame of who has heard nothing. What is left of one that a cloud before us
 * had is no edge: it would hold its place for ever. */
static void test_left_over(void **state)
{
    struct crowd_params p = plain(2, false);
    struct rig_request q;
    struct port *port;
    struct crowd c;

    p.max_edges = 2;
    crowd_open(&c, &p);
    crowd_kill_edge(&c, 0);
    port = network_port(c.edges[0].network, 0);
    ask(&c, 1, &q, 1, 20, 200);
    finish(&c, &q, 1, 10 * SECOND);
    const uint64_t joined = stats_of(&c).edges_joined;
    send_part(port, 8, 1, 0, 0, 2);
    crowd_run_for(&c, 200 * RIG_MS);
    assert_int_equal(stats_of(&c).edges_joined, joined);
    send_part(port, 7, 1, WIRE_FLAG_HELLO, 0, 2);
    crowd_run_for(&c, 200 * RIG_MS);
    assert_int_equal(stats_of(&c).edges_joined, joined + 1);
    expect_right(&c, 1, &q);
    crowd_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_left_over),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_one_dies),
        cmocka_unit_test(test_one_leaves),
        cmocka_unit_test(test_one_restarts),
        cmocka_unit_test(test_shared_identity),
        cmocka_unit_test(test_same_connection),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_cache_limit),
        cmocka_unit_test(test_rate_of_reconnections),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_rate_holds_nobody_up),
        cmocka_unit_test(test_other_list),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_memory_is_short),
        cmocka_unit_test(test_one_never_acknowledges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
