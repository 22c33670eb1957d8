/* SPDX-License-Identifier: Apache-2.0 */
/* Reloading a command that there is not. The checking process is this program, too: `edge ...`. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/config/config.h"
#include "control/config/reload.h"

#define SECOND_NS UINT64_C(1000000000)
/* What the checking process does first: write a text to a file; hang. */
#define REWRITES    "ISTHMUS_TEST_REWRITES"
#define REWRITES_TO "ISTHMUS_TEST_REWRITES_TO"
#define HANGS       "ISTHMUS_TEST_HANGS"

enum { THREADS = 1000, DEPTH, CONFIG, CHECK_OPTIONS };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    if (key == THREADS && strtol(arg, NULL, 10) < 1)
        argp_error(state, "--threads %s: must be at least 1", arg);
    return key >= THREADS && key <= CHECK_OPTIONS ? 0 : ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"threads", THREADS, "N", 0, "How many", 0},
    {"depth", DEPTH, "N", 0, "How deep", 0},
    {"config", CONFIG, "FILE", 0, "Where from", 0},
    {"check-options", CHECK_OPTIONS, "FD", OPTION_ARG_OPTIONAL, "Look", 0},
    {0},
};
static const struct argp argp = {options, parse, NULL, NULL, NULL, NULL, NULL};
const struct config_command config_commands[] = {{"edge", &argp}, {NULL, NULL}};

static char path[] = "/tmp/isthmus-test-XXXXXX";
static struct reload *reload;
static long threads = 1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static bool due, answered;

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int apply_threads(void *arg, const char *value, char *err)
{
    (void)arg;
    const long n = value ? strtol(value, NULL, 10) : 1;
    if (n == 13) {
        snprintf(err, RELOAD_ERR, "bad luck");
        return -EINVAL;
    }
    threads = n;
    return 0;
}

static void wake(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    due = true;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&lock);
}

static const struct reload_key keys[] = {{"threads", apply_threads, false}};
static const struct reload_params params = {.keys = keys, .n_keys = 1, .wake = wake};

struct asking {
    pthread_t thread;
    struct reload_result result;
    int rc;
};

static void *ask(void *arg)
{
    struct asking *a = arg;
    a->rc = reload_ask(reload, 60 * SECOND_NS, &a->result);
    pthread_mutex_lock(&lock);
    answered = true;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void start_asking(struct asking *a)
{
    answered = false;
    assert_int_equal(pthread_create(&a->thread, NULL, ask, a), 0);
}

/* As a serving loop: until the one who asked has his answer. */
static void serve(struct asking *a)
{
    pthread_mutex_lock(&lock);
    while (!answered) {
        while (!due && !answered)
            pthread_cond_wait(&woken, &lock);
        due = false;
        pthread_mutex_unlock(&lock);
        reload_poll(reload);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    pthread_join(a->thread, NULL);
}

static void check_reload(const char *text, bool refused, const char *lines)
{
    struct asking a;
    write_file(text);
    start_asking(&a);
    serve(&a);
    assert_int_equal(a.rc, 0);
    assert_string_equal(a.result.lines, lines);
    assert_int_equal(a.result.refused, refused);
    free(a.result.lines);
}

static void test_says_what_came_of_it(void **state)
{
    char lines[400];
    (void)state;
    check_reload("[edge]\nthreads = 1\n", false, "nothing has changed\n");
    check_reload("[edge]\nthreads = 2\ndepth = 3\n", false,
                 "threads: 1 -> 2\ndepth: (default) -> 3 needs a restart\n");
    assert_int_equal(threads, 2);
    check_reload("[edge]\nthreads = 13\n", true,
                 "threads 13 refused: bad luck; the old one stays\n");
    /* One that the file has wrong, one that the command refuses: nothing of it is taken. */
    snprintf(lines, sizeof lines,
             "%s:3: [edge] has no key `dept`: did you mean `depth`?\n"
             "refused: all values stay\n",
             path);
    check_reload("[edge]\nthreads = 4\ndept = 3\n", true, lines);
    struct asking a;
    write_file("[edge]\nthreads = -1\n");
    start_asking(&a);
    serve(&a);
    assert_int_equal(a.rc, 0);
    assert_true(a.result.refused);
    assert_non_null(strstr(a.result.lines, "--threads -1: must be at least 1\n"));
    assert_non_null(strstr(a.result.lines, "refused: all values stay\n"));
    free(a.result.lines);
    assert_int_equal(threads, 2);
    check_reload("[edge]\nthreads = 3\n", false, "threads: 2 -> 3\n");
}

/* A checking process, which begins when the file was read, is to write another text there first. */
static void child_rewrites(const char *text)
{
    setenv(REWRITES, path, 1);
    setenv(REWRITES_TO, text, 1);
}

/* What is checked is what was read, whatever becomes of the file meanwhile. */
static void test_reads_once(void **state)
{
    (void)state;
    child_rewrites("[edge]\nspoilt = 1\n");
    check_reload("[edge]\nthreads = 5\n", false, "threads: 3 -> 5\n");
    unsetenv(REWRITES);
    assert_int_equal(threads, 5);
    char text[32] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "spoilt"));
}

