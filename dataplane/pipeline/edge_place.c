/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which session is at which cloud. A session stays where it was placed until that cloud is lost,
 * drains or has no room; then it goes on at another by its history (edge_replay.c), a few sessions
 * at a time, so that a cloud which takes over many is not kept from its own.
 */
#include <stdio.h>

#include "dataplane/pipeline/edge_impl.h"
#include "dataplane/pipeline/prefix.h"

#define PLACE_RETRY_NS 100000000u

/* --- where to --------------------------------------------------------------------------------- */

bool edge_uplink_full(const struct edge_uplink *u)
{
    return u->edge->now_ns < u->full_until_ns || (u->has_status && !u->status.sessions_free);
}

static uint64_t rtt_of(const struct edge_uplink *u)
{
    struct link_stats s;

    link_stats(u->pump.link, &s);
    return s.rtt_p50_ns;
}

static bool lighter(const struct edge_uplink_view *a, const struct edge_uplink_view *b)
{
    if (a->full != b->full)
        return b->full;
    if (a->sessions != b->sessions)
        return a->sessions < b->sessions;
    return a->rtt_ns && a->rtt_ns < b->rtt_ns;
}

/* The one with the fewest sessions; or one that has the beginning, where that is no great burden.
 */
static int place_default(const struct edge_uplink_view *views, uint32_t n)
{
    uint32_t best = 0, like = 0;

    for (uint32_t i = 1; i < n; i++) {
        if (lighter(&views[i], &views[best]))
            best = i;
        if (views[i].shared > views[like].shared)
            like = i;
    }
    if (views[like].shared >= PREFIX_MIN && !views[like].full &&
        views[like].sessions <= 2 * views[best].sessions + 4)
        best = like;
    return (int)best;
}

enum kv_format edge_kv_asked(const struct edge_uplink *u)
{
    const struct edge *e = u->edge;
    enum kv_format f = u->has_status ? u->status.kv_asked : KV_F16;

    if (f > e->p.kv_most)
        f = e->p.kv_most;
    while (f > KV_F16 && !stage_has_kv(e->info, f))
        f--;
    return f;
}

enum kv_format edge_kv_at(const struct edge_session *s, const struct edge_uplink *u)
{
    const enum kv_format asked = s->kv_settled ? s->kv : edge_kv_asked(u);

    return asked > s->kv ? asked : s->kv;
}

uint64_t edge_free_tokens(const struct edge_uplink *u, enum kv_format kv)
{
    const struct edge *e = u->edge;
    const enum kv_format counted = stage_numerics_kv(u->status.numerics_id);

    if (!u->has_status || counted == kv || counted >= KV_FORMATS)
        return u->status.tokens_free;
    /* Its layers' keys and values are as ours are, only more or fewer. */
    return u->status.tokens_free * (uint64_t)stage_seq_bytes_as(e->p.stage, counted, KV_PAGE) /
           stage_seq_bytes_as(e->p.stage, kv, KV_PAGE);
}

struct edge_uplink *edge_choose(struct edge *e, struct edge_session *s)
{
    struct edge_uplink_view views[EDGE_UPLINKS_MAX];
    uint32_t n = 0;
    int k;

    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (!edge_uplink_open(u))
            continue;
        if (e->n_uplinks == 1)
            return u;
        views[n++] = (struct edge_uplink_view){
            .index = u->index,
            .name = edge_uplink_title(u),
            .sessions = u->n_sessions,
            .shared = edge_shared_at(e, s, u),
            .rtt_ns = rtt_of(u),
            .full = edge_uplink_full(u),
            .has_status = u->has_status,
            .free_sessions = u->status.sessions_free,
            .free_tokens = edge_free_tokens(u, edge_kv_at(s, u)),
        };
    }
    if (!n)
        return NULL;
    k = e->p.place ? e->p.place(e->p.place_arg, views, n, s->id) : place_default(views, n);
    return k >= 0 && (uint32_t)k < n ? e->uplinks[views[k].index] : NULL;
}

/* --- to and fro ------------------------------------------------------------------------------- */

static void settle_kv(struct edge *e, struct edge_session *s, const struct edge_uplink *u)
{
    const enum kv_format kv = edge_kv_at(s, u);

    if (s->kv != kv && s->seq >= 0) { /* it had no cloud yet, and so no rows: it gets another */
        stage_seq_close(e->p.stage, s->seq);
        s->seq = -1;
    }
    s->kv = s->result.kv = kv;
    s->kv_settled = true;
}

