/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The outer headers of a frame: Ethernet 14 / IPv4 20 / UDP 8. They say where it goes and lie
 * outside its tag, so that ports and routers may change them. A link addresses its frames by them,
 * and learns from those of valid frames where its peer is.
 *
 * On kernel UDP they are not sent: the port reads there where to, and writes there where from
 * (port/udp.h has how an IPv6 address fits).
 */
#ifndef ISTHMUS_DATAPLANE_OUTER_H
#define ISTHMUS_DATAPLANE_OUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTER_ETHERNET_BYTES 14u
#define OUTER_BYTES          42u /* Ethernet + IPv4 + UDP */

/* Addresses as the sender writes them. */
struct wire_path {
    uint8_t src_mac[6], dst_mac[6];
    uint32_t src_ip, dst_ip; /* host order */
    uint16_t src_port, dst_port;
};

/* Write all 42 bytes; udp_bytes: the UDP header and what follows it. */
void outer_write(uint8_t *frame, const struct wire_path *path, uint16_t udp_bytes);

/* New addresses for a frame that was written before. */
void outer_readdress(uint8_t *frame, const struct wire_path *path);

/*
 * Whether they are those of an unfragmented UDP packet that lies inside the frame: EtherType, IPv4
 * without options, its checksum, protocol, lengths. Trailing Ethernet padding is allowed.
 * *udp_bytes: as above, 8 or more. Reads nothing past len.
 */
bool outer_check(const uint8_t *frame, size_t len, size_t *udp_bytes);

/* The way back to where a checked frame came from. */
void outer_way_back(const uint8_t *frame, struct wire_path *path);

bool outer_same_path(const struct wire_path *a, const struct wire_path *b);
/* The same, whatever the ports are. */
bool outer_same_hosts(const struct wire_path *a, const struct wire_path *b);

#endif
