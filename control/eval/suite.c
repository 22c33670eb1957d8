/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/suite.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/eval/text.h"
#include "control/log.h"

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

/* --- one line as JSON ------------------------------------------------------------------------ */

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

/* --- one line as tokens ---------------------------------------------------------------------- */

static bool is_white(char c)
{
    return c != '\0' && strchr(WHITE, c);
}

static uint32_t common_start(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t i = 0;

    while (i < n_a && i < n_b && a[i] == b[i])
        i++;
    return i;
}

/* Context and choice as one text. */
static int tokenize_whole(const struct model *m, const char *context, const char *choice,
                          int32_t **ids, uint32_t *n)
{
    const bool space = !is_white(context[strlen(context) - 1]) && !is_white(choice[0]);
    char *text;
    const int len = asprintf(&text, "%s%s%s", context, space ? " " : "", choice);

    if (len < 0)
        return -ENOMEM;
    const int rc = eval_tokenize(m, text, (size_t)len, ids, n);
    free(text);
    return rc;
}

static int tokenize_item(const struct model *m, const json_t *line, struct eval_item *it)
{
    const char *context = json_string_value(json_object_get(line, "context"));
    const json_t *choices = json_object_get(line, "choices");
    int rc = eval_tokenize(m, context, strlen(context), &it->context, &it->n_context);

    it->n_choices = (uint32_t)json_array_size(choices);
    it->label = (uint32_t)json_integer_value(json_object_get(line, "label"));
    for (uint32_t i = 0; i < it->n_choices && rc == 0; i++) {
        struct eval_choice *c = &it->choices[i];
        const char *text = json_string_value(json_array_get(choices, i));

        c->bytes = (uint32_t)strlen(text);
        rc = tokenize_whole(m, context, text, &c->ids, &c->n);
        it->n_context = common_start(it->context, it->n_context, c->ids, c->n);
    }
    for (uint32_t i = 0; i < it->n_choices && rc == 0; i++) {
        struct eval_choice *c = &it->choices[i];

        c->n -= it->n_context;
        memmove(c->ids, c->ids + it->n_context, c->n * sizeof *c->ids);
    }
    return rc;
}

/* --- the file -------------------------------------------------------------------------------- */

struct reader {
    const struct model *model;
    const char *path;
    unsigned line, longest_line;
    uint32_t room;
};

static int check_item(const struct reader *rd, const struct eval_item *it)
{
    if (it->n_context == 0) {
        log_error("%s:%u: the context and the choices share no token: begin the context with text",
                  rd->path, rd->line);
        return EXIT_USAGE;
    }
    for (uint32_t i = 0; i < it->n_choices; i++)
        if (it->choices[i].n == 0) {
            log_error("%s:%u: \"choices\"[%u] has no token of its own: give it other text",
                      rd->path, rd->line, i);
            return EXIT_USAGE;
        }
    return EXIT_OK;
}

static int add_line(struct reader *rd, const char *text, size_t len, struct eval_suite *s)
{
    char err[EVAL_SUITE_ERR];
    json_t *line = eval_suite_parse(s->kind, text, len, err);

    if (!line) {
        log_error("%s:%u: %s", rd->path, rd->line, err);
        return EXIT_USAGE;
    }
    int rc = 0;
    if (s->n == rd->room) {
        struct eval_item *more =
            realloc(s->items, (rd->room = rd->room * 2 + 64) * sizeof *s->items);
        if (more)
            s->items = more;
        else
            rc = -ENOMEM;
    }
    struct eval_item *it = NULL;
    if (rc == 0) {
        it = &s->items[s->n++];
        *it = (struct eval_item){0};
        rc = tokenize_item(rd->model, line, it);
    }
    json_decref(line);
    if (rc < 0) {
        log_error("%s:%u: cannot tokenize it: %s", rd->path, rd->line, strerror(-rc));
        return EXIT_FAILED;
    }
    for (uint32_t i = 0; i < it->n_choices; i++)
        if (it->n_context + it->choices[i].n > s->longest) {
            s->longest = it->n_context + it->choices[i].n;
            rd->longest_line = rd->line;
        }
    return check_item(rd, it);
}

/* The model decides how long a sequence may be. */
static int check_longest(const struct reader *rd, const struct eval_suite *s)
{
    const struct stage_params p = {.n_ctx = s->longest};
    size_t weights_bytes, kv_bytes;
    char err[GGUF_ERR] = "";
    const int rc = stage_footprint(rd->model->gguf, &p, s->longest, &weights_bytes, &kv_bytes, err);

    if (rc == 0)
        return EXIT_OK;
    log_error("%s:%u: shorten this item: %s", rd->path, rd->longest_line, err);
    return EXIT_USAGE;
}

int eval_suite_read(const struct model *m, const struct eval_suite_kind *kind, const char *path,
                    uint32_t max_items, struct eval_suite *s)
{
    struct reader rd = {.model = m, .path = path};
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    int rc = EXIT_OK;

    *s = (struct eval_suite){.kind = kind};
    FILE *f = fopen(path, "rb");
    if (!f) {
        log_error("%s: %s", path, strerror(errno));
        return EXIT_USAGE;
    }
    while (rc == EXIT_OK && (!max_items || s->n < max_items) &&
           (len = getline(&text, &room, f)) >= 0) {
        rd.line++;
        if (strspn(text, WHITE) != (size_t)len)
            rc = add_line(&rd, text, (size_t)len, s);
    }
    if (rc == EXIT_OK && ferror(f)) {
        log_error("%s: %s", path, strerror(errno));
        rc = EXIT_FAILED;
    }
    free(text);
    fclose(f);
    if (rc == EXIT_OK && s->n < (max_items ? max_items : 1)) {
        log_error(max_items ? "%s: %u items are less than --items %u" : "%s: no items", path, s->n,
                  max_items);
        rc = EXIT_USAGE;
    }
    return rc == EXIT_OK ? check_longest(&rd, s) : rc;
}

void eval_suite_free(struct eval_suite *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->items[i].context);
        for (uint32_t k = 0; k < EVAL_CHOICES_MAX; k++)
            free(s->items[i].choices[k].ids);
    }
    free(s->items);
    *s = (struct eval_suite){0};
}
