/* SPDX-License-Identifier: Apache-2.0 */
/* What a completion says to its client: OpenAI's objects, written by hand. */
#include <stdlib.h>
#include <string.h>

#include "control/gateway/completion.h"

static void string_or_null(struct out *o, const char *text)
{
    if (text && *text)
        out_string(o, text, strlen(text));
    else
        out_text(o, "null");
}

void reply_error(struct out *o, const struct api_error *e)
{
    out_text(o, "{\"error\":{\"message\":");
    out_string(o, e->message, strlen(e->message));
    out_text(o, ",\"type\":");
    string_or_null(o, e->type);
    out_text(o, ",\"param\":");
    string_or_null(o, e->param);
    out_text(o, ",\"code\":");
    string_or_null(o, e->code);
    out_text(o, "}}");
}

/* --- log-probabilities -------------------------------------------------------------------------- */

/* The token's bytes, malloc'd; NULL: out of memory. */
static char *piece(const struct answer *a, uint32_t i, size_t *n)
{
    const int64_t len = tok_piece(a->tok, a->tokens[i].id, false, NULL, 0);
    char *bytes = malloc(len > 0 ? (size_t)len : 1);
    *n = len > 0 && bytes ? (size_t)tok_piece(a->tok, a->tokens[i].id, false, bytes, (size_t)len)
                          : 0;
    return bytes;
}

static void chat_logprob(struct out *o, const struct answer *a, uint32_t i)
{
    size_t n;
    char *bytes = piece(a, i, &n);
    if (!bytes) {
        o->failed = true;
        return;
    }
    out_text(o, "{\"token\":");
    out_string(o, bytes, n);
    out_text(o, ",\"logprob\":");
    out_real(o, (double)a->tokens[i].logprob, -9999);
    out_text(o, ",\"bytes\":[");
    for (size_t b = 0; b < n; b++)
        out_format(o, b ? ",%u" : "%u", (unsigned char)bytes[b]);
    out_text(o, "],\"top_logprobs\":[]}");
    free(bytes);
}

static void chat_logprobs(struct out *o, const struct answer *a, uint32_t from, uint32_t to)
{
    out_text(o, "{\"content\":[");
    for (uint32_t i = from; i < to; i++) {
        if (i > from)
            out_text(o, ",");
        chat_logprob(o, a, i);
    }
    out_text(o, "],\"refusal\":null}");
}

static void token_texts(struct out *o, const struct answer *a, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        size_t n;
        char *bytes = piece(a, i, &n);
        if (i > from)
            out_text(o, ",");
        if (bytes)
            out_string(o, bytes, n);
        else
            o->failed = true;
        free(bytes);
    }
}

static void text_logprobs(struct out *o, const struct answer *a, uint32_t from, uint32_t to)
{
    out_text(o, "{\"tokens\":[");
    token_texts(o, a, from, to);
    out_text(o, "],\"token_logprobs\":[");
    for (uint32_t i = from; i < to; i++) {
        if (i > from)
            out_text(o, ",");
        out_real(o, (double)a->tokens[i].logprob, -9999);
    }
    out_text(o, "],\"top_logprobs\":null,\"text_offset\":[");
    for (uint32_t i = from; i < to; i++)
        out_format(o, i > from ? ",%u" : "%u", i ? a->ends[i - 1] : 0);
    out_text(o, "]}");
}

/* Of the tokens whose text goes out up to byte `to`. */
static void logprobs(struct out *o, const struct completion *m, struct answer *a, size_t to)
{
    if (!m->request.logprobs) {
        out_text(o, "null");
        return;
    }
    const uint32_t from = a->n_sent_tokens, end = answer_tokens_until(a, to);
    if (m->request.kind == API_CHAT)
        chat_logprobs(o, a, from, end);
    else
        text_logprobs(o, a, from, end);
    a->n_sent_tokens = end;
}

/* --- parts of both ------------------------------------------------------------------------------ */

static void head(struct out *o, const struct completion *m)
{
    const char *object = m->request.kind == API_COMPLETION ? "text_completion"
                         : m->request.stream               ? "chat.completion.chunk"
                                                           : "chat.completion";
    out_text(o, "{\"id\":\"");
    out_text(o, m->id);
    out_text(o, "\",\"object\":\"");
    out_text(o, object);
    out_format(o, "\",\"created\":%lld,\"model\":", (long long)m->created_s);
    out_string(o, m->c->model_id, strlen(m->c->model_id));
    out_text(o, ",\"choices\":[");
}

