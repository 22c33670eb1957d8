/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Link: reliable messages between two peers over an unreliable port, as a pure state machine. Time
 * and packets go in, packets come out; it reads no clock and does no I/O.
 *
 * A message is a list of packets whose payloads the caller wrote in place. The link seals and
 * numbers them, holds a reference until each is acknowledged, and retransmits the very same bytes.
 * The receiver suppresses duplicates and delivers each message whole, once, in order per session.
 * A message that answers another (reply_to) acknowledges it. Acknowledgements are otherwise
 * delayed so that a reply can carry them.
 *
 * Memory is bounded: a sender has at most window_packets (and what the receiver's last
 * acknowledgement allows) in flight; a receiver holds at most rx_budget_packets and one message.
 * The oldest message that is not yet whole is always let through, so neither bound can deadlock.
 *
 * With keys every frame is sealed once, at its first transmission, and keys are changed (a new epoch)
 * before their limits; what was sealed with the old ones keeps its bytes.
 *
 * How long a packet the path takes each direction finds by itself (after RFC 8899): by padded probes,
 * whose loss means nothing else. A path that turns out to have become narrower than packets that
 * were sealed already gets these in pieces.
 *
 * Message numbers count from 1 and never wrap: after 2^32 - 2 messages link_send returns -EPIPE;
 * the owner then closes this link and opens one with the next epoch, or with new keys.
 */
#ifndef ISTHMUS_DATAPLANE_LINK_H
#define ISTHMUS_DATAPLANE_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/pkt.h"
#include "dataplane/wire.h"

#define LINK_FRAGMENTS_MAX 512u  /* packets of one message */
#define LINK_MESSAGES_MAX  2048u /* messages from the oldest unacknowledged to the newest */

struct link;

struct link_params {
    const struct wire_path *path;  /* where frames go at first; then to where the peer spoke first,
                                    * and to each new address that it proves to be at */
    struct keys *keys;             /* what frames are sealed with: borrowed; until they are ready
                                    * nothing is sent or taken. NULL: frames are not encrypted */
    bool initiator;                /* the edge: chooses the connection's number */
    uint32_t connection;           /* initiator: random, nonzero. Other side: the handshake's, or 0,
                                    * learnt from the first message */
    uint16_t epoch;                /* without keys: of what the initiator sends until it hears the
                                    * other side, which draws the connection's at link_open */
    uint8_t hop;
    bool unpaced;                  /* nothing between the peers can queue: only window and credit
                                    * bound what is under way */
    uint32_t window_packets;       /* most packets in flight; 0: 2,048 */
    uint32_t rx_budget_packets;    /* most received packets, or pieces of such, held for incomplete or
                                    * undelivered messages; beyond it they are dropped (and sent
                                    * again); 0: 2,048 */
    uint64_t rto_min_ns;           /* of timeouts but the first after an acknowledgement; 0: 20 ms */
    uint64_t rto_max_ns;           /* to which they double; where round trips are longer they are, too,
                                    * up to ten times it; 0: 300 ms */
    uint64_t ack_delay_ns;         /* of both sides alike: timeouts allow for it; 0: 10 ms */
    uint64_t ping_interval_ns;     /* when nothing was heard; 0: 500 ms */
    uint64_t dead_after_ns;        /* silence that means death; 0: 10 s */
    uint64_t first_word_ns;        /* silence of a peer never heard yet; 0: dead_after_ns */
    uint64_t idle_ping_ns;         /* both, while idle; 0: idle silence is not asked about. For */
    uint64_t idle_dead_after_ns;   /* ports that don't tell when a peer is gone */
    uint32_t mtu_bytes;            /* longest packet of the port, with its IP header; 0: any */
    uint32_t mtu_sure_bytes;       /* that the path takes in any case, 1,120 at least: from there on
                                    * the link looks for what it takes; 0: all that the port does */
};

