/* SPDX-License-Identifier: Apache-2.0 */
/* config_parse: a command's own parser over file and command line. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/log.h"

/* While argp parses, which ends the program by itself where something is wrong. */
static struct {
    struct config config;
    char **given; /* the command's own arguments */
    int given_argc;
    char **argv; /* the file's options stand behind argv[0] */
    const struct argp_state *state;
    argp_parser_t parser; /* the command's own */
} now;

static void say(void *arg, const char *line)
{
    (void)arg;
    log_error("%s", line);
}

static void say_entry(const struct config_entry *e)
{
    log_error("%s:%u: %s = %s", now.config.file, e->line, e->option->name,
              e->value ? e->value : "yes");
}

static void say_where(void)
{
    const size_t i = now.state ? (size_t)now.state->next : 0; /* behind the one that is parsed */
    if (i < 2 || i - 2 >= now.config.n_file)
        return;
    say_entry(&now.config.list[i - 2]);
}

/* --- errors of a check --------------------------------------------------------------------------
 */

#define QUOTED 4u /* characters that a value has at least, to be looked for in a text */

static bool names_option(const char *text, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at++)
        if (at - text >= 2 && at[-1] == '-' && at[-2] == '-' && !isalnum((unsigned char)at[n]) &&
            at[n] != '-')
            return true;
    return false;
}

static void say_lines(const char *text)
{
    const struct config *c = &now.config;
    bool named = false;
    log_on_error(NULL);
    for (size_t i = 0; i < c->n_file; i++)
        if (names_option(text, c->list[i].option->name)) {
            say_entry(&c->list[i]);
            named = true;
        }
    for (size_t i = 0; i < c->n_file && !named; i++) {
        const char *value = c->list[i].value;
        if (value && strlen(value) >= QUOTED && strstr(text, value))
            say_entry(&c->list[i]);
    }
    log_on_error(say_lines);
}

void config_check_begin(void)
{
    log_on_error(say_lines);
}

const struct config *config_parsed(void)
{
    return &now.config;
}

char **config_parsed_arguments(int *argc)
{
    *argc = now.given_argc;
    return now.given;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    now.state = state;
    return now.parser(key, arg, state);
}

static char *as_argument(const struct config_entry *e)
{
    char *text = NULL;
    if (asprintf(&text, "--%s%s%s", e->option->name, e->value ? "=" : "",
                 e->value ? e->value : "") < 0)
        text = NULL;
    return text;
}

void config_parse(const char *command, int argc, char **argv, void *input)
{
    const struct config_command *c = config_find_command(command);
    if (config_gather(c, argc, argv, say, NULL, &now.config) < 0)
        exit(EXIT_USAGE);
    now.given = argv;
    now.given_argc = argc;
    const size_t n_file = now.config.n_file;
    now.argv = calloc((size_t)argc + n_file + 1, sizeof *now.argv);
    bool ok = now.argv;
    for (size_t i = 0; i < n_file && ok; i++) {
        now.argv[1 + i] = as_argument(&now.config.list[i]);
        ok = now.argv[1 + i];
    }
    if (!ok) {
        log_error("out of memory for the configuration");
        exit(EXIT_FAILED);
    }
    now.argv[0] = argv[0];
    memcpy(now.argv + 1 + n_file, argv + 1, ((size_t)argc - 1) * sizeof *argv);

    struct argp argp = *c->argp;
    now.parser = argp.parser;
    argp.parser = parse;
    atexit(say_where);
    argp_parse(&argp, argc + (int)n_file, now.argv, 0, NULL, input);
    now.state = NULL;
}
