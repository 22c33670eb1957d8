/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a port's name says, and nothing of whether it is there:
 *
 *     memif:PATH | memif:@NAME
 *     udp:HOST:PORT[,mtu=N][,io=io_uring|syscalls]      HOST: name, IPv4, [IPv6], or * to listen
 *     packet:IF,ip=ADDR/LEN[,peer=ADDR][,gw=ADDR][,port=N][,mtu=N]
 *     xdp:IF,...                                        as packet
 *     pci:ADDRESS,...                                   as packet, e.g. pci:0000:01:00.0,...
 */
#ifndef ISTHMUS_DATAPLANE_PORT_URI_H
#define ISTHMUS_DATAPLANE_PORT_URI_H

#include <stdbool.h>
#include <stdint.h>

#define URI_NAME_MAX      256u
#define URI_DEFAULT_PORT  7300u
#define URI_MTU_MIN       576u
#define URI_MTU_MAX       9000u
#define URI_INTERFACE_MAX 15u /* characters of an interface's name */

enum uri_kind { URI_MEMIF, URI_UDP, URI_PACKET, URI_XDP, URI_PCI };
enum uri_io { URI_IO_BEST, URI_IO_URING, URI_IO_SYSCALLS };

struct port_uri {
    enum uri_kind kind;
    char name[URI_NAME_MAX]; /* memif: all behind the colon; udp: the host without brackets, "" for
                              * any; else the interface or the PCI address, in full */
    uint16_t port;           /* of UDP */
    uint32_t mtu_bytes;      /* 0: not given */
    enum uri_io io;          /* udp */
    uint32_t ip, peer, gateway; /* host order, 0: not given */
    uint32_t netmask;           /* of ip, host order */
};

/* 0, or -EINVAL and err (PORT_ERR bytes): what is wrong, and how it is written. */
int port_uri_parse(const char *text, struct port_uri *u, char *err);

/* Whether it is a port of UDP whose host is a name, not an address: to be looked up. */
bool port_uri_has_name(const struct port_uri *u);

/* 10.0.0.1, into buf. Returns buf. */
#define URI_IP_TEXT 16
const char *port_uri_ip(uint32_t ip, char buf[URI_IP_TEXT]);

#endif
