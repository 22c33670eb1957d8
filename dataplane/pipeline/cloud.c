/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud: sessions from OPEN to CLOSE, and the edge's messages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/pipeline/cloud_impl.h"
#include "dataplane/pipeline/prefix.h"

/* --- life ------------------------------------------------------------------------------------- */

static int check_params(const struct cloud_params *p, const struct stage_info *info, char *err)
{
    if (info->first_layer == 0 || info->end_layer != info->n_layers) {
        snprintf(err, PIPELINE_ERR,
                 "the cloud needs layers [split, %u) with split > 0, not [%u, %u)", info->n_layers,
                 info->first_layer, info->end_layer);
        return -EINVAL;
    }
    if (codec_params_check(&p->codec)) {
        snprintf(err, PIPELINE_ERR, "codec parameters out of range");
        return -EINVAL;
    }
    return 0;
}

static int allocate(struct cloud *c)
{
    uint32_t n = c->p.max_sessions, rows = c->info->max_rows;

    c->message_rows = rows - smaller(n, rows / 2);
    c->max_logits = n > PROTO_DRAFTS_MAX ? n : PROTO_DRAFTS_MAX + 1;
    c->max_logits = c->max_logits < rows ? c->max_logits : rows;
    c->n_places = n > c->info->max_seqs ? n : c->info->max_seqs;
    c->sessions = calloc(c->n_places, sizeof c->sessions[0]);
    c->items = calloc(n, sizeof c->items[0]);
    c->batch = calloc(n, sizeof c->batch[0]);
    c->panel = malloc((size_t)rows * c->info->d_model * sizeof c->panel[0]);
    c->logits = malloc((size_t)c->max_logits * c->info->n_vocab * sizeof c->logits[0]);
    return c->sessions && c->items && c->batch && c->panel && c->logits ? 0 : -ENOMEM;
}

static void destroy(struct cloud *c)
{
    if (c->pump.link)
        pump_close(&c->pump);
    codec_close(c->codec);
    sampler_close(c->sampler);
    free(c->sessions);
    free(c->items);
    free(c->batch);
    free(c->panel);
    free(c->logits);
    free(c);
}

int cloud_open(const struct cloud_params *p, uint64_t now_ns, struct cloud **out, char *err)
{
    struct cloud *c = calloc(1, sizeof *c);
    int rc = -ENOMEM;

    if (!c)
        goto fail;
    c->p = *p;
    c->p.max_sessions = p->max_sessions ? p->max_sessions : 1;
    c->info = stage_info(p->stage);
    rc = check_params(p, c->info, err);
    if (rc)
        goto fail_said;
    rc = codec_open(&p->codec, c->info->d_model, &c->codec);
    if (!rc)
        rc = sampler_open(c->info->n_vocab, &c->sampler);
    if (!rc)
        rc = allocate(c);
    if (!rc)
        rc = pump_open(&c->pump, p->port, &p->link, &p->security, &wire_path_cloud, 0, now_ns);
    if (rc)
        goto fail;
    c->held_max = p->port->pool->n_total / PUMP_POOL_SHARE;
    stage_set_poll(p->stage, pump_during_run, &c->pump);
    *out = c;
    return 0;

fail:
    snprintf(err, PIPELINE_ERR, "the cloud can't start: %s", strerror(-rc));
fail_said:
    if (c)
        destroy(c);
    return rc;
}

static void end_all(struct cloud *c)
{
    for (uint32_t i = 0; i < c->n_places; i++) {
        if (c->sessions[i].id)
            cloud_end_session(c, &c->sessions[i]);
    }
}

void cloud_close(struct cloud *c)
{
    if (!c)
        return;
    end_all(c);
    link_shutdown(c->pump.link);
    pump_out(&c->pump);
    stage_set_poll(c->p.stage, NULL, NULL);
    destroy(c);
}

int cloud_reset(struct cloud *c, uint64_t now_ns)
{
    end_all(c);
    c->error[0] = 0;
    return pump_renew(&c->pump, now_ns);
}

/* --- sessions --------------------------------------------------------------------------------- */

/* Lingering ones too. */
static struct cloud_session *find_any(struct cloud *c, uint32_t id)
{
    for (uint32_t i = 0; id && i < c->n_places; i++) {
        if (c->sessions[i].id == id)
            return &c->sessions[i];
    }
    return NULL;
}

static struct cloud_session *find(struct cloud *c, uint32_t id)
{
    struct cloud_session *s = find_any(c, id);

    return s && !s->lingers ? s : NULL;
}

static void drop_queue(struct cloud *c, struct cloud_session *s)
{
    for (uint32_t i = 0; i < s->queue_count; i++) {
        struct link_message *m = &s->queue[(s->queue_head + i) % CLOUD_QUEUE];

        c->held -= m->n_fragments;
        link_message_free(m);
    }
    s->queue_count = 0;
}

