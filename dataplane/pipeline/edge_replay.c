/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's history, and its replay. Kept are the tiles as the codec wrote them, before they are
 * sealed: a cloud that gets the same tiles in the same order has the same cache, whatever messages
 * they come in. So single rows that were decoded one by one are replayed many to a message, and the
 * cloud computes them as it does a prompt.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link/bytes.h"
#include "dataplane/pipeline/edge_impl.h"

#define LENGTH_BYTES 2u
#define ROOM_MIN     4096u
#define POOL_LEFT    8u /* this part of the pool stays free for rows that are computed now */

/* --- keeping ---------------------------------------------------------------------------------- */

void edge_history_free(struct edge *e, struct edge_session *s)
{
    e->history_bytes -= s->history.room;
    free(s->history.bytes);
    s->history = (struct edge_history){.dropped = s->history.dropped};
}

static void drop(struct edge *e, struct edge_session *s)
{
    s->history.dropped = true;
    edge_history_free(e, s);
    if (!e->history_full)
        edge_say(e, "no more memory is allowed for histories: answers that find none are computed "
                    "again from their beginning if the cloud is lost");
    e->history_full = true;
}

/* What the budget has for this one. */
static size_t most_room(const struct edge *e, const struct edge_history *h)
{
    const size_t others = e->history_bytes - h->room;

    return e->p.rejoin.history_bytes > others ? e->p.rejoin.history_bytes - others : 0;
}

static bool set_room(struct edge *e, struct edge_history *h, size_t room)
{
    uint8_t *bytes = realloc(h->bytes, room);

    if (!bytes)
        return false;
    e->history_bytes = e->history_bytes - h->room + room;
    h->bytes = bytes;
    h->room = room;
    return true;
}

/* Room that others have ahead of what they keep. */
static void fit_others(struct edge *e, const struct edge_session *s)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_history *h = &e->sessions[i].history;

        if (&e->sessions[i] != s && h->n && h->room > h->n)
            set_room(e, h, h->n);
    }
}

/* Room for so many bytes more: twice as much as before, or what the budget still has. */
static bool make_room(struct edge *e, struct edge_session *s, size_t more)
{
    struct edge_history *h = &s->history;
    const size_t need = h->n + more;
    size_t room = h->room ? 2 * h->room : ROOM_MIN;

    if (need <= h->room)
        return true;
    while (need > most_room(e, h) && edge_evict(e)) {
        /* those that have ended need theirs less */
    }
    if (need > most_room(e, h))
        fit_others(e, s);
    room = room < need ? need : room;
    if (room > most_room(e, h))
        room = most_room(e, h);
    return room >= need && set_room(e, h, room);
}

void edge_history_keep(struct edge *e, struct edge_session *s, const struct proto_rows *head,
                       bool reply, int n, const uint16_t *payload_bytes)
{
    struct edge_history *h = &s->history;

    if (!e->p.rejoin.timeout_ns || h->dropped)
        return;
    h->last = h->n;
    h->last_position = head->position;
    h->last_rate = s->rate;
    for (int i = 0; i < n; i++) {
        size_t skip = i ? 0 : PROTO_ROWS_BYTES + 4u * head->n_drafts;
        size_t bytes = payload_bytes[i] - skip;
        const uint8_t *tile =
            e->pkts[i]->data + WIRE_PAYLOAD_AT + link_payload_offset(reply, (uint32_t)i) + skip;

        if (!make_room(e, s, LENGTH_BYTES + bytes)) {
            drop(e, s);
            return;
        }
        put_be16(h->bytes + h->n, (uint16_t)bytes);
        memcpy(h->bytes + h->n + LENGTH_BYTES, tile, bytes);
        h->n += LENGTH_BYTES + bytes;
        e->stats.kept_bytes += bytes;
    }
}

void edge_history_copy(struct edge *e, struct edge_session *s, const struct edge_session *from,
                       uint32_t n_rows)
{
    const uint32_t max_tokens = s->r.n_prompt + s->r.n_predict;
    const struct edge_history *h = &from->history;
    struct codec_tile t;
    size_t bytes;

    if (!e->p.rejoin.timeout_ns)
        return;
    s->history.dropped = h->dropped;
    /* All that begin below the last row: a later one takes back what an earlier one had too much.
     */
    for (size_t at = 0; at < h->n && !s->history.dropped; at += bytes) {
        bytes = LENGTH_BYTES + get_be16(h->bytes + at);
        if (codec_peek(h->bytes + at + LENGTH_BYTES, bytes - LENGTH_BYTES, e->info->d_model, &t) ||
            t.first_token >= n_rows)
            continue;
        if (t.first_token + t.n_tokens > max_tokens) { /* a cloud would not take that */
            s->history.dropped = true;
            edge_history_free(e, s);
        } else if (!make_room(e, s, bytes)) {
            drop(e, s);
        }
        if (s->history.dropped)
            break;
        memcpy(s->history.bytes + s->history.n, h->bytes + at, bytes);
        s->history.n += bytes;
    }
    s->history.last = s->history.n;
    s->history.last_position = n_rows;
    s->history.last_rate = s->rate;
}

