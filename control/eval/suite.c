/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/eval/text.h"
#include "control/log.h"

#define WHITE " \t\r\n"

/* --- one line as tokens ---------------------------------------------------------------------- */

static bool is_white(char c)
{
    return c != '\0' && strchr(WHITE, c);
}

/* How many tokens all choices begin with; one at least is left to each. */
static uint32_t common_start(const struct eval_item *it)
{
    const struct eval_choice *first = &it->choices[0];

    for (uint32_t n = 0;; n++)
        for (uint32_t i = 0; i < it->n_choices; i++) {
            const struct eval_choice *c = &it->choices[i];
            if (n + 1 >= c->n || c->ids[n] != first->ids[n])
                return n;
        }
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

    it->n_choices = (uint32_t)json_array_size(choices);
    it->label = (uint32_t)json_integer_value(json_object_get(line, "label"));
    for (uint32_t i = 0; i < it->n_choices; i++) {
        struct eval_choice *c = &it->choices[i];
        const char *choice = json_string_value(json_array_get(choices, i));
        const int rc = tokenize_whole(m, context, choice, &c->ids, &c->n);
        if (rc < 0)
            return rc;
    }

    it->n_context = common_start(it);
    it->context = malloc((it->n_context + 1) * sizeof *it->context);
    if (!it->context)
        return -ENOMEM;
    memcpy(it->context, it->choices[0].ids, it->n_context * sizeof *it->context);
    for (uint32_t i = 0; i < it->n_choices; i++) {
        struct eval_choice *c = &it->choices[i];

        c->n -= it->n_context;
        memmove(c->ids, c->ids + it->n_context, c->n * sizeof *c->ids);
    }
    return 0;
}

/* --- the file -------------------------------------------------------------------------------- */

struct reader {
    const struct model *model;
    const char *path;
    unsigned line, longest_line;
    uint32_t room;
};

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
    if (it->n_context == 0) {
        log_error("%s:%u: the choices share no token of a context: give it more text", rd->path,
                  rd->line);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* The model decides how long a sequence may be. */
static int check_longest(const struct reader *rd, const struct eval_suite *s)
{
    const struct stage_params p = {.n_ctx = s->longest, .end_layer = rd->model->half.split};
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