void cloud_end_session(struct cloud *c, struct cloud_session *s)
{
    drop_queue(c, s);
    stage_seq_close(c->p.stage, s->seq);
    free(s->generated);
    c->n_sessions -= !s->lingers;
    *s = (struct cloud_session){0};
}

static void let_linger(struct cloud *c, struct cloud_session *s)
{
    drop_queue(c, s);
    free(s->generated);
    s->generated = NULL;
    s->lingers = true;
    s->used = ++c->uses;
    c->n_sessions--;
}

/* Give up the one that lingers and was of no use for longest. */
static bool evict(void *arg)
{
    struct cloud *c = arg;
    struct cloud_session *oldest = NULL;

    for (uint32_t i = 0; i < c->n_places; i++) {
        struct cloud_session *s = &c->sessions[i];

        if (s->lingers && s != c->like && (!oldest || s->used < oldest->used))
            oldest = s;
    }
    if (oldest)
        cloud_end_session(c, oldest);
    return oldest;
}

void cloud_break_session(struct cloud *c, struct cloud_session *s, enum proto_reason reason,
                         const char *text)
{
    uint8_t bytes[PROTO_SMALL_MAX];
    size_t n = proto_write_text(bytes, PROTO_ERROR, reason, text);

    pump_send(&c->pump, s->id, WIRE_CONTROL, -1, bytes, n);
    cloud_end_session(c, s);
}

/* --- OPEN ------------------------------------------------------------------------------------- */

static void hex(char *to, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sprintf(to + 2 * i, "%02x", bytes[i]);
}

/* Why the two halves don't go together, with both values; 0 when they do. */
static enum proto_reason mismatch(const struct cloud *c, const struct proto_open *m, char *text,
                                  size_t room)
{
    const struct stage_info *i = c->info;
    uint32_t codec_id = codec_params_id(&c->p.codec);
    char a[33], b[33], edge_codec[PROTO_CODEC_TEXT_MAX], cloud_codec[PROTO_CODEC_TEXT_MAX];
    uint8_t profile[16];

    if (m->version != PROTO_VERSION) {
        snprintf(text, room, "protocol mismatch: edge speaks version %u, cloud %u", m->version,
                 PROTO_VERSION);
        return PROTO_BAD_VERSION;
    }
    if (memcmp(m->fingerprint, i->fingerprint, sizeof m->fingerprint)) {
        hex(a, m->fingerprint, 16);
        hex(b, i->fingerprint, 16);
        snprintf(text, room, "model mismatch: edge %s, cloud %s", a, b);
        return PROTO_BAD_MODEL;
    }
    if (m->n_layers != i->n_layers || m->d_model != i->d_model || m->n_vocab != i->n_vocab) {
        snprintf(text, room,
                 "model mismatch: edge has %u layers of %u values and %u ids, cloud %u, %u, %u",
                 m->n_layers, m->d_model, m->n_vocab, i->n_layers, i->d_model, i->n_vocab);
        return PROTO_BAD_MODEL;
    }
    if (m->split != i->first_layer) {
        snprintf(text, room, "split mismatch: edge ends before layer %u, cloud begins at layer %u",
                 m->split, i->first_layer);
        return PROTO_BAD_SPLIT;
    }
    codec_params_profile(&c->p.codec, profile);
    if (m->codec_id != codec_id || memcmp(m->profile, profile, sizeof profile)) {
        snprintf(text, room,
                 "codec mismatch: edge %s, cloud %s: give both the same --codec and --profile",
                 proto_codec_text(m->codec_id, m->profile, edge_codec),
                 proto_codec_text(codec_id, profile, cloud_codec));
        return PROTO_BAD_CODEC;
    }
    if (stage_numerics_kv(m->numerics_id) != i->kv_format) {
        snprintf(text, room, "KV cache mismatch: edge %s, cloud %s: give both the same --kv",
                 kv_format_name(stage_numerics_kv(m->numerics_id)), kv_format_name(i->kv_format));
        return PROTO_BAD_NUMERICS;
    }
    if (m->numerics_id != i->numerics_id) {
        snprintf(text, room, "numerics mismatch: edge %08x, cloud %08x: different arithmetic",
                 m->numerics_id, i->numerics_id);
        return PROTO_BAD_NUMERICS;
    }
    return 0;
}