void edge_history_unkeep(struct edge_session *s)
{
    if (!s->history.dropped)
        s->history.n = s->history.last;
}

/* --- going back ------------------------------------------------------------------------------- */

bool edge_rewind(struct edge *e, struct edge_session *s)
{
    s->like = s->n_like = 0; /* another cloud is told all of it */
    s->confirmed = 0;
    s->reviving = true;
    s->replaying = false;
    s->asked_ns = 0;
    s->retry_ns = s->give_up_ns = 0;
    if (s->state == EDGE_WAITING)
        return true;
    if (s->history.dropped) {
        if (edge_needs_history(s))
            return false;
        s->sent = s->result.n_shared = 0;
        s->prefill_end = s->n_ids;
    } else if (s->sent >= s->n_ids) { /* the last message brought no id: it is sent anew */
        s->sent = s->history.last_position;
        s->history.n = s->history.last;
        s->rate = s->history.last_rate;
    }
    s->state = EDGE_OPENING;
    if (s->computed > s->sent && stage_seq_truncate(e->p.stage, s->seq, s->sent)) {
        if (s->sent)
            return false;
        edge_share_wait(e, s); /* what it shared is to be its own: not now */
    }
    s->computed = s->sent;
    s->drafted = 0;
    s->unanswered = 0;
    s->wants_id = s->head_due = false;
    s->to_answer = -1;
    s->replayed = 0;
    return true;
}

/* --- replay ----------------------------------------------------------------------------------- */

/* The next tile of the history at `at`: its length. 0: none. */
static size_t tile_at(const struct edge *e, const struct edge_session *s, size_t at,
                      const uint8_t **bytes, struct codec_tile *tile)
{
    size_t n;

    if (at >= s->history.n)
        return 0;
    n = get_be16(s->history.bytes + at);
    *bytes = s->history.bytes + at + LENGTH_BYTES;
    return codec_peek(*bytes, n, e->info->d_model, tile) ? 0 : n;
}

/* Tiles that go together: those of the same rows. */
struct group {
    uint32_t position, n_rows;
    uint32_t n_tiles;
    size_t end; /* in the history */
};

static bool next_group(const struct edge *e, const struct edge_session *s, size_t at,
                       struct group *g)
{
    struct codec_tile t;
    const uint8_t *bytes;
    size_t n;

    *g = (struct group){.end = at};
    do {
        n = tile_at(e, s, g->end, &bytes, &t);
        if (!n)
            return false;
        g->position = t.first_token;
        g->n_rows = t.n_tokens;
        g->n_tiles++;
        g->end += LENGTH_BYTES + n;
    } while (t.first_col + t.n_cols < e->info->d_model);
    return true;
}

/* As many groups as follow one another and go into a message. False: the first does not. */
static bool next_message(const struct edge *e, const struct edge_session *s, struct group *m)
{
    const struct edge_uplink *u = s->uplink;
    uint32_t rows = edge_decoding(e, u) ? smaller(u->chunk_rows, MIX_BULK_ROWS) : u->chunk_rows;
    uint32_t fragments = smaller(u->cloud_fragments, rows * e->row_cuts);
    struct group g;

    if (!next_group(e, s, s->replayed, m))
        return false;
    while (next_group(e, s, m->end, &g) && g.position == m->position + m->n_rows &&
           m->n_rows + g.n_rows <= rows && m->n_tiles + g.n_tiles <= fragments) {
        m->n_rows += g.n_rows;
        m->n_tiles += g.n_tiles;
        m->end = g.end;
    }
    return m->n_rows <= u->cloud_rows && m->n_tiles <= u->cloud_fragments;
}

static void count_replayed(struct edge *e, struct edge_uplink *u, uint32_t rows, size_t bytes)
{
    e->stats.replayed_rows += rows;
    e->stats.replayed_bytes += bytes;
    u->replayed_rows += rows;
    u->replayed_bytes += bytes;
}

/* A tile may be of a path, or a port, that took longer packets. */
static struct pkt *packet_for(const struct edge_uplink *u, uint32_t fragment, size_t tile_bytes)
{
    const size_t frame_bytes = WIRE_OVERHEAD + link_payload_offset(false, fragment) +
                               (fragment ? 0 : PROTO_ROWS_BYTES) + tile_bytes;

