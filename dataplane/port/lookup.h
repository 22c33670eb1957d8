/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts that are looked up beside the thread that opens ports: port_looked_up (port.h) begins. */
#ifndef ISTHMUS_DATAPLANE_PORT_LOOKUP_H
#define ISTHMUS_DATAPLANE_PORT_LOOKUP_H

#include <netdb.h>

#include "dataplane/port/uri.h"

/* What was found of the client port's host, as getaddrinfo gives it, and by it, waiting, where
 * nothing was found lately. Used up by this: the next time it is looked up anew. */
int lookup_take(const struct port_uri *u, struct addrinfo **found);

#endif
