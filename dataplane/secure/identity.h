/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who an edge or a cloud is: a P-256 key of its own. Others know it by its fingerprint, the SHA-256
 * of its public key (SubjectPublicKeyInfo, DER), written "sha256:" and 64 hex digits. There are no
 * authorities and no dates: the certificates of the handshake are made of the key on the spot.
 */
#ifndef ISTHMUS_DATAPLANE_SECURE_IDENTITY_H
#define ISTHMUS_DATAPLANE_SECURE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IDENTITY_ERR     512
#define FINGERPRINT_TEXT 72 /* with the zero */

struct fingerprint {
    uint8_t bytes[32];
};

bool fingerprint_equal(const struct fingerprint *a, const struct fingerprint *b);
const char *fingerprint_format(const struct fingerprint *f, char text[FINGERPRINT_TEXT]);
/* "sha256:HEX" or "HEX". 0 or -EINVAL. */
int fingerprint_parse(const char *text, size_t len, struct fingerprint *out);

struct identity;

/* A new key. 0 or -EIO (OpenSSL can't). */
int identity_new(struct identity **out);
void identity_close(struct identity *id); /* wipes the key */
const struct fingerprint *identity_fingerprint(const struct identity *id);

/*
 * The private key as PEM (PKCS #8). Writing refuses to overwrite and makes the file readable by its
 * owner only; reading refuses a file that others can read. path "fd:N" reads an open file and
 * closes it, but for the standard streams: its text shall not outlast the reading. err:
 * IDENTITY_ERR bytes, one line that names the file and the mend.
 * 0, -EINVAL (no such key in it, or others can read it), -EEXIST, -errno of the file.
 */
int identity_write(const struct identity *id, const char *path, char *err);
int identity_read(const char *path, struct identity **out, char *err);
/* Into an unnamed file that a child process can inherit: its descriptor, close-on-exec, or -errno.
 */
int identity_to_fd(const struct identity *id);

/*
 * Keep this process's memory out of core dumps and other processes' reach, and make OpenSSL's
 * secure heap (locked where the limit allows, never dumped) for private keys. Once, before any key.
 * Under a sanitizer, which must be able to look at itself, only the heap.
 */
void secure_memory_open(void);

/* For the handshake: OpenSSL's X509 * and EVP_PKEY *, borrowed. */
struct x509_st *identity_certificate(const struct identity *id);
struct evp_pkey_st *identity_key(const struct identity *id);
/* ECDSA with SHA-256, DER: its length, or 0 (OpenSSL can't). */
#define IDENTITY_SIGNATURE_MAX 72u
size_t identity_sign(const struct identity *id, const uint8_t *text, size_t n,
                     uint8_t signature[IDENTITY_SIGNATURE_MAX]);
/* Whether the owner of this key signed the text. */
bool identity_signed(struct evp_pkey_st *key, const uint8_t *text, size_t n,
                     const uint8_t *signature, size_t n_signature);
/* Of a peer's certificate. 0 or -EINVAL. */
int fingerprint_of_certificate(struct x509_st *certificate, struct fingerprint *out);

#endif
