/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An uplink's connection, and the next one when it is lost.
 *
 *   apart --a port is there--> joined --the cloud was heard--> met
 *     ^                          |                              |
 *     +------ no answer, --------+-------- silence, reset, -----+
 *             refused                      closed, port gone
 *
 * Each connection has a number and, with encryption, a handshake and keys of its own, so nothing of
 * the last one can be taken for this one's. Sessions go on at other uplinks (edge_place.c), or wait
 * for this one where it is the only one; each is opened again and replayed (edge_replay.c). Without
 * edge_rejoin the first loss is the last.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/edge_impl.h"

#define BURST              32
#define BURSTS_MAX         64
#define RETRY_NS           100000000u   /* between two attempts */
#define TURNED_AWAY_NS     1000000000u  /* and after one that somebody refused */
#define PORT_RETRY_NS      20000000u    /* between two looks at a port that waits for its peer */
#define SILENT_NS          3000000000u  /* means death sooner where others can go on */
#define ATTEMPT_TIMEOUT_NS 10000000000u /* default */

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

static double seconds(uint64_t ns)
{
    return (double)ns * 1e-9;
}

static uint64_t attempt_timeout(const struct edge *e)
{
    return e->p.rejoin.attempt_timeout_ns ? e->p.rejoin.attempt_timeout_ns : ATTEMPT_TIMEOUT_NS;
}

/* --- together --------------------------------------------------------------------------------- */

/* In the order of their numbers. */
static void open_sessions(struct edge *e, const struct edge_uplink *u)
{
    uint32_t done = 0;

    for (uint32_t n = 0; n < u->n_sessions; n++) {
        const struct edge_session *next = NULL;

        for (uint32_t i = 0; i < e->n_places; i++) {
            const struct edge_session *s = &e->sessions[i];

            if (s->uplink == u && s->state == EDGE_OPENING && s->number > done &&
                (!next || s->number < next->number))
                next = s;
        }
        if (!next)
            break;
        edge_send_open(e, next);
        done = next->number;
    }
}

int edge_join(struct edge_uplink *u, uint64_t now_ns)
{
    struct edge *e = u->edge;
    uint32_t connection = e->ever_joined ? 0 : e->p.link.connection;
    struct link_params link = e->p.link;
    int rc = connection ? 0 : pump_draw_connection(&connection);

    if (rc)
        return rc;
    if (u->asks && !link.dead_after_ns)
        link.dead_after_ns = SILENT_NS;
    rc = pump_open(&u->pump, u->port, &link, &u->security, &wire_path_edge, connection, now_ns);
    if (rc)
        return rc;
    pump_expect(&u->pump, e->p.max_sessions);
    u->pump.clock = e->clock;
    u->pump.clock_arg = e->clock_arg;
    e->p.link.epoch++; /* of the next one's first frames, where there are no keys */
    u->port_copied_before = u->port->stats.copied_bytes;
    edge_uplink_name_port(u);
    u->joined = e->ever_joined = true;
    u->met = u->unfit = u->has_status = u->behind = false;
    u->full_until_ns = 0;
    u->attempt_ns = now_ns;
    e->news = true;
    if (u->asks)
        edge_ask(u);
    open_sessions(e, u);
    return 0;
}

static size_t to_replay(const struct edge_uplink *u)
{
    const struct edge *e = u->edge;
    size_t n = 0;

    for (uint32_t i = 0; i < e->n_places; i++)
        n += edge_is_busy(&e->sessions[i]) && e->sessions[i].uplink == u ? e->sessions[i].history.n
                                                                         : 0;
    return n;
}

static void met(struct edge_uplink *u)
{
    struct edge *e = u->edge;

    u->met = true;
    u->met_ns = e->now_ns;
    u->refused_why[0] = 0;
    e->news = true;
    if (u->ever_met) {
        u->reconnections++;
        e->stats.reconnections++;
        if (u->n_sessions)
            edge_say(e,
                     "connected again after %.2f s (port %s): going on with %u answer%s, replaying "
                     "%.1f kB",
                     seconds(e->now_ns - u->lost_ns), u->where, u->n_sessions,
                     plural(u->n_sessions), (double)to_replay(u) * 1e-3);
        else
            edge_say(e, "connected again after %.2f s (port %s)", seconds(e->now_ns - u->lost_ns),
                     u->where);
    } else if (e->n_uplinks > 1) {
        edge_say(e, "connected (port %s)", u->where);
    }
    if (!e->ever_met)
        e->connect_by_ns = 0; /* the first wait is over; that for an id after a loss is another */
    u->ever_met = e->ever_met = true;
}

