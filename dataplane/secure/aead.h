/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AES-128-GCM in place: intel-ipsec-mb where it is there at run time, else OpenSSL's EVP. Both give
 * the same bytes. NIST SP 800-38D; nonces are 96 bits, tags 128.
 *
 * A key belongs to one thread at a time. Its memory comes from OpenSSL's secure heap where
 * secure_memory_open() made one, and is wiped when it is closed.
 */
#ifndef ISTHMUS_DATAPLANE_SECURE_AEAD_H
#define ISTHMUS_DATAPLANE_SECURE_AEAD_H

#include <stddef.h>
#include <stdint.h>

#define AEAD_KEY_BYTES   16u
#define AEAD_NONCE_BYTES 12u
#define AEAD_TAG_BYTES   16u

enum aead_kind { AEAD_AUTO, AEAD_IPSEC_MB, AEAD_EVP };

struct aead; /* one key */

/* 0, -ENOTSUP (AEAD_IPSEC_MB where that is not to be had), -ENOMEM. */
int aead_open(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES], struct aead **out);
void aead_close(struct aead *a);

/* What AEAD_AUTO is here, for people: "intel-ipsec-mb 1.3.0" or "OpenSSL EVP". */
const char *aead_implementation(void);

/*
 * Encrypt `bytes` bytes of text in place and write the tag, over the associated data and the
 * ciphertext. The caller never gives a nonce twice. tag may lie right behind text. 0, or -EIO when
 * the library fails (then nothing may be sent).
 */
int aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
              size_t aad_bytes, uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES]);

/* The reverse; tags are compared in constant time. 0, or -EBADMSG: then the text is garbage and
 * must not be looked at. */
int aead_unseal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
                size_t aad_bytes, uint8_t *text, size_t bytes, const uint8_t tag[AEAD_TAG_BYTES]);

#endif
