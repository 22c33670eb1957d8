/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/pretok.h"

static void check(const char *name, const char *text, const char *want)
{
    char got[512] = "";
    struct pretok *p;
    struct pretok_walk w;
    const char *word, *at = text;
    size_t len;
    int rc;
    assert_int_equal(tok_pre_open(name, strlen(name), &p), 0);
    assert_int_equal(tok_pre_walk_open(p, &w), 0);
    /* In a block of its own size, so that a sanitizer sees every byte read past. */
    char *exact = malloc(strlen(text) + !*text);
    memcpy(exact, text, strlen(text));
    tok_pre_walk_text(&w, exact, strlen(text));
    while ((rc = tok_pre_next(&w, &word, &len)) > 0) {
        assert_ptr_equal(word, exact + (at - text));
        at += len;
        strcat(got, "|");
        strncat(got, word, len);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(at - text, strlen(text));
    if (strcmp(got, want) != 0)
        fail_msg("%s: \"%s\" gives \"%s\", must be \"%s\"", name, text, got, want);
    free(exact);
    tok_pre_walk_close(&w);
    tok_pre_close(p);
}

static void test_words(void **state)
{
    static const char *const all[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    for (size_t i = 0; i < 4; i++) {
        check(all[i], "", "");
        check(all[i], "Hello, world!", "|Hello|,| world|!");
        check(all[i], "we've don't", "|we|'ve| don|'t");
        check(all[i], "  two   three ", "| | two|  | three| ");
        check(all[i], "a \t b", "|a| \t| b");
        check(all[i], "naïve 你好 ½!",
              all[i][0] == 'g' ? "|naïve| 你好| ½|!" : "|naïve| 你好| |½|!");
        /* U+00A0 and U+3000 are spaces, U+180E is none. */
        check(all[i], "a\u3000\u00a0", "|a|\u3000\u00a0");
        check(all[i], "- \u180e", "|-| \u180e");
    }
}

static void test_digits(void **state)
{
    check("gpt-2", "a 12345 x", "|a| 12345| x");
    check("smollm", "a 12345 x", "|a| |1|2|3|4|5| x");
    check("smollm", "a   12 ½", "|a|   |1|2| |½");
    check("smollm", "12", "|1|2");
    check("qwen2", "a 12345 x", "|a| |1|2|3|4|5| x");
    check("qwen2", "a   12", "|a|  | |1|2");
    check("llama-bpe", "a 12345 x", "|a| |123|45| x");
}

static void test_case(void **state)
{
    check("gpt-2", "I'LL i'll", "|I|'|LL| i|'ll");
    check("smollm", "I'LL i'll", "|I|'|LL| i|'ll");
    check("qwen2", "I'LL i'lL", "|I|'LL| i|'lL");
    check("llama-bpe", "I'LL i'Re", "|I|'LL| i|'Re");
}

static void test_lines(void **state)
{
    check("gpt-2", "a;\n\n b", "|a|;|\n\n| b");
    check("smollm", "a;\n\n b", "|a|;|\n\n| b");
    check("qwen2", "a;\n\n b", "|a|;\n\n| b");
    check("qwen2", "a  \n  \n  b", "|a|  \n  \n| | b");
    check("llama-bpe", "#x\r\n(y", "|#x|\r\n|(y");
}

/* Bytes that are no UTF-8 stand alone; the text around them is cut as ever. */
static void test_invalid(void **state)
{
    check("gpt-2",
          "ab\xff\xfe"
          "cd",
          "|ab|\xff|\xfe|cd");
    check("qwen2", "x \xe4\xbd y", "|x| |\xe4|\xbd| y");
    check("smollm", "\xc0\x80", "|\xc0|\x80");
    check("smollm", "a\xed\xa0\x80", "|a|\xed|\xa0|\x80");
    check("llama-bpe", "\xf0\x9f\x98", "|\xf0|\x9f|\x98");
    check("llama-bpe", "ok \xf4\x90\x80\x80", "|ok| |\xf4|\x90|\x80|\x80");
}

/* A megabyte each of what might make a pattern step back and forth. */
static void test_long(void **state)
{
    static const char *const all[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    static const char fill[] = {' ', 'a', '1', '-', '\n', '\'', '\xff', '\xe4'};
    const size_t n = 1u << 20;
    char *text = malloc(n);
    for (size_t i = 0; i < 4; i++) {
        for (size_t f = 0; f < sizeof fill; f++) {
            struct pretok *p;
            struct pretok_walk w;
            const char *word;
            size_t len, total = 0;
            memset(text, fill[f], n);
            text[n - 1] = 'x';
            assert_int_equal(tok_pre_open(all[i], strlen(all[i]), &p), 0);
            assert_int_equal(tok_pre_walk_open(p, &w), 0);
            tok_pre_walk_text(&w, text, n);
            while (tok_pre_next(&w, &word, &len) > 0)
                total += len;
            assert_int_equal(total, n);
            tok_pre_walk_close(&w);
            tok_pre_close(p);
        }
    }
    free(text);
}

static void test_names(void **state)
{
    struct pretok *p;
    assert_int_equal(tok_pre_open("gpt", 3, &p), -ENOTSUP);
    assert_int_equal(tok_pre_open("gpt-22", 6, &p), -ENOTSUP);
    assert_int_equal(tok_pre_open("", 0, &p), -ENOTSUP);
    assert_int_equal(tok_pre_open("llama-bpe", 9, &p), 0);
    assert_true(tok_pre_whole_words(p) && tok_pre_default_add_bos(p));
    tok_pre_close(p);
    assert_int_equal(tok_pre_open("qwen2", 5, &p), 0);
    assert_false(tok_pre_whole_words(p) || tok_pre_default_add_bos(p));
    tok_pre_close(p);
    assert_string_equal(tok_pre_supported(), "gpt-2 smollm qwen2 llama-bpe");
    tok_pre_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words), cmocka_unit_test(test_digits),  cmocka_unit_test(test_case),
        cmocka_unit_test(test_lines), cmocka_unit_test(test_invalid), cmocka_unit_test(test_long),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