/* What is wrong with the request itself, or forbids it for good. */
static enum proto_reason check_open(struct cloud *c, const struct proto_open *m, char *text,
                                    size_t room)
{
    const struct authorized_peer *peer = pump_peer(&c->pump);
    size_t bytes = stage_seq_bytes(c->p.stage, m->max_tokens);

    if (sampler_params_check(&m->sampler) || !m->max_tokens || !m->session ||
        find_any(c, m->session)) {
        snprintf(text, room, "bad request: sampler parameters, length or session number");
        return PROTO_BAD_REQUEST;
    }
    if (peer && peer->sessions_max && c->n_sessions >= peer->sessions_max) {
        snprintf(text, room, "%s may have %u sessions at once", peer->name, peer->sessions_max);
        return PROTO_NO_ROOM;
    }
    if (peer && peer->tokens_max && m->max_tokens > peer->tokens_max) {
        snprintf(text, room, "%s may have sessions of %u tokens, not %u", peer->name,
                 peer->tokens_max, m->max_tokens);
        return PROTO_NO_ROOM;
    }
    if (m->max_tokens > c->info->n_ctx) {
        snprintf(text, room, "the cloud has no room for a session of %u tokens: its context is %u",
                 m->max_tokens, c->info->n_ctx);
        return PROTO_NO_ROOM;
    }
    if (bytes > c->info->kv_budget_bytes) {
        snprintf(text, room,
                 "the cloud has no room for a session of %u tokens: it needs %zu bytes of cache, "
                 "its --kv-budget is %zu: a smaller --n-predict or a shorter prompt, or a larger "
                 "budget there",
                 m->max_tokens, bytes, c->info->kv_budget_bytes);
        return PROTO_NO_ROOM;
    }
    return 0;
}

static struct cloud_session *free_place(struct cloud *c)
{
    for (;;) {
        for (uint32_t i = 0; i < c->n_places; i++) {
            if (!c->sessions[i].id)
                return &c->sessions[i];
        }
        if (!evict(c))
            return NULL;
    }
}

/* A sequence, begun as asked for, or empty where that can't be: *n_like says. */
static int open_seq(struct cloud *c, const struct proto_open *m, uint32_t *n_like)
{
    struct cloud_session *like = find_any(c, m->like);
    int seq = -EINVAL;

    *n_like = 0;
    if (like && like->n_kv >= m->n_like) {
        like->used = ++c->uses;
        c->like = like;
        seq = prefix_open(c->p.stage, like->seq, m->n_like, m->max_tokens, evict, c);
        c->like = NULL;
    }
    if (seq < 0)
        return prefix_open(c->p.stage, -1, 0, m->max_tokens, evict, c);
    *n_like = m->n_like;
    return seq;
}

/* A place for the session, or why not. */
static enum proto_reason admit(struct cloud *c, const struct proto_open *m, uint32_t *n_like,
                               char *text, size_t room)
{
    enum proto_reason reason = check_open(c, m, text, room);
    struct cloud_session *s;
    int seq;

    if (reason)
        return reason;
    if (c->n_sessions >= c->p.max_sessions) {
        snprintf(text, room, "the cloud is busy with %u sessions, the most it takes",
                 c->n_sessions);
        return PROTO_BUSY;
    }
    seq = open_seq(c, m, n_like);
    if (seq < 0) {
        snprintf(text, room, "the cloud has no room for a session of %u tokens beside %u others",
                 m->max_tokens, c->n_sessions);
        return PROTO_BUSY;
    }
    s = free_place(c); /* there is one: max_sessions are not busy */
    *s = (struct cloud_session){.id = m->session,
                                .seq = seq,
                                .sampler = m->sampler,
                                .max_tokens = m->max_tokens,
                                .n_kv = *n_like};
    s->generated = malloc((size_t)m->max_tokens * sizeof s->generated[0]);
    c->n_sessions++;
    c->stats.shared += *n_like;
    if (!s->generated) {
        cloud_end_session(c, s);
        snprintf(text, room, "the cloud is out of memory");
        return PROTO_NO_ROOM;
    }
    return 0;
}

static void on_open(struct cloud *c, uint32_t number, const uint8_t *p, size_t len)
{
    uint8_t bytes[PROTO_SMALL_MAX];
    char text[PROTO_TEXT_MAX + 1];
    struct proto_open m;
    enum proto_reason reason = PROTO_BAD_REQUEST;
    uint32_t n_like = 0;
    size_t n;

    if (proto_read_open(p, len, &m)) {
        snprintf(text, sizeof text, "malformed OPEN");
    } else {
        reason = mismatch(c, &m, text, sizeof text);
        if (!reason)
            reason = admit(c, &m, &n_like, text, sizeof text);
    }
    if (reason) {
        c->stats.refused++;
        n = proto_write_text(bytes, PROTO_REFUSED, reason, text);
    } else {
        struct proto_opened opened = {
            .max_rows = c->message_rows,
            .max_fragments = pump_max_fragments(&c->pump),
            .n_like = n_like,
        };
        n = proto_write_opened(bytes, &opened);
    }
    pump_send(&c->pump, m.session, WIRE_CONTROL, number, bytes, n);
}

