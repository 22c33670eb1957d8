/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the chat templates write:
 *
 *     ChatML   <|im_start|>ROLE\nCONTENT<|im_end|>\n for each message
 *     Llama 3  <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>, contents trimmed
 *     Gemma    <start_of_turn>ROLE\nCONTENT<end_of_turn>\n, contents trimmed; the assistant is
 * "model", and what the system says goes before the next user's words, since it has no turn
 *
 * BOS is not theirs here: a prompt begins with it as any other does (tok_add_bos).
 */
#include <errno.h>
#include <stdlib.h>

#include "compute/tokenizer_impl.h"

/* The text between two markers, gathered: BPE must see it in one piece. */
struct writer {
    int (*emit)(void *arg, const char *text, size_t len, bool is_control);
    void *arg;
    char *text;
    size_t len, room;
    int rc; /* of the first that failed; nothing is written after */
};

static void write_bytes(struct writer *w, const char *bytes, size_t len)
{
    if (w->rc || len == 0)
        return;
    if (w->room - w->len < len) {
        const size_t room = w->room * 2 > w->len + len ? w->room * 2 : w->len + len;
        char *grown = realloc(w->text, room);
        if (!grown) {
            w->rc = -ENOMEM;
            return;
        }
        w->text = grown;
        w->room = room;
    }
    memcpy(w->text + w->len, bytes, len);
    w->len += len;
}

static void write_text(struct writer *w, const char *text)
{
    write_bytes(w, text, strlen(text));
}

static void flush(struct writer *w)
{
    if (!w->rc && w->len)
        w->rc = w->emit(w->arg, w->text, w->len, false);
    w->len = 0;
}

static void write_marker(struct writer *w, const char *marker)
{
    flush(w);
    if (!w->rc)
        w->rc = w->emit(w->arg, marker, strlen(marker), true);
}

/* --- what Jinja's trim takes off: white space as Python knows it
 * ---------------------------------- */

/* Bytes of the white space that text begins with; 0: none. */
static size_t space_at(const char *text, size_t len)
{
    static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80",
                                       "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf",
                                       "\xe2\x81\x9f", "\xe3\x80\x80"};
    const unsigned char *c = (const unsigned char *)text;
    if (len == 0)
        return 0;
    if (*c == ' ' || (*c >= 0x09 && *c <= 0x0d) || (*c >= 0x1c && *c <= 0x1f))
        return 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        const size_t n = strlen(wide[i]);
        if (n <= len && memcmp(text, wide[i], n) == 0)
            return n;
    }
    /* U+2000 to U+200A */
    return len >= 3 && c[0] == 0xe2 && c[1] == 0x80 && c[2] >= 0x80 && c[2] <= 0x8a ? 3 : 0;
}

static void write_trimmed(struct writer *w, const char *text)
{
    size_t len = strlen(text), n;
    while ((n = space_at(text, len))) {
        text += n;
        len -= n;
    }
    for (n = 1; len && n <= 3;) {
        if (n <= len && space_at(text + len - n, n) == n) {
            len -= n;
            n = 1;
        } else {
            n++;
        }
    }
    write_bytes(w, text, len);
}

/* --- the templates
 * -------------------------------------------------------------------------------- */

static bool begins_with_system(const struct chat_message *m, size_t n)
{
    return n && strcmp(m[0].role, "system") == 0;
}

static void chatml_turn(struct writer *w, const char *role, const char *content)
{
    write_marker(w, CHATML_START);
    write_text(w, role);
    write_text(w, "\n");
    if (!content)
        return; /* the model goes on */
    write_text(w, content);
    write_marker(w, CHATML_END);
    write_text(w, "\n");
}

static void chatml(const struct tokenizer *t, struct writer *w, const struct chat_message *m,
                   size_t n, bool generation)
{
    if (t->chat_system && !begins_with_system(m, n))
        chatml_turn(w, "system", t->chat_system);
    for (size_t i = 0; i < n; i++)
        chatml_turn(w, m[i].role, m[i].content);
    if (generation)
        chatml_turn(w, "assistant", NULL);
}

static void llama3_open(struct writer *w, const char *role)
{
    write_marker(w, LLAMA3_START);
    write_text(w, role);
    write_marker(w, LLAMA3_END_ROLE);
    write_text(w, "\n\n");
}

static void llama3_turn(struct writer *w, const struct chat_message *m)
{
    llama3_open(w, m->role);
    write_trimmed(w, m->content);
    write_marker(w, LLAMA3_END);
}

