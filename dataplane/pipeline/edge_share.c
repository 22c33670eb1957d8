/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that begin alike, and those that wait for room.
 *
 * A session whose prompt begins as another's (prefix.h) takes the rows that they have in common
 * from it, here by a fork of its sequence, and asks the cloud to do the same. The other one may be
 * busy, or have ended and linger until its place is wanted. Only rows that the cloud has answered
 * count: OPEN may overtake rows. Where the other one is still computing what they have in common,
 * the new one WAITS for it. Rows must have been coded alike: those under a target are not.
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
    uint8_t bytes[PROTO_CLOSE_BYTES];

    if (!e->lost && e->joined)
        pump_send(&e->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_close(bytes, s->id, false));
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

void edge_evict_all(struct edge *e)
{
    e->like = NULL;
    while (edge_evict(e))
        ;
}

bool edge_lingers(const struct edge *e, const struct edge_session *s, enum edge_finish finish)
{
    return !e->p.no_prefix && !e->lost && e->joined && s->state == EDGE_RUNNING && s->plain &&
           !s->reviving && s->confirmed >= PREFIX_MIN &&
           (finish == EDGE_LENGTH || finish == EDGE_STOP || finish == EDGE_CANCELLED);
}

/* --- whom to begin like ----------------------------------------------------------------------- */

static struct prefix_search search(struct edge *e, const struct edge_session *s)
{
    struct prefix_search p = {.prompt = s->ids, .n_prompt = s->r.n_prompt};

    /* One that has ids already had its beginning, at a cloud that is gone. */
    if (e->p.no_prefix || !s->plain || s->alone || s->n_ids > s->r.n_prompt)
        return p;
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *o = &e->sessions[i];
        uint32_t there = o->reviving ? 0 : o->confirmed;

        if (o == s || !o->plain || o->state == EDGE_FREE || o->cancelled)
            continue;
        if (o->state == EDGE_LINGERING)
            prefix_consider(&p, o, o->ids, there, there, false);
        else
            prefix_consider(&p, o, o->ids, o->n_ids, there, o->id < s->id && !o->give_up_ns);
    }
    return p;
}

/* s takes the first n rows of `like`, 0: none, and the sequence for them. 0 or -errno: s has none.
 */
static int take(struct edge *e, struct edge_session *s, struct edge_session *like, uint32_t n)
{
    const uint32_t max_tokens = s->r.n_prompt + s->r.n_predict;

    s->seq = -1;
    if (n) {
        like->used = ++e->uses;
        e->like = like;
        s->seq = prefix_open(e->p.stage, like->seq, n, max_tokens, edge_evict, e);
        if (s->seq >= 0) {
            s->like = like->id;
            s->n_like = s->computed = s->sent = s->result.n_shared = n;
            edge_history_copy(e, s, like, n);
        }
        e->like = NULL;
    }
    if (s->seq < 0)
        s->seq = prefix_open(e->p.stage, -1, 0, max_tokens, edge_evict, e);
    return s->seq < 0 ? s->seq : 0;
}

int edge_share_begin(struct edge *e, struct edge_session *s)
{
    struct prefix_search p = search(e, s);
    bool wait = prefix_waits(&p);
    int err = take(e, s, p.now, wait ? 0 : p.n_now);

    if (err)
        return err;
    s->state = wait ? EDGE_WAITING : EDGE_OPENING;
    if (!wait && e->joined)
        edge_send_open(e, s);
    return 0;
}

void edge_share_undo(struct edge *e, struct edge_session *s)
{
    uint8_t bytes[PROTO_CLOSE_BYTES];

    for (uint32_t i = 0; i < e->n_places; i++) { /* the cloud gave it up */
        if (e->sessions[i].state == EDGE_LINGERING && e->sessions[i].id == s->like)
            forget(e, &e->sessions[i]);
    }
    s->alone = true;
    edge_history_free(e, s);
    s->history.dropped = false;
    s->like = s->n_like = s->computed = s->sent = s->result.n_shared = 0;
    if (!stage_seq_truncate(e->p.stage, s->seq, 0))
        return;
    /* What it shared is now to be its own, and there is no room for that: it waits for some. */
    pump_send(&e->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_close(bytes, s->id, false));
    edge_share_wait(e, s);
}

void edge_share_wait(struct edge *e, struct edge_session *s)
{
    stage_seq_close(e->p.stage, s->seq);
    s->seq = -1;
    s->state = EDGE_WAITING;
    e->news = true;
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

bool edge_share_busy(struct edge *e, struct edge_session *s)
{
    uint64_t now_ns = e->pump.now_ns;

    if (s->state != EDGE_OPENING)
        return false;
    e->news |= !s->give_up_ns; /* who waits for its rows need not any more */
    if (!s->give_up_ns || others_there(e, s))
        s->give_up_ns = now_ns + BUSY_MAX_NS;
    if (now_ns >= s->give_up_ns)
        return false;
    if (edge_batch_unpick(e, s))
        return false;
    s->retry_ns = now_ns + BUSY_RETRY_NS;
    if (!e->busy_said && e->p.rejoin.say)
        e->p.rejoin.say(e->p.rejoin.arg,
                        "the cloud has no room for all answers at once: some wait for their turn");
    e->busy_said = true;
    return true;
}

/* Whether what it waits for is there, or will not be. */
static void go_on(struct edge *e, struct edge_session *s)
{
    struct prefix_search p = search(e, s);
    uint32_t busy = e->n_busy;
    int err;

    if (prefix_waits(&p))
        return;
    if (s->seq >= 0) {
        if (!p.n_now) {
            s->state = EDGE_OPENING;
            edge_send_open(e, s);
            return;
        }
        stage_seq_close(e->p.stage, s->seq); /* what it had reserved is enough */
    }
    err = take(e, s, p.now, p.n_now);
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
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_WAITING && e->news)
            go_on(e, s);
        if (s->state == EDGE_OPENING && s->retry_ns && e->pump.now_ns >= s->retry_ns) {
            s->retry_ns = 0;
            edge_send_open(e, s);
        }
    }
    e->news = false;
}

uint64_t edge_share_deadline(const struct edge *e)
{
    uint64_t at = UINT64_MAX;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_OPENING && s->retry_ns && s->retry_ns < at)
            at = s->retry_ns;
        if (s->state == EDGE_WAITING && e->news)
            at = e->pump.now_ns;
    }
    return at;
}
