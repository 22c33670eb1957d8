/* SPDX-License-Identifier: Apache-2.0 */
/* Network interfaces of this host, and what this process may do with them. */
#ifndef ISTHMUS_DATAPLANE_PORT_NETIF_H
#define ISTHMUS_DATAPLANE_PORT_NETIF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sockaddr;

struct netif {
    uint32_t mtu_bytes;
    uint8_t mac[6];
    bool up, ethernet;
    unsigned rx_queues; /* 0: not known */
};

/* 0 or -ENODEV. */
int netif_read(const char *name, struct netif *n);

/* Whether the kernel itself has this IPv4 address (host order) on the interface. */
bool netif_has_address(const char *name, uint32_t ip);

/* The MTU of the interface that has the IPv4 or IPv6 address of a; 0: there is none. */
uint32_t netif_mtu_of(const struct sockaddr *a);

/* The names of Ethernet interfaces, with commas, as far as there is room; "none". Returns buf. */
const char *netif_names(char *buf, size_t room);

/* Whether this process has the capability, a CAP_ number of linux/capability.h. */
bool netif_may(unsigned capability);

#endif
