/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/seeds.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where a sanitizer is compiled in. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static char again[1024]; /* the command, with its line's end */

static double since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

static void say_again(void)
{
    if (write(STDERR_FILENO, again, strlen(again)) < 0)
        return; /* nobody listens */
}

static void struck(int number)
{
    say_again();
    signal(number, SIG_DFL);
    raise(number);
}

static void begin(struct seeds *s)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTERM, SIGALRM};
    const bool sanitized = __sanitizer_set_death_callback != NULL;

    clock_gettime(CLOCK_MONOTONIC, &s->start);
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (!sanitized || signals[i] == SIGABRT || signals[i] == SIGTERM)
            signal(signals[i], struck);
    }
    if (sanitized)
        __sanitizer_set_death_callback(say_again);
}

bool seeds_option(struct seeds *s, int c, const char *arg)
{
    char *end;

    errno = 0;
    if (c == 's')
        s->seed = strtoull(arg, &end, 0);
    else if (c == 'r')
        s->runs = strtoull(arg, &end, 0);
    else if (c == 't')
        s->seconds = strtod(arg, &end);
    else
        return false;
    if (errno || end == arg || *end || (c == 't' && !(s->seconds > 0))) {
        fprintf(stderr, "%s: \"%s\" is no number for this option\n", s->argv[0], arg);
        return false;
    }
    return true;
}

/* The program with its options, but for those of seeds. */
static void write_again(const struct seeds *s)
{
    const char *head = getenv("HEAD"); /* tests/unit/pipeline/fake_stage.c */
    size_t n = (size_t)snprintf(again, sizeof again, "again: %s%s%s", head ? "HEAD=" : "",
                                head ? head : "", head ? " " : "");

    for (char **a = s->argv; *a && n < sizeof again; a++) {
        if (!strcmp(*a, "--seed") || !strcmp(*a, "--runs") || !strcmp(*a, "--seconds"))
            a += a[1] != NULL;
        else if (strncmp(*a, "--seed=", 7) && strncmp(*a, "--runs=", 7) &&
                 strncmp(*a, "--seconds=", 10))
            n += (size_t)snprintf(again + n, sizeof again - n, "%s ", *a);
    }
    if (n < sizeof again)
        snprintf(again + n, sizeof again - n, "--runs 1 --seed %" PRIu64 "\n", s->seed);
}

bool seeds_next(struct seeds *s)
{
    if (!s->n_runs)
        begin(s);
    else
        s->seed++;
    if (s->seconds > 0 ? since(&s->start) >= s->seconds : s->n_runs >= s->runs)
        return false;
    s->n_runs++;
    write_again(s);
    return true;
}

void seeds_report(const struct seeds *s)
{
    const double took_s = since(&s->start);
    const char *slash = strrchr(s->argv[0], '/');

    printf("%s: %" PRIu64 " runs, seeds %" PRIu64 " to %" PRIu64 ", %" PRIu64
           " steps in %.1f s: %.2f million steps a minute\n",
           slash ? slash + 1 : s->argv[0], s->n_runs, s->seed - s->n_runs, s->seed - 1, s->n_steps,
           took_s, (double)s->n_steps * 60e-6 / (took_s > 0 ? took_s : 1e-9));
}

void seeds_failed(void)
{
    fflush(stdout);
    say_again();
    exit(1);
}
