/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/config/ini.h"
#include "control/config/nearest.h"

static void expect(const struct ini *ini, size_t i, const char *section, const char *key,
                   const char *value, unsigned line)
{
    assert_true(i < ini->n);
    assert_string_equal(ini->list[i].section, section);
    assert_string_equal(ini->list[i].key, key);
    assert_string_equal(ini->list[i].value, value);
    assert_int_equal(ini->list[i].line, line);
}

static void test_entries(void **state)
{
    static const char text[] = "# a file\n"
                               "first = 0\r\n"
                               "\n"
                               "[edge] ; what follows is the edge's\n"
                               "port = udp:a:1 ; one\n"
                               "  port=udp:b:1\n"
                               "; no = entry\n"
                               "rate: 200B/token\n"
                               "empty =\n"
                               "[cloud]\n"
                               "a;b = c;d";
    struct ini ini;
    char err[INI_ERR];
    (void)state;
    assert_int_equal(ini_read(text, sizeof text - 1, &ini, err), 0);
    assert_string_equal(err, "");
    assert_int_equal(ini.n, 6);
    expect(&ini, 0, "", "first", "0", 2);
    expect(&ini, 1, "edge", "port", "udp:a:1", 5);
    expect(&ini, 2, "edge", "port", "udp:b:1", 6);
    expect(&ini, 3, "edge", "rate", "200B/token", 8);
    expect(&ini, 4, "edge", "empty", "", 9);
    expect(&ini, 5, "cloud", "a;b", "c;d", 11);
    ini_free(&ini);
    assert_int_equal(ini_read("", 0, &ini, err), 0);
    assert_int_equal(ini.n, 0);
    ini_free(&ini);
}

static void refused(const char *text, size_t n, const char *why)
{
    struct ini ini;
    char err[INI_ERR];
    assert_int_equal(ini_read(text, n, &ini, err), -EINVAL);
    if (!strstr(err, why))
        fail_msg("\"%s\" does not hold \"%s\"", err, why);
    ini_free(&ini);
}

static void test_refused(void **state)
{
    char line[2 * INI_LINE_MAX];
    (void)state;
    refused("[edge]\nno value\n", 16, "line 2: neither");
    refused("[edge\na = b\n", 12, "line 1: neither");
    refused("[edge] x\na = b\n", 15, "line 1: text behind");
    refused("a = b\nc\0 = d\n", 13, "line 2: a zero byte");
    refused(" = b\n", 5, "line 1: no KEY");
    memset(line, 'a', sizeof line);
    line[0] = '[';
    line[40] = ']';
    refused(line, 41, "line 1: too long a section");
    memset(line, 'a', sizeof line);
    line[1] = '=';
    refused(line, INI_LINE_MAX + 1, "line 1: too long");
    char *big = malloc(INI_BYTES_MAX + 1);
    memset(big, '\n', INI_BYTES_MAX + 1);
    refused(big, INI_BYTES_MAX + 1, "longer than");
    free(big);
}

/* As long as a line may be, it comes whole. */
static void test_longest(void **state)
{
    char line[INI_LINE_MAX];
    struct ini ini;
    char err[INI_ERR];
    (void)state;
    memset(line, 'a', sizeof line);
    line[1] = '=';
    assert_int_equal(ini_read(line, sizeof line, &ini, err), 0);
    assert_int_equal(ini.n, 1);
    assert_int_equal(strlen(ini.list[0].value), INI_LINE_MAX - 2);
    ini_free(&ini);
}

static const char *near(const char *typed)
{
    static const char *const names[] = {"model", "threads", "port", "peer", "max-waiting", NULL};
    struct nearest n;
    nearest_begin(&n, typed);
    for (int i = 0; names[i]; i++)
        nearest_consider(&n, names[i]);
    const char *name = nearest_name(&n);
    return name ? name : "none";
}

static void test_nearest(void **state)
{
    char longer[200];
    (void)state;
    assert_string_equal(near("threds"), "threads");
    assert_string_equal(near("thraeds"), "threads");
    assert_string_equal(near("pot"), "port");
    assert_string_equal(near("max_waiting"), "max-waiting");
    assert_string_equal(near("perplexity"), "none");
    assert_string_equal(near(""), "none");
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    assert_string_equal(near(longer), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
