/* SPDX-License-Identifier: Apache-2.0 */
/* The clouds that an edge is joined to: their coming and going, and what is known of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/pipeline/edge_impl.h"
#include "dataplane/pipeline/fit.h"

/* --- coming and going ------------------------------------------------------------------------- */

struct edge_uplink *edge_uplink_new(struct edge *e, const struct edge_uplink_params *p)
{
    struct edge_uplink *u = calloc(1, sizeof *u);
    uint32_t i = 0;

    while (i < EDGE_UPLINKS_MAX && e->uplinks[i])
        i++;
    if (!u || i == EDGE_UPLINKS_MAX) {
        free(u);
        return NULL;
    }
    *u = (struct edge_uplink){
        .edge = e,
        .index = i,
        .port = p->port,
        .security = p->security,
        .next_port = p->next_port,
        .next_arg = p->arg,
        .goes_on = true,
        .port_name = "none",
    };
    if (p->name)
        snprintf(u->name, sizeof u->name, "%s", p->name);
    if (p->port)
        edge_uplink_name_port(u);
    e->uplinks[i] = u;
    e->n_uplinks++;
    if (e->end_uplinks <= i)
        e->end_uplinks = i + 1;
    return u;
}

void edge_uplink_name_port(struct edge_uplink *u)
{
    const struct port_caps *c = &u->port->caps;

    u->port_name = c->name;
    snprintf(u->port_text, sizeof u->port_text, "%.16s%s%s", c->name, c->peer[0] ? " at " : "",
             c->peer);
    snprintf(u->where, sizeof u->where, "%s%s%s", u->name, u->name[0] ? ": " : "", u->port_text);
}

void edge_uplink_free(struct edge_uplink *u)
{
    struct edge *e = u->edge;

    if (u->joined)
        pump_close(&u->pump);
    e->uplinks[u->index] = NULL;
    e->n_uplinks--;
    while (e->end_uplinks && !e->uplinks[e->end_uplinks - 1])
        e->end_uplinks--;
    free(u);
}

struct proto_open edge_needs(const struct edge *e)
{
    struct proto_open m = {
        .version = PROTO_VERSION,
        .has_head = e->info->has_head,
        .split = e->info->end_layer,
        .n_layers = e->info->n_layers,
        .d_model = e->info->d_model,
        .n_vocab = e->info->n_vocab,
        .codec_id = codec_params_id(&e->p.codec),
        .numerics_id = e->info->numerics_id,
    };

    memcpy(m.fingerprint, e->info->fingerprint, sizeof m.fingerprint);
    codec_params_profile(&e->p.codec, m.profile);
    return m;
}

bool edge_uplink_leave_out(struct edge_uplink *u, const char *why)
{
    struct edge *e = u->edge;
    bool others = false;

    for (struct edge_uplink *o = edge_next_uplink(e, 0); o; o = edge_next_uplink(e, o->index + 1))
        others |= o != u && !o->unfit;
    snprintf(u->lost_why, sizeof u->lost_why, "%s", why);
    if (!others)
        return false;
    if (!u->unfit)
        edge_say(e, "the cloud is left out: %s (port %s)", why, u->where);
    u->unfit = true;
    return true;
}

/* By what its cloud says of itself, so that no session has to find it out. */
static void judge(struct edge_uplink *u)
{
    const struct proto_open needs = edge_needs(u->edge);
    char why[PROTO_TEXT_MAX + 1];
    enum proto_reason reason;

    if (!u->joined || !u->has_status || u->unfit || u->edge->n_uplinks < 2)
        return;
    reason = fit_check(&needs, &u->status, why, sizeof why);
    if (reason == PROTO_BAD_MODEL && u->edge->info->is_half)
        fit_add_parent(why, sizeof why, "the edge's", u->edge->info->parent);
    if (reason)
        (void)edge_uplink_leave_out(u, why);
}

int edge_uplink_add(struct edge *e, const struct edge_uplink_params *p, uint64_t now_ns, char *err)
{
    struct edge_uplink *u;
    int rc = -EINVAL;

    if (!e->p.rejoin.timeout_ns || (!p->port && (!p->next_port || !e->tile_capacity))) {
        snprintf(err, PIPELINE_ERR,
                 "an edge of several clouds needs histories, and a port to begin with");
        return -EINVAL;
    }
    if (p->port)
        rc = edge_pack_for(e, p->port, err);
    if (p->port && rc)
        return rc;
    u = edge_uplink_new(e, p);
    if (!u) {
        rc = e->n_uplinks == EDGE_UPLINKS_MAX ? -ENOSPC : -ENOMEM;
        snprintf(err, PIPELINE_ERR, "%s",
                 rc == -ENOSPC ? "an edge has no more uplinks than this" : strerror(ENOMEM));
        return rc;
    }
    u->attempt_ns = p->port ? now_ns : 0;
    u->retry_ns = now_ns;
    u->asks = true;
    for (struct edge_uplink *o = edge_next_uplink(e, 0); o; o = edge_next_uplink(e, o->index + 1)) {
        if (!o->asks && o->joined && !o->met) /* it was the only one */
            edge_ask(o);
        o->asks = true;
        judge(o);
    }
    e->news = true;
    return (int)u->index;
}

void edge_ask(struct edge_uplink *u)
{
    uint8_t bytes[PROTO_ASK_BYTES];

    pump_send(&u->pump, 0, WIRE_CONTROL, -1, bytes, proto_write_ask(bytes));
}

static struct edge_uplink *uplink_at(const struct edge *e, uint32_t index)
{
    return index < e->end_uplinks ? e->uplinks[index] : NULL;
}

