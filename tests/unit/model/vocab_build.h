/* SPDX-License-Identifier: Apache-2.0 */
/* A small vocabulary in a GGUF in memory. Ids 0..255 are the bytes, in order. */
#ifndef ISTHMUS_TESTS_VOCAB_BUILD_H
#define ISTHMUS_TESTS_VOCAB_BUILD_H

#include "gguf_build.h"

struct vocab_token {
    const char *text; /* as the file writes it */
    uint32_t type;    /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused */
};

struct vocab {
    const char *model, *pre, *chat;   /* NULL: not in the file */
    const struct vocab_token *tokens; /* those after the bytes */
    size_t n_tokens;
    const char *const *merges;
    size_t n_merges;
    int lost_byte; /* this one's token has another text; -1: none */
    uint32_t eos;
};

static inline void vocab_file(struct build *b, const struct vocab *v)
{
    put_header(b, 0, 4u + (v->model != NULL) + (v->pre != NULL) + (v->chat != NULL));
    if (v->model)
        put_kv_str(b, "tokenizer.ggml.model", v->model);
    if (v->pre)
        put_kv_str(b, "tokenizer.ggml.pre", v->pre);
    if (v->chat)
        put_kv_str(b, "tokenizer.chat_template", v->chat);
    put_kv_u32(b, "tokenizer.ggml.eos_token_id", v->eos);
    put_array(b, "tokenizer.ggml.tokens", 8, 256 + v->n_tokens);
    for (unsigned i = 0; i < 256; i++) {
        char letter[3];
        byte_letter(i, letter);
        put_str(b, (int)i == v->lost_byte ? "lostbyte" : letter);
    }
    for (size_t i = 0; i < v->n_tokens; i++)
        put_str(b, v->tokens[i].text);
    put_array(b, "tokenizer.ggml.token_type", 5, 256 + v->n_tokens);
    for (unsigned i = 0; i < 256; i++)
        put_u32(b, 1);
    for (size_t i = 0; i < v->n_tokens; i++)
        put_u32(b, v->tokens[i].type);
    put_array(b, "tokenizer.ggml.merges", 8, v->n_merges);
    for (size_t i = 0; i < v->n_merges; i++)
        put_str(b, v->merges[i]);
}

#endif
