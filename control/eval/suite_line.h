/* SPDX-License-Identifier: Apache-2.0 */
/* A line of a suite: {"context": "...", "choices": ["...", ...], "label": 0}. */
#ifndef ISTHMUS_CONTROL_EVAL_SUITE_LINE_H
#define ISTHMUS_CONTROL_EVAL_SUITE_LINE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define EVAL_CHOICES_MAX 16u
#define EVAL_SUITE_ERR   256

/* Suites differ in their name and the number of choices. */
struct eval_suite_kind {
    const char *name;
    uint32_t min_choices, max_choices;
};

/* NULL: no such suite. */
const struct eval_suite_kind *eval_suite_kind(const char *name);

/* One line: the object, proved to have context, choices and label as they must be; NULL: err
 * (EVAL_SUITE_ERR bytes) says what is wrong and how it must be. */
json_t *eval_suite_parse(const struct eval_suite_kind *kind, const char *line, size_t len,
                         char *err);

#endif
