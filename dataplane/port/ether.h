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

#define ETHER_QUEUES_MAX 8u

/* A receive queue: a device of DPDK's that has no other. Its drivers for kernel interfaces take
 * several only of those that call theirs combined, which not all do. */
struct ether_queue {
    uint16_t id; /* DPDK's */
    bool have;
    char name[32]; /* DPDK's */
    bool checks_ip; /* it looks at the IPv4 checksums of what comes, and marks those that are wrong */
};

struct ether_dev {
    enum uri_kind kind;
    struct ether_queue queues[ETHER_QUEUES_MAX]; /* packets go out by the first */
    unsigned n_queues;
    uint8_t mac[6];
    int fds[ETHER_QUEUES_MAX]; /* one a queue, readable when packets came; the driver's */
    unsigned n_fds;            /* to sleep on: all, or 0 */
    unsigned n_opened;
};

/* What is there. */
struct ether_shape {
    uint32_t mtu_bytes; /* of the longest packet */
    unsigned rx_queues; /* that packets may come by: 1 to ETHER_QUEUES_MAX. AF_PACKET sockets have
                         * those of all; a card is set up to have one */
};

/* Check before anything is made: the interface, its state and queues, our rights. 0, -EINVAL,
 * -ENODEV, -EACCES and err. */
int ether_dev_check(const struct port_uri *uri, struct ether_shape *shape, char *err);

/* What ether_dev_check would find of an interface; where there is none, and of a card, what is
 * usual. */
struct ether_shape ether_dev_shape(const struct port_uri *uri);
/* What the driver's rings take in this process. */
uint64_t ether_dev_bytes(enum uri_kind kind, const struct ether_shape *shape);

/* What the driver wants of the packet pool: packets it keeps for itself, and bytes of a packet. */
uint32_t ether_dev_reserve(enum uri_kind kind, unsigned rx_queues);
uint32_t ether_dev_room(enum uri_kind kind, uint32_t mtu_bytes);

/* Add the device and start it, with all its receive queues. 0 or -errno and err. */
int ether_dev_open(struct ether_dev *d, const struct port_uri *uri, const struct ether_shape *shape,
                   struct pkt_pool *pool, char *err);
void ether_dev_close(struct ether_dev *d);

/* port_open() for what stands behind "packet:", "xdp:" and "pci:". */
int ether_open(const struct port_uri *uri, enum port_role role, struct port **out, char *err);

/* Bytes that such a port takes at most in this process once it is open: its packets and the driver, with
 * DPDK. Nothing is opened. */
uint64_t ether_memory_bytes(const struct port_uri *uri);

#endif
