/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port.h"

#include "dataplane/port/ether.h"
#include "dataplane/port/memif.h"
#include "dataplane/port/udp.h"
#include "dataplane/port/uri.h"

/* memif's with DPDK, or udp's when all were used. */
#define USUAL_BYTES UINT64_C(14000000)

uint64_t port_memory_bytes(const char *text)
{
    struct port_uri uri;
    char err[PORT_ERR];
    if (!text || port_uri_parse(text, &uri, err) < 0 || uri.kind == URI_MEMIF ||
        uri.kind == URI_UDP)
        return USUAL_BYTES;
    return ether_memory_bytes(&uri);
}

int port_open(const char *text, enum port_role role, struct port **out, char *err)
{
    struct port_uri uri;
    int rc = port_uri_parse(text, &uri, err);
    if (rc < 0)
        return rc;
    switch (uri.kind) {
    case URI_MEMIF:
        return memif_open(uri.name, role, out, err);
    case URI_UDP:
        return udp_open(&uri, role, out, err);
    default:
        return ether_open(&uri, role, out, err);
    }
}
