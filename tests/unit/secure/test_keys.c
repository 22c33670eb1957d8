/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "dataplane/secure/keys.h"

static const uint8_t secret_i[KEYS_SECRET_BYTES] = {1, 2, 3}, secret_r[KEYS_SECRET_BYTES] = {9};

struct frame {
    struct keys_place at;
    uint8_t aad[24], text[20], tag[AEAD_TAG_BYTES];
};

static struct keys *half(bool initiator, uint64_t spent_packets, uint64_t spent_bytes)
{
    struct keys_params p = {
        .initiator = initiator, .spent_packets = spent_packets, .spent_bytes = spent_bytes};
    struct keys *k;

    assert_int_equal(keys_open(&p, &k), 0);
    assert_false(keys_ready(k));
    assert_int_equal(keys_set(k, secret_i, secret_r), 0);
    assert_true(keys_ready(k));
    return k;
}

static struct frame seal(struct keys *k, uint32_t message)
{
    struct frame f = {.at = {.epoch = keys_epoch(k), .message = message}};

    memset(f.text, (int)message, sizeof f.text);
    assert_int_equal(keys_seal(k, &f.at, f.aad, sizeof f.aad, f.text, sizeof f.text, f.tag), 0);
    return f;
}

static int unseal(struct keys *k, struct frame f)
{
    int rc = keys_unseal(k, &f.at, f.aad, sizeof f.aad, f.text, sizeof f.text, f.tag);

    if (!rc)
        assert_int_equal(f.text[7], (uint8_t)f.at.message);
    return rc;
}

static void test_both_ways(void **state)
{
    struct keys *i = half(true, 0, 0), *r = half(false, 0, 0);
    struct frame up = seal(i, 5), down = seal(r, 5), moved;

    assert_int_equal(unseal(r, up), 0);
    assert_int_equal(unseal(i, down), 0);
    assert_memory_not_equal(up.text, down.text, sizeof up.text);
    assert_int_equal(unseal(i, up), -EBADMSG); /* reflected */
    assert_int_equal(unseal(r, down), -EBADMSG);
    moved = up;
    moved.at.message++;
    assert_int_equal(unseal(r, moved), -EBADMSG);
    moved = up;
    moved.at.fragment++;
    assert_int_equal(unseal(r, moved), -EBADMSG);
    moved = up;
    moved.at.type++;
    assert_int_equal(unseal(r, moved), -EBADMSG);
    keys_close(i);
    keys_close(r);
}

static void test_not_ready(void **state)
{
    struct keys_params p = {.initiator = true};
    struct frame f = {.at = {.message = 1}};
    struct keys *k;

    assert_int_equal(keys_open(&p, &k), 0);
    assert_int_equal(keys_seal(k, &f.at, f.aad, sizeof f.aad, f.text, sizeof f.text, f.tag),
                     -EPERM);
    assert_int_equal(unseal(k, f), -EBADMSG);
    assert_int_equal(keys_set(k, secret_i, secret_r), 0);
    assert_int_equal(keys_set(k, secret_i, secret_r), -EALREADY);
    f.at.epoch = 1; /* not the current one */
    assert_int_equal(keys_seal(k, &f.at, f.aad, sizeof f.aad, f.text, sizeof f.text, f.tag),
                     -EPERM);
    keys_close(k);
    keys_close(NULL);
}

/* The receiver follows, keeps one epoch behind, and is not moved by a forgery. */
static void test_epochs(void **state)
{
    struct keys *i = half(true, 0, 0), *r = half(false, 0, 0);
    struct frame f[6], forged;

    for (uint32_t e = 0; e < 6; e++) {
        f[e] = seal(i, e);
        assert_int_equal(f[e].at.epoch, e);
        assert_int_equal(keys_advance(i), 0);
    }
    assert_int_equal(unseal(r, f[2]), -EBADMSG); /* two ahead */
    forged = f[1];
    forged.tag[3] ^= 1;
    assert_int_equal(unseal(r, forged), -EBADMSG);
    for (uint32_t e = 0; e < 6; e++) {
        assert_int_equal(unseal(r, f[e]), 0);
        if (e > 0)
            assert_int_equal(unseal(r, f[e - 1]), 0); /* late */
        if (e > 1)
            assert_int_equal(unseal(r, f[e - 2]), -EBADMSG);
    }
    keys_close(i);
    keys_close(r);
}

