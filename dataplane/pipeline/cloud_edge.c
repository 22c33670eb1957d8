/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud's edges: who comes and goes, what each may use, what each is told. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/cloud_impl.h"

#define SECOND_NS   1000000000u
#define TELL_NS     SECOND_NS  /* an edge with sessions, whatever changed */
#define TELL_MIN_NS 100000000u /* the least between two, but for draining */

__attribute__((format(printf, 2, 3))) static void say(struct cloud *c, const char *format, ...)
{
    char line[PIPELINE_ERR + 128];
    va_list args;

    if (!c->p.say)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    c->p.say(c->p.say_arg, line);
}

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

/* --- coming and going ------------------------------------------------------------------------- */

/* With e an edge of the same identity. */
static bool is_same(const struct cloud *c, const struct cloud_edge *e, uint32_t i)
{
    const struct links_peer *peers = c->links.peers;
    const struct authorized_peer *who = peers[e - c->edges].who;

    return &c->edges[i] == e || (who && links_is_live(&peers[i]) && peers[i].who == who);
}

/* What its identity has left, in other connections: a further one brings no more. */
static void share_bucket(const struct cloud *c, struct cloud_edge *e)
{
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        if (&c->edges[i] != e && c->edges[i].serial == c->links.peers[i].serial && is_same(c, e, i))
            e->bucket = c->edges[i].bucket;
    }
}

static void begin(struct cloud *c, struct cloud_edge *e, const struct links_peer *p)
{
    pump_expect(&cloud_peer(c, e)->pump, c->p.max_sessions);
    *e = (struct cloud_edge){.serial = p->serial, .bucket.at_ns = c->links.now_ns};
    share_bucket(c, e);
    snprintf(e->name, sizeof e->name, "%s", p->who ? p->who->name : "an edge");
}

void cloud_meet_edges(struct cloud *c)
{
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        const struct links_peer *p = &c->links.peers[i];
        struct cloud_edge *e = &c->edges[i];

        if (!links_is_live(p))
            continue;
        if (e->serial != p->serial)
            begin(c, e, p);
        if (p->heard && !e->joined) {
            e->joined = true;
            c->stats.edges++;
            c->stats.edges_joined++;
            say(c, "%s joined (connection %08x): %u edge%s", e->name, p->pump.params.connection,
                c->stats.edges, plural(c->stats.edges));
        }
    }
}

static void lose(struct cloud *c, struct cloud_edge *e)
{
    struct links_peer *p = cloud_peer(c, e);
    struct link_stats s;
    uint32_t had = e->n_sessions;

    for (uint32_t i = 0; i < c->n_places; i++) {
        if (c->sessions[i].id && &c->edges[c->sessions[i].edge] == e)
            cloud_end_session(c, &c->sessions[i]);
    }
    link_stats(p->pump.link, &s);
    link_stats_add(&c->past, &s);
    if (e->joined) {
        c->stats.edges--;
        c->stats.edges_left++;
        say(c, "%s is gone (connection %08x; port %s): %s; %u session%s ended, %u edge%s left",
            e->name, p->pump.params.connection, c->p.port->caps.name, p->pump.dead, had,
            plural(had), c->stats.edges, plural(c->stats.edges));
    }
    links_end(&c->links, p);
    *e = (struct cloud_edge){0};
}

void cloud_lose_edges(struct cloud *c)
{
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        const struct links_peer *p = &c->links.peers[i];

        if (links_is_live(p) && p->pump.dead && c->edges[i].serial == p->serial)
            lose(c, &c->edges[i]);
    }
}

void cloud_set_peers(struct cloud *c, const struct authorized *peers)
{
    c->p.security.peers = peers;
    links_readmit(&c->links, peers);
    c->version++;
}

uint64_t cloud_strangers(const struct cloud *c, struct fingerprint *last)
{
    return c->links.handshake ? handshake_refused(c->links.handshake, last) : 0;
}

/* --- what it may use -------------------------------------------------------------------------- */

struct cloud_usage cloud_usage(struct cloud *c, const struct cloud_edge *e)
{
    struct cloud_usage u = {0};

    for (uint32_t i = 0; i < c->links.n_used; i++) {
        if (!is_same(c, e, i))
            continue;
        u.sessions += c->edges[i].n_sessions;
        u.kv_bytes += c->edges[i].kv_bytes;
        u.kv_lingering += c->edges[i].kv_lingering;
    }
    return u;
}

static double rate_of(const struct authorized_peer *who)
{
    return who->rate_bytes ? (double)who->rate_bytes : (double)who->rate_rows;
}

