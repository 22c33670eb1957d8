/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/edge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/adapt/show.h"
#include "control/codec_arg.h"
#include "control/rpc/link_json.h"
#include "control/rpc/process.h"

#define NO_LINK "the whole model is in this process: there is no link"

static const char *const health_names[] = {
    [SERVICE_STARTING] = "starting",
    [SERVICE_READY] = "ready",
    [SERVICE_DRAINING] = "draining",
    [SERVICE_CLOUD_LOST] = "cloud lost",
};

static struct service *service_of(const struct rpc_call *c)
{
    return ((const struct rpc_edge *)c->arg)->service;
}

static struct edge *edge_of(const struct rpc_call *c)
{
    struct engine *e = ((const struct rpc_edge *)c->arg)->front->engine;
    return e ? engine_edge(e) : NULL;
}

static json_t *health(struct rpc_call *c)
{
    const char *why;
    const enum service_health h = service_health(service_of(c), &why);
    return json_pack("{s:s, s:b, s:s}", "health", health_names[h], "ready", h == SERVICE_READY,
                     "why", why);
}

/* --- figures ------------------------------------------------------------------------------------
 */

/* Where a histogram's fraction q lies, straight within its bucket; the last bound for what is past.
 */
static double quantile(const struct service_histogram *h, double q)
{
    double below = 0, from = 0;
    for (uint32_t i = 0; i < SERVICE_BUCKETS; i++) {
        const double n = (double)h->counts[i];
        if (n > 0 && below + n >= q * (double)h->n)
            return from + (h->bounds_s[i] - from) * (q * (double)h->n - below) / n;
        below += n;
        from = h->bounds_s[i];
    }
    return from;
}

static json_t *histogram(const struct service_histogram *h)
{
    if (!h->n)
        return json_pack("{s:i, s:n, s:n, s:n}", "n", 0, "mean_s", "p50_s", "p99_s");
    return json_pack("{s:I, s:f, s:f, s:f}", "n", (json_int_t)h->n, "mean_s",
                     h->sum_s / (double)h->n, "p50_s", quantile(h, .5), "p99_s", quantile(h, .99));
}