static void test_limits(void **state)
{
    struct keys *k = half(true, 20, 0), *b = half(true, 0, 200);
    struct frame f = {.at = {.epoch = 0}};
    uint32_t n = 0;

    for (; !keys_worn(k); n++)
        (void)seal(k, n);
    assert_int_equal(n, 10);
    for (; !keys_spent(k); n++)
        (void)seal(k, n);
    assert_int_equal(n, 20);
    assert_int_equal(keys_seal(k, &f.at, f.aad, sizeof f.aad, f.text, sizeof f.text, f.tag),
                     -EPERM);
    assert_int_equal(keys_advance(k), 0);
    assert_false(keys_worn(k) || keys_spent(k));
    (void)seal(k, n);
    for (n = 0; !keys_worn(b); n++)
        (void)seal(b, n);
    assert_int_equal(n, 3); /* of 44 bytes */
    keys_close(k);
    keys_close(b);
}

/* 65,536 epochs and no more. */
static void test_last_epoch(void **state)
{
    struct keys_params p = {.initiator = true, .aead = AEAD_EVP, .spent_packets = 2};
    struct keys *k;
    struct frame f;

    assert_int_equal(keys_open(&p, &k), 0);
    assert_int_equal(keys_set(k, secret_i, secret_r), 0);
    for (uint32_t e = 0; e < 65535; e++)
        assert_int_equal(keys_advance(k), 0);
    f = seal(k, 1);
    assert_int_equal(f.at.epoch, 65535);
    assert_int_equal(keys_advance(k), -EOVERFLOW);
    (void)seal(k, 2);
    assert_true(keys_spent(k));
    keys_close(k);
}

/* HKDF-Expand by its definition: T(1) = HMAC(secret, label | 1). */
static void hkdf(const uint8_t secret[KEYS_SECRET_BYTES], const char *label, uint8_t out[32])
{
    uint8_t message[64];
    size_t n = strlen(label);

    memcpy(message, label, n);
    message[n] = 1;
    assert_non_null(HMAC(EVP_sha256(), secret, KEYS_SECRET_BYTES, message, n + 1, out, NULL));
}

/* The schedule is frozen: docs/wire.md. */
static void test_schedule(void **state)
{
    struct keys *k = half(true, 0, 0);
    uint8_t secret[32], key[32], salt[32];

    memcpy(secret, secret_i, sizeof secret);
    for (uint32_t e = 0; e < 3; e++) {
        struct frame f = seal(k, 0x01020304), g = {.at = f.at};
        uint8_t nonce[12] = {0, 0, 0, (uint8_t)e, 1, 2, 3, 4, 0, 0, 0, 0};
        struct aead *a;

        hkdf(secret, "isthmus key", key);
        hkdf(secret, "isthmus salt", salt);
        hkdf(secret, "isthmus next", secret);
        for (unsigned i = 0; i < 12; i++)
            nonce[i] ^= salt[i];
        assert_int_equal(aead_open(AEAD_EVP, key, &a), 0);
        memset(g.text, 4, sizeof g.text);
        assert_int_equal(aead_seal(a, nonce, g.aad, sizeof g.aad, g.text, sizeof g.text, g.tag), 0);
        assert_memory_equal(f.text, g.text, sizeof f.text);
        assert_memory_equal(f.tag, g.tag, sizeof f.tag);
        aead_close(a);
        assert_int_equal(keys_advance(k), 0);
    }
    keys_close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),  cmocka_unit_test(test_not_ready),
        cmocka_unit_test(test_epochs),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_last_epoch), cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
