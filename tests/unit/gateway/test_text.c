/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "control/gateway/text.h"
#include "control/utf8.h"

static const struct text_stop stops[] = {{"STOP", 4}, {"aab", 3}, {"\xc3\xa9!", 3}};

/* What a stop string leaves of all bytes at once, where each is looked for as soon as it is whole. */
static size_t cut(const char *bytes, size_t n, size_t n_stops)
{
    for (size_t end = 1; end <= n; end++) {
        size_t first = SIZE_MAX;
        for (size_t i = 0; i < n_stops; i++)
            if (stops[i].n <= end && memcmp(bytes + end - stops[i].n, stops[i].bytes, stops[i].n) == 0)
                first = end - stops[i].n < first ? end - stops[i].n : first;
        if (first != SIZE_MAX)
            return first;
    }
    return n;
}

/* One byte at a time: what was sent is whole characters, and never what turns out to be a stop. */
static void check_bytes(const char *bytes, size_t n, size_t n_stops)
{
    struct text t = {.stops = stops, .n_stops = n_stops};
    const size_t whole = cut(bytes, n, n_stops);
    size_t before = 0;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(text_push(&t, bytes + i, 1), 0);
        assert_true(t.n_ready >= before && t.n_ready <= whole);
        if (!t.stopped)
            assert_true(utf8_ready(t.bytes + before, t.n - before) >= t.n_ready - before);
        before = t.n_ready;
    }
    assert_int_equal(t.stopped, whole < n);
    text_end(&t);
    assert_int_equal(t.n, whole);
    assert_int_equal(t.n_ready, whole);
    assert_memory_equal(t.bytes ? t.bytes : "", bytes, whole);
    text_free(&t);
}

static void test_random(void **state)
{
    static const char letters[] = "STOPaab\xc3\xa9!x";
    char bytes[24];
    (void)state;
    srand(7);
    for (unsigned round = 0; round < 200000; round++) {
        const size_t n = (size_t)rand() % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = letters[(size_t)rand() % (sizeof letters - 1)];
        check_bytes(bytes, n, (size_t)rand() % 4);
    }
}

static void test_pieces(void **state)
{
    struct text t = {.stops = stops, .n_stops = 3};
    (void)state;
    assert_int_equal(text_push(&t, "one S", 5), 0);
    assert_int_equal(t.n_ready, 4); /* S may become STOP */
    assert_int_equal(text_push(&t, "TO", 2), 0);
    assert_int_equal(t.n_ready, 4);
    assert_int_equal(text_push(&t, " two\xe4\xbd", 6), 0);
    assert_int_equal(t.n_ready, 11); /* not the half character */
    assert_int_equal(text_push(&t, "\xa0 aaabc STOP", 12), 0);
    assert_true(t.stopped);
    assert_int_equal(t.n, 16); /* the first one in the text, though both came at once */
    assert_memory_equal(t.bytes, "one STO two\xe4\xbd\xa0 a", 16);
    assert_int_equal(text_push(&t, "more", 4), 0);
    assert_int_equal(t.n, 16);
    text_free(&t);
}

/* A lone byte that no character has is passed on: the writer makes U+FFFD of it. */
static void test_invalid(void **state)
{
    struct text t = {.stops = NULL};
    (void)state;
    assert_int_equal(text_push(&t, "a\xff" "b\xe4", 4), 0);
    assert_int_equal(t.n_ready, 3);
    text_end(&t);
    assert_int_equal(t.n_ready, 4);
    text_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
