/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The edge's connection, and the next one when it is lost.
 *
 *   apart --a port is there--> joined --the cloud was heard--> met
 *     ^                          |                              |
 *     +------ no answer, --------+-------- silence, reset, -----+
 *             refused                      closed, port gone
 *
 * Each connection has a number and, with encryption, a handshake and keys of its own, so nothing of
 * the last one can be taken for this one's. Sessions wait meanwhile; once joined each is opened
 * again and replayed (edge_replay.c). Without edge_rejoin the first loss is the last.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/pipeline/edge_impl.h"

#define BURST              32
#define BURSTS_MAX         64
#define RETRY_NS           100000000u   /* between two attempts */
#define TURNED_AWAY_NS     1000000000u  /* and after one that somebody refused */
#define PORT_RETRY_NS      20000000u    /* between two looks at a port that waits for its peer */
#define ATTEMPT_TIMEOUT_NS 10000000000u /* default */

__attribute__((format(printf, 2, 3))) static void say(struct edge *e, const char *format, ...)
{
    char line[PIPELINE_ERR + 128];
    va_list args;

    if (!e->p.rejoin.say)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    e->p.rejoin.say(e->p.rejoin.arg, line);
}

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

/* In the order of their numbers, as the cloud wants it. */
static void open_sessions(struct edge *e)
{
    uint32_t done = 0;

    for (uint32_t n = 0; n < e->n_busy; n++) {
        const struct edge_session *next = NULL;

        for (uint32_t i = 0; i < e->n_places; i++) {
            const struct edge_session *s = &e->sessions[i];

            if (s->state == EDGE_OPENING && s->id > done && (!next || s->id < next->id))
                next = s;
        }
        if (!next)
            break;
        edge_send_open(e, next);
        done = next->id;
    }
}

int edge_join(struct edge *e, uint64_t now_ns)
{
    uint32_t connection = e->ever_joined ? 0 : e->p.link.connection;
    int rc = connection ? 0 : pump_draw_connection(&connection);

    if (rc)
        return rc;
    rc = pump_open(&e->pump, e->p.port, &e->p.link, &e->p.security, &wire_path_edge, connection,
                   now_ns);
    if (rc)
        return rc;
    e->pump.clock = e->clock;
    e->pump.clock_arg = e->clock_arg;
    e->p.link.epoch++; /* of the next one, where there are no keys */
    e->port_name = e->p.port->caps.name;
    e->port_copied_before = e->p.port->stats.copied_bytes;
    snprintf(e->port_text, sizeof e->port_text, "%.16s%s%s", e->port_name,
             e->p.port->caps.peer[0] ? " at " : "", e->p.port->caps.peer);
    e->joined = e->ever_joined = true;
    e->met = false;
    e->attempt_ns = now_ns;
    open_sessions(e);
    return 0;
}

static size_t to_replay(const struct edge *e)
{
    size_t n = 0;

    for (uint32_t i = 0; i < e->n_places; i++)
        n += edge_is_busy(&e->sessions[i]) ? e->sessions[i].history.n : 0;
    return n;
}

static void met(struct edge *e)
{
    e->met = true;
    e->refused_why[0] = 0;
    if (e->ever_met) {
        e->stats.reconnections++;
        if (e->n_busy)
            say(e,
                "connected again after %.2f s (port %s): going on with %u answer%s, replaying %.1f "
                "kB",
                seconds(e->pump.now_ns - e->lost_ns), e->port_text, e->n_busy, plural(e->n_busy),
                (double)to_replay(e) * 1e-3);
        else
            say(e, "connected again after %.2f s (port %s)", seconds(e->pump.now_ns - e->lost_ns),
                e->port_text);
    } else {
        e->connect_by_ns = 0; /* the first wait is over; that for an id after a loss is another */
    }
    e->ever_met = true;
}

/* --- apart ------------------------------------------------------------------------------------ */

