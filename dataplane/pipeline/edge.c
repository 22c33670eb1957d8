/* SPDX-License-Identifier: Apache-2.0 */
/* The edge: sessions from request to result, and its loop. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int check_params(const struct edge_params *p, const struct stage_info *info, char *err)
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
    if (!p->port && !p->rejoin.timeout_ns) {
        snprintf(err, PIPELINE_ERR, "an edge without a port needs histories for its uplinks");
        return -EINVAL;
    }
    return 0;
}

int edge_pack_for(struct edge *e, const struct port *port, char *err)
{
    size_t capacity = proto_tile_capacity(pump_payload_sure(port));

    if (e->tile_capacity)
        return 0;
    if (capacity < codec_min_capacity(&e->p.codec, e->info->d_model)) {
        snprintf(err, PIPELINE_ERR,
                 "the port's MTU of %u bytes is too small for rows of %u values: raise it",
                 port->caps.mtu_bytes, e->info->d_model);
        return -EINVAL;
    }
    e->tile_capacity = capacity;
    edge_packing(e);
    return 0;
}

static int allocate(struct edge *e)
{
    uint32_t n = e->p.max_sessions, rows = e->info->max_rows;

    e->n_places = n > e->info->max_seqs ? n : e->info->max_seqs;
    e->sessions = calloc(e->n_places, sizeof e->sessions[0]);
    if (find_open(&e->by_number, e->n_places))
        return -ENOMEM;
    e->items = calloc(n, sizeof e->items[0]);
    e->batch = calloc(n, sizeof e->batch[0]);
    e->batch_ids = calloc(rows, sizeof e->batch_ids[0]);
    e->panel = malloc((size_t)rows * e->info->d_model * sizeof e->panel[0]);
    e->pkts = calloc(LINK_FRAGMENTS_MAX, sizeof e->pkts[0]);
    return e->sessions && e->items && e->batch && e->batch_ids && e->panel && e->pkts ? 0 : -ENOMEM;
}

static void destroy(struct edge *e)
{
    while (e->n_uplinks)
        edge_uplink_free(edge_next_uplink(e, 0));
    codec_close(e->codec);
    edge_head_close(e);
    find_close(&e->by_number);
    free(e->sessions);
    free(e->items);
    free(e->batch);
    free(e->batch_ids);
    free(e->panel);
    free(e->pkts);
    free(e);
}

/* Links live on during stage runs. */
static void during_run(void *arg)
{
    struct edge *e = arg;

    if (!e->clock)
        return;
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->joined)
            pump_during_run(&u->pump);
    }
}

static int open_first_uplink(struct edge *e, uint64_t now_ns, char *err)
{
    const struct edge_uplink_params p = {
        .name = e->p.name,
        .port = e->p.port,
        .security = e->p.security,
        .next_port = e->p.rejoin.next_port,
        .arg = e->p.rejoin.arg,
    };
    struct edge_uplink *u;
    int rc = edge_pack_for(e, e->p.port, err);

    if (rc)
        return rc;
    u = edge_uplink_new(e, &p);
    if (!u)
        return -ENOMEM;
    u->goes_on = e->p.rejoin.several;
    return edge_join(u, now_ns);
}

