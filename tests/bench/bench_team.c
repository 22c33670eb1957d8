/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_team [THREADS [FIRST_CORE [SECONDS]]]: what a meeting at the team's barrier costs, a step
 * that does nothing, and the same when the leader was elsewhere for .1 and 5 ms before it; then for
 * SECONDS (default 0) steps of 200 barriers with 10 us of work between them, to run beside others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "compute/team.h"

static struct team *team;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu_s(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void busy(double seconds)
{
    for (double end = now_s() + seconds; now_s() < end;)
        ;
}

static void meet(void *arg, unsigned part, unsigned parts)
{
    for (unsigned i = *(unsigned *)arg; i; i--)
        team_barrier(team);
}

static void work(void *arg, unsigned part, unsigned parts)
{
    for (unsigned i = *(unsigned *)arg; i; i--) {
        busy(10e-6);
        team_barrier(team);
    }
}

/* ns of a step without the gap before it, best of three rounds. */
static double step_ns(unsigned n, double gap_s)
{
    unsigned none = 0;
    double best = 1e9;

    for (int round = 0; round < 3; round++) {
        double spent = 0;
        for (unsigned i = 0; i < n; i++) {
            if (gap_s > 1e-3)
                nanosleep(&(struct timespec){.tv_nsec = (long)(gap_s * 1e9)}, NULL);
            else if (gap_s > 0)
                busy(gap_s);
            double start = now_s();
            team_run(team, meet, &none);
            spent += now_s() - start;
        }
        best = spent / n < best ? spent / n : best;
    }
    return best * 1e9;
}

static double barrier_ns(void)
{
    unsigned n = 1000000;
    double best = 1e9;

    for (int round = 0; round < 3; round++) {
        double start = now_s();
        team_run(team, meet, &n);
        double s = (now_s() - start) / n;
        best = s < best ? s : best;
    }
    return best * 1e9;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 0, used, steps = 0, barriers = 200;
    int first_core = argc > 2 ? atoi(argv[2]) : 0;
    double seconds = argc > 3 ? atof(argv[3]) : 0;

    if (team_open(threads, first_core, &team, &used)) {
        fprintf(stderr, "no team\n");
        return 1;
    }
    if (seconds <= 0)
        printf(
            "%u threads: barrier %.0f ns, step %.0f ns, after .1 ms %.0f ns, after 5 ms %.0f ns\n",
            used, barrier_ns(), step_ns(100000, 0), step_ns(2000, 1e-4), step_ns(100, 5e-3));
    double start = now_s(), cpu = cpu_s();
    for (; now_s() - start < seconds; steps++)
        team_run(team, work, &barriers);
    if (steps)
        printf("%u threads: %.2f ms a step of %u barriers with 10 us between, %.2f cores busy\n",
               used, 1e3 * (now_s() - start) / steps, barriers,
               (cpu_s() - cpu) / (now_s() - start));
    team_close(team);
    return 0;
}
