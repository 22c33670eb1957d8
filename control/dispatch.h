/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines whose first word names one of several commands: `isthmus`, `isthmus bench`. */
#ifndef ISTHMUS_CONTROL_DISPATCH_H
#define ISTHMUS_CONTROL_DISPATCH_H

struct command {
    const char *name;
    const char *summary; /* one line for --help */
    int (*run)(int argc, char **argv);
};

struct command_group {
    const char *name;              /* as typed: "isthmus", "isthmus bench" */
    const char *kind;              /* what its members are called: "command" */
    const char *about;             /* what --help says above their list, lines ending in \n */
    const struct command *members; /* up to one without a name */
};

/* Runs the member that argv[1] names with argv[0] = "GROUP MEMBER", or answers --help and
 * --version. Returns an exit code. */
int dispatch(const struct command_group *g, int argc, char **argv);

#endif
