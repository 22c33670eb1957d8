/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeds of a simulation, one after the other: so many runs, or for so many seconds. Where one fails,
 * whether by a check of the simulation, an assertion, a sanitizer or a signal, the command that
 * repeats this run alone is the last thing said.
 */
#ifndef ISTHMUS_TESTS_SIM_SEEDS_H
#define ISTHMUS_TESTS_SIM_SEEDS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* For getopt_long: seeds_option takes what these give. */
#define SEEDS_OPTIONS                                                                              \
    {"seed", required_argument, NULL, 's'}, {"runs", required_argument, NULL, 'r'},                \
    {                                                                                              \
        "seconds", required_argument, NULL, 't'                                                    \
    }
#define SEEDS_USAGE "[--seed N] [--runs R | --seconds S]"

struct seeds {
    uint64_t seed;       /* of the run that is on; before the first, of the first */
    uint64_t runs;       /* at most; none with --seconds */
    double seconds;      /* 0: as long as it takes */
    char **argv;         /* main's: what the command that repeats a run is made of */
    uint64_t n_runs, n_steps; /* so far; the simulation counts its steps */
    struct timespec start;
};

/* False: c is none of SEEDS_OPTIONS, or arg is no number; main returns 2. */
bool seeds_option(struct seeds *s, int c, const char *arg);
/* The next run's seed is in s->seed; false: it was the last. */
bool seeds_next(struct seeds *s);
/* Runs, steps, and steps a minute. */
void seeds_report(const struct seeds *s);
/* The end of the program, after a line that says what is wrong. */
_Noreturn void seeds_failed(void);

#endif
