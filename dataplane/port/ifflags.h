/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_DATAPLANE_PORT_IFFLAGS_H
#define ISTHMUS_DATAPLANE_PORT_IFFLAGS_H

#include <stdbool.h>

/* While true, what this thread's ioctl() calls would make of interfaces' flags is left out: they
 * return 0. */
void port_keep_ifflags(bool keep);

#endif
