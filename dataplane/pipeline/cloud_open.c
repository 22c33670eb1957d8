/* SPDX-License-Identifier: Apache-2.0 */
/* OPEN: whether the halves go together, and whether there is room for the session. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/pipeline/cloud_impl.h"
#include "dataplane/pipeline/fit.h"
#include "dataplane/pipeline/prefix.h"

/* The edge says in what format a session's keys and values are kept, at both halves. */
static enum kv_format kv_of(const struct proto_open *m)
{
    return stage_numerics_kv(m->numerics_id);
}

static size_t bytes_of(const struct cloud *c, const struct proto_open *m)
{
    return stage_seq_bytes_as(c->p.stage, kv_of(m), m->max_tokens);
}

/* Why the two halves don't go together, with both values; 0 when they do. */
static enum proto_reason mismatch(const struct cloud *c, const struct proto_open *m, char *text,
                                  size_t room)
{
    const struct stage_info *i = c->info;
    const struct proto_status serves = cloud_serves(c);
    enum proto_reason reason;

    if (m->version != PROTO_VERSION) {
        snprintf(text, room, "protocol mismatch: edge speaks version %u, cloud %u", m->version,
                 PROTO_VERSION);
        return PROTO_BAD_VERSION;
    }
    reason = fit_check(m, &serves, text, room);
    if (reason == PROTO_BAD_MODEL && i->is_half)
        fit_add_parent(text, room, "the cloud's", i->parent);
    if (reason)
        return reason;
    if (m->n_layers != i->n_layers || m->d_model != i->d_model || m->n_vocab != i->n_vocab) {
        snprintf(text, room,
                 "model mismatch: edge has %u layers of %u values and %u ids, cloud %u, %u, %u",
                 m->n_layers, m->d_model, m->n_vocab, i->n_layers, i->d_model, i->n_vocab);
        return PROTO_BAD_MODEL;
    }
    if (!stage_has_kv(i, kv_of(m))) {
        snprintf(text, room,
                 "KV cache mismatch: the edge's sessions have %s, which this cloud lacks",
                 kv_format_name(kv_of(m)));
        return PROTO_BAD_NUMERICS;
    }
    return 0;
}

/*
 * What the list of those admitted says of this edge. What its other links have - it was started
 * again, perhaps, and they are not known to be dead yet - only makes it wait.
 */
static enum proto_reason check_peer(struct cloud *c, struct cloud_edge *e,
                                    const struct proto_open *m, uint64_t bytes, char *text,
                                    size_t room)
{
    const struct authorized_peer *who = cloud_peer(c, e)->who;
    struct cloud_usage has = cloud_usage(c, e);

    if (!who)
        return 0;
    if (who->sessions_max && has.sessions >= who->sessions_max) {
        snprintf(text, room, "%s may have %u sessions at once", who->name, who->sessions_max);
        return e->n_sessions >= who->sessions_max ? PROTO_NO_ROOM : PROTO_BUSY;
    }
    if (who->tokens_max && m->max_tokens > who->tokens_max) {
        snprintf(text, room, "%s may have sessions of %u tokens, not %u", who->name,
                 who->tokens_max, m->max_tokens);
        return PROTO_NO_ROOM;
    }
    if (who->kv_max_bytes && bytes > who->kv_max_bytes) {
        snprintf(text, room,
                 "%s may have %" PRIu64 " bytes of cache, a session of %u tokens needs %" PRIu64,
                 who->name, who->kv_max_bytes, m->max_tokens, bytes);
        return PROTO_NO_ROOM;
    }
    if (who->kv_max_bytes && has.kv_bytes + bytes > who->kv_max_bytes) {
        snprintf(text, room,
                 "%s may have %" PRIu64 " bytes of cache: %" PRIu64 " are in use, a session of %u "
                 "tokens needs %" PRIu64,
                 who->name, who->kv_max_bytes, has.kv_bytes, m->max_tokens, bytes);
        return PROTO_BUSY;
    }
    return 0;
}

