/* SPDX-License-Identifier: Apache-2.0 */
#include "control/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "control/log.h"

void progress_start(struct progress *p, const char *what, uint64_t total)
{
    *p = (struct progress){.what = what, .total = total, .tty = isatty(STDERR_FILENO)};
    clock_gettime(CLOCK_MONOTONIC, &p->start);
}

void progress_start_bytes(struct progress *p, const char *what, uint64_t total)
{
    progress_start(p, what, total);
    p->bytes = true;
    p->quiet_s = 2;
}

static void say(const struct progress *p, double s)
{
    const double share = (double)p->done / (double)p->total, left_s = s / share - s;
    char much[80] = "";

    if (p->bytes)
        snprintf(much, sizeof much, ", %.0f of %.0f MB, %.0f MB/s", (double)p->done * 1e-6,
                 (double)p->total * 1e-6, (double)p->done * 1e-6 / s);
    if (p->tty)
        fprintf(stderr, "\r%s: %3.0f %%%s, %.0f s left \033[K", p->what, share * 100, much, left_s);
    else
        log_info("%s: %.0f %%%s, %.0f s left", p->what, share * 100, much, left_s);
}

void progress_add(struct progress *p, uint64_t work)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    p->done += work;
    if (p->done == 0)
        return;
    const double s =
        (double)(now.tv_sec - p->start.tv_sec) + (double)(now.tv_nsec - p->start.tv_nsec) * 1e-9;

    /* The first of bytes comes when the quiet is over; else lines are ten seconds apart. */
    if (s < p->quiet_s)
        return;
    const double apart_s = p->tty ? (p->bytes ? .1 : 0) : p->said_s > 0 || !p->bytes ? 10 : 0;
    if (s - p->said_s >= apart_s) {
        say(p, s);
        p->said_s = s;
    }
    if (p->done >= p->total)
        progress_clear(p);
}

void progress_clear(const struct progress *p)
{
    if (p->tty && p->said_s > 0)
        fprintf(stderr, "\r\033[K");
}
