/* SPDX-License-Identifier: Apache-2.0 */
/* Assertions that must fire: tried in a process that is forked off. Only without NDEBUG. */
#ifndef ISTHMUS_TESTS_UNIT_DIES_H
#define ISTHMUS_TESTS_UNIT_DIES_H

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whether what() is ended by an assertion that says these words. */
static bool dies_saying(void (*what)(void), const char *words)
{
    char said[1024] = "";
    int fds[2], status;
    const pid_t child = pipe(fds) ? -1 : fork();

    if (child < 0)
        abort();
    if (!child) {
        const struct rlimit none = {0};

        signal(SIGABRT, SIG_DFL); /* cmocka's would go on */
        setrlimit(RLIMIT_CORE, &none);
        dup2(fds[1], STDERR_FILENO);
        what();
        _exit(0);
    }
    close(fds[1]);
    for (size_t n = 0; n < sizeof said - 1;) {
        const ssize_t got = read(fds[0], said + n, sizeof said - 1 - n);

        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(fds[0]);
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
           WTERMSIG(status) == SIGABRT && strstr(said, words);
}

#endif
