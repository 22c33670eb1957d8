/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/completion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define INVALID "invalid_request_error"

/* Every failure comes through here: the first one counts. */
__attribute__((format(printf, 5, 6))) static int fail(struct completion *m, unsigned status,
                                                      const char *code, const char *param,
                                                      const char *fmt, ...)
{
    char why[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    if (!m->failed)
        api_fail(&m->error, status, status < 500 ? INVALID : "server_error", code, param, "%s",
                 why);
    if (status == 429)
        m->error.type = "rate_limit_error";
    m->failed = true;
    completion_cancel(m);
    return -1;
}

static int no_memory(struct completion *m)
{
    return fail(m, 500, NULL, "", "out of memory");
}

/* --- prompts ------------------------------------------------------------------------------------ */

static int encode_chat(struct completion *m, struct completion_prompt *p)
{
    const struct tokenizer *tok = m->c->model->tok;
    size_t n;
    const int rc =
        tok_chat_encode(tok, m->request.messages, m->request.n_messages, true, &p->ids, &n);
    if (rc == -ENOTSUP)
        return fail(m, 400, "unsupported", "messages",
                    "this model has no chat template that is known here: start isthmus with "
                    "--chat-template, or use /v1/completions");
    if (rc < 0)
        return no_memory(m);
    p->n = (uint32_t)n;
    return 0;
}

/* Control tokens written in a completion's prompt act: who asks writes the whole prompt. */
static int encode_text(struct completion *m, const struct api_prompt *in,
                       struct completion_prompt *p)
{
    const struct tokenizer *tok = m->c->model->tok;
    const uint32_t bos = tok_add_bos(tok) && tok_bos(tok) >= 0;
    p->ids = malloc((in->n_text + bos + 1) * sizeof *p->ids); /* an id has at least a byte */
    if (!p->ids)
        return no_memory(m);
    if (bos)
        p->ids[0] = tok_bos(tok);
    const int64_t n = tok_encode(tok, in->text, in->n_text, true, p->ids + bos, in->n_text + 1);
    if (n < 0)
        return no_memory(m);
    p->n = (uint32_t)n + bos;
    return 0;
}

static int take_ids(struct completion *m, struct api_prompt *in, struct completion_prompt *p)
{
    const uint32_t n_vocab = tok_n_vocab(m->c->model->tok);
    for (uint32_t i = 0; i < in->n_ids; i++)
        if ((uint32_t)in->ids[i] >= n_vocab)
            return fail(m, 400, "invalid_value", "prompt",
                        "prompt has the id %d, the vocabulary has 0 to %u", in->ids[i],
                        n_vocab - 1);
    *p = (struct completion_prompt){in->ids, in->n_ids};
    in->ids = NULL;
    return 0;
}

static int encode_prompts(struct completion *m)
{
    struct api_request *r = &m->request;
    m->n_prompts = r->kind == API_CHAT ? 1 : r->n_prompts;
    m->prompts = calloc(m->n_prompts, sizeof *m->prompts);
    if (!m->prompts) {
        m->n_prompts = 0;
        return no_memory(m);
    }
    for (uint32_t i = 0; i < m->n_prompts; i++) {
        struct completion_prompt *p = &m->prompts[i];
        const int rc = r->kind == API_CHAT     ? encode_chat(m, p)
                       : r->prompts[i].text    ? encode_text(m, &r->prompts[i], p)
                                               : take_ids(m, &r->prompts[i], p);
        if (rc < 0)
            return -1;
        if (p->n == 0)
            return fail(m, 400, "invalid_value", "prompt", "prompt has no tokens");
        const uint32_t most = service_context_most(m->c->service);
        if (p->n >= most)
            return fail(
                m, 400, "context_length_exceeded", r->kind == API_CHAT ? "messages" : "prompt",
                "the prompt has %u tokens, the context %u: no room for an answer", p->n, most);
        if (p->n >= m->context)
            return fail(m, 503, "unavailable", "",
                        "memory is short: for now a prompt may have less than %u tokens, this one "
                        "has %u",
                        m->context, p->n);
    }
    return 0;
}

/* --- answers ------------------------------------------------------------------------------------ */

static int make_answers(struct completion *m, void *owner)
{
    const struct api_request *r = &m->request;
    const uint32_t wanted = r->max_tokens          ? r->max_tokens
                            : r->kind == API_CHAT  ? m->c->answer_tokens
                                                   : 16; /* as OpenAI's */
    m->n_answers = m->n_prompts * r->n;
    m->answers = calloc(m->n_answers, sizeof *m->answers);
    if (!m->answers)
        return no_memory(m);
    for (; m->n_made < m->n_answers; m->n_made++) {
        const uint32_t room = m->context - m->prompts[m->n_made / r->n].n;
        struct answer *a = answer_new(wanted < room ? wanted : room, r->logprobs, r->top_logprobs);
        if (!a)
            return no_memory(m);
        a->owner = owner;
        a->tok = m->c->model->tok;
        a->chime = m->c->chime;
        a->text.stops = r->stops;
        a->text.n_stops = r->n_stops;
        m->answers[m->n_made] = a;
    }
    return 0;
}

static int refuse(struct completion *m, const struct answer *a, const struct completion_prompt *p)
{
    switch (a->error) {
    case -ERANGE:
        return fail(m, 400, "context_length_exceeded", "",
                    "the prompt has %u tokens: no room for an answer in the context", p->n);
    case -ENOSPC:
        return fail(m, 400, "context_length_exceeded", "",
                    "an answer of up to %u tokens to a prompt of %u needs more cache than there is "
                    "at all: a smaller max_tokens or a shorter prompt will do",
                    a->max_tokens, p->n);
    case -EAGAIN:
        return fail(m, 429, "rate_limit_exceeded", "", "too many requests wait already");
    case -ESHUTDOWN:
        return fail(m, 503, "unavailable", "", "the service is stopping, or is being drained");
    case -ETIMEDOUT:
        return fail(m, 503, "unavailable", "", "%s", SERVICE_TIMED_OUT);
    case -EINVAL:
        return fail(m, 400, "invalid_value", "", "the sampling parameters are out of range");
    default:
        return no_memory(m);
    }
}

/* 0, or -errno of the service. */
static int submit(struct completion *m, uint32_t i)
{
    const struct completion_prompt *p = &m->prompts[i / m->request.n];
    struct answer *a = m->answers[i];
    struct service_request r = {
        .prompt_ids = p->ids,
        .n_prompt = p->n,
        .sampler = m->request.sampler,
        .ignore_eos = m->request.ignore_eos,
        .context_tokens = m->context,
        .asked_ns = m->asked_ns,
        .comes_again = i % m->request.n > 0,
        .client = m->client,
    };
    r.sampler.seed += i % m->request.n;
    a->error = answer_submit(a, m->c->service, &r);
    return a->error;
}

/* The first answer to each prompt; the others follow when its cache is there. */
static int submit_first(struct completion *m)
{
    for (uint32_t i = 0; i < m->n_answers; i += m->request.n)
        if (submit(m, i) < 0)
            return refuse(m, m->answers[i], &m->prompts[i / m->request.n]);
    return 0;
}

bool completion_advance(struct completion *m)
{
    bool again = false;
    for (uint32_t i = 0; i < m->n_made && !m->failed; i++) {
        struct answer *a = m->answers[i];
        const struct answer *first = m->answers[i - i % m->request.n];
        const char *why;
        if (a->state == ANSWER_LATER && (first->n_taken || first->state == ANSWER_ENDED)) {
            const int rc = submit(m, i);
            again |= rc == -EAGAIN;
            if (rc < 0 && rc != -EAGAIN)
                refuse(m, a, &m->prompts[i / m->request.n]);
        } else if (a->state == ANSWER_ENDED && !answer_finish(a, &why)) {
            fail(m, 503, "unavailable", "", "%s", why);
        }
    }
    return again && !m->failed;
}

void completion_cancel(struct completion *m)
{
    for (uint32_t i = 0; i < m->n_made; i++)
        answer_cancel(m->answers[i], m->c->service);
}

bool completion_runs(const struct completion *m)
{
    for (uint32_t i = 0; i < m->n_made; i++)
        if (m->answers[i]->state == ANSWER_RUNNING)
            return true;
    return false;
}

bool completion_is_whole(const struct completion *m)
{
    for (uint32_t i = 0; i < m->n_made && !m->failed; i++)
        if (m->answers[i]->state != ANSWER_ENDED)
            return false;
    return true;
}

bool completion_has_news(const struct completion *m)
{
    if (completion_is_whole(m))
        return !m->ended;
    for (uint32_t i = 0; i < m->n_made; i++) {
        const struct answer *a = m->answers[i];
        if (a->text.n_ready > a->n_sent || (answer_complete(a) && !a->closed))
            return true;
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ */

static void make_id(struct completion *m)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz234567";
    unsigned char random[24];
    char *to = stpcpy(m->id, m->request.kind == API_CHAT ? "chatcmpl-" : "cmpl-");
    if (getrandom(random, sizeof random, 0) != sizeof random)
        memset(random, 0, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        *to++ = letters[random[i] % (sizeof letters - 1)];
    *to = '\0';
    m->created_s = time(NULL);
    if (!m->request.has_seed)
        memcpy(&m->request.sampler.seed, random, sizeof m->request.sampler.seed);
}

int completion_open(struct completion *m, const struct completion_context *c, enum api_kind kind,
                    const char *body, size_t n, const char *client, void *owner)
{
    *m = (struct completion){.c = c, .asked_ns = port_now_ns()};
    snprintf(m->client, sizeof m->client, "%s", client);
    if (api_parse(kind, body, n, &m->request, &m->error) < 0) {
        m->failed = true;
        return -1;
    }
    if (strcmp(m->request.model, c->model_id) != 0)
        return fail(m, 404, "model_not_found", "model", "the model '%.100s' is not served here",
                    m->request.model);
    make_id(m);
    m->context = service_context_tokens(c->service);
    if (encode_prompts(m) < 0 || make_answers(m, owner) < 0)
        return -1;
    return submit_first(m);
}

void completion_free(struct completion *m)
{
    for (uint32_t i = 0; i < m->n_made; i++)
        answer_free(m->answers[i]);
    for (uint32_t i = 0; i < m->n_prompts; i++)
        free(m->prompts[i].ids);
    out_free(&m->head);
    free(m->answers);
    free(m->prompts);
    api_free(&m->request);
    *m = (struct completion){.c = NULL};
}
