/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gnuplot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/replace_file.h"

extern char **environ;

/* With these as its stdin and stdout. 0 or -errno. */
static int start_gnuplot(char *const argv[], int in, int out, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    int rc = posix_spawn_file_actions_init(&files);

    if (rc)
        return -rc;
    rc = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawnp(pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    return -rc;
}

/* 0, -errno, or its status when it failed. */
static int await_gnuplot(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Up to its end. 0 or -errno. */
static int copy_all(int fd, FILE *to)
{
    char buf[BUFSIZ];

    for (;;) {
        const ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        if (fwrite(buf, 1, (size_t)n, to) != (size_t)n)
            return -ENOMEM;
    }
}

/* The picture comes through a pipe: gnuplot does not say whether all that it wrote has arrived.
 * 0, -errno, or gnuplot's status. */
static int run_gnuplot(FILE *script, FILE *picture)
{
    char *argv[] = {(char[]){"gnuplot"}, NULL};
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    int rc = start_gnuplot(argv, fileno(script), fds[1], &pid);
    close(fds[1]);
    if (rc == 0) {
        const int copied = copy_all(fds[0], picture);
        close(fds[0]); /* ends a gnuplot whose picture is not read */
        rc = await_gnuplot(pid);
        return copied ? copied : rc;
    }
    close(fds[0]);
    return rc;
}

static int check_gnuplot(void)
{
    char *argv[] = {(char[]){"gnuplot"}, (char[]){"--version"}, NULL};
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid;
    int rc = null < 0 ? -errno : start_gnuplot(argv, null, null, &pid);

    if (null >= 0)
        close(null);
    if (rc == 0)
        rc = await_gnuplot(pid);
    if (rc == 0)
        return EXIT_OK;
    log_error("--plot needs gnuplot: %s: install the package gnuplot-nox",
              rc < 0 ? strerror(-rc) : "it does not run here");
    return EXIT_USAGE;
}

int gnuplot_check(const char *path)
{
    const int rc = replace_file_check(path);

    return rc == EXIT_OK ? check_gnuplot() : rc;
}

FILE *gnuplot_script(const char *path)
{
    FILE *script = tmpfile();

    if (!script) {
        log_error("--plot %s: cannot write gnuplot's script: %s", path, strerror(errno));
        return NULL;
    }
    fprintf(script, "set terminal pngcairo size 960,640\n");
    return script;
}

static int finish_script(FILE *script)
{
    if (fflush(script) || ferror(script))
        return -EIO;
    rewind(script);
    return lseek(fileno(script), 0, SEEK_SET) < 0 ? -errno : 0;
}

/* The picture of a finished script. */
static int draw(const char *path, FILE *script)
{
    char *bytes = NULL;
    size_t len = 0;
    FILE *picture = open_memstream(&bytes, &len);
    int rc = picture ? run_gnuplot(script, picture) : -ENOMEM;

    if (picture && fclose(picture) && rc == 0)
        rc = -ENOMEM;
    if (rc) {
        log_error("--plot %s: gnuplot: %s", path,
                  rc < 0 ? strerror(-rc) : "failed, as it says above");
        rc = EXIT_FAILED;
    } else {
        rc = replace_file(path, bytes, len);
    }
    free(bytes);
    return rc;
}

int gnuplot_draw(const char *path, FILE *script)
{
    int rc = finish_script(script);

    if (rc < 0) {
        log_error("--plot %s: cannot write gnuplot's script: %s", path, strerror(-rc));
        rc = EXIT_FAILED;
    } else {
        rc = draw(path, script);
    }
    fclose(script);
    return rc;
}
