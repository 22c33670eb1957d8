/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "compute/qtype.h"
#include "tests/vectors/qtype.h"

#define N_VECTORS (sizeof qtype_vectors / sizeof qtype_vectors[0])

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static void test_vectors(void **state)
{
    uint8_t unaligned[2048];
    float y[513];
    for (size_t v = 0; v < N_VECTORS; v++) {
        const struct qtype_info *q = qtype_info(qtype_vectors[v].type);
        size_t n = qtype_vectors[v].n;
        assert_non_null(q);
        assert_int_equal(n % q->block_values, 0);
        assert_int_equal(n / q->block_values * q->block_bytes, qtype_vectors[v].bytes);
        assert_true(n < sizeof y / sizeof y[0] && qtype_vectors[v].bytes < sizeof unaligned);
        memcpy(unaligned + 1, qtype_vectors[v].blocks, qtype_vectors[v].bytes);
        y[n] = 42;
        qtype_dequantize(qtype_vectors[v].type, unaligned + 1, y, n);
        assert_true(y[n] == 42);
        for (size_t i = 0; i < n; i++)
            if (bits_of(y[i]) != qtype_vectors[v].bits[i])
                fail_msg("%s value %zu: %08x, must be %08x", q->name, i, bits_of(y[i]),
                         qtype_vectors[v].bits[i]);
    }
}

/* Every f16, against its definition by ldexp. */
static void test_f16(void **state)
{
    for (unsigned h = 0; h < 65536; h++) {
        uint8_t stored[2] = {(uint8_t)h, (uint8_t)(h >> 8)};
        int exponent = h >> 10 & 31, mantissa = h & 1023;
        float y, sign = h & 0x8000 ? -1.f : 1.f;
        qtype_dequantize(QTYPE_F16, stored, &y, 1);
        if (exponent == 31 && mantissa)
            assert_true(isnan(y));
        else if (exponent == 31)
            assert_true(isinf(y) && signbit(y) == signbit(sign));
        else {
            double want = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
            assert_int_equal(bits_of(y), bits_of(sign * (float)want));
        }
    }
}

static void test_f32(void **state)
{
    const uint8_t stored[] = {0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc1};
    float y[2];
    qtype_dequantize(QTYPE_F32, stored, y, 2);
    assert_true(y[0] == 1.f && y[1] == -10.f);
}

static void test_info(void **state)
{
    char list[128], *save;
    size_t named = 0;
    assert_null(qtype_info(4));
    assert_null(qtype_info(31));
    assert_null(qtype_info(UINT32_MAX));
    assert_string_equal(qtype_info(QTYPE_Q4_1)->name, "Q4_1");
    /* The list for errors names exactly the types there are. */
    assert_true(strlen(qtype_supported()) < sizeof list);
    strcpy(list, qtype_supported());
    for (char *word = strtok_r(list, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        size_t found = 0;
        for (uint32_t t = 0; t < 64; t++)
            found += qtype_info(t) && strcmp(qtype_info(t)->name, word) == 0;
        assert_int_equal(found, 1);
        named++;
    }
    for (uint32_t t = 0; t < 64; t++)
        named -= qtype_info(t) != NULL;
    assert_int_equal(named, 0);
}

/* qtype_finite agrees with the values themselves, whichever byte of two blocks is spoilt. */
static void test_finite(void **state)
{
    for (uint32_t t = 0; t < 64; t++) {
        const struct qtype_info *q = qtype_info(t);
        uint8_t block[2 * 256];
        float y[2 * 256];
        size_t n, spoilt = 0;
        if (!q || qtype_is_integer(t)) /* those are no weights */
            continue;
        n = 2 * q->block_values;
        for (size_t at = 0; at < 2 * q->block_bytes; at++) {
            bool finite = true;
            /* Codes and scales of 1: the f16 infinity is 0x7c00, a bf16 one 0x7f80. */
            memset(block, 1, sizeof block);
            block[at] = 0x7f;
            if (at)
                block[at - 1] = 0x80;
            qtype_dequantize(t, block, y, n);
            for (size_t i = 0; i < n; i++)
                finite = finite && isfinite(y[i]);
            assert_int_equal(qtype_finite(t, block, n), finite);
            spoilt += !finite;
        }
        assert_true(spoilt > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_info),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