int edge_open(const struct edge_params *p, uint64_t now_ns, struct edge **out, char *err)
{
    struct edge *e = calloc(1, sizeof *e);
    int rc = -ENOMEM;

    err[0] = 0;
    if (!e)
        goto fail;
    e->p = *p;
    e->p.max_sessions = p->max_sessions ? p->max_sessions : 1;
    e->p.chunk_tokens = p->chunk_tokens ? p->chunk_tokens : DEFAULT_CHUNK_TOKENS;
    e->max_chunk_tokens = e->p.chunk_tokens;
    if (!p->connect_timeout_ns)
        e->p.connect_timeout_ns = DEFAULT_CONNECT_TIMEOUT_NS;
    if (!e->p.link.first_word_ns) /* we say it, and better */
        e->p.link.first_word_ns = 2 * e->p.connect_timeout_ns;
    e->info = stage_info(p->stage);
    e->now_ns = now_ns;
    rc = check_params(&e->p, e->info, err);
    if (!rc)
        rc = codec_open(&p->codec, e->info->d_model, &e->codec);
    if (!rc)
        rc = allocate(e);
    if (!rc)
        rc = edge_head_open(e);
    if (!rc && p->port)
        rc = open_first_uplink(e, now_ns, err);
    if (rc)
        goto fail;
    stage_set_poll(p->stage, during_run, e);
    *out = e;
    return 0;

fail:
    if (!err[0])
        snprintf(err, PIPELINE_ERR, "the edge can't start: %s", strerror(-rc));
    if (e)
        destroy(e);
    return rc;
}

void edge_close(struct edge *e)
{
    if (!e)
        return;
    e->lost = true; /* callbacks can't submit any more */
    edge_evict_all(e, NULL);
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (edge_is_busy(&e->sessions[i]))
            edge_end_session(e, &e->sessions[i], EDGE_CANCELLED, NULL);
    }
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->joined) {
            link_shutdown(u->pump.link);
            pump_out(&u->pump);
        }
    }
    stage_set_poll(e->p.stage, NULL, NULL);
    destroy(e);
}

uint64_t edge_now(struct edge *e)
{
    uint64_t now_ns = e->clock ? e->clock(e->clock_arg) : 0;

    if (now_ns > e->now_ns)
        e->now_ns = now_ns;
    return e->now_ns;
}

void edge_say(struct edge *e, const char *format, ...)
{
    char line[PIPELINE_ERR + 128];
    va_list args;

    if (!e->p.rejoin.say)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    e->p.rejoin.say(e->p.rejoin.arg, line);
}

/* --- sessions --------------------------------------------------------------------------------- */

static struct edge_session *find(struct edge *e, int64_t id)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (edge_is_busy(&e->sessions[i]) && e->sessions[i].id == id)
            return &e->sessions[i];
    }
    return NULL;
}

void edge_free_session(struct edge *e, struct edge_session *s)
{
    if (s->seq >= 0)
        stage_seq_close(e->p.stage, s->seq);
    edge_history_free(e, s);
    if (s->number)
        find_drop(&e->by_number, s->number, (uint32_t)(s - e->sessions));
    free(s->ids);
    free(s->drafts);
    *s = (struct edge_session){.state = EDGE_FREE};
}

void edge_end_session(struct edge *e, struct edge_session *s, enum edge_finish finish,
                      const char *error)
{
    bool linger = edge_lingers(e, s, finish);
    struct edge_result result = s->result;
    struct edge_request r = s->r;

    result.finish = finish;
    if (error)
        snprintf(result.error, sizeof result.error, "%s", error);
    if (finish != EDGE_REFUSED)
        edge_send_close(e, s, linger);
    if (s->uplink)
        s->uplink->n_sessions--;
    if (linger) {
        s->state = EDGE_LINGERING;
        s->used = ++e->uses;
    } else {
        edge_free_session(e, s);
    }
    e->news = true;
    e->n_busy--;
    if (r.on_done)
        r.on_done(r.arg, &result); /* last: it may submit again */
}

