/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arbitrary messages: into each reader, and, delivered by a real link, into a whole cloud and a
 * whole edge on fake stages. Neither may crash, hang or leave anything behind.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/pipeline/pipeline.h"
#include "dataplane/pipeline/proto.h"
#include "tests/sim/network.h"
#include "tests/unit/pipeline/fake_stage.h"

struct script {
    const uint8_t *p;
    size_t left;
};

static uint8_t next(struct script *s)
{
    if (!s->left)
        return 0;
    s->left--;
    return *s->p++;
}

static void read_all(const uint8_t *p, size_t n)
{
    struct proto_open open;
    struct proto_opened opened;
    struct proto_rows rows;
    struct proto_tokens tokens;
    struct proto_text text;
    struct proto_ids ids;
    struct proto_status status;
    struct proto_hidden hidden;
    uint32_t session;
    bool linger;
    size_t at;

    (void)proto_read_open(p, n, &open);
    (void)proto_read_opened(p, n, &opened);
    if (proto_read_rows(p, n, &rows, &at) == 0 && at > n)
        abort();
    if (proto_read_tokens(p, n, &tokens) == 0) { /* and there is one way to write them */
        uint8_t again[PROTO_TOKENS_MAX];

        if (proto_write_tokens(again, &tokens) != n || memcmp(again, p, n))
            abort();
    }
    if (proto_read_hidden(p, n, &hidden) == 0) {
        uint8_t again[PROTO_HIDDEN_BYTES];

        if (proto_write_hidden(again, &hidden) > n || memcmp(again, p, sizeof again))
            abort();
    }
    (void)proto_read_close(p, n, &session, &linger);
    if (proto_read_ids(p, n, &ids) == 0 && ids.n > PROTO_IDS_MAX)
        abort();
    if (proto_read_status(p, n, &status) == 0 && status.tokens_free > status.tokens_total)
        abort();
    (void)proto_read_ask(p, n);
    if (proto_read_text(p, n, &text) == 0 && strlen(text.text) > PROTO_TEXT_MAX)
        abort();
}

/* The script's next message, of some kind with any content. */
static void send_any(struct link *l, struct port *port, struct script *s)
{
    struct pkt *pkts[4];
    uint16_t bytes[4], n = (uint16_t)(1 + next(s) % 4);
    uint32_t session = next(s) % 3;
    uint8_t kind = next(s) % 13;

    for (uint16_t i = 0; i < n; i++) {
        uint8_t *to;

        pkts[i] = pkt_alloc(port->pool);
        if (!pkts[i])
            abort();
        bytes[i] = next(s);
        to = pkts[i]->data + WIRE_PAYLOAD_AT + link_payload_offset(false, i);
        for (uint16_t k = 0; k < bytes[i]; k++)
            to[k] = next(s);
        if (i == 0 && bytes[0])
            to[0] = kind;
    }
    (void)link_send(l, session, (enum wire_class)(next(s) % 4), -1, pkts, bytes, n);
}

static void pump(struct link *l, struct port *port, uint64_t now)
{
    struct link_message m;
    struct pkt *pkts[32];
    uint64_t deadline;
    int n, taken;

    while ((n = port_rx(port, pkts, 32)) > 0) {
        for (int i = 0; i < n; i++)
            (void)link_input(l, pkts[i], now);
    }
    while (link_recv(l, &m))
        link_message_free(&m);
    (void)link_tick(l, now, &deadline);
    n = link_output(l, pkts, 32, port->pool, now);
    taken = port_tx(port, pkts, n);
    for (int i = 0; i < taken; i++)
        pkt_unref(pkts[i]);
    for (int i = taken; i < n; i++)
        link_output_refused(l, pkts[i], now);
}

static void send_valid_open(struct link *l, struct port *port, const struct stage_info *info,
                            uint32_t session, uint32_t like, uint32_t n_like, bool has_head,
                            uint8_t kv)
{
    struct codec_params codec = codec_params_default(CODEC_F16);
    struct proto_open m = {.version = PROTO_VERSION,
                           .session = session,
                           .has_head = has_head,
                           .split = FAKE_SPLIT,
                           .n_layers = info->n_layers,
                           .d_model = info->d_model,
                           .n_vocab = info->n_vocab,
                           .codec_id = codec_params_id(&codec),
                           .numerics_id = stage_numerics_with(info->numerics_id, kv),
                           .max_tokens = 40,
                           .like = like,
                           .n_like = like ? n_like : 0,
                           .sampler = sampler_params_default()};
    struct pkt *p = pkt_alloc(port->pool);
    uint16_t n;

    memcpy(m.fingerprint, info->fingerprint, 16);
    n = (uint16_t)proto_write_open(p->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES, &m);
    (void)link_send(l, 0, WIRE_CONTROL, -1, &p, &n, 1);
}

