/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stage run for what waits: the first message of each session, as far as mix.h lets them
 * together; edges take turns, and each one's sessions. Tiles are decoded from the packets into the
 * stage's input panel. Of a prompt's, or a replay's, message for which there is not enough room a
 * part goes, the rest with the next runs, before any other such message.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/cloud_impl.h"
#include "dataplane/pipeline/pick.h"

static enum mix_rank rank(enum wire_class cls)
{
    return cls == WIRE_DECODE ? MIX_DECODE : cls == WIRE_REPLAY ? MIX_REPLAY : MIX_PREFILL;
}

static void drop_first(struct cloud *c, struct cloud_session *s)
{
    struct link_message *m = &s->queue[s->queue_head];

    c->held -= m->n_packets;
    c->edges[s->edge].held -= m->n_packets;
    link_message_free(m);
    s->queue_head = (s->queue_head + 1) % CLOUD_QUEUE;
    s->queue_count--;
}

/* --- who is ready, and who decodes ------------------------------------------------------------ */

static void leave_ready(struct cloud *c, struct cloud_session *s)
{
    struct cloud_ready *r = &c->edges[s->edge].ready[s->ready_rank];

    if (!s->ready)
        return;
    *(s->before ? &s->before->after : &r->first) = s->after;
    *(s->after ? &s->after->before : &r->last) = s->before;
    s->before = s->after = NULL;
    s->ready = false;
}

static void join_ready(struct cloud *c, struct cloud_session *s, enum mix_rank rank_of_first)
{
    struct cloud_ready *r = &c->edges[s->edge].ready[rank_of_first];

    s->ready = true;
    s->ready_rank = rank_of_first;
    s->before = r->last;
    *(r->last ? &r->last->after : &r->first) = s;
    r->last = s;
}

/* Whether it gets ids one after the other: its next row is here, or to be expected soon. */
static bool decodes(const struct cloud *c, const struct cloud_session *s)
{
    const struct link_message *m = cloud_waiting(s);

    if (!s->id || s->lingers || !s->n_generated || s == c->cut.session)
        return false;
    return m ? rank(m->cls) == MIX_DECODE : !s->replays;
}

void cloud_note(struct cloud *c, struct cloud_session *s)
{
    const struct link_message *m = cloud_waiting(s);
    const bool is = decodes(c, s);

    c->n_decoding += is;
    c->n_decoding -= s->decodes;
    s->decodes = is;
    if (m && !s->ready && !s->in_batch && s != c->cut.session)
        join_ready(c, s, rank(m->cls));
}

void cloud_forget(struct cloud *c, struct cloud_session *s)
{
    leave_ready(c, s);
    c->n_decoding -= s->decodes;
    s->decodes = false;
}

/* --- rows out of packets ---------------------------------------------------------------------- */

/* Tiles must cover the rows one after the other without gap or overlap: what stood in the panel
 * before belongs to other sessions. */
static bool tile_follows(struct codec_cursor *at, uint32_t *height, const struct codec_tile *t,
                         uint32_t position, uint32_t n_cols)
{
    if (t->first_token - position != at->row || t->first_col != at->col)
        return false;
    if (at->col && t->n_tokens != *height)
        return false;
    *height = t->n_tokens;
    at->col += t->n_cols;
    if (at->col == n_cols) {
        at->row += t->n_tokens;
        at->col = 0;
    }
    return true;
}

static int decode_rows(struct cloud *c, const struct link_message *m, const struct proto_rows *head,
                       size_t tile_at, float *rows)
{
    uint32_t d = c->info->d_model, height = 0;
    struct codec_cursor at = {0, 0};

    for (uint16_t i = 0; i < m->n_fragments; i++) {
        struct codec_tile tile;
        size_t len;
        const uint8_t *p = link_message_payload(m, i, &len);
        size_t skip = i ? 0 : tile_at;

        if (codec_decode_later(c->codec, p + skip, len - skip, head->position, rows, d,
                               head->n_rows, &tile) ||
            !tile_follows(&at, &height, &tile, head->position, d)) {
            codec_decode_finish(c->codec);
            return -EBADMSG;
        }
    }
    if (codec_decode_finish(c->codec))
        return -EBADMSG;
    return at.row == head->n_rows && at.col == 0 ? 0 : -EBADMSG;
}