struct link_stats {
    uint64_t tx_packets, tx_bytes, tx_messages, retransmits; /* bytes: whole frames */
    uint64_t spurious; /* that the peer says came more than once: of those sent again, as many were
                        * late, or late acknowledged, and not lost; or the path made copies */
    uint64_t rx_packets, rx_bytes, rx_messages, duplicates, bad_frames, over_budget, resets;
    uint64_t strangers; /* frames of another connection, epoch or hop, or our own */
    uint64_t moves;     /* times the peer proved another address */
    uint64_t replays;   /* control frames that came again, or too late to tell */
    uint64_t
        copied_bytes[4]; /* sent, of payload that was copied into its packet (pkt_made), by class */
    uint16_t epoch;     /* of what is sent now */
    uint64_t srtt_ns, rtt_min_ns, rtt_p50_ns; /* from samples without ambiguity (Karn) */
    uint32_t in_flight_packets;
    uint64_t rate_byte_per_s, path_rtt_ns; /* of the path, as they are estimated now; 0: not known */
    uint32_t mtu_bytes;                    /* link_mtu */
    uint64_t mtu_probes; /* sent */
    uint64_t mtu_falls;  /* times the path's turned out to have become less */
    uint64_t cut;        /* packets sent in pieces, for the path had become too narrow for them */
};

/* Packets that were lost, as far as is known now: it may fall as the peer says what it had. */
static inline uint64_t link_lost_packets(const struct link_stats *s)
{
    return s->retransmits > s->spurious ? s->retransmits - s->spurious : 0;
}

/* Payload that was copied into its packets, of all classes. */
static inline uint64_t link_copied_bytes(const struct link_stats *s)
{
    return s->copied_bytes[WIRE_CONTROL] + s->copied_bytes[WIRE_DECODE] +
           s->copied_bytes[WIRE_PREFILL] + s->copied_bytes[WIRE_REPLAY];
}

/* A delivered message: packets in fragment order; link_message_payload() skips the link's prefix. */
struct link_message {
    uint32_t session, message;
    enum wire_class cls;
    bool is_reply;
    uint32_t reply_to;
    uint16_t n_fragments;
    uint32_t n_packets;   /* that came for it: more than fragments where some came in pieces */
    struct pkt **pkts;    /* owned by the message: link_message_free */
};

int link_open(const struct link_params *p, uint64_t now_ns, struct link **out);
void link_close(struct link *l); /* drops every held reference */

/*
 * Bytes of the link's own before the caller's payload, in the first fragment of a message only: the
 * session's message before this one (u32), and in a reply the message answered (u32) and how long
 * it was held (u32 ns). The caller writes its bytes at data + WIRE_PAYLOAD_AT + this.
 */
#define LINK_PREFIX_BYTES       4u
#define LINK_REPLY_PREFIX_BYTES 12u
static inline uint32_t link_payload_offset(bool is_reply, uint32_t fragment)
{
    if (fragment)
        return 0;
    return is_reply ? LINK_REPLY_PREFIX_BYTES : LINK_PREFIX_BYTES;
}

/*
 * Queue one message of 1..LINK_FRAGMENTS_MAX packets. payload_bytes[i] is what the caller wrote into
 * pkts[i] (without the link's prefix). reply_to: the message answered, or -1. Takes over the
 * caller's references in all cases.
 * Returns the message number > 0, -EINVAL, -ENOMEM, -ENOBUFS (LINK_MESSAGES_MAX unacknowledged),
 * -ENOTCONN (a responder that knows no peer yet), -EPIPE (link dead, closing, or out of numbers).
 */
int64_t link_send(struct link *l, uint32_t session, enum wire_class cls, int64_t reply_to,
                  struct pkt **pkts, const uint16_t *payload_bytes, uint16_t n);

/* Feed one received packet; takes over the reference. Bad frames, strangers' frames and duplicates
 * are counted and dropped. 0, or -EBADMSG for a bad frame (informative). */
int link_input(struct link *l, struct pkt *p, uint64_t now_ns);

/* Next complete message, or false. Decode class first, then in order of completion; order within a
 * session is the order of sending. */
bool link_recv(struct link *l, struct link_message *m);
void link_message_free(struct link_message *m);
const uint8_t *link_message_payload(const struct link_message *m, uint16_t fragment, size_t *len);
/* Of a reply: how long the peer had what it answers, as it says; UINT32_MAX: it does not. */
uint32_t link_message_held_ns(const struct link_message *m);

