/* SPDX-License-Identifier: Apache-2.0 */
/* Port and link together: packets in, packets out, small messages. Shared by edge and cloud. */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_PUMP_H
#define ISTHMUS_DATAPLANE_PIPELINE_PUMP_H

#include "dataplane/link.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/pipeline/pipeline.h"
#include "dataplane/port.h"
#include "dataplane/secure/handshake.h"

static inline uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

struct pump_small;

struct pump {
    struct port *port;
    struct link *link;
    struct link_params params;
    struct pipeline_security security;
    struct handshake *handshake;     /* an edge's; NULL: not encrypted, or a cloud's (links.h) */
    struct handshake_result met;     /* who the keys are shared with; no secrets */
    uint32_t packets_max;            /* that its small messages take until they are acknowledged */
    uint64_t (*clock)(void *arg);    /* may be NULL: then nothing moves during a stage run */
    void *clock_arg;
    uint64_t now_ns;
    const char *dead;                /* why nothing goes on, in a few words; NULL: it does */
    uint64_t stuck_ns;               /* since when the port, or its pool, takes nothing of what waits;
                                      * 0: it does */
    uint32_t mtu_told;               /* the path's, as it was said last; 0: nothing was */
    struct pump_small *first, **end; /* small messages that wait for a packet */
    uint32_t n_small, small_max;     /* so many may wait */
};

/* Sessions that it serves at once, each of which may have two small messages wait here. More of them
 * than those and a link's worth mean that the peer acknowledges nothing. */
static inline void pump_expect(struct pump *p, uint32_t sessions)
{
    p->small_max = LINK_MESSAGES_MAX + 2 * sessions;
}

/* Received packets held by the link, and those of messages that wait to be computed, may each take
 * one share of the port's pool; packets to send leave half of it free. So neither direction can
 * starve the other. A cloud's links have these shares together. */
#define PUMP_POOL_SHARE 4u
#define PUMP_POOL_MIN   128u

/* A number for an edge's connection: random, not 0. 0 or -errno. */
int pump_draw_connection(uint32_t *connection);

/* An edge's. Fills in what p leaves to the pipeline. 0, -EINVAL (pool too small), -ENOMEM. */
int pump_open(struct pump *p, struct port *port, const struct link_params *params,
              const struct pipeline_security *security, const struct wire_path *path,
              uint32_t connection, uint64_t now_ns);
/* A cloud's, with one edge: params.connection and, without keys, params.epoch are that edge's. met: by
 * the handshake, wiped here; NULL: not encrypted. As pump_open. */
int pump_open_met(struct pump *p, struct port *port, const struct link_params *params,
                  struct handshake_result *met, const struct wire_path *path, uint64_t now_ns);
void pump_close(struct pump *p);

/* Packets that go through the link between two calls of a port: as many as it likes. */
#define PUMP_BURST 32u
static inline int pump_burst(const struct port *port)
{
    return (int)(port->caps.burst ? smaller(port->caps.burst, PUMP_BURST) : PUMP_BURST);
}
/* Packets that come in at once: a flood must not keep the stage from running. */
#define PUMP_IN_MAX 2048

void pump_in(struct pump *p, uint64_t now_ns); /* an edge's: links_in receives for a cloud's */
void pump_out(struct pump *p);
/* Between two bursts of a flood that comes in: what the link can send by now goes, small messages
 * aside. The peer, who may have nothing left that it may send, does not wait for the flood's end. */
void pump_amid(struct pump *p);
/* For stage_set_poll; arg is an edge's pump. */
void pump_during_run(void *arg);
/* Let the link's time pass. */
void pump_tick(struct pump *p);
/* The link said -EPIPE: nothing goes on. */
void pump_link_ended(struct pump *p);
/* The clock's time, or the latest given. */
uint64_t pump_now(struct pump *p);
/* peer.c: an edge's handshake; only where there is encryption. */
int peer_open(struct pump *p);
/* The link speaks with this peer from now on. Wipes r. */
void peer_meet(struct pump *p, struct handshake_result *r);
bool peer_input(struct pump *p, struct pkt *pkt); /* takes over the packet where it returns true */
void peer_tick(struct pump *p);
void peer_output(struct pump *p);
/* A burst of a handshake's packets. What the port refuses is sent again in time. */
void peer_send(struct handshake *h, struct port *port, uint64_t now_ns);

/* Why an edge's handshake was given up; NULL: it was not. */
const char *pump_refused(const struct pump *p);

/* When to try a port again that took not all at now_ns, and nothing since stuck_ns (0: it just took
 * some): after as long as that, within bounds. */
uint64_t pump_retry_at(uint64_t now_ns, uint64_t stuck_ns);
/* Then, where something waits for the port; else UINT64_MAX. */
uint64_t pump_retry(const struct pump *p);
/* When to call again if no packet comes. */
uint64_t pump_deadline(const struct pump *p);

/* A packet for a message to send; NULL when the sender's share is used up. */
struct pkt *pump_alloc(struct pump *p);
bool pump_can_alloc(const struct pump *p, uint32_t n);
/* Packets of one message at most, by this side's pool. */
uint32_t pump_max_fragments(const struct pump *p);

/* A message of the session that pump_reserve made room for waits for packets. */
bool pump_holds(const struct pump *p, uint32_t session);
/* Those are wanted by nobody any more; what pump_send copied is sent all the same. */
void pump_drop(struct pump *p, uint32_t session);

/* Bytes of a message, with the link's prefix, that a packet has room for: on the path as it is known
 * now; on any; in the port's packets, though the path may not take them whole. */
size_t pump_payload(const struct pump *p);
size_t pump_payload_sure(const struct port *port);
size_t pump_payload_most(const struct port *port);

/* Room for a message of n bytes, which goes, part bytes of it to a packet, when there are enough: it
 * is to be written before the next call. NULL: it can't wait, for lack of memory or because the peer
 * takes none, and the pump is dead. */
uint8_t *pump_reserve(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
                      size_t n, size_t part);

/* Send a copy of a small message, which fits a packet; it waits here while packets are short. As
 * pump_reserve. */
void pump_send(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
               const uint8_t *bytes, size_t n);

#endif