static void add_past(struct edge *e)
{
    struct link_stats s;

    link_stats(e->pump.link, &s);
    e->past.tx_packets += s.tx_packets;
    e->past.tx_bytes += s.tx_bytes;
    e->past.tx_messages += s.tx_messages;
    e->past.retransmits += s.retransmits;
    e->past.rx_packets += s.rx_packets;
    e->past.rx_bytes += s.rx_bytes;
    e->past.rx_messages += s.rx_messages;
    for (unsigned c = 0; c < sizeof s.copied_bytes / sizeof s.copied_bytes[0]; c++)
        e->past.copied_bytes[c] += s.copied_bytes[c];
    e->stats.port_copied_bytes += e->p.port->stats.copied_bytes - e->port_copied_before;
}

/* Back to a state that another connection can go on from. */
static void part(struct edge *e)
{
    e->n_items = e->next_item = 0; /* computed for a cloud that is gone */
    e->joined = e->met = false;
    add_past(e);
    pump_close(&e->pump);
    edge_evict_all(e); /* another cloud knows nothing of them */
    e->news = true;
    for (uint32_t i = 0; i < e->n_places; i++) {
        struct edge_session *s = &e->sessions[i];

        if (edge_is_busy(s) && !edge_rewind(e, s))
            edge_end_session(
                e, s, EDGE_LOST,
                "the cloud is lost, and no memory was left for this session's history");
    }
}

/* A cloud that was never met and turns us away will do so again: say it at once, unless there are
 * others to ask. */
static bool may_rejoin(const struct edge *e, bool turned_away)
{
    return e->p.rejoin.timeout_ns && (e->ever_met || e->p.rejoin.several || !turned_away);
}

/* The connection is of no use any more. */
static void lost(struct edge *e, const char *why, bool turned_away)
{
    uint64_t now_ns = e->pump.now_ns;
    bool was_met = e->met;

    if (!may_rejoin(e, turned_away)) {
        edge_lose(e, "%s", why);
        return;
    }
    if (was_met || !e->ever_met) /* later attempts fail for want of a cloud */
        snprintf(e->lost_why, sizeof e->lost_why, "%s", why);
    else if (turned_away)
        snprintf(e->refused_why, sizeof e->refused_why, "%s", why);
    part(e);
    if (was_met) {
        e->lost_ns = now_ns;
        if (e->n_busy)
            say(e, "%s: with %u answer%s on the way, waiting up to %.0f s for it or another", why,
                e->n_busy, plural(e->n_busy), seconds(e->p.rejoin.timeout_ns));
        else
            say(e, "%s: looking for it or another", why);
        if (e->n_busy && !e->connect_by_ns)
            edge_await(e, now_ns);
    }
    e->retry_ns = was_met ? now_ns : now_ns + (turned_away ? TURNED_AWAY_NS : RETRY_NS);
    e->attempt_ns = 0;
}

void edge_await(struct edge *e, uint64_t now_ns)
{
    e->connect_by_ns = now_ns + (e->ever_met ? e->p.rejoin.timeout_ns : e->p.connect_timeout_ns);
}

static bool timed_out(const struct edge *e)
{
    return !e->met && e->n_busy && e->connect_by_ns && e->pump.now_ns >= e->connect_by_ns;
}

static void give_up(struct edge *e)
{
    if (e->ever_met)
        edge_lose(e, "%s; none answered within %.0f s%s%s", e->lost_why,
                  seconds(e->p.rejoin.timeout_ns), e->refused_why[0] ? ", but one said: " : "",
                  e->refused_why);
    else if (e->p.rejoin.several)
        edge_lose(e, "no cloud answered at any of the ports within %.1f s%s%s",
                  seconds(e->p.connect_timeout_ns), e->lost_why[0] ? "; at the last one: " : "",
                  e->lost_why);
    else
        edge_lose(e, "no cloud answered on port %s within %.1f s: is it running, %s?", e->port_text,
                  seconds(e->p.connect_timeout_ns),
                  e->p.security.identity ? "and encrypted" : "and not encrypted either");
}

/* Before any cloud was met silence is waited for to the end, unless another address may have one.
 */