/* --- apart ------------------------------------------------------------------------------------ */

static void add_past(struct edge_uplink *u)
{
    struct link_stats s;

    link_stats(u->pump.link, &s);
    link_stats_add(&u->past, &s);
    link_stats_add(&u->edge->past, &s);
    u->edge->stats.port_copied_bytes += u->port->stats.copied_bytes - u->port_copied_before;
}

void edge_part(struct edge_uplink *u, const char *why)
{
    struct edge *e = u->edge;

    if (u->joined) {
        add_past(u);
        pump_close(&u->pump);
    }
    u->joined = u->met = false;
    edge_evict_all(e, u); /* another cloud knows nothing of them */
    e->news = true;
    for (uint32_t i = 0; i < e->n_places; i++) {
        if (edge_is_busy(&e->sessions[i]) && e->sessions[i].uplink == u)
            edge_leave(e, &e->sessions[i], why);
    }
}

/* A cloud that was never met and turns us away will do so again: say it at once, unless there are
 * others to ask. */
static bool may_rejoin(const struct edge_uplink *u, bool turned_away)
{
    const struct edge *e = u->edge;

    return e->p.rejoin.timeout_ns &&
           (u->ever_met || u->goes_on || e->n_uplinks > 1 || !turned_away);
}

/* The sessions that it had are placed elsewhere next, or where it is the only one there again. */
static void say_lost(const struct edge_uplink *u, const char *why, uint32_t n)
{
    struct edge *e = u->edge;

    if (n && edge_any_met(e))
        edge_say(e, "%s: %u answer%s on the way go%s on at others", why, n, plural(n),
                 n == 1 ? "es" : "");
    else if (n)
        edge_say(e, "%s: with %u answer%s on the way, waiting up to %.0f s for it or another", why,
                 n, plural(n), seconds(e->p.rejoin.timeout_ns));
    else
        edge_say(e, "%s: looking for it or another", why);
}

/* The connection is of no use any more. */
static void lost(struct edge_uplink *u, const char *why, bool turned_away)
{
    struct edge *e = u->edge;
    uint64_t now_ns = e->now_ns;
    uint32_t n = u->n_sessions, busy = e->n_busy;
    bool was_met = u->met;

    if (!may_rejoin(u, turned_away)) {
        edge_lose(e, "%s", why);
        return;
    }
    if (was_met || !u->ever_met) /* later attempts fail for want of a cloud */
        snprintf(u->lost_why, sizeof u->lost_why, "%s", why);
    else if (turned_away)
        snprintf(u->refused_why, sizeof u->refused_why, "%s", why);
    edge_part(u, "the cloud is lost, and no memory was left for this session's history");
    if (was_met) {
        u->lost_ns = now_ns;
        say_lost(u, why, n - smaller(n, busy - smaller(busy, e->n_busy)));
        if (e->n_busy && !edge_any_met(e) && !e->connect_by_ns)
            edge_await(e);
    }
    u->retry_ns = was_met ? now_ns : now_ns + (turned_away ? TURNED_AWAY_NS : RETRY_NS);
    u->attempt_ns = 0;
}

/* Before any cloud was met silence is waited for to the end, unless another address may have one.
 */
static bool may_try_next(const struct edge_uplink *u)
{
    return may_rejoin(u, u->port->caps.addresses < 2);
}

void edge_check_peer(struct edge_uplink *u)
{
    bool turned_away = pump_refused(&u->pump) || u->pump.dead;
    char why[PIPELINE_ERR] = "";

    if (!u->met && link_heard(u->pump.link) && !u->pump.dead) /* a CLOSE is no welcome */
        met(u);
    if (pump_refused(&u->pump))
        snprintf(why, sizeof why, "no connection to the cloud: %s (port %s)",
                 pump_refused(&u->pump), u->where);
    else if (u->pump.dead)
        snprintf(why, sizeof why, "the cloud is lost: %s (port %s)", u->pump.dead, u->where);
    else if (port_alive(u->port) == -EPIPE)
        snprintf(why, sizeof why, "the cloud is lost: its end of port %s is gone", u->where);
    else if (!u->met && may_try_next(u) &&
             u->edge->now_ns - u->attempt_ns >= attempt_timeout(u->edge))
        snprintf(why, sizeof why, "no cloud answers on port %s", u->where);
    edge_check_wait(u->edge);
    if (why[0] && !u->edge->lost)
        lost(u, why, turned_away);
}