void edge_place(struct edge *e, struct edge_session *s, struct edge_uplink *u)
{
    settle_kv(e, s, u);
    s->uplink = u;
    s->nowhere_ns = 0;
    s->number = ++e->last_number;
    find_put(&e->by_number, s->number, (uint32_t)(s - e->sessions));
    u->n_sessions++;
    if (s->last_uplink && s->last_uplink != u) {
        u->moved++;
        e->stats.moved++;
    }
    s->last_uplink = u;
}

void edge_unplace(struct edge_session *s)
{
    if (s->uplink) {
        struct edge *e = s->uplink->edge;

        find_drop(&e->by_number, s->number, (uint32_t)(s - e->sessions));
        s->uplink->n_sessions--;
    }
    s->uplink = NULL;
    s->number = 0;
}

void edge_leave(struct edge *e, struct edge_session *s, const char *why)
{
    edge_send_close(e, s, false);
    edge_unplace(s);
    e->news = true;
    if (!edge_rewind(e, s))
        edge_end_session(e, s, EDGE_LOST, why);
}

/* --- in time ---------------------------------------------------------------------------------- */

/* Clouds are there, but none takes it: not for ever. Where none is there edge_join.c says how long. */
static void wait_for_one(struct edge *e, struct edge_session *s)
{
    const uint64_t timeout_ns = e->p.rejoin.timeout_ns;
    const uint64_t patience_ns = timeout_ns > EDGE_STATUS_NS ? timeout_ns : EDGE_STATUS_NS;
    char why[PIPELINE_ERR];

    if (!edge_any_met(e)) {
        s->nowhere_ns = 0;
        return;
    }
    if (!s->nowhere_ns)
        s->nowhere_ns = e->now_ns;
    if (e->now_ns - s->nowhere_ns < patience_ns)
        return;
    snprintf(why, sizeof why,
             "no cloud takes the session: for %.3g s all that are there have drained or don't fit",
             (double)patience_ns * 1e-9);
    edge_end_session(e, s, EDGE_LOST, why);
}

static void place_those_nowhere(struct edge *e)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];
        struct edge_uplink *u;

        if (!edge_is_busy(s) || s->uplink)
            continue;
        u = edge_choose(e, s);
        if (!u) {
            wait_for_one(e, s);
            continue;
        }
        edge_place(e, s, u);
        if (s->state == EDGE_OPENING)
            edge_send_open(e, s);
        e->news = true;
    }
}

/* One that drains; or that was the only one, and is not there. */
static bool to_be_left(const struct edge_uplink *u)
{
    return u && (u->draining || !u->met || (u->has_status && u->status.draining));
}

/* Whether nothing of it is under way. */
static bool may_leave(const struct edge_session *s)
{
    if (s->history.dropped && edge_needs_history(s))
        return false; /* it could not go on */
    return s->state != EDGE_RUNNING || !s->unanswered;
}

/* Sessions that an uplink has yet to be told of. */
static uint32_t newcomers(const struct edge *e, const struct edge_uplink *u)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        n += s->uplink == u && s->reviving && s->state >= EDGE_OPENING;
    }
    return n;
}

static bool takes_more(const struct edge *e, const struct edge_uplink *u)
{
    return edge_uplink_open(u) && !edge_uplink_full(u) && newcomers(e, u) < EDGE_REPLAYS;
}

static bool any_takes_more(const struct edge *e)
{
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (takes_more(e, u))
            return true;
    }
    return false;
}

static void move_those_that_drain(struct edge *e)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];
        struct edge_uplink *to;

        if (!edge_is_busy(s) || !to_be_left(s->uplink) || !may_leave(s) || !any_takes_more(e))
            continue;
        to = edge_choose(e, s);
        if (!to || !takes_more(e, to))
            continue;
        edge_leave(e, s, "the cloud drains, and the session can't go on at another");
        if (!edge_is_busy(s))
            continue;
        edge_place(e, s, to);
        if (s->state == EDGE_OPENING)
            edge_send_open(e, s);
    }
}

void edge_place_step(struct edge *e)
{
    bool nowhere = false;

    if (!e->news && (!e->place_ns || e->now_ns < e->place_ns))
        return;
    place_those_nowhere(e);
    if (e->n_uplinks > 1)
        move_those_that_drain(e);
    for (uint32_t i = 0; i < e->n_places; i++)
        nowhere |= edge_is_busy(&e->sessions[i]) && !e->sessions[i].uplink;
    e->place_ns = nowhere ? e->now_ns + PLACE_RETRY_NS : 0;
}
