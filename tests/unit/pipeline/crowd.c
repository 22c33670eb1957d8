/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pipeline/crowd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what, const char *why)
{
    fprintf(stderr, "crowd: %s: %s\n", what, why);
    abort();
}

const struct identity *crowd_identity(uint32_t edge)
{
    static struct identity *ids[CROWD_MAX];

    if (!ids[edge] && identity_new(&ids[edge]))
        die("identity_new", "");
    return ids[edge];
}

struct authorized *crowd_list(const struct crowd_params *p, uint32_t mask)
{
    char text[CROWD_MAX * 160], print[FINGERPRINT_TEXT], err[IDENTITY_ERR] = "";
    struct authorized *list;
    size_t n = 0;

    for (uint32_t i = 0; i < CROWD_MAX; i++) {
        if (mask >> i & 1)
            n +=
                (size_t)snprintf(text + n, sizeof text - n, "e%u %s %s\n", i,
                                 fingerprint_format(identity_fingerprint(crowd_identity(i)), print),
                                 p->limits[i] ? p->limits[i] : "");
    }
    if (authorized_parse(text, n, "list", &list, err))
        die("authorized_parse", err);
    return list;
}

static void cloud_says(void *arg, const char *line)
{
    struct crowd *c = arg;
    const size_t n = strlen(c->all_said);

    snprintf(c->said, sizeof c->said, "%s", line);
    snprintf(c->all_said + n, sizeof c->all_said - n, "%s\n", line);
}

static uint64_t crowd_clock(void *arg)
{
    const struct crowd *c = arg;

    for (uint32_t i = 0; i < c->p.n_edges; i++)
        network_set_now(c->edges[i].network, c->now_ns);
    return c->now_ns;
}

void crowd_start_cloud(struct crowd *c)
{
    char err[PIPELINE_ERR] = "";
    struct cloud_params cp = {
        .stage = c->stage,
        .port = hub_port(c->hub),
        .codec = codec_params_default(CODEC_F32),
        .link = c->p.cloud_link,
        .max_sessions = c->p.cloud_sessions,
        .max_edges = c->p.max_edges,
        .say = cloud_says,
        .say_arg = c,
    };

    if (c->p.secure)
        cp.security = (struct pipeline_security){rig_identity(true), c->list};
    if (cloud_open(&cp, c->now_ns, &c->cloud, err))
        die("cloud_open", err);
    if (c->p.edge.hook)
        cloud_set_clock(c->cloud, crowd_clock, c);
}

/* What is said meanwhile is lost. */
static void deafen(struct crowd *c, uint32_t i, bool deaf)
{
    const struct network_params none = {.drop = 1};

    network_set_params(c->edges[i].network, deaf ? &none : &c->p.edge.network);
}

void crowd_kill_cloud(struct crowd *c)
{
    for (uint32_t i = 0; i < c->p.n_edges; i++)
        deafen(c, i, true);
    cloud_close(c->cloud);
    c->cloud = NULL;
    for (uint32_t i = 0; i < c->p.n_edges; i++)
        deafen(c, i, false);
}

void crowd_start_edge(struct crowd *c, uint32_t i)
{
    c->edges[i].now_ns = c->now_ns;
    rig_start_edge(&c->edges[i]);
}

void crowd_kill_edge(struct crowd *c, uint32_t i)
{
    deafen(c, i, true);
    edge_close(c->edges[i].edge);
    c->edges[i].edge = NULL;
    deafen(c, i, false);
}

void crowd_open(struct crowd *c, const struct crowd_params *p)
{
    *c = (struct crowd){.p = *p, .now_ns = RIG_MS};
    c->p.cloud_stage.now_ns = &c->now_ns;
    c->p.cloud_stage.max_seqs = p->cloud_sessions + p->cloud_lingering;
    c->hub = hub_open(p->pool_packets ? p->pool_packets : 2048, p->edge.mtu ? p->edge.mtu : 1500);
    c->stage = fake_open(true, &c->p.cloud_stage, NULL);
    for (uint32_t i = 0; i < p->n_edges; i++) {
        struct rig_params rp = p->edge;

        rp.seed += i;
        if (p->heads)
            rp.edge_stage.head = p->heads >> i & 1 ? STAGE_HEAD_WITH : STAGE_HEAD_WITHOUT;
        if (p->secure)
            rp.edge_security = (struct pipeline_security){crowd_identity(i), rig_peers(false)};
        rp.secure = p->secure;
        rig_open(&c->edges[i], &rp);
        c->edges[i].now_ns = c->now_ns;
        network_port(c->edges[i].network, 0)->caps.tells_loss = false;
        hub_add(c->hub, c->edges[i].network);
    }
    if (p->secure)
        c->list = crowd_list(p, (1u << p->n_edges) - 1);
    for (uint32_t i = 0; i < p->n_edges; i++)
        crowd_start_edge(c, i);
    crowd_start_cloud(c);
}

void crowd_close(struct crowd *c)
{
    for (uint32_t i = 0; i < c->p.n_edges; i++) {
        edge_close(c->edges[i].edge);
        c->edges[i].edge = NULL;
    }
    cloud_close(c->cloud);
    if (fake_counts(c->stage)->open_seqs)
        die("crowd_close", "a sequence was left open");
    stage_close(c->stage);
    hub_close(c->hub);
    for (uint32_t i = 0; i < c->p.n_edges; i++)
        rig_close(&c->edges[i]);
    authorized_close(c->list);
}

void crowd_step(struct crowd *c)
{
    uint64_t next = UINT64_MAX, at;

    for (uint32_t i = 0; i < c->p.n_edges; i++) {
        struct rig *r = &c->edges[i];

        network_set_now(r->network, c->now_ns);
        r->now_ns = c->now_ns;
        if (r->edge) {
            r->edge_rc = edge_poll(r->edge, r->now_ns, &at);
            next = at < next ? at : next;
        } else if (!c->foreign[i]) {
            network_drain(r->network, 0);
        }
        network_set_now(r->network, c->now_ns); /* its stage has moved its own clock only */
    }
    if (c->cloud) {
        (void)cloud_poll(c->cloud, c->now_ns, &at);
        next = at < next ? at : next;
    }
    for (uint32_t i = 0; i < c->p.n_edges; i++) {
        for (int side = 0; side < 2; side++) {
            at = side && !c->cloud ? UINT64_MAX : network_next(c->edges[i].network, side);
            next = at < next ? at : next;
        }
    }
    if (next == UINT64_MAX)
        next = c->now_ns + RIG_MS;
    c->now_ns = next > c->now_ns ? next : c->now_ns + 1000;
}

void crowd_run_for(struct crowd *c, uint64_t ns)
{
    const uint64_t until = c->now_ns + ns;

    while (c->now_ns < until)
        crowd_step(c);
}