static uint64_t bytes_of(const struct link_message *m)
{
    uint64_t bytes = 0;
    size_t len;

    for (uint16_t i = 0; i < m->n_fragments; i++) {
        (void)link_message_payload(m, i, &len);
        bytes += len;
    }
    return bytes;
}

static const char *check_hidden(struct cloud *c, const struct cloud_session *s,
                                const struct proto_rows *head)
{
    const struct pump *pump = &cloud_peer(c, &c->edges[s->edge])->pump;
    const size_t values = (size_t)head->n_logits * c->info->d_model;

    if (head->n_drafts)
        return "guessed ids from an edge that has the head";
    /* So that what waits for an edge that takes nothing is bounded by its sessions; of those that
     * end it is dropped. */
    if (head->n_logits && pump_holds(pump, s->id))
        return "hidden states wanted before the last ones were sent";
    if (proto_hidden_packets(values, proto_hidden_part(pump_payload_sure(c->p.port))) >
        pump_max_fragments(pump))
        return "more hidden states wanted than go into a message";
    return NULL;
}

static const char *check_rows(struct cloud *c, const struct cloud_session *s,
                              const struct proto_rows *head)
{
    if (head->n_rows > c->info->max_rows || head->n_logits > c->max_logits)
        return "more rows in one message than this cloud takes";
    if (head->position > s->n_kv)
        return "rows beyond the position that the session has reached";
    if (head->position + head->n_rows > s->max_tokens)
        return "more rows than the session was opened for";
    if (s->edge_has_head)
        return check_hidden(c, s, head);
    if (head->n_logits > head->n_drafts + 1u || head->n_logits > s->max_tokens - s->n_generated)
        return "more ids wanted than the session was opened for";
    for (unsigned i = 0; i < head->n_drafts; i++) {
        if ((uint32_t)head->drafts[i] >= c->info->n_vocab)
            return "a guessed id outside the vocabulary";
    }
    return NULL;
}

/* --- what next -------------------------------------------------------------------------------- */

/* The edge has taken back the rows from here on. */
static bool forget_from(struct cloud *c, struct cloud_session *s, uint32_t position)
{
    if (stage_seq_truncate(c->p.stage, s->seq, position)) {
        cloud_break_session(c, s, PROTO_FAILED, "the stage can't take back rows");
        return false;
    }
    s->n_kv = position;
    return true;
}

/* Rows of a message, at the panel's end already, join the batch. */
static void add_item(struct cloud *c, struct cloud_item item, uint32_t done, uint32_t *n_logits)
{
    const uint32_t position = item.head.position + done, n = item.last ? item.head.n_logits : 0;

    c->batch[c->n_items] = (struct stage_rows){
        .seq = item.session->seq, .pos = position, .n = item.n_rows, .n_logits = n};
    c->items[c->n_items++] = item;
    item.session->in_batch = true;
    mix_add(&c->mix, rank(item.cls), position, item.n_rows);
    *n_logits += n;
}

/* The next part of the message that is computed in parts, as far as there is room. */
static void add_part(struct cloud *c, uint32_t *n_logits)
{
    struct cloud_cut *cut = &c->cut;
    const uint32_t d = c->info->d_model, done = cut->done, left = cut->head.n_rows - done;
    const uint32_t room = mix_room(&c->mix, rank(cut->cls), cut->head.position + done);
    struct cloud_item item = {
        .session = cut->session, .message = cut->message, .cls = cut->cls, .head = cut->head};

    item.n_rows = left <= room ? left : room;
    item.last = left == item.n_rows;
    if (room && !item.last && left - item.n_rows < item.head.n_logits) { /* these stay together */
        item.last = left <= item.head.n_logits;
        item.n_rows = item.last ? left : left - item.head.n_logits;
    }
    if (!item.n_rows || item.n_rows > mix_room(&c->mix, MIX_DECODE, 0) ||
        (item.last && *n_logits + item.head.n_logits > c->max_logits))
        return;
    memcpy(c->panel + (size_t)c->mix.n_rows * d, cut->rows + (size_t)done * d,
           (size_t)item.n_rows * d * sizeof cut->rows[0]);
    cut->done += item.n_rows;
    if (item.last)
        cut->session = NULL;
    add_item(c, item, done, n_logits);
}

/* Put the session's first message into the batch, or a part of it: false when there is no room
 * left. A message that makes no sense ends its session. */
