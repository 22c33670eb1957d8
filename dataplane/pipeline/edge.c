/* SPDX-License-Identifier: Apache-2.0 */
/* The edge: sessions from request to result, and the cloud's messages. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dataplane/pipeline/edge_impl.h"

#define DEFAULT_CHUNK_TOKENS       64u
#define RETRY_NS                   1000000ull
#define DEFAULT_CONNECT_TIMEOUT_NS (10ull * 1000000000ull)

/* --- life ------------------------------------------------------------------------------------- */

/* Whether there is a curve for the target, of parameters that the codec takes. */
static bool target_fits(const struct edge_params *p, struct codec_rate_target target)
{
    struct codec_rate rate;

    if (codec_rate_init(&rate, p->curve, target))
        return false;
    for (uint32_t i = 0; i < p->curve->n; i++) {
        struct codec_params at = p->codec;

        rate.parameter = p->curve->points[i].parameter;
        codec_rate_apply(&rate, &at);
        if (codec_params_check(&at))
            return false;
    }
    return true;
}

static int check_params(const struct edge_params *p, const struct stage_info *info,
                        size_t tile_capacity, char *err)
{
    if (info->first_layer != 0 || info->end_layer >= info->n_layers) {
        snprintf(err, PIPELINE_ERR,
                 "the edge needs layers [0, split) with split < %u, not [%u, %u)", info->n_layers,
                 info->first_layer, info->end_layer);
        return -EINVAL;
    }
    if (codec_params_check(&p->codec)) {
        snprintf(err, PIPELINE_ERR, "codec parameters out of range");
        return -EINVAL;
    }
    if (p->target.kind && !target_fits(p, p->target)) {
        snprintf(err, PIPELINE_ERR, "the codec's mode has no curve to find the target on");
        return -EINVAL;
    }
    if (tile_capacity < codec_min_capacity(&p->codec, info->d_model)) {
        snprintf(err, PIPELINE_ERR,
                 "the port's MTU of %u bytes is too small for rows of %u values: raise it",
                 p->port->caps.mtu_bytes, info->d_model);
        return -EINVAL;
    }
    return 0;
}

static size_t tile_capacity(const struct port *port)
{
    size_t payload = wire_payload_max(port->caps.mtu_bytes);

    if (payload > port->pool->room - WIRE_OVERHEAD)
        payload = port->pool->room - WIRE_OVERHEAD;
    return proto_tile_capacity(payload);
}

static int allocate(struct edge *e)
{
    uint32_t n = e->p.max_sessions, rows = e->info->max_rows;

    e->sessions = calloc(n, sizeof e->sessions[0]);
    e->items = calloc(n, sizeof e->items[0]);
    e->batch = calloc(n, sizeof e->batch[0]);
    e->batch_ids = calloc(rows, sizeof e->batch_ids[0]);
    e->panel = malloc((size_t)rows * e->info->d_model * sizeof e->panel[0]);
    e->pkts = calloc(LINK_FRAGMENTS_MAX, sizeof e->pkts[0]);
    return e->sessions && e->items && e->batch && e->batch_ids && e->panel && e->pkts ? 0 : -ENOMEM;
}

static void destroy(struct edge *e)
{
    if (e->pump.link)
        pump_close(&e->pump);
    codec_close(e->codec);
    free(e->sessions);
    free(e->items);
    free(e->batch);
    free(e->batch_ids);
    free(e->panel);
    free(e->pkts);
    free(e);
}

int edge_open(const struct edge_params *p, uint64_t now_ns, struct edge **out, char *err)
{
    struct edge *e = calloc(1, sizeof *e);
    uint32_t connection = p->link.connection;
    int rc = -ENOMEM;

    if (!e)
        goto fail;
    e->p = *p;
    e->p.max_sessions = p->max_sessions ? p->max_sessions : 1;
    e->p.chunk_tokens = p->chunk_tokens ? p->chunk_tokens : DEFAULT_CHUNK_TOKENS;
    if (!p->connect_timeout_ns)
        e->p.connect_timeout_ns = DEFAULT_CONNECT_TIMEOUT_NS;
    if (!e->p.link.first_word_ns) /* we say it, and better */
        e->p.link.first_word_ns = 2 * e->p.connect_timeout_ns;
    e->info = stage_info(p->stage);
    e->tile_capacity = tile_capacity(p->port);
    rc = check_params(&e->p, e->info, e->tile_capacity, err);
    if (rc)
        goto fail_said;
    rc = codec_open(&p->codec, e->info->d_model, &e->codec);
    if (rc)
        goto fail;
    edge_packing(e);
    rc = allocate(e);
    if (rc)
        goto fail;
    while (!connection) {
        if (getrandom(&connection, sizeof connection, 0) != (ssize_t)sizeof connection)
            connection = 0;
    }
    rc = pump_open(&e->pump, p->port, &e->p.link, &p->security, &wire_path_edge, connection, now_ns);
    if (rc)
        goto fail;
    stage_set_poll(p->stage, pump_during_run, &e->pump);
    *out = e;
    return 0;

fail:
    snprintf(err, PIPELINE_ERR, "the edge can't start: %s", strerror(-rc));
fail_said:
    if (e)
        destroy(e);
    return rc;
}

