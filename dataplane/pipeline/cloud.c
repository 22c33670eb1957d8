/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud: its life, its sessions, and the edges' messages to them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/pipeline/cloud_impl.h"

#define MAX_EDGES 64u /* unless told otherwise */
#define HELD_SLOW 16u /* this part of what may wait here is for one that waits by its rate */

/* --- life ------------------------------------------------------------------------------------- */

static int check_params(const struct cloud_params *p, const struct stage_info *info, char *err)
{
    if (info->first_layer == 0 || info->end_layer != info->n_layers) {
        snprintf(err, PIPELINE_ERR,
                 "the cloud needs layers [split, %u) with split > 0, not [%u, %u)", info->n_layers,
                 info->first_layer, info->end_layer);
        return -EINVAL;
    }
    if (codec_params_check(&p->codec)) {
        snprintf(err, PIPELINE_ERR, "codec parameters out of range");
        return -EINVAL;
    }
    return 0;
}

static int allocate(struct cloud *c)
{
    uint32_t n = c->p.max_sessions, rows = c->info->max_rows;

    c->message_rows = rows - smaller(n, rows / 2);
    c->max_logits = proto_wanted_rows(n, rows);
    c->n_places = n > c->info->max_seqs ? n : c->info->max_seqs;
    c->sessions = calloc(c->n_places, sizeof c->sessions[0]);
    if (find_open(&c->by_id, c->n_places))
        return -ENOMEM;
    c->items = calloc(n, sizeof c->items[0]);
    c->batch = calloc(n, sizeof c->batch[0]);
    c->panel = malloc((size_t)rows * c->info->d_model * sizeof c->panel[0]);
    if (c->info->has_head)
        c->logits = malloc((size_t)c->max_logits * c->info->n_vocab * sizeof c->logits[0]);
    c->cut.rows = malloc((size_t)rows * c->info->d_model * sizeof c->cut.rows[0]);
    return c->sessions && c->items && c->batch && c->panel && (c->logits || !c->info->has_head) &&
                   c->cut.rows
               ? 0
               : -ENOMEM;
}

static void destroy(struct cloud *c)
{
    if (c->links.peers)
        links_close(&c->links);
    codec_close(c->codec);
    sampler_close(c->sampler);
    find_close(&c->by_id);
    free(c->edges);
    free(c->sessions);
    free(c->items);
    free(c->batch);
    free(c->panel);
    free(c->cut.rows);
    free(c->logits);
    free(c);
}

static int open_links(struct cloud *c, uint64_t now_ns)
{
    const struct links_params lp = {.port = c->p.port,
                                    .link = c->p.link,
                                    .security = c->p.security,
                                    .max = c->p.max_edges ? c->p.max_edges : MAX_EDGES};
    int rc = links_open(&c->links, &lp, now_ns);

    if (rc)
        return rc;
    c->edges = calloc(c->links.n_places, sizeof c->edges[0]);
    return c->edges ? 0 : -ENOMEM;
}

int cloud_open(const struct cloud_params *p, uint64_t now_ns, struct cloud **out, char *err)
{
    struct cloud *c = calloc(1, sizeof *c);
    int rc = -ENOMEM;

    if (!c)
        goto fail;
    c->p = *p;
    c->p.max_sessions = p->max_sessions ? p->max_sessions : 1;
    c->rate_at_ns = UINT64_MAX;
    c->version = 1;
    c->info = stage_info(p->stage);
    rc = check_params(p, c->info, err);
    if (rc)
        goto fail_said;
    rc = codec_open(&p->codec, c->info->d_model, &c->codec);
    if (!rc)
        rc = sampler_open(c->info->n_vocab, &c->sampler);
    if (!rc)
        rc = allocate(c);
    if (!rc)
        rc = open_links(c, now_ns);
    if (rc)
        goto fail;
    c->held_max = p->port->pool->n_total / PUMP_POOL_SHARE;
    stage_set_poll(p->stage, links_during_run, &c->links);
    *out = c;
    return 0;

fail:
    snprintf(err, PIPELINE_ERR, "the cloud can't start: %s", strerror(-rc));
fail_said:
    if (c)
        destroy(c);
    return rc;
}

void cloud_close(struct cloud *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->n_places; i++) {
        if (c->sessions[i].id)
            cloud_end_session(c, &c->sessions[i]);
    }
    stage_set_poll(c->p.stage, NULL, NULL);
    destroy(c);
}

/* --- sessions --------------------------------------------------------------------------------- */

struct cloud_session *cloud_find(struct cloud *c, const struct cloud_edge *e, uint32_t id)
{
    const uint32_t edge = (uint32_t)(e - c->edges);
    uint32_t i = id ? find_first(&c->by_id, cloud_find_key(edge, id)) : FIND_NONE;

