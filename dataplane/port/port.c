/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/port/memif.h"

int port_open(const char *uri, enum port_role role, struct port **out, char *err)
{
    if (strncmp(uri, "memif:", 6) == 0)
        return memif_open(uri + 6, role, out, err);
    snprintf(err, PORT_ERR, "there is no port '%.60s': write memif:PATH or memif:@NAME", uri);
    return -EINVAL;
}
