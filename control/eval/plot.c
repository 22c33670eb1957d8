/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/replace_file.h"

extern char **environ;

/* --- gnuplot --------------------------------------------------------------------------------- */

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

int eval_plot_check(const char *path)
{
    const int rc = replace_file_check(path);

    return rc == EXIT_OK ? check_gnuplot() : rc;
}

/* --- the curves ------------------------------------------------------------------------------ */

static bool drawable(const struct eval_result *r)
{
    return isfinite(r->kl_mean) && r->kl_mean > 0;
}

static bool same_curve(const struct eval_result *a, const struct eval_result *b)
{
    const size_t n = strcspn(a->codec, ":");

    return n == strcspn(b->codec, ":") && strncmp(a->codec, b->codec, n) == 0 &&
           a->split == b->split && a->exact == b->exact;
}

/* Along x, so that the line does not turn back. */
static int by_rate(const void *a, const void *b)
{
    const struct eval_result *x = *(const struct eval_result *const *)a;
    const struct eval_result *y = *(const struct eval_result *const *)b;

    return (x->bytes_per_token > y->bytes_per_token) - (x->bytes_per_token < y->bytes_per_token);
}

/* A data block of gnuplot for each curve, and what draws it into `plot`. */
static void write_curves(FILE *script, FILE *plot, const struct eval_result **points, size_t n)
{
    unsigned curve = 0;

    for (size_t i = 0; i < n; i++) {
        const struct eval_result *first = points[i];
        if (!first)
            continue;
        fprintf(script, "$curve%u << END\n", curve);
        for (size_t k = i; k < n; k++)
            if (points[k] && same_curve(first, points[k])) {
                fprintf(script, "%.9g %.9g\n", points[k]->bytes_per_token, points[k]->kl_mean);
                points[k] = NULL;
            }
        fprintf(script, "END\n");
        fprintf(plot,
                "%s$curve%u using 1:2 with linespoints pointtype 7 dashtype %d title \"%.*s, split "
                "%.0f%s\"",
                curve ? ", " : "plot ", curve, first->exact ? 2 : 1,
                (int)strcspn(first->codec, ":"), first->codec, first->split,
                first->exact ? ", f32 arithmetic" : "");
        curve++;
    }
}

/* points: sorted along x; spent. 0 or -errno. */
static int write_script(FILE *script, const struct eval_result **points, size_t n)
{
    char *plot = NULL;
    size_t len;
    FILE *f = open_memstream(&plot, &len);

    if (!f)
        return -ENOMEM;
    fprintf(script, "set terminal pngcairo size 960,640\n"
                    "set xlabel \"bytes a token\"\n"
                    "set ylabel \"mean KL, nats\"\n"
                    "set logscale y\n"
                    "set format y \"%%g\"\n"
                    "set grid\n"
                    "set offsets graph 0.05, graph 0.05, 0, 0\n"
                    "set key noenhanced\n");
    write_curves(script, f, points, n);
    if (fclose(f) == 0)
        fprintf(script, "%s\n", plot);
    free(plot);
    if (fflush(script) || ferror(script))
        return -EIO;
    rewind(script);
    return lseek(fileno(script), 0, SEEK_SET) < 0 ? -errno : 0;
}

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

int eval_plot(const char *path, const struct eval_result *results, size_t n)
{
    const struct eval_result **points = malloc((n + 1) * sizeof(*points));
    size_t n_points = 0;
    FILE *script = tmpfile();
    int rc = script ? 0 : -errno;

    if (!points)
        rc = -ENOMEM;
    for (size_t i = 0; i < n && rc == 0; i++)
        if (drawable(&results[i]))
            points[n_points++] = &results[i];
    if (rc == 0 && n_points == 0) {
        log_error("--plot %s: nothing to draw: no codec here has a mean KL above 0", path);
        rc = EXIT_FAILED;
    } else {
        if (rc == 0)
            qsort(points, n_points, sizeof(*points), by_rate);
        if (rc == 0)
            rc = write_script(script, points, n_points);
        if (rc < 0) {
            log_error("--plot %s: cannot write gnuplot's script: %s", path, strerror(-rc));
            rc = EXIT_FAILED;
        } else {
            rc = draw(path, script);
        }
    }
    free(points);
    if (script)
        fclose(script);
    return rc;
}
