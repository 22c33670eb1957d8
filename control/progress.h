/* SPDX-License-Identifier: Apache-2.0 */
/* How far long work has come, on stderr: a line that is rewritten on a terminal, else one every ten
 * seconds. */
#ifndef ISTHMUS_CONTROL_PROGRESS_H
#define ISTHMUS_CONTROL_PROGRESS_H

#include <stdbool.h>
#include <time.h>

struct progress {
    const char *what; /* static */
    struct timespec start;
    double said_s; /* when, after the start */
    unsigned done, total;
    bool tty;
};

/* total: steps of about equal length. */
void progress_start(struct progress *p, const char *what, unsigned total);

/* One more step is done. */
void progress_step(struct progress *p);

/* Takes the line off a terminal, where results are about to be printed. */
void progress_clear(const struct progress *p);

#endif
