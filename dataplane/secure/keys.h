/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys: what the frames of one connection are sealed with. Each direction has a secret of its own;
 * from it come, epoch by epoch, an AES-128-GCM key, a 96-bit salt, and the next epoch's secret
 * (HKDF-Expand of RFC 5869 with SHA-256; the old secret is wiped, so that a key says nothing about
 * those before it).
 *
 *   nonce = salt XOR (type 1 | 0 1 | epoch 2 | message 4 | fragment 4, big-endian)
 *
 * A sender goes to the next epoch after a number of packets or bytes; a receiver keeps the keys of
 * the epoch before, the current and the next one, and follows when a packet of the next one proves
 * true. Nothing is derived for a packet that does not. Not thread safe.
 */
#ifndef ISTHMUS_DATAPLANE_SECURE_KEYS_H
#define ISTHMUS_DATAPLANE_SECURE_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/secure/aead.h"

#define KEYS_SECRET_BYTES 32u /* of one direction */

struct keys;

struct keys_params {
    bool initiator; /* which of the two directions is ours */
    enum aead_kind aead;
    /* What one key seals before the next is due (0: 2^22 packets, 2^35 bytes), and at most (0: 2^23
     * packets, RFC 9001, 6.6, and 2^36 bytes, 2^32 blocks). Tests set less. */
    uint64_t worn_packets, worn_bytes, spent_packets, spent_bytes;
};

/* Keys to come: until keys_set nothing can be sealed or unsealed. 0 or -ENOMEM. */
int keys_open(const struct keys_params *p, struct keys **out);
void keys_close(struct keys *k);

/* The two directions' first secrets, of epoch 0. The caller wipes its copies. 0, -EALREADY,
 * -ENOMEM. */
int keys_set(struct keys *k, const uint8_t initiator[KEYS_SECRET_BYTES],
             const uint8_t responder[KEYS_SECRET_BYTES]);
bool keys_ready(const struct keys *k);

/* --- sending --- */

/* The epoch that keys_seal seals in. */
uint16_t keys_epoch(const struct keys *k);
/* The current key has done its part: keys_advance as soon as nothing of the epoch before this one
 * is to be sent again, for the receiver then forgets that one. */
bool keys_worn(const struct keys *k);
/* The current key must not be used any more. A sender that waits too long with keys_advance, or is
 * out of epochs, ends up here. */
bool keys_spent(const struct keys *k);
/* 0, -EOVERFLOW (no more epochs), -ENOMEM. */
int keys_advance(struct keys *k);

/* What makes a packet's nonce. Never the same twice in one direction, but to unseal. */
struct keys_place {
    uint8_t type;
    uint16_t epoch;
    uint32_t message;
    uint16_t fragment;
};

/* As aead_seal. -EPERM: not ready, spent, or the place is not of the current epoch. */
int keys_seal(struct keys *k, const struct keys_place *at, const uint8_t *aad, size_t aad_bytes,
              uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES]);
/* As aead_unseal. -EBADMSG also for an epoch whose key is not at hand. */
int keys_unseal(struct keys *k, const struct keys_place *at, const uint8_t *aad, size_t aad_bytes,
                uint8_t *text, size_t bytes, const uint8_t tag[AEAD_TAG_BYTES]);

#endif