static bool add(struct cloud *c, struct cloud_session *s, uint32_t *n_logits)
{
    const struct link_message *m = cloud_waiting(s);
    const enum mix_rank r = rank(m->cls);
    struct cloud_item item = {.session = s, .message = m->message, .cls = m->cls, .last = true};
    float *rows = c->panel + (size_t)c->mix.n_rows * c->info->d_model;
    uint32_t room;
    const char *error;
    size_t len, tile_at;
    const uint8_t *p = link_message_payload(m, 0, &len);

    if (proto_read_rows(p, len, &item.head, &tile_at)) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "malformed rows");
        return true;
    }
    error = check_rows(c, s, &item.head);
    if (error) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, error);
        return true;
    }
    item.n_rows = item.head.n_rows;
    room = mix_room(&c->mix, r, item.head.position);
    if (!room || (item.n_rows > room && (r == MIX_DECODE || c->cut.session)) ||
        *n_logits + item.head.n_logits > c->max_logits)
        return false;
    if (decode_rows(c, m, &item.head, tile_at, item.n_rows > room ? c->cut.rows : rows)) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "tiles that don't make up the rows");
        return true;
    }
    cloud_rate_take(c, &c->edges[s->edge], bytes_of(m), item.head.n_rows);
    s->replays = r == MIX_REPLAY;
    leave_ready(c, s);
    drop_first(c, s);
    if (item.head.position < s->n_kv && !forget_from(c, s, item.head.position))
        return true;
    if (item.n_rows <= room) {
        add_item(c, item, 0, n_logits);
        return true;
    }
    c->cut.session = s;
    c->cut.message = item.message;
    c->cut.cls = item.cls;
    c->cut.head = item.head;
    c->cut.done = 0;
    add_part(c, n_logits);
    return false;
}

/* A session of each edge, then another of each, and so on. */
static void gather_rank(struct cloud *c, enum mix_rank r, uint32_t *n_logits)
{
    const uint32_t n = c->links.n_used, turn = c->turn[r];
    bool any = n;

    while (any) {
        any = false;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t at = (turn + i) % n;
            struct cloud_edge *e = &c->edges[at];
            struct cloud_session *s = e->may_run ? e->ready[r].first : NULL;

            if (!s)
                continue;
            if (!add(c, s, n_logits)) { /* first next time, unless a part of it went */
                const bool went = c->cut.session == s;

                c->turn[r] = (at + went) % n;
                return;
            }
            any = true;
        }
    }
}

static bool has_ready(const struct cloud_edge *e)
{
    bool any = false;

    for (unsigned r = 0; r < MIX_RANKS; r++)
        any |= e->ready[r].first != NULL;
    return any;
}

static void gather(struct cloud *c)
{
    bool any[MIX_RANKS] = {false};
    uint32_t n_logits = 0;

    c->rate_at_ns = UINT64_MAX;
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        struct cloud_edge *e = &c->edges[i];

        e->may_run = has_ready(e) && cloud_rate_lets(c, e);
        for (unsigned r = 0; r < MIX_RANKS; r++)
            any[r] |= e->may_run && e->ready[r].first;
    }
    if (c->cut.session)
        any[rank(c->cut.cls)] = true;
    c->n_items = 0;
    mix_begin(&c->mix, any, c->n_decoding, c->n_sessions - c->n_decoding, c->info->max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++) {
        if (c->cut.session && !c->cut.session->in_batch && c->mix.order[i] != MIX_DECODE)
            add_part(c, &n_logits);
        gather_rank(c, c->mix.order[i], &n_logits);
    }
    mix_end(&c->mix);
    if (c->cut.session)
        cloud_note(c, c->cut.session);
}

/* --- answer ----------------------------------------------------------------------------------- */

/* Of rows of sessions whose edge has the head hidden states are wanted, not logits; each item gets
 * its first row of what comes. True: there are some. */
static bool want_hidden(struct cloud *c)
{
    uint32_t n_logits = 0, n_hidden = 0;

    for (uint32_t i = 0; i < c->n_items; i++) {
        struct cloud_item *item = &c->items[i];
        struct stage_rows *rows = &c->batch[i];

        if (item->session->edge_has_head) {
            rows->n_hidden = rows->n_logits;
            rows->n_logits = 0;
        }
        item->first_wanted = rows->n_hidden ? n_hidden : n_logits;
        n_logits += rows->n_logits;
        n_hidden += rows->n_hidden;
    }
    return n_hidden;
}

