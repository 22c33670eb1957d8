/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that begin alike, and those that wait for room.
 *
 * A session whose prompt begins as another's (prefix.h) takes the rows that they have in common
 * from it, here by a fork of its sequence, and asks the cloud to do the same. The other one may be
 * busy, or have ended and linger until its place is wanted. Only rows that the cloud has answered
 * count: OPEN may overtake rows. Where the other one is still computing what they have in common,
 * the new one WAITS for it. Rows must have been coded alike: those under a target are not; and
 * their caches must be of one format.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/edge_impl.h"
#include "dataplane/pipeline/prefix.h"

#define BUSY_RETRY_NS 100000000ull   /* between two OPENs of a session the cloud has no room for */
#define BUSY_MAX_NS   10000000000ull /* so long, while none of ours is there to make room */

/* --- those that linger ------------------------------------------------------------------------ */

static void forget(struct edge *e, struct edge_session *s)
{
    edge_send_close(e, s, false);
    edge_free_session(e, s);
}

bool edge_evict(void *arg)
{
    struct edge *e = arg;
    struct edge_session *oldest = NULL;

    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_LINGERING && s != e->like && (!oldest || s->used < oldest->used))
            oldest = s;
    }
    if (oldest)
        forget(e, oldest);
    return oldest;
}

void edge_evict_all(struct edge *e, const struct edge_uplink *at)
{
    e->like = NULL;
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_LINGERING && (!at || s->uplink == at))
            forget(e, s);
    }
}

bool edge_lingers(const struct edge *e, const struct edge_session *s, enum edge_finish finish)
{
    return !e->p.no_prefix && !e->lost && s->uplink && s->uplink->joined &&
           s->state == EDGE_RUNNING && s->plain && !s->reviving && s->confirmed >= PREFIX_MIN &&
           (finish == EDGE_LENGTH || finish == EDGE_STOP || finish == EDGE_CANCELLED);
}

/* --- whom to begin like ----------------------------------------------------------------------- */

static bool may_share(const struct edge *e, const struct edge_session *s)
{
    /* One that has ids already had its beginning, at a cloud that is gone. */
    return !e->p.no_prefix && s->plain && !s->alone && s->n_ids == s->r.n_prompt;
}

static bool may_be_like(const struct edge_session *o, enum kv_format kv)
{
    return o->state != EDGE_FREE && o->plain && o->kv == kv;
}

/* Among the sessions of an uplink. */
static struct prefix_search search(struct edge *e, const struct edge_session *s,
                                   const struct edge_uplink *at)
{
    struct prefix_search p = {.prompt = s->ids, .n_prompt = s->r.n_prompt};
    const enum kv_format kv = at ? edge_kv_at(s, at) : s->kv;

    if (!at || !may_share(e, s))
        return p;
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *o = &e->sessions[i];
        uint32_t there = o->reviving ? 0 : o->confirmed;

        if (o == s || !may_be_like(o, kv) || o->cancelled || o->uplink != at)
            continue;
        if (o->state == EDGE_LINGERING)
            prefix_consider(&p, o, o->ids, there, there, false);
        else /* one without a sequence may be waiting for the room that s has */
            prefix_consider(&p, o, o->ids, o->n_ids, there,
                            o->id < s->id && o->seq >= 0 && !o->give_up_ns);
    }
    return p;
}

/* At the other uplinks: what these were sent can be replayed to this one, and need not be computed.
 */
static struct prefix_search search_elsewhere(struct edge *e, const struct edge_session *s)
{
    struct prefix_search p = {.prompt = s->ids, .n_prompt = s->r.n_prompt};

    for (uint32_t i = 0; i < e->n_places && e->n_uplinks > 1 && may_share(e, s); i++) {
        struct edge_session *o = &e->sessions[i];

        if (o != s && may_be_like(o, s->kv) && o->uplink != s->uplink && !o->history.dropped)
            prefix_consider(&p, o, o->ids, o->confirmed, o->confirmed, false);
    }
    return p;
}

