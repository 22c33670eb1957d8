/* SPDX-License-Identifier: Apache-2.0 */
/* The head at the edge: ids, alternatives and guesses are those of the other setting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/cloud_impl.h"
#include "tests/unit/pipeline/crowd.h"

#define SECOND (1000 * RIG_MS)

static const struct network_params quiet = {.delay_min_ns = 5000, .delay_max_ns = 5000};

static struct rig_params at_edge(uint32_t sessions)
{
    return (struct rig_params){.network = quiet,
                               .edge_stage.head = STAGE_HEAD_WITH,
                               .cloud_stage.head = STAGE_HEAD_WITHOUT,
                               .sessions = sessions};
}

/* Sampled with a penalty, with alternatives; some with guesses, of which every third is wrong. */
static void ask(struct rig_request *q, uint32_t i, int32_t guesses[64])
{
    rig_request(q, 500 + i, 10 + 9 * i, 50);
    q->sampler = (struct sampler_params){
        .temp = i % 3 ? .8f : 0, .top_p = 1, .repeat_penalty = i % 2 ? 1.3f : 1, .seed = i};
    q->n_top = i % 4;
    if (i % 2)
        return;
    fake_reference(q->prompt, q->n_prompt, 50, &q->sampler, -1, 64, guesses, NULL, 0);
    for (uint32_t k = 2; k < 50; k += 3)
        guesses[k] = (guesses[k] + 1) % (int32_t)FAKE_VOCAB;
    q->drafts = guesses;
    q->n_drafts = 50;
    q->draft_len = 1 + i;
}

static void test_same_ids(void **state)
{
    static const struct network_params lossy = {
        .drop = .2, .duplicate = .2, .delay_min_ns = 5000, .delay_max_ns = 900000};
    static struct rig_request q[12];
    static int32_t guesses[12][64];

    for (unsigned round = 0; round < 6; round++) {
        struct rig_params p = at_edge(12);
        struct cloud_stats cloud;
        struct rig r;
        uint64_t tokens = 0;

        p.network = round % 2 ? lossy : quiet;
        p.mtu = round < 4 ? 1500 : 600;
        p.hook = true;
        p.secure = round == 3;
        p.cloud_stage.run_ns = RIG_MS;
        p.cloud_stage.head = round == 2 ? STAGE_HEAD_WITH : STAGE_HEAD_WITHOUT; /* not used */
        p.seed = round;
        rig_open(&r, &p);
        rig_start(&r);
        for (uint32_t i = 0; i < 12; i++)
            ask(&q[i], i, guesses[i]);
        assert_true(rig_run(&r, q, 12, 100 * SECOND));
        for (uint32_t i = 0; i < 12; i++) {
            assert_true(rig_right(&r, &q[i]));
            tokens += q[i].n_ids;
            rig_request_free(&q[i]);
        }
        cloud_stats(r.cloud, &cloud);
        assert_true(cloud.tokens > 0 && cloud.tokens <= tokens); /* one for the guesses of an answer */
        assert_int_equal(fake_counts(r.cloud_stage)->heads, 0);
        assert_true(fake_counts(r.edge_stage)->largest_head > 4); /* of several sessions together */
        assert_true(fake_counts(r.edge_stage)->heads < tokens / 2);
        rig_close(&r);
    }
}

/* A row of 40 kB takes 27 packets. */
static void test_wide(void **state)
{
    struct rig_params p = at_edge(2);
    struct rig_request q[2];
    struct rig r;

    p.edge_stage.d_model = p.cloud_stage.d_model = 10000;
    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < 2; i++)
        rig_request(&q[i], 7 + i, 30, 10);
    assert_true(rig_run(&r, q, 2, 10 * SECOND));
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

/* More guesses than there is room for in a message of hidden states: fewer are sent. */
static void test_many_guesses(void **state)
{
    static int32_t right[64];
    struct rig_params p = at_edge(1);
    struct rig_request q;
    struct rig r;

    p.edge_stage.d_model = p.cloud_stage.d_model = 4000; /* 16 rows: 172 packets, 128 go */
    p.pool_packets = 1024;
    rig_open(&r, &p);
    rig_start(&r);
    rig_request(&q, 3, 20, 48);
    assert_int_equal(fake_reference(q.prompt, 20, 48, &q.sampler, -1, 4000, right, NULL, 0), 48);
    q.drafts = right;
    q.n_drafts = 48;
    q.draft_len = PROTO_DRAFTS_MAX;
    assert_true(rig_run(&r, &q, 1, 10 * SECOND));
    assert_true(rig_right(&r, &q));
    assert_in_range(fake_counts(r.edge_stage)->largest_head, 4, 12);
    rig_request_free(&q);
    rig_close(&r);
}

