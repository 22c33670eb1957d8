/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up prompts and chance: the seed's alone, and evenly spread. */
#include "control/bench/serve_prompts.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct prompts_ask ask = {
    .model = "m", .prompt_tokens = 40, .max_tokens = 7, .seed = 3};

static char *body(const struct prompts_ask *of, uint64_t n)
{
    bool chat;
    size_t len;
    char *text = prompts_body(NULL, of, n, &chat, &len);
    assert_non_null(text);
    assert_int_equal(len, strlen(text));
    assert_int_equal(chat, of->chat);
    return text;
}

static void test_made_up(void **state)
{
    (void)state;
    struct prompts_ask other = ask;
    other.seed++;
    char *a = body(&ask, 0), *again = body(&ask, 0), *next = body(&ask, 1),
         *of_other = body(&other, 0);
    assert_string_equal(a, again);
    assert_string_not_equal(a, next);
    assert_string_not_equal(a, of_other);
    json_t *o = json_loads(a, 0, NULL);
    const char *prompt = json_string_value(json_object_get(o, "prompt"));
    assert_non_null(prompt);
    unsigned words = 0;
    for (const char *c = prompt; *c; c++)
        words += *c == ' ';
    assert_int_equal(words, 40); /* each with its space before */
    assert_int_equal(json_integer_value(json_object_get(o, "max_tokens")), 7);
    assert_null(json_object_get(o, "ignore_eos"));
    json_decref(o);
    free(a);
    free(again);
    free(next);
    free(of_other);
}

/* Even, and so exponential gaps have their mean and their spread. */
static void test_chance(void **state)
{
    enum { N = 200000, BINS = 20 };
    unsigned bins[BINS] = {0};
    double sum = 0, squares = 0, before = .5, product = 0;
    (void)state;
    for (uint64_t n = 0; n < N; n++) {
        const double u = prompts_chance(9, n), gap = -log(u);
        assert_true(u > 0 && u <= 1 && isfinite(gap));
        bins[u == 1 ? BINS - 1 : (unsigned)(u * BINS)]++;
        sum += gap;
        squares += gap * gap;
        product += (u - .5) * (before - .5);
        before = u;
    }
    for (unsigned i = 0; i < BINS; i++)
        assert_in_range(bins[i], N / BINS * 94 / 100, N / BINS * 106 / 100);
    assert_true(fabs(sum / N - 1) < .015);
    assert_true(fabs(squares / N - 2) < .06);
    assert_true(fabs(product / N * 12) < .02); /* neighbours are not alike */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_made_up),
                                       cmocka_unit_test(test_chance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
