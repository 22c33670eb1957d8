/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timing of jobs that are compared with each other. They take turns, so that what else the machine
 * does falls on all of them; of each the fastest turn counts, and median and standard deviation say
 * how much to trust it.
 */
#ifndef ISTHMUS_CONTROL_BENCH_TURNS_H
#define ISTHMUS_CONTROL_BENCH_TURNS_H

#define TURNS_MAX 4096u

struct turns_job {
    void (*run)(void *arg);
    void *arg;
    double units; /* what one run gets done: times are a unit's */

    /* results, of a unit */
    double best_ns, median_ns, sd_ns;
    unsigned turns;

    /* kept meanwhile */
    unsigned runs; /* in a turn; 0: had its only one */
    float *ns;     /* of each turn */
};

/* About time_s seconds for all jobs together, and five turns each at least; but one for a job that
 * takes over a second, which then has no deviation (NaN).
 * 0 or -ENOMEM. */
int turns_take(struct turns_job *jobs, unsigned n, double time_s);

/* What time it is, for what takes no turns of this kind. */
double turns_now_ns(void);

#endif
