/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handshake: proves who the peer is and makes the keys of a connection, over the same packets. DTLS
 * 1.2 (RFC 6347) by OpenSSL, used as DTLS-SRTP does (RFC 5764): both sides show P-256 certificates
 * that are pinned by fingerprint, and of the session only exported secrets are used.
 *
 * A pure state machine like the link: packets and time go in, packets come out. DTLS has timers of
 * its own that read the wall clock; so its packets travel here as numbered HANDSHAKE frames that are
 * acknowledged, sent again by our time and handed to it in order, and those timers are an hour long:
 * only a step of that clock makes one fire, which costs a flight more.
 *
 * A responder keeps nothing for an initiator that has not shown, by a cookie, that it gets what is
 * sent to its address; and then half_open_max at most. docs/wire.md has the frames.
 */
#ifndef ISTHMUS_DATAPLANE_SECURE_HANDSHAKE_H
#define ISTHMUS_DATAPLANE_SECURE_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/pkt.h"
#include "dataplane/secure/identity.h"
#include "dataplane/secure/keys.h"
#include "dataplane/wire.h"

struct handshake;

struct handshake_params {
    const struct identity *identity; /* ours; borrowed */
    /* Whether this peer is one of those we speak to. */
    bool (*admits)(void *arg, const struct fingerprint *peer);
    void *arg;
    bool initiator;
    uint32_t connection;          /* initiator: of the link, nonzero */
    const struct wire_path *path; /* initiator: where the responder is; copied */
    uint8_t hop;
    uint32_t payload_max_bytes;   /* of a frame; at least 300 */
    uint32_t half_open_max;       /* responder; 0: 64 */
    uint64_t give_up_ns;          /* silent for that long: a responder forgets an unfinished one, at
                                   * the latest at four times that age; an initiator begins anew;
                                   * 0: 5 s */
};

/* A peer that proved to be who it is. Wipe it after use (handshake_wipe). */
struct handshake_result {
    uint32_t connection;
    struct fingerprint peer;
    struct wire_path path;                            /* where it is */
    uint8_t initiator[KEYS_SECRET_BYTES], responder[KEYS_SECRET_BYTES]; /* for keys_set */
};

struct handshake_stats {
    uint64_t finished, failed, refused; /* refused: of failed, those whose peer is not admitted */
    uint64_t verify_requests;           /* cookies sent: nothing is kept for these */
    uint64_t crowded;                   /* not begun, for too many were half open or knocked at once */
    uint32_t half_open;
};

/* 0, -EINVAL, -ENOMEM. */
int handshake_open(const struct handshake_params *p, uint64_t now_ns, struct handshake **out);
void handshake_close(struct handshake *h);

/* Feed a received frame of type HANDSHAKE; takes over the reference. What is not for us is dropped. */
void handshake_input(struct handshake *h, struct pkt *p, uint64_t now_ns);

/* The next finished one, or false. A responder has as many as initiators, an initiator one. */
bool handshake_take(struct handshake *h, struct handshake_result *r);
void handshake_wipe(struct handshake_result *r);

/* A true frame of the connection's new keys was heard: the peer has all it needs. Else what it may
 * lack is sent again until it is acknowledged, or give_up_ns have passed. */
void handshake_confirm(struct handshake *h, uint32_t connection);

/* "I know no such connection": the tag of the frame so answered, and the signature that the responder
 * knew none; 0 bytes: unsigned. */
struct handshake_denial {
    uint8_t tag[WIRE_TAG_BYTES], signature[IDENTITY_SIGNATURE_MAX];
    uint16_t signature_bytes;
};

/*
 * A responder that lost its keys, in a restart, says so: handshake_deny answers a frame of a connection
 * that is unknown. It does so a hundred times a second at most; where more come, a frame of each host
 * waits for its turn, and handshake_output sends the answer. handshake_denied tells its initiator,
 * once, that it came. By itself that proves nothing. But where the tag is that of a frame that the
 * initiator sealed with the connection's keys, and handshake_denial_proved, the peer had those keys and
 * has lost them: if its identity is one process's. Of two that share one, each denies what the other
 * has.
 */
void handshake_deny(struct handshake *h, const struct pkt *frame);
bool handshake_denied(struct handshake *h, struct handshake_denial *d);
/* Whether it is worth looking at: signed, and not within 10 ms of one that proved nothing. */
bool handshake_denial_counts(const struct handshake *h, const struct handshake_denial *d);
/* Whether the peer that was met signed it, one that counts; `sent`: its tag is that of such a frame. */
bool handshake_denial_proved(struct handshake *h, const struct handshake_denial *d, bool sent);

/* Let time pass. *deadline_ns: when to call again at the latest; UINT64_MAX: never. */
void handshake_tick(struct handshake *h, uint64_t now_ns, uint64_t *deadline_ns);
uint64_t handshake_deadline(const struct handshake *h);

/* Packets to transmit now: up to n, with the reference. What the port refuses is unrefed: it is sent
 * again in time. */
int handshake_output(struct handshake *h, struct pkt **out, int n, struct pkt_pool *pool,
                     uint64_t now_ns);
bool handshake_has_output(const struct handshake *h);

/* An initiator: why it gave up, in a few words; NULL while it tries. An unproved refusal may be
 * anybody's, so it tries three times. */
const char *handshake_error(const struct handshake *h);
/* Peers not admitted so far; if any, who was the last. */
uint64_t handshake_refused(const struct handshake *h, struct fingerprint *last);
void handshake_stats(const struct handshake *h, struct handshake_stats *s);

#endif