/* --- other messages --------------------------------------------------------------------------- */

static void on_close(struct cloud *c, const uint8_t *p, size_t len)
{
    struct cloud_session *s;
    bool linger;
    uint32_t id;

    if (proto_read_close(p, len, &id, &linger))
        return;
    s = find_any(c, id);
    if (!s)
        return;
    if (!linger || !s->n_kv)
        cloud_end_session(c, s);
    else if (!s->lingers)
        let_linger(c, s);
}

/* At once, though rows sent before may still wait: those that are sampled after come later. */
static void on_ids(struct cloud *c, const struct link_message *m, const uint8_t *p, size_t len)
{
    struct cloud_session *s = find(c, m->session);
    struct proto_ids ids;

    if (!s)
        return; /* as with rows, which follow and are answered */
    if (proto_read_ids(p, len, &ids) || ids.first != s->n_generated ||
        ids.n > s->max_tokens - s->n_generated) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "ids that don't continue the session's");
        return;
    }
    for (unsigned i = 0; i < ids.n; i++) {
        if ((uint32_t)ids.ids[i] >= c->info->n_vocab) {
            cloud_break_session(c, s, PROTO_BAD_ROWS, "an id outside the vocabulary");
            return;
        }
        s->generated[s->n_generated++] = ids.ids[i];
    }
}

/* Keeps the message until it is computed; true when it did. */
static bool on_rows(struct cloud *c, const struct link_message *m)
{
    struct cloud_session *s = find(c, m->session);
    uint8_t bytes[PROTO_SMALL_MAX];
    size_t n;

    if (!s) { /* closed or broken off meanwhile: an edge that knows ignores this */
        n = proto_write_text(bytes, PROTO_ERROR, PROTO_BAD_ROWS, "the cloud has no such session");
        pump_send(&c->pump, m->session, WIRE_CONTROL, -1, bytes, n);
        return false;
    }
    if (s->queue_count == CLOUD_QUEUE) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "more rows sent ahead than this cloud takes");
        return false;
    }
    s->queue[(s->queue_head + s->queue_count++) % CLOUD_QUEUE] = *m;
    c->held += m->n_fragments;
    return true;
}

static void on_message(struct cloud *c, struct link_message *m)
{
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    switch (proto_kind(p, len)) {
    case PROTO_OPEN:
        on_open(c, m->message, p, len);
        break;
    case PROTO_ROWS:
        if (on_rows(c, m))
            return;
        break;
    case PROTO_IDS:
        on_ids(c, m, p, len);
        break;
    case PROTO_CLOSE:
        on_close(c, p, len);
        break;
    default:
        break; /* of no kind we know: nothing to answer */
    }
    link_message_free(m);
}

/* --- loop ------------------------------------------------------------------------------------- */

static bool peer_lost(struct cloud *c)
{
    const char *port = c->p.port->caps.name;
    bool gone = port_alive(c->p.port) == -EPIPE; /* asked always: it then takes a new peer */

    if (c->pump.dead) {
        snprintf(c->error, sizeof c->error, "the edge is lost: %s (port %s)", c->pump.dead, port);
        return true;
    }
    if (gone && link_heard(c->pump.link)) {
        snprintf(c->error, sizeof c->error, "the edge is lost: its end of port %s is gone", port);
        return true;
    }
    return false;
}

int cloud_poll(struct cloud *c, uint64_t now_ns, uint64_t *deadline_ns)
{
    struct link_message m;
    bool worked;

    *deadline_ns = UINT64_MAX;
    link_set_idle(c->pump.link, !c->n_sessions);
    pump_in(&c->pump, now_ns);
    while (c->held < c->held_max && link_recv(c->pump.link, &m))
        on_message(c, &m);
    if (peer_lost(c)) {
        end_all(c);
        return -EPIPE;
    }
    worked = cloud_batch_step(c);
    pump_out(&c->pump);
    *deadline_ns = worked ? c->pump.now_ns : pump_deadline(&c->pump);
    return (int)c->n_sessions;
}

const char *cloud_error(const struct cloud *c)
{
    return c->error;
}

void cloud_stats(const struct cloud *c, struct cloud_stats *s)
{
    *s = c->stats;
    link_stats(c->pump.link, &s->link);
    s->sessions = c->n_sessions;
    for (uint32_t i = 0; i < c->n_places; i++)
        s->lingering += c->sessions[i].lingers;
}

uint64_t cloud_strangers(const struct cloud *c, struct fingerprint *last)
{
    return c->pump.handshake ? handshake_refused(c->pump.handshake, last) : 0;
}

void cloud_set_clock(struct cloud *c, uint64_t (*clock)(void *arg), void *arg)
{
    c->pump.clock = clock;
    c->pump.clock_arg = arg;
}
