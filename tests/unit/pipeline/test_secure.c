/* SPDX-License-Identifier: Apache-2.0 */
/* Encrypted: who is let in, who isn't, and what each is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/secure/handshake.h"
#include "tests/unit/pipeline/rig.h"

#define SECOND (1000 * RIG_MS)

static const struct network_params quiet = {.delay_min_ns = 5000, .delay_max_ns = 5000};
static struct identity *stranger;

static int make_stranger(void **state)
{
    return identity_new(&stranger);
}

static int drop_stranger(void **state)
{
    identity_close(stranger);
    return 0;
}

static void test_encrypted(void **state)
{
    struct rig_params p = {.network = quiet, .secure = true};
    struct rig_request q;
    struct edge_stats s;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 1, 50, 20);
    assert_true(rig_run(&r, &q, 1, SECOND));
    assert_true(rig_right(&r, &q));
    edge_stats(r.edge, &s);
    assert_string_equal(s.cipher, "AES-128-GCM");
    assert_int_equal(s.link.bad_frames, 0);
    rig_request_free(&q);
    rig_close(&r);
}

/* A request that must be lost; what it says. */
static void expect_lost(const struct rig_params *p, uint64_t within, const char *why)
{
    struct rig_request q;
    struct rig r;

    rig_open(&r, p);
    rig_start(&r);
    rig_request(&q, 1, 5, 5);
    assert_true(rig_run(&r, &q, 1, within));
    assert_int_equal(q.result.finish, EDGE_LOST);
    print_message("%s\n", q.result.error);
    assert_non_null(strstr(q.result.error, why));
    assert_int_equal(q.n_ids, 0);
    rig_request_free(&q);
    rig_close(&r);
}

static void test_strangers(void **state)
{
    struct rig_params p = {.network = quiet, .secure = true, .connect_timeout_ns = 10 * SECOND};
    struct rig_params q = p, half = p;

    p.edge_security = (struct pipeline_security){stranger, rig_peers(false)};
    expect_lost(&p, 2 * SECOND, "does not admit our identity");
    q.cloud_security = (struct pipeline_security){stranger, rig_peers(true)};
    expect_lost(&q, 2 * SECOND, "not the one asked for");
    half.secure = false; /* a cloud that takes no plain frames, an edge that sends no others */
    half.cloud_security = (struct pipeline_security){rig_identity(true), rig_peers(true)};
    expect_lost(&half, 20 * SECOND, "no cloud answered");
    half.edge_security = (struct pipeline_security){rig_identity(false), rig_peers(false)};
    half.cloud_security = (struct pipeline_security){0};
    expect_lost(&half, 20 * SECOND, "no cloud answered");
}

/* A new edge process: a new connection. */
static void new_edge(struct rig *r, const struct identity *id)
{
    struct edge_params ep = {.stage = r->edge_stage,
                             .port = network_port(r->network, 0),
                             .codec = codec_params_default(CODEC_F32),
                             .security = {id, rig_peers(false)}};
    char err[PIPELINE_ERR];

    assert_int_equal(edge_open(&ep, r->now_ns, &r->edge, err), 0);
}

/* Without a word: as if it had been killed. */
static void kill_edge(struct rig *r)
{
    edge_close(r->edge);
    network_clear(r->network);
}

static void begin(struct rig *r, struct rig_params *p, struct rig_request *q)
{
    rig_open(r, p);
    rig_start(r);
    rig_request(q, 1, 10, 500);
    assert_true(rig_submit(r, q) > 0);
    while (q->n_ids < 10)
        rig_step(r);
}

/* The same edge begins anew: its old sessions end when the old process stays silent, and it is
 * served. */
