/* SPDX-License-Identifier: Apache-2.0 */
#include "control/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REPORT_ENV "ISTHMUS_REPORT_FD"

/* Between fork and exec. */
static _Noreturn void become(pid_t parent, int report_fd, int secret_fd, char *const argv[])
{
    /* Before the check of the parent, so that its death in between is not missed. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    signal(SIGINT, SIG_IGN);
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout is the answer's alone */
    dup2(report_fd, CHILD_REPORT_FD);
    if (secret_fd >= 0)
        dup2(secret_fd, CHILD_SECRET_FD);
    syscall(SYS_close_range, (secret_fd >= 0 ? CHILD_SECRET_FD : CHILD_REPORT_FD) + 1, ~0u, 0);
    setenv(REPORT_ENV, "1", 1);
    execv("/proc/self/exe", argv);
    _exit(127);
}

int child_start(struct child *c, char *const argv[], int secret_fd)
{
    *c = (struct child){.report_fd = -1};
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) {
        const int rc = -errno;
        close(fds[0]);
        close(fds[1]);
        return rc;
    }
    if (pid == 0) {
        /* dup2 onto itself would keep O_CLOEXEC: move away first. */
        become(parent, fcntl(fds[1], F_DUPFD, CHILD_SECRET_FD + 1),
               secret_fd < 0 ? -1 : fcntl(secret_fd, F_DUPFD, CHILD_SECRET_FD + 1), argv);
    }
    close(fds[1]);
    c->pid = pid;
    c->report_fd = fds[0];
    return 0;
}

bool child_gone(struct child *c, int timeout_ms)
{
    for (int waited_ms = 0; c->pid && !c->gone; waited_ms++) {
        const pid_t got = waitpid(c->pid, &c->status, WNOHANG);
        if (got == c->pid || (got < 0 && errno == ECHILD))
            c->gone = true;
        else if (waited_ms >= timeout_ms)
            break;
        else
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return c->gone;
}

const char *child_fate(const struct child *c, char *buf, size_t n)
{
    if (WIFSIGNALED(c->status))
        snprintf(buf, n, "was killed by signal %d (%s)", WTERMSIG(c->status),
                 strsignal(WTERMSIG(c->status)));
    else
        snprintf(buf, n, "exited with code %d", WEXITSTATUS(c->status));
    return buf;
}

void child_stop(struct child *c)
{
    if (c->pid && !child_gone(c, 0)) {
        kill(c->pid, SIGTERM);
        if (!child_gone(c, 2000)) {
            kill(c->pid, SIGKILL);
            while (waitpid(c->pid, &c->status, 0) < 0 && errno == EINTR)
                ;
        }
    }
    if (c->report_fd >= 0)
        close(c->report_fd);
    *c = (struct child){.report_fd = -1};
}

uint64_t child_eal_rss_bytes(struct child *c)
{
    char text[32];
    const ssize_t n = c->report_fd < 0 ? -1 : read(c->report_fd, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    return strtoull(text, NULL, 10);
}

bool child_is(void)
{
    return getenv(REPORT_ENV) != NULL;
}

void child_report(uint64_t eal_rss_bytes)
{
    if (!getenv(REPORT_ENV))
        return;
    dprintf(CHILD_REPORT_FD, "%llu\n", (unsigned long long)eal_rss_bytes);
    close(CHILD_REPORT_FD);
}

uint64_t process_rss_bytes(pid_t pid)
{
    char path[40];
    if (pid)
        snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    else
        strcpy(path, "/proc/self/statm");
    FILE *f = fopen(path, "re");
    unsigned long long pages = 0;
    if (f) {
        if (fscanf(f, "%*u %llu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
