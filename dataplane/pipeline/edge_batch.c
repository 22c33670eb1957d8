/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the edge computes next, and sending it: decode rows of all sessions that are ready and a
 * part of a prompt in one stage run, as mix.h says. When nobody else is served, a new session's
 * first chunk is computed while the cloud is asked.
 */
#include "dataplane/pipeline/edge_impl.h"

#include <errno.h>
#include <stdio.h>

static bool in_prefill(const struct edge_session *s)
{
    return s->computed < s->prefill_end;
}

/* --- packets of a message --------------------------------------------------------------------- */

void edge_packing(struct edge *e)
{
    const struct codec_params *p = &e->p.codec;
    uint32_t d = e->info->d_model;

    for (e->row_cuts = 1;
         codec_bound(p, 1, (d + e->row_cuts - 1) / e->row_cuts) > e->tile_capacity;)
        e->row_cuts++;
    for (e->packet_rows = 1; e->row_cuts == 1 && e->packet_rows < e->info->max_rows &&
                             codec_bound(p, e->packet_rows + 1, d) <= e->tile_capacity;)
        e->packet_rows++;
}

/* The most rows whose message has at most `fragments` packets; at least 1. */
static uint32_t rows_in(const struct edge *e, uint32_t fragments)
{
    uint32_t packets = fragments / e->row_cuts;

    return packets ? packets * e->packet_rows : 1;
}

uint32_t edge_chunk_rows(const struct edge_uplink *u, uint32_t max_rows, uint32_t max_fragments)
{
    const struct edge *e = u->edge;
    uint32_t fragments = smaller(max_fragments, pump_max_fragments(&u->pump));

    return smaller(smaller(e->p.chunk_tokens, e->info->max_rows),
                   smaller(max_rows, rows_in(e, fragments)));
}

static uint32_t packets_of(const struct edge *e, uint32_t n_rows)
{
    return e->row_cuts * ((n_rows + e->packet_rows - 1) / e->packet_rows);
}

/* --- what next -------------------------------------------------------------------------------- */

static void add_item(struct edge *e, struct edge_session *s, uint32_t n, uint32_t n_drafts)
{
    struct edge_item *item = &e->items[e->n_items];
    uint32_t first = e->mix.n_rows;
    uint32_t n_generated = s->result.n_generated, known = n - n_drafts;

    *item = (struct edge_item){
        .session = s,
        .number = s->number,
        .first = first,
        .cls = in_prefill(s) ? WIRE_PREFILL : WIRE_DECODE,
        .head = {.position = s->computed,
                 .n_rows = (uint16_t)n,
                 .n_logits = (uint16_t)(s->computed + known == s->n_ids ? 1 + n_drafts : 0),
                 .n_drafts = (uint8_t)(e->info->has_head ? 0 : n_drafts)}, /* no cloud sees an id */
    };
    for (uint32_t i = 0; i < known; i++)
        e->batch_ids[first + i] = s->ids[s->computed + i];
    for (uint32_t i = 0; i < n_drafts; i++) {
        item->head.drafts[i] = s->drafts[n_generated + i];
        e->batch_ids[first + known + i] = s->drafts[n_generated + i];
    }
    e->batch[e->n_items++] = (struct stage_rows){.seq = s->seq, .pos = s->computed, .n = n};
    s->uplink->packets += packets_of(e, n);
    *(in_prefill(s) ? &e->stats.bulk_rows : &e->stats.decode_rows) += n;
    mix_add(&e->mix, in_prefill(s) ? MIX_PREFILL : MIX_DECODE, s->computed, n);
}

/* Guesses to send behind the next id: as many as the request has and can still use. */
static uint32_t drafts_now(const struct edge *e, const struct edge_session *s)
{
    uint32_t generated = s->result.n_generated, n;

    if (!s->drafts || generated >= s->r.n_drafts)
        return 0;
    n = smaller(s->r.draft_len, s->r.n_drafts - generated);
    n = smaller(n, s->r.n_predict - generated - 1);
    if (e->info->has_head)
        n = smaller(n, s->uplink->hidden_rows - 1);
    return smaller(n, s->uplink->chunk_rows - 1);
}

