/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of results in each format: what is empty, quoted, hidden or a boolean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/table.h"

static const struct table_column columns[] = {
    {"codec", "codec", TABLE_TEXT},
    {"exact", "exact", TABLE_BOOL},
    {"tokens", "tokens", TABLE_COUNT},
    {"kl", "KL", TABLE_REAL},
    {"bits", "bits", 2},
    {"cpu", NULL, TABLE_TEXT},
    {0},
};

/* What a head and a row print, in a buffer that the next call overwrites. */
static const char *printed(enum table_format f, const struct table_cell *cells)
{
    static char text[1024];
    FILE *file = tmpfile();
    const int out = dup(STDOUT_FILENO);

    assert_non_null(file);
    fflush(stdout);
    assert_true(out >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
    const int head = table_head(f, columns), row = table_row(f, columns, cells);
    assert_true(dup2(out, STDOUT_FILENO) >= 0);
    close(out);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    assert_int_equal(head, EXIT_OK);
    assert_int_equal(row, EXIT_OK);
    return text;
}

static void full(void **state)
{
    const struct table_cell cells[] = {{"tsq:tau=4,qmax=8", 0}, {NULL, 1},     {NULL, 20480000},
                                       {NULL, .00012345678},    {NULL, 3.625}, {"a \"b\"", 0}};
    (void)state;

    assert_string_equal(printed(TABLE_MD, cells), "| codec | exact | tokens | KL | bits |\n"
                                                  "|---|---|---:|---:|---:|\n"
                                                  "| tsq:tau=4,qmax=8 | true | 20480000 | "
                                                  "0.000123457 | 3.62 |\n");
    assert_string_equal(printed(TABLE_CSV, cells), "codec,exact,tokens,kl,bits,cpu\n"
                                                   "\"tsq:tau=4,qmax=8\",true,20480000,"
                                                   "0.000123457,3.625,\"a \"\"b\"\"\"\n");
    assert_string_equal(printed(TABLE_JSONL, cells),
                        "{\"codec\": \"tsq:tau=4,qmax=8\", \"exact\": true, \"tokens\": 20480000, "
                        "\"kl\": 0.000123457, \"bits\": 3.625, \"cpu\": \"a \\\"b\\\"\"}\n");
}

static void nothing_to_tell(void **state)
{
    const struct table_cell cells[] = {{NULL, 0},   {NULL, 0},        {NULL, NAN},
                                       {NULL, NAN}, {NULL, INFINITY}, {"plain", 0}};
    (void)state;

    assert_non_null(strstr(printed(TABLE_MD, cells), "| - | false | - | - | - |\n"));
    assert_non_null(strstr(printed(TABLE_CSV, cells), "\n,false,,,,plain\n"));
    assert_string_equal(printed(TABLE_JSONL, cells),
                        "{\"codec\": null, \"exact\": false, \"tokens\": null, \"kl\": null, "
                        "\"bits\": null, \"cpu\": \"plain\"}\n");
}

static void format_names(void **state)
{
    enum table_format f;
    (void)state;

    assert_int_equal(table_parse_format("md", &f), 0);
    assert_int_equal(f, TABLE_MD);
    assert_int_equal(table_parse_format("csv", &f), 0);
    assert_int_equal(f, TABLE_CSV);
    assert_int_equal(table_parse_format("jsonl", &f), 0);
    assert_int_equal(f, TABLE_JSONL);
    assert_true(table_parse_format("json", &f) < 0);
    assert_true(table_parse_format("", &f) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full),
        cmocka_unit_test(nothing_to_tell),
        cmocka_unit_test(format_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