static void test_edge_restarts(void **state)
{
    struct rig_params p = {.network = quiet, .secure = true};
    struct rig_request q;
    uint64_t from;
    struct rig r;

    rig_open(&r, &p);
    network_port(r.network, 1)->caps.tells_loss = false;
    rig_start(&r);
    rig_request(&q, 1, 10, 500);
    assert_true(rig_submit(&r, &q) > 0);
    while (q.n_ids < 10)
        rig_step(&r);
    kill_edge(&r);
    rig_request_free(&q);
    new_edge(&r, rig_identity(false));
    rig_request(&q, 2, 10, 50);
    assert_true(rig_submit(&r, &q) > 0);
    from = r.now_ns;
    while (!q.done && r.now_ns < from + 3 * SECOND)
        rig_step(&r);
    assert_int_equal(q.result.finish, EDGE_LENGTH);
    assert_true(rig_right(&r, &q));
    rig_request_free(&q);
    rig_close(&r);
}

/*
 * Another edge that is admitted too comes while a killed one has the only session, or the only
 * place. Who has it is asked, and loses it when it stays silent.
 */
static void test_another_edge(void **state)
{
    char text[400], a[FINGERPRINT_TEXT], b[FINGERPRINT_TEXT], err[IDENTITY_ERR];
    struct authorized *both;

    snprintf(text, sizeof text, "one %s\ntwo %s\n",
             fingerprint_format(identity_fingerprint(rig_identity(false)), a),
             fingerprint_format(identity_fingerprint(stranger), b));
    assert_int_equal(authorized_parse(text, strlen(text), "list", &both, err), 0);
    for (int full = 0; full < 2; full++) {
        struct rig_params p = {.network = quiet, .secure = true, .max_edges = full};
        struct rig_request q;
        uint64_t from;
        struct rig r;

        p.cloud_security = (struct pipeline_security){rig_identity(true), both};
        rig_open(&r, &p);
        network_port(r.network, 1)->caps.tells_loss = false;
        rig_start(&r);
        rig_request(&q, 1, 10, 500);
        assert_true(rig_submit(&r, &q) > 0);
        while (q.n_ids < 10)
            rig_step(&r);
        kill_edge(&r);
        rig_request_free(&q);
        for (r.now_ns += SECOND; full == 1; full++) { /* turned away the first time */
            new_edge(&r, stranger);
            rig_request(&q, 2, 10, 50);
            assert_true(rig_submit(&r, &q) > 0);
            while (!q.done)
                rig_step(&r);
            assert_int_equal(q.result.finish, EDGE_LOST);
            assert_non_null(strstr(q.result.error, "closed the connection"));
            rig_request_free(&q);
            edge_close(r.edge);
            for (from = r.now_ns; r.now_ns < from + 2 * SECOND;) {
                uint64_t deadline;

                network_set_now(r.network, r.now_ns += RIG_MS);
                (void)cloud_poll(r.cloud, r.now_ns, &deadline);
            }
        }
        new_edge(&r, stranger);
        rig_request(&q, 2, 10, 50);
        assert_true(rig_submit(&r, &q) > 0);
        from = r.now_ns;
        while (!q.done && r.now_ns < from + 20 * SECOND)
            rig_step(&r);
        assert_int_equal(q.result.finish, EDGE_LENGTH);
        assert_true(r.now_ns - from < 3 * SECOND);
        assert_true(rig_right(&r, &q));
        rig_request_free(&q);
        rig_close(&r);
    }
    authorized_close(both);
}

/* Who is turned away hears so, whatever is lost on the way. */
static void test_turned_away(void **state)
{
    for (unsigned i = 0; i < 12; i++) {
        const struct network_params lossy = {
            .drop = .4, .delay_min_ns = 5000, .delay_max_ns = 5000};
        struct rig_params p = {.network = quiet, .secure = true, .seed = 100 + i, .max_edges = 1};
        struct rig_request q;
        struct rig r;

        begin(&r, &p, &q);
        kill_edge(&r);
        rig_request_free(&q);
        network_set_params(r.network, &lossy);
        new_edge(&r, rig_identity(false));
        rig_request(&q, 2, 10, 50);
        assert_true(rig_submit(&r, &q) > 0);
        while (!q.done)
            rig_step(&r);
        assert_int_equal(q.result.finish, EDGE_LOST);
        assert_non_null(strstr(q.result.error, "closed the connection"));
        rig_request_free(&q);
        rig_close(&r);
    }
}

