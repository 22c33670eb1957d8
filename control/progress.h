/* SPDX-License-Identifier: Apache-2.0 */
/* How far long work has come, on stderr: a line that is rewritten on a terminal, else one every ten
 * seconds. */
#ifndef ISTHMUS_CONTROL_PROGRESS_H
#define ISTHMUS_CONTROL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
    const char *what; /* static */
    struct timespec start;
    double said_s; /* when, after the start */
    uint64_t done, total;
    double quiet_s; /* nothing is said before */
    bool tty, bytes;
};

/* total: steps of about equal length, or any other measure of the work. */
void progress_start(struct progress *p, const char *what, uint64_t total);

/* Of bytes that are read: with their rate, and nothing is said of what takes less than two seconds.
 */
void progress_start_bytes(struct progress *p, const char *what, uint64_t total);

/* So much more of it is done. */
void progress_add(struct progress *p, uint64_t work);

/* One more step is done. */
static inline void progress_step(struct progress *p)
{
    progress_add(p, 1);
}

/* Takes the line off a terminal, where results are about to be printed. */
void progress_clear(const struct progress *p);

#endif
