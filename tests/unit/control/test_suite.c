/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/eval/suite_line.h"

static json_t *parse(const char *suite, const char *line, char *err)
{
    err[0] = '\0';
    return eval_suite_parse(eval_suite_kind(suite), line, strlen(line), err);
}

static void suites_by_name(void **state)
{
    assert_string_equal(eval_suite_kind("arc")->name, "arc");
    assert_null(eval_suite_kind("winogrande"));
    assert_null(eval_suite_kind(""));
}

static void sound_lines(void **state)
{
    static const char *const lines[][2] = {
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 1}"},
        {"arc",
         "{\"id\": 7, \"label\": 0, \"choices\": [\" b\", \"c\", \"d\"], \"context\": \"a \"}\n"},
        {"hellaswag",
         "{\"context\":\"\xc3\xa4\",\"choices\":[\"b\",\"b\",\"b\",\"b\"],\"label\":3}"},
    };
    char err[EVAL_SUITE_ERR];

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        json_t *line = parse(lines[i][0], lines[i][1], err);
        if (!line)
            fail_msg("%s: %s", lines[i][1], err);
        json_decref(line);
    }
}

/* What is wrong is named, and what would be right. */
static void refused_lines(void **state)
{
    static const char *const lines[][3] = {
        {"piqa", "", "not JSON"},
        {"piqa", "{\"context\": \"a\"", "not JSON"},
        {"piqa", "{\"context\": \"a\", \"context\": \"b\"}", "not JSON"},
        {"piqa", "{\"context\": \"\xff\", \"choices\": [\"b\", \"c\"], \"label\": 1}", "not JSON"},
        {"piqa", "[1]", "must be an object"},
        {"piqa", "{\"choices\": [\"b\", \"c\"], \"label\": 1}", "\"context\" is missing"},
        {"piqa", "{\"context\": 1, \"choices\": [\"b\", \"c\"], \"label\": 1}", "\"context\" must"},
        {"piqa", "{\"context\": \" \", \"choices\": [\"b\", \"c\"], \"label\": 1}",
         "\"context\" is empty"},
        {"piqa", "{\"context\": \"a\", \"label\": 1}", "\"choices\" is missing"},
        {"piqa", "{\"context\": \"a\", \"choices\": \"b\", \"label\": 1}", "\"choices\" must"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\"], \"label\": 0}", "piqa has 2"},
        {"arc", "{\"context\": \"a\", \"choices\": [\"b\"], \"label\": 0}", "arc has 2 to 16"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", 2], \"label\": 0}",
         "\"choices\"[1] must be a string"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"\", \"c\"], \"label\": 0}",
         "\"choices\"[0] is empty"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \" \\n\"], \"label\": 0}",
         "\"choices\"[1] is empty"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"]}", "\"label\" is missing"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": \"1\"}",
         "\"label\" must be a whole number"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 2}",
         "it must be 0 to 1"},
        {"piqa", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": -1}",
         "it must be 0 to 1"},
    };
    char err[EVAL_SUITE_ERR];

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        json_t *line = parse(lines[i][0], lines[i][1], err);
        if (line || !strstr(err, lines[i][2]))
            fail_msg("%s: `%s` lacks `%s`", lines[i][1], err, lines[i][2]);
    }
}

static void damaged_lines(void **state)
{
    static const char good[] =
        "{\"context\": \"a b\", \"choices\": [\"b\", \"c\"], \"label\": 1, \"x\": null}";
    const unsigned seed = (unsigned)time(NULL);
    char err[EVAL_SUITE_ERR], line[sizeof good];

    print_message("seed %u\n", seed);
    srand(seed);
    for (int i = 0; i < 20000; i++) {
        memcpy(line, good, sizeof good);
        for (int k = rand() % 3; k >= 0; k--)
            line[(size_t)rand() % (sizeof good - 1)] = (char)rand();
        err[0] = '\0';
        json_t *item = eval_suite_parse(eval_suite_kind("piqa"), line, sizeof good - 1, err);
        assert_true(item ? json_integer_value(json_object_get(item, "label")) <= 1 : err[0] != 0);
        json_decref(item);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suites_by_name),
        cmocka_unit_test(sound_lines),
        cmocka_unit_test(refused_lines),
        cmocka_unit_test(damaged_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
