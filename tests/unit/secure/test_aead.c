/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/secure/aead.h"

#define LONGEST 2000u

static const enum aead_kind kinds[] = {AEAD_EVP, AEAD_IPSEC_MB};

/* Key of the implementation, or NULL where it is not there (said). */
static struct aead *key_of(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES])
{
    struct aead *a = NULL;
    int rc = aead_open(kind, key, &a);

    if (rc == -ENOTSUP) {
        print_message("intel-ipsec-mb is not here: only EVP is tested\n");
        return NULL;
    }
    assert_int_equal(rc, 0);
    return a;
}

/* Test case 4 of McGrew and Viega's GCM specification, which NIST SP 800-38D refers to. */
static void test_published_vector(void **state)
{
    static const uint8_t key[16] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c,
                                    0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
    static const uint8_t nonce[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce,
                                      0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
    static const uint8_t aad[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                    0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
    static const uint8_t plain[60] = {
        0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26,
        0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31,
        0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49,
        0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
    static const uint8_t cipher[60] = {
        0x42, 0x83, 0x1e, 0xc2, 0x21, 0x77, 0x74, 0x24, 0x4b, 0x72, 0x21, 0xb7, 0x84, 0xd0, 0xd4,
        0x9c, 0xe3, 0xaa, 0x21, 0x2f, 0x2c, 0x02, 0xa4, 0xe0, 0x35, 0xc1, 0x7e, 0x23, 0x29, 0xac,
        0xa1, 0x2e, 0x21, 0xd5, 0x14, 0xb2, 0x54, 0x66, 0x93, 0x1c, 0x7d, 0x8f, 0x6a, 0x5a, 0xac,
        0x84, 0xaa, 0x05, 0x1b, 0xa3, 0x0b, 0x39, 0x6a, 0x0a, 0xac, 0x97, 0x3d, 0x58, 0xe0, 0x91};
    static const uint8_t tag[16] = {0x5b, 0xc9, 0x4f, 0xbc, 0x32, 0x21, 0xa5, 0xdb,
                                    0x94, 0xfa, 0xe9, 0x5a, 0xe7, 0x12, 0x1a, 0x47};

    for (unsigned i = 0; i < 2; i++) {
        uint8_t text[60], got[16];
        struct aead *a = key_of(kinds[i], key);

        if (!a)
            continue;
        memcpy(text, plain, sizeof text);
        assert_int_equal(aead_seal(a, nonce, aad, sizeof aad, text, sizeof text, got), 0);
        assert_memory_equal(text, cipher, sizeof cipher);
        assert_memory_equal(got, tag, sizeof tag);
        assert_int_equal(aead_unseal(a, nonce, aad, sizeof aad, text, sizeof text, tag), 0);
        assert_memory_equal(text, plain, sizeof plain);
        aead_close(a);
    }
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(random() >> 7);
}

/* Same bytes from both; each opens what the other sealed. The text is its own allocation, so that a
 * sanitizer sees accesses beyond it. */
static void test_same_bytes(void **state)
{
    uint8_t key[AEAD_KEY_BYTES], nonce[AEAD_NONCE_BYTES], aad[24], plain[LONGEST], tags[2][16];

    srandom(1);
    fill(key, sizeof key);
    struct aead *there = key_of(AEAD_IPSEC_MB, key);
    if (!there)
        skip(); /* here, where nothing is held yet: a leak would fail the run under LeakSanitizer */
    aead_close(there);
    for (unsigned round = 0; round < 400; round++) {
        size_t n = round < 200 ? round : (size_t)random() % LONGEST;
        uint8_t *text[2] = {malloc(n ? n : 1), malloc(n ? n : 1)};
        struct aead *a[2];

        fill(key, sizeof key);
        fill(nonce, sizeof nonce);
        fill(aad, sizeof aad);
        fill(plain, n);
        for (unsigned i = 0; i < 2; i++) {
            a[i] = key_of(kinds[i], key);
            assert_non_null(a[i]);
            memcpy(text[i], plain, n);
            assert_int_equal(aead_seal(a[i], nonce, aad, sizeof aad, text[i], n, tags[i]), 0);
        }
        if (n)
            assert_memory_equal(text[0], text[1], n);
        assert_memory_equal(tags[0], tags[1], sizeof tags[0]);
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(aead_unseal(a[i], nonce, aad, sizeof aad, text[!i], n, tags[!i]), 0);
            if (n)
                assert_memory_equal(text[!i], plain, n);
            aead_close(a[i]);
            free(text[!i]);
        }
    }
}

/* Any bit of nonce, associated data, text or tag. */
static void test_every_bit_counts(void **state)
{
    enum { NONCE = 0, AAD = 12, TEXT = 36, TAG = 36 + 37, ALL = 36 + 37 + 16 };
    uint8_t key[AEAD_KEY_BYTES], sealed[ALL], b[ALL];

    for (unsigned i = 0; i < 2; i++) {
        struct aead *a;

        fill(key, sizeof key);
        fill(sealed, sizeof sealed);
        a = key_of(kinds[i], key);
        if (!a)
            continue;
        assert_int_equal(
            aead_seal(a, sealed + NONCE, sealed + AAD, 24, sealed + TEXT, 37, sealed + TAG), 0);
        for (unsigned bit = 0; bit < ALL * 8; bit++) {
            memcpy(b, sealed, sizeof b);
            b[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(aead_unseal(a, b + NONCE, b + AAD, 24, b + TEXT, 37, b + TAG),
                             -EBADMSG);
        }
        memcpy(b, sealed, sizeof b);
        assert_int_equal(aead_unseal(a, b + NONCE, b + AAD, 24, b + TEXT, 37, b + TAG), 0);
        aead_close(a);
    }
}

static void test_says_what_it_is(void **state)
{
    static const uint8_t key[AEAD_KEY_BYTES];
    struct aead *a;
    bool mb = aead_open(AEAD_IPSEC_MB, key, &a) == 0;

    if (mb)
        aead_close(a);
    assert_int_equal(strncmp(aead_implementation(), "intel-ipsec-mb ", 15) == 0, mb);
    print_message("%s\n", aead_implementation());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vector),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_says_what_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
