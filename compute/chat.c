/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which chat template a model has. The file holds a Jinja program; instead of running it we
 * recognise by its text what it writes (chat_turns.c), and the system message that ChatML's often
 * have for a conversation without one.
 */
#include <errno.h>
#include <stdlib.h>

#include "compute/tokenizer_impl.h"

#define SYSTEM CHATML_START "system"
/* Llama 3.1 and later open every conversation with a system turn that says so. */
#define DATED "Cutting Knowledge Date"

#define MARKERS 3
static const struct kind {
    const char *name;
    const char
        *markers[MARKERS]; /* control tokens that it writes: in the template and the vocabulary */
    const char *never;     /* a cousin with another layout has this */
} kinds[] = {
    [CHAT_CHATML] = {"chatml", {CHATML_START, CHATML_END}, "<|im_sep|>"},
    [CHAT_LLAMA3] = {"llama3", {LLAMA3_START, LLAMA3_END_ROLE, LLAMA3_END}, NULL},
    [CHAT_GEMMA] = {"gemma", {GEMMA_START, GEMMA_END}, NULL},
};
#define KINDS (sizeof kinds / sizeof *kinds)

static const char *find(const char *text, const char *end, const char *what)
{
    return memmem(text, (size_t)(end - text), what, strlen(what));
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
    const char *stop = find(from, end, CHATML_END);
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

/* The id of a special token of just this text; -1: none. */
static int32_t marker_id(const struct tokenizer *t, const char *text)
{
    const size_t len = strlen(text);
    const int32_t id = tok_find_special(t, text, len, true);
    return id >= 0 && t->offset[id + 1] - t->offset[id] == len ? id : -1;
}

static bool has_markers(const struct tokenizer *t, const struct kind *k)
{
    for (size_t i = 0; i < MARKERS && k->markers[i]; i++)
        if (marker_id(t, k->markers[i]) < 0)
            return false;
    return true;
}

static bool writes(const struct kind *k, const char *template, const char *end)
{
    for (size_t i = 0; i < MARKERS && k->markers[i]; i++)
        if (!find(template, end, k->markers[i]))
            return false;
    return !k->never || !find(template, end, k->never);
}

/* Some files call their markers user-defined; what a user types must not be one. */
static void take(struct tokenizer *t, enum chat_kind kind)
{
    const struct kind *k = &kinds[kind];
    t->chat = kind;
    for (size_t i = 0; i < MARKERS && k->markers[i]; i++)
        t->type[marker_id(t, k->markers[i])] = TOKEN_CONTROL;
}

int tok_chat_load(struct tokenizer *t, const struct gguf *g)
{
    struct gguf_str s;
    if (gguf_str(g, "tokenizer.chat_template", &s))
        return 0;
    const char *end = s.ptr + s.len;
    enum chat_kind found = CHAT_NONE;
    for (enum chat_kind k = CHAT_CHATML; k < KINDS; k++) {
        if (!writes(&kinds[k], s.ptr, end) || !has_markers(t, &kinds[k]))
            continue;
        if (found != CHAT_NONE)
            return 0; /* two at once: neither is certain */
        found = k;
    }
    if (found == CHAT_NONE)
        return 0;
    take(t, found);
    t->chat_dated = found == CHAT_LLAMA3 && find(s.ptr, end, DATED);
    return found == CHAT_CHATML ? load_default_system(t, s.ptr, end) : 0;
}

int tok_chat_use(struct tokenizer *t, const char *name)
{
    for (enum chat_kind k = CHAT_CHATML; k < KINDS; k++) {
        if (strcmp(name, kinds[k].name) != 0)
            continue;
        if (!has_markers(t, &kinds[k]))
            return -ENOTSUP;
        if (k == t->chat)
            return 0;
        free(t->chat_system); /* of the one recognised */
        t->chat_system = NULL;
        t->chat_dated = false;
        take(t, k);
        return 0;
    }
    return -EINVAL;
}

const char *tok_chat_template(const struct tokenizer *t)
{
    return t->chat == CHAT_NONE ? NULL : kinds[t->chat].name;
}