/*
 * A token bucket that may be overdrawn by what one batch takes: so that a message larger than a
 * second's worth comes through, too, and who was quiet may send a second's worth at once.
 */
bool cloud_rate_lets(struct cloud *c, const struct cloud_edge *e)
{
    const struct authorized_peer *who = cloud_peer(c, e)->who;
    const uint64_t now_ns = c->links.now_ns;
    struct cloud_bucket *b = &c->edges[e - c->edges].bucket;
    double rate;
    uint64_t at;

    if (!who || !(who->rate_bytes || who->rate_rows))
        return true;
    rate = rate_of(who);
    b->level += rate * (double)(now_ns - b->at_ns) * 1e-9;
    b->level = b->level < rate ? b->level : rate;
    b->at_ns = now_ns;
    if (b->level >= 0)
        return true;
    at = now_ns + 1000 + (uint64_t)(-b->level / rate * 1e9);
    c->rate_at_ns = at < c->rate_at_ns ? at : c->rate_at_ns;
    return false;
}

void cloud_rate_take(struct cloud *c, const struct cloud_edge *e, uint64_t bytes, uint32_t rows)
{
    const struct authorized_peer *who = cloud_peer(c, e)->who;

    if (!who || !(who->rate_bytes || who->rate_rows))
        return;
    c->edges[e - c->edges].bucket.level -= who->rate_bytes ? (double)bytes : rows;
    for (uint32_t i = 0; i < c->links.n_used; i++) { /* it is all theirs, whoever leaves first */
        if (is_same(c, e, i))
            c->edges[i].bucket = e->bucket;
    }
}

/* --- what it is told -------------------------------------------------------------------------- */

static uint32_t saturate(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

struct proto_status cloud_serves(const struct cloud *c)
{
    const struct stage_info *i = c->info;
    struct proto_status s = {.headless = !i->has_head,
                             .split = i->first_layer,
                             .codec_id = codec_params_id(&c->p.codec),
                             .numerics_id = i->numerics_id};

    memcpy(s.fingerprint, i->fingerprint, sizeof s.fingerprint);
    codec_params_profile(&c->p.codec, s.profile);
    return s;
}

static struct proto_status status_of(struct cloud *c, const struct cloud_edge *e)
{
    const struct authorized_peer *who = cloud_peer(c, e)->who;
    const struct stage_info *i = c->info;
    const struct cloud_usage has = cloud_usage(c, e);
    const uint64_t token = stage_seq_bytes(c->p.stage, i->n_ctx) / i->n_ctx + 1;
    uint64_t free_bytes = i->kv_budget_bytes > c->kv_bytes ? i->kv_budget_bytes - c->kv_bytes : 0;
    struct proto_status s = cloud_serves(c);

    s.draining = c->draining;
    s.kv_asked = c->kv_asked;
    s.sessions_free = c->draining || (c->full && c->n_sessions) ? 0
                                                                : c->p.max_sessions - c->n_sessions;
    s.tokens_total = saturate(i->kv_budget_bytes / token);
    s.tokens_max = c->tokens_max && c->n_sessions ? c->tokens_max : i->n_ctx;
    s.sessions_open = c->n_sessions;
    if (who && who->sessions_max) {
        const uint32_t left =
            has.sessions < who->sessions_max ? who->sessions_max - has.sessions : 0;
        s.sessions_free = smaller(s.sessions_free, left);
    }
    if (who && who->tokens_max)
        s.tokens_max = smaller(s.tokens_max, who->tokens_max);
    if (who && who->kv_max_bytes) {
        const uint64_t left =
            has.kv_bytes < who->kv_max_bytes ? who->kv_max_bytes - has.kv_bytes : 0;
        free_bytes = left < free_bytes ? left : free_bytes;
    }
    s.tokens_free = saturate(free_bytes / token);
    return s;
}

static void tell(struct cloud *c, struct cloud_edge *e, int64_t reply_to)
{
    uint8_t bytes[PROTO_STATUS_BYTES];

    e->told = status_of(c, e);
    e->told_version = c->version;
    e->told_ns = c->links.now_ns;
    cloud_send(c, e, 0, WIRE_CONTROL, reply_to, bytes, proto_write_status(bytes, &e->told));
}

void cloud_answer_ask(struct cloud *c, struct cloud_edge *e, uint32_t number)
{
    tell(c, e, number);
}

/* When it hears from us whatever changes; UINT64_MAX: only of changes. */
static uint64_t told_again_ns(const struct cloud_edge *e)
{
    return e->n_sessions ? e->told_ns + TELL_NS : UINT64_MAX;
}

static bool differs(const struct proto_status *a, const struct proto_status *b)
{
    return a->sessions_free != b->sessions_free || a->tokens_free != b->tokens_free ||
           a->sessions_open != b->sessions_open || a->tokens_max != b->tokens_max ||
           a->kv_asked != b->kv_asked;
}

/* When it is to be told: 0: now, UINT64_MAX: what it was told is true. */
static uint64_t tell_at(struct cloud *c, struct cloud_edge *e)
{
    const uint64_t again = told_again_ns(e);
    struct proto_status s;
    uint64_t least;

    if (e->told_version == c->version)
        return again;
    if (!e->told_version || e->told.draining != c->draining)
        return 0;
    least = e->told_ns + (e->n_sessions ? TELL_MIN_NS : SECOND_NS);
    if (c->links.now_ns < least) /* what differs is not looked at before: there may be many edges */
        return least < again ? least : again;
    s = status_of(c, e);
    if (!differs(&e->told, &s)) {
        e->told_version = c->version;
        return again;
    }
    return least;
}

void cloud_tell(struct cloud *c)
{
    c->tell_at_ns = UINT64_MAX;
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        const struct links_peer *p = &c->links.peers[i];
        struct cloud_edge *e = &c->edges[i];
        uint64_t at;

        if (!links_is_live(p) || p->pump.dead || e->serial != p->serial)
            continue;
        at = tell_at(c, e);
        if (at <= c->links.now_ns) {
            tell(c, e, -1);
            at = told_again_ns(e);
        }
        c->tell_at_ns = at < c->tell_at_ns ? at : c->tell_at_ns;
    }
}

