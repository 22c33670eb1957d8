/* SPDX-License-Identifier: Apache-2.0 */
/* What clouds say to an edge: OPENED, REFUSED, TOKENS, ERROR, STATUS; HIDDEN: edge_head.c. */
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/edge_impl.h"
#include "dataplane/pipeline/fit.h"

/* By the number that it has at the uplink. */
static struct edge_session *find_at(const struct edge_uplink *u, uint32_t number)
{
    struct edge *e = u->edge;

    uint32_t i = find_first(&e->by_number, number);

    while (i != FIND_NONE && e->sessions[i].number != number)
        i = e->by_number.next[i];
    return i != FIND_NONE && edge_is_busy(&e->sessions[i]) && e->sessions[i].uplink == u
               ? &e->sessions[i]
               : NULL;
}

static const char *on_opened(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len)
{
    struct edge_uplink *u = s->uplink;
    struct proto_opened m;

    if (s->state != EDGE_OPENING || proto_read_opened(p, len, &m))
        return "the cloud sent a malformed OPENED";
    u->chunk_rows = edge_chunk_rows(u, m.max_rows, m.max_fragments);
    u->cloud_rows = m.max_rows;
    u->cloud_fragments = smaller(m.max_fragments, pump_max_fragments(&u->pump));
    u->hidden_rows = edge_head_rows(u);
    if (m.n_like && m.n_like != s->n_like)
        return "the cloud began the session with other rows than it was asked to";
    s->state = EDGE_RUNNING;
    s->retry_ns = s->give_up_ns = 0;
    if (m.n_like) {
        e->stats.shared_rows += m.n_like;
        s->confirmed = m.n_like;
        s->reviving = false;
        s->replayed = s->history.n; /* it has what these bring */
        e->news = true;
        return NULL;
    }
    if (s->n_like)
        edge_share_undo(e, s);
    if (s->state != EDGE_RUNNING)
        return NULL;
    edge_replay_begin(e, s);
    s->reviving = s->replaying;
    return edge_batch_opened(e, s) ? "the edge's stage can't take back rows" : NULL;
}

/* A cloud of another kind than the others: none of its sessions has to end for that. */
static bool goes_elsewhere(struct edge *e, struct edge_session *s, const struct proto_text *m)
{
    struct edge_uplink *u = s->uplink;

    if (s->state != EDGE_OPENING ||
        ((m->reason < PROTO_BAD_VERSION || m->reason > PROTO_BAD_NUMERICS) &&
         m->reason != PROTO_BAD_HEAD))
        return false;
    if (!edge_uplink_leave_out(u, m->text))
        return false;
    edge_leave(e, s, m->text);
    return true;
}

static void on_text(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len)
{
    struct proto_text m = {0};
    bool refused = proto_kind(p, len) == PROTO_REFUSED;
    char why[PIPELINE_ERR];

    if (proto_read_text(p, len, &m))
        snprintf(m.text, sizeof m.text,
                 "the cloud broke the session off without a readable reason");
    const bool other_pair = refused && m.reason == PROTO_BAD_MODEL && e->info->is_half;
    if (other_pair) /* the cloud knows its own */
        fit_add_parent(m.text, sizeof m.text, "the edge's", e->info->parent);
    if (refused && m.reason == PROTO_BUSY && edge_share_busy(e, s))
        return;
    if (refused && goes_elsewhere(e, s, &m))
        return;
    snprintf(why, sizeof why, "%s%s", m.text,
             other_pair ? ": both halves must be of one `isthmus quantize`: quantize again, and "
                          "copy both"
                        : "");
    edge_end_session(e, s, refused ? EDGE_REFUSED : EDGE_LOST, why);
}

/* One generated id: true when the session ended by it. */
static bool on_id(struct edge *e, struct edge_session *s, const struct token_sample *t)
{
    e->connect_by_ns = 0;
    s->ids[s->n_ids++] = t->id;
    s->result.last_token_ns = edge_now(e);
    if (!s->result.n_generated++)
        s->result.first_token_ns = s->result.last_token_ns;
    e->stats.tokens++;
    if (s->r.on_token)
        s->r.on_token(s->r.arg, t);
    if (s->cancelled)
        return true;
    if (s->r.is_stop && s->r.is_stop(s->r.arg, t->id)) {
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
        for (unsigned k = 0; k < m->n_top; k++) {
            if ((uint32_t)m->top[i][k].id >= e->info->n_vocab)
                return false;
        }
    }
    if (s->state != EDGE_RUNNING || !s->unanswered || s->head_due || (m->n && e->info->has_head))
        return false;
    if (!m->n) /* rows were taken, guesses that a replay brings again among them; no id was due */
        return m->position <= s->r.n_prompt + s->r.n_predict && (s->unanswered > 1 || !s->wants_id);
    return s->unanswered == 1 && s->wants_id && m->position == s->n_ids &&
           s->computed >= s->n_ids && m->n <= s->drafted + 1 && m->n_top == s->r.n_top;
}

/* Rows were answered, and the cloud has so many for good. */
static void on_answer(struct edge *e, struct edge_session *s, uint32_t message, uint32_t has)
{
    s->unanswered--;
    s->to_answer = message;
    if (s->reviving && !s->replaying && !s->unanswered)
        s->reviving = false; /* what follows is taken for good */
    else if (!s->reviving)
        s->confirmed = smaller(has, s->sent);
    e->news = true;
}

const char *edge_take_tokens(struct edge *e, struct edge_session *s, const struct proto_tokens *m,
                             const struct edge_answer *answer)
{
    const uint32_t kept = m->position + m->n - 1;

    on_answer(e, s, answer->message, kept);
    edge_note_answer(e, s, answer);
    /* Guesses that were not accepted leave the cache. */
    if (s->computed > kept) {
        if (stage_seq_truncate(e->p.stage, s->seq, kept))
            return "the edge's stage can't take back rejected guesses";
        s->computed = s->sent = kept;
    }
    s->drafted = 0;
    for (unsigned i = 0; i < m->n; i++) {
        if (on_id(e, s, &(struct token_sample){m->ids[i], m->logprobs[i], m->n_top, m->top[i]}))
            break;
    }
    return NULL;
}

static const char *on_tokens(struct edge *e, struct edge_session *s, const uint8_t *p, size_t len,
                             const struct link_message *m)
{
    struct proto_tokens tokens;

    if (proto_read_tokens(p, len, &tokens) || !tokens_fit(e, s, &tokens))
        return "the cloud sent tokens that don't fit what was asked";
    if (tokens.n)
        return edge_take_tokens(e, s, &tokens,
                                &(struct edge_answer){.message = m->message,
                                                      .at_ns = edge_now(e),
                                                      .held_ns = link_message_held_ns(m)});
    on_answer(e, s, m->message, tokens.position);
    edge_note_part(e, s, tokens.position);
    return NULL;
}

void edge_on_message(struct edge_uplink *u, const struct link_message *m)
{
    struct edge *e = u->edge;
    struct edge_session *s = find_at(u, m->session);
    const char *error = NULL;
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    if (proto_kind(p, len) == PROTO_STATUS)
        edge_on_status(u, p, len);
    if (!s || s->cancelled)
        return; /* it has ended here, and the cloud doesn't know yet */
    switch (proto_kind(p, len)) {
    case PROTO_OPENED:
        error = on_opened(e, s, p, len);
        break;
    case PROTO_TOKENS:
        error = on_tokens(e, s, p, len, m);
        break;
    case PROTO_HIDDEN:
        error = edge_on_hidden(e, s, m);
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