uint32_t edge_shared_at(struct edge *e, const struct edge_session *s, const struct edge_uplink *at)
{
    struct prefix_search p = search(e, s, at);

    return p.n_now > p.n_later ? p.n_now : p.n_later;
}

static int open_seq(struct edge *e, const struct edge_session *s, int like, uint32_t n)
{
    return prefix_open(e->p.stage, s->kv, like, n, s->r.n_prompt + s->r.n_predict, edge_evict, e);
}

/* s takes the first n rows of `like`, which is at its uplink. */
static void fork_here(struct edge *e, struct edge_session *s, struct edge_session *like, uint32_t n)
{
    s->seq = open_seq(e, s, like->seq, n);
    if (s->seq < 0)
        return;
    s->like = like->number;
    s->n_like = s->computed = s->sent = s->result.n_shared = n;
    edge_history_copy(e, s, like, n);
}

/* Or at another: its own cloud gets them as a replay. */
static void fork_elsewhere(struct edge *e, struct edge_session *s, struct edge_session *like,
                           uint32_t n)
{
    s->seq = open_seq(e, s, like->seq, n);
    if (s->seq < 0)
        return;
    edge_history_copy(e, s, like, n);
    if (s->history.dropped) {
        stage_seq_close(e->p.stage, s->seq);
        s->seq = -1;
        s->history.dropped = false;
        return;
    }
    s->computed = s->sent = s->result.n_shared = n;
    s->reviving = true;
}

/* An empty sequence for s. 0 or -errno: it has none. */
static int take_plain(struct edge *e, struct edge_session *s)
{
    s->seq = open_seq(e, s, -1, 0);
    return s->seq < 0 ? s->seq : 0;
}

/* Or one that begins as p has found. */
static int take(struct edge *e, struct edge_session *s, const struct prefix_search *p)
{
    struct prefix_search there = p->n_now ? *p : search_elsewhere(e, s);
    struct edge_session *like = there.now;

    s->seq = -1;
    if (like) {
        like->used = ++e->uses;
        e->like = like;
        if (p->n_now)
            fork_here(e, s, like, there.n_now);
        else
            fork_elsewhere(e, s, like, there.n_now);
        e->like = NULL;
    }
    return s->seq < 0 ? take_plain(e, s) : 0;
}

int edge_share_begin(struct edge *e, struct edge_session *s)
{
    struct edge_uplink *u = edge_choose(e, s);
    struct prefix_search p = search(e, s, u);
    bool wait = !u || prefix_waits(&p);
    int err;

    if (u)
        edge_place(e, s, u);
    err = wait ? take_plain(e, s) : take(e, s, &p);
    if (err)
        return err;
    s->state = wait ? EDGE_WAITING : EDGE_OPENING;
    e->any_waiting |= wait;
    if (!u)
        e->place_ns = e->now_ns;
    if (!wait)
        edge_send_open(e, s);
    return 0;
}

void edge_share_undo(struct edge *e, struct edge_session *s)
{
    for (uint32_t i = 0; i < e->n_places; i++) { /* the cloud gave it up */
        if (e->sessions[i].state == EDGE_LINGERING && e->sessions[i].number == s->like)
            forget(e, &e->sessions[i]);
    }
    s->alone = true;
    edge_history_free(e, s);
    s->history.dropped = false;
    s->like = s->n_like = s->computed = s->sent = s->result.n_shared = 0;
    if (!stage_seq_truncate(e->p.stage, s->seq, 0))
        return;
    /* What it shared is now to be its own, and there is no room for that: it waits for some. */
    edge_send_close(e, s, false);
    edge_share_wait(e, s);
}

void edge_share_wait(struct edge *e, struct edge_session *s)
{
    stage_seq_close(e->p.stage, s->seq);
    s->seq = -1;
    s->state = EDGE_WAITING;
    e->news = e->any_waiting = true;
}