static int check_request(const struct edge *e, const struct edge_request *r)
{
    if (!r->n_prompt || !r->n_predict || r->n_top > SAMPLER_TOP_MAX ||
        sampler_params_check(&r->sampler) || r->draft_len > PROTO_DRAFTS_MAX)
        return -EINVAL;
    if (r->target.kind && !target_fits(&e->p, r->target))
        return -EINVAL;
    if (!stage_has_kv(e->info, edge_request_kv(r, e->info)))
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

void edge_send_close(struct edge *e, const struct edge_session *s, bool linger)
{
    uint8_t bytes[PROTO_CLOSE_BYTES];

    if (!e->lost && s->uplink && s->uplink->joined)
        pump_send(&s->uplink->pump, 0, WIRE_CONTROL, -1, bytes,
                  proto_write_close(bytes, s->number, linger));
}

void edge_send_open(struct edge *e, const struct edge_session *s)
{
    uint8_t bytes[PROTO_OPEN_BYTES];
    struct proto_open m = edge_needs(e);

    if (!s->uplink || !s->uplink->joined)
        return;
    /* Where the head is here, what is sampled by is nobody else's business. */
    m.n_top = (uint8_t)(m.has_head ? 0 : s->r.n_top);
    m.sampler = m.has_head ? sampler_params_default() : s->r.sampler;
    m.session = s->number;
    m.numerics_id = stage_numerics_with(m.numerics_id, s->kv);
    m.max_tokens = s->r.n_prompt + s->r.n_predict;
    m.like = s->like;
    m.n_like = s->n_like;
    pump_send(&s->uplink->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_open(bytes, &m));
}

/* The target has been proved. */
static void set_target(const struct edge *e, struct edge_session *s,
                       struct codec_rate_target target)
{
    s->plain = s->plain && !target.kind;
    s->moved |=
        s->sent && (target.kind != s->rate.target.kind || target.value != s->rate.target.value);
    if (s->rate.target.kind && target.kind)
        codec_rate_retarget(&s->rate, target);
    else if (target.kind)
        codec_rate_init(&s->rate, e->p.curve, target);
    else
        s->rate = (struct codec_rate){.curve = NULL};
}

static struct edge_session *free_place(struct edge *e)
{
    for (;;) {
        for (uint32_t i = 0; i < e->n_places; i++) {
            if (e->sessions[i].state == EDGE_FREE)
                return &e->sessions[i];
        }
        if (!edge_evict(e))
            return NULL;
    }
}

int64_t edge_submit(struct edge *e, const struct edge_request *r, uint64_t now_ns)
{
    const enum kv_format kv = edge_request_kv(r, e->info);
    struct edge_session *s = NULL;
    int err = check_request(e, r);
    bool drafts = r->drafts && r->n_drafts && r->draft_len;

    if (err)
        return err;
    if (e->lost)
        return -EPIPE;
    if (now_ns > e->now_ns)
        e->now_ns = now_ns;
    if (stage_seq_bytes_as(e->p.stage, kv, r->n_prompt + r->n_predict) > e->info->kv_budget_bytes)
        return -ENOSPC;
    s = e->n_busy < e->p.max_sessions ? free_place(e) : NULL;
    if (!s)
        return -EAGAIN;
    *s = (struct edge_session){.id = e->last_id + 1,
                               .seq = -1,
                               .kv = kv,
                               .r = *r,
                               .prefill_end = r->n_prompt,
                               .to_answer = -1,
                               .plain = true};
    set_target(e, s, r->target.kind ? r->target : e->p.target);
    s->n_ids = r->n_prompt;
    s->r.n_top = smaller(r->n_top, e->info->n_vocab);
    s->ids = malloc(((size_t)r->n_prompt + r->n_predict) * sizeof s->ids[0]);
    s->drafts = drafts ? malloc(r->n_drafts * sizeof s->drafts[0]) : NULL;
    err = -ENOMEM;
    if (!s->ids || (drafts && !s->drafts))
        goto fail;
    memcpy(s->ids, r->prompt_ids, r->n_prompt * sizeof s->ids[0]);
    if (drafts)
        memcpy(s->drafts, r->drafts, r->n_drafts * sizeof s->drafts[0]);
    err = edge_share_begin(e, s);
    if (err) {
        err = err == -ENOSPC && e->n_busy ? -EAGAIN : err;
        goto fail;
    }
    s->result.n_prompt = r->n_prompt;
    s->result.kv = s->kv;
    s->result.submitted_ns = now_ns;
    e->last_id = s->id;
    if (!e->n_busy++) {
        e->connect_by_ns = 0;
        if (!edge_any_met(e))
            edge_await(e);
    }
    return s->id;

fail:
    edge_unplace(s);
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
    s->cancelled = e->any_cancelled = true; /* edge_poll ends it: we may be in a callback of it */
    return 0;
}

int edge_retarget(struct edge *e, int64_t session, struct codec_rate_target target)
{
    struct edge_session *s = find(e, session);

    if (!s)
        return -ENOENT;
    if (target.kind && !target_fits(&e->p, target))
        return -EINVAL;
    s->r.target = target; /* its own from now on */
    set_target(e, s, target);
    return 0;
}

int edge_set_target(struct edge *e, struct codec_rate_target target)
{
    if (target.kind && !target_fits(&e->p, target))
        return -EINVAL;
    e->p.target = target;
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (edge_is_busy(s) && !s->r.target.kind)
            set_target(e, s, target);
    }
    return 0;
}

