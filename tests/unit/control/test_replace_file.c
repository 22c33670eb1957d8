/* SPDX-License-Identifier: Apache-2.0 */
/* Files replaced whole or not at all, and nothing left beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/replace_file.h"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/isthmus-replace-XXXXXX");
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    unlink("file");
    unlink("fifo");
    unlink("link");
    return chdir("/") || rmdir(folder);
}

static void assert_holds(const char *path, const char *text)
{
    char got[256] = "";
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    const size_t n = fread(got, 1, sizeof got - 1, f);
    fclose(f);
    assert_int_equal(n, strlen(text));
    assert_string_equal(got, text);
}

static unsigned files(void)
{
    DIR *d = opendir(".");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void new_and_again(void **state)
{
    struct stat st;
    (void)state;

    umask(027);
    assert_int_equal(replace_file_check("file"), EXIT_OK);
    assert_int_equal(files(), 0);
    assert_int_equal(replace_file("file", "one", 3), EXIT_OK);
    assert_holds("file", "one");
    assert_int_equal(stat("file", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);

    char whole[2 * sizeof folder];
    snprintf(whole, sizeof whole, "%s/file", folder);
    assert_int_equal(replace_file_check(whole), EXIT_OK);
    assert_int_equal(replace_file(whole, "other", 5), EXIT_OK);
    assert_holds("file", "other");
    assert_int_equal(files(), 1);
}

static void through_a_link(void **state)
{
    struct stat st;
    (void)state;

    assert_int_equal(replace_file("file", "one", 3), EXIT_OK);
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(replace_file_check("link"), EXIT_OK);
    assert_int_equal(replace_file("link", "other", 5), EXIT_OK);
    assert_int_equal(lstat("link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_holds("file", "other");
    assert_int_equal(files(), 2);
}

/* In a sticky folder a name can be had, but not this one. */
static void of_another_user(void **state)
{
    int status = 0;
    (void)state;

    if (geteuid() != 0)
        skip();
    assert_int_equal(replace_file("file", "old", 3), EXIT_OK);
    assert_int_equal(chmod(".", 01777), 0);
    const pid_t pid = fork();
    if (pid == 0)
        _exit(setuid(65534) ? 99 : replace_file_check("new") ? 98 : replace_file_check("file"));
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_USAGE);
    assert_holds("file", "old");
    assert_int_equal(files(), 1);
}

static void nowhere(void **state)
{
    (void)state;
    assert_int_equal(replace_file_check("no/file"), EXIT_USAGE);
    assert_int_equal(replace_file("no/file", "x", 1), EXIT_FAILED);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(replace_file_check("fifo"), EXIT_USAGE);
    assert_int_equal(replace_file("fifo", "x", 1), EXIT_USAGE);
    assert_int_equal(replace_file_check("."), EXIT_USAGE);
    assert_int_equal(files(), 1);
}

/* What a child that may write 4096 bytes to a file makes of 8192: its status. */
static int write_too_much(void (*on_limit)(int))
{
    static const char bytes[8192];
    const struct rlimit limit = {4096, 4096}, none = {0, 0};
    const pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        signal(SIGXFSZ, on_limit);
        setrlimit(RLIMIT_CORE, &none); /* it would lie here */
        _exit(setrlimit(RLIMIT_FSIZE, &limit) ? 99 : replace_file("file", bytes, sizeof bytes));
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static void full_disk(void **state)
{
    (void)state;
    assert_int_equal(replace_file("file", "old", 3), EXIT_OK);
    const int status = write_too_much(SIG_IGN);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_FAILED);
    assert_holds("file", "old");
    assert_int_equal(files(), 1);
}

static void killed(void **state)
{
    (void)state;
    const int fd = open(".", O_TMPFILE | O_WRONLY, 0600);
    if (fd < 0)
        skip(); /* this file system leaves the half file behind */
    close(fd);
    assert_int_equal(replace_file("file", "old", 3), EXIT_OK);
    assert_true(WIFSIGNALED(write_too_much(SIG_DFL)));
    assert_holds("file", "old");
    assert_int_equal(files(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(new_and_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(through_a_link, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_another_user, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nowhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(full_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(killed, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