static json_t *stats(struct rpc_call *c)
{
    struct service_stats s;
    service_stats(service_of(c), &s);
    const struct engine_stats *e = &s.engine;
    uint64_t ended = 0;
    for (unsigned i = 0; i <= EDGE_LOST; i++)
        ended += s.finished[i];
    json_t *o =
        json_pack("{s:s, s:f, s:i, s:i, s:i, s:i}", "health", health_names[s.health], "now_s",
                  (double)port_now_ns() / 1e9, "running", (int)s.running, "waiting", (int)s.waiting,
                  "max_sessions", (int)s.max_sessions, "max_waiting", (int)s.max_waiting);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"uptime_s", json_real((double)(port_now_ns() - s.started_ns) / 1e9)},
        {"requests", rpc_count(s.requests)},
        {"ended", rpc_count(ended)},
        {"lost", rpc_count(s.finished[EDGE_LOST])},
        {"cancelled", rpc_count(s.finished[EDGE_CANCELLED])},
        {"rejected", rpc_count(s.rejected)},
        {"prompt_tokens", rpc_count(s.prompt_tokens)},
        {"shared_tokens", rpc_count(s.shared_tokens)},
        {"generated_tokens", rpc_count(s.generated_tokens)},
        {"kv_bytes", rpc_count(s.kv_bytes)},
        {"kv_budget_bytes", rpc_count(s.kv_budget_bytes)},
        {"rtt_ms", rpc_ms(e->link_rtt_ns_p50)},
        {"loss", rpc_ratio((double)e->lost_packets, (double)e->packets_up)},
        {"tile_bytes_per_token", rpc_ratio((double)e->tile_bytes_up, (double)e->rows_up)},
        {"wire_bytes", rpc_count(e->wire_bytes_up + e->wire_bytes_down)},
        {"reconnections", rpc_count(e->reconnections)},
        {"adaptation", adapt_show_json(&e->adapt)},
        {"context_tokens", rpc_count(s.context_tokens)},
        {"kv_format", json_string(kv_format_name(s.kv))},
        {"memory_step", s.memory_step ? json_string(s.memory_step) : json_null()},
        {"memory_steps", rpc_count(s.memory_steps)},
        {"port", json_string(e->port ? e->port : "")},
        {"cipher", json_string(e->cipher ? e->cipher : "")},
        {"time_to_first_token", histogram(&s.ttft)},
        {"inter_token_latency", histogram(&s.inter_token)},
        {"end_to_end", histogram(&s.end_to_end)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

static json_t *link_stats_of(struct rpc_call *c)
{
    const struct edge *edge = edge_of(c);
    struct edge_stats s;
    if (!edge)
        return rpc_fail(c, RPC_NOT_NOW, NO_LINK);
    edge_stats(edge, &s);
    json_t *o = link_json(&s.link, s.port, s.cipher, s.tokens);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"connected", json_boolean(s.connected)},
        {"tokens", rpc_count(s.tokens)},
        {"rows_up", rpc_count(s.rows_up)},
        {"shared_rows", rpc_count(s.shared_rows)},
        {"bytes_per_token", rpc_ratio((double)s.codec.bytes, (double)s.rows_up)},
        {"reconnections", rpc_count(s.reconnections)},
        {"replayed_rows", rpc_count(s.replayed_rows)},
        {"replayed_bytes", rpc_count(s.replayed_bytes)},
        {"history_bytes", rpc_count(s.history_bytes)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

/* --- sessions -----------------------------------------------------------------------------------
 */

/* All of them, malloc'd; NULL: out of memory. */
static struct service_session *all_sessions(struct service *s, uint32_t *n)
{
    uint32_t room = 64;
    for (;;) {
        struct service_session *list = malloc(room * sizeof *list);
        *n = list ? service_sessions(s, list, room) : 0;
        if (!list || *n <= room)
            return list;
        free(list);
        room = *n + 64;
    }
}

static json_t *ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns >= from_ns ? rpc_ms(to_ns - from_ns) : json_null();
}

static json_t *session_json(const struct service_session *s)
{
    const uint64_t now_ns = port_now_ns();
    const double decode_s = (double)(s->last_token_ns - s->first_token_ns) / 1e9;
    json_t *o =
        json_pack("{s:I, s:s, s:s, s:s, s:i, s:i, s:i, s:i}", "id", (json_int_t)s->id, "client",
                  s->client, "state", s->running ? "running" : "waiting", "worker", s->worker,
                  "prompt_tokens", (int)s->n_prompt, "shared_tokens", (int)s->n_shared,
                  "generated_tokens", (int)s->n_generated, "most_tokens", (int)s->n_predict);
    const bool decodes = s->n_generated > 1 && decode_s > 0;
    json_object_set_new(o, "age_ms", ms_between(s->submitted_ns, now_ns));
    json_object_set_new(o, "first_token_ms", ms_between(s->submitted_ns, s->first_token_ns));
    json_object_set_new(o, "tokens_per_s",
                        decodes ? json_real((s->n_generated - 1) / decode_s) : json_null());
    json_object_set_new(o, "bytes_per_token",
                        rpc_ratio((double)s->tile_bytes_up, (double)s->rows_up));
    json_object_set_new(o, "parameter", s->parameter > 0 ? json_real(s->parameter) : json_null());
    json_object_set_new(o, "kv", s->running ? json_string(kv_format_name(s->kv)) : json_null());
    return o;
}

static json_t *sessions_list(struct rpc_call *c)
{
    uint32_t n;
    struct service_session *list = all_sessions(service_of(c), &n);
    json_t *o = list ? json_array() : NULL;
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(o, session_json(&list[i]));
    free(list);
    return o;
}

/* False: there is no such session, which was said. */
static bool find(struct rpc_call *c, struct service_session *found)
{
    const uint64_t id = (uint64_t)rpc_number(c, "id", 0);
    uint32_t n;
    struct service_session *list = all_sessions(service_of(c), &n);
    bool is = false;
    for (uint32_t i = 0; i < n && !is; i++) {
        is = list[i].id == id;
        if (is)
            *found = list[i];
    }
    free(list);
    if (!is)
        rpc_fail(c, RPC_NOT_FOUND, "there is no session %llu: sessions.list shows those there are",
                 (unsigned long long)id);
    return is;
}

static json_t *sessions_show(struct rpc_call *c)
{
    struct service_session s;
    return find(c, &s) ? session_json(&s) : NULL;
}

static json_t *sessions_kill(struct rpc_call *c)
{
    struct service_session s;
    if (!find(c, &s))
        return NULL;
    service_cancel(service_of(c), s.id);
    return json_pack("{s:I, s:s}", "killed", (json_int_t)s.id, "client", s.client);
}

/* --- codec --------------------------------------------------------------------------------------
 */

static const struct codec_profile_curve *curve_of(const struct rpc_call *c)
{
    const struct split_plan *plan = &((const struct rpc_edge *)c->arg)->front->plan;
    return plan->split ? codec_rate_curve(plan->profile, plan->codec.mode) : NULL;
}

static json_t *codec_get(struct rpc_call *c)
{
    const struct split_plan *plan = &((const struct rpc_edge *)c->arg)->front->plan;
    const struct codec_profile_curve *curve = curve_of(c);
    char text[CODEC_ARG_MAX];
    uint32_t n;
    if (!plan->split)
        return rpc_fail(c, RPC_NOT_NOW, NO_LINK);
    struct service_session *list = all_sessions(service_of(c), &n);
    json_t *sessions = json_array();
    for (uint32_t i = 0; i < n; i++) {
        const struct service_session *s = &list[i];
        json_t *o = json_pack("{s:I, s:s}", "id", (json_int_t)s->id, "client", s->client);
        json_object_set_new(o, "parameter",
                            s->parameter > 0 ? json_real(s->parameter) : json_null());
        json_object_set_new(o, "quality_kl",
                            s->parameter > 0 && curve
                                ? json_real(codec_rate_kl_at(curve, (float)s->parameter))
                                : json_null());
        json_object_set_new(o, "bytes_per_token",
                            rpc_ratio((double)s->tile_bytes_up, (double)s->rows_up));
        json_array_append_new(sessions, o);
    }
    free(list);
    json_t *o = json_pack("{s:s, s:o}", "codec", codec_arg_format(&plan->codec, text), "sessions",
                          sessions);
    json_t *range = json_null();
    if (curve && curve->n) {
        const struct codec_profile_point *a = &curve->points[0], *z = &curve->points[curve->n - 1];
        range = json_pack("{s:f, s:f, s:f, s:f}", "quality_min", (double)a->kl_mean, "quality_max",
                          (double)z->kl_mean, "rate_min", (double)z->bytes_per_token, "rate_max",
                          (double)a->bytes_per_token);
    }
    json_object_set_new(o, "targets", range);
    struct service_stats st;
    service_stats(service_of(c), &st);
    json_object_set_new(o, "adaptation", adapt_show_json(&st.engine.adapt));
    return o;
}

/* False: it was said why not. */
static bool target_of(struct rpc_call *c, struct codec_rate_target *target)
{
    const struct codec_profile_curve *curve = curve_of(c);
    const bool kl = rpc_given(c, "quality");
    const int n = kl + rpc_given(c, "rate") + rpc_flag(c, "none", false);
    float parameter;
    *target = (struct codec_rate_target){.kind = CODEC_RATE_NONE};
    if (n != 1) {
        rpc_fail(c, RPC_INVALID_PARAMS, "give one of quality, rate and none=true");
        return false;
    }
    if (rpc_flag(c, "none", false))
        return true;
    *target = (struct codec_rate_target){kl ? CODEC_RATE_KL : CODEC_RATE_BYTES,
                                         rpc_number(c, kl ? "quality" : "rate", 0)};
    if (!curve || !curve->n) {
        rpc_fail(c, RPC_NOT_NOW,
                 "no profile with a curve for this codec: `isthmus calibrate` makes one, and "
                 "--profile FILE names it");
        return false;
    }
    const int rc = kl ? codec_rate_for_kl(curve, target->value, &parameter)
                      : codec_rate_for_bytes(curve, target->value, &parameter);
    if (rc == 0)
        return true;
    const struct codec_profile_point *a = &curve->points[0], *z = &curve->points[curve->n - 1];
    if (kl)
        rpc_fail(c, RPC_INVALID_PARAMS, "quality must be %.3g to %.3g: what was calibrated",
                 (double)a->kl_mean, (double)z->kl_mean);
    else
        rpc_fail(c, RPC_INVALID_PARAMS, "rate must be %.1f to %.1f: what was calibrated",
                 (double)z->bytes_per_token, (double)a->bytes_per_token);
    return false;
}

static json_t *codec_set(struct rpc_call *c)
{
    struct codec_rate_target target;
    const uint64_t id = (uint64_t)rpc_number(c, "id", 0);
    if (!target_of(c, &target))
        return NULL;
    const int rc = id ? service_retarget(service_of(c), id, target)
                      : service_set_target(service_of(c), target);
    if (rc == -ENOENT)
        return rpc_fail(c, RPC_NOT_FOUND, "there is no session %llu", (unsigned long long)id);
    if (rc == -ESHUTDOWN)
        return rpc_fail_hop(c, rc);
    if (rc < 0)
        return rpc_fail(c, RPC_NOT_NOW, "the codec can't keep such a target here");
    return json_pack("{s:o, s:s, s:f}", "id", id ? rpc_count(id) : json_null(), "target",
                     target.kind == CODEC_RATE_KL      ? "quality"
                     : target.kind == CODEC_RATE_BYTES ? "rate"
                                                       : "none",
                     "value", target.value);
}

/* --- workers ------------------------------------------------------------------------------------
 */

static json_t *worker_json(const struct edge_uplink_stats *u, const char *state)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:o}", "name", u->name, "port", u->port, "state",
                          state, "sessions", (int)u->sessions, "rtt_ms",
                          rpc_known_ms(u->rtt_ns));
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"free_sessions", u->has_status ? rpc_count(u->free_sessions) : json_null()},
        {"free_tokens", u->has_status ? rpc_count(u->free_tokens) : json_null()},
        {"kv_asked", u->kv_asked ? json_string(kv_format_name(u->kv_asked)) : json_null()},
        {"loss", rpc_ratio((double)link_lost_packets(&u->link), (double)u->link.tx_packets)},
        {"reconnections", rpc_count(u->reconnections)},
        {"moved_here", rpc_count(u->moved)},
        {"why", json_string(u->why)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}