void cloud_drain(struct cloud *c, bool draining)
{
    c->draining = draining;
    c->version++;
}

void cloud_set_limits(struct cloud *c, uint32_t tokens, bool full)
{
    c->tokens_max = tokens < c->info->n_ctx ? tokens : 0;
    c->full = full;
    c->version++;
}

void cloud_ask_kv(struct cloud *c, enum kv_format f)
{
    c->kv_asked = f;
    c->version++;
}

bool cloud_make_room(struct cloud *c)
{
    return cloud_evict(c, NULL);
}

/* --- for people ------------------------------------------------------------------------------- */

void cloud_stats(const struct cloud *c, struct cloud_stats *s)
{
    *s = c->stats;
    s->link = c->past;
    s->link.bad_frames += c->links.bad_frames;
    s->link.strangers += c->links.strangers;
    for (uint32_t i = 0; i < c->links.n_used; i++) {
        const struct links_peer *p = &c->links.peers[i];
        struct link_stats of;

        if (!links_is_live(p))
            continue;
        link_stats(p->pump.link, &of);
        link_stats_add(&s->link, &of);
        s->link.in_flight_packets += of.in_flight_packets;
    }
    s->turned_away = c->links.turned_away;
    s->sessions = c->n_sessions;
    s->kv_bytes = c->kv_bytes;
    s->draining = c->draining;
    for (uint32_t i = 0; i < c->n_places; i++)
        s->lingering += c->sessions[i].lingers;
}

uint64_t cloud_edges_left(const struct cloud *c)
{
    return c->stats.edges_left;
}

uint32_t cloud_links(const struct cloud *c, struct cloud_link *list, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->links.n_used && n < max; i++) {
        const struct links_peer *p = &c->links.peers[i];
        const struct cloud_edge *e = &c->edges[i];
        struct cloud_link *to = &list[n];

        if (!links_is_live(p) || !e->joined || e->serial != p->serial)
            continue;
        *to = (struct cloud_link){.encrypted = p->who,
                                  .peer = p->pump.met.peer,
                                  .connection = p->pump.params.connection,
                                  .path = *link_path(p->pump.link),
                                  .joined_ns = p->joined_ns,
                                  .silent_ns = link_silent_ns(p->pump.link),
                                  .sessions = e->n_sessions,
                                  .kv_bytes = e->kv_bytes,
                                  .held_packets = e->held,
                                  .rows = e->rows,
                                  .tokens = e->tokens};
        snprintf(to->name, sizeof to->name, "%s", p->who ? p->who->name : "");
        for (uint32_t k = 0; k < c->n_places; k++)
            to->lingering += c->sessions[k].lingers && c->sessions[k].edge == i;
        link_stats(p->pump.link, &to->link);
        n++;
    }
    return n;
}