    while (i != FIND_NONE && (c->sessions[i].id != id || c->sessions[i].edge != edge))
        i = c->by_id.next[i];
    return i != FIND_NONE ? &c->sessions[i] : NULL;
}

static struct cloud_session *find_busy(struct cloud *c, const struct cloud_edge *e, uint32_t id)
{
    struct cloud_session *s = cloud_find(c, e, id);

    return s && !s->lingers ? s : NULL;
}

static void drop_queue(struct cloud *c, struct cloud_session *s)
{
    for (uint32_t i = 0; i < s->queue_count; i++) {
        struct link_message *m = &s->queue[(s->queue_head + i) % CLOUD_QUEUE];

        c->held -= m->n_packets;
        c->edges[s->edge].held -= m->n_packets;
        link_message_free(m);
    }
    s->queue_count = 0;
    if (c->cut.session == s)
        c->cut.session = NULL;
    cloud_forget(c, s);
}

/* It counts as busy no more, and no hidden states wait for it. */
static void retire(struct cloud *c, const struct cloud_session *s)
{
    if (s->edge_has_head)
        pump_drop(&cloud_peer(c, &c->edges[s->edge])->pump, s->id);
    c->version++;
    c->n_sessions--;
    c->kv_bytes -= s->kv_bytes;
    c->edges[s->edge].n_sessions--;
    c->edges[s->edge].kv_bytes -= s->kv_bytes;
}

void cloud_end_session(struct cloud *c, struct cloud_session *s)
{
    drop_queue(c, s);
    stage_seq_close(c->p.stage, s->seq);
    free(s->generated);
    if (s->lingers)
        c->edges[s->edge].kv_lingering -= s->kv_bytes;
    else
        retire(c, s);
    find_drop(&c->by_id, cloud_find_key(s->edge, s->id), (uint32_t)(s - c->sessions));
    *s = (struct cloud_session){0};
}

static void let_linger(struct cloud *c, struct cloud_session *s)
{
    drop_queue(c, s);
    free(s->generated);
    s->generated = NULL;
    s->lingers = true;
    s->used = ++c->uses;
    retire(c, s);
    c->edges[s->edge].kv_lingering += s->kv_bytes;
}

bool cloud_evict(struct cloud *c, const struct cloud_edge *of)
{
    struct cloud_session *oldest = NULL;

    for (uint32_t i = 0; i < c->n_places; i++) {
        struct cloud_session *s = &c->sessions[i];

        if (s->lingers && s != c->like && (!of || &c->edges[s->edge] == of) &&
            (!oldest || s->used < oldest->used))
            oldest = s;
    }
    if (oldest)
        cloud_end_session(c, oldest);
    return oldest;
}

void cloud_send(struct cloud *c, const struct cloud_edge *e, uint32_t session, enum wire_class cls,
                int64_t reply_to, const uint8_t *bytes, size_t n)
{
    pump_send(&cloud_peer(c, e)->pump, session, cls, reply_to, bytes, n);
}

void cloud_break_session(struct cloud *c, struct cloud_session *s, enum proto_reason reason,
                         const char *text)
{
    uint8_t bytes[PROTO_SMALL_MAX];
    size_t n = proto_write_text(bytes, PROTO_ERROR, reason, text);

    cloud_send(c, &c->edges[s->edge], s->id, WIRE_CONTROL, -1, bytes, n);
    cloud_end_session(c, s);
}

/* --- messages --------------------------------------------------------------------------------- */

static void on_close(struct cloud *c, const struct cloud_edge *e, const uint8_t *p, size_t len)
{
    struct cloud_session *s;
    bool linger;
    uint32_t id;

    if (proto_read_close(p, len, &id, &linger))
        return;
    s = cloud_find(c, e, id);
    if (!s)
        return;
    if (!linger || !s->n_kv)
        cloud_end_session(c, s);
    else if (!s->lingers)
        let_linger(c, s);
}

/* At once, though rows sent before may still wait: those that are sampled after come later. */
static void on_ids(struct cloud *c, const struct cloud_edge *e, const struct link_message *m,
                   const uint8_t *p, size_t len)
{
    struct cloud_session *s = find_busy(c, e, m->session);
    struct proto_ids ids;

    if (!s)
        return; /* as with rows, which follow and are answered */
    if (s->edge_has_head || proto_read_ids(p, len, &ids) || ids.first != s->n_generated ||
        ids.n > s->max_tokens - s->n_generated) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "ids that don't continue the session's");
        return;
    }
    for (unsigned i = 0; i < ids.n; i++) {
        if ((uint32_t)ids.ids[i] >= c->info->n_vocab) {
            cloud_break_session(c, s, PROTO_BAD_ROWS, "an id outside the vocabulary");
            return;
        }
        s->generated[s->n_generated++] = ids.ids[i];
    }
    cloud_note(c, s);
}

