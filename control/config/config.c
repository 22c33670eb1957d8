/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/config/ini.h"
#include "control/config/nearest.h"
#include "control/log.h"

#define OPTIONS_MAX 128u

const struct config_command *config_find_command(const char *name)
{
    const struct config_command *c = config_commands;
    while (c->name && strcmp(c->name, name) != 0)
        c++;
    return c->name ? c : NULL;
}

/* --- options -------------------------------------------------------------------------------------
 */

struct flat {
    struct argp_option list[OPTIONS_MAX + 1];
    const struct argp_option *origin[OPTIONS_MAX];
    unsigned n;
};

static void flatten(const struct argp *argp, struct flat *f)
{
    for (const struct argp_option *o = argp->options; o && (o->name || o->key || o->doc); o++) {
        if (!o->name || o->flags & OPTION_DOC || f->n == OPTIONS_MAX)
            continue;
        f->origin[f->n] = o;
        f->list[f->n++] = *o;
    }
    for (const struct argp_child *c = argp->children; c && c->argp; c++)
        flatten(c->argp, f);
}

static const struct argp_option *by_name(const struct flat *f, const char *name)
{
    for (unsigned i = 0; i < f->n; i++)
        if (strcmp(f->list[i].name, name) == 0)
            return f->origin[i];
    return NULL;
}

static bool is_one_of(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words) != 0)
        words++;
    return *words;
}

/* Not of a file: which file, and whether only to look. */
static bool may_be_key(const struct argp_option *o)
{
    return !is_one_of(o->name,
                      (const char *const[]){"config", "check-config", "check-options", NULL});
}

void config_each_option(const struct config_command *c,
                        void (*each)(void *arg, const struct argp_option *o), void *arg)
{
    struct flat f = {.n = 0};
    flatten(c->argp, &f);
    for (unsigned i = 0; i < f.n; i++)
        if (may_be_key(f.origin[i]))
            each(arg, f.origin[i]);
}

/* --- gathering -----------------------------------------------------------------------------------
 */

struct gathering {
    struct config *out;
    struct flat flat;
    void (*say)(void *arg, const char *line);
    void *arg;
    unsigned faults;
    bool no_memory;
};

__attribute__((format(printf, 2, 3))) static void fault(struct gathering *g, const char *format,
                                                        ...)
{
    char line[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    g->faults++;
    g->say(g->arg, line);
}

static void add(struct gathering *g, const struct argp_option *o, const char *value, unsigned line)
{
    struct config *c = g->out;
    struct config_entry *list = realloc(c->list, (c->n + 1) * sizeof *list);
    char *copy = value ? strdup(value) : NULL;
    if (list)
        c->list = list;
    if (!list || (value && !copy)) {
        free(copy);
        g->no_memory = true;
        return;
    }
    c->list[c->n++] = (struct config_entry){o, copy, line};
}

static error_t collect(int key, char *arg, struct argp_state *state)
{
    struct gathering *g = state->input;
    for (unsigned i = 0; i < g->flat.n; i++)
        if (g->flat.list[i].key == key) {
            add(g, g->flat.origin[i], arg, 0);
            return 0;
        }
    return ARGP_ERR_UNKNOWN;
}

/* The options of the command line, without what they do. What is wrong with it, or asks for help,
 * is left to the command's own parser. */
static void collect_command_line(struct gathering *g, int argc, char **argv)
{
    const struct argp argp = {g->flat.list, collect, NULL, NULL, NULL, NULL, NULL};
    g->out->complete =
        argp_parse(&argp, argc, argv, ARGP_NO_HELP | ARGP_NO_ERRS | ARGP_NO_EXIT, NULL, g) == 0;
}

/* A descriptor, which --check-options may say, or -1 with the fault said. A reload must not wait
 * for a FIFO's writer. */
static int open_file(struct gathering *g, const char *path)
{
    const char *copy = config_value(g->out, "check-options");
    char *end = NULL;
    struct stat st;
    const int fd = copy ? (int)strtol(copy, &end, 10)
                        : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || (copy && (end == copy || *end)) || fstat(fd, &st) < 0) {
        fault(g, "%s: cannot be read: %s", path, strerrordesc_np(fd < 0 ? errno : EBADF));
        return -1;
    }
    if (S_ISREG(st.st_mode))
        return fd;
    fault(g, "%s: cannot be read: it is not a regular file", path);
    close(fd);
    return -1;
}