/* A worker of the registry, joined or not. */
static json_t *member_json(const struct fleet_worker *w)
{
    struct edge_uplink_stats u = {.sessions = 0};
    const char *state = fleet_state_name(w->state);
    if (w->joined) {
        u = w->uplink;
    } else {
        snprintf(u.name, sizeof u.name, "%s", w->worker.name);
        snprintf(u.port, sizeof u.port, "%.*s", (int)sizeof u.port - 1, w->worker.port);
        state = w->state == FLEET_DRAINING ? "drained" : state;
    }
    snprintf(u.why, sizeof u.why, "%s", w->why);
    return worker_json(&u, state);
}

/* All that there are, or those of that name. */
static json_t *workers_called(const struct rpc_call *c, const char *name)
{
    const struct edge *edge = edge_of(c);
    const struct fleet *fleet = ((const struct rpc_edge *)c->arg)->front->fleet;
    json_t *list = json_array();
    struct edge_uplink_stats u;
    for (uint32_t i = 0; edge && !fleet && i < EDGE_UPLINKS_MAX; i++)
        if (edge_uplink_stats(edge, i, &u) == 0 && (!name || strcmp(u.name, name) == 0))
            json_array_append_new(list, worker_json(&u, fleet_state_name(fleet_uplink_state(&u))));
    const size_t n = edge && fleet ? fleet_list(fleet, edge, NULL, 0) : 0;
    struct fleet_worker *all = n ? calloc(n, sizeof *all) : NULL;
    if (n && !all) {
        json_decref(list);
        return NULL;
    }
    if (n)
        fleet_list(fleet, edge, all, n);
    for (size_t i = 0; i < n; i++)
        if (!name || strcmp(all[i].worker.name, name) == 0)
            json_array_append_new(list, member_json(&all[i]));
    free(all);
    return list;
}