/* Keeps the message until it is computed; true when it did. */
static bool on_rows(struct cloud *c, struct cloud_edge *e, const struct link_message *m)
{
    struct cloud_session *s = find_busy(c, e, m->session);
    uint8_t bytes[PROTO_SMALL_MAX];
    size_t n;

    if (!s) { /* closed or broken off meanwhile: an edge that knows ignores this */
        n = proto_write_text(bytes, PROTO_ERROR, PROTO_BAD_ROWS, "the cloud has no such session");
        cloud_send(c, e, m->session, WIRE_CONTROL, -1, bytes, n);
        return false;
    }
    if (s->queue_count == CLOUD_QUEUE) {
        cloud_break_session(c, s, PROTO_BAD_ROWS, "more rows sent ahead than this cloud takes");
        return false;
    }
    s->queue[(s->queue_head + s->queue_count++) % CLOUD_QUEUE] = *m;
    c->held += m->n_packets;
    e->held += m->n_packets;
    cloud_note(c, s);
    return true;
}

static void on_message(struct cloud *c, struct cloud_edge *e, struct link_message *m)
{
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    switch (proto_kind(p, len)) {
    case PROTO_OPEN:
        cloud_on_open(c, e, m->message, p, len);
        break;
    case PROTO_ROWS:
        if (on_rows(c, e, m))
            return;
        break;
    case PROTO_IDS:
        on_ids(c, e, m, p, len);
        break;
    case PROTO_CLOSE:
        on_close(c, e, p, len);
        break;
    case PROTO_ASK:
        if (!proto_read_ask(p, len))
            cloud_answer_ask(c, e, m->message);
        break;
    default:
        break; /* of no kind we know: nothing to answer */
    }
    link_message_free(m);
}

/* --- loop ------------------------------------------------------------------------------------- */

/*
 * Of one edge no more than its share of what may wait here, and little while its rate lets nothing
 * be computed. Who has nothing here is heard as long as there are packets: what the others have
 * here may stay for long.
 */
static bool may_take(struct cloud *c, const struct cloud_edge *e)
{
    const struct pkt_pool *pool = c->p.port->pool;

    if (!e->held)
        return c->held < c->held_max || pool->n_free > pool->n_total / PUMP_POOL_SHARE;
    return c->held < c->held_max &&
           e->held < links_share(&c->links, cloud_peer(c, e), c->held_max) &&
           (e->held < c->held_max / HELD_SLOW || cloud_rate_lets(c, e));
}

static void take_messages(struct cloud *c, struct cloud_edge *e)
{
    const struct links_peer *p = cloud_peer(c, e);
    struct link_message m;

    while (links_is_live(p) && may_take(c, e) && link_recv(p->pump.link, &m))
        on_message(c, e, &m);
}

/* The one that comes first has the most room: it is another one each time. */
static void take_all(struct cloud *c)
{
    const uint32_t n = c->links.n_used;

    for (uint32_t i = 0; i < n; i++)
        take_messages(c, &c->edges[(c->turn_in + i) % n]);
    c->turn_in = n ? (c->turn_in + 1) % n : 0;
}

static void lose_port(struct cloud *c)
{
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        struct links_peer *p = &c->links.peers[i];

        if (links_is_live(p) && !p->pump.dead)
            p->pump.dead = "its end of the port is gone";
    }
}

int cloud_poll(struct cloud *c, uint64_t now_ns, uint64_t *deadline_ns)
{
    uint64_t at;
    bool worked;

    for (uint32_t i = 0; i < c->links.n_used; i++) {
        struct links_peer *p = &c->links.peers[i];

        p->active = c->edges[i].n_sessions;
        if (links_is_live(p))
            link_set_idle(p->pump.link, !p->active);
    }
    links_in(&c->links, now_ns);
    cloud_meet_edges(c);
    take_all(c);
    if (port_alive(c->p.port) == -EPIPE) /* asked always: it then takes a new peer */
        lose_port(c);
    cloud_lose_edges(c);
    worked = cloud_batch_step(c);
    cloud_tell(c);
    links_out(&c->links);
    at = worked ? c->links.now_ns : links_deadline(&c->links);
    at = c->rate_at_ns < at ? c->rate_at_ns : at;
    *deadline_ns = c->tell_at_ns < at ? c->tell_at_ns : at;
    return (int)c->n_sessions;
}

void cloud_set_clock(struct cloud *c, uint64_t (*clock)(void *arg), void *arg)
{
    c->links.clock = clock;
    c->links.clock_arg = arg;
}
