/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files: INI, a section a command ([edge], [cloud], [run]) and [isthmus] for all of
 * them. Keys are the long options' names, whatever options there are: what a file says is put in
 * front of the command line and parsed with it. An option given there replaces the file's, all of
 * them where a key stands several times.
 */
#ifndef ISTHMUS_CONTROL_CONFIG_CONFIG_H
#define ISTHMUS_CONTROL_CONFIG_CONFIG_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#include "control/service/daemon.h"

struct config_command {
    const char *name; /* "edge", which is its section's, too */
    const struct argp *argp;
};
extern const struct config_command config_commands[];               /* up to one without a name */
const struct config_command *config_find_command(const char *name); /* NULL: none */

struct config_entry {
    const struct argp_option *option;
    char *value;   /* NULL: a flag */
    unsigned line; /* of the file; 0: from the command line */
};

/* What a command gets, in the order in which it is parsed. */
struct config {
    const struct config_command *command;
    char *file; /* NULL: none */
    char *text; /* as it was read; NULL: it was not */
    size_t n_text;
    struct config_entry *list;
    size_t n, n_file; /* the first n_file of them are the file's */
    bool complete;    /* the command line could be read: else its errors are argp's to say */
};

/*
 * What argv, with argv[0] the command's, and the file that it names come to. Values are not looked
 * at. What is wrong with the file is said by `say`, a line each that names file and line. 0, or
 * -EINVAL, -ENOMEM, said; config_free is due in either case. Any thread.
 */
int config_gather(const struct config_command *c, int argc, char **argv,
                  void (*say)(void *arg, const char *line), void *arg, struct config *out);
void config_free(struct config *c);

/* The value of the last entry of an option; NULL: not given, or a flag. */
const char *config_value(const struct config *c, const char *key);

/*
 * argp_parse of a command, its configuration file first. Errors end the program as argp's do, with
 * the line of the file that they are about. The values live as long as the program.
 */
void config_parse(const char *command, int argc, char **argv, void *input);

/* What that came to, and the arguments that it was given: for looking again. */
const struct config *config_parsed(void);
char **config_parsed_arguments(int *argc);

/* Options of a command that may be keys: calls for each, in their tables' order. */
void config_each_option(const struct config_command *c,
                        void (*each)(void *arg, const struct argp_option *o), void *arg);

/* For --check-config: from now on errors are followed by the lines of the file that they are about,
 * those of the options that they name, or else of the values that they quote. */
void config_check_begin(void);
/* EXIT_USAGE where it can't be read, said. */
int config_check_file(const char *option, const char *path);
/* Says so on stdout; EXIT_OK. */
int config_say_good(const struct daemon_options *o);

#endif