void edge_close(struct edge *e)
{
    if (!e)
        return;
    e->lost = true; /* callbacks can't submit any more */
    for (uint32_t i = 0; i < e->p.max_sessions; i++) {
        if (e->sessions[i].state != EDGE_FREE)
            edge_end_session(e, &e->sessions[i], EDGE_CANCELLED, NULL);
    }
    link_shutdown(e->pump.link);
    pump_out(&e->pump);
    stage_set_poll(e->p.stage, NULL, NULL);
    destroy(e);
}

/* --- sessions --------------------------------------------------------------------------------- */

static struct edge_session *find(struct edge *e, int64_t id)
{
    for (uint32_t i = 0; i < e->p.max_sessions; i++) {
        if (e->sessions[i].state != EDGE_FREE && e->sessions[i].id == id)
            return &e->sessions[i];
    }
    return NULL;
}

void edge_end_session(struct edge *e, struct edge_session *s, enum edge_finish finish,
                      const char *error)
{
    struct edge_result result = s->result;
    struct edge_request r = s->r;
    uint8_t bytes[PROTO_CLOSE_BYTES];

    result.finish = finish;
    if (error)
        snprintf(result.error, sizeof result.error, "%s", error);
    if (finish != EDGE_REFUSED && !e->lost)
        pump_send(&e->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_close(bytes, s->id));
    stage_seq_close(e->p.stage, s->seq);
    free(s->ids);
    free(s->drafts);
    *s = (struct edge_session){.state = EDGE_FREE};
    e->n_busy--;
    if (r.on_done)
        r.on_done(r.arg, &result); /* last: it may submit again */
}

static int check_request(const struct edge *e, const struct edge_request *r)
{
    if (!r->n_prompt || !r->n_predict || sampler_params_check(&r->sampler) ||
        r->draft_len > PROTO_DRAFTS_MAX)
        return -EINVAL;
    if (r->target.kind && !target_fits(&e->p, r->target))
        return -EINVAL;
    if (r->n_prompt > e->info->n_ctx || r->n_predict > e->info->n_ctx - r->n_prompt)
        return -ERANGE;
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        if ((uint32_t)r->prompt_ids[i] >= e->info->n_vocab)
            return -EINVAL;
    }
    for (uint32_t i = 0; r->drafts && i < r->n_drafts; i++) {
        if ((uint32_t)r->drafts[i] >= e->info->n_vocab)
            return -EINVAL;
    }
    return 0;
}

static void send_open(struct edge *e, const struct edge_session *s)
{
    uint8_t bytes[PROTO_OPEN_BYTES];
    struct proto_open m = {
        .version = PROTO_VERSION,
        .session = s->id,
        .split = e->info->end_layer,
        .n_layers = e->info->n_layers,
        .d_model = e->info->d_model,
        .n_vocab = e->info->n_vocab,
        .codec_id = codec_params_id(&e->p.codec),
        .numerics_id = e->info->numerics_id,
        .max_tokens = s->r.n_prompt + s->r.n_predict,
        .sampler = s->r.sampler,
    };

    memcpy(m.fingerprint, e->info->fingerprint, sizeof m.fingerprint);
    codec_params_profile(&e->p.codec, m.profile);
    pump_send(&e->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_open(bytes, &m));
}

/* The target has been proved. */
static void set_target(const struct edge *e, struct edge_session *s,
                       struct codec_rate_target target)
{
    if (s->rate.target.kind && target.kind)
        codec_rate_retarget(&s->rate, target);
    else if (target.kind)
        codec_rate_init(&s->rate, e->p.curve, target);
    else
        s->rate = (struct codec_rate){.curve = NULL};
}