/* --- those that wait -------------------------------------------------------------------------- */

static bool others_there(const struct edge *e, const struct edge_session *s)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (&e->sessions[i] != s && e->sessions[i].state == EDGE_RUNNING)
            return true;
    }
    return false;
}

/* Another cloud may have room. */
static bool go_elsewhere(struct edge *e, struct edge_session *s)
{
    struct edge_uplink *to = edge_choose(e, s);
    uint64_t give_up_ns = s->give_up_ns;

    if (!to || to == s->uplink || edge_uplink_full(to))
        return false;
    edge_leave(e, s, "the cloud has no room, and the session can't go on at another");
    if (!edge_is_busy(s))
        return true;
    s->give_up_ns = give_up_ns;
    edge_place(e, s, to);
    if (s->state == EDGE_OPENING)
        edge_send_open(e, s);
    return true;
}

bool edge_share_busy(struct edge *e, struct edge_session *s)
{
    uint64_t now_ns = e->now_ns;

    if (s->state != EDGE_OPENING)
        return false;
    s->uplink->full_until_ns = now_ns + BUSY_RETRY_NS;
    if (e->n_uplinks > 1 && go_elsewhere(e, s))
        return true;
    e->news |= !s->give_up_ns; /* who waits for its rows need not any more */
    if (!s->give_up_ns || others_there(e, s))
        s->give_up_ns = now_ns + BUSY_MAX_NS;
    if (now_ns >= s->give_up_ns)
        return false;
    if (edge_batch_unpick(e, s))
        return false;
    s->retry_ns = now_ns + BUSY_RETRY_NS;
    e->any_waiting = true;
    if (!e->busy_said)
        edge_say(e, "the cloud has no room for all answers at once: some wait for their turn");
    e->busy_said = true;
    return true;
}

/* Whether what it waits for is there, or will not be. */
static void go_on(struct edge *e, struct edge_session *s)
{
    struct prefix_search p = search(e, s, s->uplink);
    uint32_t busy = e->n_busy;
    int err;

    if (!s->uplink || !s->uplink->joined || prefix_waits(&p))
        return;
    if (s->seq >= 0) {
        if (!p.n_now && !search_elsewhere(e, s).n_now) {
            s->state = EDGE_OPENING;
            edge_send_open(e, s);
            return;
        }
        stage_seq_close(e->p.stage, s->seq); /* what it had reserved is enough */
        e->news = true;                      /* if it is not: nobody waits for s any more */
    }
    err = take(e, s, &p);
    if (err == -ENOSPC && busy > 1)
        return; /* others will end */
    if (err) {
        edge_end_session(e, s, EDGE_LOST, "the edge has no memory for the session's cache");
        return;
    }
    s->state = EDGE_OPENING;
    edge_send_open(e, s);
}

void edge_share_step(struct edge *e)
{
    const uint32_t n = e->any_waiting ? e->n_places : 0;
    const bool news = e->news;

    e->any_waiting = e->news = false;
    for (uint32_t i = 0; i < n; i++) {
        struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_WAITING && news)
            go_on(e, s);
        if (s->state == EDGE_OPENING && s->retry_ns && e->now_ns >= s->retry_ns) {
            s->retry_ns = 0;
            edge_send_open(e, s);
        }
        e->any_waiting |= s->state == EDGE_WAITING || s->retry_ns;
    }
}

uint64_t edge_share_deadline(const struct edge *e)
{
    const uint32_t n = e->any_waiting ? e->n_places : 0;
    uint64_t at = UINT64_MAX;

    for (uint32_t i = 0; i < n; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_OPENING && s->retry_ns && s->retry_ns < at)
            at = s->retry_ns;
        if (s->state == EDGE_WAITING && e->news)
            at = e->now_ns;
    }
    return at;
}
