/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's thread: steps, and between them what others want of it. */
#include "control/service/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/service/service_impl.h"
#include "control/signals.h"

#define SLEEP_NS 60000000000u /* every reason to wake sooner wakes it */

/* --- life ----------------------------------------------------------------------------------------
 */

int service_open(const struct service_params *p, struct service **out)
{
    struct service *s = calloc(1, sizeof *s);
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s || fd < 0) {
        log_error("cannot serve: %s", s ? strerror(errno) : "out of memory");
        free(s);
        if (fd >= 0)
            close(fd);
        return EXIT_FAILED;
    }
    s->front = p->front;
    s->info = p->front->engine->info;
    s->wake_fd = fd;
    s->request_timeout_ns = p->request_timeout_ns;
    s->drain_timeout_ns = p->drain_timeout_ns;
    s->asked_end = &s->asked;
    s->context = s->info->n_ctx;
    s->kv = s->info->kv_format;
    s->stats.max_sessions = p->front->o->parallel;
    s->stats.max_waiting = p->max_waiting;
    s->stats.kv_budget_bytes = s->info->kv_budget_bytes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->answered, NULL);
    p->front->engine->stays = true;
    port_wake_on(fd);
    signals_serve(fd);
    service_stats_begin(s, port_now_ns());
    service_look(s, port_now_ns());
    *out = s;
    return EXIT_OK;
}

void service_wake(struct service *s)
{
    const uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof one) < 0) {
        /* full: it is readable already */
    }
}

void service_on_reload(struct service *s, void (*reload)(void *arg), void *arg)
{
    s->reload = reload;
    s->reload_arg = arg;
}

void service_on_tick(struct service *s, uint64_t (*tick)(void *arg, uint64_t now_ns), void *arg)
{
    s->tick = tick;
    s->tick_arg = arg;
}

void service_on_told(struct service *s, void (*told)(void *arg), void *arg)
{
    if (!s->front->engine)
        return;
    s->front->engine->told = told;
    s->front->engine->told_arg = arg;
}