static void usage(struct out *o, const struct completion *m)
{
    uint64_t prompt = 0, shared = 0, generated = 0;
    for (uint32_t i = 0; i < m->n_prompts; i++) {
        prompt += m->prompts[i].n;
        shared += m->answers[i * m->request.n]->result.n_shared;
    }
    for (uint32_t i = 0; i < m->n_answers; i++)
        generated += answer_n_generated(m->answers[i]);
    out_format(o,
               "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
               (unsigned long long)prompt, (unsigned long long)generated,
               (unsigned long long)(prompt + generated), (unsigned long long)shared);
}

static void finish(struct out *o, const struct answer *a)
{
    const char *why;
    out_text(o, ",\"finish_reason\":");
    string_or_null(o, answer_finish(a, &why));
    out_text(o, "}");
}

/* --- whole -------------------------------------------------------------------------------------- */

static void whole_choice(struct out *o, const struct completion *m, uint32_t i)
{
    struct answer *a = m->answers[i];
    out_format(o, i ? ",{\"index\":%u," : "{\"index\":%u,", i);
    if (m->request.kind == API_CHAT) {
        out_text(o, "\"message\":{\"role\":\"assistant\",\"content\":");
        out_string(o, a->text.bytes, a->text.n);
        out_text(o, ",\"refusal\":null}");
    } else {
        out_text(o, "\"text\":");
        out_string(o, a->text.bytes, a->text.n);
    }
    out_text(o, ",\"logprobs\":");
    logprobs(o, m, a, a->text.n);
    finish(o, a);
}

void reply_whole(struct out *o, const struct completion *m)
{
    head(o, m);
    for (uint32_t i = 0; i < m->n_answers; i++)
        whole_choice(o, m, i);
    out_text(o, "],");
    usage(o, m);
    out_text(o, "}");
}

/* --- as events ---------------------------------------------------------------------------------- */

static void begin_event(struct out *o, const struct completion *m)
{
    o->failed |= m->head.failed;
    out_bytes(o, m->head.bytes, m->head.n);
}

static void end_event(struct out *o, const struct completion *m)
{
    out_text(o, m->request.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void begin_choice(struct out *o, const struct completion *m, uint32_t i)
{
    out_text(o, "{\"index\":");
    out_number(o, i);
    out_text(o, m->request.kind == API_CHAT ? ",\"delta\":" : ",");
}

/* A chat says first whose turn it is. */
static void role_event(struct out *o, const struct completion *m, uint32_t i)
{
    begin_event(o, m);
    begin_choice(o, m, i);
    out_text(o, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
                "\"finish_reason\":null}");
    end_event(o, m);
}

static void text_event(struct out *o, const struct completion *m, uint32_t i)
{
    struct answer *a = m->answers[i];
    const bool chat = m->request.kind == API_CHAT;
    begin_event(o, m);
    begin_choice(o, m, i);
    out_text(o, chat ? "{\"content\":" : "\"text\":");
    out_string(o, a->text.bytes + a->n_sent, a->text.n_ready - a->n_sent);
    out_text(o, chat ? "},\"logprobs\":" : ",\"logprobs\":");
    a->n_sent = a->text.n_ready;
    logprobs(o, m, a, a->n_sent);
    out_text(o, ",\"finish_reason\":null}");
    end_event(o, m);
}

static void last_event(struct out *o, const struct completion *m, uint32_t i)
{
    begin_event(o, m);
    begin_choice(o, m, i);
    out_text(o, m->request.kind == API_CHAT ? "{},\"logprobs\":null"
                                            : "\"text\":\"\",\"logprobs\":null");
    finish(o, m->answers[i]);
    end_event(o, m);
}

/* What is new of one answer. */
static void answer_events(struct out *o, const struct completion *m, uint32_t i)
{
    struct answer *a = m->answers[i];
    const bool text = a->text.n_ready > a->n_sent, last = answer_complete(a) && !a->closed;
    if ((text || last) && !a->begun && m->request.kind == API_CHAT)
        role_event(o, m, i);
    a->begun |= text || last;
    if (text)
        text_event(o, m, i);
    if (last)
        last_event(o, m, i);
    a->closed |= last;
}

static void end_stream(struct out *o, struct completion *m)
{
    if (m->request.include_usage) {
        begin_event(o, m);
        out_text(o, "],");
        usage(o, m);
        out_text(o, "}\n\n");
    }
    out_text(o, "data: [DONE]\n\n");
    m->ended = true;
}

void reply_events(struct out *o, struct completion *m)
{
    if (m->ended)
        return;
    if (!m->began) {
        out_text(&m->head, "data: ");
        head(&m->head, m);
    }
    m->began = true;
    if (m->failed) {
        out_text(o, "data: ");
        reply_error(o, &m->error);
        out_text(o, "\n\n");
        m->ended = true;
        return;
    }
    for (uint32_t i = 0; i < m->n_answers; i++)
        answer_events(o, m, i);
    if (completion_is_whole(m))
        end_stream(o, m);
}