void edge_set_rows(struct edge *e, uint32_t chunk_tokens, uint32_t bulk_rows)
{
    e->mix.max_bulk = bulk_rows;
    e->p.chunk_tokens = smaller(chunk_tokens, e->max_chunk_tokens);
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->cloud_rows)
            u->chunk_rows = edge_chunk_rows(u, u->cloud_rows, u->cloud_fragments);
    }
}

int edge_progress(const struct edge *e, int64_t session, struct edge_result *r, float *parameter)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (!edge_is_busy(s) || s->id != session)
            continue;
        *r = s->result;
        *parameter = s->rate.target.kind ? s->rate.parameter : 0;
        return 0;
    }
    return -ENOENT;
}

static void end_cancelled(struct edge *e)
{
    if (!e->any_cancelled)
        return;
    e->any_cancelled = false;
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (edge_is_busy(&e->sessions[i]) && e->sessions[i].cancelled)
            edge_end_session(e, &e->sessions[i], EDGE_CANCELLED, NULL);
    }
}

/* --- loop ------------------------------------------------------------------------------------- */

void edge_lose(struct edge *e, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(e->error, sizeof e->error, format, args);
    va_end(args);
    e->lost = !e->p.rejoin.endless;
    e->connect_by_ns = 0;
    edge_evict_all(e, NULL);
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (edge_is_busy(&e->sessions[i]))
            edge_end_session(e, &e->sessions[i], EDGE_LOST, e->error);
    }
}

static uint64_t uplink_deadline(const struct edge *e, const struct edge_uplink *u)
{
    uint64_t at = edge_join_deadline(u), pump_at = u->joined ? pump_deadline(&u->pump) : at;

    at = pump_at < at ? pump_at : at;
    if (u->joined && u->packets_short && at > e->now_ns + RETRY_NS)
        at = e->now_ns + RETRY_NS;
    return at;
}

static uint64_t next_deadline(const struct edge *e, bool worked)
{
    uint64_t at = edge_share_deadline(e);

    if (worked)
        return e->now_ns;
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        uint64_t then = uplink_deadline(e, u);

        at = then < at ? then : at;
    }
    if (e->place_ns && e->place_ns < at)
        at = e->place_ns;
    return e->n_busy && e->connect_by_ns && e->connect_by_ns < at && !edge_any_met(e)
               ? e->connect_by_ns
               : at;
}

static void poll_uplink(struct edge_uplink *u)
{
    struct link_message m;

    if (!u->joined) {
        edge_poll_apart(u);
        return;
    }
    link_set_idle(u->pump.link, !u->n_sessions);
    pump_in(&u->pump, u->edge->now_ns);
    (void)edge_now(u->edge);
    while (link_recv(u->pump.link, &m)) {
        edge_on_message(u, &m);
        link_message_free(&m);
    }
    edge_check_peer(u);
}

