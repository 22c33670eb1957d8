/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for answers: suspended while the engine works, resumed when there is something to say. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "control/gateway/impl.h"
#include "dataplane/port.h"

struct exchange *exchange_new(struct gateway *g, struct MHD_Connection *c, struct client *client)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->g = g;
    x->connection = c;
    x->client = client;
    x->next = g->exchanges;
    if (x->next)
        x->next->prev = x;
    g->exchanges = x;
    client->exchange = x;
    return x;
}

static void unlink_and_free(struct exchange *x)
{
    if (x->next)
        x->next->prev = x->prev;
    if (x->prev)
        x->prev->next = x->next;
    else
        x->g->exchanges = x->next;
    if (x->answering) {
        x->g->n_answering--;
        completion_free(&x->completion);
    }
    out_free(&x->body);
    out_free(&x->out);
    free(x);
}

/* --- suspended ---------------------------------------------------------------------------------- */

/* A suspended connection is not read: that its client leaves is seen by the gateway's own epoll. */
void exchange_watch(struct exchange *x, bool room)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET | (room ? EPOLLOUT : 0),
                                .data.ptr = x};
    if (epoll_ctl(x->g->epoll, x->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, x->client->fd, &event) ==
        0)
        x->watched = true;
}

static void unwatch(struct exchange *x)
{
    if (x->watched)
        epoll_ctl(x->g->epoll, EPOLL_CTL_DEL, x->client->fd, NULL);
    x->watched = false;
}

void exchange_suspend(struct exchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->connection);
}

static bool has_something(const struct exchange *x)
{
    const struct completion *m = &x->completion;
    return m->request.stream ? completion_has_news(m) : completion_is_whole(m);
}

static void resume(struct exchange *x)
{
    x->suspended = x->direct = x->blocked = false;
    x->g->mhd_due = true;
    MHD_resume_connection(x->connection);
}

void exchange_wake(struct exchange *x)
{
    if (!x->suspended || !(x->gone || has_something(x)))
        return;
    if (x->gone || !x->direct)
        resume(x);
    else if (!stream_push(x))
        completion_is_whole(&x->completion) || x->out.failed ? resume(x) : exchange_gone(x);
}

/* --- replies ------------------------------------------------------------------------------------ */

static enum MHD_Result reply(struct exchange *x)
{
    struct completion *m = &x->completion;
    if (m->failed)
        return http_reply_error(x, &m->error);
    if (m->request.stream)
        return stream_reply(x);
    reply_whole(&x->out, m);
    return http_reply(x, 200, &x->out);
}

enum MHD_Result exchange_answer(struct exchange *x)
{
    struct gateway *g = x->g;
    struct api_error e;
    if (g->n_answering >= g->limits.requests) {
        api_fail(&e, 429, "rate_limit_error", "rate_limit_exceeded", "",
                 "more than %u requests are being answered", g->limits.requests);
        return http_reply_error(x, &e);
    }
    x->answering = true;
    g->n_answering++;
    const int rc = completion_open(&x->completion, &g->context, x->kind, x->body.bytes, x->body.n,
                                   x->name, x);
    out_free(&x->body);
    if (rc < 0)
        return reply(x);
    exchange_watch(x, false);
    exchange_suspend(x);
    return MHD_YES;
}

enum MHD_Result exchange_resumed(struct exchange *x)
{
    return x->gone ? MHD_NO : reply(x);
}

/* --- what happens ------------------------------------------------------------------------------- */

void exchange_over(struct exchange *x)
{
    unwatch(x);
    x->connection = NULL;
    x->client->exchange = NULL;
    x->client = NULL;
    x->suspended = false;
    if (x->answering)
        completion_cancel(&x->completion);
    if (!x->answering || !completion_runs(&x->completion))
        unlink_and_free(x);
}

void exchange_gone(struct exchange *x)
{
    x->gone = true;
    completion_cancel(&x->completion);
    exchange_wake(x);
}

void exchange_event(struct exchange *x, uint32_t events)
{
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) || !stream_go_on(x))
        exchange_gone(x);
    else
        exchange_wake(x);
}

/* After its answers have rung. */
static void advance(struct exchange *x)
{
    x->retry = completion_advance(&x->completion);
    x->g->retries |= x->retry;
    if (x->connection)
        exchange_wake(x);
    else if (!completion_runs(&x->completion))
        unlink_and_free(x);
}

void exchange_take_rungs(struct gateway *g)
{
    struct exchange *rung = NULL, *x;
    for (struct rung *r = chime_take(&g->chime), *next; r; r = next) {
        next = r->next; /* it may ring again at once */
        x = answer_rung(r, g->context.service)->owner;
        if (!x->rung) {
            x->rung = true;
            x->rung_next = rung;
            rung = x;
        }
    }
    while ((x = rung)) {
        rung = x->rung_next;
        x->rung = false;
        advance(x);
    }
}

void exchange_retry(struct gateway *g)
{
    for (struct exchange *x = g->exchanges, *next; x; x = next) {
        next = x->next;
        if (x->retry)
            advance(x);
    }
}

/* --- the end ------------------------------------------------------------------------------------ */

bool exchange_any_sending(const struct gateway *g)
{
    for (const struct exchange *x = g->exchanges; x; x = x->next)
        if (x->connection && !x->gone && (!x->answering || completion_is_whole(&x->completion)))
            return true;
    return false;
}

void exchange_drop_all(struct gateway *g)
{
    for (struct exchange *x = g->exchanges; x; x = x->next)
        if (x->connection && x->answering)
            exchange_gone(x);
}

void exchange_free_all(struct gateway *g)
{
    for (struct exchange *x; (x = g->exchanges);) {
        struct completion *m = &x->completion;
        for (uint32_t i = 0; x->answering && i < m->n_made; i++) {
            if (m->answers[i]->state != ANSWER_RUNNING)
                continue;
            m->answers[i]->orphan = true;
            m->answers[i] = NULL;
        }
        unlink_and_free(x);
    }
}
