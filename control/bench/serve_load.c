/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/serve_load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/progress.h"
#include "control/signals.h"
#include "dataplane/port.h"

#define FAR_NS      1000000000000000000u
#define ARRIVAL     0x6172726976616c73u /* so that arrivals and prompts are not of one sequence */
#define WARM_SEED   0x7761726d7570u
#define INTRUDE     0x696e7472756465u
#define TELL_STEP_S .5

/* A time that was not over when all was. */
struct open_time {
    unsigned kind;
    bool gap; /* else until the first text */
    uint64_t age_ns;
};

struct load {
    const struct load_params *p;
    struct load_figures *figures;
    struct client *client;
    struct progress progress;
    double told_s;
    uint64_t start_ns;
    uint64_t asked[LOAD_KINDS];
    uint64_t due_ns, intruder_due_ns; /* of the next, in an open loop; of the next intruder */
    unsigned running[LOAD_KINDS];
    struct open_time *open; /* room for what is under way, one each */
    size_t n_open;
    bool failed; /* no memory */
};

/* --- what came of one
 * ----------------------------------------------------------------------------- */

static bool within(const struct load_params *p, const struct call_result *r, double ttft_s,
                   double tpot_s)
{
    return r->first_ns && (p->slo_ttft_s == 0 || ttft_s <= p->slo_ttft_s) &&
           (p->slo_tpot_s == 0 || isnan(tpot_s) || tpot_s <= p->slo_tpot_s);
}

/* Of what came so far. */
static void take_texts(struct load_figures *f, const struct call_result *r)
{
    f->tokens += r->tokens;
    if (r->first_ns)
        histogram_add(&f->ttft, r->first_ns - r->due_ns);
    for (size_t i = 0; i < r->n_gaps; i++)
        histogram_add(&f->gap, r->gaps_ns[i]);
}

static void take_whole(const struct load_params *p, struct load_figures *f,
                       const struct call_result *r)
{
    double tpot_s = NAN, ttft_s = (double)(r->first_ns - r->due_ns) * 1e-9;
    histogram_add(&f->end_to_end, r->end_ns - r->due_ns);
    if (r->prompt_tokens >= 0) {
        f->prompt_tokens += (uint64_t)r->prompt_tokens;
        f->prompts_counted++;
    }
    if (r->first_ns && r->tokens > 1) {
        const double ns = (double)(r->last_ns - r->first_ns) / (double)(r->tokens - 1);
        histogram_add(&f->tpot, (uint64_t)ns);
        tpot_s = ns * 1e-9;
    }
    f->good += within(p, r, ttft_s, tpot_s);
}

static void ended(void *arg, const struct call_result *r)
{
    struct load *l = arg;
    struct load_figures *f = &l->figures[r->kind];
    l->running[r->kind]--;
    if (!f->outcomes[r->outcome]++ && r->outcome >= CALL_CONNECT)
        snprintf(f->why[r->outcome], sizeof f->why[0], "%s", r->why);
    if (r->end_ns > f->last_end_ns)
        f->last_end_ns = r->end_ns;
    if (r->outcome > CALL_UNDER_WAY)
        return;
    take_texts(f, r);
    if (r->outcome == CALL_OK)
        take_whole(l->p, f, r);
    else
        l->open[l->n_open++] =
            (struct open_time){.kind = r->kind,
                               .gap = r->first_ns,
                               .age_ns = r->end_ns - (r->first_ns ? r->last_ns : r->due_ns)};
}

/* A server that stands still makes no gaps that end: what is open counts as its age. One that is
 * younger than most gaps says nothing, and would only make them look shorter. */
static void take_open(struct load *l)
{
    double median[LOAD_KINDS][2];
    for (unsigned k = 0; k < LOAD_KINDS; k++) {
        median[k][false] = histogram_at(&l->figures[k].ttft, .5);
        median[k][true] = histogram_at(&l->figures[k].gap, .5);
    }
    for (size_t i = 0; i < l->n_open; i++) {
        const struct open_time *o = &l->open[i];
        struct load_figures *f = &l->figures[o->kind];
        if ((double)o->age_ns < median[o->kind][o->gap]) /* never, when it is NAN */
            continue;
        histogram_add(o->gap ? &f->gap : &f->ttft, o->age_ns);
        *(o->gap ? &f->gap_open : &f->ttft_open) += 1;
    }
}