/* The cloud restarts and has no keys: it proves that it is the same, and has lost them. */
static void test_cloud_restarts(void **state)
{
    struct rig_params p = {.network = quiet, .secure = true};
    struct rig_request q;
    uint64_t from;
    struct rig r;

    begin(&r, &p, &q);
    rig_restart_cloud(&r);
    from = r.now_ns;
    while (!q.done)
        rig_step(&r);
    assert_int_equal(q.result.finish, EDGE_LOST);
    print_message("after %.3f s: %s\n", (double)(r.now_ns - from) * 1e-9, q.result.error);
    assert_non_null(strstr(q.result.error, "does not know this connection"));
    assert_true(r.now_ns < from + 100 * RIG_MS);
    rig_request_free(&q);
    rig_close(&r);
}

enum forger { SAYS_SO, SIGNS_ITSELF, MADE_ONE_SIGN, TRUE_DENIAL };

#define CONNECTION 77u

/* A frame as the edge's, but nobody has its keys. */
static struct pkt *made_up(struct pkt_pool *pool)
{
    const struct wire_header h = {.type = WIRE_PING,
                                  .flags = WIRE_FLAG_INITIATOR,
                                  .connection = CONNECTION,
                                  .message = 9,
                                  .n_fragments = 1,
                                  .cls = WIRE_CONTROL};
    struct pkt *p = pkt_alloc(pool);

    assert_int_equal(wire_seal(NULL, p, &wire_path_edge, &h), 0);
    return p;
}

/* Unsigned. */
static void bare(struct pkt *p)
{
    const struct wire_header h = {.type = WIRE_HANDSHAKE,
                                  .connection = CONNECTION,
                                  .n_fragments = 1,
                                  .cls = WIRE_CONTROL,
                                  .payload_bytes = 4};

    assert_int_equal(wire_seal(NULL, p, &wire_path_cloud, &h), 0);
}

/* What came from the edge is answered in the cloud's place by: I know no such connection. */
static unsigned forge(struct rig *r, struct handshake *by, enum forger kind)
{
    struct port *port = network_port(r->network, 1);
    struct pkt *p[32];
    uint64_t deadline;
    int n = port_rx(port, p, 32), sent;

    handshake_tick(by, r->now_ns, &deadline);
    if (!n && kind != TRUE_DENIAL)
        p[n++] = made_up(port->pool);
    for (int i = 0; i < n; i++) {
        if (kind == MADE_ONE_SIGN) {
            pkt_unref(p[i]);
            p[i] = made_up(port->pool);
        }
        handshake_deny(by, p[i]);
        pkt_unref(p[i]);
    }
    n = handshake_output(by, p, 32, port->pool, r->now_ns);
    for (int i = 0; i < n && kind == SAYS_SO; i++)
        bare(p[i]);
    sent = port_tx(port, p, n);
    for (int i = 0; i < n; i++)
        pkt_unref(p[i]);
    return (unsigned)sent;
}

static bool nobody(void *arg, const struct fingerprint *peer)
{
    return false;
}

static struct handshake *forger_of(enum forger kind)
{
    const struct handshake_params hp = {
        .identity = kind == MADE_ONE_SIGN || kind == TRUE_DENIAL ? rig_identity(true) : stranger,
        .admits = nobody,
        .payload_max_bytes = 1000};
    struct handshake *h;

    assert_int_equal(handshake_open(&hp, 0, &h), 0);
    return h;
}

