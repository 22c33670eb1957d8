/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A list of workers as text: a registry file, and the value of a worker's key in etcd, which is one
 * such line. A line each,
 *
 *   NAME PORT [FINGERPRINT] [model=HEX] [split=N] [codec=HEX] [numerics=HEX] [drain]   # and
 * comments
 *
 * NAME: 1 to 63 of A-Z a-z 0-9 . _ - :, once in a list. PORT: as --port takes it. FINGERPRINT: of
 * the worker's key, sha256:HEX. drain: no new sessions for it, and those it has move.
 */
#ifndef ISTHMUS_CONTROL_FLEET_WORKERS_H
#define ISTHMUS_CONTROL_FLEET_WORKERS_H

#include <stddef.h>

#include "control/fleet/worker.h"

#define WORKERS_ERR   512
#define WORKER_LINE   768u       /* bytes of a line that worker_format writes, with the zero */
#define WORKERS_BYTES (1u << 22) /* of a file, at most */

/* In the order of their names, so that two lists are compared in one pass. */
struct workers {
    size_t n;
    struct worker *list;
};

/* One line without its end; `where` names it in errors: "FILE:3". err: WORKERS_ERR bytes, one line
 * of text. 1, 0: no worker on it, or -EINVAL. */
int worker_parse(const char *text, size_t len, const char *where, struct worker *out, char *err);
/* The line that worker_parse reads, without an end. Returns text. */
const char *worker_format(const struct worker *w, char text[WORKER_LINE]);
bool worker_name_ok(const char *text, size_t len);
/* Nothing but `draining` differs at most: the same process, for all that is known. */
bool worker_same(const struct worker *a, const struct worker *b);

/* A whole file; `file` is its name in errors, which name the line, too. An empty list is one. 0,
 * -EINVAL or -ENOMEM; *out is empty then. */
int workers_parse(const char *text, size_t len, const char *file, struct workers *out, char *err);

/* Room for one more, zeroed; NULL: out of memory, or there are WORKERS_MAX. workers_sort is due
 * then. */
struct worker *workers_add(struct workers *w);
void workers_sort(struct workers *w);
const struct worker *workers_find(const struct workers *w, const char *name);
void workers_free(struct workers *w);

#endif
