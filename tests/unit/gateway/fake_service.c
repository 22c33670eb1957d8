/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_service.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct service {
    struct fake_service_params p;
    pthread_mutex_t lock;
    pthread_t thread;
    bool ending;
    void (*told)(void *arg);
    void *told_arg;
    enum service_health health;
    uint32_t context;
    uint64_t timeout_ns;
    struct fake_job jobs[FAKE_JOBS];
    uint32_t n_jobs;
    uint64_t submitted, cancelled, rejected;
    uint64_t seeds[FAKE_JOBS];
    char client[SERVICE_CLIENT];
    struct sampler_params sampler;
};

/* One id of one job, as the engine calls: without the lock. False: it has ended. */
static bool step(struct fake_job *j)
{
    struct edge_result r = {.n_prompt = j->n_prompt, .n_shared = FAKE_SHARED};
    if (j->ids[0] == FAKE_REFUSED) {
        r.finish = EDGE_REFUSED;
        strcpy(r.error, "refused by the fake");
    } else if (j->cancelled) {
        r.finish = EDGE_CANCELLED;
    } else if (j->n_generated == j->n_predict) {
        r.finish = EDGE_LENGTH;
    } else {
        const struct sampler_top top[FAKE_TOP] = FAKE_TOPS;
        j->r.on_token(j->r.arg,
                      &(struct token_sample){.id = j->ids[j->n_generated % j->n_prompt],
                                             .logprob = -.5f * (float)(j->n_generated + 1),
                                             .n_top = j->r.n_top < FAKE_TOP ? j->r.n_top : FAKE_TOP,
                                             .top = top});
        j->n_generated++;
        return true;
    }
    r.n_generated = j->n_generated;
    j->r.on_done(j->r.arg, &r);
    return false;
}

static void *run(void *arg)
{
    struct service *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        for (uint32_t i = 0; i < s->n_jobs; i++) {
            struct fake_job j = s->jobs[i];
            pthread_mutex_unlock(&s->lock);
            const bool goes_on = step(&j);
            pthread_mutex_lock(&s->lock);
            j.cancelled = s->jobs[i].cancelled;
            s->jobs[i] = j;
            if (!goes_on) {
                free(j.ids);
                s->jobs[i--] = s->jobs[--s->n_jobs];
            }
        }
        if (s->told)
            s->told(s->told_arg);
        pthread_mutex_unlock(&s->lock);
        usleep(s->p.token_us);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct service *fake_open(const struct fake_service_params *p)
{
    struct service *s = calloc(1, sizeof *s);
    s->p = *p;
    s->health = SERVICE_READY;
    s->context = FAKE_CONTEXT;
    pthread_mutex_init(&s->lock, NULL);
    pthread_create(&s->thread, NULL, run, s);
    return s;
}

/* As service_close: what still runs ends cancelled. */
void fake_close(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    for (uint32_t i = 0; i < s->n_jobs; i++) {
        s->jobs[i].cancelled = true;
        s->jobs[i].ids[0] = 0;
        step(&s->jobs[i]);
        free(s->jobs[i].ids);
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void fake_set_health(struct service *s, enum service_health h)
{
    pthread_mutex_lock(&s->lock);
    s->health = h;
    pthread_mutex_unlock(&s->lock);
}

void fake_set_context(struct service *s, uint32_t tokens)
{
    pthread_mutex_lock(&s->lock);
    s->context = tokens;
    pthread_mutex_unlock(&s->lock);
}

void fake_set_timeout(struct service *s, uint64_t timeout_ns)
{
    pthread_mutex_lock(&s->lock);
    s->timeout_ns = timeout_ns;
    pthread_mutex_unlock(&s->lock);
}

uint32_t fake_running(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const uint32_t n = s->n_jobs;
    pthread_mutex_unlock(&s->lock);
    return n;
}

uint64_t fake_submitted(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const uint64_t n = s->submitted;
    pthread_mutex_unlock(&s->lock);
    return n;
}

uint64_t fake_cancelled(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const uint64_t n = s->cancelled;
    pthread_mutex_unlock(&s->lock);
    return n;
}

uint64_t fake_rejected(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const uint64_t n = s->rejected;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void fake_seeds(struct service *s, uint64_t *seeds, uint32_t n)
{
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < n; i++)
        seeds[i] = s->seeds[(s->submitted - n + i) % FAKE_JOBS];
    pthread_mutex_unlock(&s->lock);
}

const char *fake_client(struct service *s)
{
    return s->client;
}

const struct sampler_params *fake_sampler(struct service *s)
{
    return &s->sampler;
}

/* --- service.h ---------------------------------------------------------------------------------- */

int service_submit(struct service *s, const struct service_request *r, uint64_t *id)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (s->health == SERVICE_DRAINING)
        rc = -ESHUTDOWN;
    else if (r->n_prompt >= (r->context_tokens ? r->context_tokens : s->context))
        rc = -ERANGE;
    else if (s->timeout_ns && port_now_ns() - r->asked_ns >= s->timeout_ns)
        rc = -ETIMEDOUT;
    else if (s->n_jobs >= s->p.max_jobs || s->n_jobs == FAKE_JOBS)
        rc = -EAGAIN;
    s->rejected += rc == -EAGAIN && !r->comes_again;
    if (rc == 0) {
        struct fake_job *j = &s->jobs[s->n_jobs++];
        *j = (struct fake_job){.n_prompt = r->n_prompt, .n_predict = r->n_predict, .r = *r};
        j->ids = malloc(r->n_prompt * sizeof *j->ids);
        memcpy(j->ids, r->prompt_ids, r->n_prompt * sizeof *j->ids);
        s->seeds[s->submitted++ % FAKE_JOBS] = r->sampler.seed;
        *id = j->id = s->submitted;
        snprintf(s->client, sizeof s->client, "%s", r->client);
        s->sampler = r->sampler;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void service_cancel(struct service *s, uint64_t id)
{
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_jobs; i++)
        if (s->jobs[i].id == id && !s->jobs[i].cancelled) {
            s->jobs[i].cancelled = true;
            s->cancelled++;
        }
    pthread_mutex_unlock(&s->lock);
}

void service_stop(struct service *s, uint64_t id)
{
    service_cancel(s, id);
}

void service_on_told(struct service *s, void (*told)(void *arg), void *arg)
{
    pthread_mutex_lock(&s->lock);
    s->told = told;
    s->told_arg = arg;
    pthread_mutex_unlock(&s->lock);
}

uint32_t service_context_tokens(const struct service *s)
{
    struct service *unlocked = (struct service *)s;
    pthread_mutex_lock(&unlocked->lock);
    const uint32_t context = s->context;
    pthread_mutex_unlock(&unlocked->lock);
    return context;
}

uint32_t service_context_most(const struct service *s)
{
    (void)s;
    return FAKE_CONTEXT;
}

enum service_health service_health(const struct service *s, const char **why)
{
    struct service *unlocked = (struct service *)s;
    pthread_mutex_lock(&unlocked->lock);
    const enum service_health h = s->health;
    pthread_mutex_unlock(&unlocked->lock);
    *why = h == SERVICE_READY ? "" : "for the test";
    return h;
}

void service_stats(struct service *s, struct service_stats *out)
{
    *out = (struct service_stats){.requests = fake_submitted(s), .running = fake_running(s)};
    out->ttft.counts[0] = out->ttft.n = 2;
    for (unsigned i = 0; i < SERVICE_BUCKETS; i++)
        out->ttft.bounds_s[i] = out->inter_token.bounds_s[i] = out->end_to_end.bounds_s[i] = i + 1;
    out->health = service_health(s, &(const char *){NULL});
}
