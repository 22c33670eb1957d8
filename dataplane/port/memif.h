/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_DATAPLANE_PORT_MEMIF_H
#define ISTHMUS_DATAPLANE_PORT_MEMIF_H

#include "dataplane/port.h"

/* port_open() for what stands behind "memif:". */
int memif_open(const char *name, enum port_role role, struct port **out, char *err);

#endif