int64_t edge_submit(struct edge *e, const struct edge_request *r, uint64_t now_ns)
{
    struct edge_session *s = NULL;
    int err = check_request(e, r);
    bool drafts = r->drafts && r->n_drafts && r->draft_len;

    if (err)
        return err;
    if (e->lost)
        return -EPIPE;
    for (uint32_t i = 0; i < e->p.max_sessions && !s; i++) {
        if (e->sessions[i].state == EDGE_FREE)
            s = &e->sessions[i];
    }
    if (!s)
        return -EAGAIN;
    *s = (struct edge_session){.id = e->last_id + 1, .r = *r, .to_answer = -1};
    set_target(e, s, r->target.kind ? r->target : e->p.target);
    s->n_ids = r->n_prompt;
    s->ids = malloc(((size_t)r->n_prompt + r->n_predict) * sizeof s->ids[0]);
    s->drafts = drafts ? malloc(r->n_drafts * sizeof s->drafts[0]) : NULL;
    err = -ENOMEM;
    if (!s->ids || (drafts && !s->drafts))
        goto fail;
    memcpy(s->ids, r->prompt_ids, r->n_prompt * sizeof s->ids[0]);
    if (drafts)
        memcpy(s->drafts, r->drafts, r->n_drafts * sizeof s->drafts[0]);
    s->seq = stage_seq_open(e->p.stage, r->n_prompt + r->n_predict);
    if (s->seq < 0) {
        err = s->seq == -ENOSPC && e->n_busy ? -EAGAIN : s->seq;
        goto fail;
    }
    send_open(e, s);
    s->result.n_prompt = r->n_prompt;
    s->result.submitted_ns = now_ns;
    s->state = EDGE_OPENING;
    e->last_id = s->id;
    e->n_busy++;
    if (!e->connect_by_ns)
        e->connect_by_ns = now_ns + e->p.connect_timeout_ns;
    return s->id;

fail:
    free(s->ids);
    free(s->drafts);
    *s = (struct edge_session){.state = EDGE_FREE};
    return err;
}

int edge_cancel(struct edge *e, int64_t session)
{
    struct edge_session *s = find(e, session);

    if (!s)
        return -ENOENT;
    s->cancelled = true; /* edge_poll ends it: we may be in one of its callbacks */
    return 0;
}

int edge_retarget(struct edge *e, int64_t session, struct codec_rate_target target)
{
    struct edge_session *s = find(e, session);

    if (!s)
        return -ENOENT;
    if (target.kind && !target_fits(&e->p, target))
        return -EINVAL;
    set_target(e, s, target);
    return 0;
}

static void end_cancelled(struct edge *e)
{
    for (uint32_t i = 0; i < e->p.max_sessions; i++) {
        if (e->sessions[i].state != EDGE_FREE && e->sessions[i].cancelled)
            edge_end_session(e, &e->sessions[i], EDGE_CANCELLED, NULL);
    }
}

/* --- messages --------------------------------------------------------------------------------- */

static const char *on_opened(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len)
{
    struct proto_opened m;

    if (s->state != EDGE_OPENING || proto_read_opened(p, len, &m))
        return "the cloud sent a malformed OPENED";
    e->chunk_rows = edge_chunk_rows(e, m.max_rows, m.max_fragments);
    s->state = EDGE_RUNNING;
    return edge_batch_opened(e, s) ? "the edge's stage can't take back rows" : NULL;
}

static void on_text(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len)
{
    struct proto_text m = {0};
    bool refused = proto_kind(p, len) == PROTO_REFUSED;

    if (proto_read_text(p, len, &m))
        snprintf(m.text, sizeof m.text,
                 "the cloud broke the session off without a readable reason");
    edge_end_session(e, s, refused ? EDGE_REFUSED : EDGE_LOST, m.text);
}

/* One generated id: true when the session ended by it. */
static bool on_id(struct edge *e, struct edge_session *s, int32_t id, float logprob)
{
    s->ids[s->n_ids++] = id;
    s->result.last_token_ns = pump_now(&e->pump);
    if (!s->result.n_generated++)
        s->result.first_token_ns = s->result.last_token_ns;
    e->stats.tokens++;
    if (s->r.on_token)
        s->r.on_token(s->r.arg, id, logprob);
    if (s->cancelled)
        return true;
    if (s->r.is_stop && s->r.is_stop(s->r.arg, id)) {
        edge_end_session(e, s, EDGE_STOP, NULL);
        return true;
    }
    if (s->result.n_generated == s->r.n_predict) {
        edge_end_session(e, s, EDGE_LENGTH, NULL);
        return true;
    }
    return false;
}

static bool tokens_fit(const struct edge *e, const struct edge_session *s,
                       const struct proto_tokens *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        if ((uint32_t)m->ids[i] >= e->info->n_vocab)
            return false;
    }
    if (s->state != EDGE_RUNNING || !s->unanswered)
        return false;
    if (!m->n) /* a part of the prompt was taken: its last part is answered by an id */
        return m->position <= s->computed && (s->unanswered > 1 || s->computed < s->r.n_prompt);
    return s->unanswered == 1 && m->position == s->n_ids && s->computed >= s->n_ids &&
           m->n <= s->drafted + 1;
}

