/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/suite_line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define WHITE " \t\r\n"

const struct eval_suite_kind *eval_suite_kind(const char *name)
{
    static const struct eval_suite_kind kinds[] = {
        {"hellaswag", 4, 4},
        {"arc", 2, EVAL_CHOICES_MAX},
        {"piqa", 2, 2},
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    return NULL;
}

__attribute__((format(printf, 2, 3))) static int bad(char *err, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(err, EVAL_SUITE_ERR, fmt, args);
    va_end(args);
    return -EINVAL;
}

static int check_choices(const struct eval_suite_kind *kind, const json_t *choices, char *err)
{
    const size_t n = json_array_size(choices);

    if (!choices)
        return bad(err, "\"choices\" is missing: give the possible answers as an array of strings");
    if (!json_is_array(choices))
        return bad(err, "\"choices\" must be an array of strings");
    if (n < kind->min_choices || n > kind->max_choices)
        return kind->min_choices == kind->max_choices
                   ? bad(err, "\"choices\" has %zu entries: %s has %u", n, kind->name,
                         kind->min_choices)
                   : bad(err, "\"choices\" has %zu entries: %s has %u to %u", n, kind->name,
                         kind->min_choices, kind->max_choices);
    for (size_t i = 0; i < n; i++) {
        const json_t *choice = json_array_get(choices, i);

        if (!json_is_string(choice))
            return bad(err, "\"choices\"[%zu] must be a string", i);
        const char *text = json_string_value(choice);
        if (text[strspn(text, WHITE)] == '\0')
            return bad(err, "\"choices\"[%zu] is empty: every choice needs text to be scored", i);
    }
    return 0;
}

static int check_label(const json_t *label, size_t n_choices, char *err)
{
    if (!label)
        return bad(err, "\"label\" is missing: give the index of the right choice, from 0");
    if (!json_is_integer(label))
        return bad(err, "\"label\" must be a whole number: the index of the right choice, from 0");
    if (json_integer_value(label) < 0 || (uint64_t)json_integer_value(label) >= n_choices)
        return bad(err, "\"label\" is %lld: with %zu choices it must be 0 to %zu",
                   (long long)json_integer_value(label), n_choices, n_choices - 1);
    return 0;
}

static int check_line(const struct eval_suite_kind *kind, const json_t *line, char *err)
{
    if (!json_is_object(line))
        return bad(err, "must be an object {\"context\": ..., \"choices\": [...], \"label\": ...}");
    const json_t *context = json_object_get(line, "context");
    const json_t *choices = json_object_get(line, "choices");
    if (!context)
        return bad(err, "\"context\" is missing: give the text before the choices");
    if (!json_is_string(context))
        return bad(err, "\"context\" must be a string");
    const char *text = json_string_value(context);
    if (text[strspn(text, WHITE)] == '\0')
        return bad(err, "\"context\" is empty: choices need text before them to be scored");
    const int rc = check_choices(kind, choices, err);
    return rc < 0 ? rc : check_label(json_object_get(line, "label"), json_array_size(choices), err);
}

json_t *eval_suite_parse(const struct eval_suite_kind *kind, const char *line, size_t len,
                         char *err)
{
    json_error_t error;
    json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);

    if (!root)
        bad(err, "not JSON: %s", error.text);
    else if (check_line(kind, root, err) < 0) {
        json_decref(root);
        root = NULL;
    }
    return root;
}
