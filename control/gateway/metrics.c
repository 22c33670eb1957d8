/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics page: Prometheus' text format 0.0.4. */
#include <string.h>

#include "control/commit.h"
#include "control/gateway/impl.h"
#include "dataplane/port.h"

static void about(struct out *o, const char *name, const char *type, const char *help)
{
    out_format(o, "# HELP isthmus_%s %s\n# TYPE isthmus_%s %s\n", name, help, name, type);
}

static void one(struct out *o, const char *name, const char *type, const char *help, double v)
{
    about(o, name, type, help);
    out_format(o, "isthmus_%s %.17g\n", name, v);
}

static void count(struct out *o, const char *name, const char *help, uint64_t v)
{
    about(o, name, "counter", help);
    out_format(o, "isthmus_%s %llu\n", name, (unsigned long long)v);
}

static void gauge(struct out *o, const char *name, const char *help, double v)
{
    one(o, name, "gauge", help, v);
}

static void histogram(struct out *o, const char *name, const char *help,
                      const struct service_histogram *h)
{
    uint64_t n = 0;
    about(o, name, "histogram", help);
    for (unsigned i = 0; i < SERVICE_BUCKETS; i++) {
        n += h->counts[i];
        out_format(o, "isthmus_%s_bucket{le=\"%g\"} %llu\n", name, h->bounds_s[i],
                   (unsigned long long)n);
    }
    n += h->counts[SERVICE_BUCKETS];
    out_format(o, "isthmus_%s_bucket{le=\"+Inf\"} %llu\nisthmus_%s_sum %.9g\nisthmus_%s_count %llu\n",
               name, (unsigned long long)n, name, h->sum_s, name, (unsigned long long)n);
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void seconds(struct out *o, const struct service_stats *s)
{
    histogram(o, "time_to_first_token_seconds",
              "From a request's submission to its first token, waiting included.", &s->ttft);
    histogram(o, "inter_token_latency_seconds", "From one token of an answer to the next.",
              &s->inter_token);
    histogram(o, "request_duration_seconds",
              "From a request's submission to its last token, of answers that came to their end.",
              &s->end_to_end);
}

static void requests(struct out *o, const struct service_stats *s)
{
    static const char *const finish[] = {
        [EDGE_LENGTH] = "length",   [EDGE_STOP] = "stop", [EDGE_CANCELLED] = "cancelled",
        [EDGE_REFUSED] = "refused", [EDGE_LOST] = "lost",
    };
    gauge(o, "requests_waiting", "Requests that wait for a session.", s->waiting);
    gauge(o, "requests_running", "Requests that are being answered.", s->running);
    gauge(o, "requests_running_max", "Sessions at once, at most.", s->max_sessions);
    gauge(o, "requests_waiting_max", "Requests that may wait; beyond them, 429.", s->max_waiting);
    count(o, "requests_total", "Requests that were taken.", s->requests);
    count(o, "requests_rejected_total", "Requests refused for want of room.", s->rejected);
    about(o, "requests_finished_total", "counter", "Requests that ended, by how.");
    for (unsigned i = 0; i <= EDGE_LOST; i++)
        out_format(o, "isthmus_requests_finished_total{reason=\"%s\"} %llu\n", finish[i],
                   (unsigned long long)s->finished[i]);
    count(o, "prompt_tokens_total", "Tokens of prompts.", s->prompt_tokens);
    count(o, "prompt_tokens_shared_total",
          "Tokens of prompts that another session's cache had already.", s->shared_tokens);
    count(o, "generation_tokens_total", "Tokens generated.", s->generated_tokens);
}

static void cache(struct out *o, const struct service_stats *s)
{
    gauge(o, "kv_cache_usage_ratio", "Of the cache's budget, what is held.",
          ratio((double)s->kv_bytes, (double)s->kv_budget_bytes));
    gauge(o, "kv_cache_used_bytes", "Cache held.", (double)s->kv_bytes);
    gauge(o, "kv_cache_budget_bytes", "Cache that may be held.", (double)s->kv_budget_bytes);
}

static void the_link(struct out *o, const struct service_stats *s)
{
    const struct engine_stats *e = &s->engine;
    gauge(o, "link_up", "Whether a cloud is there, or none is needed.", e->ready);
    gauge(o, "link_rtt_seconds", "Round trip to the cloud, its median.",
          (double)e->link_rtt_ns_p50 * 1e-9);
    count(o, "link_packets_sent_total", "Packets sent, those sent again among them.",
          e->packets_up);
    count(o, "link_packets_received_total", "Packets received.", e->packets_down);
    count(o, "link_packets_retransmitted_total", "Packets taken for lost, and sent again.",
          e->retransmits);
    count(o, "link_packets_spurious_total",
          "Packets that the peer says came more than once: of those sent again, as many were late, "
          "not lost.",
          e->spurious);
    gauge(o, "link_loss_ratio", "Of the packets sent, those that were lost, since the start.",
          ratio((double)e->lost_packets, (double)e->packets_up));
    count(o, "link_sent_bytes_total", "Whole frames sent.", e->wire_bytes_up);
    count(o, "link_received_bytes_total", "Whole frames received.", e->wire_bytes_down);
    count(o, "link_rows_total", "Rows of hidden state sent, one a token.", e->rows_up);
    count(o, "link_payload_bytes_total", "Compressed rows sent, without the link's own heads.",
          e->tile_bytes_up);
    gauge(o, "link_bytes_per_token",
          "Compressed bytes of a row sent, one a token, on average since the start.",
          ratio((double)e->tile_bytes_up, (double)e->rows_up));
    count(o, "link_reconnections_total", "Times that the cloud was lost and found again.",
          e->reconnections);
}

static void fleet(struct out *o, const struct service_stats *s)
{
    const struct fleet_counts *c = &s->fleet;
    about(o, "workers", "gauge",
          "Clouds that are known, by what they are to this edge: each is one of these.");
    for (unsigned i = 0; i < FLEET_STATES; i++)
        out_format(o, "isthmus_workers{state=\"%s\"} %u\n", fleet_state_name(i), c->n[i]);
    about(o, "worker_up", "gauge",
          "Whether this worker of a registry is connected, of those that the edge has or tries.");
    for (uint32_t i = 0; i < c->n_uplinks; i++)
        out_format(o, "isthmus_worker_up{worker=\"%s\"} %d\n", c->uplinks[i].name,
                   c->uplinks[i].up);
    count(o, "sessions_moved_total", "Sessions that went on at another cloud than before.",
          s->engine.moved);
}

static const char *endpoint_name(enum endpoint at)
{
    static const char *const names[ENDPOINTS] = {
        [AT_MODELS] = "models", [AT_COMPLETIONS] = "completions", [AT_CHAT] = "chat",
        [AT_HEALTH] = "healthz", [AT_READY] = "readyz",           [AT_METRICS] = "metrics",
        [AT_NOWHERE] = "none",
    };
    return names[at];
}

static void http(struct out *o, const struct gateway *g)
{
    about(o, "http_requests_total", "counter",
          "HTTP requests, by endpoint and status; 499: the client went first.");
    for (unsigned at = 0; at < ENDPOINTS; at++) {
        for (unsigned i = 0; i < GATEWAY_CODES; i++) {
            const uint64_t n = g->counts.requests[at][i];
            if (n == 0 && gateway_codes[i] != 200)
                continue;
            out_format(o, "isthmus_http_requests_total{endpoint=\"%s\",code=\"", endpoint_name(at));
            out_format(o, gateway_codes[i] ? "%u" : "other", gateway_codes[i]);
            out_format(o, "\"} %llu\n", (unsigned long long)n);
        }
    }
    gauge(o, "http_connections", "Connections that are open.", g->n_clients);
    count(o, "http_connections_total", "Connections accepted.", g->counts.connections);
    count(o, "http_timeouts_total", "Connections closed for being slow.", g->counts.timeouts);
}

void gateway_metrics(struct gateway *g, struct out *o)
{
    struct service_stats s;
    service_stats(g->context.service, &s);
    about(o, "build_info", "gauge", "What runs here.");
    out_format(o, "isthmus_build_info{version=\"%s\",commit=\"%s\",port=\"%s\",cipher=\"%s\"} 1\n",
               ISTHMUS_VERSION, ISTHMUS_COMMIT, s.engine.port ? s.engine.port : "none",
               s.engine.cipher ? s.engine.cipher : "none");
    gauge(o, "ready", "Whether requests are taken.", s.health == SERVICE_READY);
    gauge(o, "uptime_seconds", "Since the service was opened.",
          (double)(port_now_ns() - s.started_ns) * 1e-9);
    seconds(o, &s);
    requests(o, &s);
    cache(o, &s);
    the_link(o, &s);
    fleet(o, &s);
    http(o, g);
}