/* A cloud that is busy for a second is not lost because somebody says that it knows nothing. */
static void test_forged_denials(void **state)
{
    for (enum forger kind = SAYS_SO; kind <= TRUE_DENIAL; kind++) {
        struct rig_params p = {.network = quiet, .secure = true, .link = {.connection = CONNECTION}};
        struct handshake *forger = forger_of(kind);
        struct rig_request q;
        unsigned n = 0;
        uint64_t from;
        struct rig r;

        begin(&r, &p, &q);
        r.cloud_silent = true;
        for (from = r.now_ns; r.now_ns < from + SECOND && !q.done;) {
            n += forge(&r, forger, kind);
            r.now_ns += RIG_MS;
            rig_step(&r);
        }
        assert_in_range(n, kind == TRUE_DENIAL ? 1 : 5, 1000);
        r.cloud_silent = false;
        while (!q.done)
            rig_step(&r);
        if (kind == TRUE_DENIAL) { /* else the others would prove nothing */
            assert_int_equal(q.result.finish, EDGE_LOST);
            assert_true(r.now_ns < from + 100 * RIG_MS);
        } else {
            assert_int_equal(q.result.finish, EDGE_LENGTH);
            assert_true(rig_right(&r, &q));
        }
        rig_request_free(&q);
        rig_close(&r);
        handshake_close(forger);
    }
}

/* Nor is one that had nothing to say for a while, for nobody asked. */
static void test_forged_while_idle(void **state)
{
    struct rig_params p = {.network = quiet, .secure = true, .link = {.connection = CONNECTION}};
    struct handshake *forger = forger_of(SAYS_SO);
    struct rig_request q;
    uint64_t from;
    struct rig r;

    rig_open(&r, &p);
    network_port(r.network, 0)->caps.tells_loss = network_port(r.network, 1)->caps.tells_loss = false;
    rig_start(&r);
    for (unsigned i = 0; i < 2; i++) {
        rig_request(&q, 1 + i, 10, 20);
        assert_true(rig_run(&r, &q, 1, SECOND));
        assert_int_equal(q.result.finish, EDGE_LENGTH);
        rig_request_free(&q);
        for (from = r.now_ns; r.now_ns < from + SECOND;)
            rig_step(&r);
        r.now_ns = from + 4 * SECOND; /* asleep, but not for so long that it doesn't count */
        network_set_now(r.network, r.now_ns);
        assert_int_equal(forge(&r, forger, SAYS_SO), 1);
        r.now_ns += RIG_MS;
        for (unsigned k = 0; k < 1000; k++)
            rig_step(&r);
    }
    rig_close(&r);
    handshake_close(forger);
}

static void test_limits(void **state)
{
    char text[200], a[FINGERPRINT_TEXT], err[IDENTITY_ERR];
    struct rig_params p = {.network = quiet, .secure = true, .sessions = 3};
    struct authorized *list;
    struct rig_request q[3];
    struct rig r;

    snprintf(text, sizeof text, "small %s sessions=1 tokens=40\n",
             fingerprint_format(identity_fingerprint(rig_identity(false)), a));
    assert_int_equal(authorized_parse(text, strlen(text), "list", &list, err), 0);
    p.cloud_security = (struct pipeline_security){rig_identity(true), list};
    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q[0], 1, 10, 30);
    rig_request(&q[1], 2, 10, 30);
    rig_request(&q[2], 3, 10, 31);
    assert_true(rig_run(&r, q, 3, SECOND));
    assert_int_equal(q[0].result.finish, EDGE_LENGTH);
    assert_true(rig_right(&r, &q[0]));
    assert_int_equal(q[1].result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q[1].result.error, "small may have 1 sessions"));
    assert_int_equal(q[2].result.finish, EDGE_REFUSED);
    for (unsigned i = 0; i < 3; i++)
        rig_request_free(&q[i]);
    rig_request(&q[0], 4, 10, 31);
    assert_true(rig_run(&r, q, 1, SECOND));
    assert_int_equal(q[0].result.finish, EDGE_REFUSED);
    assert_non_null(strstr(q[0].result.error, "40 tokens"));
    rig_request_free(&q[0]);
    rig_close(&r);
    authorized_close(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encrypted),      cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_edge_restarts),  cmocka_unit_test(test_another_edge),
        cmocka_unit_test(test_cloud_restarts), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_turned_away),    cmocka_unit_test(test_forged_denials),
        cmocka_unit_test(test_forged_while_idle),
    };
    return cmocka_run_group_tests(tests, make_stranger, drop_stranger);
}
