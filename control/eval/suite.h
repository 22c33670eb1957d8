/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiple choice from JSON lines {"context": "...", "choices": ["...", ...], "label": 0}.
 *
 * A choice follows its context after one space, unless one of them brings white space there, and is
 * tokenized together with it. What is scored are its tokens after those that all choices of the
 * item begin with: these are the context. So no cut between context and choice has to be found
 * among the tokens, and it is how llama-perplexity scores HellaSwag.
 */
#ifndef ISTHMUS_CONTROL_EVAL_SUITE_H
#define ISTHMUS_CONTROL_EVAL_SUITE_H

#include <stdint.h>

#include "control/eval/suite_line.h"
#include "control/model.h"

struct eval_choice {
    int32_t *ids; /* [n], n > 0 */
    uint32_t n;
};

struct eval_item {
    int32_t *context; /* [n_context], n_context > 0 */
    uint32_t n_context;
    uint32_t n_choices, label;
    struct eval_choice choices[EVAL_CHOICES_MAX];
};

struct eval_suite {
    const struct eval_suite_kind *kind;
    struct eval_item *items;
    uint32_t n;
    uint32_t longest; /* tokens of the longest sequence */
};

/* The first max_items items of a file, 0: all. EXIT_OK or an exit code, the error said; free either
 * way. */
int eval_suite_read(const struct model *m, const struct eval_suite_kind *kind, const char *path,
                    uint32_t max_items, struct eval_suite *s);
void eval_suite_free(struct eval_suite *s);

#endif
