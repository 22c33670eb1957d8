/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates. The file holds a Jinja program; instead of running it we recognise what it writes
 * by its text. ChatML: <|im_start|>ROLE\nCONTENT<|im_end|>\n for each message, and often a system
 * message when the conversation has none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "compute/tokenizer_impl.h"

#define START  "<|im_start|>"
#define END    "<|im_end|>"
#define SYSTEM START "system"

static const char *find(const char *text, const char *end, const char *what)
{
    return memmem(text, (size_t)(end - text), what, strlen(what));
}

static bool has_special(const struct tokenizer *t, const char *text)
{
    int32_t id = tok_find_special(t, text, strlen(text), true);
    return id >= 0 && t->offset[id + 1] - t->offset[id] == strlen(text);
}

/*
 * The message of a system turn that the template writes out whole, at [*at, *at + *len): from the
 * newline after `system` (itself or as \n) to <|im_end|>, inside one Jinja string when it stands in
 * one (`quote`), else free of Jinja. Where the template pastes messages together there is no such.
 */
static bool literal_message(const char *from, const char *end, char quote, const char **at,
                            size_t *len)
{
    if (end - from >= 2 && memcmp(from, "\\n", 2) == 0)
        from += 2;
    else if (end > from && *from == '\n')
        from++;
    else
        return false;
    const char *stop = find(from, end, END);
    if (!stop || stop == from)
        return false;
    for (const char *c = from; c < stop; c++) {
        if (quote && *c == '\\')
            c++; /* the next is not the end of the string */
        else if (*c == (quote ? quote : '{'))
            return false;
    }
    *at = from;
    *len = (size_t)(stop - from);
    return true;
}

static void unescape(const char *text, size_t len, char *out)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\\' && i + 1 < len) {
            c = text[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        *out++ = c;
    }
    *out = 0;
}

static int load_default_system(struct tokenizer *t, const char *template, const char *end)
{
    for (const char *at = template; (at = find(at, end, SYSTEM));) {
        char quote = at > template && (at[-1] == '\'' || at[-1] == '"') ? at[-1] : 0;
        const char *message;
        size_t len;
        at += strlen(SYSTEM);
        if (!literal_message(at, end, quote, &message, &len) || memchr(message, 0, len))
            continue;
        t->chat_system = malloc(len + 1);
        if (!t->chat_system)
            return -ENOMEM;
        if (quote) {
            unescape(message, len, t->chat_system);
        } else {
            memcpy(t->chat_system, message, len);
            t->chat_system[len] = 0;
        }
        return 0;
    }
    return 0;
}

int tok_chat_load(struct tokenizer *t, const struct gguf *g)
{
    struct gguf_str s;
    if (gguf_str(g, "tokenizer.chat_template", &s))
        return 0;
    const char *end = s.ptr + s.len;
    /* <|im_sep|> marks a cousin of ChatML with another layout. */
    t->chatml = find(s.ptr, end, START) && find(s.ptr, end, END) &&
                !find(s.ptr, end, "<|im_sep|>") && has_special(t, START) && has_special(t, END);
    return t->chatml ? load_default_system(t, s.ptr, end) : 0;
}

const char *tok_chat_template(const struct tokenizer *t)
{
    return t->chatml ? "chatml" : NULL;
}

static void write_turn(FILE *f, const char *role, const char *content)
{
    fprintf(f, START "%s\n%s" END "\n", role, content);
}

int tok_chat_render(const struct tokenizer *t, const struct chat_message *m, size_t n,
                    bool add_assistant, char **text)
{
    size_t len;
    if (!t->chatml)
        return -ENOTSUP;
    *text = NULL;
    FILE *f = open_memstream(text, &len);
    if (!f)
        return -ENOMEM;
    if (t->chat_system && (n == 0 || strcmp(m[0].role, "system") != 0))
        write_turn(f, "system", t->chat_system);
    for (size_t i = 0; i < n; i++)
        write_turn(f, m[i].role, m[i].content);
    if (add_assistant)
        fputs(START "assistant\n", f);
    bool failed = ferror(f);
    if (fclose(f) || failed) {
        free(*text);
        return -ENOMEM;
    }
    return 0;
}
