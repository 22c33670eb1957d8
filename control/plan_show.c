/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan_show.h"

#include <math.h>
#include <stdio.h>

#include "control/cmd.h"
#include "control/log.h"

static const struct {
    const char *name, *option;
} metrics[PLAN_METRICS] = {
    [PLAN_EDGE_BYTES] = {"edge memory", "--edge-memory"},
    [PLAN_CLOUD_BYTES] = {"cloud memory", "--cloud-memory"},
    [PLAN_KL] = {"KL", "--max-kl"},
    [PLAN_TTFT] = {"TTFT", "--max-ttft"},
    [PLAN_TPOT] = {"TPOT", "--max-tpot"},
};

const char *plan_limit_option(enum plan_metric m)
{
    return metrics[m].option;
}

char *plan_amount(enum plan_metric m, double x, char to[PLAN_AMOUNT])
{
    if (x == INFINITY)
        snprintf(to, PLAN_AMOUNT, "-");
    else if (m == PLAN_EDGE_BYTES || m == PLAN_CLOUD_BYTES)
        snprintf(to, PLAN_AMOUNT, "%.1f MB", x * 1e-6);
    else if (m == PLAN_KL)
        snprintf(to, PLAN_AMOUNT, "%.4f", x);
    else
        snprintf(to, PLAN_AMOUNT, "%.*f ms", x < .1 ? 2 : 0, x * 1e3);
    return to;
}

bool plan_is_runnable(const struct plan *p, char *why)
{
    if (p->home != PLAN_KV_EDGE)
        return true;
    snprintf(why, PLAN_ERR,
             "a cloud's keys and values at the edge: they don't travel in this version");
    return false;
}

static const char *codec_name(const struct plan_paper *p, const struct plan *plan)
{
    return p->w->quality->codecs[plan->codec].text;
}

static bool needs_calibration(const struct plan *b)
{
    return !plan_scheme_is_standard(b->front) || !plan_scheme_is_standard(b->back);
}

char *plan_calibration_note(const struct plan_paper *p, const struct plan *b, char *to)
{
    const char *of = p->w->quality->calibration;

    *to = '\0';
    if (needs_calibration(b))
        snprintf(to, PLAN_ERR, " (FILE: by isthmus calibrate, from a text%s%.200s)",
                 *of ? "; the KL is that with " : "", of);
    return to;
}

char *plan_quantize_command(const struct plan_paper *p, const struct plan *b, char *to)
{
    if (b->front == PLAN_KEEP && b->back == PLAN_KEEP)
        return NULL;
    snprintf(to, PLAN_COMMAND, "isthmus quantize -m %s --split %u --front %s --back %s%s -o %s",
             p->model, b->split, plan_scheme_name(b->front), plan_scheme_name(b->back),
             needs_calibration(b) ? " --calibration FILE" : "", p->folder ? p->folder : "DIR");
    return to;
}

/* --- the plan -----------------------------------------------------------------------------------
 */

static void show_choice(const struct plan_paper *p, const struct plan *b)
{
    const struct plan_codec *c = &p->w->quality->codecs[b->codec];
    char why[PLAN_ERR], command[PLAN_COMMAND];

    printf("%s: split %u+%u, weights %s and %s, keys and values as %s%s, rows by %s%s%s, chunks of "
           "%u, "
           "context %u, %u session%s\n",
           p->model, b->split, p->w->m->n_layers - b->split, plan_scheme_name(b->front),
           plan_scheme_name(b->back), kv_format_name(b->kv),
           b->home == PLAN_KV_EDGE ? ", all at the edge" : "", c->text, *c->profile ? " with " : "",
           c->profile, b->chunk, b->context, b->sessions, b->sessions == 1 ? "" : "s");
    if (!plan_is_runnable(b, why))
        printf("not runnable: %s\n", why);
    if (plan_quantize_command(p, b, command))
        printf("its weights: %s%s\n", command, plan_calibration_note(p, b, why));
}