static json_t *workers_list(struct rpc_call *c)
{
    return workers_called(c, NULL);
}

/* By the fleet where there is one: it knows that a drain outlasts an uplink. */
static bool set_draining(const struct rpc_call *c, const char *name, bool draining)
{
    struct edge *edge = edge_of(c);
    struct fleet *fleet = ((const struct rpc_edge *)c->arg)->front->fleet;
    if (edge && fleet)
        return fleet_drain(fleet, name, draining) == 0;
    struct edge_uplink_stats u;
    for (uint32_t i = 0; edge && i < EDGE_UPLINKS_MAX; i++)
        if (edge_uplink_stats(edge, i, &u) == 0 && strcmp(u.name, name) == 0)
            return edge_uplink_drain(edge, i, draining) == 0;
    return false;
}

static json_t *drain_worker(struct rpc_call *c, bool draining)
{
    const char *name = rpc_text(c, "name", "");
    if (!set_draining(c, name, draining))
        return rpc_fail(c, RPC_NOT_FOUND, "there is no worker %.64s: workers.list names them",
                        name);
    json_t *list = workers_called(c, name);
    json_t *first = json_incref(json_array_get(list, 0));
    json_decref(list);
    return first;
}

static json_t *workers_drain(struct rpc_call *c)
{
    return drain_worker(c, true);
}

