/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"

extern char **environ;

/* --- gnuplot --------------------------------------------------------------------------------- */

/* Run it with these as its stdin and stdout. 0, -errno, or its status when it failed. */
static int run_gnuplot(char *const argv[], int in, int out)
{
    posix_spawn_file_actions_t files;
    pid_t pid;
    int status, rc = posix_spawn_file_actions_init(&files);

    if (rc)
        return -rc;
    rc = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawnp(&pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (rc)
        return -rc;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* --- the file -------------------------------------------------------------------------------- */

/* A new file beside the one that it will become; its name is malloc'd into *name. A descriptor or
 * -errno. */
static int open_beside(const char *path, char **name)
{
    if (asprintf(name, "%s.XXXXXX", path) < 0) {
        *name = NULL;
        return -ENOMEM;
    }
    const int fd = mkostemp(*name, O_CLOEXEC);
    if (fd < 0) {
        const int rc = -errno;
        free(*name);
        *name = NULL;
        return rc;
    }
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    return fd;
}

static int cannot_write(const char *path, int rc)
{
    log_error("--plot %s: cannot write it: %s", path, strerror(-rc));
    return rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
}

static int check_gnuplot(void)
{
    char *argv[] = {(char[]){"gnuplot"}, (char[]){"--version"}, NULL};
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const int rc = null < 0 ? -errno : run_gnuplot(argv, null, null);

    if (null >= 0)
        close(null);
    if (rc == 0)
        return EXIT_OK;
    log_error("--plot needs gnuplot: %s: install the package gnuplot-nox",
              rc < 0 ? strerror(-rc) : "it does not run here");
    return EXIT_USAGE;
}

int eval_plot_check(const char *path)
{
    struct stat st;
    char *name;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        log_error("--plot %s: not a regular file: name one to write, e.g. curves.png", path);
        return EXIT_USAGE;
    }
    const int fd = open_beside(path, &name);
    if (fd < 0)
        return cannot_write(path, fd);
    close(fd);
    unlink(name);
    free(name);
    return check_gnuplot();
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

/* The script goes to gnuplot by its stdin, the picture comes by its stdout. */
static int draw(const char *path, FILE *script)
{
    char *argv[] = {(char[]){"gnuplot"}, NULL};
    char *name;
    const int fd = open_beside(path, &name);

    if (fd < 0)
        return cannot_write(path, fd), EXIT_FAILED;
    int rc = run_gnuplot(argv, fileno(script), fd);
    if (rc)
        log_error("--plot %s: gnuplot: %s", path,
                  rc < 0 ? strerror(-rc) : "failed, as it says above");
    /* A full disk may show only here. */
    if (close(fd) < 0 || (rc == 0 && rename(name, path) < 0)) {
        rc = -errno;
        cannot_write(path, rc);
    }
    if (rc)
        unlink(name);
    free(name);
    return rc ? EXIT_FAILED : EXIT_OK;
}

int eval_plot(const char *path, const struct eval_result *results, size_t n)
{
    const struct eval_result **points = malloc((n + 1) * sizeof(*points));
    FILE *script = tmpfile();
    size_t n_points = 0;
    int rc = points ? 0 : -ENOMEM;

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
            rc = script ? write_script(script, points, n_points) : -errno;
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
