/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the tokenizer: vocab.c builds it, bpe.c merges words, tokenizer.c, chat.c and
 * chat_turns.c use it. */
#ifndef ISTHMUS_COMPUTE_TOKENIZER_IMPL_H
#define ISTHMUS_COMPUTE_TOKENIZER_IMPL_H

#include <string.h>

#include "compute/pretok.h"
#include "compute/tokenizer.h"

#define MAX_EOG 8

/* What GGUF's tokenizer.ggml.token_type says of a token. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

enum chat_kind { CHAT_NONE, CHAT_CHATML, CHAT_LLAMA3, CHAT_GEMMA };

/* Their control tokens. */
#define CHATML_START    "<|im_start|>"
#define CHATML_END      "<|im_end|>"
#define LLAMA3_START    "<|start_header_id|>"
#define LLAMA3_END_ROLE "<|end_header_id|>"
#define LLAMA3_END      "<|eot_id|>"
#define GEMMA_START     "<start_of_turn>"
#define GEMMA_END       "<end_of_turn>"

struct merge {
    int32_t left, right, result;
};

/* Open addressing over indices into another array; UINT32_MAX is free. */
struct index {
    uint32_t *slots;
    uint32_t mask;
};

struct tokenizer {
    struct pretok *pretok;
    uint64_t hash_seed; /* random: a file must not choose who collides */
    uint32_t n_vocab;
    uint8_t *type;        /* [n_vocab] enum token_type */
    uint32_t *offset;     /* [n_vocab + 1] into bytes */
    char *bytes;          /* what each token stands for, one after the other */
    int32_t byte_id[256]; /* -1: the vocabulary has no token for the byte */
    struct index words;   /* of normal tokens by bytes; empty unless tok_pre_whole_words */
    uint32_t n_merges;
    struct merge *merges; /* in rank order */
    struct index pairs;   /* of merges by (left, right) */
    uint32_t n_special;
    int32_t *special;           /* written in text: sorted by first byte, the longest first */
    uint32_t special_from[257]; /* those that begin with byte b: [from[b], from[b + 1]) */
    int32_t bos, eos, eog[MAX_EOG];
    uint32_t n_eog;
    bool add_bos;
    enum chat_kind chat;
    bool chat_dated;   /* Llama 3.1's: a system turn with dates comes first */
    char *chat_system; /* ChatML's default system message; NULL: none */
};

static inline const char *tok_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = t->offset[id + 1] - t->offset[id];
    return t->bytes + t->offset[id];
}

/* Control tokens stand for no text of the user: their bytes show only when asked for. */
static inline bool tok_is_control(const struct tokenizer *t, int32_t id)
{
    return t->type[id] == TOKEN_CONTROL || t->type[id] == TOKEN_UNKNOWN;
}

/* vocab.c: fill t from g. */
int tok_vocab_load(struct tokenizer *t, const struct gguf *g, char *err);
int32_t tok_find_word(const struct tokenizer *t, const char *bytes, size_t len); /* -1: none */
/* The merge of two neighbours; its index is its rank. NULL: none. */
const struct merge *tok_find_merge(const struct tokenizer *t, int32_t left, int32_t right);
/* The special token that text begins with, the longest if there are several; -1: none. */
int32_t tok_find_special(const struct tokenizer *t, const char *text, size_t len,
                         bool parse_special);

/* bpe.c: scratch that grows with the longest word. */
struct bpe {
    struct symbol *symbols;
    uint64_t *heap;
    size_t room; /* bytes of a word they hold */
    int32_t *ids;
};

/* Merge a word, len > 0. The number of its ids, left in b->ids; -ENOMEM. */
int64_t tok_bpe(const struct tokenizer *t, struct bpe *b, const char *word, size_t len);
void tok_bpe_free(struct bpe *b);

/* chat.c: recognise the template. 0 or -ENOMEM. */
int tok_chat_load(struct tokenizer *t, const struct gguf *g);

#endif
