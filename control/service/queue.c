/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests until the engine has them. A session that becomes free goes to the client that has the
 * fewest running, and of these to the one that waits longest: who sends a hundred at once does not
 * keep the others out. One that was chosen stays so until there is room for it, however large it
 * is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/log.h"
#include "control/service/service_impl.h"

/* --- from any thread ----------------------------------------------------------------------------
 */

static uint64_t hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

/* A target that some curve must have a point for. */
static int check_target(const struct service *s, struct codec_rate_target target)
{
    const struct split_plan *plan = &s->front->plan;
    struct codec_rate rate;
    if (!target.kind)
        return 0;
    if (!plan->split)
        return -EINVAL; /* nothing is coded */
    return codec_rate_init(&rate, codec_rate_curve(plan->profile, plan->codec.mode), target) < 0
               ? -EINVAL
               : 0;
}

static int check(const struct service *s, const struct service_request *r, uint32_t context)
{
    if (r->n_prompt == 0 || r->n_predict == 0 || r->n_top > SAMPLER_TOP_MAX ||
        sampler_params_check(&r->sampler) < 0)
        return -EINVAL;
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt_ids[i] < 0 || (uint32_t)r->prompt_ids[i] >= s->info->n_vocab)
            return -EINVAL;
    if (r->n_prompt >= context)
        return -ERANGE;
    const uint32_t room = context - r->n_prompt;
    const uint32_t tokens = r->n_prompt + (r->n_predict < room ? r->n_predict : room);
    if (stage_seq_bytes(s->front->stage, tokens) > s->info->kv_budget_bytes)
        return -ENOSPC;
    return check_target(s, r->target);
}

static struct service_job *make(struct service *s, const struct service_request *r,
                                uint32_t context)
{
    struct service_job *j = malloc(sizeof *j);
    int32_t *ids = malloc(r->n_prompt * sizeof *ids);
    if (!j || !ids) {
        free(j);
        free(ids);
        return NULL;
    }
    memcpy(ids, r->prompt_ids, r->n_prompt * sizeof *ids);
    *j = (struct service_job){.service = s, .r = *r};
    j->r.prompt_ids = ids;
    if (r->n_predict > context - r->n_prompt)
        j->r.n_predict = context - r->n_prompt;
    j->shown = (struct service_session){
        .n_prompt = r->n_prompt, .n_predict = j->r.n_predict, .submitted_ns = port_now_ns()};
    if (!r->asked_ns)
        j->r.asked_ns = j->shown.submitted_ns;
    snprintf(j->shown.client, sizeof j->shown.client, "%s", r->client ? r->client : "");
    j->client = hash(j->shown.client);
    j->r.client = j->shown.client;
    return j;
}

static void discard(struct service_job *j)
{
    free((int32_t *)j->r.prompt_ids);
    free(j);
}

/* What a request meets now; the lock is held. */
static int admit(const struct service *s, const struct service_job *j)
{
    const struct service_stats *st = &s->stats;
    const bool held = s->holds && st->running;
    const uint32_t free_sessions = held ? 0 : st->max_sessions - st->running;
    if (s->phase == SERVICE_ENDED || s->draining || s->stopping)
        return -ESHUTDOWN;
    if (s->request_timeout_ns && j->shown.submitted_ns - j->r.asked_ns >= s->request_timeout_ns)
        return -ETIMEDOUT;
    return st->waiting < st->max_waiting + free_sessions ? 0 : -EAGAIN;
}

int service_submit(struct service *s, const struct service_request *r, uint64_t *id)
{
    const uint32_t most = service_context_most(s);
    uint32_t context = r->context_tokens ? r->context_tokens : service_context_tokens(s);
    context = context < most ? context : most;
    int rc = check(s, r, context);
    struct service_job *j = rc < 0 ? NULL : make(s, r, context);
    if (rc == 0 && !j)
        rc = -ENOMEM;

    pthread_mutex_lock(&s->lock);
    if (rc == 0)
        rc = admit(s, j);
    if (rc == 0) {
        j->shown.id = *id = ++s->last_id;
        j->prev = s->last;
        *(s->last ? &s->last->next : &s->first) = j;
        s->last = j;
        s->stats.waiting++;
        s->stats.requests++;
        s->stats.prompt_tokens += r->n_prompt;
    } else if ((rc == -EAGAIN && !r->comes_again) || rc == -ENOSPC || rc == -ERANGE) {
        s->stats.rejected++;
    }
    pthread_mutex_unlock(&s->lock);
    if (rc == 0)
        service_wake(s);
    else if (j)
        discard(j);
    return rc;
}

