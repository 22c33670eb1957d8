/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands: `isthmus NAME ...`. One file each under cmd/ (a benchmark, `isthmus bench NAME ...`:
 * under bench/), one line each in the table of main.c (cmd/bench.c) and in meson.build.
 *
 * A command gets argv with argv[0] = "isthmus NAME", parses it with argp (options.h has the parts
 * they share) and returns one of the exit codes below. Results go to stdout; everything said to
 * people, errors and progress, goes to stderr through log.h.
 */
#ifndef ISTHMUS_CONTROL_CMD_H
#define ISTHMUS_CONTROL_CMD_H

#include <argp.h>

enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,        /* something went wrong while running: peer lost, I/O, memory */
    EXIT_USAGE = 2,         /* bad usage or bad input: nothing was done */
    EXIT_INTERRUPTED = 130, /* stopped by SIGINT */
};

int cmd_run(int argc, char **argv);
int cmd_edge(int argc, char **argv);
int cmd_cloud(int argc, char **argv);
int cmd_netem(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_profile(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_config(int argc, char **argv);

/* The options of commands that take a configuration file; the keys of their sections are made of these.
 */
extern const struct argp cmd_edge_argp, cmd_cloud_argp, cmd_run_argp;

#endif