static const char *on_tokens(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len,
                             uint32_t number)
{
    struct proto_tokens m;
    uint32_t kept;

    if (proto_read_tokens(p, len, &m) || !tokens_fit(e, s, &m))
        return "the cloud sent tokens that don't fit what was asked";
    s->unanswered--;
    s->to_answer = number;
    if (!m.n)
        return NULL;
    /* Guesses that were not accepted leave the cache. */
    kept = m.position + m.n - 1;
    if (s->computed > kept) {
        if (stage_seq_truncate(e->p.stage, s->seq, kept))
            return "the edge's stage can't take back rejected guesses";
        s->computed = kept;
    }
    s->drafted = 0;
    for (unsigned i = 0; i < m.n; i++) {
        if (on_id(e, s, m.ids[i], m.logprobs[i]))
            break;
    }
    return NULL;
}

static void on_message(struct edge *e, const struct link_message *m)
{
    struct edge_session *s = find(e, m->session);
    const char *error = NULL;
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    if (!s || s->cancelled)
        return; /* it has ended here, and the cloud doesn't know yet */
    switch (proto_kind(p, len)) {
    case PROTO_OPENED:
        error = on_opened(e, s, p, len);
        break;
    case PROTO_TOKENS:
        error = on_tokens(e, s, p, len, m->message);
        break;
    case PROTO_REFUSED:
    case PROTO_ERROR:
        on_text(e, s, p, len);
        break;
    default:
        error = "the cloud sent a message of unknown kind";
        break;
    }
    if (error)
        edge_end_session(e, s, EDGE_LOST, error);
}

/* --- loop ------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void lose(struct edge *e, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(e->error, sizeof e->error, format, args);
    va_end(args);
    e->lost = true;
    for (uint32_t i = 0; i < e->p.max_sessions; i++) {
        if (e->sessions[i].state != EDGE_FREE)
            edge_end_session(e, &e->sessions[i], EDGE_LOST, e->error);
    }
}

static void check_peer(struct edge *e)
{
    const char *port = e->p.port->caps.name;

    if (pump_refused(&e->pump))
        lose(e, "no connection to the cloud: %s (port %s)", pump_refused(&e->pump), port);
    else if (e->pump.dead)
        lose(e, "the cloud is lost: %s (port %s)", e->pump.dead, port);
    else if (port_alive(e->p.port) == -EPIPE)
        lose(e, "the cloud is lost: its end of port %s is gone", port);
    else if (!link_heard(e->pump.link) && e->n_busy && e->pump.now_ns >= e->connect_by_ns)
        lose(e, "no cloud answered on port %s within %.1f s: is it running, %s?", port,
             (double)e->p.connect_timeout_ns * 1e-9,
             e->p.security.identity ? "and encrypted" : "and not encrypted either");
}

/* Rows are computed but not sent for lack of packets. */
static bool packets_short(const struct edge *e)
{
    return e->next_item < e->n_items && e->items[e->next_item].session->state != EDGE_OPENING;
}

static uint64_t next_deadline(const struct edge *e, bool worked)
{
    uint64_t at = pump_deadline(&e->pump);

    if (worked)
        return e->pump.now_ns;
    if (packets_short(e) && at > e->pump.now_ns + RETRY_NS)
        at = e->pump.now_ns + RETRY_NS;
    if (!link_heard(e->pump.link) && e->n_busy && e->connect_by_ns < at)
        at = e->connect_by_ns;
    return at;
}

int edge_poll(struct edge *e, uint64_t now_ns, uint64_t *deadline_ns)
{
    struct link_message m;
    bool worked;

    *deadline_ns = UINT64_MAX;
    if (e->lost)
        return -EPIPE;
    link_set_idle(e->pump.link, !e->n_busy);
    pump_in(&e->pump, now_ns);
    while (link_recv(e->pump.link, &m)) {
        on_message(e, &m);
        link_message_free(&m);
    }
    check_peer(e);
    if (e->lost)
        return -EPIPE;
    end_cancelled(e);
    worked = edge_batch_step(e);
    pump_out(&e->pump);
    *deadline_ns = next_deadline(e, worked);
    return (int)e->n_busy;
}

const char *edge_error(const struct edge *e)
{
    return e->error;
}

void edge_stats(const struct edge *e, struct edge_stats *s)
{
    *s = e->stats;
    link_stats(e->pump.link, &s->link);
    s->cipher = pump_cipher(&e->pump);
    s->sessions = e->n_busy;
}

void edge_set_clock(struct edge *e, uint64_t (*clock)(void *arg), void *arg)
{
    e->pump.clock = clock;
    e->pump.clock_arg = arg;
}
