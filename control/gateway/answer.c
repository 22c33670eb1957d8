/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct answer *answer_new(uint32_t max_tokens, bool with_ends, uint32_t n_top)
{
    struct answer *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->max_tokens = max_tokens;
    a->n_top = n_top;
    a->tokens = malloc(max_tokens * sizeof *a->tokens);
    a->ends = with_ends ? malloc(max_tokens * sizeof *a->ends) : NULL;
    a->top = n_top ? malloc((size_t)max_tokens * n_top * sizeof *a->top) : NULL;
    a->news.what = a;
    a->end.what = a;
    if (a->tokens && (a->ends || !with_ends) && (a->top || !n_top))
        return a;
    answer_free(a);
    return NULL;
}

void answer_free(struct answer *a)
{
    if (!a)
        return;
    text_free(&a->text);
    free(a->tokens);
    free(a->ends);
    free(a->top);
    free(a);
}

/* --- the engine's thread -------------------------------------------------------------------------
 */

static void keep_top(struct answer *a, uint32_t at, const struct token_sample *t)
{
    struct sampler_top *to = a->top + (size_t)at * a->n_top;
    for (uint32_t k = 0; k < a->n_top; k++)
        to[k] = k < t->n_top ? t->top[k] : (struct sampler_top){.id = -1};
}

static void on_token(void *arg, const struct token_sample *t)
{
    struct answer *a = arg;
    const uint32_t n = atomic_load_explicit(&a->n_tokens, memory_order_relaxed);
    if (a->orphan || n == a->max_tokens)
        return;
    a->tokens[n] = (struct answer_token){t->id, t->logprob};
    if (a->n_top)
        keep_top(a, n, t);
    atomic_store(&a->n_tokens, n + 1);
    if (!atomic_exchange(&a->rung, true))
        chime_put(a->chime, &a->news);
}

/* The answer is the gateway's alone once this has rung. */
static void on_done(void *arg, const struct edge_result *r)
{
    struct answer *a = arg;
    if (a->orphan) {
        answer_free(a);
        return;
    }
    a->result = *r;
    chime_put(a->chime, &a->end);
}

/* --- the gateway's thread ------------------------------------------------------------------------
 */

int answer_submit(struct answer *a, struct service *s, struct service_request *r)
{
    r->n_predict = a->max_tokens;
    r->n_top = a->n_top;
    r->on_token = on_token;
    r->on_done = on_done;
    r->arg = a;
    const int rc = service_submit(s, r, &a->id);
    if (rc == 0)
        a->state = ANSWER_RUNNING;
    return rc;
}

void answer_cancel(struct answer *a, struct service *s)
{
    if (a->state == ANSWER_LATER)
        a->state = ANSWER_ENDED;
    if (a->state == ANSWER_ENDED || a->cancelled)
        return;
    a->cancelled = true;
    if (a->text.stopped)
        service_stop(s, a->id);
    else
        service_cancel(s, a->id);
}

static void take_token(struct answer *a, int32_t id)
{
    char piece[512];
    const int64_t n = tok_piece(a->tok, id, false, piece, sizeof piece);
    if (n > (int64_t)sizeof piece) { /* no vocabulary has such */
        char *large = malloc((size_t)n);
        if (!large || tok_piece(a->tok, id, false, large, (size_t)n) != n ||
            text_push(&a->text, large, (size_t)n) < 0)
            a->out_of_memory = true;
        free(large);
    } else if (n > 0 && text_push(&a->text, piece, (size_t)n) < 0) {
        a->out_of_memory = true;
    }
}

static void take_tokens(struct answer *a)
{
    const uint32_t n = atomic_load(&a->n_tokens);
    while (a->n_taken < n && !a->text.stopped) {
        take_token(a, a->tokens[a->n_taken].id);
        if (a->ends)
            a->ends[a->n_taken] = (uint32_t)a->text.n;
        a->n_taken++;
    }
}

struct answer *answer_rung(struct rung *r, struct service *s)
{
    struct answer *a = r->what;
    const bool ended = r == &a->end;
    if (!ended)
        atomic_store(&a->rung, false); /* before its tokens are counted */
    take_tokens(a);
    if (ended) {
        a->state = ANSWER_ENDED;
        text_end(&a->text);
    }
    if (a->text.stopped || a->out_of_memory)
        answer_cancel(a, s);
    return a;
}

const char *answer_finish(const struct answer *a, const char **why)
{
    *why = NULL;
    if (a->out_of_memory)
        *why = "out of memory";
    else if (a->error == -ESHUTDOWN)
        *why = "the service is stopping";
    else if (a->error)
        *why = strerror(-a->error);
    if (*why)
        return NULL;
    if (a->text.stopped)
        return "stop";
    switch (a->result.finish) {
    case EDGE_LENGTH:
        return "length";
    case EDGE_STOP:
        return "stop";
    case EDGE_CANCELLED:
        *why = "the answer was cancelled";
        return NULL;
    case EDGE_REFUSED:
    case EDGE_LOST:
        *why = a->result.error[0] ? a->result.error : "the model's other half is lost";
        return NULL;
    }
    return NULL;
}

uint32_t answer_tokens_until(const struct answer *a, size_t to)
{
    uint32_t n = a->n_sent_tokens, last = a->n_taken;
    if (a->state == ANSWER_ENDED && a->result.finish == EDGE_STOP && !a->text.stopped && last)
        last--;
    while (n < last) {
        /* One that is cut at the stop string still counts, one that begins there does not. */
        const size_t begin = n ? a->ends[n - 1] : 0;
        if (a->text.stopped ? begin >= to : a->ends[n] > to)
            break;
        n++;
    }
    return n;
}

uint32_t answer_n_generated(const struct answer *a)
{
    return a->n_taken;
}