/* In one line, since nobody asked for that limit. */
static void show_more_kl(const struct plan_paper *p, const struct plan *b)
{
    const enum plan_metric m = p->w->least;
    char kl[PLAN_AMOUNT], limit[PLAN_AMOUNT], now[PLAN_AMOUNT], then[PLAN_AMOUNT];

    printf("--max-kl is its default, %s: from %s on a front in %s fits, at split %u, with %s %s "
           "instead of %s\n",
           plan_amount(PLAN_KL, p->w->limit[PLAN_KL], limit),
           plan_amount(PLAN_KL, ceil(b->metric[PLAN_KL] * 1e4) * 1e-4, kl),
           plan_scheme_name(b->front), b->split, metrics[m].name,
           plan_amount(m, b->metric[m], then), plan_amount(m, p->a->best.metric[m], now));
}

/* As it was asked for. */
static char *limit_text(const struct plan_paper *p, enum plan_metric m, char to[PLAN_AMOUNT])
{
    return plan_amount(m, plan_limit_for(m, p->w->limit[m]), to);
}

static double reserve(const struct plan_paper *p, enum plan_metric m)
{
    const double limit = p->w->limit[m];
    return limit == INFINITY ? INFINITY : plan_limit_for(m, limit) - limit;
}

static void show_memory(const struct plan_paper *p, const struct plan *b)
{
    char edge[PLAN_AMOUNT], cloud[PLAN_AMOUNT];

    printf("\n| memory | edge | cloud |\n|---|---:|---:|\n");
    for (unsigned t = 0; t < PLAN_MEMORY_TERMS; t++)
        printf("| %s | %s | %s |\n", plan_memory_term_name((enum plan_memory_term)t),
               plan_amount(PLAN_EDGE_BYTES, (double)b->edge.term[t], edge),
               plan_amount(PLAN_CLOUD_BYTES, (double)b->cloud.term[t], cloud));
    printf("| all | %s | %s |\n", plan_amount(PLAN_EDGE_BYTES, (double)b->edge.bytes, edge),
           plan_amount(PLAN_CLOUD_BYTES, (double)b->cloud.bytes, cloud));
    printf("| reserve, %.0f %% of the limit | %s | %s |\n", PLAN_RESERVE * 1e2,
           plan_amount(PLAN_EDGE_BYTES, reserve(p, PLAN_EDGE_BYTES), edge),
           plan_amount(PLAN_CLOUD_BYTES, reserve(p, PLAN_CLOUD_BYTES), cloud));
    printf("| limit | %s | %s |\n", limit_text(p, PLAN_EDGE_BYTES, edge),
           limit_text(p, PLAN_CLOUD_BYTES, cloud));
}

static uint32_t prompt_of(const struct plan_wish *w, const struct plan *b)
{
    return w->prompt && w->prompt < b->context ? w->prompt : b->context - 1;
}

static void show_time(const struct plan_paper *p, const struct plan *b)
{
    const struct {
        const char *what;
        double s;
    } parts[] = {
        {"edge's layers", b->time.edge_s}, {"rows on the link", b->time.up_s},
        {"round trip", b->time.rtt_s},     {"cloud's layers", b->time.cloud_s},
        {"head", b->time.head_s},          {"waking up", b->time.wake_s},
        {"TPOT", b->time.tpot_s},          {"its limit", p->w->limit[PLAN_TPOT]},
        {"TTFT", b->time.ttft_s},          {"its limit", p->w->limit[PLAN_TTFT]},
    };
    char text[PLAN_AMOUNT];

    printf("\n| time of a token at the context's end | |\n|---|---:|\n");
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (i == 8)
            printf("| TTFT of %u tokens | %s |\n", prompt_of(p->w, b),
                   plan_amount(PLAN_TTFT, parts[i].s, text));
        else
            printf("| %s | %s |\n", parts[i].what, plan_amount(PLAN_TPOT, parts[i].s, text));
    }
    printf("%.0f bytes a token on the wire\n", b->time.wire_bytes);
}

