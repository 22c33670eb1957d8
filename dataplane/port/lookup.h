/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts that are looked up beside the thread that opens ports: port_looked_up (port.h) begins. */
#ifndef ISTHMUS_DATAPLANE_PORT_LOOKUP_H
#define ISTHMUS_DATAPLANE_PORT_LOOKUP_H

#include <netdb.h>

#include "dataplane/port/uri.h"

/* What was found of the client port's host, as getaddrinfo gives it, and by it, waiting, where
 * nothing was found lately. Used up by this: the next time it is looked up anew. 0: *found is the
 * caller's, for freeaddrinfo. Else getaddrinfo's error, *found is NULL and, for EAI_SYSTEM, errno
 * says what failed. */
int lookup_take(const struct port_uri *u, struct addrinfo **found);

#endif
