/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/gnuplot.h"
#include "control/log.h"

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
    fprintf(script, "set xlabel \"bytes a token\"\n"
                    "set ylabel \"mean KL, nats\"\n"
                    "set logscale y\n"
                    "set format y \"%%g\"\n"
                    "set grid\n"
                    "set offsets graph 0.05, graph 0.05, 0, 0\n"
                    "set key noenhanced\n");
    write_curves(script, f, points, n);
    const int rc = fclose(f) == 0 ? 0 : -ENOMEM;
    if (rc == 0)
        fprintf(script, "%s\n", plot);
    free(plot);
    return rc;
}

int eval_plot(const char *path, const struct eval_result *results, size_t n)
{
    const struct eval_result **points = malloc((n + 1) * sizeof(*points));
    size_t n_points = 0;
    FILE *script = NULL;
    int rc = EXIT_FAILED;

    for (size_t i = 0; points && i < n; i++)
        if (drawable(&results[i]))
            points[n_points++] = &results[i];
    if (!points) {
        log_error("--plot %s: out of memory", path);
    } else if (n_points == 0) {
        log_error("--plot %s: nothing to draw: no codec here has a mean KL above 0", path);
    } else if ((script = gnuplot_script(path))) {
        qsort(points, n_points, sizeof(*points), by_rate);
        if (write_script(script, points, n_points) == 0) {
            rc = gnuplot_draw(path, script);
        } else {
            log_error("--plot %s: out of memory", path);
            fclose(script);
        }
    }
    free(points);
    return rc;
}