static bool has_packets(const struct edge *e, const struct edge_uplink *u, uint32_t n_rows)
{
    return pump_can_alloc(&u->pump, u->packets + packets_of(e, n_rows));
}

static bool decode_ready(const struct edge_session *s)
{
    return s->state == EDGE_RUNNING && !s->replaying && !in_prefill(s) && !s->unanswered;
}

static bool has_prompt(const struct edge_session *s)
{
    return s->state == EDGE_RUNNING && !s->replaying && in_prefill(s);
}

static bool prefill_ready(const struct edge_session *s)
{
    const struct edge_uplink *u = s->uplink;

    if (!has_prompt(s) || s->unanswered >= EDGE_CHUNKS_AHEAD)
        return false;
    if (u->oldest && s != u->oldest && s != u->shortest)
        return false;
    /* Nothing is gained by computing ahead of a link that is full. */
    return link_window_left(u->pump.link) || link_idle(u->pump.link);
}

static struct mix_prompt prompt_of(const struct edge *e, const struct edge_session *s)
{
    const uint32_t place = (uint32_t)(s - e->sessions);

    return (struct mix_prompt){.left = s->prefill_end - s->computed,
                               .number = s->id,
                               .turn = (place + e->n_places - e->turn_prefill) % e->n_places};
}

/* At a cloud that is behind the first prompts alone go on, though they have to wait there: rows of
 * others would not come earlier to anything, but take time from theirs. */
static void limit_prompts(struct edge *e)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];
        struct edge_uplink *u = s->uplink;

        if (!has_prompt(s) || !u->behind)
            continue;
        if (!u->oldest || mix_older(prompt_of(e, s), prompt_of(e, u->oldest)))
            u->oldest = s;
        if (!u->shortest || mix_shorter(prompt_of(e, s), prompt_of(e, u->shortest)))
            u->shortest = s;
    }
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->oldest && u->oldest->unanswered < EDGE_CHUNKS_AHEAD &&
            u->shortest->unanswered < EDGE_CHUNKS_AHEAD)
            u->oldest = u->shortest = NULL; /* nothing keeps them from going first */
    }
}

static struct edge_session *by_turn(struct edge *e, uint32_t turn, uint32_t i)
{
    return &e->sessions[(turn + i) % e->n_places];
}

static void pick_decode(struct edge *e)
{
    uint32_t turn = e->turn_decode, left = mix_sessions(&e->mix);

    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = by_turn(e, turn, i);
        uint32_t n;

        if (!decode_ready(s))
            continue;
        n = 1 + drafts_now(e, s);
        if (!has_packets(e, s->uplink, n)) {
            s->uplink->packets_short = true;
            continue;
        }
        if (!left || n > mix_room(&e->mix, MIX_DECODE, 0)) {
            e->turn_decode = (turn + i) % e->n_places; /* first next time */
            break;
        }
        add_item(e, s, n, n - 1);
        left--;
    }
}

/* A session to compute ahead of its OPENED: only while the panel would lie idle. */
static struct edge_session *early_bird(struct edge *e)
{
    struct edge_session *s = NULL;

    for (uint32_t i = 0; i < e->n_places; i++) {
        if (e->sessions[i].state == EDGE_RUNNING)
            return NULL;
        if (!s && e->sessions[i].state == EDGE_OPENING && !e->sessions[i].computed &&
            e->sessions[i].uplink && e->sessions[i].uplink->joined)
            s = &e->sessions[i];
    }
    return s;
}

static void pick_early(struct edge *e)
{
    struct edge_session *s = early_bird(e);

    if (s)
        add_item(e, s, smaller(s->r.n_prompt, edge_chunk_rows(s->uplink, UINT32_MAX, UINT32_MAX)),
                 0);
}

static struct edge_item *item_of(struct edge *e, const struct edge_session *s)
{
    struct edge_item *item = &e->items[e->next_item];

