/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/service/service_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void answer_init(struct answer *a)
{
    *a = (struct answer){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
}

void on_token(void *arg, const struct token_sample *t)
{
    struct answer *a = arg;
    pthread_mutex_lock(&a->lock);
    assert_true(t->logprob == -.5f && t->n_top == N_TOP);
    assert_true(a->n < FAKE_CTX);
    assert_int_equal(a->done, 0);
    if (!a->n)
        a->first_ns = port_now_ns();
    a->ids[a->n++] = t->id;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void on_done(void *arg, const struct edge_result *r)
{
    struct answer *a = arg;
    pthread_mutex_lock(&a->lock);
    a->result = *r;
    a->done++;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void await_tokens(struct answer *a, uint32_t n)
{
    pthread_mutex_lock(&a->lock);
    while (a->n < n && !a->done)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

enum edge_finish await_done(struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->changed, &a->lock);
    assert_int_equal(a->done, 1);
    const enum edge_finish f = a->result.finish;
    pthread_mutex_unlock(&a->lock);
    return f;
}

int submit_as(struct service *s, struct answer *a, int32_t first, uint32_t n, const char *client,
              uint64_t *id)
{
    const struct service_request r = {.prompt_ids = &first,
                                      .n_prompt = 1,
                                      .n_predict = n,
                                      .sampler = sampler_params_default(),
                                      .n_top = N_TOP,
                                      .client = client,
                                      .on_token = on_token,
                                      .on_done = on_done,
                                      .arg = a};
    return service_submit(s, &r, id);
}

uint64_t submit(struct service *s, struct answer *a, int32_t first, uint32_t n)
{
    uint64_t id = 0;
    answer_init(a);
    assert_int_equal(submit_as(s, a, first, n, "", &id), 0);
    assert_true(id > 0);
    return id;
}

static void reload(void *arg)
{
    atomic_fetch_add(&((struct rig *)arg)->reloads, 1);
}

static void *engine_thread(void *arg)
{
    struct rig *r = arg;
    struct service *s;
    assert_int_equal(service_open(&r->params, &s), EXIT_OK);
    service_on_reload(s, reload, r);
    if (r->tick)
        service_on_tick(s, r->tick, r);
    pthread_mutex_lock(&r->lock);
    r->service = s;
    pthread_cond_signal(&r->opened);
    pthread_mutex_unlock(&r->lock);
    r->rc = service_run(s);
    return NULL;
}

void rig_start(struct rig *r, uint32_t sessions, uint32_t max_waiting)
{
    fake_engine_open(&r->engine, sessions);
    r->params.front = &r->engine.front;
    r->params.max_waiting = max_waiting;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->opened, NULL);
    assert_int_equal(pthread_create(&r->thread, NULL, engine_thread, r), 0);
    pthread_mutex_lock(&r->lock);
    while (!r->service)
        pthread_cond_wait(&r->opened, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

int rig_join(struct rig *r)
{
    pthread_join(r->thread, NULL);
    service_close(r->service);
    return r->rc;
}

int rig_end(struct rig *r)
{
    kill(getpid(), SIGTERM);
    return rig_join(r);
}

void nap(uint64_t ns)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)},
        NULL);
}

struct service_stats stats(struct rig *r)
{
    struct service_stats s;
    service_stats(r->service, &s);
    return s;
}

void await_running(struct rig *r, uint32_t running, uint32_t waiting)
{
    for (struct service_stats s = stats(r); s.running != running || s.waiting != waiting;
         s = stats(r))
        nap(100000);
}

void nothing(void *arg, struct front *f)
{
    (void)f;
    if (arg)
        ++*(int *)arg;
}

void in_child(void (*test)(struct rig *r))
{
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static struct rig rig;
        alarm(120);
        test(&rig);
        exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}
