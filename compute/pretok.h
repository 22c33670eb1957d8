/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-tokenizers: cut text into the words within which BPE may merge. Each is one pcre2 pattern.
 */
#ifndef ISTHMUS_COMPUTE_PRETOK_H
#define ISTHMUS_COMPUTE_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

struct pretok;

/* By GGUF's name of it. 0, -ENOTSUP (unknown: see tok_pre_supported()), -ENOMEM. */
int tok_pre_open(const char *name, size_t name_len, struct pretok **out);
void tok_pre_close(struct pretok *p);
const char *tok_pre_supported(void); /* "gpt-2 smollm ...": for errors */

/* A word that is a token as a whole is not merged from parts. */
bool tok_pre_whole_words(const struct pretok *p);
/* The model wants BOS when its file says nothing. */
bool tok_pre_default_add_bos(const struct pretok *p);

/* Walks the words of one text; one thread's. */
struct pretok_walk {
    const struct pretok *pretok;
    void *match; /* pcre2_match_data */
    const char *at, *end;
    const char *valid; /* [at, valid) is known to be UTF-8 */
};

/* 0 or -ENOMEM. Walk many texts with one open walk: tok_pre_walk_text, then tok_pre_next till 0. */
int tok_pre_walk_open(const struct pretok *p, struct pretok_walk *w);
void tok_pre_walk_text(struct pretok_walk *w, const char *text, size_t len);
void tok_pre_walk_close(struct pretok_walk *w);

/* 1 and the next word; 0 at the end; -ENOMEM, -EOVERFLOW (the pattern gave up). The words cover the
 * text without gaps; a byte that is no UTF-8 is a word of its own. */
int tok_pre_next(struct pretok_walk *w, const char **word, size_t *len);

#endif
