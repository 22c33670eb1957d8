/* SPDX-License-Identifier: Apache-2.0 */
/* Files and command lines of commands that there are not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/config/config.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
    (void)key;
    (void)arg;
    (void)state;
    fail(); /* gathering runs no command's parser */
    return 0;
}

static const struct argp_option shared_options[] = {
    {"log-level", 1000, "LEVEL", 0, "How much", 0},
    {"config", 1001, "FILE", 0, "Where from", 0},
    {"check-config", 1002, NULL, 0, "Look", 0},
    {0},
};
static const struct argp shared_argp = {shared_options, parse, NULL, NULL, NULL, NULL, NULL};
static const struct argp_child shared[] = {{&shared_argp, 0, NULL, 0}, {0}};

static const struct argp_option edge_options[] = {
    {"model", 'm', "FILE", 0, "A model", 0},
    {"port", 1003, "URI", 0, "Several", 0},
    {"threads", 1004, "N", 0, "How many", 0},
    {"insecure", 1005, NULL, 0, "A flag", 0},
    {0},
};
static const struct argp edge_argp = {edge_options, parse, NULL, NULL, shared, NULL, NULL};
static const struct argp_option cloud_options[] = {
    {"lease", 1006, "S", 0, "How long", 0},
    {0},
};
static const struct argp cloud_argp = {cloud_options, parse, NULL, NULL, shared, NULL, NULL};

const struct config_command config_commands[] = {
    {"edge", &edge_argp}, {"cloud", &cloud_argp}, {NULL, NULL}};

static char path[64], faults[2000];

static void say(void *arg, const char *line)
{
    (void)arg;
    strncat(faults, line, sizeof faults - strlen(faults) - 2);
    strcat(faults, "\n");
}

/* As `edge --config FILE ARGS...`, up to a NULL. */
static int gather(struct config *c, const char *text, const char *const *args)
{
    char *argv[16] = {(char *)"isthmus edge", (char *)"--config", path};
    int argc = 3;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    for (; args && *args; args++)
        argv[argc++] = (char *)*args;
    faults[0] = '\0';
    return config_gather(config_find_command("edge"), argc, argv, say, NULL, c);
}

static void expect(const struct config *c, size_t i, const char *key, const char *value,
                   unsigned line)
{
    assert_true(i < c->n);
    assert_string_equal(c->list[i].option->name, key);
    if (value)
        assert_string_equal(c->list[i].value, value);
    else
        assert_null(c->list[i].value);
    assert_int_equal(c->list[i].line, line);
}

static void test_file_and_line(void **state)
{
    static const char text[] =
        "[isthmus]\nlog-level = warn\n[edge]\nmodel = a\nport = p\nport = q\n"
        "insecure = yes\n[cloud]\nlease = 3\n";
    struct config c;
    (void)state;
    assert_int_equal(gather(&c, text, NULL), 0);
    assert_int_equal(c.n_file, 5);
    expect(&c, 0, "log-level", "warn", 2);
    expect(&c, 1, "model", "a", 4);
    expect(&c, 2, "port", "p", 5);
    expect(&c, 3, "port", "q", 6);
    expect(&c, 4, "insecure", NULL, 7);
    expect(&c, 5, "config", path, 0);
    assert_string_equal(config_value(&c, "port"), "q");
    assert_null(config_value(&c, "threads"));
    config_free(&c);

    /* An option of the command line replaces all of the file's. */
    assert_int_equal(gather(&c, text, (const char *const[]){"--port", "r", "-mb", "--thr=2", NULL}),
                     0);
    assert_int_equal(c.n_file, 2);
    expect(&c, 0, "log-level", "warn", 2);
    expect(&c, 1, "insecure", NULL, 7);
    expect(&c, 3, "port", "r", 0);
    expect(&c, 4, "model", "b", 0);
    expect(&c, 5, "threads", "2", 0);
    config_free(&c);
}

static void test_flags(void **state)
{
    struct config c;
    (void)state;
    assert_int_equal(gather(&c, "[edge]\ninsecure = no\n", NULL), 0);
    assert_int_equal(c.n_file, 0);
    config_free(&c);
    assert_int_equal(gather(&c, "[edge]\ninsecure = maybe\n", NULL), -EINVAL);
    assert_non_null(strstr(faults, ":2: insecure = maybe: must be yes or no"));
    config_free(&c);
}

static void wrong(const char *text, const char *why)
{
    struct config c;
    assert_int_equal(gather(&c, text, NULL), -EINVAL);
    if (!strstr(faults, why))
        fail_msg("\"%s\" does not hold \"%s\"", faults, why);
    config_free(&c);
}

static void test_wrong(void **state)
{
    (void)state;
    wrong("[edge]\n\nthreds = 3\n", ":3: [edge] has no key `threds`: did you mean `threads`?");
    wrong("[edge]\nzzzzzzzz = 3\n", ":2: [edge] has no key `zzzzzzzz`\n");
    wrong("[edge]\nlease = 3\n", ":2: [edge] has no key `lease`");
    wrong("[isthmus]\nlease = 3\n", ":2: [isthmus] has no key `lease`");
    wrong("[cloud]\nleese = 3\n", ":2: [cloud] has no key `leese`: did you mean `lease`?");
    wrong("[egde]\nmodel = 3\n", ":2: there is no section [egde]: did you mean [edge]?");
    wrong("model = 3\n", ":1: `model` stands before any section");
    wrong("[edge]\nconfig = 3\n", ":2: `config` is for the command line");
    wrong("[edge]\ncheck-config = yes\n", ":2: `check-config` is for the command line");
    wrong("[edge]\nmodel =\n", ":2: `model` has no value");
    wrong("[edge]\nmodel\n", "line 2: neither");
    /* All of them are said. */
    wrong("[edge]\na = 1\nb = 1\n", ":3: [edge] has no key `b`");
    assert_non_null(strstr(faults, ":2: [edge] has no key `a`"));
}

static void test_no_file(void **state)
{
    char *argv[] = {(char *)"isthmus edge", (char *)"--config=/nonexistent/x", NULL};
    char *none[] = {(char *)"isthmus edge", (char *)"--threads=x", NULL};
    char *bad[] = {(char *)"isthmus edge", (char *)"--nothing", NULL};
    struct config c;
    (void)state;
    faults[0] = '\0';
    assert_int_equal(config_gather(config_find_command("edge"), 2, argv, say, NULL, &c), -EINVAL);
    assert_non_null(strstr(faults, "/nonexistent/x: cannot be read: No such file"));
    config_free(&c);
    assert_int_equal(config_gather(config_find_command("edge"), 2, none, say, NULL, &c), 0);
    assert_true(c.complete);
    expect(&c, 0, "threads", "x", 0);
    config_free(&c);
    /* What is wrong with a command line is its parser's to say. */
    assert_int_equal(config_gather(config_find_command("edge"), 2, bad, say, NULL, &c), 0);
    assert_false(c.complete);
    config_free(&c);
    assert_null(config_find_command("bench"));
}

static void count(void *arg, const struct argp_option *o)
{
    assert_string_not_equal(o->name, "config");
    ++*(unsigned *)arg;
}

static void test_each(void **state)
{
    unsigned n = 0;
    (void)state;
    config_each_option(config_find_command("edge"), count, &n);
    assert_int_equal(n, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_and_line), cmocka_unit_test(test_flags),
        cmocka_unit_test(test_wrong),         cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_each),
    };
    snprintf(path, sizeof path, "/tmp/isthmus-test-config.%d", (int)getpid());
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return rc;
}
