/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cloud half as a child of `isthmus run`: the same binary, started with the cloud command. It
 * dies with its parent whatever kills that, ignores the terminal's ^C (its parent decides), and
 * tells by an inherited pipe what only it knows.
 */
#ifndef ISTHMUS_CONTROL_CHILD_H
#define ISTHMUS_CONTROL_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct child {
    pid_t pid; /* 0: none */
    int report_fd;
    bool gone;
    int status; /* of waitpid, when gone */
};

#define CHILD_REPORT_FD 3 /* in the child */
#define CHILD_SECRET_FD 4 /* in the child: "fd:4" */

/* argv[0] is what the child is called; NULL-terminated. secret_fd: a file for it alone, what no command
 * line may hold; -1: none. It stays the caller's. 0 or -errno. */
int child_start(struct child *c, char *const argv[], int secret_fd);

/* Has it ended? Waits for that up to timeout_ms. */
bool child_gone(struct child *c, int timeout_ms);

/* "exited with code 2", "was killed by signal 9 (Killed)". */
const char *child_fate(const struct child *c, char *buf, size_t n);

/* SIGTERM, two seconds for it to clean up, then SIGKILL. Reaps. */
void child_stop(struct child *c);

/* What the child reported about itself; 0 when it has not yet. */
uint64_t child_eal_rss_bytes(struct child *c);

/* Whether this process was started by child_start. */
bool child_is(void);

/* In the child: report (nothing when not started by child_start). */
void child_report(uint64_t eal_rss_bytes);

/* Resident bytes of a process now (0: this one), from /proc; 0 when it is gone. */
uint64_t process_rss_bytes(pid_t pid);

#endif
