/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/turns.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#define TURNS_MIN 5u
/* A turn is long beside the clock's own cost and short beside an interruption. */
#define TURN_MIN_NS 20e3
#define TURN_MAX_NS 2e6
#define ONCE_NS     1e9 /* what takes longer needs no repetition */

double turns_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double time_runs(const struct turns_job *job, unsigned runs)
{
    const double start = turns_now_ns();

    for (unsigned i = 0; i < runs; i++)
        job->run(job->arg);
    return turns_now_ns() - start;
}

/* How many runs make a turn; warms caches up on the way. 0: one is so long that it has been the
 * only turn. */
static unsigned runs_for(struct turns_job *job, double turn_ns)
{
    unsigned runs = 1;
    double ns = time_runs(job, runs);

    if (ns > ONCE_NS) {
        job->ns[job->turns++] = (float)(ns / job->units);
        return 0;
    }
    while ((ns = time_runs(job, runs)) < turn_ns / 4)
        runs *= 2;
    return (unsigned)fmax(1.0, round(runs * turn_ns / ns));
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static void summarize(struct turns_job *job)
{
    double mean = 0, sq = 0;

    for (unsigned i = 0; i < job->turns; i++)
        mean += (double)job->ns[i] / job->turns;
    for (unsigned i = 0; i < job->turns; i++)
        sq += ((double)job->ns[i] - mean) * ((double)job->ns[i] - mean);
    qsort(job->ns, job->turns, sizeof(*job->ns), ascending);
    job->best_ns = (double)job->ns[0];
    job->median_ns = (double)job->ns[job->turns / 2];
    job->sd_ns = job->turns > 1 ? sqrt(sq / (job->turns - 1)) : NAN;
}

static void take_turn(struct turns_job *job)
{
    job->ns[job->turns++] = (float)(time_runs(job, job->runs) / (job->runs * job->units));
}

int turns_take(struct turns_job *jobs, unsigned n, double time_s)
{
    const double turn_ns = fmin(fmax(time_s * 1e9 / n / 32, TURN_MIN_NS), TURN_MAX_NS);
    float *ns = malloc((size_t)n * TURNS_MAX * sizeof(*ns));

    if (!ns)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++) {
        jobs[i].ns = ns + (size_t)i * TURNS_MAX;
        jobs[i].turns = 0;
        jobs[i].runs = runs_for(&jobs[i], turn_ns);
    }
    const double end = turns_now_ns() + time_s * 1e9;
    unsigned turn = 0;
    do {
        for (unsigned i = 0; i < n; i++)
            if (jobs[i].runs)
                take_turn(&jobs[i]);
        turn++;
    } while (turn < TURNS_MIN || (turn < TURNS_MAX && turns_now_ns() < end));
    for (unsigned i = 0; i < n; i++) {
        summarize(&jobs[i]);
        jobs[i].ns = NULL;
    }
    free(ns);
    return 0;
}
