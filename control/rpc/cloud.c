/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/cloud.h"

#include "control/rpc/link_json.h"
#include "control/rpc/process.h"

static json_t *health(struct rpc_call *c)
{
    return json_pack("{s:s, s:b, s:s}", "health", "ready", "ready", 1, "why", "");
}

static json_t *stats(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    const struct stage_info *info = stage_info(r->stage);
    struct fingerprint last;
    struct cloud_stats s;
    cloud_stats(r->cloud, &s);
    json_t *o = json_pack("{s:s, s:f, s:f, s:i, s:i, s:i}", "health", "ready", "now_s",
                          (double)port_now_ns() / 1e9, "uptime_s",
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
        {"rtt_ms", rpc_ms(s.link.rtt_p50_ns)},
        {"loss", rpc_ratio((double)s.link.retransmits, (double)s.link.tx_packets)},
        {"wire_bytes", rpc_count(s.link.tx_bytes + s.link.rx_bytes)},
        {"port", json_string(r->port)},
        {"cipher", json_string(r->cipher)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

static json_t *link_stats_of(struct rpc_call *c)
{
    const struct rpc_cloud *r = c->arg;
    struct cloud_stats s;
    cloud_stats(r->cloud, &s);
    return link_json(&s.link, r->port, r->cipher, s.tokens);
}

const struct rpc_method cloud_methods[] = {
    {"health", RPC_USER, "Whether it serves", NULL, true, health},
    {"stats", RPC_USER, "Sessions, rows, tokens, cache", NULL, true, stats},
    {"link.stats", RPC_USER, "The link to the edge: round trip, loss, bytes", NULL, true,
     link_stats_of},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