/* All is over. */
static int cut_off(struct load *l)
{
    l->open = calloc(client_busy(l->client) + 1, sizeof *l->open);
    if (!l->open) {
        log_error("out of memory for what is under way");
        return EXIT_FAILED;
    }
    const int rc = client_cut_off(l->client);
    take_open(l);
    free(l->open);
    if (rc < 0)
        log_error("libcurl failed");
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

/* --- asking
 * --------------------------------------------------------------------------------------- */

static void ask(struct load *l, enum load_kind kind, uint64_t due_ns)
{
    struct prompts_ask of = kind == LOAD_INTRUDER ? l->p->intruder : l->p->ask;
    bool chat;
    size_t len;
    of.seed ^= kind == LOAD_INTRUDER ? INTRUDE : kind == LOAD_WARM ? WARM_SEED : 0;
    char *body = prompts_body(kind == LOAD_INTRUDER ? NULL : l->p->prompts, &of, l->asked[kind],
                              &chat, &len);
    if (!body || client_ask(l->client, kind, due_ns, chat, body, len) < 0) {
        l->failed = true;
        return;
    }
    struct load_figures *f = &l->figures[kind];
    if (!f->requests++)
        f->first_due_ns = due_ns;
    l->asked[kind]++;
    l->running[kind]++;
}

static uint64_t end_ns(const struct load *l)
{
    return l->start_ns + (l->p->duration_s > 0 ? (uint64_t)(l->p->duration_s * 1e9) : FAR_NS);
}

static bool all_asked(const struct load *l)
{
    return l->p->requests && l->asked[LOAD_MAIN] >= l->p->requests;
}

/* Exponentially distributed, so that arrivals are Poisson's. */
static uint64_t gap_ns(const struct load *l, uint64_t n)
{
    return (uint64_t)(-log(prompts_chance(l->p->ask.seed ^ ARRIVAL, n)) / l->p->rate_per_s * 1e9);
}

/* All that is due. When the next will be. */
static uint64_t ask_due(struct load *l, uint64_t now_ns)
{
    if (l->p->rate_per_s == 0) {
        while (!l->failed && l->running[LOAD_MAIN] < l->p->concurrency && !all_asked(l))
            ask(l, LOAD_MAIN, now_ns);
        return now_ns + FAR_NS;
    }
    while (!l->failed && l->due_ns <= now_ns && l->due_ns < end_ns(l) && !all_asked(l)) {
        ask(l, LOAD_MAIN, l->due_ns);
        l->due_ns += gap_ns(l, l->asked[LOAD_MAIN]);
    }
    return all_asked(l) ? now_ns + FAR_NS : l->due_ns;
}

static uint64_t intrude(struct load *l, uint64_t now_ns)
{
    if (l->p->intruder_every_s == 0 || (all_asked(l) && !l->running[LOAD_MAIN]))
        return now_ns + FAR_NS;
    while (!l->failed && l->intruder_due_ns <= now_ns && l->intruder_due_ns < end_ns(l)) {
        ask(l, LOAD_INTRUDER, l->intruder_due_ns);
        l->intruder_due_ns += (uint64_t)(l->p->intruder_every_s * 1e9);
    }
    return l->intruder_due_ns;
}

/* --- the run
 * -------------------------------------------------------------------------------------- */

/* By requests, or by time where only that ends it. */
static void tell(struct load *l, uint64_t now_ns)
{
    const double s = (double)(now_ns - l->start_ns) * 1e-9;
    if (s - l->told_s < TELL_STEP_S)
        return;
    l->told_s = s;
    uint64_t done = l->asked[LOAD_MAIN] - l->running[LOAD_MAIN];
    if (!l->p->requests)
        done = (uint64_t)(s * 1e3);
    if (done < l->progress.total)
        progress_add(&l->progress, done - l->progress.done);
}

static int step(struct load *l, uint64_t until_ns)
{
    if (signals_caught())
        return EXIT_INTERRUPTED;
    if (l->failed) {
        log_error("out of memory for a request");
        return EXIT_FAILED;
    }
    if (client_step(l->client, until_ns) < 0) {
        log_error("libcurl failed");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static int warm_up(struct load *l)
{
    const uint32_t most = l->p->rate_per_s > 0 ? 1 : l->p->concurrency;
    int rc = EXIT_OK;
    while (rc == EXIT_OK && (l->asked[LOAD_WARM] < l->p->warmup || client_busy(l->client))) {
        while (!l->failed && l->asked[LOAD_WARM] < l->p->warmup && l->running[LOAD_WARM] < most)
            ask(l, LOAD_WARM, port_now_ns());
        rc = step(l, port_now_ns() + FAR_NS);
    }
    return rc;
}

static int run(struct load *l)
{
    int rc = warm_up(l);
    l->start_ns = l->due_ns = port_now_ns();
    if (l->p->rate_per_s > 0)
        l->due_ns += gap_ns(l, 0);
    l->intruder_due_ns = l->start_ns + (uint64_t)(l->p->intruder_every_s * 1e9);
    progress_start(&l->progress, "bench serve",
                   l->p->requests ? l->p->requests : (uint64_t)(l->p->duration_s * 1e3));
    while (rc == EXIT_OK) {
        const uint64_t now_ns = port_now_ns();
        if (now_ns >= end_ns(l))
            break;
        uint64_t until_ns = end_ns(l);
        const uint64_t due_ns = ask_due(l, now_ns), intruder_ns = intrude(l, now_ns);
        if (all_asked(l) && !l->running[LOAD_MAIN])
            break; /* intruders that are still there are cut off */
        tell(l, now_ns);
        until_ns = due_ns < until_ns ? due_ns : until_ns;
        rc = step(l, intruder_ns < until_ns ? intruder_ns : until_ns);
    }
    progress_clear(&l->progress);
    const int over = rc == EXIT_FAILED ? rc : cut_off(l);
    return over == EXIT_OK ? rc : over;
}

int load_run(const struct load_params *p, struct load_figures *figures)
{
    struct load l = {.p = p, .figures = figures};
    const struct client_params c = {
        .url = p->url, .key = p->key, .timeout_s = p->timeout_s, .on_end = ended, .arg = &l};
    if (client_open(&c, &l.client) < 0) {
        log_error("cannot start libcurl: out of memory");
        return EXIT_FAILED;
    }
    const int rc = run(&l);
    client_close(l.client);
    return rc;
}