/* Of an edge that has the head one an answer: which guesses it accepts is not known here. */
static void count_tokens(struct cloud *c, const struct cloud_session *s, uint32_t n)
{
    c->stats.tokens += n;
    c->edges[s->edge].tokens += n;
}

/* As many ids as, with their alternatives, fit a packet. */
static int sample(struct cloud *c, const struct cloud_item *item, struct proto_tokens *out)
{
    struct cloud_session *s = item->session;
    const struct pump *pump = &cloud_peer(c, &c->edges[s->edge])->pump;
    const struct pick pick = {
        .sampler = c->sampler,
        .params = &s->sampler,
        .logits = c->logits + (size_t)item->first_wanted * c->info->n_vocab,
        .n_vocab = c->info->n_vocab,
        .n = item->head.n_logits,
        .drafts = item->head.drafts,
        .most = proto_tokens_that_fit(pump_payload(pump), s->n_top),
        .n_top = s->n_top,
        .position = item->head.position + item->head.n_rows - item->head.n_drafts,
        .generated = s->generated,
        .n_generated = s->n_generated,
    };
    const int err = pick_tokens(&pick, out);

    if (err)
        return err;
    s->n_generated += out->n;
    count_tokens(c, s, out->n);
    return 0;
}

/* All of its rows stay: the edge takes back those of guesses that it does not accept. */
static void answer_hidden(struct cloud *c, const struct cloud_item *item)
{
    struct cloud_session *s = item->session;
    const size_t values = (size_t)item->head.n_logits * c->info->d_model;
    const struct proto_hidden head = {.position = s->n_kv - item->head.n_logits + 1,
                                      .n = (uint8_t)item->head.n_logits};
    struct pump *pump = &cloud_peer(c, &c->edges[s->edge])->pump;
    uint8_t *to =
        pump_reserve(pump, s->id, item->cls, item->message, PROTO_HIDDEN_BYTES + 4 * values,
                     proto_hidden_part(pump_payload(pump)));

    s->n_generated = 1;
    count_tokens(c, s, 1);
    if (!to)
        return; /* that edge is lost */
    to += proto_write_hidden(to, &head);
    proto_put_values(to, c->panel + (size_t)item->first_wanted * c->info->d_model, values);
}

static void answer(struct cloud *c, const struct cloud_item *item)
{
    struct cloud_session *s = item->session;
    struct proto_tokens tokens;
    uint8_t bytes[PROTO_TOKENS_MAX];
    uint32_t kept;

    s->n_kv += item->n_rows;
    c->stats.rows += item->n_rows;
    c->edges[s->edge].rows += item->n_rows;
    if (!item->last)
        return;
    if (s->edge_has_head && item->head.n_logits) {
        answer_hidden(c, item);
        return;
    }
    if (sample(c, item, &tokens)) {
        cloud_break_session(c, s, PROTO_FAILED,
                            "the model's logits are not finite: its file is damaged");
        return;
    }
    kept = tokens.n ? tokens.position + tokens.n - 1u : s->n_kv;
    if (kept < s->n_kv && !forget_from(c, s, kept))
        return;
    cloud_send(c, &c->edges[s->edge], s->id, item->cls, item->message, bytes,
               proto_write_tokens(bytes, &tokens));
}

bool cloud_batch_step(struct cloud *c)
{
    char text[PROTO_TEXT_MAX];
    uint32_t n_sessions = c->n_sessions;
    uint64_t begin_ns;
    int err;

    gather(c);
    if (!c->n_items)
        return c->n_sessions != n_sessions; /* broken off: others may have their turn */
    begin_ns = links_now(&c->links);
    err = stage_run(c->p.stage, c->batch, c->n_items, NULL, c->panel,
                    want_hidden(c) ? c->panel : NULL, c->logits);
    mix_ran(&c->mix, links_now(&c->links) - begin_ns);
    for (uint32_t i = 0; i < c->n_items; i++) {
        struct cloud_session *s = c->items[i].session;

        s->in_batch = false;
        if (!err) {
            answer(c, &c->items[i]);
            cloud_note(c, s);
            continue;
        }
        snprintf(text, sizeof text, "the cloud's stage failed at position %u: error %d",
                 c->items[i].head.position, -err);
        cloud_break_session(c, s, PROTO_FAILED, text);
    }
    return true;
}
