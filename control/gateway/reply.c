/* SPDX-License-Identifier: Apache-2.0 */
/* What a completion says to its client: OpenAI's objects, written by hand. */
#include <stdlib.h>
#include <string.h>

#include "control/gateway/completion.h"
#include "control/utf8.h"

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

/* A token's bytes. Control tokens, which are no part of the text, have their names here. */
struct piece {
    char *bytes; /* malloc'd; NULL: out of memory */
    size_t n;
};

static struct piece piece(const struct answer *a, int32_t id)
{
    const int64_t len = tok_piece(a->tok, id, true, NULL, 0);
    struct piece p = {malloc(len > 0 ? (size_t)len : 1), 0};
    if (len > 0 && p.bytes)
        p.n = (size_t)tok_piece(a->tok, id, true, p.bytes, (size_t)len);
    return p;
}

static const struct sampler_top *tops(const struct answer *a, uint32_t i)
{
    return a->top + (size_t)i * a->n_top;
}

static void chat_token(struct out *o, const struct answer *a, int32_t id, float logprob)
{
    const struct piece p = piece(a, id);
    if (!p.bytes) {
        o->failed = true;
        return;
    }
    out_text(o, "{\"token\":");
    out_string(o, p.bytes, p.n);
    out_text(o, ",\"logprob\":");
    out_real(o, (double)logprob, -9999);
    out_text(o, ",\"bytes\":[");
    for (size_t b = 0; b < p.n; b++)
        out_format(o, b ? ",%u" : "%u", (unsigned char)p.bytes[b]);
    out_text(o, "]");
    free(p.bytes);
}

static void chat_logprob(struct out *o, const struct answer *a, uint32_t i)
{
    chat_token(o, a, a->tokens[i].id, a->tokens[i].logprob);
    out_text(o, ",\"top_logprobs\":[");
    for (uint32_t k = 0; k < a->n_top && tops(a, i)[k].id >= 0; k++) {
        if (k > 0)
            out_text(o, ",");
        chat_token(o, a, tops(a, i)[k].id, tops(a, i)[k].logprob);
        out_text(o, "}");
    }
    out_text(o, "]}");
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

static bool is_utf8(struct out *o, const struct piece *p)
{
    size_t n, i = 0;
    while (i < p->n && (unsigned char)p->bytes[i] < 0x80)
        i++;
    if (i == p->n)
        return true;
    char *clean = utf8_clean(p->bytes, p->n, &n);
    const bool same = clean && n == p->n && memcmp(clean, p->bytes, n) == 0;
    o->failed |= !clean;
    free(clean);
    return same;
}

/* As the older interface writes them: a part of a character as bytes:\xe2\x80, so that each has its
 * own name. */
static void text_token(struct out *o, const struct piece *p)
{
    if (!p->bytes) {
        o->failed = true;
        return;
    }
    if (is_utf8(o, p)) {
        out_string(o, p->bytes, p->n);
        return;
    }
    out_text(o, "\"bytes:");
    for (size_t i = 0; i < p->n; i++)
        out_format(o, "\\\\x%02x", (unsigned char)p->bytes[i]);
    out_text(o, "\"");
}

static void token_texts(struct out *o, const struct answer *a, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        const struct piece p = piece(a, a->tokens[i].id);
        if (i > from)
            out_text(o, ",");
        text_token(o, &p);
        free(p.bytes);
    }
}

/* An object's members, by name: of two ids that have the same text the likelier one. */
struct members {
    struct piece names[SAMPLER_TOP_MAX + 1];
    uint32_t n;
};

static void add_member(struct out *o, const struct answer *a, struct members *m, int32_t id,
                       float logprob)
{
    const struct piece p = piece(a, id);
    for (uint32_t k = 0; p.bytes && k < m->n; k++)
        if (m->names[k].n == p.n && memcmp(m->names[k].bytes, p.bytes, p.n) == 0) {
            free(p.bytes);
            return;
        }
    if (m->n > 0)
        out_text(o, ",");
    text_token(o, &p);
    out_text(o, ":");
    out_real(o, (double)logprob, -9999);
    if (p.bytes)
        m->names[m->n++] = p;
}

/* {text: log-probability} of the likeliest, and of the chosen one in any case. */
static void text_tops(struct out *o, const struct answer *a, uint32_t i)
{
    struct members m = {.n = 0};
    out_text(o, "{");
    for (uint32_t k = 0; k < a->n_top && tops(a, i)[k].id >= 0; k++)
        add_member(o, a, &m, tops(a, i)[k].id, tops(a, i)[k].logprob);
    add_member(o, a, &m, a->tokens[i].id, a->tokens[i].logprob);
    out_text(o, "}");
    while (m.n > 0)
        free(m.names[--m.n].bytes);
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
    out_text(o, a->n_top ? "],\"top_logprobs\":[" : "],\"top_logprobs\":null");
    for (uint32_t i = from; a->n_top && i < to; i++) {
        if (i > from)
            out_text(o, ",");
        text_tops(o, a, i);
    }
    out_text(o, a->n_top ? "],\"text_offset\":[" : ",\"text_offset\":[");
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
    struct answer *a = m->answers[i];
    begin_event(o, m);
    begin_choice(o, m, i);
    out_text(o, m->request.kind == API_CHAT ? "{},\"logprobs\":" : "\"text\":\"\",\"logprobs\":");
    if (m->request.logprobs && answer_tokens_until(a, a->text.n) > a->n_sent_tokens)
        logprobs(o, m, a, a->text.n); /* tokens at the end that have no text */
    else
        out_text(o, "null");
    finish(o, a);
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
