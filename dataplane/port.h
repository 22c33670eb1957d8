/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports: packets in and out in bursts, behind one interface. Back ends: memif (two processes of one
 * host, DPDK), udp (the kernel's), packet, xdp and pci (Ethernet by DPDK), loop (in-process pair,
 * for tests), netem (seeded impairments around another port).
 */
#ifndef ISTHMUS_DATAPLANE_PORT_H
#define ISTHMUS_DATAPLANE_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/netem.h"
#include "dataplane/outer.h"
#include "dataplane/pkt.h"

#define PORT_ERR  256
#define PORT_TEXT 224

struct port;

struct port_caps {
    const char *name;    /* "memif", "udp": for people */
    uint32_t mtu_bytes;  /* longest IP packet (frame without the 14 bytes of Ethernet) */
    uint32_t burst;      /* best number of packets a call */
    bool tells_loss;     /* port_alive knows when a peer is gone. Else only its silence tells */
    bool same_host;      /* nobody outside this machine can send to it or hear it */
    uint32_t addresses;  /* a client's, that its cloud's name has: opening it again after nothing was
                          * heard tries the next; 0: it has no name */
    char peer[64];       /* a client's: the address it tries, for people; "": the name says it */
    char how[PORT_TEXT]; /* what was chosen, in a line for people; "" where there is no choice */
};

struct port_stats {
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
    uint64_t tx_refused;      /* packets handed back by port_tx */
    uint64_t sleeps, wakeups; /* port_wait: went to sleep; woken by the peer's doorbell */
    uint64_t peers_lost;      /* peers that died or left */
    uint64_t tx_failed;       /* packets or groups the kernel or driver could not send: lost */
    uint64_t foreign;         /* received and not for this port: dropped */
    uint64_t copied_bytes;    /* of payload, copied by the port itself (not by kernel or driver) */
};

struct port_ops {
    int (*rx)(struct port *p, struct pkt **pkts, int n);
    int (*tx)(struct port *p, struct pkt **pkts, int n);
    int (*wait)(struct port *p, uint64_t deadline_ns);
    int (*alive)(struct port *p);
    void (*close)(struct port *p);
};

struct port_waiter; /* port/wait_any.h */

struct port {
    const struct port_ops *ops;
    const struct port_waiter *waiter; /* NULL: it can't be waited on together with others */
    struct port_caps caps;
    struct port_stats stats;
    struct pkt_pool *pool;        /* where port_rx's packets come from and senders' must */
    const struct wire_path *path; /* for the first frames to the peer; NULL: any does, or the peer
                                   * is learnt from its frames */
};

enum port_role { PORT_SERVER, PORT_CLIENT };

/*
 * Open a port by its name (port/uri.h has how they are written):
 *
 *   memif:PATH (Unix socket at PATH) or memif:@NAME (abstract socket: leaves nothing behind
 * whatever dies). A stale socket of a dead server is removed. Starts EAL on first use
 * (unprivileged, no hugepages, no runtime folder). udp:HOST:PORT, kernel UDP over IPv4 or IPv6:
 * where to listen, or where the cloud is. packet:IF, xdp:IF, pci:ADDRESS with ip=, peer=, gw=:
 * Ethernet frames by a DPDK driver.
 *
 * The cloud is the server, the edge the client. Returns at once; the peer may come later, and after
 * one was lost (and port_alive told so) another may come: neither order of starting matters.
 * err: PORT_ERR bytes, one line naming the port and the mend.
 * 0, -EINVAL (bad name), -EADDRINUSE, -EACCES, -ENODEV, -ENOMEM, -EIO.
 */
int port_open(const char *uri, enum port_role role, struct port **out, char *err);

/*
 * Whether port_open of this client's name would not have to wait for a name server. False: its host
 * is being looked up by a thread of its own; ask again in a while. What that finds, or that there is
 * nothing, is port_open's for the next ten seconds, once. True, too, where there is nothing to be
 * looked up, or no means to do so beside. Any thread may call it; of several that wait for one host
 * the first to call port_open has what was found.
 */
