/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp: kernel UDP, which works everywhere and without privileges.
 *
 * udp.c is the port, udp_socket.c the socket and its addresses; packets pass the kernel by one of
 * two engines: io_uring (udp_uring.c) or, where that is not allowed, sendmmsg and recvmmsg
 * (udp_mmsg.c).
 *
 * A datagram holds what comes behind the outer headers (outer.h). Their room stays, so the payload
 * is sent from where it lies. In it the link finds where a frame came from and writes where it
 * goes: a peer's address as 16 bytes of IPv6 (::ffff:a.b.c.d for IPv4), of which the first six
 * stand in its Ethernet address, the next six in ours, and the last four in its IPv4 address. The
 * bytes 4 to 7 of a link-local one, which are zero, hold the number of its interface.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_UDP_H
#define ISTHMUS_DATAPLANE_PORT_UDP_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "dataplane/port.h"
#include "dataplane/port/rhythm.h"
#include "dataplane/port/uri.h"

#define UDP_DATAGRAM_MAX 65536u
#define UDP_GROUP_MAX    32u /* packets sent as one, to be cut up by UDP_SEGMENT */
#define UDP_GROUP_BYTES  64000u

/* Packets to one place, equally long but for the last, which may be shorter. */
struct udp_group {
    struct sockaddr_in6 to; /* or sockaddr_in */
    socklen_t to_len;
    struct pkt *const *pkts;
    uint16_t n;
    uint16_t segment_bytes;
};

/* What came: one datagram, or several of segment_bytes each that the kernel joined (UDP_GRO). */
struct udp_received {
    const uint8_t *bytes;
    size_t n;
    size_t segment_bytes; /* 0: one */
    struct sockaddr_in6 from;
    unsigned buffer; /* the engine's */
};

/* The parts of a struct msghdr that sends a group. */
struct udp_message {
    struct msghdr msg;
    struct iovec iov[UDP_GROUP_MAX];
    struct sockaddr_in6 to;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(uint16_t))];
};
void udp_message(struct udp_message *m, const struct udp_group *g);

/* The size of the joined datagrams, 0: not joined. */
size_t udp_joined_bytes(struct msghdr *msg);

struct udp;

struct udp_engine {
    /* One more of what came, or false. It is the caller's until recycled. */
    bool (*fetch)(struct udp *u, struct udp_received *r);
    void (*recycle)(struct udp *u, const struct udp_received *r);
    /* Send groups, in order; how many were taken. Takes references where it needs them longer. */
    int (*send)(struct udp *u, const struct udp_group *groups, int n);
    /* Sleep until something came, or until_ns. 0 or -EINTR. */
    int (*sleep)(struct udp *u, uint64_t now_ns, uint64_t until_ns);
    /* Or what to poll for that; what is to be sent is on its way then. */
    int (*pollable)(struct udp *u);
    void (*close)(struct udp *u);
};

struct udp {
    struct port port; /* first */
    const struct udp_engine *engine;
    void *engine_data;
    int fd;
    int family; /* of the socket */
    uint16_t local_port;
    bool segments;  /* UDP_SEGMENT works */
    bool client;
    bool lost;     /* a client: the cloud's host says that nobody is there any more */
    char text[96]; /* the address, for people */
    struct wire_path path;
    struct rhythm rhythm;
    char name[URI_NAME_MAX];     /* of its host */
    struct sockaddr_in6 server;  /* as resolved at opening: no datagram changes it */
    struct udp_received current; /* being cut into packets */
    size_t at;
    bool have_current;
};

/* port_open() for what stands behind "udp:". */
int udp_open(const struct port_uri *uri, enum port_role role, struct port **out, char *err);

/* udp_socket.c: the socket, bound; fills in fd, family, addresses, path, segments and the port's
 * MTU. 0 or -errno and err. */
int udp_socket(struct udp *u, const struct port_uri *uri, enum port_role role, char *err);
/* Before a client is closed: where nothing was heard its name's next address has its turn. */
void udp_turn_ends(const struct udp *u);
/* Packets the kernel could not send: what to think of it. */
void udp_send_failed(struct udp *u, int error, const struct msghdr *msg);
/* Read the socket's error queue: who is said to be gone. */
void udp_read_errors(struct udp *u);
/* "1.2.3.4:5" */
void udp_address_text(const struct sockaddr_in6 *a, char *to, size_t room);

/* 0, or -errno and why not (PORT_ERR bytes). */
int udp_uring_open(struct udp *u, char *why);
int udp_mmsg_open(struct udp *u);

#endif