/* --- waiting ---------------------------------------------------------------------------------- */

void edge_await(struct edge *e)
{
    e->connect_by_ns = e->now_ns + (e->ever_met ? e->p.rejoin.timeout_ns : e->p.connect_timeout_ns);
}

static void give_up(struct edge *e)
{
    const struct edge_uplink *u = edge_next_uplink(e, 0);

    if (!u)
        edge_lose(e, "no cloud took the answer within %.0f s: all that are known drain, don't fit or "
                     "don't answer",
                  seconds(e->ever_met ? e->p.rejoin.timeout_ns : e->p.connect_timeout_ns));
    else if (e->ever_met && e->n_uplinks > 1)
        edge_lose(e, "none of %u clouds answered within %.0f s; at the first: %s", e->n_uplinks,
                  seconds(e->p.rejoin.timeout_ns), u->lost_why[0] ? u->lost_why : "silence");
    else if (e->ever_met)
        edge_lose(e, "%s; none answered within %.0f s%s%s", u->lost_why,
                  seconds(e->p.rejoin.timeout_ns), u->refused_why[0] ? ", but one said: " : "",
                  u->refused_why);
    else if (u->goes_on)
        edge_lose(e, "no cloud answered at any of the ports within %.1f s%s%s",
                  seconds(e->p.connect_timeout_ns), u->lost_why[0] ? "; at the last one: " : "",
                  u->lost_why);
    else
        edge_lose(e, "no cloud answered on port %s within %.1f s: is it running, %s?", u->where,
                  seconds(e->p.connect_timeout_ns),
                  u->security.identity ? "and encrypted" : "and not encrypted either");
}

void edge_check_wait(struct edge *e)
{
    if (e->n_busy && e->connect_by_ns && e->now_ns >= e->connect_by_ns && !edge_any_met(e))
        give_up(e);
}

uint64_t edge_join_deadline(const struct edge_uplink *u)
{
    if (!u->joined)
        return u->retry_ns;
    if (!u->met && may_try_next(u))
        return u->attempt_ns + attempt_timeout(u->edge);
    return UINT64_MAX;
}

/* --- the next one ----------------------------------------------------------------------------- */

static bool wide_enough(struct edge_uplink *u)
{
    if (proto_tile_capacity(pump_payload_most(u->port)) >= u->edge->tile_capacity)
        return true;
    if (!u->narrow_said)
        edge_say(u->edge, "port %s carries less in a packet than the first one did: it is left out",
                 u->port->caps.name);
    u->narrow_said = true;
    return false;
}

/* A port that can be used, or NULL: then `retry_ns` says when to go on. */
static struct port *usable_port(struct edge_uplink *u, uint64_t now_ns)
{
    bool fresh = !u->attempt_ns || now_ns - u->attempt_ns >= attempt_timeout(u->edge);

    u->retry_ns = now_ns + RETRY_NS;
    if (fresh) {
        u->attempt_ns = now_ns;
        if (u->next_port)
            u->port = u->next_port(u->next_arg);
    }
    if (!u->port || !wide_enough(u)) {
        u->attempt_ns = 0;
        return NULL;
    }
    if (port_alive(u->port) != 1) { /* it waits for its peer */
        u->retry_ns = now_ns + PORT_RETRY_NS;
        return NULL;
    }
    return u->port;
}

/* Of connections that are over. Left there they would keep us from sleeping. */
static void drop_arrivals(struct edge_uplink *u)
{
    struct pkt *pkts[BURST];
    int n = BURST;

    for (int i = 0; i < BURSTS_MAX && n == BURST; i++) {
        n = port_rx(u->port, pkts, BURST);
        for (int k = 0; k < n; k++)
            pkt_unref(pkts[k]);
    }
}

void edge_poll_apart(struct edge_uplink *u)
{
    uint64_t now_ns = u->edge->now_ns;

    if (u->port)
        drop_arrivals(u);
    if (now_ns >= u->retry_ns && usable_port(u, now_ns) && edge_join(u, now_ns) < 0)
        u->attempt_ns = 0; /* out of memory: again in a while */
}