static char *read_file(struct gathering *g, const char *path, size_t *n)
{
    const int fd = open_file(g, path);
    char *text = fd < 0 ? NULL : malloc(INI_BYTES_MAX + 1);
    ssize_t got = text ? 1 : -1;
    *n = 0;
    if (fd < 0)
        return NULL;
    while (got > 0 && *n <= INI_BYTES_MAX) {
        got = read(fd, text + *n, INI_BYTES_MAX + 1 - *n);
        *n += got > 0 ? (size_t)got : 0;
    }
    if (!text)
        g->no_memory = true;
    else if (got < 0)
        fault(g, "%s: cannot be read: %s", path, strerrordesc_np(errno));
    close(fd);
    if (got < 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* 1, 0, or -1: neither yes nor no. */
static int yes_or_no(const char *text)
{
    if (is_one_of(text, (const char *const[]){"yes", "true", "on", "1", NULL}))
        return 1;
    return is_one_of(text, (const char *const[]){"no", "false", "off", "0", NULL}) ? 0 : -1;
}

static void unknown_key(struct gathering *g, const struct flat *f, const struct ini_entry *e)
{
    struct nearest near;
    nearest_begin(&near, e->key);
    for (unsigned i = 0; i < f->n; i++)
        if (may_be_key(f->origin[i]))
            nearest_consider(&near, f->list[i].name);
    const char *name = nearest_name(&near);
    fault(g, "%s:%u: [%s] has no key `%s`%s%s%s", g->out->file, e->line, e->section, e->key,
          name ? ": did you mean `" : "", name ? name : "", name ? "`?" : "");
}

/* The entry's option, or NULL with the fault said. */
static const struct argp_option *entry_option(struct gathering *g, const struct flat *f,
                                              const struct ini_entry *e)
{
    const struct argp_option *o = by_name(f, e->key);
    if (!o) {
        unknown_key(g, f, e);
        return NULL;
    }
    if (!may_be_key(o)) {
        fault(g, "%s:%u: `%s` is for the command line", g->out->file, e->line, e->key);
        return NULL;
    }
    if (!o->arg && yes_or_no(e->value) < 0) {
        fault(g, "%s:%u: %s = %s: must be yes or no", g->out->file, e->line, e->key, e->value);
        return NULL;
    }
    if (o->arg && !*e->value) {
        fault(g, "%s:%u: `%s` has no value", g->out->file, e->line, e->key);
        return NULL;
    }
    return o;
}

/* The section's options; NULL with the fault said. Other commands' sections are looked at as well:
 * a file that one unit refuses is not to pass for another. */
static const struct flat *section_options(struct gathering *g, const struct ini_entry *e,
                                          struct flat *other)
{
    if (strcmp(e->section, "isthmus") == 0 || strcmp(e->section, g->out->command->name) == 0)
        return &g->flat;
    const struct config_command *c = config_find_command(e->section);
    if (c) {
        *other = (struct flat){.n = 0};
        flatten(c->argp, other);
        return other;
    }
    struct nearest near;
    nearest_begin(&near, e->section);
    nearest_consider(&near, "isthmus");
    for (c = config_commands; c->name; c++)
        nearest_consider(&near, c->name);
    const char *name = nearest_name(&near);
    if (!*e->section)
        fault(g, "%s:%u: `%s` stands before any section, such as [%s]", g->out->file, e->line,
              e->key, g->out->command->name);
    else
        fault(g, "%s:%u: there is no section [%s]%s%s%s", g->out->file, e->line, e->section,
              name ? ": did you mean [" : "", name ? name : "", name ? "]?" : "");
    return NULL;
}

static bool on_command_line(const struct config *c, const struct argp_option *o, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (c->list[i].option == o)
            return true;
    return false;
}

static void collect_file(struct gathering *g)
{
    struct config *c = g->out;
    const size_t n_given = c->n;
    struct ini ini = {.n = 0};
    char err[INI_ERR];
    size_t n;
    char *text = read_file(g, c->file, &n);
    if (!text)
        return;
    if (ini_read(text, n, &ini, err) < 0)
        fault(g, "%s: %s", c->file, err);
    struct flat *other = calloc(1, sizeof *other);
    if (!other)
        g->no_memory = true;
    for (size_t i = 0; i < ini.n && other; i++) {
        const struct ini_entry *e = &ini.list[i];
        const struct flat *f = section_options(g, e, other);
        const struct argp_option *o = f ? entry_option(g, f, e) : NULL;
        const bool no = o && !o->arg && yes_or_no(e->value) == 0;
        if (o && f == &g->flat && !no && !on_command_line(c, o, n_given))
            add(g, o, o->arg ? e->value : NULL, e->line);
    }
    free(other);
    ini_free(&ini);
    c->text = text; /* of its room what was not needed was never touched */
    c->n_text = n;
    c->n_file = c->n - n_given;
}

/* The file's first. */
static int put_file_first(struct config *c)
{
    const size_t n_given = c->n - c->n_file;
    struct config_entry *list = malloc((c->n + 1) * sizeof *list);
    if (!list)
        return -ENOMEM;
    if (c->n_file)
        memcpy(list, c->list + n_given, c->n_file * sizeof *list);
    if (n_given)
        memcpy(list + c->n_file, c->list, n_given * sizeof *list);
    free(c->list);
    c->list = list;
    return 0;
}

int config_gather(const struct config_command *command, int argc, char **argv,
                  void (*say)(void *arg, const char *line), void *arg, struct config *out)
{
    struct gathering *g = calloc(1, sizeof *g);
    *out = (struct config){.command = command};
    if (!g) {
        say(arg, "out of memory for the configuration");
        return -ENOMEM;
    }
    g->out = out;
    g->say = say;
    g->arg = arg;
    flatten(command->argp, &g->flat);
    collect_command_line(g, argc, argv);
    const char *file = config_value(out, "config");
    if (file && out->complete) {
        out->file = strdup(file);
        if (out->file)
            collect_file(g);
    }
    const bool no_memory =
        g->no_memory || (file && out->complete && !out->file) || put_file_first(out) < 0;
    if (no_memory)
        say(arg, "out of memory for the configuration");
    const int rc = no_memory ? -ENOMEM : g->faults ? -EINVAL : 0;
    free(g);
    return rc;
}

void config_free(struct config *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->list[i].value);
    free(c->list);
    free(c->file);
    free(c->text);
    *c = (struct config){.n = 0};
}

const char *config_value(const struct config *c, const char *key)
{
    for (size_t i = c->n; i-- > 0;)
        if (strcmp(c->list[i].option->name, key) == 0)
            return c->list[i].value;
    return NULL;
}

/* --- checks --------------------------------------------------------------------------------------
 */

int config_check_file(const char *option, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        log_error("%s %s: %s", option, path, strerror(errno));
        return EXIT_USAGE;
    }
    close(fd);
    return EXIT_OK;
}

int config_say_good(const struct daemon_options *o)
{
    printf("%s: ok\n", o->config ? o->config : "the command line");
    return EXIT_OK;
}
