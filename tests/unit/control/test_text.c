/* SPDX-License-Identifier: Apache-2.0 */
/* Codec parameters as text, and text that arrives in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/codec_arg.h"
#include "control/utf8.h"

static void codec_good(const char *text, const char *formatted)
{
    struct codec_params p, again;
    char err[CODEC_ARG_ERR], buf[CODEC_ARG_MAX];
    assert_int_equal(codec_arg_parse(text, &p, err), 0);
    assert_string_equal(codec_arg_format(&p, buf), formatted);
    assert_int_equal(codec_arg_parse(buf, &again, err), 0);
    assert_int_equal(again.mode, p.mode);
    assert_int_equal(again.tau_rule, p.tau_rule);
    assert_true(again.tau == p.tau && again.delta == p.delta);
    assert_true(again.qmin == p.qmin && again.qmax == p.qmax);
}

static void test_codec_good(void **state)
{
    (void)state;
    codec_good("f32", "f32");
    codec_good("f16", "f16");
    codec_good("tsq", "tsq:tau=4,delta=0.08,qmin=2,qmax=8");
    codec_good("tsq:", "tsq:tau=4,delta=0.08,qmin=2,qmax=8");
    codec_good("tsq:qmax=5,delta=.25", "tsq:tau=4,delta=0.25,qmin=2,qmax=5");
    codec_good("tsq:tau_abs=1.5e3", "tsq:tau_abs=1.5e+03,delta=0.08,qmin=2,qmax=8");
}

static void test_codec_bad(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",           "f8",          "tsqq",         "tsq:tau",
        "tsq:tau=",   "tsq:tau=x",   "tsq:tau=1x",   "tsq:tau=0",
        "tsq:tau=-1", "tsq:tau=nan", "tsq:tau=inf",  "tsq:delta=1",
        "tsq:qmin=0", "tsq:qmax=9",  "tsq:qmin=2.5", "tsq:qmin=5,qmax=4",
        "tsq:frob=1", "f32:tau=4",   "tsq:qmin=1,qmax=1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct codec_params p;
        char err[CODEC_ARG_ERR] = "";
        assert_int_not_equal(codec_arg_parse(bad[i], &p, err), 0);
        assert_non_null(strstr(err, bad[i]));
    }
}

static void test_utf8_ready(void **state)
{
    (void)state;
    /* Every cut of a valid text shows whole characters only. */
    static const char text[] = "aé€😀z";
    static const size_t ready[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    for (size_t n = 0; n < sizeof ready / sizeof *ready; n++)
        assert_int_equal(utf8_ready(text, n), ready[n]);
    /* What can never become valid is not held back. */
    assert_int_equal(utf8_ready("\xff", 1), 1);
    assert_int_equal(utf8_ready("\x80", 1), 1);
    assert_int_equal(utf8_ready("\xc0\x80", 2), 2);
    assert_int_equal(utf8_ready("\xed\xa0", 2), 2); /* a surrogate */
    assert_int_equal(utf8_ready("\xe0\x80", 2), 2); /* overlong */
    assert_int_equal(utf8_ready("\xf4\x90", 2), 2); /* past U+10FFFF */
    assert_int_equal(utf8_ready("\xe2\x82"
                                "a",
                                3),
                     3); /* broken off */
}

static void test_utf8_clean(void **state)
{
    (void)state;
    size_t n;
    char *clean = utf8_clean("a\xff"
                             "b\xe2\x82",
                             5, &n);
    assert_string_equal(clean, "a\xef\xbf\xbd"
                               "b\xef\xbf\xbd\xef\xbf\xbd");
    free(clean);

    /* Whatever comes in, what goes out is valid and stays as it is. */
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 20000; round++) {
        char text[24];
        const size_t len = (size_t)rand() % sizeof text;
        for (size_t i = 0; i < len; i++)
            text[i] = (char)(rand() & 1 ? 0x80 | rand() : rand());
        clean = utf8_clean(text, len, &n);
        assert_non_null(clean);
        assert_int_equal(utf8_ready(clean, n), n);
        size_t n_again;
        char *again = utf8_clean(clean, n, &n_again);
        assert_int_equal(n_again, n);
        assert_memory_equal(again, clean, n);
        free(again);
        free(clean);
        assert_true(utf8_ready(text, len) <= len && len - utf8_ready(text, len) < 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codec_good),
        cmocka_unit_test(test_codec_bad),
        cmocka_unit_test(test_utf8_ready),
        cmocka_unit_test(test_utf8_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
