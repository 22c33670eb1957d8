/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the list of workers comes from, and comes anew when it changes:
 *
 *     file:PATH                             workers.h's lines; read again when the file changes
 *     srv:NAME[@ADDRESS[:PORT]]             DNS SRV, asked again by its TTL; @: that name server
 *     etcd:http://HOST:PORT[,URL...]/PREFIX a key for each worker, by etcd's JSON gateway
 *
 * A thread of its own does what blocks, and says on stderr what people should know: that a registry
 * doesn't answer (once) and that it does again. Whatever happens the last list stays: a list that
 * is wrong, or empty where the last was not, is no news.
 */
#ifndef ISTHMUS_CONTROL_FLEET_REGISTRY_H
#define ISTHMUS_CONTROL_FLEET_REGISTRY_H

#include "control/fleet/workers.h"

struct registry;

/* err: WORKERS_ERR bytes, one line. 0; -EINVAL: `where` is no registry; of a file also -errno and
 * what is wrong in it. The others are asked once it is open. */
int registry_open(const char *where, struct registry **out, char *err);
void registry_close(struct registry *r); /* NULL: nothing. Some milliseconds; while a name
                                          * server does not answer, seconds */

/* Readable while there is news. */
int registry_fd(const struct registry *r);
/* The newest list, if it was not taken yet: whole, in the order of names, the caller's to free. One
 * thread. */
bool registry_poll(struct registry *r, struct workers *out);

#endif