static void test_lost_clouds(void **state)
{
    static struct rig_request q[6];
    static int32_t guesses[6][64];

    for (unsigned round = 0; round < 4; round++) {
        struct rig_params p = at_edge(6);
        struct edge_stats stats;
        struct rig r;

        p.rejoin = (struct edge_rejoin){.timeout_ns = 60 * SECOND,
                                        .history_bytes = round < 2 ? 1u << 20 : 0};
        p.secure = round % 2;
        p.cloud_stage.run_ns = RIG_MS;
        p.crash = .01;
        p.crash_max = 3;
        p.down_max_ns = SECOND;
        p.seed = round;
        rig_open(&r, &p);
        rig_start(&r);
        for (uint32_t i = 0; i < 6; i++)
            ask(&q[i], i, guesses[i]);
        assert_true(rig_run(&r, q, 6, 200 * SECOND));
        edge_stats(r.edge, &stats);
        assert_true(stats.reconnections > 0);
        assert_int_equal(stats.replayed_rows > 0, round < 2);
        for (uint32_t i = 0; i < 6; i++) {
            assert_true(rig_right(&r, &q[i]));
            rig_request_free(&q[i]);
        }
        if (!r.cloud)
            rig_start_cloud(&r);
        rig_close(&r);
    }
}

static void test_cancelled(void **state)
{
    static struct rig_request q[4];
    struct rig_params p = at_edge(4);
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < 4; i++) {
        rig_request(&q[i], 40 + i, 20, 40);
        q[i].cancel_at = i % 2 ? 5 + i : 0;
    }
    assert_true(rig_run(&r, q, 4, 10 * SECOND));
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(q[i].result.finish, i % 2 ? EDGE_CANCELLED : EDGE_LENGTH);
        assert_int_equal(q[i].n_ids, i % 2 ? 5 + i : 40);
        if (!(i % 2))
            assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

static void expect_end(const struct rig_params *p, enum edge_finish finish, const char *text)
{
    struct edge_result result;

    assert_true(rig_one(p, &result));
    assert_int_equal(result.finish, finish);
    if (!strstr(result.error, text))
        fail_msg("'%s' lacks '%s'", result.error, text);
}

static void test_what_does_not_go(void **state)
{
    struct rig_params p = at_edge(1);

    p.cloud_stage.nan_at = 14;
    expect_end(&p, EDGE_LOST, "not finite: the model's file is damaged");
    p.edge_stage.head = STAGE_HEAD_WITHOUT;
    expect_end(&p, EDGE_REFUSED, "no head (--head edge): start the edge with --head edge");
    p = at_edge(1);
    p.codec = codec_params_default(CODEC_TSQ);
    p.edge_stage.d_model = p.cloud_stage.d_model = 10000; /* 29 packets */
    p.pool_packets = 128;                                 /* of which 16 go into a message */
    expect_end(&p, EDGE_LOST, "more hidden states wanted than go into a message");
}