/* What is wrong with the request itself, or forbids it for good. */
static enum proto_reason check_open(struct cloud *c, struct cloud_edge *e,
                                    const struct proto_open *m, char *text, size_t room)
{
    enum proto_reason reason;
    size_t bytes = bytes_of(c, m);

    if (sampler_params_check(&m->sampler) || !m->max_tokens || !m->session ||
        m->n_top > c->info->n_vocab || cloud_find(c, e, m->session)) {
        snprintf(text, room, "bad request: sampler parameters, length or session number");
        return PROTO_BAD_REQUEST;
    }
    reason = check_peer(c, e, m, bytes, text, room);
    if (reason)
        return reason;
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

static bool evict(void *arg)
{
    return cloud_evict(arg, NULL);
}

static struct cloud_session *free_place(struct cloud *c)
{
    for (;;) {
        for (uint32_t i = 0; i < c->n_places; i++) {
            if (!c->sessions[i].id)
                return &c->sessions[i];
        }
        if (!cloud_evict(c, NULL))
            return NULL;
    }
}

/* A sequence, begun as asked for, or empty where that can't be: *n_like says. */
static int open_seq(struct cloud *c, const struct cloud_edge *e, const struct proto_open *m,
                    uint32_t *n_like)
{
    struct cloud_session *like = cloud_find(c, e, m->like);
    int seq = -EINVAL;

    *n_like = 0;
    if (like && like->n_kv >= m->n_like && like->kv == kv_of(m)) {
        like->used = ++c->uses;
        c->like = like;
        seq = prefix_open(c->p.stage, like->kv, like->seq, m->n_like, m->max_tokens, evict, c);
        c->like = NULL;
    }
    if (seq < 0)
        return prefix_open(c->p.stage, kv_of(m), -1, 0, m->max_tokens, evict, c);
    *n_like = m->n_like;
    return seq;
}

/* What lingers of this identity counts as its own, but nobody waits for it. */
static void keep_to_kv_max(struct cloud *c, const struct cloud_edge *e)
{
    const struct authorized_peer *who = cloud_peer(c, e)->who;

    if (!who || !who->kv_max_bytes)
        return;
    for (uint32_t i = 0; i < c->links.n_places; i++) {
        struct cloud_usage has = cloud_usage(c, e);

        if (c->links.peers[i].who != who)
            continue;
        while (has.kv_bytes + has.kv_lingering > who->kv_max_bytes && cloud_evict(c, &c->edges[i]))
            has = cloud_usage(c, e);
    }
}

/* Room for it now, or who has it. */
static enum proto_reason reserve(struct cloud *c, struct cloud_edge *e, const struct proto_open *m,
                                 int *seq, uint32_t *n_like, char *text, size_t room)
{
    if (c->draining) {
        snprintf(text, room, "the cloud is draining: it takes no new sessions");
        return PROTO_BUSY;
    }
    if (c->n_sessions >= c->p.max_sessions) {
        snprintf(text, room, "the cloud is busy with %u sessions, the most it takes",
                 c->n_sessions);
        return PROTO_BUSY;
    }
    if (c->n_sessions && c->full) {
        snprintf(text, room, "the cloud's memory is full: it takes no new sessions now");
        return PROTO_BUSY;
    }
    if (c->n_sessions && c->tokens_max && m->max_tokens > c->tokens_max) {
        snprintf(text, room,
                 "the cloud's memory is short: sessions have up to %u tokens now, not %u",
                 c->tokens_max, m->max_tokens);
        return PROTO_BUSY;
    }
    *seq = open_seq(c, e, m, n_like);
    if (*seq < 0) {
        snprintf(text, room, "the cloud has no room for a session of %u tokens beside %u others",
                 m->max_tokens, c->n_sessions);
        return PROTO_BUSY;
    }
    return 0;
}

/* A place for the session, or why not. */
static enum proto_reason admit(struct cloud *c, struct cloud_edge *e, const struct proto_open *m,
                               uint32_t *n_like, char *text, size_t room)
{
    enum proto_reason reason = check_open(c, e, m, text, room);
    struct cloud_session *s;
    int seq = -1;

    if (!reason)
        reason = reserve(c, e, m, &seq, n_like, text, room);
    if (reason)
        return reason;
    s = free_place(c); /* there is one: max_sessions are not busy */
    *s = (struct cloud_session){.id = m->session,
                                .edge = (uint32_t)(e - c->edges),
                                .seq = seq,
                                .kv = kv_of(m),
                                .sampler = m->sampler,
                                .n_top = m->n_top,
                                .edge_has_head = m->has_head,
                                .max_tokens = m->max_tokens,
                                .kv_bytes = bytes_of(c, m),
                                .n_kv = *n_like};
    find_put(&c->by_id, cloud_find_key(s->edge, s->id), (uint32_t)(s - c->sessions));
    if (!m->has_head)
        s->generated = malloc((size_t)m->max_tokens * sizeof s->generated[0]);
    c->n_sessions++;
    c->kv_bytes += s->kv_bytes;
    e->n_sessions++;
    e->kv_bytes += s->kv_bytes;
    c->version++;
    c->stats.shared += *n_like;
    if (!s->generated && !m->has_head) {
        cloud_end_session(c, s);
        snprintf(text, room, "the cloud is out of memory");
        return PROTO_NO_ROOM;
    }
    keep_to_kv_max(c, e);
    return 0;
}

void cloud_on_open(struct cloud *c, struct cloud_edge *e, uint32_t number, const uint8_t *p,
                   size_t len)
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
            reason = admit(c, e, &m, &n_like, text, sizeof text);
    }
    if (reason == PROTO_BUSY)
        links_contest(&c->links, cloud_peer(c, e)); /* who has what it wants may be gone */
    if (reason) {
        c->stats.refused++;
        n = proto_write_text(bytes, PROTO_REFUSED, reason, text);
    } else {
        struct proto_opened opened = {
            .max_rows = c->message_rows,
            .max_fragments = pump_max_fragments(&cloud_peer(c, e)->pump),
            .n_like = n_like,
        };
        n = proto_write_opened(bytes, &opened);
    }
    cloud_send(c, e, m.session, WIRE_CONTROL, number, bytes, n);
}