static void cancel(struct service *s, uint64_t id, bool enough)
{
    bool found = false;
    pthread_mutex_lock(&s->lock);
    for (struct service_job *j = s->first; j && !found; j = j->next) {
        if (j->shown.id != id)
            continue;
        found = j->cancelled = s->cancels = true;
        j->enough = enough;
    }
    pthread_mutex_unlock(&s->lock);
    if (found)
        service_wake(s);
}

void service_cancel(struct service *s, uint64_t id)
{
    cancel(s, id, false);
}

void service_stop(struct service *s, uint64_t id)
{
    cancel(s, id, true);
}

uint32_t service_sessions(struct service *s, struct service_session *list, uint32_t max)
{
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (const struct service_job *j = s->first; j; j = j->next, n++)
        if (n < max)
            list[n] = j->shown;
    pthread_mutex_unlock(&s->lock);
    return n;
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
    return s->info->n_ctx;
}

int service_set_target(struct service *s, struct codec_rate_target target)
{
    const int rc = check_target(s, target);
    pthread_mutex_lock(&s->lock);
    if (rc == 0)
        s->target = target;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

struct retarget {
    struct service *s;
    uint64_t id;
    struct codec_rate_target target;
    int rc;
};

static void retarget(void *arg, struct front *f)
{
    struct retarget *t = arg;
    pthread_mutex_lock(&t->s->lock);
    struct service_job *j = t->s->first;
    while (j && j->shown.id != t->id)
        j = j->next;
    pthread_mutex_unlock(&t->s->lock);
    t->rc = j ? check_target(t->s, t->target) : -ENOENT;
    if (t->rc < 0)
        return;
    if (j->session)
        t->rc = f->engine->ops->retarget
                    ? f->engine->ops->retarget(f->engine, j->session, t->target)
                    : -EINVAL;
    else
        j->r.target = t->target;
}

int service_retarget(struct service *s, uint64_t id, struct codec_rate_target target)
{
    struct retarget t = {s, id, target, 0};
    const int rc = service_call(s, retarget, &t);
    return rc < 0 ? rc : t.rc;
}

/* --- in the engine's thread ---------------------------------------------------------------------
 */

static bool is_stop(void *arg, int32_t id)
{
    const struct service_job *j = arg;
    return tok_is_eog(j->service->front->model.tok, id);
}

static void on_token(void *arg, const struct token_sample *t)
{
    struct service_job *j = arg;
    struct service *s = j->service;
    const uint64_t now_ns = port_now_ns();
    pthread_mutex_lock(&s->lock);
    service_stats_token(s, j, now_ns);
    if (!j->shown.n_generated++)
        j->shown.first_token_ns = now_ns;
    j->shown.last_token_ns = now_ns;
    pthread_mutex_unlock(&s->lock);
    if (j->r.on_token)
        j->r.on_token(j->r.arg, t);
}

/* The last of a job. */
static void on_done(void *arg, const struct edge_result *result)
{
    static const char *const ends[] = {"length", "stop", "cancelled", "refused", "lost"};
    struct service_job *j = arg;
    struct service *s = j->service;
    struct edge_result r = *result;
    r.submitted_ns = j->shown.submitted_ns; /* the engine's is when it left the queue */

    pthread_mutex_lock(&s->lock);
    if (r.finish == EDGE_CANCELLED && j->enough)
        r.finish = EDGE_STOP;
    if (r.finish == EDGE_CANCELLED && j->expired) {
        r.finish = EDGE_REFUSED;
        snprintf(r.error, sizeof r.error, "%s", SERVICE_TIMED_OUT);
    }
    *(j->prev ? &j->prev->next : &s->first) = j->next;
    *(j->next ? &j->next->prev : &s->last) = j->prev;
    j->session ? s->stats.running-- : s->stats.waiting--;
    if (s->chosen == j)
        s->chosen = NULL;
    service_stats_done(s, j, &r, port_now_ns());
    s->full = false;
    const bool others = s->stats.waiting;
    pthread_mutex_unlock(&s->lock);

    log_debug("request %llu%s%s: %s, %u + %u tokens, %.3f s", (unsigned long long)j->shown.id,
              *j->shown.client ? " of " : "", j->shown.client, ends[r.finish], j->shown.n_prompt,
              j->shown.n_generated, (double)(port_now_ns() - j->shown.submitted_ns) * 1e-9);
    if (j->r.on_done)
        j->r.on_done(j->r.arg, &r);
    discard(j);
    if (others) /* this step is not to sleep on the room that there is now */
        service_wake(s);
}

static void end(struct service_job *j, enum edge_finish how, const char *error)
{
    struct edge_result r = {.finish = how, .n_prompt = j->r.n_prompt};
    snprintf(r.error, sizeof r.error, "%s", error);
    on_done(j, &r);
}

void service_end_waiting(struct service *s, enum edge_finish how, const char *error)
{
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct service_job *j = s->first;
        while (j && j->session)
            j = j->next;
        pthread_mutex_unlock(&s->lock);
        if (!j)
            return;
        end(j, how, error);
    }
}