    return e->next_item < e->n_items && item->session == s && item->number == s->number ? item
                                                                                        : NULL;
}

int edge_batch_opened(struct edge *e, struct edge_session *s)
{
    struct edge_item *item = item_of(e, s);
    struct proto_rows *early = item ? &item->head : NULL;

    if (!item || s->computed <= s->uplink->chunk_rows)
        return 0;
    s->computed = s->uplink->chunk_rows;
    early->n_rows = (uint16_t)s->computed;
    early->n_logits = 0;
    s->wants_id = false;
    return stage_seq_truncate(e->p.stage, s->seq, s->computed);
}

int edge_batch_unpick(struct edge *e, struct edge_session *s)
{
    if (!item_of(e, s))
        return 0;
    e->n_items = e->next_item = 0; /* it is the only one: else its session would not be open */
    s->computed = s->unanswered = 0;
    s->wants_id = false;
    return stage_seq_truncate(e->p.stage, s->seq, 0);
}

/* Rows of a prompt to compute next: what is left or a chunk. A long prompt begins with half a
 * chunk, since nothing of the cloud's work overlaps with the first. */
static uint32_t next_part(const struct edge_session *s)
{
    uint32_t left = s->prefill_end - s->computed, chunk = s->uplink->chunk_rows;

    if (left <= chunk)
        return left;
    return s->computed || chunk < 2 ? chunk : chunk / 2;
}

/* Of the sessions that could send one now. */
static uint32_t largest_chunk(const struct edge *e)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (prefill_ready(s) && s->uplink->chunk_rows > n)
            n = s->uplink->chunk_rows;
    }
    return n;
}

/* The prompt whose turn it is after that one's, NULL: the first. */
static struct edge_session *next_prompt(struct edge *e, const struct edge_session *after)
{
    struct edge_session *next = NULL;

    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (prefill_ready(s) &&
            (!after || mix_before(&e->mix, prompt_of(e, after), prompt_of(e, s))) &&
            (!next || mix_before(&e->mix, prompt_of(e, s), prompt_of(e, next))))
            next = s;
    }
    return next;
}

/* One chunk's worth of prompt rows at most, of the first session whose turn it is and of further
 * ones when it leaves room. */
static void pick_prefill(struct edge *e)
{
    uint32_t left = largest_chunk(e), turn = e->turn_prefill;

    for (struct edge_session *s = next_prompt(e, NULL);
         s && left && mix_room(&e->mix, MIX_PREFILL, 0); s = next_prompt(e, s)) {
        const uint32_t n =
            smaller(smaller(next_part(s), left), mix_room(&e->mix, MIX_PREFILL, s->computed));

        if (!n || !has_packets(e, s->uplink, n))
            continue;
        add_item(e, s, n, 0);
        left -= n;
        turn = (uint32_t)(s - e->sessions) + 1;
    }
    e->turn_prefill = turn % e->n_places;
}

uint32_t edge_decoding(const struct edge *e, const struct edge_uplink *at)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (s->state == EDGE_RUNNING && !s->replaying && !in_prefill(s) && (!at || s->uplink == at))
            n++;
    }
    return n;
}

static void pick(struct edge *e)
{
    bool waiting[MIX_RANKS] = {false}, behind = false;
    uint32_t n_decoding = 0, n_others = 0;

    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        n_others += s->state == EDGE_RUNNING && in_prefill(s);
        n_decoding += s->state == EDGE_RUNNING && !s->replaying && !in_prefill(s);
    }
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        u->packets = u->run_bytes = 0;
        u->oldest = u->shortest = NULL;
        behind |= u->behind;
    }
    if (behind && !mix_crowded(n_decoding, n_others))
        limit_prompts(e);
    for (uint32_t i = 0; i < e->n_places; i++) {
        waiting[MIX_DECODE] |= decode_ready(&e->sessions[i]);
        waiting[MIX_PREFILL] |= prefill_ready(&e->sessions[i]);
    }
    e->n_items = e->next_item = 0;
    mix_begin(&e->mix, waiting, n_decoding, n_others, e->info->max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++) {
        if (e->mix.order[i] == MIX_DECODE && waiting[MIX_DECODE])
            pick_decode(e);
        if (e->mix.order[i] == MIX_PREFILL && waiting[MIX_PREFILL])
            pick_prefill(e);
    }
    mix_end(&e->mix);
    if (!waiting[MIX_DECODE] && !waiting[MIX_PREFILL])
        pick_early(e);
}

