/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ethernet frames of our own by DPDK: on a kernel interface through AF_PACKET sockets (packet:) or
 * AF_XDP sockets (xdp:), or by a PCI driver (pci:). The address ip= is ours, not the kernel's: it
 * is answered by ARP and echo replies here, and all but IPv4/UDP to it is left alone.
 *
 * ether.c is the port, ether_dev.c the device.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_ETHER_H
#define ISTHMUS_DATAPLANE_PORT_ETHER_H

#include "dataplane/port.h"
#include "dataplane/port/uri.h"

#define ETHER_FDS 4u

struct ether_dev {
    enum uri_kind kind;
    uint16_t id; /* DPDK's */
    bool have;
    char name[32]; /* DPDK's */
    uint8_t mac[6];
    bool checks_ip; /* it looks at the IPv4 checksums of what comes, and marks those that are wrong */
    int fds[ETHER_FDS]; /* readable when packets came; the driver's */
    unsigned n_fds;
};

/* Check before anything is made: the interface, its state, our rights. Gives the longest packet. 0,
 * -EINVAL, -ENODEV, -EACCES and err. */
int ether_dev_check(const struct port_uri *uri, uint32_t *mtu_bytes, char *err);

/* What the driver wants of the packet pool: packets it keeps for itself, and bytes of a packet. */
uint32_t ether_dev_reserve(enum uri_kind kind);
uint32_t ether_dev_room(enum uri_kind kind, uint32_t mtu_bytes);

/* Add the device and start it, with one queue each way. 0 or -errno and err. */
int ether_dev_open(struct ether_dev *d, const struct port_uri *uri, uint32_t mtu_bytes,
                   struct pkt_pool *pool, char *err);
void ether_dev_close(struct ether_dev *d);

/* port_open() for what stands behind "packet:", "xdp:" and "pci:". */
int ether_open(const struct port_uri *uri, enum port_role role, struct port **out, char *err);

#endif
