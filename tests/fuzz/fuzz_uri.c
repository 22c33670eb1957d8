/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as a port's name: refused with a reason, or sound. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/port.h"
#include "dataplane/port/uri.h"

static void check(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[PORT_ERR] = "", *text = malloc(size + 1);
    struct port_uri u;

    check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (port_uri_parse(text, &u, err)) {
        check(err[0] && strlen(err) < sizeof err);
    } else if (u.kind >= URI_PACKET) {
        check(u.port && u.ip && u.netmask && strlen(u.name) <= URI_INTERFACE_MAX);
        check(!strpbrk(u.name, ",=/ ") && (!u.mtu_bytes || u.mtu_bytes >= URI_MTU_MIN));
        check(!u.gateway || ((u.gateway ^ u.ip) & u.netmask) == 0);
    } else if (u.kind == URI_UDP) {
        check(u.port && u.mtu_bytes <= URI_MTU_MAX);
    }
    free(text);
    return 0;
}