bool port_looked_up(const char *uri);

/* Whether that found nothing, so that port_open will fail; it is still port_open's. For any thread. */
bool port_lookup_failed(const char *uri);

/* Two joined in-process ports without DPDK, each with a heap pool of n packets and a queue of
 * `depth` packets each way. Packets are copied from pool to pool. */
int port_loop_pair(uint32_t n, uint32_t depth, uint32_t mtu_bytes, struct port **a,
                   struct port **b);

/* Bytes that a port of this name takes at most in this process once it is open: its packets, and
 * the driver with them. NULL: of a name that is not known yet, memif or udp. Nothing is opened. */
uint64_t port_memory_bytes(const char *uri);

/*
 * Impairments (dataplane/netem.h) on what is sent into `inner`, which it owns from then on. Packets are
 * copied, so a held mbuf is never changed. What is due while the inner port refuses waits, and the
 * wrapper refuses too. Closing waits, for two seconds at most, for what is on the way.
 * 0, -EINVAL, -ENOMEM: inner stays the caller's.
 */
int port_netem(struct port *inner, const struct netem_params *p, struct port **out);

/* Receive up to n packets: the count (0: none). The caller gets one reference to each. Malformed
 * lengths are dropped. Never blocks, never crashes when the peer dies. */
static inline int port_rx(struct port *p, struct pkt **pkts, int n)
{
    return p->ops->rx(p, pkts, n);
}

/* Send: returns how many were taken, in order; the rest stays the caller's to send again. The
 * port takes its own references: the caller's references, and the bytes, stay valid and unchanged
 * after the send, so that a packet can be held for retransmission. */
static inline int port_tx(struct port *p, struct pkt **pkts, int n)
{
    return p->ops->tx(p, pkts, n);
}

/*
 * Wait until packets may be there, the peer's state changed, or deadline_ns (CLOCK_MONOTONIC; 0:
 * return at once): bounded spin, then sleep until the peer's doorbell rings, awake and spinning for
 * a moment around the time an answer is due by the last two. port_tx of the peer rings the bell
 * only when this side sleeps. May return early. 0, or -EINTR when a signal came.
 */
static inline int port_wait(struct port *p, uint64_t deadline_ns)
{
    return p->ops->wait(p, deadline_ns);
}

/* As port_wait on one of n ports, 0 to 64: until something happens at any of them. One without a
 * waiter is looked at every millisecond, which is said once. */
int port_wait_any(struct port *const *ports, uint32_t n, uint64_t deadline_ns);

/* 1 connected; 0 not yet; -EPIPE: it was there and died or left (seen at once: its socket closed).
 * What it had sent can still be received. memif: told once at least when asked within a second, and
 * 0 again when the port can take a new peer. */
static inline int port_alive(struct port *p)
{
    return p->ops->alive(p);
}

/*
 * What else ends the waits of this thread, on any port but loop: a descriptor, mostly an eventfd, that
 * another thread or a signal's handler makes readable. Until it is emptied nothing sleeps. -1, at
 * first: nothing.
 */
void port_wake_on(int fd);
int port_wake_fd(void); /* for ports */

/* Sleep until then, or until that: port_wait where there is no port. 0 or -EINTR. */
int port_rest(uint64_t deadline_ns);

static inline void port_close(struct port *p)
{
    if (p)
        p->ops->close(p);
}

/*
 * What ports have to say while they work (a path too narrow, a fallback taken) goes here: a line
 * without its end, at most PORT_ERR bytes, in the thread that polls. NULL: nowhere.
 */
void port_on_news(void (*say)(const char *line));
void port_tell(const char *format, ...) __attribute__((format(printf, 1, 2))); /* for ports */

/* CLOCK_MONOTONIC in ns: the clock of port_wait's deadline and of every now_ns. */
uint64_t port_now_ns(void);

/* Resident bytes that EAL, DPDK's libraries and the packet pools added to this process, measured
 * around their start; 0 when no port needed EAL. */
uint64_t port_eal_rss_bytes(void);

#endif
