/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head at the edge: clouds send hidden states instead of ids. Those that came, of all sessions,
 * become logits in one run of the head, and ids by the sampler here; then all goes on as if they
 * had been ids that a cloud sent (edge_message.c). No cloud is told one.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "dataplane/pipeline/edge_impl.h"
#include "dataplane/pipeline/pick.h"

int edge_head_open(struct edge *e)
{
    struct edge_head *h = &e->head;
    const struct stage_info *i = e->info;

    if (!i->has_head)
        return 0;
    h->max_rows = proto_wanted_rows(e->p.max_sessions, i->max_rows);
    h->rows = malloc((size_t)h->max_rows * i->d_model * sizeof h->rows[0]);
    h->logits = malloc((size_t)h->max_rows * i->n_vocab * sizeof h->logits[0]);
    h->answers = calloc(e->p.max_sessions, sizeof h->answers[0]);
    if (!h->rows || !h->logits || !h->answers)
        return -ENOMEM;
    return sampler_open(i->n_vocab, &h->sampler);
}

void edge_head_close(struct edge *e)
{
    sampler_close(e->head.sampler);
    free(e->head.rows);
    free(e->head.logits);
    free(e->head.answers);
}

uint32_t edge_head_rows(const struct edge_uplink *u)
{
    const size_t part = proto_hidden_part(pump_payload_sure(u->port));
    uint32_t n = PROTO_DRAFTS_MAX + 1;

    while (n > 1 &&
           proto_hidden_packets((size_t)n * u->edge->info->d_model, part) > u->cloud_fragments)
        n--;
    return n;
}

/* --- what comes ------------------------------------------------------------------------------- */

static bool fits(const struct edge_session *s, const struct proto_hidden *m)
{
    return s->state == EDGE_RUNNING && !s->replaying && s->unanswered == 1 && s->wants_id &&
           !s->head_due && m->position == s->n_ids && s->computed >= s->n_ids &&
           m->n == s->drafted + 1;
}

/* The values of all packets, n of them, one after the other. */
static bool read_values(const struct link_message *m, float *to, size_t n)
{
    for (uint16_t i = 0; i < m->n_fragments; i++) {
        size_t len;
        const uint8_t *p = link_message_payload(m, i, &len);
        const size_t skip = i ? 0 : PROTO_HIDDEN_BYTES, values = (len - skip) / 4;

        if ((len - skip) % 4 || values > n)
            return false;
        proto_get_values(p + skip, to, values);
        to += values;
        n -= values;
    }
    return n == 0;
}

static bool all_finite(const float *x, size_t n)
{
    bool finite = true;

    for (size_t i = 0; i < n; i++)
        finite &= isfinite(x[i]) != 0;
    return finite;
}

const char *edge_on_hidden(struct edge *e, struct edge_session *s, const struct link_message *m)
{
    struct edge_head *h = &e->head;
    const uint32_t d = e->info->d_model;
    struct proto_hidden head;
    float *to;
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    if (!e->info->has_head || proto_read_hidden(p, len, &head) || !fits(s, &head))
        return "the cloud sent hidden states that don't fit what was asked";
    if (h->n_rows + head.n > h->max_rows || h->n_answers == e->p.max_sessions)
        edge_head_step(e);
    to = h->rows + (size_t)h->n_rows * d;
    if (!read_values(m, to, (size_t)head.n * d))
        return "the cloud sent hidden states that don't fit what was asked";
    if (!all_finite(to, (size_t)head.n * d))
        return "the cloud's hidden states are not finite: the model's file is damaged";
    s->head_due = true;
    h->answers[h->n_answers++] = (struct edge_answer){
        .session = s,
        .number = s->number,
        .message = m->message,
        .at_ns = edge_now(e),
        .held_ns = link_message_held_ns(m),
        .first = h->n_rows,
        .n = head.n,
    };
    h->n_rows += head.n;
    return NULL;
}

/* --- ids -------------------------------------------------------------------------------------- */

static const char *choose(struct edge *e, struct edge_session *s, const struct edge_answer *a)
{
    struct proto_tokens tokens;
    const struct pick pick = {
        .sampler = e->head.sampler,
        .params = &s->r.sampler,
        .logits = e->head.logits + (size_t)a->first * e->info->n_vocab,
        .n_vocab = e->info->n_vocab,
        .n = a->n,
        .drafts = s->drafts ? s->drafts + s->result.n_generated : NULL,
        .most = a->n,
        .n_top = s->r.n_top,
        .position = s->n_ids,
        .generated =
            s->ids + s->r.n_prompt, /* there is room: no more is asked for than predicted */
        .n_generated = s->result.n_generated,
    };

    if (pick_tokens(&pick, &tokens))
        return "the model's logits are not finite: its file is damaged";
    return edge_take_tokens(e, s, &tokens, a);
}

/* Nothing ended or moved it since. */
static bool is_due(const struct edge_answer *a)
{
    const struct edge_session *s = a->session;

    return edge_is_busy(s) && s->number == a->number && s->head_due && !s->cancelled;
}

void edge_head_step(struct edge *e)
{
    struct edge_head *h = &e->head;
    const uint64_t from_ns = edge_now(e);
    const uint32_t n = h->n_answers;
    int err = 0;

    if (!n)
        return;
    err = stage_head(e->p.stage, h->n_rows, h->rows, h->logits);
    e->stats.compute_ns += edge_now(e) - from_ns;
    h->n_rows = h->n_answers = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct edge_session *s = h->answers[i].session;
        const char *error = "the edge's head failed";

        if (!is_due(&h->answers[i]))
            continue;
        s->head_due = false;
        if (!err)
            error = choose(e, s, &h->answers[i]);
        if (error)
            edge_end_session(e, s, EDGE_LOST, error);
    }
}
