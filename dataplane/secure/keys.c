/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/secure/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "dataplane/link/bytes.h"

#define SPENT_PACKETS (1ull << 23)
#define SPENT_BYTES   (1ull << 36)

/* One epoch of one direction. */
struct epoch {
    struct aead *aead; /* NULL: none */
    uint8_t salt[AEAD_NONCE_BYTES];
};

/* One direction's chain of secrets. */
struct chain {
    uint8_t secret[KEYS_SECRET_BYTES]; /* of epoch `next` */
    uint32_t next;
};

struct keys {
    struct keys_params p;
    bool ready;
    struct chain tx_chain, rx_chain;
    struct epoch tx;
    uint16_t tx_epoch;
    uint64_t packets, bytes; /* sealed with tx */
    struct epoch rx[3];      /* of the epoch before, the current, the next; by epoch % 3 */
    uint16_t rx_epoch;
};

/* --- derivation ----------------------------------------------------------------------------------
 */

static int expand(const uint8_t secret[KEYS_SECRET_BYTES], const char *label, uint8_t *out,
                  size_t bytes)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *c = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    char digest[] = "SHA256";
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, good;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, KEYS_SECRET_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)label, strlen(label)),
        OSSL_PARAM_construct_end(),
    };

    good = c && EVP_KDF_derive(c, out, bytes, params) == 1;
    EVP_KDF_CTX_free(c);
    EVP_KDF_free(kdf);
    return good ? 0 : -ENOMEM;
}

/* The chain's next epoch. Nothing has changed when it fails. */
static int derive(struct keys *k, struct chain *chain, struct epoch *out)
{
    uint8_t key[AEAD_KEY_BYTES], next[KEYS_SECRET_BYTES];
    struct epoch e = {0};
    int rc;

    if (chain->next > UINT16_MAX)
        return -EOVERFLOW;
    rc = expand(chain->secret, "isthmus key", key, sizeof key);
    if (!rc)
        rc = expand(chain->secret, "isthmus salt", e.salt, sizeof e.salt);
    if (!rc)
        rc = expand(chain->secret, "isthmus next", next, sizeof next);
    if (!rc)
        rc = aead_open(k->p.aead, key, &e.aead);
    if (!rc) {
        memcpy(chain->secret, next, sizeof next);
        chain->next++;
        aead_close(out->aead);
        *out = e;
    }
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(next, sizeof next);
    return rc;
}

/* --- life ----------------------------------------------------------------------------------------
 */

int keys_open(const struct keys_params *p, struct keys **out)
{
    struct keys *k = OPENSSL_secure_zalloc(sizeof *k);

    if (!k) /* more links than the secure heap has room for */
        k = OPENSSL_zalloc(sizeof *k);
    if (!k)
        return -ENOMEM;
    k->p = *p;
    k->p.spent_packets = p->spent_packets ? p->spent_packets : SPENT_PACKETS;
    k->p.spent_bytes = p->spent_bytes ? p->spent_bytes : SPENT_BYTES;
    k->p.worn_packets = p->worn_packets ? p->worn_packets : k->p.spent_packets / 2;
    k->p.worn_bytes = p->worn_bytes ? p->worn_bytes : k->p.spent_bytes / 2;
    *out = k;
    return 0;
}

void keys_close(struct keys *k)
{
    if (!k)
        return;
    aead_close(k->tx.aead);
    for (unsigned i = 0; i < 3; i++)
        aead_close(k->rx[i].aead);
    OPENSSL_secure_clear_free(k, sizeof *k);
}

int keys_set(struct keys *k, const uint8_t initiator[KEYS_SECRET_BYTES],
             const uint8_t responder[KEYS_SECRET_BYTES])
{
    int rc;

    if (k->ready)
        return -EALREADY;
    memcpy(k->tx_chain.secret, k->p.initiator ? initiator : responder, KEYS_SECRET_BYTES);
    memcpy(k->rx_chain.secret, k->p.initiator ? responder : initiator, KEYS_SECRET_BYTES);
    k->tx_chain.next = k->rx_chain.next = 0;
    rc = derive(k, &k->tx_chain, &k->tx);
    for (unsigned i = 0; i < 2 && !rc; i++)
        rc = derive(k, &k->rx_chain, &k->rx[i]);
    k->ready = !rc;
    return rc;
}

bool keys_ready(const struct keys *k)
{
    return k->ready;
}

/* --- sending -------------------------------------------------------------------------------------
 */

uint16_t keys_epoch(const struct keys *k)
{
    return k->tx_epoch;
}

bool keys_worn(const struct keys *k)
{
    return k->packets >= k->p.worn_packets || k->bytes >= k->p.worn_bytes;
}

bool keys_spent(const struct keys *k)
{
    return k->packets >= k->p.spent_packets || k->bytes >= k->p.spent_bytes;
}

int keys_advance(struct keys *k)
{
    int rc = derive(k, &k->tx_chain, &k->tx);

    if (rc)
        return rc;
    k->tx_epoch++;
    k->packets = k->bytes = 0;
    return 0;
}

static void make_nonce(const struct epoch *e, const struct keys_place *at,
                       uint8_t nonce[AEAD_NONCE_BYTES])
{
    nonce[0] = at->type;
    nonce[1] = 0;
    put_be16(nonce + 2, at->epoch);
    put_be32(nonce + 4, at->message);
    put_be32(nonce + 8, at->fragment);
    for (unsigned i = 0; i < AEAD_NONCE_BYTES; i++)
        nonce[i] ^= e->salt[i];
}

int keys_seal(struct keys *k, const struct keys_place *at, const uint8_t *aad, size_t aad_bytes,
              uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES])
{
    uint8_t nonce[AEAD_NONCE_BYTES];

    if (!k->ready || at->epoch != k->tx_epoch || keys_spent(k))
        return -EPERM;
    k->packets++;
    k->bytes += aad_bytes + bytes;
    make_nonce(&k->tx, at, nonce);
    return aead_seal(k->tx.aead, nonce, aad, aad_bytes, text, bytes, tag);
}

/* --- receiving -----------------------------------------------------------------------------------
 */

/* A packet of the next epoch was true: its key becomes the current one. */
static void follow(struct keys *k)
{
    struct epoch *oldest = &k->rx[(k->rx_epoch + 2u) % 3];

    k->rx_epoch++;
    aead_close(oldest->aead);
    *oldest = (struct epoch){0};
    (void)derive(k, &k->rx_chain, oldest); /* for want of memory: again when it is needed */
}

int keys_unseal(struct keys *k, const struct keys_place *at, const uint8_t *aad, size_t aad_bytes,
                uint8_t *text, size_t bytes, const uint8_t tag[AEAD_TAG_BYTES])
{
    uint8_t nonce[AEAD_NONCE_BYTES];
    struct epoch *e;
    int rc;

    if (!k->ready || at->epoch + 1u < k->rx_epoch || at->epoch > k->rx_epoch + 1u)
        return -EBADMSG;
    e = &k->rx[at->epoch % 3];
    if (!e->aead && (at->epoch != k->rx_epoch + 1u || derive(k, &k->rx_chain, e)))
        return -EBADMSG;
    make_nonce(e, at, nonce);
    rc = aead_unseal(e->aead, nonce, aad, aad_bytes, text, bytes, tag);
    if (!rc && at->epoch == k->rx_epoch + 1u)
        follow(k);
    return rc;
}
