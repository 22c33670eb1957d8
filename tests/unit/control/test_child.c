/* SPDX-License-Identifier: Apache-2.0 */
/* Starting, watching and stopping a child, with this very binary as the child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/child.h"

static struct child start(const char *role)
{
    struct child c;
    char *argv[] = {(char *)"child", (char *)role, NULL};
    assert_int_equal(child_start(&c, argv, -1), 0);
    return c;
}

static void test_exit_code(void **state)
{
    (void)state;
    struct child c = start("exit");
    assert_true(child_gone(&c, 5000));
    char fate[80];
    assert_string_equal(child_fate(&c, fate, sizeof fate), "exited with code 7");
    child_stop(&c);
}

static void test_killed(void **state)
{
    (void)state;
    struct child c = start("wait");
    assert_false(child_gone(&c, 20));
    kill(c.pid, SIGKILL);
    assert_true(child_gone(&c, 5000));
    char fate[80];
    assert_non_null(strstr(child_fate(&c, fate, sizeof fate), "killed by signal 9"));
    child_stop(&c);
}

static void test_report(void **state)
{
    (void)state;
    struct child c = start("report");
    assert_true(child_gone(&c, 5000));
    assert_int_equal(child_eal_rss_bytes(&c), 12345678);
    assert_int_equal(child_eal_rss_bytes(&c), 0);
    child_stop(&c);
}

static void test_stop_gently(void **state)
{
    (void)state;
    struct child c = start("wait");
    const pid_t pid = c.pid;
    child_stop(&c);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(c.pid, 0);
}

static void test_stop_by_force(void **state)
{
    (void)state;
    struct child c = start("stubborn");
    while (child_eal_rss_bytes(&c) == 0) /* until it ignores SIGTERM */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    const pid_t pid = c.pid;
    child_stop(&c);
    assert_int_equal(kill(pid, 0), -1);
}

/* Nothing of the parent's but 0, 1, 2 and the report reaches the child; ^C does not either. */
static void test_inherits_little(void **state)
{
    (void)state;
    const int fd = fcntl(STDERR_FILENO, F_DUPFD, 20); /* without FD_CLOEXEC */
    assert_true(fd >= 20);
    struct child c = start("fds");
    assert_true(child_gone(&c, 5000));
    char fate[80];
    assert_string_equal(child_fate(&c, fate, sizeof fate), "exited with code 0");
    child_stop(&c);
    close(fd);
}

static void test_rss(void **state)
{
    (void)state;
    assert_true(process_rss_bytes(0) > 100000);
    struct child c = start("wait");
    assert_true(process_rss_bytes(c.pid) > 0);
    child_stop(&c);
    assert_int_equal(process_rss_bytes(0x7ffffff), 0);
}

static int be_child(const char *role)
{
    if (strcmp(role, "exit") == 0)
        return 7;
    if (strcmp(role, "report") == 0) {
        child_report(12345678);
        return 0;
    }
    if (strcmp(role, "fds") == 0) {
        struct sigaction sa;
        sigaction(SIGINT, NULL, &sa);
        int extra = sa.sa_handler != SIG_IGN;
        for (int fd = CHILD_REPORT_FD + 1; fd < 256; fd++)
            extra += fcntl(fd, F_GETFD) >= 0;
        return extra;
    }
    if (strcmp(role, "stubborn") == 0) {
        signal(SIGTERM, SIG_IGN);
        child_report(1);
    }
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return be_child(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_code),     cmocka_unit_test(test_killed),
        cmocka_unit_test(test_report),        cmocka_unit_test(test_stop_gently),
        cmocka_unit_test(test_stop_by_force), cmocka_unit_test(test_inherits_little),
        cmocka_unit_test(test_rss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