    return frame_bytes <= u->port->pool->room ? pkt_alloc(u->port->pool)
                                              : pkt_lone((uint32_t)frame_bytes);
}

/* 0, or the link's error. */
static int send_message(struct edge *e, struct edge_session *s, const struct group *m)
{
    const struct proto_rows head = {.position = m->position, .n_rows = (uint16_t)m->n_rows};
    struct edge_uplink *u = s->uplink;
    uint16_t payload_bytes[LINK_FRAGMENTS_MAX];
    uint16_t n = 0;
    int64_t number;

    for (size_t at = s->replayed; at < m->end; n++) {
        size_t head_bytes = 0, bytes = get_be16(s->history.bytes + at);
        struct pkt *p = packet_for(u, n, bytes);
        uint8_t *to;

        if (!p) {
            while (n)
                pkt_unref(e->pkts[--n]);
            return -EAGAIN;
        }
        e->pkts[n] = p;
        to = p->data + WIRE_PAYLOAD_AT + link_payload_offset(false, n);
        if (!n)
            head_bytes = proto_write_rows(to, &head);
        memcpy(to + head_bytes, s->history.bytes + at + LENGTH_BYTES, bytes);
        payload_bytes[n] = (uint16_t)(head_bytes + bytes);
        at += LENGTH_BYTES + bytes;
    }
    number = link_send(u->pump.link, s->number, WIRE_REPLAY, -1, e->pkts, payload_bytes, n);
    if (number < 0)
        return (int)number;
    s->unanswered++;
    s->wants_id = false;
    count_replayed(e, u, m->n_rows, m->end - s->replayed - LENGTH_BYTES * m->n_tiles);
    s->replayed = m->end;
    s->replaying = m->end < s->history.n;
    return 0;
}

/* True when a message was sent. */
static bool replay_one(struct edge *e, struct edge_session *s)
{
    struct edge_uplink *u = s->uplink;
    const uint32_t spare = u->port->pool->n_total / POOL_LEFT;
    char why[PIPELINE_ERR];
    struct group m;
    int rc;

    if (!next_message(e, s, &m)) {
        snprintf(why, sizeof why,
                 "the session can't go on at this cloud: it takes %u rows and %u packets at once, "
                 "and was sent more before",
                 u->cloud_rows, u->cloud_fragments);
        edge_end_session(e, s, EDGE_LOST, why);
        return false;
    }
    if (!pump_can_alloc(&u->pump, m.n_tiles + spare)) {
        u->packets_short = true;
        return false;
    }
    rc = send_message(e, s, &m);
    if (rc == -EPIPE) {
        pump_link_ended(&u->pump);
    } else if (rc && rc != -EAGAIN && rc != -ENOBUFS) {
        snprintf(why, sizeof why, "the link refused a message of %u packets: error %d", m.n_tiles,
                 -rc);
        edge_end_session(e, s, EDGE_LOST, why);
    }
    return !rc;
}

/* The ids that it was given, for the sampler: where that is the cloud's. */
static void send_ids(struct edge *e, struct edge_session *s)
{
    if (e->info->has_head)
        return;

    uint32_t n = s->result.n_generated, first = s->n_ids - n;
    uint32_t most = smaller(PROTO_IDS_MAX, (uint32_t)e->tile_capacity / 4);
    uint8_t bytes[PROTO_IDS_BYTES + 4 * PROTO_IDS_MAX];

    for (uint32_t i = 0; i < n; i += most) {
        uint16_t part = (uint16_t)smaller(most, n - i);

        pump_send(&s->uplink->pump, s->number, WIRE_REPLAY, -1, bytes,
                  proto_write_ids(bytes, i, s->ids + first + i, part));
    }
}

void edge_replay_begin(struct edge *e, struct edge_session *s)
{
    s->replayed = 0;
    s->replay_begun = false;
    s->replaying = s->history.n > 0;
    if (!s->replaying)
        send_ids(e, s);
}

/* Whether it is the session's turn: a cloud is told of a few at once. */
static bool has_turn(struct edge *e, struct edge_session *s)
{
    uint32_t others = 0;

    if (s->replay_begun)
        return true;
    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *o = &e->sessions[i];

        others +=
            o->state == EDGE_RUNNING && o->uplink == s->uplink && o->replaying && o->replay_begun;
    }
    if (others >= EDGE_REPLAYS)
        return false;
    s->replay_begun = true;
    send_ids(e, s);
    return true;
}

bool edge_replay_step(struct edge *e)
{
    bool sent = false;

    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        while (s->state == EDGE_RUNNING && s->replaying && s->unanswered < EDGE_CHUNKS_AHEAD &&
               has_turn(e, s) && replay_one(e, s))
            sent = true;
    }
    return sent;
}
