/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/registry.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "control/fleet/registry_impl.h"
#include "control/log.h"
#include "control/signals.h"

struct registry {
    const struct registry_kind *kind;
    char *where;
    void *source;
    pthread_t thread;
    bool started;
    int wake_fd, news_fd;
    atomic_bool closing, up;

    bool told_empty; /* the thread's own */
    size_t n_last;

    pthread_mutex_t lock;
    struct workers news; /* not taken yet */
    bool has_news;
};

static const struct registry_kind *const kinds[] = {&registry_file, &registry_srv, &registry_etcd};

/* --- for the kinds
 * --------------------------------------------------------------------------------
 */

const char *registry_where(const struct registry *r)
{
    return r->where;
}

int registry_wake_fd(const struct registry *r)
{
    return r->wake_fd;
}

bool registry_closing(struct registry *r)
{
    return atomic_load(&r->closing);
}

bool registry_deliver(struct registry *r, struct workers *w)
{
    if (w->n == 0 && r->n_last > 0) {
        if (!r->told_empty)
            log_warn("%s has no workers any more: the last %zu are kept", r->where, r->n_last);
        r->told_empty = true;
        workers_free(w);
        return false;
    }
    workers_sort(w);
    pthread_mutex_lock(&r->lock);
    workers_free(&r->news);
    r->news = *w;
    r->has_news = true;
    pthread_mutex_unlock(&r->lock);
    r->n_last = w->n;
    r->told_empty = false;
    *w = (struct workers){.n = 0};
    eventfd_write(r->news_fd, 1);
    return true;
}

void registry_failed(struct registry *r, const char *why, ...)
{
    if (!atomic_exchange(&r->up, false))
        return;
    char text[400];
    va_list args;
    va_start(args, why);
    vsnprintf(text, sizeof text, why, args);
    va_end(args);
    if (r->n_last)
        log_warn("%s: %s: the last %zu worker%s known from it are kept", r->where, text, r->n_last,
                 r->n_last == 1 ? "" : "s");
    else
        log_warn("%s: %s: no worker is known from it yet", r->where, text);
}

void registry_answered(struct registry *r)
{
    if (!atomic_exchange(&r->up, true))
        log_info("%s answers again", r->where);
}

/* --- the thread
 * -----------------------------------------------------------------------------------
 */

static void *run(void *arg)
{
    struct registry *r = arg;
    while (!registry_closing(r)) {
        const uint32_t pause_ms = r->kind->look(r, r->source);
        struct pollfd wake = {.fd = r->wake_fd, .events = POLLIN};
        if (!registry_closing(r) && poll(&wake, 1, (int)pause_ms) == 1) {
            eventfd_t n;
            eventfd_read(r->wake_fd, &n);
        }
    }
    return NULL;
}

int registry_open(const char *where, struct registry **out, char *err)
{
    const struct registry_kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(where, kinds[i]->scheme, strlen(kinds[i]->scheme)) == 0)
            kind = kinds[i];
    if (!kind) {
        snprintf(
            err, WORKERS_ERR,
            "%.100s: no registry of workers: file:PATH, srv:NAME or etcd:http://HOST:2379/PREFIX",
            where);
        return -EINVAL;
    }
    struct registry *r = calloc(1, sizeof *r);
    if (!r) {
        snprintf(err, WORKERS_ERR, "out of memory");
        return -ENOMEM;
    }
    r->kind = kind;
    pthread_mutex_init(&r->lock, NULL);
    atomic_store(&r->up, true);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->where = strdup(where);
    int rc = r->wake_fd < 0 || r->news_fd < 0 || !r->where ? -ENOMEM : 0;
    if (rc == 0)
        rc = kind->open(r, where + strlen(kind->scheme), &r->source, err);
    if (rc == 0) {
        rc = signals_thread(&r->thread, "isthmus-workers", run, r);
        r->started = rc == 0;
        if (rc < 0)
            snprintf(err, WORKERS_ERR, "%.200s: no thread for it: %s", where, strerror(-rc));
    } else if (rc == -ENOMEM) {
        snprintf(err, WORKERS_ERR, "%.200s: out of memory", where);
    }
    if (rc < 0) {
        registry_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    if (r->started) {
        atomic_store(&r->closing, true);
        eventfd_write(r->wake_fd, 1);
        pthread_join(r->thread, NULL);
    }
    if (r->source)
        r->kind->close(r->source);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    if (r->news_fd >= 0)
        close(r->news_fd);
    pthread_mutex_destroy(&r->lock);
    workers_free(&r->news);
    free(r->where);
    free(r);
}

/* --- for its user
 * ---------------------------------------------------------------------------------
 */

int registry_fd(const struct registry *r)
{
    return r->news_fd;
}

bool registry_poll(struct registry *r, struct workers *out)
{
    eventfd_t n;
    eventfd_read(r->news_fd, &n);
    pthread_mutex_lock(&r->lock);
    const bool has = r->has_news;
    if (has) {
        *out = r->news;
        r->news = (struct workers){.n = 0};
        r->has_news = false;
    }
    pthread_mutex_unlock(&r->lock);
    return has;
}
