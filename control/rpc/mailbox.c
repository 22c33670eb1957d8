/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/mailbox.h"

#include <errno.h>
#include <time.h>

int rpc_mailbox_open(struct rpc_mailbox *m, void (*wake)(void *arg), void *wake_arg,
                     uint64_t patience_ns)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc)
        return -rc;
    *m = (struct rpc_mailbox){.wake = wake, .wake_arg = wake_arg, .patience_ns = patience_ns};
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&m->done, &attr);
    pthread_condattr_destroy(&attr);
    if (!rc && (rc = pthread_mutex_init(&m->lock, NULL)))
        pthread_cond_destroy(&m->done);
    return -rc;
}

void rpc_mailbox_close(struct rpc_mailbox *m)
{
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->done);
}

static struct timespec in_ns(uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ns / 1000000000u);
    t.tv_nsec += (long)(ns % 1000000000u);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

int rpc_mailbox_call(struct rpc_mailbox *m, void (*fn)(void *arg), void *arg)
{
    const struct timespec until = in_ns(m->patience_ns);
    int rc = 0;
    pthread_mutex_lock(&m->lock);
    if (m->closed) {
        pthread_mutex_unlock(&m->lock);
        return -ESHUTDOWN;
    }
    m->fn = fn;
    m->arg = arg;
    atomic_store(&m->full, true);
    if (m->wake)
        m->wake(m->wake_arg);
    /* What has begun is waited for, however long it takes: it uses the caller's memory. */
    while (atomic_load(&m->full) && !m->closed && (m->running || rc != ETIMEDOUT))
        rc = m->running ? pthread_cond_wait(&m->done, &m->lock)
                        : pthread_cond_timedwait(&m->done, &m->lock, &until);
    rc = !atomic_load(&m->full) ? 0 : m->closed ? -ESHUTDOWN : -ETIMEDOUT;
    atomic_store(&m->full, false);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

void rpc_mailbox_run(struct rpc_mailbox *m)
{
    if (!atomic_load_explicit(&m->full, memory_order_relaxed))
        return;
    pthread_mutex_lock(&m->lock);
    const bool full = atomic_load(&m->full);
    m->running = full;
    pthread_mutex_unlock(&m->lock);
    if (!full)
        return;
    m->fn(m->arg);
    pthread_mutex_lock(&m->lock);
    m->running = false;
    atomic_store(&m->full, false);
    pthread_cond_signal(&m->done);
    pthread_mutex_unlock(&m->lock);
}

void rpc_mailbox_shut(struct rpc_mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    pthread_cond_signal(&m->done);
    pthread_mutex_unlock(&m->lock);
}
