/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/cloud.h"

#include <stdio.h>
#include <stdlib.h>

#include "control/rpc/link_json.h"
#include "control/rpc/process.h"

#define EDGES_MAX 256u

static json_t *health(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    struct cloud_stats s;
    cloud_stats(r->cloud, &s);
    return json_pack("{s:s, s:b, s:s}", "health", s.draining ? "draining" : "ready", "ready",
                     !s.draining, "why", s.draining ? "it was told to take no new sessions" : "");
}

static json_t *stats(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    const struct stage_info *info = stage_info(r->stage);
    const enum kv_format asked = r->budget ? budget_kv_asked(r->budget) : KV_F16;
    struct fingerprint last;
    struct cloud_stats s;
    cloud_stats(r->cloud, &s);
    json_t *o =
        json_pack("{s:s, s:f, s:f, s:i, s:i, s:i}", "health", s.draining ? "draining" : "ready",
                  "now_s", (double)port_now_ns() / 1e9, "uptime_s",
                  (double)(port_now_ns() - r->started_ns) / 1e9, "running", (int)s.sessions,
                  "lingering", (int)s.lingering, "max_sessions", (int)r->max_sessions);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"rows", rpc_count(s.rows)},
        {"generated_tokens", rpc_count(s.tokens)},
        {"shared_tokens", rpc_count(s.shared)},
        {"refused", rpc_count(s.refused)},
        {"strangers", rpc_count(cloud_strangers(r->cloud, &last))},
        {"kv_bytes", rpc_count(info->kv_bytes)},
        {"kv_budget_bytes", rpc_count(info->kv_budget_bytes)},
        {"kv_asked", asked ? json_string(kv_format_name(asked)) : json_null()},
        {"memory_step", r->budget ? json_string(budget_rung_name(r->budget->rung)) : json_null()},
        {"memory_steps", rpc_count(r->budget ? r->budget->steps : 0)},
        {"edges", rpc_count(s.edges)},
        {"edges_joined", rpc_count(s.edges_joined)},
        {"edges_left", rpc_count(s.edges_left)},
        {"edges_turned_away", rpc_count(s.turned_away)},
        {"loss", rpc_ratio((double)link_lost_packets(&s.link), (double)s.link.tx_packets)},
        {"wire_bytes", rpc_count(s.link.tx_bytes + s.link.rx_bytes)},
        {"copied_bytes", rpc_count(link_copied_bytes(&s.link))},
        {"port", json_string(r->port)},
        {"cipher", json_string(r->cipher)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

/* Of all edges so far. */
static json_t *link_stats_of(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    struct cloud_stats s;
    cloud_stats(r->cloud, &s);
    return link_json(&s.link, r->port, r->cipher, s.tokens);
}

static json_t *edge_json(const struct cloud_link *l, uint64_t now_ns)
{
    char peer[FINGERPRINT_TEXT] = "", at[64];
    const uint32_t ip = l->path.dst_ip;
    if (l->encrypted)
        fingerprint_format(&l->peer, peer);
    snprintf(at, sizeof at, "%u.%u.%u.%u:%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255,
             l->path.dst_port);
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:I}", "name", l->encrypted ? l->name : "", "at",
                          at, "sessions", (int)l->sessions, "lingering", (int)l->lingering,
                          "kv_bytes", (json_int_t)l->kv_bytes);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"age_ms", rpc_ms(now_ns - l->joined_ns)},
        {"silent_ms", rpc_ms(l->silent_ns)},
        {"rtt_ms", rpc_known_ms(l->link.rtt_p50_ns)},
        {"loss", rpc_ratio((double)link_lost_packets(&l->link), (double)l->link.tx_packets)},
        {"wire_bytes_per_answer_token",
         rpc_ratio((double)(l->link.tx_bytes + l->link.rx_bytes), (double)l->tokens)},
        {"rows", rpc_count(l->rows)},
        {"tokens", rpc_count(l->tokens)},
        {"held_packets", rpc_count(l->held_packets)},
        {"fingerprint", json_string(peer)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

static json_t *edges_list(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    struct cloud_link *list = malloc(EDGES_MAX * sizeof *list);
    json_t *o = list ? json_array() : NULL;
    const uint32_t n = list ? cloud_links(r->cloud, list, EDGES_MAX) : 0;
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(o, edge_json(&list[i], port_now_ns()));
    free(list);
    return o;
}

static json_t *set_drain(struct rpc_call *c, bool draining)
{
    const struct rpc_cloud *r = c->arg;
    struct cloud_stats s;
    cloud_drain(r->cloud, draining);
    cloud_stats(r->cloud, &s);
    return json_pack("{s:b, s:i, s:i}", "draining", draining, "running", (int)s.sessions, "edges",
                     (int)s.edges);
}

static json_t *drain(struct rpc_call *c)
{
    return set_drain(c, true);
}

static json_t *undrain(struct rpc_call *c)
{
    return set_drain(c, false);
}

const struct rpc_method cloud_methods[] = {
    {"health", RPC_USER, "Whether it serves", NULL, true, health},
    {"stats", RPC_USER, "Sessions, rows, tokens, cache", NULL, true, stats},
    {"link.stats", RPC_USER, "The links of all edges so far, together", NULL, true, link_stats_of},
    {"edges.list", RPC_USER, "The edges that have joined, and what they have here", NULL, true,
     edges_list},
    {"drain", RPC_OPERATOR, "Take no new sessions; an edge with another cloud moves there", NULL,
     true, drain},
    {"undrain", RPC_OPERATOR, "Take sessions again", NULL, true, undrain},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