/* The next whose cancelling is not known to the engine, or which waits and so needs no engine. */
static struct service_job *next_cancelled(struct service *s)
{
    struct service_job *j;
    pthread_mutex_lock(&s->lock);
    for (j = s->first; j && (!j->cancelled || j->cancel_passed); j = j->next)
        ;
    if (j)
        j->cancel_passed = true;
    else
        s->cancels = false;
    pthread_mutex_unlock(&s->lock);
    return j;
}

void service_pass_cancels(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const bool any = s->cancels;
    pthread_mutex_unlock(&s->lock);
    for (struct service_job *j; any && (j = next_cancelled(s));) {
        if (j->session)
            engine_cancel(s->front->engine, j->session);
        else
            end(j, EDGE_CANCELLED, "");
    }
}

uint64_t service_expire(struct service *s, uint64_t now_ns)
{
    uint64_t next_ns = UINT64_MAX;
    pthread_mutex_lock(&s->lock);
    const uint64_t most_ns = s->request_timeout_ns;
    for (struct service_job *j = most_ns ? s->first : NULL; j; j = j->next) {
        const uint64_t until_ns = j->r.asked_ns + most_ns;
        if (j->cancelled)
            continue;
        if (now_ns >= until_ns)
            j->expired = j->cancelled = s->cancels = true;
        else if (until_ns < next_ns)
            next_ns = until_ns;
    }
    pthread_mutex_unlock(&s->lock);
    return next_ns;
}

void service_cancel_all(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    for (struct service_job *j = s->first; j; j = j->next)
        j->cancelled = s->cancels = true;
    pthread_mutex_unlock(&s->lock);
}

static uint32_t running_of(const struct service *s, uint64_t client)
{
    uint32_t n = 0;
    for (const struct service_job *j = s->first; j; j = j->next)
        n += j->session && j->client == client;
    return n;
}

/* The lock is held. */
static struct service_job *choose(const struct service *s)
{
    struct service_job *best = NULL;
    uint32_t fewest = UINT32_MAX;
    for (struct service_job *j = s->first; j && fewest; j = j->next) {
        const uint32_t n = j->session ? UINT32_MAX : running_of(s, j->client);
        if (n < fewest) {
            fewest = n;
            best = j;
        }
    }
    return best;
}

/* False: it goes on waiting, or there is none. */
static bool begin_one(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const bool held = s->holds && s->stats.running; /* one at a time is let in, or all would wait */
    const bool room =
        s->stats.running < s->stats.max_sessions && s->stats.waiting && !s->full && !held;
    if (room && !s->chosen)
        s->chosen = choose(s);
    struct service_job *j = room ? s->chosen : NULL;
    const struct codec_rate_target target = s->target;
    const enum kv_format kv = s->kv;
    pthread_mutex_unlock(&s->lock);
    if (!j)
        return false;

    const struct edge_request r = {
        .prompt_ids = j->r.prompt_ids,
        .n_prompt = j->r.n_prompt,
        .n_predict = j->r.n_predict,
        .sampler = j->r.sampler,
        .n_top = j->r.n_top,
        .is_stop = j->r.ignore_eos || !s->front->model.tok ? NULL : is_stop,
        .on_token = on_token,
        .on_done = on_done,
        .arg = j,
        .target = j->r.target.kind ? j->r.target : target,
        .kv = 1 + (uint32_t)kv,
    };
    const int64_t session = engine_submit(s->front->engine, &r);
    if (session == -EAGAIN) {
        s->full = true;
        return false;
    }
    if (session < 0) {
        end(j, session == -EPIPE ? EDGE_LOST : EDGE_REFUSED, strerror((int)-session));
        return true;
    }
    pthread_mutex_lock(&s->lock);
    s->chosen = NULL;
    j->session = session;
    j->shown.running = true;
    j->shown.kv = kv; /* unless its cloud asked for a coarser one */
    service_look_at(s, j);
    s->stats.waiting--;
    s->stats.running++;
    free((int32_t *)j->r.prompt_ids);
    j->r.prompt_ids = NULL;
    pthread_mutex_unlock(&s->lock);
    return true;
}

void service_begin_waiting(struct service *s)
{
    while (begin_one(s))
        ;
}
