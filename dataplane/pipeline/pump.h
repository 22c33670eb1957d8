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

/* A peer that was turned away, for we have another: what it still says calls for telling it again. */
struct pump_away {
    struct keys *keys; /* NULL: free */
    uint32_t connection;
    struct wire_path path;
    uint32_t n_told; /* the number of the latest CLOSE: none seals twice */
    bool due;
    uint64_t until_ns;
};
#define PUMP_AWAY_MAX 4u

struct pump {
    struct port *port;
    struct link *link;
    struct link_params params;       /* for the next link */
    struct pipeline_security security;
    struct handshake *handshake;     /* NULL: frames are not encrypted */
    struct handshake_result met;     /* who the keys are shared with; no secrets */
    struct handshake_result next;    /* connection not 0: a peer for the next link */
    struct pump_away away[PUMP_AWAY_MAX];
    bool confirmed;                  /* it was heard */
    uint64_t (*clock)(void *arg);    /* may be NULL: then nothing moves during a stage run */
    void *clock_arg;
    uint64_t now_ns;
    const char *dead;                /* why nothing goes on, in a few words; NULL: it does */
    bool port_full;                  /* the last burst was cut short */
    struct pump_small *first, **end; /* small messages that wait for a packet */
    uint32_t n_small;
};

/* Received packets held by the link, and those of messages that wait to be computed, may each take
 * one share of the port's pool; packets to send leave half of it free. So neither direction can
 * starve the other. */
#define PUMP_POOL_SHARE 4u

/* A number for an edge's connection: random, not 0. 0 or -errno. */
int pump_draw_connection(uint32_t *connection);

/* Fills in what p leaves to the pipeline. 0, -EINVAL (pool too small), -ENOMEM. */
int pump_open(struct pump *p, struct port *port, const struct link_params *params,
              const struct pipeline_security *security, const struct wire_path *path,
              uint32_t connection, uint64_t now_ns);
void pump_close(struct pump *p);
/* A new link, as pump_open made it, for the next peer. The old one stays when this fails. */
int pump_renew(struct pump *p, uint64_t now_ns);

void pump_in(struct pump *p, uint64_t now_ns);
void pump_out(struct pump *p);
/* For stage_set_poll; arg is the pump. */
void pump_during_run(void *arg);
/* The link said -EPIPE: nothing goes on. */
void pump_link_ended(struct pump *p);
/* The clock's time, or the latest given. */
uint64_t pump_now(struct pump *p);
/* peer.c, for pump.c: only where there is encryption. */
int peer_keys(struct pump *p, struct keys **out); /* for the next link; NULL: not encrypted */
int peer_open(struct pump *p);
void peer_close(struct pump *p);
void peer_meet(struct pump *p, struct handshake_result *r); /* wipes r */
bool peer_input(struct pump *p, struct pkt *pkt); /* takes over the packet where it returns true */
void peer_tick(struct pump *p);
void peer_output(struct pump *p);

/* Why an edge's handshake was given up; NULL: it was not. */
const char *pump_refused(const struct pump *p);
/* The peer as the list of those admitted has it; NULL: not met yet, or not encrypted. */
const struct authorized_peer *pump_peer(const struct pump *p);

/* When to call again if no packet comes. */
uint64_t pump_deadline(const struct pump *p);

/* A packet for a message to send; NULL when the sender's share is used up. */
struct pkt *pump_alloc(struct pump *p);
bool pump_can_alloc(const struct pump *p, uint32_t n);
/* Packets of one message at most, by this side's pool. */
uint32_t pump_max_fragments(const struct pump *p);

/* Send a copy of a message of up to PROTO_SMALL_MAX bytes; it waits here while packets are short.
 * Where it can't wait, for lack of memory or because the peer takes none, the pump is dead. */
void pump_send(struct pump *p, uint32_t session, enum wire_class cls, int64_t reply_to,
               const uint8_t *bytes, size_t n);

#endif