static json_t *workers_undrain(struct rpc_call *c)
{
    return drain_worker(c, false);
}

static const struct rpc_param worker_params[] = {
    {"name", "of a worker, as workers.list has it", RPC_TEXT, true, 0, 0, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};

/* --- drain --------------------------------------------------------------------------------------
 */

static json_t *drain(struct rpc_call *c)
{
    struct service_stats s;
    service_drain(service_of(c), true);
    service_stats(service_of(c), &s);
    return json_pack("{s:b, s:i, s:i}", "draining", 1, "running", (int)s.running, "waiting",
                     (int)s.waiting);
}

static json_t *undrain(struct rpc_call *c)
{
    service_drain(service_of(c), false);
    return json_pack("{s:b}", "draining", 0);
}

static const struct rpc_param id_params[] = {
    {"id", "of a session, as sessions.list has it", RPC_WHOLE, true, 1, 9e15, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};
static const struct rpc_param set_params[] = {
    {"id", "of a session; without it: of new sessions that ask for nothing else", RPC_WHOLE, false,
     1, 9e15, NULL},
    {"quality", "mean KL divergence to keep, nats", RPC_REAL, false, 1e-9, 100, NULL},
    {"rate", "bytes a token to keep", RPC_REAL, false, 1e-3, 1e6, NULL},
    {"none", "no target: the codec's own parameters", RPC_BOOL, false, 0, 0, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};

const struct rpc_method edge_methods[] = {
    {"health", RPC_USER, "Whether requests are answered, and why not", NULL, false, health},
    {"stats", RPC_USER, "Requests, tokens, latencies, cache", NULL, false, stats},
    {"link.stats", RPC_USER, "The link to the cloud: round trip, loss, bytes", NULL, true,
     link_stats_of},
    {"sessions.list", RPC_USER, "Answers that run or wait, the oldest first", NULL, false,
     sessions_list},
    {"sessions.show", RPC_USER, "One of them", id_params, false, sessions_show},
    {"sessions.kill", RPC_OPERATOR, "End one: its client is told that it was cancelled", id_params,
     false, sessions_kill},
    {"codec.get", RPC_USER, "The codec, and what it is at for each session", NULL, false,
     codec_get},
    {"codec.set", RPC_OPERATOR, "Another target of quality or bytes, from the next message on",
     set_params, false, codec_set},
    {"workers.list", RPC_USER, "The clouds of this edge, and all that its registry knows", NULL,
     true, workers_list},
    {"workers.drain", RPC_OPERATOR, "No new sessions there; those it has move to the others",
     worker_params, true, workers_drain},
    {"workers.undrain", RPC_OPERATOR, "Sessions there again", worker_params, true, workers_undrain},
    {"drain", RPC_OPERATOR, "Take no new requests; those there are go on", NULL, false, drain},
    {"undrain", RPC_OPERATOR, "Take requests again", NULL, false, undrain},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
