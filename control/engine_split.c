/* SPDX-License-Identifier: Apache-2.0 */
#include "control/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct split {
    struct engine base;
    struct edge *edge;
};

static uint64_t split_clock(void *arg)
{
    (void)arg;
    return port_now_ns();
}

static int64_t split_submit(struct engine *e, const struct edge_request *r)
{
    return edge_submit(((struct split *)e)->edge, r, port_now_ns());
}

static void split_cancel(struct engine *e, int64_t session)
{
    edge_cancel(((struct split *)e)->edge, session);
}

/* Ends early for a signal: the caller looks at its signals next. */
static void wait_until(const struct edge *edge, uint64_t deadline_ns)
{
    struct port *port = NULL;
    if (edge_ports(edge, &port, 1))
        port_wait(port, deadline_ns);
    else
        port_rest(deadline_ns);
}

static int split_step(struct engine *e, uint64_t until_ns)
{
    struct split *s = (struct split *)e;
    uint64_t deadline_ns = 0;
    const int busy = edge_poll(s->edge, port_now_ns(), &deadline_ns);
    if (busy < 0)
        return busy;
    if (deadline_ns > until_ns)
        deadline_ns = until_ns;
    if (busy > 0 || e->stays)
        wait_until(s->edge, deadline_ns);
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
        .eal_rss_bytes = port_eal_rss_bytes(),
        .reconnections = es.reconnections,
        .replayed_bytes = es.replayed_bytes,
        .copied_bytes = es.copied_bytes,
        .port_copied_bytes = es.port_copied_bytes,
        .kept_bytes = es.kept_bytes,
        .ready = es.connected,
        .port = es.port,
        .cipher = es.cipher,
    };
}

static bool split_session(const struct engine *e, int64_t session, struct engine_session *out)
{
    const struct edge *edge = ((const struct split *)e)->edge;
    struct edge_result r;
    float parameter;
    if (edge_progress(edge, session, &r, &parameter) < 0)
        return false;
    *out = (struct engine_session){.n_shared = r.n_shared,
                                   .tile_bytes_up = r.tile_bytes_up,
                                   .rows_up = r.rows_up,
                                   .parameter = (double)parameter};
    struct port *port = NULL;
    if (edge_ports(edge, &port, 1))
        snprintf(out->worker, sizeof out->worker, "%s",
                 port->caps.peer[0] ? port->caps.peer : port->caps.name);
    return true;
}

static int split_retarget(struct engine *e, int64_t session, struct codec_rate_target target)
{
    return edge_retarget(((struct split *)e)->edge, session, target);
}

static struct edge *split_edge(const struct engine *e)
{
    return ((const struct split *)e)->edge;
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
    .edge = split_edge,
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
    *out = &s->base;
    return 0;
}
