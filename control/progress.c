/* SPDX-License-Identifier: Apache-2.0 */
#include "control/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "control/log.h"

void progress_start(struct progress *p, const char *what, unsigned total)
{
    *p = (struct progress){.what = what, .total = total, .tty = isatty(STDERR_FILENO)};
    clock_gettime(CLOCK_MONOTONIC, &p->start);
}

void progress_step(struct progress *p)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    double s =
        (double)(now.tv_sec - p->start.tv_sec) + (double)(now.tv_nsec - p->start.tv_nsec) * 1e-9;
    p->done++;
    double left_s = s / p->done * (p->total - p->done);
    if (p->tty)
        fprintf(stderr, "\r%s: %3u %%, %.0f s left \033[K", p->what, p->done * 100 / p->total,
                left_s);
    else if (s - p->said_s >= 10) {
        log_info("%s: %u %%, %.0f s left", p->what, p->done * 100 / p->total, left_s);
        p->said_s = s;
    }
    if (p->done == p->total)
        progress_clear(p);
}

void progress_clear(const struct progress *p)
{
    if (p->tty)
        fprintf(stderr, "\r\033[K");
}
