/* SPDX-License-Identifier: Apache-2.0 */
#include "control/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct split {
    struct engine base;
    struct edge *edge;
    uint64_t (*each)(void *arg, struct edge *edge, uint64_t now_ns);
    void *each_arg;
    struct steer *steer; /* or NULL */
};

static uint64_t split_clock(void *arg)
{
    (void)arg;
    return port_now_ns();
}

static void split_told(void *arg)
{
    engine_told(arg);
}

static int64_t split_submit(struct engine *e, const struct edge_request *r)
{
    return edge_submit(((struct split *)e)->edge, r, port_now_ns());
}

static void split_cancel(struct engine *e, int64_t session)
{
    edge_cancel(((struct split *)e)->edge, session);
}

/* Its wait ends early for a signal: the caller looks at its signals next. */
static int split_step(struct engine *e, uint64_t until_ns)
{
    struct split *s = (struct split *)e;
    struct port *ports[EDGE_UPLINKS_MAX];
    uint64_t deadline_ns = 0;
    if (s->each) {
        const uint64_t again_ns = s->each(s->each_arg, s->edge, port_now_ns());
        until_ns = again_ns < until_ns ? again_ns : until_ns;
    }
    if (s->steer)
        steer_step(s->steer, s->edge, port_now_ns());
    const int busy = edge_poll(s->edge, port_now_ns(), &deadline_ns);
    engine_told(e); /* of sessions that ended as rows were chosen */
    if (busy < 0)
        return busy;
    if (deadline_ns > until_ns)
        deadline_ns = until_ns;
    if (busy > 0 || e->stays)
        port_wait_any(ports, edge_ports(s->edge, ports, EDGE_UPLINKS_MAX), deadline_ns);
    return busy;
}

static const char *split_error(const struct engine *e)
{
    return edge_error(((const struct split *)e)->edge);
}

static void split_stats(const struct engine *e, struct engine_stats *st)
{
    const struct split *s = (const struct split *)e;
    struct edge_stats es;
    edge_stats(s->edge, &es);
    *st = (struct engine_stats){
        .wire_bytes_up = es.link.tx_bytes,
        .wire_bytes_down = es.link.rx_bytes,
        .tile_bytes_up = es.codec.bytes,
        .rows_up = es.rows_up,
        .parameter = es.parameter,
        .link_rtt_ns_p50 = es.link.rtt_p50_ns,
        .packets_up = es.link.tx_packets,
        .packets_down = es.link.rx_packets,
        .retransmits = es.link.retransmits,
        .spurious = es.link.spurious,
        .lost_packets = link_lost_packets(&es.link),
        .mtu_bytes = es.link.mtu_bytes,
        .mtu_falls = es.link.mtu_falls,
        .cut = es.link.cut,
        .eal_rss_bytes = port_eal_rss_bytes(),
        .history_bytes = es.history_bytes,
        .reconnections = es.reconnections,
        .replayed_bytes = es.replayed_bytes,
        .moved = es.moved,
        .copied_bytes = es.copied_bytes,
        .port_copied_bytes = es.port_copied_bytes,
        .driver_copies = es.driver_copies,
        .kept_bytes = es.kept_bytes,
        .ready = es.connected,
        .port = es.port,
        .cipher = es.cipher,
    };
    if (s->steer)
        steer_view(s->steer, &st->adapt);
}

static bool split_session(const struct engine *e, int64_t session, struct engine_session *out)
{
    const struct edge *edge = ((const struct split *)e)->edge;
    struct edge_result r;
    float parameter;
    if (edge_progress(edge, session, &r, &parameter) < 0)
        return false;
    *out = (struct engine_session){.n_shared = r.n_shared,
                                   .kv = r.kv,
                                   .tile_bytes_up = r.tile_bytes_up,
                                   .rows_up = r.rows_up,
                                   .parameter = (double)parameter};
    struct edge_uplink_stats at;
    const int uplink = edge_session_uplink(edge, session);
    if (uplink >= 0 && edge_uplink_stats(edge, (uint32_t)uplink, &at) == 0)
        snprintf(out->worker, sizeof out->worker, "%s", at.name);
    return true;
}

static uint32_t split_uplinks(const struct engine *e, struct edge_uplink_stats *list, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < EDGE_UPLINKS_MAX && n < max; i++)
        n += edge_uplink_stats(((const struct split *)e)->edge, i, &list[n]) == 0;
    return n;
}

static int split_retarget(struct engine *e, int64_t session, struct codec_rate_target target)
{
    struct split *s = (struct split *)e;
    const int rc = edge_retarget(s->edge, session, target);
    if (rc == 0 && !target.kind && s->steer)
        steer_again(s->steer, s->edge);
    return rc;
}

static bool split_make_room(struct engine *e)
{
    return edge_make_room(((struct split *)e)->edge);
}

static void split_close(struct engine *e)
{
    struct split *s = (struct split *)e;
    edge_close(s->edge);
    free(s);
}

static const struct engine_ops split_ops = {
    .submit = split_submit,
    .cancel = split_cancel,
    .step = split_step,
    .error = split_error,
    .stats = split_stats,
    .close = split_close,
    .session = split_session,
    .retarget = split_retarget,
    .uplinks = split_uplinks,
    .make_room = split_make_room,
};

int engine_split(const struct edge_params *params, struct engine **out, char *err)
{
    struct split *s = calloc(1, sizeof *s);
    if (!s) {
        strcpy(err, "out of memory");
        return -ENOMEM;
    }
    s->base.ops = &split_ops;
    s->base.info = stage_info(params->stage);
    const int rc = edge_open(params, port_now_ns(), &s->edge, err);
    if (rc < 0) {
        free(s);
        return rc;
    }
    edge_set_clock(s->edge, split_clock, NULL);
    edge_on_told(s->edge, split_told, &s->base);
    *out = &s->base;
    return 0;
}

void engine_split_each(struct engine *e,
                       uint64_t (*each)(void *arg, struct edge *edge, uint64_t now_ns), void *arg)
{
    struct split *s = (struct split *)e;
    s->each = each;
    s->each_arg = arg;
}

void engine_split_steer(struct engine *e, struct steer *s)
{
    ((struct split *)e)->steer = s;
}

struct edge *engine_edge(struct engine *e)
{
    return e->ops == &split_ops ? ((struct split *)e)->edge : NULL;
}