static void show_quality(const struct plan_paper *p, const struct plan *b)
{
    char limit[PLAN_AMOUNT];

    printf(
        "\n| KL of | |\n|---|---:|\n| front weights | %.4f |\n| back weights | %.4f |\n| keys and "
        "values | %.4f |\n| rows | %.4f |\n| all | %.4f |\n| limit | %s |\n",
        b->front_kl, b->back_kl, b->kv_kl, b->row.kl, b->metric[PLAN_KL],
        plan_amount(PLAN_KL, p->w->limit[PLAN_KL], limit));
}

static void show_row(const struct plan_paper *p, const char *what, const struct plan *b)
{
    char text[PLAN_METRICS][PLAN_AMOUNT];

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        plan_amount((enum plan_metric)m, b->metric[m], text[m]);
    printf("| %s | %u | %s | %s | %s%s | %s | %u | %s | %s | %s | %s | %s |\n", what, b->split,
           plan_scheme_name(b->front), plan_scheme_name(b->back), kv_format_name(b->kv),
           b->home == PLAN_KV_EDGE ? " at the edge" : "", codec_name(p, b), b->chunk,
           text[PLAN_TPOT], text[PLAN_TTFT], text[PLAN_KL], text[PLAN_EDGE_BYTES],
           text[PLAN_CLOUD_BYTES]);
}

static void show_rows_head(const char *what)
{
    printf("\n| %s | split | front | back | KV | codec | chunk | TPOT | TTFT | KL | edge | cloud "
           "|\n|---|---:|---|---|---|---|---:|---:|---:|---:|---:|---:|\n",
           what);
}

static void show_found(const struct plan_paper *p)
{
    char what[64];

    show_choice(p, &p->a->best);
    if (p->more_kl)
        show_more_kl(p, p->more_kl);
    show_memory(p, &p->a->best);
    show_time(p, &p->a->best);
    show_quality(p, &p->a->best);
    show_rows_head("beside it");
    show_row(p, "**this plan**", &p->a->best);
    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        snprintf(what, sizeof what, "less %s", metrics[m].name);
        if (p->a->has_next[m])
            show_row(p, what, &p->a->next[m]);
    }
}

/* --- none ----------------------------------------------------------------------------------------
 */

static void show_none(const struct plan_paper *p)
{
    const struct plan_answer *a = p->a;
    char limit[PLAN_AMOUNT], need[PLAN_AMOUNT];
    bool any = false;

    if (!a->has_nearest) {
        static char why[PLAN_MISSING];
        printf("nothing to choose from: %s\n", plan_missing(p, why));
        return;
    }
    printf("no configuration fits: %s %s leaves none of those that keep the limits before it\n",
           metrics[a->ruled_out].option, limit_text(p, a->ruled_out, limit));
    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        if (!a->has_change[m])
            continue;
        printf("%s with %s of %s instead of %s\n", any ? "or" : "it would fit", metrics[m].option,
               plan_amount((enum plan_metric)m,
                           plan_limit_for((enum plan_metric)m, a->change[m].metric[m]), need),
               limit_text(p, (enum plan_metric)m, limit));
        any = true;
    }
    if (a->longest)
        printf("%s with --context %u\n", any ? "or" : "it would fit", a->longest);
    if (!any) {
        printf("no one limit alone keeps it from fitting; the nearest needs");
        for (unsigned m = 0; m < PLAN_METRICS; m++)
            if (a->nearest.metric[m] > p->w->limit[m])
                printf(" %s %s (%s is the limit)", metrics[m].option,
                       plan_amount((enum plan_metric)m,
                                   plan_limit_for((enum plan_metric)m, a->nearest.metric[m]), need),
                       limit_text(p, (enum plan_metric)m, limit));
        putchar('\n');
    }
    show_rows_head("it would be");
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (a->has_change[m])
            show_row(p, metrics[m].option, &a->change[m]);
    if (!any)
        show_row(p, "the nearest", &a->nearest);
}

int plan_show(const struct plan_paper *p)
{
    if (p->a->found)
        show_found(p);
    else
        show_none(p);
    if (fflush(stdout) != EOF && !ferror(stdout))
        return EXIT_OK;
    log_error("cannot write the plan");
    return EXIT_FAILED;
}
