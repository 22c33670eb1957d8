/* SPDX-License-Identifier: Apache-2.0 */
/* How long ids are waited for: for whoever adapts what is sent to that. */
#include "dataplane/pipeline/edge_impl.h"

void edge_note_sent(struct edge *e, struct edge_session *s, const struct proto_rows *head,
                    uint64_t tile_bytes, int n_packets)
{
    struct edge_uplink *u = s->uplink;

    s->sent_ns = edge_now(e);
    s->sent_bytes = (uint32_t)tile_bytes;
    s->sent_after = u->run_bytes;
    u->run_bytes += (uint32_t)tile_bytes + (uint32_t)n_packets * WIRE_OVERHEAD;
    if (!s->asked_ns || s->unanswered == 1) {
        s->asked_ns = s->sent_ns;
        s->asked_to = head->position + head->n_rows;
    }
}

/* A cloud is behind when what it is sent is there for longer than under way: of EDGE_CHUNKS_AHEAD
 * parts of a prompt it has half then. */
void edge_note_part(struct edge *e, struct edge_session *s, uint32_t position)
{
    struct link_stats stats;

    if (!s->asked_ns || position < s->asked_to)
        return;
    link_stats(s->uplink->pump.link, &stats);
    s->uplink->behind = stats.srtt_ns && edge_now(e) - s->asked_ns > 2 * stats.srtt_ns;
    s->asked_ns = 0;
}

void edge_note_answer(struct edge *e, const struct edge_session *s, const struct edge_answer *a)
{
    const uint64_t now_ns = edge_now(e), way_ns = a->at_ns - s->sent_ns;
    const bool first = !s->result.n_generated;
    struct edge_turn *t = &e->turns[e->n_turns++ % EDGE_TURNS];

    *t = (struct edge_turn){
        .at_ns = now_ns,
        .gap_ns = first ? 0 : now_ns - s->result.last_token_ns,
        .turn_ns = now_ns - (first ? s->result.submitted_ns : s->sent_ns),
        .bytes = first ? (uint32_t)s->result.rows_up : s->sent_bytes,
        .before = s->sent_after,
    };
    if (!first && a->held_ns != UINT32_MAX && a->held_ns < way_ns)
        t->path_ns = way_ns - a->held_ns;
}

uint32_t edge_take_turns(struct edge *e, struct edge_turn *list, uint32_t max)
{
    uint32_t n = 0;

    if (e->n_turns - e->turns_taken > EDGE_TURNS)
        e->turns_taken = e->n_turns - EDGE_TURNS;
    while (n < max && e->turns_taken != e->n_turns)
        list[n++] = e->turns[e->turns_taken++ % EDGE_TURNS];
    return n;
}
