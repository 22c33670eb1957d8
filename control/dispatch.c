/* SPDX-License-Identifier: Apache-2.0 */
#include "control/dispatch.h"

#include <argp.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

static void print_help(const struct command_group *g, FILE *f)
{
    fprintf(f, "Usage: %s ", g->name);
    for (const char *c = g->kind; *c; c++)
        fputc(toupper((unsigned char)*c), f);
    fprintf(f, " [OPTION...]\n\n%s\n%c%ss:\n", g->about, toupper((unsigned char)g->kind[0]),
            g->kind + 1);
    for (const struct command *c = g->members; c->name; c++)
        fprintf(f, "  %-10s %s\n", c->name, c->summary);
    fprintf(f, "\n`%s NAME --help` explains a %s; `isthmus --version` prints the version.\n",
            g->name, g->kind);
}

static bool is_one_of(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words) != 0)
        words++;
    return *words;
}

int dispatch(const struct command_group *g, int argc, char **argv)
{
    if (argc < 2) {
        print_help(g, stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (is_one_of(name, (const char *const[]){"--version", "-V", NULL})) {
        puts(argp_program_version);
        return EXIT_OK;
    }
    if (is_one_of(name, (const char *const[]){"--help", "-h", "-?", "help", NULL})) {
        print_help(g, stdout);
        return EXIT_OK;
    }
    for (const struct command *c = g->members; c->name; c++) {
        if (strcmp(name, c->name) != 0)
            continue;
        char full_name[64];
        snprintf(full_name, sizeof full_name, "%s %s", g->name, name);
        argv[1] = full_name; /* what argp prints in usage and errors */
        return c->run(argc - 1, argv + 1);
    }
    log_error("there is no %s `%s`: `%s --help` lists them", g->kind, name, g->name);
    return EXIT_USAGE;
}