/* --- compute and send ------------------------------------------------------------------------- */

static void compute(struct edge *e)
{
    const uint64_t from_ns = edge_now(e);
    int err = stage_run(e->p.stage, e->batch, e->n_items, e->batch_ids, NULL, e->panel, NULL);
    const uint64_t took_ns = edge_now(e) - from_ns;

    mix_ran(&e->mix, took_ns);
    e->stats.compute_ns += took_ns;
    e->stats.runs++;
    for (uint32_t i = 0; i < e->n_items; i++) {
        struct edge_item *item = &e->items[i];
        struct edge_session *s = item->session;
        char why[PIPELINE_ERR];

        if (err) {
            snprintf(why, sizeof why, "the edge's stage failed at position %u: error %d",
                     item->head.position, -err);
            edge_end_session(e, s, EDGE_LOST, why);
            continue;
        }
        s->computed += item->head.n_rows;
        s->drafted = item->head.n_logits ? item->head.n_logits - 1u : 0;
        s->unanswered++;
        s->wants_id = item->head.n_logits;
    }
}

/* Sessions share the codec: each message is encoded with its session's parameters, which were
 * proved with its target. */
static void tune(struct edge *e, const struct edge_session *s)
{
    struct codec_params p = e->p.codec;

    codec_rate_apply(&s->rate, &p);
    codec_retune(e->codec, &p);
}

/*
 * Where the path takes longer packets than any path does, more rows go into one. But a row has to
 * be coded alike wherever it travels: one that may not fit the shortest packet the coded modes code
 * by what it has to fit; and what a target of bytes makes of the next rows is the tiles' bytes.
 */
static size_t tile_room(const struct edge *e, const struct edge_session *s)
{
    const size_t room = proto_tile_capacity(pump_payload(&s->uplink->pump));

    if (room < e->tile_capacity || s->rate.target.kind == CODEC_RATE_BYTES ||
        (e->row_cuts > 1 && (e->p.codec.mode == CODEC_RANS || e->p.codec.mode == CODEC_XFORM)))
        return e->tile_capacity;
    return room;
}

/* Encode straight into packets. The count, -EAGAIN while packets are short, or codec_encode's error
 * with stats->bad_token. */
static int encode(struct edge *e, const struct edge_item *item, bool reply, uint16_t *payload_bytes,
                  struct codec_stats *stats)
{
    struct pump *pump = &item->session->uplink->pump;
    uint32_t d = e->info->d_model, n_rows = item->head.n_rows;
    const size_t room = tile_room(e, item->session);
    struct codec_cursor at = {0, 0};
    int n = 0, bytes = -EAGAIN;

    tune(e, item->session);
    while (at.row < n_rows) {
        struct pkt *p = n < (int)LINK_FRAGMENTS_MAX ? pump_alloc(pump) : NULL;
        size_t head = 0;
        uint8_t *to;

        if (!p)
            goto undo;
        e->pkts[n++] = p;
        to = p->data + WIRE_PAYLOAD_AT + link_payload_offset(reply, (uint32_t)n - 1);
        if (n == 1)
            head = proto_write_rows(to, &item->head);
        bytes = codec_encode(e->codec, e->panel + (size_t)item->first * d, d, n_rows,
                             item->head.position, &at, to + head, room, stats);
        if (bytes < 0)
            goto undo;
        pkt_made(p, to + head);
        payload_bytes[n - 1] = (uint16_t)(head + (size_t)bytes);
        bytes = -EAGAIN;
    }
    return n;

undo:
    while (n)
        pkt_unref(e->pkts[--n]);
    return bytes;
}