static void llama3(const struct tokenizer *t, struct writer *w, const struct chat_message *m,
                   size_t n, bool generation)
{
    size_t i = 0;
    if (t->chat_dated) {
        /* The date that the template has where it is told none: ids must not change overnight. */
        llama3_open(w, "system");
        write_text(w, "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
        if (begins_with_system(m, n))
            write_trimmed(w, m[i++].content);
        write_marker(w, LLAMA3_END);
    }
    for (; i < n; i++)
        llama3_turn(w, &m[i]);
    if (generation)
        llama3_open(w, "assistant");
}

static void gemma_open(struct writer *w, const char *role)
{
    write_marker(w, GEMMA_START);
    write_text(w, role);
    write_text(w, "\n");
}

static void gemma_close(struct writer *w)
{
    write_marker(w, GEMMA_END);
    write_text(w, "\n");
}

static void gemma(struct writer *w, const struct chat_message *m, size_t n, bool generation)
{
    bool open = false; /* a user's turn, begun with what the system said */
    for (size_t i = 0; i < n; i++) {
        const bool system = strcmp(m[i].role, "system") == 0;
        const bool user = system || strcmp(m[i].role, "user") == 0;
        if (open && !user)
            gemma_close(w);
        if (!open || !user)
            gemma_open(w, user ? "user" : strcmp(m[i].role, "assistant") ? m[i].role : "model");
        open = system;
        if (system) {
            write_text(w, m[i].content);
            write_text(w, "\n\n");
        } else {
            write_trimmed(w, m[i].content);
            gemma_close(w);
        }
    }
    if (open)
        gemma_close(w);
    if (generation)
        gemma_open(w, "model");
}

int tok_chat_pieces(const struct tokenizer *t, const struct chat_message *messages, size_t n,
                    bool generation,
                    int (*emit)(void *arg, const char *text, size_t len, bool is_control),
                    void *arg)
{
    struct writer w = {.emit = emit, .arg = arg};
    switch (t->chat) {
    case CHAT_NONE:
        return -ENOTSUP;
    case CHAT_CHATML:
        chatml(t, &w, messages, n, generation);
        break;
    case CHAT_LLAMA3:
        llama3(t, &w, messages, n, generation);
        break;
    case CHAT_GEMMA:
        gemma(&w, messages, n, generation);
        break;
    }
    flush(&w);
    free(w.text);
    return w.rc;
}

/* --- as text, and as ids
 * --------------------------------------------------------------------------- */

static int append_text(void *arg, const char *text, size_t len, bool is_control)
{
    struct writer *w = arg;
    (void)is_control;
    write_bytes(w, text, len);
    return w->rc;
}

int tok_chat_render(const struct tokenizer *t, const struct chat_message *m, size_t n,
                    bool add_assistant, char **text)
{
    struct writer all = {0};
    int rc = tok_chat_pieces(t, m, n, add_assistant, append_text, &all);
    if (rc == 0)
        write_bytes(&all, "", 1);
    rc = rc ? rc : all.rc;
    if (rc) {
        free(all.text);
        return rc;
    }
    *text = all.text;
    return 0;
}

struct ids {
    const struct tokenizer *t;
    int32_t *at;
    size_t n, room;
};

static int append_ids(void *arg, const char *text, size_t len, bool is_control)
{
    struct ids *ids = arg;
    if (ids->room - ids->n < len) { /* no text has more tokens than bytes */
        const size_t room = ids->room * 2 > ids->n + len ? ids->room * 2 : ids->n + len;
        int32_t *grown = reallocarray(ids->at, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        ids->at = grown;
        ids->room = room;
    }
    const int64_t got =
        tok_encode(ids->t, text, len, is_control, ids->at + ids->n, ids->room - ids->n);
    if (got < 0)
        return (int)got;
    ids->n += (size_t)got;
    return 0;
}

int tok_chat_encode(const struct tokenizer *t, const struct chat_message *m, size_t n,
                    bool generation, int32_t **out, size_t *n_out)
{
    struct ids ids = {.t = t, .room = 64};
    ids.at = malloc(ids.room * sizeof *ids.at);
    if (!ids.at)
        return -ENOMEM;
    if (t->add_bos)
        ids.at[ids.n++] = t->bos;
    const int rc = tok_chat_pieces(t, m, n, generation, append_ids, &ids);
    if (rc) {
        free(ids.at);
        return rc;
    }
    *out = ids.at;
    *n_out = ids.n;
    return 0;
}
