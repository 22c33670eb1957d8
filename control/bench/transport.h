/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `isthmus bench transport`: what its two processes say to each other, and its parts.
 *
 * - transport.c: the other process, cases
 * - transport_options.c: the command line
 * - transport_report.c: results
 * - transport_load.c: what is asked of a way: round trips (closed or open loop), one-way streams
 * - transport_gaps.c: whether a process had its core
 * - transport_link.c: two ways: messages of the link, and packets of the port without it
 * - transport_kernel.c: three ways: plain UDP, TCP and TLS, and who answers them
 * - transport_tls.c: TLS over a socket
 * - transport_peer.c: the answering process
 */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "control/bench/transport_gaps.h"
#include "control/netem_arg.h"
#include "control/security_arg.h"
#include "dataplane/port.h"

/* --- messages ----------------------------------------------------------------------------------
 */

enum transport_kind {
    TRANSPORT_LINK, /* messages of the link, as edge and cloud send them */
    TRANSPORT_RAW,  /* packets of the same port, turned round by the peer without the link */
    TRANSPORT_UDP,  /* datagrams of a plain socket */
    TRANSPORT_TCP,  /* a plain stream */
    TRANSPORT_TLS,  /* the same, encrypted */
    TRANSPORT_KINDS
};
const char *transport_kind_name(enum transport_kind k);

enum transport_verb {
    TRANSPORT_ECHO = 1, /* comes back, as long as it was */
    TRANSPORT_SINK = 2, /* is counted */
    TRANSPORT_ASK = 3,  /* over the link only: answered by TOLD */
    TRANSPORT_TOLD = 4, /* a struct transport_told follows the head */
};

/* Every message begins with it; the rest is of no meaning. */
#define TRANSPORT_HEAD_BYTES 24u
struct transport_head {
    enum transport_verb verb;
    uint32_t bytes;    /* of the message, this head included */
    uint32_t slot;     /* the asker's, */
    uint64_t stamp_ns; /* and so is this: they come back as they are */
};
void transport_put_head(uint8_t *to, const struct transport_head *h);
/* -EBADMSG: no such verb, or a length that can't be. */
int transport_get_head(const uint8_t *from, struct transport_head *h);

/* What the peer knows: sums since it started. */
#define TRANSPORT_TOLD_GAPS  32u
#define TRANSPORT_TOLD_BYTES (8u + 8u * TRANSPORT_KINDS + 14u + 16u * TRANSPORT_TOLD_GAPS)
struct transport_told {
    uint64_t cpu_ns;                       /* of the process */
    uint64_t sunk[TRANSPORT_KINDS];        /* messages that came to be counted */
    uint32_t floors_ip;                    /* where plain UDP, TCP and TLS are served, */
    uint16_t udp_port, tcp_port, tls_port; /* 0: they are not */
    uint16_t n_gaps;                       /* the oldest that it has not told; */
    struct gap gaps[TRANSPORT_TOLD_GAPS];  /* all of these: there may be more */
    bool gaps_known;                       /* false: its kernel does not count what it needs */
};
void transport_put_told(uint8_t *to, const struct transport_told *t);
void transport_get_told(const uint8_t *from, struct transport_told *t);

/* CPU time of this process, all threads. */
uint64_t transport_cpu_ns(void);

/*
 * A packet without the link is of wire version 0, which is none of the link's: the link drops it,
 * and the peer knows it by that. Behind the outer headers: this byte, 27 of no meaning, the head.
 * So it is as long as the link's packet of the same message.
 */
#define TRANSPORT_RAW_MARK    0x0fu
#define TRANSPORT_RAW_HEAD_AT (WIRE_PAYLOAD_AT + LINK_PREFIX_BYTES)

/* Bytes of a message that fit one packet of the port, in both directions of the link. */
uint32_t transport_packet_bytes(const struct port *port);

#define TRANSPORT_LOST_NS     50000000u
#define TRANSPORT_LOST_FAR_NS 400000000u

/* --- ways --------------------------------------------------------------------------------------
 */

/* One of the kinds, from the asking process. None of these blocks but `wait`. */
struct way;
struct way_ops {
    /* 1: taken; 0: no room now; -EPIPE: way->trouble says why nothing goes on. */
    int (*send)(struct way *w, uint32_t session, const struct transport_head *h);
    int (*flush)(struct way *w); /* what was sent really goes: 0 or -EPIPE */
    /* Answers that came, each given to w->answer; how many, or -EPIPE. */
    int (*poll)(struct way *w);
    /* Until something may have come, or the deadline. */
    void (*wait)(struct way *w, uint64_t deadline_ns);
};

struct way {
    const struct way_ops *ops;
    enum transport_kind kind;
    uint64_t lost_ns;   /* what is not answered by then is lost; 0: what is lost is sent again */
    uint32_t bytes_max; /* longest message */
    const char *trouble;
    void (*answer)(void *arg, const struct transport_head *h);
    void *arg;
};

/* The asking end of a port: the link over it, and the port itself. */
struct asker;
/* far: not just the other process of this host, or as if (--netem): answers may take .4 s. */
int asker_open(struct port *port, const struct security *security, bool far, struct asker **out);
void asker_close(struct asker *a);                             /* says goodbye; the port stays */
struct way *asker_way(struct asker *a, enum transport_kind k); /* LINK or RAW */
const char *asker_cipher(const struct asker *a);
/* Bytes of a message that the path takes in one packet of the link, as it is known now, */
uint32_t asker_packet_bytes(const struct asker *a);
uint32_t asker_mtu(const struct asker *a); /* and the packet's, with its IP header */
/* Payload that this end's link and port copied, so far: not what the codec or the kernel did. */
uint64_t asker_copied_bytes(const struct asker *a);
/* As port_driver_copied_bytes. */
uint64_t asker_driver_copied_bytes(const struct asker *a);
uint64_t asker_retransmits(const struct asker *a); /* packets the link sent again, so far */
/* Ask the peer what it knows, and wait for it up to timeout_ns. `gone` (may be NULL) is looked at
 * meanwhile: not NULL is why nobody will answer. 0, -EPIPE or -ETIMEDOUT; *why is said then. */
int asker_ask(struct asker *a, uint64_t timeout_ns, const char *(*gone)(void *arg), void *arg,
              struct transport_told *told, const char **why);
/* Let the link come to rest: all is acknowledged in both directions. */
void asker_settle(struct asker *a);

/* Ways of the kernel to a peer that told where it serves them (far: as for asker_open); free() by
 * way_kernel_close. 0 or -errno. */
int way_udp_open(const struct transport_told *at, bool far, uint32_t bytes_max, struct way **out);
int way_tcp_open(const struct transport_told *at, uint32_t bytes_max, struct way **out);
int way_tls_open(const struct transport_told *at, uint32_t bytes_max, struct way **out);
void way_kernel_close(struct way *w);

/* --- the peer ----------------------------------------------------------------------------------
 */

/* Who answers the kernel's ways, at floors->floors_ip: a thread each, which counts into its `sunk`
 * (relaxed atomics) and ends with the process. Their ports are put there. 0 or -errno. */
int floors_start(struct transport_told *floors);

/* Answer at a port until a signal comes; once: or until the first asker has gone. Plain UDP and TCP
 * too, at this IPv4 address (0: not). An exit code. */
int transport_peer(const char *uri, const struct security *security,
                   const struct netem_options *netem, uint32_t floors_ip, bool once);

#endif
