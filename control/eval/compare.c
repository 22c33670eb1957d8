/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/compare.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/divergence.h"
#include "control/log.h"
#include "control/progress.h"
#include "control/split_plan.h"
#include "control/splitpass.h"

enum { REFERENCE, MODEL, BOTH };

struct compare {
    struct splitpass pass[BOTH];
    struct divergence all, half; /* positions */
    float *ref;                  /* f32[EVAL_WINDOW][n_vocab] logits */
    const int32_t *ids;          /* of the window */
    uint32_t n;
};

static int failed(int rc)
{
    log_error("%s", strerror(-rc));
    return EXIT_FAILED;
}

/* A pair of halves is cut where it is cut. */
static int open_pass(const struct model *m, bool exact, struct team *team, struct splitpass *pass)
{
    struct splitpass_params p = {.ctx = EVAL_WINDOW, .n_seqs = 1, .exact = exact};
    int32_t split = -1;
    uint32_t cut;

    const int rc = split_of_half(m, &split);
    if (rc != EXIT_OK)
        return rc;
    if (split > 0) {
        cut = (uint32_t)split;
        p.cuts = &cut;
        p.n_cuts = 1;
    }
    return splitpass_open(m, &p, team, pass);
}

static int compare_open(const struct model *const m[BOTH], const struct eval_text *t, bool exact,
                        struct team *team, struct compare *c)
{
    *c = (struct compare){0};
    for (unsigned i = 0; i < BOTH; i++) {
        const int rc = open_pass(m[i], exact, team, &c->pass[i]);
        if (rc != EXIT_OK)
            return rc;
    }
    const uint32_t n_vocab = c->pass[REFERENCE].n_vocab;
    if (n_vocab != c->pass[MODEL].n_vocab) {
        log_error("%s has %u tokens in its vocabulary, %s has %u: they can't be compared",
                  m[REFERENCE]->path, n_vocab, m[MODEL]->path, c->pass[MODEL].n_vocab);
        return EXIT_USAGE;
    }
    c->ref = malloc((size_t)EVAL_WINDOW * n_vocab * sizeof *c->ref);
    int rc = c->ref ? divergence_open(&c->all, n_vocab, t->n) : -ENOMEM;
    if (rc == 0)
        rc = divergence_open(&c->half, n_vocab, t->n);
    return rc ? failed(rc) : EXIT_OK;
}

static void compare_close(struct compare *c)
{
    for (unsigned i = 0; i < BOTH; i++)
        splitpass_close(&c->pass[i]);
    divergence_close(&c->all);
    divergence_close(&c->half);
    free(c->ref);
}

static void keep(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                 const float *logits)
{
    struct compare *c = arg;
    const size_t n_vocab = c->pass[REFERENCE].n_vocab;

    memcpy(c->ref + first * n_vocab, logits, count * n_vocab * sizeof *logits);
}

static void add(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                const float *logits)
{
    struct compare *c = arg;
    const size_t n_vocab = c->pass[REFERENCE].n_vocab;

    for (uint32_t pos = first; pos < first + count; pos++) {
        const float *ref = c->ref + pos * n_vocab, *got = logits + (pos - first) * n_vocab;
        const int32_t next = pos + 1 < c->n ? c->ids[pos + 1] : -1;
        const bool half = pos >= c->n / 2;

        divergence_add(&c->all, ref, got, next, half);
        if (half)
            divergence_add(&c->half, ref, got, next, true);
    }
}

static int compare_window(struct compare *c)
{
    const struct stage_rows rows = {.n = c->n, .n_logits = c->n};
    struct splitpass *ref = &c->pass[REFERENCE], *got = &c->pass[MODEL];
    int rc = splitpass_run(ref, 0, ref->n_parts - 1, &rows, 1, c->ids, NULL, NULL, keep, c);

    if (rc == 0)
        rc = splitpass_run(got, 0, got->n_parts - 1, &rows, 1, c->ids, NULL, NULL, add, c);
    return rc ? failed(rc) : EXIT_OK;
}

static int print(struct compare *c, const struct model *const m[BOTH], bool exact)
{
    const struct divergence_summary all = divergence_summary(&c->all);
    const struct divergence_summary half = divergence_summary(&c->half);

    if (!isfinite(all.kl_mean)) {
        log_error("the models' logits are not finite: a file must be damaged");
        return EXIT_FAILED;
    }
    json_t *o = json_pack("{s:s, s:s, s:b, s:i, s:f, s:f, s:i, s:f, s:f, s:f, s:f}", "model",
                          m[MODEL]->path, "reference", m[REFERENCE]->path, "exact", exact, "tokens",
                          (int)c->all.n, "kl_mean", all.kl_mean, "top1", all.top1, "half_tokens",
                          (int)c->half.n, "half_kl_mean", half.kl_mean, "half_top1", half.top1,
                          "half_ppl", half.ppl, "half_ppl_ref", half.ppl_ref);
    if (!o) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(o);
    if (fflush(stdout) || ferror(stdout)) {
        log_error("stdout: %s", strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

int eval_compare(const struct model *reference, const struct model *m, const struct eval_text *t,
                 bool exact, struct team *team)
{
    const struct model *const both[BOTH] = {reference, m};
    struct progress progress;
    struct compare c;
    int rc = compare_open(both, t, exact, team, &c);

    progress_start(&progress, "eval", t->n);
    for (uint32_t at = 0; at < t->n && rc == EXIT_OK; at += c.n) {
        c.ids = t->ids + at;
        c.n = t->n - at < EVAL_WINDOW ? t->n - at : EVAL_WINDOW;
        rc = compare_window(&c);
        progress_add(&progress, c.n);
    }
    progress_clear(&progress);
    if (rc == EXIT_OK)
        rc = print(&c, both, exact);
    compare_close(&c);
    return rc;
}