int edge_uplink_drain(struct edge *e, uint32_t index, bool drain)
{
    struct edge_uplink *u = uplink_at(e, index);

    if (!u)
        return -ENOENT;
    u->draining = drain;
    e->news = true;
    return 0;
}

int edge_uplink_remove(struct edge *e, uint32_t index, uint64_t now_ns)
{
    struct edge_uplink *u = uplink_at(e, index);

    if (!u)
        return -ENOENT;
    if (now_ns > e->now_ns)
        e->now_ns = now_ns;
    u->draining = true; /* who is told that it ends may submit again: not to this one */
    if (u->joined) {
        link_shutdown(u->pump.link);
        pump_out(&u->pump);
    }
    edge_part(u, "the cloud was taken out, and no memory was left for this session's history");
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (e->sessions[i].last_uplink == u)
            e->sessions[i].last_uplink = NULL;
    }
    edge_uplink_free(u);
    if (e->n_busy && !edge_any_met(e) && !e->connect_by_ns)
        edge_await(e);
    return 0;
}

/* --- what is known ---------------------------------------------------------------------------- */

bool edge_any_met(const struct edge *e)
{
    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->met)
            return true;
    }
    return false;
}

/* Whether its cloud has said how it is. One of another version may never: it refuses an OPEN then. */
static bool is_known(const struct edge_uplink *u)
{
    return u->met && (u->has_status || u->edge->now_ns - u->met_ns >= EDGE_STATUS_NS);
}

bool edge_uplink_open(const struct edge_uplink *u)
{
    if (u->edge->n_uplinks == 1)
        return !u->draining;
    return is_known(u) && !u->draining && !u->unfit && !(u->has_status && u->status.draining);
}

/* What its cloud asks for has changed. */
static void say_kv(struct edge_uplink *u)
{
    struct edge *e = u->edge;
    const enum kv_format asked = u->status.kv_asked, gets = edge_kv_asked(u);

    if (e->p.kv_most <= e->info->kv_format) /* nothing follows from it */
        return;
    if (asked == KV_F16)
        edge_say(e, "the cloud asks for no coarser keys and values any more (port %s)", u->where);
    else if (gets == asked)
        edge_say(e, "the cloud asks for keys and values in %s (port %s): new sessions get them, or "
                 "coarser ones", kv_format_name(asked), u->where);
    else
        edge_say(e, "the cloud asks for keys and values in %s (port %s): new sessions get %s, the "
                 "coarsest that they may have", kv_format_name(asked), u->where,
                 kv_format_name(gets));
}

void edge_on_status(struct edge_uplink *u, const uint8_t *p, size_t len)
{
    struct proto_status m;
    bool other_kv;

    if (proto_read_status(p, len, &m))
        return; /* news, no more */
    if (m.draining && !(u->has_status && u->status.draining) && u->edge->n_uplinks > 1)
        edge_say(u->edge, "the cloud drains (port %s): its %u answers go on at others", u->where,
                 u->n_sessions);
    other_kv = m.kv_asked != u->status.kv_asked;
    u->status = m;
    u->has_status = true;
    if (other_kv)
        say_kv(u);
    judge(u);
    u->edge->news = true;
}

const char *edge_uplink_title(const struct edge_uplink *u)
{
    if (u->name[0])
        return u->name;
    return u->port && u->port->caps.peer[0] ? u->port->caps.peer : u->port_name;
}

static enum edge_uplink_state state_of(const struct edge_uplink *u)
{
    if (!u->joined)
        return EDGE_UPLINK_APART;
    if (!u->met)
        return EDGE_UPLINK_JOINING;
    return u->unfit ? EDGE_UPLINK_UNFIT : EDGE_UPLINK_JOINED;
}

int edge_uplink_stats(const struct edge *e, uint32_t index, struct edge_uplink_stats *s)
{
    const struct edge_uplink *u = uplink_at(e, index);

    if (!u)
        return -ENOENT;
    *s = (struct edge_uplink_stats){
        .state = state_of(u),
        .draining = u->draining,
        .drains = u->has_status && u->status.draining,
        .sessions = u->n_sessions,
        .reconnections = u->reconnections,
        .replayed_bytes = u->replayed_bytes,
        .replayed_rows = u->replayed_rows,
        .moved = u->moved,
        .cipher = pipeline_cipher(&u->security),
        .has_status = u->has_status,
        .free_sessions = u->status.sessions_free,
        .free_tokens = edge_free_tokens(u, e->info->kv_format),
        .kv_asked = u->has_status ? u->status.kv_asked : KV_F16,
    };
    if (u->joined)
        link_stats(u->pump.link, &s->link);
    s->rtt_ns = s->link.rtt_p50_ns;
    link_stats_add(&s->link, &u->past);
    snprintf(s->name, sizeof s->name, "%s", edge_uplink_title(u));
    s->index = index;
    snprintf(s->port, sizeof s->port, "%s", u->port_text);
    snprintf(s->why, sizeof s->why, "%s", u->lost_why);
    for (uint32_t i = 0; i < e->n_places; i++)
        s->replaying +=
            e->sessions[i].uplink == u && edge_is_busy(&e->sessions[i]) && e->sessions[i].reviving;
    return 0;
}

int edge_session_uplink(const struct edge *e, int64_t session)
{
    for (uint32_t i = 0; i < e->n_places; i++) {
        const struct edge_session *s = &e->sessions[i];

        if (edge_is_busy(s) && s->id == session)
            return s->uplink ? (int)s->uplink->index : -ENOENT;
    }
    return -ENOENT;
}

uint32_t edge_ports(const struct edge *e, struct port **ports, uint32_t max)
{
    uint32_t n = 0;

    for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) {
        if (u->port && n < max)
            ports[n] = u->port;
        n += u->port != NULL;
    }
    return n;
}
