/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte-level BPE ("gpt2" model in GGUF) with the pre-tokenizers gpt-2, smollm, qwen2 and llama-bpe,
 * and the chat template of the model.
 */
#ifndef ISTHMUS_COMPUTE_TOKENIZER_H
#define ISTHMUS_COMPUTE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"

struct tokenizer;

/* Built from the metadata; keeps nothing of g afterwards. 0, -ENOTSUP (a tokenizer model or
 * pre-tokenizer we don't have: err names it and those supported), -EBADMSG (lying arrays),
 * -ENOMEM. Memory is compact: an edge keeps it. */
int tok_open(const struct gguf *g, struct tokenizer **out, char *err);
void tok_close(struct tokenizer *t);

uint32_t tok_n_vocab(const struct tokenizer *t);
int32_t tok_bos(const struct tokenizer *t);      /* -1: none */
int32_t tok_eos(const struct tokenizer *t);      /* -1: none */
bool tok_add_bos(const struct tokenizer *t);     /* the model wants BOS before a prompt */
bool tok_is_eog(const struct tokenizer *t, int32_t id); /* ends a generation: eos, <|im_end|>, ... */

/*
 * Text (UTF-8; invalid bytes are carried as bytes) -> ids. parse_special: control tokens written in
 * the text (e.g. <|im_start|>) become their ids; without it they are plain text, while user-defined
 * tokens become their ids either way. A byte that the vocabulary has no token for gives none
 * (SmolLM2 lacks 21: some control characters, and lead bytes of UTF-8). No BOS is added. Writes at most cap ids; returns
 * the number the text has (may exceed cap: call again with more), or -ENOMEM / -EOVERFLOW.
 * Thread safe (const).
 */
int64_t tok_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                   int32_t *ids, size_t cap);

/* Bytes of one id into buf (not NUL-terminated; may end inside a UTF-8 sequence). special: control
 * tokens give their text, else nothing. Returns the length it has (may exceed cap: nothing is
 * written then), or -EINVAL for an id out of range. */
int64_t tok_piece(const struct tokenizer *t, int32_t id, bool special, char *buf, size_t cap);

/* All of ids[0,n), concatenated; same contract as tok_piece. */
int64_t tok_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, char *buf,
                   size_t cap);

/* --- chat ------------------------------------------------------------------------------------ */

struct chat_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content;
};

#define CHAT_TEMPLATES "chatml, llama3, gemma" /* those that are known, for messages to people */

/* "chatml", "llama3" or "gemma", as the GGUF's tokenizer.chat_template was recognised by the control
 * tokens in its text, or as tok_chat_use said; NULL when there is none or it is another. */
const char *tok_chat_template(const struct tokenizer *t);

/* Use this one, whatever was recognised; before the tokenizer is shared between threads. 0, -EINVAL
 * (no such name), -ENOTSUP (the vocabulary lacks its control tokens). */
int tok_chat_use(struct tokenizer *t, const char *name);

/*
 * Render messages for the model, with its default system message if the first is not "system", and
 * the opening of the assistant's turn when generation. emit gets it piece by piece: a control token
 * of the template (is_control, for tok_encode(parse_special = true)), or all text between two of them
 * (for parse_special = false, so that a control token which somebody typed does not act). The text is
 * emit's only during the call. No BOS. 0, -ENOTSUP (no template), -ENOMEM, or what emit returned that
 * was not 0, which ends it. Thread safe.
 */
int tok_chat_pieces(const struct tokenizer *t, const struct chat_message *messages, size_t n,
                    bool generation,
                    int (*emit)(void *arg, const char *text, size_t len, bool is_control),
                    void *arg);

/* Ids of that, malloc'd, BOS first when the model wants one. 0, or as above. */
int tok_chat_encode(const struct tokenizer *t, const struct chat_message *messages, size_t n,
                    bool generation, int32_t **ids, size_t *n_ids);

/* All pieces as one malloc'd text, to look at: in tok_encode(parse_special = true), control tokens in
 * the messages would act. 0, or as above. */
int tok_chat_render(const struct tokenizer *t, const struct chat_message *m, size_t n,
                    bool add_assistant, char **text);

#endif
