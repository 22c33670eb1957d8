/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/ledger.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "dataplane/secure/aead.h"

int __real_aead_open(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES], struct aead **out);
int __real_aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
                     size_t aad_bytes, uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES]);
int __wrap_aead_open(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES], struct aead **out);
int __wrap_aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
                     size_t aad_bytes, uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES]);

struct pair {
    uint8_t key[AEAD_KEY_BYTES], nonce[AEAD_NONCE_BYTES];
};

struct entry {
    struct pair pair;
    bool used;
    XXH128_hash_t sealed; /* of associated data and text */
};

/* Whose key an AEAD is: the latest that was opened at this address. */
struct owner {
    struct aead *aead;
    uint8_t key[AEAD_KEY_BYTES];
};

static struct entry *entries;
static size_t n_entries, room;
static struct owner *owners;
static size_t n_owners;
static uint64_t seals, repeats;

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static struct entry *slot(struct entry *in, size_t size, const struct pair *p)
{
    size_t i = (size_t)XXH3_64bits(p, sizeof *p) & (size - 1);

    while (in[i].used && memcmp(&in[i].pair, p, sizeof *p))
        i = (i + 1) & (size - 1);
    return &in[i];
}

static void grow(void)
{
    size_t size = room ? 2 * room : 1024;
    struct entry *larger = must(calloc(size, sizeof *larger));

    for (size_t i = 0; i < room; i++) {
        if (entries[i].used)
            *slot(larger, size, &entries[i].pair) = entries[i];
    }
    free(entries);
    entries = larger;
    room = size;
}

void ledger_clear(void)
{
    free(entries);
    entries = NULL;
    n_entries = room = 0;
}

uint64_t ledger_seals(void)
{
    return seals;
}

uint64_t ledger_repeats(void)
{
    return repeats;
}

int __wrap_aead_open(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES], struct aead **out)
{
    int rc = __real_aead_open(kind, key, out);
    size_t i;

    if (rc)
        return rc;
    for (i = 0; i < n_owners && owners[i].aead != *out; i++)
        ;
    if (i == n_owners)
        owners = must(realloc(owners, ++n_owners * sizeof *owners));
    owners[i].aead = *out;
    memcpy(owners[i].key, key, AEAD_KEY_BYTES);
    return 0;
}

int __wrap_aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
                     size_t aad_bytes, uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES])
{
    uint8_t all[65536];
    struct pair p;
    struct entry *e;
    XXH128_hash_t hash;
    size_t i;

    for (i = 0; i < n_owners && owners[i].aead != a; i++)
        ;
    if (i == n_owners || aad_bytes + bytes > sizeof all)
        abort();
    memcpy(p.key, owners[i].key, sizeof p.key);
    memcpy(p.nonce, nonce, sizeof p.nonce);
    memcpy(all, aad, aad_bytes);
    memcpy(all + aad_bytes, text, bytes);
    hash = XXH3_128bits(all, aad_bytes + bytes);

    if (2 * n_entries >= room)
        grow();
    e = slot(entries, room, &p);
    seals++;
    if (!e->used) {
        *e = (struct entry){.pair = p, .used = true, .sealed = hash};
        n_entries++;
    } else {
        repeats++;
        if (!XXH128_isEqual(e->sealed, hash)) {
            fprintf(stderr, "FAILED: one nonce of one key sealed two different byte strings\n");
            abort();
        }
    }
    return __real_aead_seal(a, nonce, aad, aad_bytes, text, bytes, tag);
}
