/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame, version 2: Ethernet 14 / IPv4 20 / UDP 8 / header 24 / payload / tag 16, big-endian.
 * docs/wire.md has the byte table. With keys the payload is encrypted in place and the tag is
 * AES-128-GCM's over header and payload. Without, between processes of one host, the tag is XXH3-128:
 * it finds damage and foreign frames, and stops no attacker.
 */
#ifndef ISTHMUS_DATAPLANE_WIRE_H
#define ISTHMUS_DATAPLANE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/outer.h"
#include "dataplane/pkt.h"
#include "dataplane/secure/keys.h"

#define WIRE_VERSION       4u
#define WIRE_L2L4_BYTES    OUTER_BYTES
#define WIRE_HEADER_BYTES  24u
#define WIRE_TAG_BYTES     16u
#define WIRE_PAYLOAD_AT    (WIRE_L2L4_BYTES + WIRE_HEADER_BYTES)
#define WIRE_OVERHEAD      (WIRE_PAYLOAD_AT + WIRE_TAG_BYTES) /* 82 */

enum wire_type {
    WIRE_DATA = 0,  /* a fragment of a message */
    WIRE_ACK = 1,   /* payload: link.h's acknowledgement list */
    WIRE_PING = 2,  /* asks for an ACK: liveness, RTT */
    WIRE_RESET = 3, /* the sender knows no such connection or epoch */
    WIRE_CLOSE = 4, /* graceful end of the connection */
    WIRE_HANDSHAKE = 5, /* a packet of the handshake, which makes the keys: never sealed with them */
    WIRE_CHALLENGE = 6, /* payload: 16 bytes, to a new address of the peer */
    WIRE_ANSWER = 7,    /* payload: those, from there */
    WIRE_PROBE = 8,     /* padded to a length: does a packet of it go through? */
    WIRE_PROBED = 9,    /* payload: the number of a PROBE that came */
    WIRE_PIECE = 10,    /* payload: a part of a DATA frame that is too long for the path */
};

enum wire_class { WIRE_DECODE = 0, WIRE_PREFILL = 1, WIRE_REPLAY = 2, WIRE_CONTROL = 3 };

#define WIRE_FLAG_REPLY 0x01u /* the message answers another, which it so acknowledges: link.h */
#define WIRE_FLAG_HELLO 0x02u /* DATA sent before anything was heard from the peer */
#define WIRE_FLAG_INITIATOR 0x04u /* from the side that opened the connection */

struct wire_header {
    uint8_t version, type, flags;
    uint32_t connection;
    uint16_t epoch;
    uint32_t message;
    uint16_t fragment, n_fragments;
    uint32_t session;
    uint8_t hop;      /* stage boundary in a chain: 0 edge->first cloud */
    uint8_t cls;      /* enum wire_class */
    uint16_t payload_bytes;
};

extern const struct wire_path wire_path_edge, wire_path_cloud; /* for memif and loop */

/* Payload bytes that fit a frame on a port of this MTU. */
static inline uint32_t wire_payload_max(uint32_t mtu_bytes)
{
    return mtu_bytes - (WIRE_OVERHEAD - 14u);
}

/*
 * Seal in place: the payload h->payload_bytes long stands at p->data + WIRE_PAYLOAD_AT; write all
 * headers before it and the tag behind it, encrypt it where keys are given (h->epoch is then
 * keys_epoch's), and set p->len. The payload is not moved. A frame is sealed once: what is sent again
 * is the same bytes. -ENOSPC when the room is too small, else as keys_seal.
 */
int wire_seal(struct keys *keys, struct pkt *p, const struct wire_path *path,
              const struct wire_header *h);

/*
 * Check a received frame (EtherType, IPv4 header length, protocol, lengths, version, type, class,
 * fragment < n_fragments, payload length, tag) and give its header and payload (inside `frame`), in
 * which it is decrypted in place where keys are given: a frame is opened once. Trailing Ethernet
 * padding is allowed. 0 or -EBADMSG (what the frame holds then is of no use); touches nothing past
 * len.
 */
int wire_open(struct keys *keys, uint8_t *frame, size_t len, struct wire_header *h,
              const uint8_t **payload);

/* The header of what may be a frame: nothing in it is proved. 0 or -EBADMSG. */
int wire_peek(const uint8_t *frame, size_t len, struct wire_header *h);

/* Whether a received frame, if it is one, is of the handshake: so whom it is for. */
static inline bool wire_is_handshake(const struct pkt *p)
{
    return p->len > WIRE_PAYLOAD_AT && (p->data[WIRE_L2L4_BYTES] & 15) == WIRE_HANDSHAKE;
}

#endif