static uint32_t jobs(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const uint32_t n = s->stats.running + s->stats.waiting;
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* No more requests, nor calls: those that are there are told. */
static void close_doors(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    s->phase = SERVICE_ENDED;
    for (struct service_asked *a = s->asked; a; a = a->next)
        a->done = a->refused = true;
    s->asked = NULL;
    s->asked_end = &s->asked;
    pthread_cond_broadcast(&s->answered);
    pthread_mutex_unlock(&s->lock);
}

void service_close(struct service *s)
{
    if (!s)
        return;
    close_doors(s);
    service_end_waiting(s, EDGE_CANCELLED, "");
    if (jobs(s)) { /* it was never run to its end: the engine ends them */
        engine_close(s->front->engine);
        s->front->engine = NULL;
    }
    if (s->front->engine)
        s->front->engine->stays = false;
    port_wake_on(-1);
    signals_serve_end();
    close(s->wake_fd);
    pthread_cond_destroy(&s->answered);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* --- what others want ----------------------------------------------------------------------------
 */

int service_call(struct service *s, void (*fn)(void *arg, struct front *f), void *arg)
{
    struct service_asked a = {.fn = fn, .arg = arg};
    pthread_mutex_lock(&s->lock);
    if (s->phase == SERVICE_ENDED) {
        pthread_mutex_unlock(&s->lock);
        return -ESHUTDOWN;
    }
    *s->asked_end = &a;
    s->asked_end = &a.next;
    service_wake(s);
    while (!a.done)
        pthread_cond_wait(&s->answered, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return a.refused ? -ESHUTDOWN : 0;
}

static void answer_calls(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    for (struct service_asked *a; (a = s->asked);) {
        s->asked = a->next;
        if (!s->asked)
            s->asked_end = &s->asked;
        pthread_mutex_unlock(&s->lock);
        a->fn(a->arg, s->front);
        pthread_mutex_lock(&s->lock);
        a->done = true;
        pthread_cond_broadcast(&s->answered);
    }
    pthread_mutex_unlock(&s->lock);
}

void service_drain(struct service *s, bool drain)
{
    pthread_mutex_lock(&s->lock);
    s->draining = drain;
    pthread_mutex_unlock(&s->lock);
}

void service_set_max_waiting(struct service *s, uint32_t max_waiting)
{
    pthread_mutex_lock(&s->lock);
    s->stats.max_waiting = max_waiting;
    pthread_mutex_unlock(&s->lock);
}

void service_set_memory_step(struct service *s, const char *name, uint64_t steps)
{
    pthread_mutex_lock(&s->lock);
    s->stats.memory_step = name;
    s->stats.memory_steps = steps;
    pthread_mutex_unlock(&s->lock);
}

void service_set_limits(struct service *s, uint32_t context_tokens, bool hold)
{
    pthread_mutex_lock(&s->lock);
    s->context = context_tokens < s->info->n_ctx ? context_tokens : s->info->n_ctx;
    s->holds = hold;
    pthread_mutex_unlock(&s->lock);
    service_wake(s); /* who waited may begin in this step */
}

void service_set_request_timeout(struct service *s, uint64_t timeout_ns)
{
    pthread_mutex_lock(&s->lock);
    s->request_timeout_ns = timeout_ns;
    pthread_mutex_unlock(&s->lock);
    service_wake(s); /* it may be up already */
}

void service_set_kv(struct service *s, enum kv_format f)
{
    pthread_mutex_lock(&s->lock);
    s->kv = f;
    pthread_mutex_unlock(&s->lock);
}

void service_set_drain_timeout(struct service *s, uint64_t timeout_ns)
{
    pthread_mutex_lock(&s->lock);
    s->drain_timeout_ns = timeout_ns;
    pthread_mutex_unlock(&s->lock);
}

/* --- the loop ------------------------------------------------------------------------------------
 */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void begin_to_stop(struct service *s, uint64_t now_ns)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    const uint64_t timeout_ns = s->drain_timeout_ns;
    pthread_mutex_unlock(&s->lock);
    const uint32_t n = jobs(s);
    s->stop_by_ns = timeout_ns ? now_ns + timeout_ns : UINT64_MAX;
    if (n && timeout_ns)
        log_info("stopping: %u answer%s may take %.0f s more; another signal ends %s", n,
                 n == 1 ? "" : "s", (double)timeout_ns * 1e-9, n == 1 ? "it" : "them");
    else if (n)
        log_info("stopping when %u answer%s ended; another signal ends %s", n,
                 n == 1 ? " has" : "s have", n == 1 ? "it" : "them");
}

static void stop_at_once(struct service *s, const char *why)
{
    const uint32_t n = jobs(s);
    if (n)
        log_warn("%s: %u answer%s cut short", why, n, n == 1 ? " is" : "s are");
    s->stopped = true;
    service_cancel_all(s);
}

static void heed_signals(struct service *s, uint64_t now_ns)
{
    const int stops = signals_stops();
    if (signals_take_reloads() && s->reload)
        s->reload(s->reload_arg);
    if (stops && !s->stop_by_ns)
        begin_to_stop(s, now_ns);
    if (s->stopped || !s->stop_by_ns)
        return;
    if (stops > 1)
        stop_at_once(s, "a second signal");
    else if (now_ns >= s->stop_by_ns)
        stop_at_once(s, "time is up");
}

/* Whether nothing is left to do: from then on nothing is taken any more. */
static bool has_ended(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    const bool ended = s->stopping && !s->stats.running && !s->stats.waiting;
    pthread_mutex_unlock(&s->lock);
    return ended;
}

static int engine_failed(struct service *s)
{
    close_doors(s);
    front_say_lost(s->front);
    service_end_waiting(s, EDGE_LOST, engine_error(s->front->engine));
    engine_told(s->front->engine);
    return EXIT_FAILED;
}

int service_run(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    s->phase = SERVICE_RUNNING;
    pthread_mutex_unlock(&s->lock);
    service_look(s, port_now_ns()); /* from the first turn on it is known whether a cloud is there */
    for (;;) {
        uint64_t news, until_ns = UINT64_MAX, now_ns = port_now_ns();
        if (read(s->wake_fd, &news, sizeof news) < 0 && errno != EAGAIN) {
            /* what is new is seen in any case */
        }
        heed_signals(s, now_ns);
        answer_calls(s);
        until_ns = service_expire(s, now_ns);
        service_pass_cancels(s);
        service_begin_waiting(s);
        engine_told(s->front->engine); /* of those that were cancelled, or refused */
        if (has_ended(s)) {
            close_doors(s);
            return EXIT_OK;
        }
        if (s->tick)
            until_ns = sooner(until_ns, s->tick(s->tick_arg, now_ns));
        if (s->stop_by_ns && !s->stopped)
            until_ns = sooner(until_ns, s->stop_by_ns);
        if (engine_step(s->front->engine, sooner(until_ns, now_ns + SLEEP_NS)) < 0)
            return engine_failed(s);
        service_look(s, port_now_ns());
    }
}
