/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A text in windows of 512 tokens, as llama-perplexity cuts it: each is a sequence of its own, and
 * begins with BOS in place of its first token when the model wants one.
 */
#ifndef ISTHMUS_CONTROL_EVAL_TEXT_H
#define ISTHMUS_CONTROL_EVAL_TEXT_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "control/eval/trial.h"
#include "control/model.h"

#define EVAL_WINDOW 512u

struct eval_text_options {
    const char *path;
    uint32_t tokens; /* the first of the text, so the last window may be short; 0: whole windows */
    bool chunks;     /* only windows first_chunk .. last_chunk */
    uint32_t first_chunk, last_chunk;
    uint32_t windows_min; /* whole ones that the text must have; 0: fewer than one by `tokens` */
};

/* The value of --chunks, A-B or A, or argp_error. */
void eval_text_set_chunks(struct argp_state *state, struct eval_text_options *o, char *arg);

struct eval_text {
    int32_t *ids; /* [n] to evaluate, window after window */
    uint32_t n;
};

/* EXIT_OK or an exit code, the error said; free either way. */
int eval_text_read(const struct model *m, const struct eval_text_options *o, struct eval_text *t);
void eval_text_free(struct eval_text *t);

/* Every trial's divergence over the text. EXIT_OK or an exit code, the error said. */
int eval_text_run(struct eval *e, const struct eval_text *t);

/* Ids of a text, BOS first when the model wants one; no text stands for control tokens. malloc'd
 * into *ids, also when there are none. 0 or -errno. */
int eval_tokenize(const struct model *m, const char *text, size_t len, int32_t **ids, uint32_t *n);

#endif