/* An edge without a head has two clouds: the one that lacks it, too, is left out. */
static void test_one_of_two(void **state)
{
    struct rig_params p = {.network = quiet,
                           .sessions = 6,
                           .more = 1,
                           .edge_stage.head = STAGE_HEAD_WITHOUT,
                           .cloud_stage.head = STAGE_HEAD_WITH,
                           .rejoin = {.timeout_ns = SECOND, .history_bytes = 1u << 20}};
    static struct rig_request q[6];
    struct edge_uplink_stats at;
    struct rig r;

    rig_open(&r, &p);
    r.more[0].info->has_head = false;
    rig_start(&r);
    for (uint32_t i = 0; i < 6; i++)
        rig_request(&q[i], 60 + i, 20, 20);
    assert_true(rig_run(&r, q, 6, 10 * SECOND));
    for (uint32_t i = 0; i < 6; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    assert_int_equal(edge_uplink_stats(r.edge, 1, &at), 0);
    assert_int_equal(at.state, EDGE_UPLINK_UNFIT);
    assert_non_null(strstr(at.why, "no head"));
    rig_close(&r);
}

/* Edges with the head and without at one cloud, rows of both in its batches. */
static void test_both_kinds(void **state)
{
    static struct rig_request q[16];
    static int32_t guesses[16][64];
    struct crowd_params p = {.edge = {.network = quiet, .sessions = 4},
                             .cloud_stage = {.head = STAGE_HEAD_WITH, .run_ns = RIG_MS},
                             .n_edges = 4,
                             .heads = 0x5,
                             .cloud_sessions = 16};
    struct crowd c;
    bool done = false;

    crowd_open(&c, &p);
    for (uint32_t i = 0; i < 16; i++) {
        ask(&q[i], i, guesses[i]);
        assert_true(rig_submit(&c.edges[i / 4], &q[i]) > 0);
    }
    while (!done) {
        assert_true(c.now_ns < 100 * SECOND);
        crowd_step(&c);
        done = true;
        for (uint32_t i = 0; i < 16; i++)
            done &= q[i].done;
    }
    for (uint32_t i = 0; i < 16; i++) {
        assert_true(rig_right(&c.edges[i / 4], &q[i]));
        rig_request_free(&q[i]);
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(fake_counts(c.edges[i].edge_stage)->heads > 0, i % 2 == 0);
    assert_true(fake_counts(c.stage)->largest_batch > 8);
    crowd_close(&c);
}

/* --- an edge that means harm ------------------------------------------------------------------- */

#define HARM_CONNECTION 7u
#define HARM_SESSIONS   2500u
#define WIDTH           1000u /* a hidden state takes 3 packets */

struct harm {
    struct crowd *c;
    struct port *port;
    struct codec *codec;
    uint32_t number; /* of its last message */
};

static uint8_t *harm_packet(const struct harm *h, struct pkt **pkt, uint16_t fragment)
{
    *pkt = pkt_alloc(h->port->pool);
    assert_non_null(*pkt);
    memset((*pkt)->data + WIRE_PAYLOAD_AT, 0, link_payload_offset(false, fragment));
    return (*pkt)->data + WIRE_PAYLOAD_AT + link_payload_offset(false, fragment);
}

static void harm_send(struct harm *h, uint32_t session, struct pkt **pkts, const uint16_t *bytes, uint16_t n)
{
    h->number++;
    for (uint16_t i = 0; i < n; i++) {
        const struct wire_header head = {.flags = WIRE_FLAG_INITIATOR | WIRE_FLAG_HELLO,
                                         .connection = HARM_CONNECTION,
                                         .message = h->number,
                                         .fragment = i,
                                         .n_fragments = n,
                                         .session = session,
                                         .cls = session ? WIRE_DECODE : WIRE_CONTROL,
                                         .payload_bytes = (uint16_t)(link_payload_offset(false, i) + bytes[i])};

        assert_int_equal(wire_seal(NULL, pkts[i], h->port->path, &head), 0);
        assert_int_equal(port_tx(h->port, &pkts[i], 1), 1);
        pkt_unref(pkts[i]);
    }
}

static void harm_opens(struct harm *h, uint32_t session)
{
    const struct stage_info *i = h->c->edges[0].edge_info;
    const struct codec_params codec = codec_params_default(CODEC_F32);
    struct proto_open m = {.version = PROTO_VERSION,
                           .has_head = true,
                           .session = session,
                           .split = i->end_layer,
                           .n_layers = i->n_layers,
                           .d_model = i->d_model,
                           .n_vocab = i->n_vocab,
                           .codec_id = codec_params_id(&codec),
                           .numerics_id = i->numerics_id,
                           .max_tokens = 8,
                           .sampler = sampler_params_default()};
    struct pkt *pkt;
    uint16_t n;

    memcpy(m.fingerprint, i->fingerprint, sizeof m.fingerprint);
    n = (uint16_t)proto_write_open(harm_packet(h, &pkt, 0), &m);
    harm_send(h, 0, &pkt, &n, 1);
}

/* Its row 0, whose hidden state it wants. */
static void harm_wants(struct harm *h, uint32_t session)
{
    static const float row[WIDTH] = {1, 2, 3};
    const struct proto_rows head = {.n_rows = 1, .n_logits = 1};
    struct codec_cursor at = {0, 0};
    struct pkt *pkts[8];
    uint16_t bytes[8], n = 0;

    while (at.row < 1) {
        uint8_t *to = harm_packet(h, &pkts[n], n);
        const size_t skip = n ? 0 : proto_write_rows(to, &head);
        const int tile = codec_encode(h->codec, row, WIDTH, 1, 0, &at, to + skip, 1300, NULL);

        assert_true(tile > 0 && n < 7);
        bytes[n++] = (uint16_t)(skip + (size_t)tile);
    }
    harm_send(h, session, pkts, bytes, n);
}

static void harm_closes(struct harm *h, uint32_t session, bool linger)
{
    struct pkt *pkt;
    uint16_t n = (uint16_t)proto_write_close(harm_packet(h, &pkt, 0), session, linger);

    harm_send(h, 0, &pkt, &n, 1);
}

/* Messages with hidden states that the cloud keeps for it, of sessions [1, n]. */
static uint32_t kept_for(const struct harm *h, uint32_t n)
{
    const struct links *l = &h->c->cloud->links;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < l->n_used; i++) {
        if (!links_is_live(&l->peers[i]) || l->peers[i].pump.params.connection != HARM_CONNECTION)
            continue;
        for (uint32_t id = 1; id <= n; id++)
            kept += pump_holds(&l->peers[i].pump, id);
    }
    return kept;
}

/* What a session that ended was told of it is sent, as long as it may be: only its hidden states are dropped. */
static void test_drop_hidden_only(void **state)
{
    struct network *network = network_open(1, &quiet, 256, 1500);
    const struct pipeline_security none = {0};
    const struct link_params link = {0};
    uint8_t text[PROTO_SMALL_MAX] = {PROTO_ERROR};
    struct pump p;

    assert_int_equal(pump_open(&p, network_port(network, 0), &link, &none, &wire_path_edge, 5, RIG_MS), 0);
    pump_send(&p, 3, WIRE_CONTROL, -1, text, sizeof text);
    assert_false(pump_holds(&p, 3));
    for (uint32_t session = 3; session < 5; session++)
        assert_non_null(pump_reserve(&p, session, WIRE_DECODE, -1, PROTO_HIDDEN_BYTES + 4, 1000));
    pump_send(&p, 3, WIRE_CONTROL, -1, text, sizeof text);
    pump_drop(&p, 3);
    assert_int_equal(p.n_small, 3);
    assert_false(pump_holds(&p, 3));
    assert_true(pump_holds(&p, 4));
    pump_close(&p);
    network_close(network);
}

/* It acknowledges nothing and opens sessions, each to want hidden states in, again before it has them, or to
 * be closed, with its rows kept or not. The cloud keeps no more for it than one answer for each session that
 * it may have at once, leaves the other edge its packets, and gives it up in the end. */
static void test_one_takes_nothing(void **state)
{
    struct crowd_params p = {.edge = {.network = quiet, .sessions = 3},
                             .cloud_stage = {.head = STAGE_HEAD_WITHOUT, .d_model = WIDTH, .run_ns = RIG_MS / 20},
                             .n_edges = 2,
                             .heads = 0x3,
                             .cloud_sessions = 6,
                             .cloud_lingering = 2,
                             .pool_packets = 512};
    const struct codec_params codec = codec_params_default(CODEC_F32);
    struct rig_request q[3];
    uint32_t least = UINT32_MAX, most = 0, n = 0, answered = 0;
    struct harm h;
    struct crowd c;

    p.edge.edge_stage.d_model = WIDTH;
    crowd_open(&c, &p);
    crowd_kill_edge(&c, 0);
    h = (struct harm){.c = &c, .port = network_port(c.edges[0].network, 0)};
    assert_int_equal(codec_open(&codec, WIDTH, &h.codec), 0);
    for (uint32_t i = 0; i < 3; i++) {
        rig_request(&q[i], 80 + i, 20, 50);
        assert_true(rig_submit(&c.edges[1], &q[i]) > 0);
    }
    while (!cloud_edges_left(c.cloud)) {
        const uint32_t n_free = hub_port(c.hub)->pool->n_free;

        assert_true(++n < HARM_SESSIONS);
        harm_opens(&h, n);
        harm_wants(&h, n);
        crowd_run_for(&c, RIG_MS / 5);
        if (n % 3)
            harm_wants(&h, n);
        crowd_run_for(&c, RIG_MS / 5);
        if (n > 2) /* so that it has three at once, as many as are left to it */
            harm_closes(&h, n - 2, n % 2);
        least = n_free < least ? n_free : least;
        if (n % 16 == 0) {
            const uint32_t kept = kept_for(&h, n);

            assert_in_range(kept, 0, p.cloud_sessions);
            most = kept > most ? kept : most;
        }
        for (uint32_t i = 0; i < 3; i++) { /* others are answered meanwhile, one after the other */
            if (!q[i].done)
                continue;
            assert_true(rig_right(&c.edges[1], &q[i]));
            rig_request_free(&q[i]);
            answered++;
            rig_request(&q[i], 80 + i, 20, 50);
            assert_true(rig_submit(&c.edges[1], &q[i]) > 0);
        }
    }
    print_message("%.2f s, %u sessions, at most %u answers kept; at least %u of 512 packets free; %u answers of "
                  "the other\n", (double)c.now_ns * 1e-9, n, most, least, answered);
    assert_non_null(strstr(c.all_said, "the peer acknowledges nothing"));
    assert_true(most > 1 && least > 512 / 2 && answered > 6);
    for (uint32_t i = 0; i < 3; i++) {
        while (!q[i].done)
            crowd_step(&c);
        assert_true(rig_right(&c.edges[1], &q[i]));
        rig_request_free(&q[i]);
    }
    codec_close(h.codec);
    crowd_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_ids),     cmocka_unit_test(test_wide),
        cmocka_unit_test(test_many_guesses), cmocka_unit_test(test_lost_clouds),
        cmocka_unit_test(test_cancelled),    cmocka_unit_test(test_what_does_not_go),
        cmocka_unit_test(test_one_of_two),   cmocka_unit_test(test_both_kinds),
        cmocka_unit_test(test_drop_hidden_only), cmocka_unit_test(test_one_takes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
