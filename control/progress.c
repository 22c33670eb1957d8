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

void progress_add(struct progress *p, uint64_t work)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    p->done += work;
    if (p->done == 0)
        return;
    const double s =
        (double)(now.tv_sec - p->start.tv_sec) + (double)(now.tv_nsec - p->start.tv_nsec) * 1e-9;
    const double share = (double)p->done / (double)p->total, left_s = s / share - s;

    if (p->tty)
        fprintf(stderr, "\r%s: %3.0f %%, %.0f s left \033[K", p->what, share * 100, left_s);
    else if (s - p->said_s >= 10) {
        log_info("%s: %.0f %%, %.0f s left", p->what, share * 100, left_s);
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