static bool may_try_next(const struct edge *e)
{
    return may_rejoin(e, e->p.port->caps.addresses < 2);
}

void edge_check_peer(struct edge *e)
{
    bool turned_away = pump_refused(&e->pump) || e->pump.dead;
    char why[PIPELINE_ERR] = "";

    if (!e->met && link_heard(e->pump.link) && !e->pump.dead) /* a CLOSE is no welcome */
        met(e);
    if (pump_refused(&e->pump))
        snprintf(why, sizeof why, "no connection to the cloud: %s (port %s)",
                 pump_refused(&e->pump), e->port_text);
    else if (e->pump.dead)
        snprintf(why, sizeof why, "the cloud is lost: %s (port %s)", e->pump.dead, e->port_text);
    else if (port_alive(e->p.port) == -EPIPE)
        snprintf(why, sizeof why, "the cloud is lost: its end of port %s is gone", e->port_text);
    else if (!e->met && may_try_next(e) && e->pump.now_ns - e->attempt_ns >= attempt_timeout(e))
        snprintf(why, sizeof why, "no cloud answers on port %s", e->port_text);
    if (timed_out(e))
        give_up(e);
    else if (why[0])
        lost(e, why, turned_away);
}

uint64_t edge_join_deadline(const struct edge *e)
{
    uint64_t at = UINT64_MAX;

    if (e->met)
        return at;
    if (e->n_busy && e->connect_by_ns)
        at = e->connect_by_ns;
    if (may_try_next(e) && e->attempt_ns + attempt_timeout(e) < at)
        at = e->attempt_ns + attempt_timeout(e);
    return at;
}

/* --- the next one ----------------------------------------------------------------------------- */

/* A port that can be used, or NULL: then `retry_ns` says when to go on. */
static struct port *usable_port(struct edge *e, uint64_t now_ns)
{
    const struct edge_rejoin *j = &e->p.rejoin;
    bool fresh = !e->attempt_ns || now_ns - e->attempt_ns >= attempt_timeout(e);

    e->retry_ns = now_ns + RETRY_NS;
    if (fresh) {
        e->attempt_ns = now_ns;
        if (j->next_port)
            e->p.port = j->next_port(j->arg);
        if (e->p.port && edge_tile_capacity(e->p.port) < e->tile_capacity) {
            if (!e->narrow_said)
                say(e, "port %s carries less in a packet than the first one did: it is left out",
                    e->p.port->caps.name);
            e->narrow_said = true;
            e->attempt_ns = 0;
            return NULL;
        }
    }
    if (!e->p.port) {
        e->attempt_ns = 0;
        return NULL;
    }
    if (port_alive(e->p.port) != 1) { /* it waits for its peer */
        e->retry_ns = now_ns + PORT_RETRY_NS;
        return NULL;
    }
    return e->p.port;
}

/* Of connections that are over. Left there they would keep us from sleeping. */
static void drop_arrivals(struct edge *e)
{
    struct pkt *pkts[BURST];
    int n = BURST;

    for (int i = 0; i < BURSTS_MAX && n == BURST; i++) {
        n = port_rx(e->p.port, pkts, BURST);
        for (int k = 0; k < n; k++)
            pkt_unref(pkts[k]);
    }
}

void edge_poll_apart(struct edge *e, uint64_t now_ns, uint64_t *deadline_ns)
{
    if (now_ns > e->pump.now_ns)
        e->pump.now_ns = now_ns;
    if (timed_out(e)) {
        give_up(e);
        return;
    }
    if (e->p.port)
        drop_arrivals(e);
    if (now_ns >= e->retry_ns && usable_port(e, now_ns) && edge_join(e, now_ns) < 0)
        e->attempt_ns = 0; /* out of memory: again in a while */
    *deadline_ns = e->joined ? now_ns : e->retry_ns;
    if (e->n_busy && e->connect_by_ns && e->connect_by_ns < *deadline_ns)
        *deadline_ns = e->connect_by_ns;
}
