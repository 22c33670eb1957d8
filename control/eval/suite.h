/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiple choice from JSON lines {"context": "...", "choices": ["...", ...], "label": 0}.
 *
 * A choice follows its context after one space, unless one of them brings white space there. It is
 * tokenized together with its context; what the model scores are the tokens after those that the
 * context alone, and the context with each of the item's choices, have in common at their start.
 * (The tokenizers cut at a space, so these are the context's tokens, and the choices'.)
 */
#ifndef ISTHMUS_CONTROL_EVAL_SUITE_H
#define ISTHMUS_CONTROL_EVAL_SUITE_H

#include <jansson.h>
#include <stdint.h>

#include "control/model.h"

#define EVAL_CHOICES_MAX 16u
#define EVAL_SUITE_ERR   256

/* Suites differ in their name and the number of choices. */
struct eval_suite_kind {
    const char *name;
    uint32_t min_choices, max_choices;
};

/* NULL: no such suite. */
const struct eval_suite_kind *eval_suite_kind(const char *name);

struct eval_choice {
    int32_t *ids; /* [n], n > 0 */
    uint32_t n, bytes;
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

/* One line: the object, proved to have context, choices and label as they must be; NULL: err
 * (EVAL_SUITE_ERR bytes) says what is wrong and how it must be. */
json_t *eval_suite_parse(const struct eval_suite_kind *kind, const char *line, size_t len,
                         char *err);

#endif