/* Packets to transmit now, decode class first (what waits long has its turn): up to n, with a
 * reference each for the caller, who hands them to port_tx and unrefs those taken. The pool, for
 * control frames, has packets of at least 600 bytes, and of the port's MTU where the path's is
 * looked for. What the port refused is given back in order with link_output_refused (takes the
 * reference). */
int link_output(struct link *l, struct pkt **out, int n, struct pkt_pool *pool, uint64_t now_ns);
void link_output_refused(struct link *l, struct pkt *p, uint64_t now_ns);

/* Let time pass: retransmissions, delayed acknowledgements, pings, death. Call it after link_input
 * and before link_output. Silence counts only while the link is called: time the owner was away
 * (longer than ping_interval_ns between two calls, idle_ping_ns while idle) does not. *deadline_ns
 * (may be NULL): when to call again at the latest (UINT64_MAX: never), unless link_output sends
 * something meanwhile: then link_deadline(). 0, or -EPIPE when the peer is dead, closed, or reset. */
int link_tick(struct link *l, uint64_t now_ns, uint64_t *deadline_ns);
uint64_t link_deadline(const struct link *l);

/* While idle nothing is under way that would need the peer: silence is asked about and death as
 * idle_ping_ns and idle_dead_after_ns say. */
void link_set_idle(struct link *l, bool idle);

/* The handshake found the peer there, and the cookie that it returned proves the address. */
void link_met_at(struct link *l, const struct wire_path *path);
/* Where the peer is, as frames to it are addressed. */
const struct wire_path *link_path(const struct link *l);

/* Why link_tick said -EPIPE, in a few words; NULL while the link lives. */
const char *link_why_dead(const struct link *l);
/* A valid frame of this connection was received. */
bool link_heard(const struct link *l);
/* How long ago, at the time of the latest call; or since it was opened. */
uint64_t link_silent_ns(const struct link *l);
/*
 * Another peer wants our place. Where the port does not tell that a peer is gone (idle_dead_after_ns is
 * not 0) ours is asked whether it is still there: true while that is open; then either link_tick says
 * -EPIPE soon, or link_contested turns false, for it was heard. False: it counts as there.
 */
bool link_contest(struct link *l);
/* The peer seems to have forgotten us, but whoever says so has proved nothing: as above, on any port. */
void link_doubt(struct link *l, uint64_t now_ns);
bool link_contested(const struct link *l);
/* The peer has proved that it does not know this connection any more: link_tick says -EPIPE. */
void link_forgotten(struct link *l);
/* Whether a frame of ours that may be on its way has this tag: DATA not acknowledged, or the last PING.
 * With keys who says that tag has seen the frame. */
bool link_sent_tag(const struct link *l, const uint8_t tag[WIRE_TAG_BYTES]);
/* Something for link_output to send. */
bool link_has_output(const struct link *l);

/* Packets the window still allows: for back-pressure. */
uint32_t link_window_left(const struct link *l);
/* Packets of messages given to link_send that are not acknowledged yet: held here. */
uint32_t link_unacknowledged(const struct link *l);
/* Another rx_budget_packets: several links share a pool, and their number has changed. What is held
 * beyond it stays. */
void link_set_budget(struct link *l, uint32_t rx_packets);
/*
 * Longest packet, with its IP header, that the path is known to take now. Messages should be made of
 * packets no longer; longer ones, as are made before it falls, go in pieces. The first
 * message must not be: without keys nobody knows its pieces. UINT32_MAX: any.
 */
uint32_t link_mtu(const struct link *l);
/* It will not change soon: the port's, or what the path was found to take. */
bool link_mtu_settled(const struct link *l);
/* Everything sent is acknowledged. */
bool link_idle(const struct link *l);
/* Say goodbye: queues a CLOSE frame; the link then reports -EPIPE. */
void link_shutdown(struct link *l);
void link_stats(const struct link *l, struct link_stats *s);
/* What was counted on another link, too; times, rates and what is in flight stay. */
void link_stats_add(struct link_stats *to, const struct link_stats *s);

#endif