static void count_sent(struct edge *e, struct edge_session *s, const struct codec_stats *sent)
{
    codec_rate_note(&s->rate, &e->stats.parameter); /* before the controller moves it */
    codec_rate_feed(&s->rate, sent->bytes, (uint32_t)sent->rows);
    s->result.tile_bytes_up += sent->bytes;
    s->result.rows_up += sent->rows;
    e->stats.rows_up += sent->rows;
    codec_stats_add(&e->stats.codec, sent);
}

/* False while packets are short, or the session is not open yet. */
static bool send_item(struct edge *e, const struct edge_item *item)
{
    struct edge_session *s = item->session;
    struct edge_uplink *u = s->uplink;
    uint16_t payload_bytes[LINK_FRAGMENTS_MAX];
    struct codec_stats stats = {0};
    char why[PIPELINE_ERR];
    int64_t number;
    int n;

    if (!edge_is_busy(s) || s->number != item->number)
        return true; /* it ended, or moved, after its rows were computed */
    if (s->state == EDGE_OPENING)
        return false;
    n = encode(e, item, s->to_answer >= 0, payload_bytes, &stats);
    if (n == -EAGAIN) {
        u->packets_short = true;
        return false;
    }
    if (n < 0) {
        snprintf(
            why, sizeof why,
            "the codec can't carry the hidden state of position %u: its channel %u is a NaN, an "
            "infinity or out of range (error %d)",
            stats.bad_token, stats.bad_col, -n);
        edge_end_session(e, s, EDGE_LOST, why);
        return true;
    }
    edge_history_keep(e, s, &item->head, s->to_answer >= 0, n, payload_bytes);
    number = link_send(u->pump.link, s->number, item->cls, s->to_answer, e->pkts, payload_bytes,
                       (uint16_t)n);
    if (number < 0)
        edge_history_unkeep(s);
    if (number == -ENOBUFS) { /* until the oldest are acknowledged: it is coded anew */
        u->packets_short = true;
        return false;
    }
    if (number == -EPIPE) { /* it ended during the stage's run: edge_check_peer sees to that */
        pump_link_ended(&u->pump);
        return false;
    }
    if (number < 0) {
        snprintf(why, sizeof why, "the link refused a message of %d packets: error %d", n,
                 (int)-number);
        edge_end_session(e, s, EDGE_LOST, why);
        return true;
    }
    s->to_answer = -1;
    s->sent = item->head.position + item->head.n_rows;
    count_sent(e, s, &stats);
    edge_note_sent(e, s, &item->head, stats.bytes, n);
    return true;
}

static bool any_ready(const struct edge *e)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (decode_ready(&e->sessions[i]) || prefill_ready(&e->sessions[i]))
            return true;
    }
    return false;
}

/* What was computed ahead of an OPENED must not keep others from the panel. */
static void make_way(struct edge *e)
{
    struct edge_session *s = e->items[e->next_item].session;

    if (s->state == EDGE_OPENING && any_ready(e) && edge_batch_unpick(e, s))
        edge_end_session(e, s, EDGE_LOST, "the edge's stage can't take back rows");
}

static void say_opens(struct edge *e)
{
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->joined)
            pump_out(&u->pump);
    }
}

bool edge_batch_step(struct edge *e)
{
    bool sent = false;

    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1))
        u->packets_short = false;
    for (; e->next_item < e->n_items; e->next_item++, sent = true) {
        if (send_item(e, &e->items[e->next_item]))
            continue;
        make_way(e);
        if (e->next_item < e->n_items)
            return sent; /* the panel is not free yet */
        break;
    }
    sent |= edge_replay_step(e);
    pick(e);
    if (!e->n_items)
        return sent;
    say_opens(e); /* an OPEN need not wait for the stage */
    compute(e);
    for (; e->next_item < e->n_items; e->next_item++) {
        if (!send_item(e, &e->items[e->next_item]))
            break;
    }
    return true;
}
