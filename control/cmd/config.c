/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus config`: what a configuration file and options come to, and where each value is from. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/config/ini.h"
#include "control/log.h"
#include "control/options.h"

const struct config_command config_commands[] = {
    {"edge", &cmd_edge_argp},
    {"cloud", &cmd_cloud_argp},
    {"run", &cmd_run_argp},
    {NULL, NULL},
};

/* --- showing -------------------------------------------------------------------------------------
 */

struct showing {
    const struct config *config;
    json_t *options; /* NULL: as INI */
};

/* Defaults that are each command's own. */
static const struct {
    const char *command, *key, *value;
} own[] = {
    {"edge", "threads", "1"},
    {"cloud", "threads", "1"},
    {"run", "threads", "half of the cores; with local all"},
    {"edge", "first-core", "0"},
    {"cloud", "first-core", "1"},
    {"run", "first-core", "0"},
};

/*
 * What it is without the option, as the command or the option's text says it; "": nothing. Static.
 * in_words: it is no value that the option takes. The text has a colon before what it says in
 * words.
 */
static const char *said_default(const struct config_command *c, const struct argp_option *o,
                                bool *in_words)
{
    static char text[120];
    *in_words = false;
    const char *from = o->doc ? strstr(o->doc, "(default") : NULL;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(own[i].command, c->name) == 0 && strcmp(own[i].key, o->name) == 0) {
            *in_words = strchr(own[i].value, ' ') != NULL;
            return own[i].value;
        }
    if (!from)
        return o->arg ? "" : "no";
    from += strlen("(default");
    *in_words = *from == ':';
    from += strspn(from, ": ");
    snprintf(text, sizeof text, "%.*s", (int)strcspn(from, ":;)"), from);
    *in_words |= strchr(text, ' ') != NULL;
    return text;
}

static void source(const struct config *c, const struct config_entry *e, char *to, size_t room)
{
    if (e->line)
        snprintf(to, room, "%s:%u", c->file, e->line);
    else
        snprintf(to, room, "command line");
}

/* Whether a line of a file is this key and value, of which none may be empty. */
static bool reads_back(const char *line, const char *key, const char *value)
{
    struct ini ini;
    char err[INI_ERR];
    const bool same = ini_read(line, strlen(line), &ini, err) == 0 && ini.n == 1 &&
                      strcmp(ini.list[0].key, key) == 0 && strcmp(ini.list[0].value, value) == 0;
    ini_free(&ini);
    return same;
}

/* The beginning of a text, in one line. */
static void show_begin(const char *text)
{
    for (size_t i = 0; text[i] && i < 60; i++)
        putchar((unsigned char)text[i] < ' ' ? '?' : text[i]);
    if (strlen(text) > 60)
        printf("...");
}

static void show_value(const char *key, const char *value, const char *from)
{
    char *line = NULL;
    if (*value && asprintf(&line, "%s = %s ; %s", key, value, from) >= 0 &&
        reads_back(line, key, value)) {
        puts(line);
    } else {
        printf("; %s can't be said in a file, give it to the command (", key);
        show_begin(from);
        printf("): ");
        show_begin(value);
        putchar('\n');
    }
    free(line);
}

static void show_option(void *arg, const struct argp_option *o)
{
    const struct showing *s = arg;
    bool set = false;
    for (size_t i = 0; i < s->config->n; i++) {
        const struct config_entry *e = &s->config->list[i];
        char from[300];
        if (e->option != o)
            continue;
        source(s->config, e, from, sizeof from);
        show_value(o->name, e->value ? e->value : "yes", from);
        set = true;
    }
    bool in_words;
    const char *value = said_default(s->config->command, o, &in_words);
    if (!set && !(o->flags & OPTION_HIDDEN))
        printf(";%s = %s%s\n", o->name, in_words || !*value ? "; " : "", *value ? value : "none");
}

static void show_option_json(void *arg, const struct argp_option *o)
{
    const struct showing *s = arg;
    json_t *values = json_array();
    bool in_words;
    for (size_t i = 0; i < s->config->n; i++) {
        const struct config_entry *e = &s->config->list[i];
        char from[300];
        if (e->option != o)
            continue;
        source(s->config, e, from, sizeof from);
        json_array_append_new(
            values, json_pack("{s:s, s:s}", "value", e->value ? e->value : "yes", "from", from));
    }
    json_array_append_new(s->options,
                          json_pack("{s:s, s:s?, s:s, s:s, s:o}", "key", o->name, "argument",
                                    o->arg, "help", o->doc, "default",
                                    said_default(s->config->command, o, &in_words), "set", values));
}

static int show(const struct config *c, bool json)
{
    struct showing s = {.config = c, .options = json ? json_array() : NULL};
    if (!json) {
        printf("[%s] ; lines that begin with ; are defaults\n", c->command->name);
        config_each_option(c->command, show_option, &s);
        return EXIT_OK;
    }
    config_each_option(c->command, show_option_json, &s);
    json_t *all = json_pack("{s:s, s:s?, s:o}", "command", c->command->name, "file", c->file,
                            "options", s.options);
    const bool ok = all && json_dumpf(all, stdout, JSON_INDENT(1)) == 0;
    json_decref(all);
    putchar('\n');
    if (!ok)
        log_error("a value is no text, or out of memory");
    return ok ? EXIT_OK : EXIT_FAILED;
}

/* --- the command ---------------------------------------------------------------------------------
 */

enum { OPT_SHOW = OPT_OWN, OPT_JSON, OPT_CONFIG };

struct config_options {
    bool show, json;
    const char *config;
    const struct config_command *command;
    int first; /* argv of what follows it */
};

static const struct argp_option options[] = {
    {"show", OPT_SHOW, NULL, 0, "Print what they come to, as INI, and where each value is from", 0},
    {"json", OPT_JSON, NULL, 0, "With --show: as a JSON object, with what each key means", 0},
    {"config", OPT_CONFIG, "FILE", 0, "The file, as of the command", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config_options *o = state->input;
    switch (key) {
    case OPT_SHOW:
        o->show = true;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_CONFIG:
        o->config = arg;
        return 0;
    case ARGP_KEY_ARG:
        o->command = config_find_command(arg);
        if (!o->command)
            argp_error(state, "%s takes no configuration file: it is for edge, cloud and run", arg);
        o->first = state->next;
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_END:
        if (!o->command)
            argp_error(state, "for which command: edge, cloud or run?");
        if (!o->show)
            argp_error(state, "--show is missing: there is nothing else to do");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "edge|cloud|run [OPTION...]",
    "Print the configuration that a command would have with these options and this file.",
    NULL,
    NULL,
    NULL,
};

static void say(void *arg, const char *line)
{
    (void)arg;
    log_error("%s", line);
}

int cmd_config(int argc, char **argv)
{
    struct config_options o = {.show = false};
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &o);

    char name[32], file[] = "--config";
    const char *given[3] = {name, file, o.config};
    const int n_given = o.config ? 3 : 1, n_rest = argc - o.first;
    char **all = calloc((size_t)(n_given + n_rest + 1), sizeof *all);
    if (!all) {
        log_error("out of memory for the configuration");
        return EXIT_FAILED;
    }
    snprintf(name, sizeof name, "isthmus %s", o.command->name);
    for (int i = 0; i < n_given; i++)
        all[i] = (char *)given[i];
    memcpy(all + n_given, argv + o.first, (size_t)n_rest * sizeof *all);

    struct config c;
    int rc =
        config_gather(o.command, n_given + n_rest, all, say, NULL, &c) < 0 ? EXIT_USAGE : EXIT_OK;
    if (rc == EXIT_OK && !c.complete) {
        log_error("the options of %s are wrong: `%s --check-config` with them says how", name,
                  name);
        rc = EXIT_USAGE;
    }
    if (rc == EXIT_OK)
        rc = show(&c, o.json);
    config_free(&c);
    free(all);
    return rc;
}
