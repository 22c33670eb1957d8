/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/serve_stream.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void stream_open(struct stream *s, void (*on_text)(void *arg), void *arg)
{
    *s = (struct stream){
        .on_text = on_text, .arg = arg, .prompt_tokens = -1, .completion_tokens = -1};
}

void stream_close(struct stream *s)
{
    free(s->line.at);
    free(s->data.at);
    s->line.at = s->data.at = NULL;
}

__attribute__((format(printf, 3, 4))) static int fail(struct stream *s, int rc, const char *fmt,
                                                      ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->error, sizeof s->error, fmt, args);
    va_end(args);
    return s->rc = rc;
}

static int append(struct stream *s, struct stream_bytes *b, const char *bytes, size_t len)
{
    if (len > STREAM_EVENT_MAX - b->len)
        return fail(s, -EMSGSIZE, "an event of more than %u bytes", STREAM_EVENT_MAX);
    if (b->room - b->len < len) {
        size_t room = b->room ? b->room : 1024;
        while (room - b->len < len)
            room *= 2;
        char *grown = realloc(b->at, room);
        if (!grown)
            return fail(s, -ENOMEM, "out of memory");
        b->at = grown;
        b->room = room;
    }
    if (len)
        memcpy(b->at + b->len, bytes, len);
    b->len += len;
    return 0;
}

/* --- an event
 * ------------------------------------------------------------------------------------- */

/* Text of others on one line of ours. */
static void printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = ' ';
}

static bool is_text(const json_t *value)
{
    return json_is_string(value) && json_string_length(value) > 0;
}

static const char *error_text(const json_t *error)
{
    const json_t *message = json_is_object(error) ? json_object_get(error, "message") : error;
    return is_text(message) ? json_string_value(message) : "it does not say what";
}

static int take_choice(struct stream *s, const json_t *choice)
{
    if (!json_is_object(choice))
        return fail(s, -EBADMSG, "a choice is no JSON object");
    const json_t *delta = json_object_get(choice, "delta");
    if (is_text(json_object_get(choice, "text")) || is_text(json_object_get(delta, "content")) ||
        is_text(json_object_get(delta, "reasoning_content"))) {
        s->texts++;
        s->on_text(s->arg);
    }
    s->finished |= is_text(json_object_get(choice, "finish_reason"));
    return 0;
}

static int take_count(struct stream *s, const json_t *usage, const char *name, int64_t *count)
{
    const json_t *n = json_object_get(usage, name);
    if (!n || json_is_null(n))
        return 0;
    if (!json_is_integer(n) || json_integer_value(n) < 0 ||
        json_integer_value(n) > STREAM_TOKENS_MAX)
        return fail(s, -EBADMSG, "usage.%s is no number of tokens", name);
    *count = json_integer_value(n);
    return 0;
}

static int take_object(struct stream *s, const json_t *event)
{
    const json_t *error = json_object_get(event, "error");
    if (error && !json_is_null(error)) {
        fail(s, -EREMOTEIO, "%s", error_text(error));
        printable(s->error);
        return s->rc;
    }
    const json_t *choices = json_object_get(event, "choices"),
                 *usage = json_object_get(event, "usage");
    if (choices && !json_is_array(choices))
        return fail(s, -EBADMSG, "\"choices\" is no JSON array");
    for (size_t i = 0; i < json_array_size(choices); i++)
        if (take_choice(s, json_array_get(choices, i)) < 0)
            return s->rc;
    if (!usage || json_is_null(usage))
        return 0;
    if (!json_is_object(usage))
        return fail(s, -EBADMSG, "\"usage\" is no JSON object");
    if (take_count(s, usage, "prompt_tokens", &s->prompt_tokens) < 0)
        return s->rc;
    return take_count(s, usage, "completion_tokens", &s->completion_tokens);
}

static int take_event(struct stream *s)
{
    static const char done[] = "[DONE]";
    json_error_t error;
    s->has_data = false;
    if (s->data.len == sizeof done - 1 && memcmp(s->data.at, done, sizeof done - 1) == 0) {
        s->done = true;
        return 0;
    }
    if (s->data.len == 0)
        return 0;
    json_t *event = json_loadb(s->data.at, s->data.len, JSON_ALLOW_NUL, &error);
    s->data.len = 0;
    if (!event) {
        fail(s, -EBADMSG, "an event is no JSON: %s", error.text);
        printable(s->error);
        return s->rc;
    }
    const int rc = json_is_object(event) ? take_object(s, event)
                                         : fail(s, -EBADMSG, "an event is no JSON object");
    json_decref(event);
    return rc;
}

/* --- lines
 * ---------------------------------------------------------------------------------------- */

/* The value of a line "NAME: VALUE"; NULL: it has another name. */
static const char *field(const struct stream_bytes *line, const char *name, size_t *len)
{
    const size_t n = strlen(name);
    if (line->len < n || memcmp(line->at, name, n) != 0)
        return NULL;
    if (line->len == n) {
        *len = 0;
        return line->at + n;
    }
    if (line->at[n] != ':')
        return NULL;
    const size_t skip = line->len > n + 1 && line->at[n + 1] == ' ' ? n + 2 : n + 1;
    *len = line->len - skip;
    return line->at + skip;
}

static int take_line(struct stream *s)
{
    static const char *const others[] = {"event", "id", "retry"};
    size_t len;
    if (s->line.len == 0)
        return s->has_data ? take_event(s) : 0;
    if (*s->line.at == ':')
        return 0; /* a comment, to keep the connection */
    const char *value = field(&s->line, "data", &len);
    if (value) {
        const bool more = s->has_data;
        s->has_data = true;
        return more && append(s, &s->data, "\n", 1) < 0 ? s->rc : append(s, &s->data, value, len);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (field(&s->line, others[i], &len))
            return 0;
    return fail(s, -EBADMSG, "a line that is none of server-sent events");
}

/* Lines end by CR, LF or both. */
static size_t line_length(const char *bytes, size_t len)
{
    size_t n = 0;
    while (n < len && bytes[n] != '\n' && bytes[n] != '\r')
        n++;
    return n;
}

int stream_feed(struct stream *s, const char *bytes, size_t len)
{
    while (len && !s->rc && !s->done) {
        if (s->after_cr && *bytes == '\n') {
            s->after_cr = false;
            bytes++, len--;
            continue;
        }
        s->after_cr = false;
        const size_t n = line_length(bytes, len);
        if (append(s, &s->line, bytes, n) < 0)
            break;
        bytes += n, len -= n;
        if (!len)
            break;
        s->after_cr = *bytes == '\r';
        bytes++, len--;
        take_line(s);
        s->line.len = 0;
    }
    return s->rc;
}

int stream_end(struct stream *s)
{
    if (!s->rc && !s->done && !s->finished)
        return fail(s, -EPIPE, "the answer ended before its end");
    return s->rc;
}

/* --- bodies
 * --------------------------------------------------------------------------------------- */

char *stream_first_model(const char *body, size_t len)
{
    json_t *list = json_loadb(body, len, 0, NULL);
    const char *id =
        json_string_value(json_object_get(json_array_get(json_object_get(list, "data"), 0), "id"));
    char *name = id && *id ? strdup(id) : NULL;
    json_decref(list);
    return name;
}

void stream_error_of(const char *body, size_t len, char error[STREAM_ERROR])
{
    json_t *object = json_loadb(body, len, 0, NULL);
    const json_t *said = json_object_get(object, "error");
    snprintf(error, STREAM_ERROR, "%s", said ? error_text(said) : "");
    printable(error);
    json_decref(object);
}
