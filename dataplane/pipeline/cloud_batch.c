/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stage run for what waits: the first message of each session, as far as mix.h lets them
 * together; edges take turns, and each one's sessions. Tiles are decoded from the packets into the
 * stage's input panel.
 */
#include <errno.h>
#include <stdio.h>

#include "dataplane/pipeline/cloud_impl.h"

static const struct link_message *waiting(const struct cloud_session *s)
{
    return s->id && s->queue_count ? &s->queue[s->queue_head] : NULL;
}

static enum mix_rank rank(const struct link_message *m)
{
    return m->cls == WIRE_DECODE ? MIX_DECODE : m->cls == WIRE_REPLAY ? MIX_REPLAY : MIX_PREFILL;
}

static void drop_first(struct cloud *c, struct cloud_session *s)
{
    struct link_message *m = &s->queue[s->queue_head];

    c->held -= m->n_fragments;
    c->edges[s->edge].held -= m->n_fragments;
    link_message_free(m);
    s->queue_head = (s->queue_head + 1) % CLOUD_QUEUE;
    s->queue_count--;
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

static const char *check_rows(const struct cloud *c, const struct cloud_session *s,
                              const struct proto_rows *head)
{
    if (head->n_rows > c->info->max_rows || head->n_logits > c->max_logits)
        return "more rows in one message than this cloud takes";
    if (head->position > s->n_kv)
        return "rows beyond the position that the session has reached";
    if (head->position + head->n_rows > s->max_tokens)
        return "more rows than the session was opened for";
    if (head->n_logits > s->max_tokens - s->n_generated)
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

/* Put the session's first message into the batch: false when there is no room left. A message that
 * makes no sense ends its session. */
static bool add(struct cloud *c, struct cloud_session *s, uint32_t *n_logits)
{
    const struct link_message *m = waiting(s);
    const enum mix_rank r = rank(m);
    const uint32_t first = c->mix.n_rows;
    struct cloud_item item = {
        .session = s, .message = m->message, .cls = m->cls, .first_logits = *n_logits};
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
    if (!mix_fits(&c->mix, r, item.head.n_rows) || *n_logits + item.head.n_logits > c->max_logits)
        return false;
    if (decode_rows(c, m, &item.head, tile_at, c->panel + (size_t)first * c->info->d_model)) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "tiles that don't make up the rows");
        return true;
    }
    cloud_rate_take(c, &c->edges[s->edge], bytes_of(m), item.head.n_rows);
    drop_first(c, s);
    if (item.head.position < s->n_kv && !forget_from(c, s, item.head.position))
        return true;
    c->batch[c->n_items] = (struct stage_rows){.seq = s->seq,
                                               .pos = item.head.position,
                                               .n = item.head.n_rows,
                                               .n_logits = item.head.n_logits};
    c->items[c->n_items++] = item;
    s->in_batch = true;
    mix_add(&c->mix, r, item.head.n_rows);
    *n_logits += item.head.n_logits;
    return true;
}

/* Whether it gets ids one after the other: its next row is here, or to be expected soon. */
static bool decodes(const struct cloud_session *s)
{
    const struct link_message *m = waiting(s);

    return s->id && !s->lingers && s->n_generated && (!m || rank(m) == MIX_DECODE);
}

/* The next session of the edge with something of this rank to compute, from `turn` on. */
static struct cloud_session *next_of(struct cloud *c, const struct cloud_edge *e, enum mix_rank r)
{
    for (uint32_t i = 0; i < c->n_places; i++) {
        struct cloud_session *s = &c->sessions[(e->turn[r] + i) % c->n_places];

        if (s->may_run && !s->in_batch && &c->edges[s->edge] == e && waiting(s) &&
            rank(waiting(s)) == r)
            return s;
    }
    return NULL;
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
            struct cloud_session *s = e->n_sessions ? next_of(c, e, r) : NULL;

            if (!s)
                continue;
            if (!add(c, s, n_logits)) { /* first next time */
                c->turn[r] = at;
                e->turn[r] = (uint32_t)(s - c->sessions);
                return;
            }
            any = true;
        }
    }
}

static void gather(struct cloud *c)
{
    bool any[MIX_RANKS] = {false}, decoding = false;
    uint32_t n_logits = 0;

    c->rate_at_ns = UINT64_MAX;
    for (uint32_t i = 0; i < c->n_places; i++) {
        struct cloud_session *s = &c->sessions[i];
        const struct link_message *m = waiting(s);

        s->in_batch = false;
        s->may_run = m && cloud_rate_lets(c, &c->edges[s->edge]);
        decoding |= decodes(s);
        if (s->may_run)
            any[rank(m)] = true;
    }
    c->n_items = 0;
    mix_begin(&c->mix, any, decoding, c->info->max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++)
        gather_rank(c, c->mix.order[i], &n_logits);
    mix_end(&c->mix);
}

/* --- answer ----------------------------------------------------------------------------------- */

/* Sample after the last row that was not guessed, and go on while the sample is what was guessed
 * and the answer, with its alternatives, still fits a packet. */
static int sample(struct cloud *c, const struct cloud_item *item, struct proto_tokens *out)
{
    struct cloud_session *s = item->session;
    const float *logits = c->logits + (size_t)item->first_logits * c->info->n_vocab;
    const uint32_t fit =
        proto_tokens_that_fit(wire_payload_max(c->p.port->caps.mtu_bytes), s->n_top);

    out->n = 0;
    out->n_top = item->head.n_logits ? s->n_top : 0;
    out->position = item->head.position + item->head.n_rows - item->head.n_drafts;
    while (out->n < item->head.n_logits && out->n < fit) {
        const unsigned i = out->n++;
        const float *x = logits + (size_t)i * c->info->n_vocab;

        out->ids[i] = sampler_pick(c->sampler, &s->sampler, x, s->generated, s->n_generated,
                                   out->position + i, &out->logprobs[i]);
        if (out->ids[i] < 0)
            return out->ids[i];
        (void)sampler_top_logprobs(c->sampler, x, out->top[i], out->n_top);
        s->generated[s->n_generated++] = out->ids[i];
        if (i == item->head.n_drafts || out->ids[i] != item->head.drafts[i])
            break;
    }
    c->stats.tokens += out->n;
    c->edges[s->edge].tokens += out->n;
    return 0;
}

static void answer(struct cloud *c, const struct cloud_item *item)
{
    struct cloud_session *s = item->session;
    struct proto_tokens tokens;
    uint8_t bytes[PROTO_TOKENS_MAX];
    uint32_t kept;

    s->n_kv += item->head.n_rows;
    c->stats.rows += item->head.n_rows;
    c->edges[s->edge].rows += item->head.n_rows;
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
    int err;

    gather(c);
    if (!c->n_items)
        return c->n_sessions != n_sessions; /* broken off: others may have their turn */
    err = stage_run(c->p.stage, c->batch, c->n_items, NULL, c->panel, NULL, c->logits);
    links_now(&c->links);
    for (uint32_t i = 0; i < c->n_items; i++) {
        if (!err) {
            answer(c, &c->items[i]);
            continue;
        }
        snprintf(text, sizeof text, "the cloud's stage failed at position %u: error %d",
                 c->items[i].head.position, -err);
        cloud_break_session(c, c->items[i].session, PROTO_FAILED, text);
    }
    return true;
}