/* One that runs may have read the file before: who asks waits for the next. */
static void test_asked_while_one_runs(void **state)
{
    struct asking a;
    (void)state;
    write_file("[edge]\nthreads = 6\n");
    child_rewrites("[edge]\nthreads = 7\n");
    reload_begin(reload);
    start_asking(&a);
    serve(&a);
    unsetenv(REWRITES);
    assert_int_equal(a.rc, 0);
    assert_false(a.result.refused);
    assert_int_equal(threads, 7);
    free(a.result.lines);
}

static void test_waits_no_longer(void **state)
{
    struct reload_result result;
    struct asking a;
    (void)state;
    write_file("[edge]\nthreads = 8\n");
    assert_int_equal(reload_ask(reload, SECOND_NS / 20, &result), -ETIMEDOUT);
    assert_int_equal(threads, 7);
    /* It is only late. */
    start_asking(&a);
    serve(&a);
    assert_int_equal(a.rc, 0);
    assert_int_equal(threads, 8);
    free(a.result.lines);

    start_asking(&a);
    reload_shut(reload);
    pthread_join(a.thread, NULL);
    assert_int_equal(a.rc, -ESHUTDOWN);
    assert_int_equal(reload_ask(reload, 60 * SECOND_NS, &result), -ESHUTDOWN);
}

/* In the place of the file: nobody waits for its writer. */
static void test_fifo(void **state)
{
    struct asking a;
    (void)state;
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    start_asking(&a);
    serve(&a);
    assert_int_equal(a.rc, 0);
    assert_true(a.result.refused);
    assert_non_null(strstr(a.result.lines, "not a regular file\nrefused: all values stay\n"));
    free(a.result.lines);
    assert_int_equal(unlink(path), 0);
}

/* Nobody waits for its end. */
static void test_check_that_hangs(void **state)
{
    struct reload *other;
    struct stat st;
    (void)state;
    write_file("[edge]\nthreads = 9\n");
    assert_int_equal(reload_open(&params, &other), 0);
    child_rewrites("");
    setenv(HANGS, "1", 1);
    reload_begin(other);
    while (stat(path, &st) == 0 && st.st_size)
        usleep(1000);
    reload_close(other);
    unsetenv(HANGS);
    unsetenv(REWRITES);
}

static int open_all(void **state)
{
    static char command[] = "edge", config[] = "--config";
    static char *argv[] = {command, config, path, NULL};
    (void)state;
    const int fd = mkstemp(path);
    if (fd < 0 || close(fd) < 0)
        return -1;
    write_file("[edge]\nthreads = 1\n");
    config_parse("edge", 3, argv, NULL);
    return reload_open(&params, &reload);
}

static int close_all(void **state)
{
    (void)state;
    reload_close(reload);
    return unlink(path);
}

int main(int argc, char **argv)
{
    const char *spoil = getenv(REWRITES);
    if (argc > 1) {
        FILE *f = spoil ? fopen(spoil, "w") : NULL;
        if (spoil && (!f || fputs(getenv(REWRITES_TO), f) < 0 || fclose(f) != 0))
            return EXIT_FAILURE;
        while (getenv(HANGS))
            pause();
        config_parse(argv[1], argc - 1, argv + 1, NULL);
        return EXIT_SUCCESS;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_what_came_of_it),
        cmocka_unit_test(test_reads_once),
        cmocka_unit_test(test_asked_while_one_runs),
        cmocka_unit_test(test_fifo),
        cmocka_unit_test(test_check_that_hangs),
        cmocka_unit_test(test_waits_no_longer),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