int edge_poll(struct edge *e, uint64_t now_ns, uint64_t *deadline_ns)
{
    bool worked;

    *deadline_ns = UINT64_MAX;
    if (e->lost)
        return -EPIPE;
    if (now_ns > e->now_ns)
        e->now_ns = now_ns;
    edge_check_wait(e);
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u && !e->lost;
         u = edge_next_uplink(e, u->index + 1))
        poll_uplink(u);
    if (!e->lost)
        edge_head_step(e);
    if (e->lost)
        return -EPIPE;
    end_cancelled(e);
    if (e->told)
        e->told(e->told_arg);
    edge_place_step(e);
    edge_share_step(e);
    worked = edge_batch_step(e);
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->joined)
            pump_out(&u->pump);
    }
    *deadline_ns = next_deadline(e, worked);
    return (int)e->n_busy;
}

const char *edge_error(const struct edge *e)
{
    return e->error;
}

/* Who keeps still is there all the same: the handshake was answered or, before the first was heard,
 * the port knows. */
static bool is_there(const struct edge_uplink *u)
{
    const struct keys *keys = u->pump.params.keys;

    if (u->met || !u->joined)
        return u->met;
    return (keys && keys_ready(keys)) || (!u->ever_met && u->port->caps.tells_loss);
}

/* Of the cache, what busy sessions may take: no more than all their tokens, nor than what is
 * reserved but for sessions that have ended. */
static uint64_t kv_busy_bytes(const struct edge *e)
{
    uint64_t bytes = 0, reserved = e->info->kv_reserved_bytes;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *o = &e->sessions[i];

        if (edge_is_busy(o) && o->seq >= 0)
            bytes += stage_seq_bytes_as(e->p.stage, o->kv, o->r.n_prompt + o->r.n_predict);
        else if (o->state == EDGE_LINGERING && o->seq >= 0)
            reserved -= stage_seq_own_bytes(e->p.stage, o->seq);
    }
    return bytes < reserved ? bytes : reserved;
}

bool edge_make_room(struct edge *e)
{
    return edge_evict(e);
}

void edge_stats(const struct edge *e, struct edge_stats *s)
{
    const struct edge_uplink *first = edge_next_uplink(e, 0);
    struct link_stats past = e->past, now;

    *s = e->stats;
    s->driver_copies = first != NULL;
    if (first && first->joined)
        link_stats(first->pump.link, &s->link);
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        s->uplinks++;
        s->uplinks_joined += u->met;
        s->connected |= is_there(u);
        s->driver_copies &= u->port && u->port->caps.driver_copies;
        if (!u->joined)
            continue;
        s->port_copied_bytes += u->port->stats.copied_bytes - u->port_copied_before;
        if (u == first)
            continue;
        link_stats(u->pump.link, &now);
        link_stats_add(&past, &now);
    }
    link_stats_add(&s->link, &past);
    s->copied_bytes = s->link.copied_bytes[WIRE_DECODE] + s->link.copied_bytes[WIRE_PREFILL];
    s->cipher = pipeline_cipher(first ? &first->security : &e->p.security);
    s->port = first ? first->port_name : "none";
    s->history_bytes = e->history_bytes;
    s->kv_busy_bytes = kv_busy_bytes(e);
    s->sessions = e->n_busy;
    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *o = &e->sessions[i];

        s->lingering += o->state == EDGE_LINGERING;
        s->history_busy_bytes += edge_is_busy(o) ? o->history.n : 0;
        s->reading += o->state == EDGE_RUNNING && o->computed < o->prefill_end;
        s->decoding += o->state == EDGE_RUNNING && o->computed >= o->prefill_end;
    }
}

void edge_set_clock(struct edge *e, uint64_t (*clock)(void *arg), void *arg)
{
    e->clock = clock;
    e->clock_arg = arg;
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        u->pump.clock = clock;
        u->pump.clock_arg = arg;
    }
}

void edge_on_told(struct edge *e, void (*told)(void *arg), void *arg)
{
    e->told = told;
    e->told_arg = arg;
}