/* A session that begins like another, or the end of one, for others to begin like. */
static void send_valid(struct link *l, struct port *port, const struct stage_info *info,
                       struct script *s)
{
    uint8_t what = next(s), which = 1 + next(s) % 5;
    struct pkt *p;
    uint16_t n;

    if (what % 2) {
        send_valid_open(l, port, info, which, next(s) % 6, 1 + next(s) % 39, what & 2, next(s) % 6);
        return;
    }
    p = pkt_alloc(port->pool);
    n = (uint16_t)proto_write_close(p->data + WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES, which, what & 2);
    (void)link_send(l, 0, WIRE_CONTROL, -1, &p, &n, 1);
}

static void against_cloud(struct script s)
{
    struct network_params quiet = {0};
    struct network *net = network_open(1, &quiet, 512, 600);
    const uint8_t how = next(&s);
    struct fake_params fp = {.d_model = 4,
                             .max_rows = 8,
                             .max_seqs = 3,
                             .head = how & 2 ? STAGE_HEAD_WITHOUT : STAGE_HEAD_WITH};
    struct cloud_params cp = {.stage = fake_open(true, &fp, NULL),
                              .port = network_port(net, 1),
                              .codec = codec_params_default(CODEC_F16),
                              .max_sessions = 2};
    struct link_params lp = {.path = &wire_path_edge, .initiator = true, .connection = 7};
    char err[PIPELINE_ERR];
    struct cloud *c;
    struct link *l;
    uint64_t deadline;

    if (cloud_open(&cp, 0, &c, err) || link_open(&lp, 0, &l))
        abort();
    send_valid_open(l, network_port(net, 0), stage_info(cp.stage), 1, 0, 0, true, KV_F16);
    send_valid_open(l, network_port(net, 0), stage_info(cp.stage), 2, 1, 1, how & 1, KV_F16);
    for (uint64_t now = 0; now < 40; now++) {
        network_set_now(net, now * 1000000);
        if (s.left && next(&s) % 4 == 0)
            send_valid(l, network_port(net, 0), stage_info(cp.stage), &s);
        if (s.left)
            send_any(l, network_port(net, 0), &s);
        pump(l, network_port(net, 0), now * 1000000);
        (void)cloud_poll(c, now * 1000000, &deadline);
    }
    cloud_close(c);
    link_close(l);
    if (fake_counts(cp.stage)->open_seqs)
        abort();
    stage_close(cp.stage);
    network_close(net);
}

static void on_done(void *arg, const struct edge_result *result)
{
    ++*(int *)arg;
}

static void against_edge(struct script s)
{
    struct network_params quiet = {0};
    struct network *net = network_open(1, &quiet, 512, 600);
    const uint8_t how = next(&s);
    struct fake_params fp = {.d_model = 4,
                             .max_rows = 8,
                             .max_seqs = 3,
                             .head = how & 4 ? STAGE_HEAD_WITH : STAGE_HEAD_WITHOUT};
    struct edge_params ep = {.stage = fake_open(false, &fp, NULL),
                             .port = network_port(net, 0),
                             .codec = codec_params_default(CODEC_F32),
                             .link = {.connection = 7},
                             .kv_most = KV_K8V4,
                             .max_sessions = 2};
    struct link_params lp = {.path = &wire_path_cloud};
    int32_t prompt[20] = {1, 2, 3};
    int done = 0, asked = 2;
    struct edge_request r = {.prompt_ids = prompt,
                             .n_prompt = 20,
                             .n_predict = 9,
                             .sampler = sampler_params_default(),
                             .on_done = on_done,
                             .arg = &done,
                             .drafts = prompt,
                             .n_drafts = 20,
                             .draft_len = 3};
    char err[PIPELINE_ERR];
    struct edge *e;
    struct link *l;
    uint64_t deadline;

    if (how & 2)
        r.n_top = 2;
    if (how & 1) /* the history and its replay, too */
        ep.rejoin = (struct edge_rejoin){.timeout_ns = 30000000, .history_bytes = 2000};
    if (edge_open(&ep, 0, &e, err) || link_open(&lp, 0, &l) || edge_submit(e, &r, 0) != 1 ||
        edge_submit(e, &r, 0) != 2)
        abort();
    for (uint64_t now = 0; now < 40; now++) {
        network_set_now(net, now * 1000000);
        (void)edge_poll(e, now * 1000000, &deadline);
        if (now == 20) /* in the format that it was told meanwhile */
            asked += edge_submit(e, &r, now * 1000000) > 0;
        if (s.left && link_heard(l))
            send_any(l, network_port(net, 1), &s);
        pump(l, network_port(net, 1), now * 1000000);
    }
    edge_close(e);
    link_close(l);
    if (done != asked || fake_counts(ep.stage)->open_seqs)
        abort();
    stage_close(ep.stage);
    network_close(net);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script s = {data, size};

    read_all(data, size);
    switch (next(&s) % 4) {
    case 0:
        against_edge(s);
        break;
    case 1:
        break;
    default:
        against_cloud(s);
        break;
    }
    return 0;
}
