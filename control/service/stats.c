/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "control/service/service_impl.h"

#define LOOK_NS 100000000u /* between two looks at the engine while it is busy */

/* Seconds. A token takes some milliseconds here, a prompt up to minutes. */
static const double ttft_bounds[SERVICE_BUCKETS] = {.005, .01, .025, .05, .075, .1, .25, .5,
                                                    .75,  1,   2.5,  5,   7.5,  10, 30,  60};
static const double inter_token_bounds[SERVICE_BUCKETS] = {
    .001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .2, .5, 1, 5};
static const double end_to_end_bounds[SERVICE_BUCKETS] = {.05, .1, .25, .5, 1,  2,  3,   5,
                                                          8,   12, 20,  30, 60, 90, 120, 300};

static void histogram_begin(struct service_histogram *h, const double bounds_s[SERVICE_BUCKETS])
{
    memcpy(h->bounds_s, bounds_s, sizeof h->bounds_s);
}

static void histogram_add(struct service_histogram *h, uint64_t from_ns, uint64_t to_ns)
{
    const double s = to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
    unsigned i = 0;
    while (i < SERVICE_BUCKETS && s > h->bounds_s[i])
        i++;
    h->counts[i]++;
    h->n++;
    h->sum_s += s;
}

void service_stats_begin(struct service *s, uint64_t now_ns)
{
    s->stats.started_ns = now_ns;
    histogram_begin(&s->stats.ttft, ttft_bounds);
    histogram_begin(&s->stats.inter_token, inter_token_bounds);
    histogram_begin(&s->stats.end_to_end, end_to_end_bounds);
}

void service_stats_token(struct service *s, const struct service_job *j, uint64_t now_ns)
{
    const struct service_session *w = &j->shown;
    s->stats.generated_tokens++;
    if (w->n_generated)
        histogram_add(&s->stats.inter_token, w->last_token_ns, now_ns);
    else
        histogram_add(&s->stats.ttft, w->submitted_ns, now_ns);
}

void service_stats_done(struct service *s, const struct service_job *j, const struct edge_result *r,
                        uint64_t now_ns)
{
    s->stats.finished[r->finish]++;
    s->stats.shared_tokens += r->n_shared;
    if (r->finish == EDGE_LENGTH || r->finish == EDGE_STOP)
        histogram_add(&s->stats.end_to_end, j->shown.submitted_ns, now_ns);
}

/* --- the engine ----------------------------------------------------------------------------------
 */

void service_look_at(struct service *s, struct service_job *j)
{
    const struct engine *engine = s->front->engine;
    struct engine_session e;
    if (!j->session || !engine->ops->session || !engine->ops->session(engine, j->session, &e))
        return;
    j->shown.n_shared = e.n_shared;
    j->shown.kv = e.kv;
    j->shown.tile_bytes_up = e.tile_bytes_up;
    j->shown.rows_up = e.rows_up;
    j->shown.parameter = e.parameter;
    memcpy(j->shown.worker, e.worker, sizeof j->shown.worker);
}

void service_look(struct service *s, uint64_t now_ns)
{
    /* When nothing runs steps are few, and the next may be a long time off. */
    if (s->stats.running && s->looked_ns && now_ns - s->looked_ns < LOOK_NS)
        return;
    s->looked_ns = now_ns;
    struct engine_stats e;
    struct fleet_counts fleet = {.n_uplinks = 0};
    const struct edge *edge = engine_edge(s->front->engine);
    engine_stats(s->front->engine, &e);
    if (edge)
        fleet_count(s->front->fleet, edge, &fleet);
    pthread_mutex_lock(&s->lock);
    for (struct service_job *j = s->first; j; j = j->next)
        service_look_at(s, j);
    s->stats.engine = e;
    s->stats.fleet = fleet;
    s->stats.kv_bytes = s->info->kv_bytes;
    s->ever_ready |= e.ready;
    pthread_mutex_unlock(&s->lock);
}

enum service_health service_health_now(const struct service *s, const char **why)
{
    static const char *const reasons[] = {
        [SERVICE_STARTING] = "starting: no cloud was heard yet",
        [SERVICE_READY] = "",
        [SERVICE_DRAINING] = "draining: no new requests are taken",
        [SERVICE_CLOUD_LOST] = "the cloud is lost: waiting for it or another",
    };
    enum service_health h = SERVICE_READY;
    if (s->draining || s->stopping || s->phase == SERVICE_ENDED)
        h = SERVICE_DRAINING;
    else if (s->phase == SERVICE_OPENED)
        h = SERVICE_STARTING;
    else if (!s->stats.engine.ready)
        h = s->ever_ready ? SERVICE_CLOUD_LOST : SERVICE_STARTING;
    if (why)
        *why = reasons[h];
    return h;
}

/* --- from any thread ----------------------------------------------------------------------------
 */

enum service_health service_health(const struct service *s, const char **why)
{
    struct service *unlocked = (struct service *)s;
    pthread_mutex_lock(&unlocked->lock);
    const enum service_health h = service_health_now(s, why);
    pthread_mutex_unlock(&unlocked->lock);
    return h;
}

void service_stats(struct service *s, struct service_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->health = service_health_now(s, NULL);
    out->context_tokens = s->context;
    out->kv = s->kv;
    pthread_mutex_unlock(&s->lock);
}
