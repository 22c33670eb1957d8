/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/serve_report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "control/bench/machine.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/gnuplot.h"
#include "control/log.h"

/* --- rows
 * ----------------------------------------------------------------------------------------- */

#define TIMES(name, heading)                                                                       \
    {name "_p50_ms", heading " p50, ms", 1}, {name "_p90_ms", heading " p90", 1},                  \
        {name "_p99_ms", heading " p99", 1},                                                       \
    {                                                                                              \
        name "_max_ms", NULL, 1                                                                    \
    }

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"kind", "requests of", TABLE_TEXT},
    {"requests", "requests", TABLE_COUNT},
    {"ok", "ok", TABLE_COUNT},
    {"tokens_per_s", "tokens/s", 1},
    TIMES("ttft", "first token"),
    TIMES("itl", "token to token"),
    TIMES("tpot", "a token's share"),
    TIMES("e2e", "whole"),
    {"goodput_per_s", "good/s", 2},
    {"slo_share", "within SLO", 3},
    {"requests_per_s", NULL, 3},
    {"duration_s", NULL, 3},
    {"tokens", NULL, TABLE_COUNT},
    {"prompt_tokens_mean", NULL, 1},
    {"unfinished", "cut off", TABLE_COUNT},
    {"errors", "failed", TABLE_COUNT},
    {"errors_connect", NULL, TABLE_COUNT},
    {"errors_busy", NULL, TABLE_COUNT},
    {"errors_http", NULL, TABLE_COUNT},
    {"errors_server", NULL, TABLE_COUNT},
    {"errors_cut", NULL, TABLE_COUNT},
    {"errors_malformed", NULL, TABLE_COUNT},
    {"errors_timeout", NULL, TABLE_COUNT},
    {"begun", NULL, TABLE_COUNT},
    {"ttft_open", NULL, TABLE_COUNT},
    {"itl_open", NULL, TABLE_COUNT},
    {"loop", NULL, TABLE_TEXT},
    {"rate_per_s", NULL, TABLE_REAL},
    {"concurrency", NULL, TABLE_COUNT},
    {"warmup", NULL, TABLE_COUNT},
    {"prompt_tokens_asked", NULL, TABLE_COUNT},
    {"max_tokens_asked", NULL, TABLE_COUNT},
    {"every_s", NULL, TABLE_REAL},
    {"slo_ttft_ms", NULL, TABLE_REAL},
    {"slo_tpot_ms", NULL, TABLE_REAL},
    {"seed", NULL, TABLE_COUNT},
    {"model", NULL, TABLE_TEXT},
    {"url", NULL, TABLE_TEXT},
    {"cpu", NULL, TABLE_TEXT},
    {"cores", NULL, TABLE_COUNT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define COLUMNS (sizeof columns / sizeof *columns - 1)

struct row {
    struct table_cell cells[COLUMNS];
    unsigned n;
};

static void put(struct row *r, double value)
{
    r->cells[r->n++] = (struct table_cell){.value = value};
}

static void put_text(struct row *r, const char *text)
{
    r->cells[r->n++] = (struct table_cell){.text = text};
}

static void put_times(struct row *r, const struct histogram *h)
{
    put(r, histogram_at(h, .5) * 1e-6);
    put(r, histogram_at(h, .9) * 1e-6);
    put(r, histogram_at(h, .99) * 1e-6);
    put(r, h->n ? (double)h->max_ns * 1e-6 : NAN);
}

static double or_none(double value)
{
    return value > 0 ? value : NAN;
}

static void put_results(struct row *r, const struct load_params *p, const struct load_figures *f,
                        enum load_kind kind)
{
    const double s = f->last_end_ns > f->first_due_ns
                         ? (double)(f->last_end_ns - f->first_due_ns) * 1e-9
                         : NAN; /* none has ended */
    const bool slo = kind == LOAD_MAIN && (p->slo_ttft_s > 0 || p->slo_tpot_s > 0);
    put(r, (double)f->requests);
    put(r, (double)f->outcomes[CALL_OK]);
    put(r, (double)f->tokens / s);
    put_times(r, &f->ttft);
    put_times(r, &f->gap);
    put_times(r, &f->tpot);
    put_times(r, &f->end_to_end);
    put(r, slo ? (double)f->good / s : NAN);
    put(r, slo ? (double)f->good / (double)f->requests : NAN);
    put(r, (double)f->outcomes[CALL_OK] / s);
    put(r, s);
    put(r, (double)f->tokens);
    put(r, (double)f->prompt_tokens / (double)f->prompts_counted);
    put(r, (double)f->outcomes[CALL_UNDER_WAY]);
    uint64_t errors = 0;
    for (unsigned o = CALL_CONNECT; o < CALL_OUTCOMES; o++)
        errors += f->outcomes[o];
    put(r, (double)errors);
    for (unsigned o = CALL_CONNECT; o < CALL_OUTCOMES; o++)
        put(r, (double)f->outcomes[o]);
    put(r, (double)(f->ttft.n - f->ttft_open));
    put(r, (double)f->ttft_open);
    put(r, (double)f->gap_open);
}

static void put_settings(struct row *r, const struct load_params *p, enum load_kind kind)
{
    const bool intruder = kind == LOAD_INTRUDER, open = intruder || p->rate_per_s > 0;
    const struct prompts_ask *ask = intruder ? &p->intruder : &p->ask;
    put_text(r, open ? "open" : "closed");
    put(r, intruder ? NAN : or_none(p->rate_per_s));
    put(r, open ? NAN : p->concurrency);
    put(r, intruder ? NAN : p->warmup);
    put(r, !intruder && p->prompts ? NAN : ask->prompt_tokens);
    put(r, ask->max_tokens);
    put(r, intruder ? p->intruder_every_s : NAN);
    put(r, intruder ? NAN : or_none(p->slo_ttft_s * 1e3));
    put(r, intruder ? NAN : or_none(p->slo_tpot_s * 1e3));
    put(r, (double)ask->seed);
    put_text(r, ask->model);
    put_text(r, p->url);
}

static void say_errors(const char *whose, const struct load_figures *f)
{
    for (enum call_outcome o = CALL_CONNECT; o < CALL_OUTCOMES; o++)
        if (f->outcomes[o])
            log_warn("%s: %llu of %llu requests failed (%s), the first: %s", whose,
                     (unsigned long long)f->outcomes[o], (unsigned long long)f->requests,
                     call_outcome_name(o), f->why[o]);
}

int serve_report(enum table_format format, const struct load_params *p,
                 const struct load_figures *figures)
{
    static const char *const names[] = {"load", "intruder"};
    struct machine m;
    const int err = machine_read(&m);
    if (err < 0) {
        log_error("cannot read this machine's topology: %s", strerror(-err));
        return EXIT_FAILED;
    }
    if (format == TABLE_MD)
        printf("%s, %u cores; %s; isthmus %s (%s) asking %s for %s\n\n", m.cpu, m.cores, m.kernel,
               ISTHMUS_VERSION, ISTHMUS_COMMIT, p->url, p->ask.model);
    int rc = table_head(format, columns);
    for (enum load_kind k = LOAD_MAIN; k <= LOAD_INTRUDER && rc == EXIT_OK; k++) {
        const struct load_figures *f = &figures[k];
        struct row r = {.n = 0};
        if (k == LOAD_INTRUDER && !f->requests)
            continue;
        put_text(&r, "serve");
        put_text(&r, names[k]);
        put_results(&r, p, f, k);
        put_settings(&r, p, k);
        put_text(&r, m.cpu);
        put(&r, m.cores);
        put_text(&r, m.kernel);
        put_text(&r, ISTHMUS_VERSION);
        put_text(&r, ISTHMUS_COMMIT);
        rc = table_row(format, columns, r.cells);
    }
    say_errors("warm-up", &figures[LOAD_WARM]);
    say_errors("load", &figures[LOAD_MAIN]);
    say_errors("intruder", &figures[LOAD_INTRUDER]);
    return rc;
}

/* --- a picture
 * ------------------------------------------------------------------------------------ */

#define POINTS 200

struct curve {
    const char *title;
    const struct histogram *times;
};

static void write_curve(FILE *script, unsigned n, const struct histogram *h)
{
    fprintf(script, "$curve%u << END\n", n);
    for (unsigned i = 0; i <= POINTS; i++) {
        const double share = (double)i / POINTS;
        const double ns = i ? histogram_at(h, share) : (double)h->min_ns;
        fprintf(script, "%.6g %.4f\n", fmax(ns, 1e3) * 1e-6, share);
    }
    fprintf(script, "END\n");
}

int serve_plot(const char *path, const struct load_figures *figures)
{
    const struct load_figures *f = &figures[LOAD_MAIN];
    const struct curve curves[] = {{"first token", &f->ttft},
                                   {"token to token", &f->gap},
                                   {"whole answer", &f->end_to_end},
                                   {"intruder's first token", &figures[LOAD_INTRUDER].ttft}};
    const size_t n = sizeof curves / sizeof *curves;
    if (!f->ttft.n) {
        log_error("--plot %s: nothing to draw: no text came", path);
        return EXIT_FAILED;
    }
    FILE *script = gnuplot_script(path);
    if (!script)
        return EXIT_FAILED;
    fprintf(script, "set xlabel \"ms\"\n"
                    "set ylabel \"share of all that took no longer\"\n"
                    "set logscale x\n"
                    "set format x \"%%g\"\n"
                    "set yrange [0:1]\n"
                    "set grid\n"
                    "set key bottom right\n");
    for (unsigned i = 0; i < n; i++)
        if (curves[i].times->n)
            write_curve(script, i, curves[i].times);
    const char *before = "plot ";
    for (unsigned i = 0; i < n; i++)
        if (curves[i].times->n) {
            fprintf(script, "%s$curve%u using 1:2 with lines linewidth 2 title \"%s\"", before, i,
                    curves[i].title);
            before = ", ";
        }
    fprintf(script, "\n");
    return gnuplot_draw(path, script);
}
