/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config/ini.h"

#include <errno.h>
#include <ini.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reading {
    const char *text;
    size_t n, at;
    unsigned line; /* the one that was read last */
    struct ini *out;
    bool no_memory;
    char *err; /* "": nothing wrong so far */
};

static char *wrong(struct reading *r, const char *what)
{
    if (!*r->err)
        snprintf(r->err, INI_ERR, "line %u: %s", r->line, what);
    return NULL;
}

/*
 * As fgets, for ini_parse_stream, which asks for a line whenever it has done with one: so lines can
 * be counted here. Lines begin at their first character that is not blank: no value goes on over
 * lines.
 */
static char *next_line(char *to, int room, void *stream)
{
    struct reading *r = stream;
    if (r->at == r->n || *r->err || r->no_memory)
        return NULL;
    const char *from = r->text + r->at, *end = memchr(from, '\n', r->n - r->at);
    size_t n = end ? (size_t)(end - from) : r->n - r->at;
    r->at += n + (end != NULL);
    r->line++;
    if (memchr(from, '\0', n))
        return wrong(r, "a zero byte: it must be text");
    for (; n && (*from == ' ' || *from == '\t'); n--)
        from++;
    if (n > INI_LINE_MAX || n + 2 > (size_t)room)
        return wrong(r, "too long a line");
    const char *closing = n && *from == '[' ? memchr(from, ']', n) : NULL;
    if (closing && (size_t)(closing - from) > sizeof r->out->list->section)
        return wrong(r, "too long a section's name");
    for (size_t i = 1; closing && closing + i < from + n && closing[i] != ';'; i++)
        if (!strchr(" \t\r", closing[i]))
            return wrong(r, "text behind [SECTION]");
    memcpy(to, from, n);
    strcpy(to + n, "\n");
    return to;
}

static int take(void *user, const char *section, const char *key, const char *value)
{
    struct reading *r = user;
    struct ini *ini = r->out;
    if (!*key) {
        wrong(r, "no KEY before =");
        return 0;
    }
    struct ini_entry *list = realloc(ini->list, (ini->n + 1) * sizeof *list);
    if (list)
        ini->list = list;
    struct ini_entry e = {.key = strdup(key), .value = strdup(value), .line = r->line};
    if (!list || !e.key || !e.value) {
        free(e.key);
        free(e.value);
        r->no_memory = true;
        return 0;
    }
    snprintf(e.section, sizeof e.section, "%s", section);
    ini->list[ini->n++] = e;
    return 1;
}

int ini_read(const char *text, size_t n, struct ini *out, char *err)
{
    struct reading r = {.text = text, .n = n, .out = out, .err = err};
    *out = (struct ini){.n = 0};
    *err = '\0';
    if (n > INI_BYTES_MAX) {
        snprintf(err, INI_ERR, "longer than %u bytes", INI_BYTES_MAX);
        return -EINVAL;
    }
    ini_use_stack = false;
    ini_max_line = ini_initial_alloc = (int)INI_LINE_MAX + 8;
    const int rc = ini_parse_stream(next_line, &r, take, &r);
    if (rc == -2 || r.no_memory) {
        snprintf(err, INI_ERR, "out of memory");
        return -ENOMEM;
    }
    if (!*err && rc)
        snprintf(err, INI_ERR, "line %d: neither KEY = VALUE nor [SECTION]", rc);
    return *err ? -EINVAL : 0;
}

void ini_free(struct ini *ini)
{
    for (size_t i = 0; i < ini->n; i++) {
        free(ini->list[i].key);
        free(ini->list[i].value);
    }
    free(ini->list);
    *ini = (struct ini){.n = 0};
}
