/* SPDX-License-Identifier: Apache-2.0 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"

static const struct command commands[] = {
    {"run", "generate text, split over two processes of this machine", cmd_run},
    {"edge", "the front half, joined to a cloud started by itself", cmd_edge},
    {"cloud", "the back half: answers the edges that join", cmd_cloud},
    {"tokenize", "text to token ids, and back", cmd_tokenize},
    {"score", "log-probabilities of given continuations, from JSON lines", cmd_score},
    {"eval", "what a codec costs: KL divergence, perplexity, bytes", cmd_eval},
    {"doctor", "what this machine offers and lacks", cmd_doctor},
    {NULL, NULL, NULL},
};

/* Visible: argp, in libc, looks for it. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "isthmus " ISTHMUS_VERSION;

static void print_help(FILE *f)
{
    fprintf(
        f,
        "Usage: isthmus COMMAND [OPTION...]\n"
        "\n"
        "Runs a language model cut in two: the front layers at the edge, the back layers in the\n"
        "cloud, compressed activations between them.\n"
        "\n"
        "Commands:\n");
    for (const struct command *c = commands; c->name; c++)
        fprintf(f, "  %-10s %s\n", c->name, c->summary);
    fprintf(
        f,
        "\n`isthmus COMMAND --help` explains a command; `isthmus --version` prints the version.\n");
}

/*
 * libgomp reads its settings when it is loaded, before main(). Its default of spinning between
 * parallel regions doubles the token time when two stages share cores, so unless the user chose,
 * choose for them and start over.
 */
static void settle_openmp(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
    /* Without /proc it runs as it is: slower, not wrong. */
    log_warn("cannot restart with OpenMP settings: set GOMP_SPINCOUNT=1000 for full speed");
}

int main(int argc, char **argv)
{
    argp_err_exit_status = EXIT_USAGE;
    settle_openmp(argv);

    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        puts(argp_program_version);
        return EXIT_OK;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return EXIT_OK;
    }

    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(name, c->name) != 0)
            continue;
        char full_name[64];
        snprintf(full_name, sizeof full_name, "isthmus %s", name);
        argv[1] = full_name; /* what argp prints in usage and errors */
        return c->run(argc - 1, argv + 1);
    }
    log_error("there is no command `%s`: `isthmus --help` lists them", name);
    return EXIT_USAGE;
}
