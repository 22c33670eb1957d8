/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/choice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

#define STEPS_MAX (EVAL_CHOICES_MAX + 1)

/*
 * Items side by side, a sequence each. Step 0 runs their contexts, step 1 + k the k-th choice of
 * those that have one: it takes the last choice's place behind the context.
 */
struct group {
    const struct eval_item *items;
    uint32_t n_items;
    int32_t *ids; /* of all steps, as the batches have them */
    struct step {
        struct stage_rows batch[EVAL_CHOICE_SEQS]; /* seq: the item */
        size_t n_batch;
        uint32_t at; /* its first row in ids and in the rows kept */
    } steps[STEPS_MAX];
    uint32_t n_steps;

    /* one pass over it */
    size_t n_vocab;
    uint32_t step;
    double logprob[EVAL_CHOICE_SEQS][EVAL_CHOICES_MAX];
};

static uint32_t step_rows(const struct eval_item *it, uint32_t step)
{
    if (step == 0)
        return it->n_context;
    /* What would come after the last token is never asked. */
    return step <= it->n_choices ? it->choices[step - 1].n - 1 : 0;
}

static uint32_t item_rows(const struct eval_item *it)
{
    uint32_t n = 0;

    for (uint32_t step = 0; step <= it->n_choices; step++)
        n += step_rows(it, step);
    return n;
}

uint64_t eval_choice_rows(const struct eval_suite *s)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < s->n; i++)
        n += item_rows(&s->items[i]);
    return n;
}

uint32_t eval_choice_batch_rows(const struct eval_suite *s)
{
    uint32_t most = 0, n = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        n = item_rows(&s->items[i]) + (i % EVAL_CHOICE_SEQS ? n : 0);
        most = n > most ? n : most;
    }
    return most;
}

static void lay_out(struct group *g, const struct eval_item *items, uint32_t n_items)
{
    uint32_t at = 0;

    g->items = items;
    g->n_items = n_items;
    for (g->n_steps = 0; g->n_steps < STEPS_MAX; g->n_steps++) {
        struct step *s = &g->steps[g->n_steps];

        s->at = at;
        s->n_batch = 0;
        for (uint32_t i = 0; i < n_items; i++) {
            const struct eval_item *it = &items[i];
            const uint32_t n = step_rows(it, g->n_steps);

            if (n == 0)
                continue;
            s->batch[s->n_batch++] = (struct stage_rows){
                .seq = (int)i,
                .pos = g->n_steps ? it->n_context : 0,
                .n = n,
                .n_logits = g->n_steps ? n : 1,
            };
            memcpy(g->ids + at, g->n_steps ? it->choices[g->n_steps - 1].ids : it->context,
                   n * sizeof *g->ids);
            at += n;
        }
    }
}

/* The context's last row predicts the first token of every choice, a choice's row the next one. */
static void add_logprobs(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                         const float *logits)
{
    struct group *g = arg;
    const struct eval_item *it = &g->items[rows->seq];
    double *logprob = g->logprob[rows->seq];

    if (g->step == 0) {
        for (uint32_t k = 0; k < it->n_choices; k++)
            logprob[k] = log_prob(logits, g->n_vocab, it->choices[k].ids[0]);
        return;
    }
    const struct eval_choice *c = &it->choices[g->step - 1];
    for (uint32_t i = 0; i < count; i++)
        logprob[g->step - 1] +=
            log_prob(logits + i * g->n_vocab, g->n_vocab, c->ids[first - it->n_context + i + 1]);
}

/* --- answers --------------------------------------------------------------------------------- */

struct answer {
    bool right, right_norm;
};

static int answer(const struct group *g, uint32_t item, struct answer *a)
{
    const struct eval_item *it = &g->items[item];
    const double *logprob = g->logprob[item];
    uint32_t best = 0, best_norm = 0;

    for (uint32_t k = 0; k < it->n_choices; k++) {
        if (!isfinite(logprob[k])) {
            log_error("the model's logits are not finite: its file must be damaged");
            return EXIT_FAILED;
        }
        if (logprob[k] > logprob[best])
            best = k;
        if (logprob[k] / it->choices[k].n > logprob[best_norm] / it->choices[best_norm].n)
            best_norm = k;
    }
    *a = (struct answer){.right = best == it->label, .right_norm = best_norm == it->label};
    return EXIT_OK;
}

static int answers(const struct group *g, struct answer *a)
{
    int rc = EXIT_OK;

    for (uint32_t i = 0; i < g->n_items && rc == EXIT_OK; i++)
        rc = answer(g, i, &a[i]);
    return rc;
}

static void count(struct eval_score *s, bool right, bool right_ref)
{
    s->right += right;
    s->right_ref += right_ref;
    s->lost += right_ref && !right;
    s->gained += right && !right_ref;
}

/* --- running --------------------------------------------------------------------------------- */

static int run_reference(struct eval *e, struct group *g, struct answer *a)
{
    int rc = EXIT_OK;

    for (g->step = 0; g->step < g->n_steps && rc == EXIT_OK; g->step++) {
        const struct step *s = &g->steps[g->step];
        rc = eval_reference(e, s->batch, s->n_batch, s->at, g->ids + s->at, add_logprobs, g);
    }
    return rc == EXIT_OK ? answers(g, a) : rc;
}

static int run_trial(struct eval *e, struct eval_trial *t, struct group *g, struct answer *a)
{
    int rc = EXIT_OK;

    for (g->step = 0; g->step < g->n_steps && rc == EXIT_OK; g->step++) {
        const struct step *s = &g->steps[g->step];
        rc = eval_compressed(e, t, &t->suite, s->batch, s->n_batch, s->at, add_logprobs, g);
    }
    return rc == EXIT_OK ? answers(g, a) : rc;
}

static int run_group(struct eval *e, struct group *g)
{
    struct answer ref[EVAL_CHOICE_SEQS], got[EVAL_CHOICE_SEQS];
    int rc = run_reference(e, g, ref);

    for (unsigned t = 0; t < e->n_trials && rc == EXIT_OK; t++) {
        struct eval_trial *trial = &e->trials[t];

        rc = run_trial(e, trial, g, got);
        for (uint32_t i = 0; i < g->n_items && rc == EXIT_OK; i++) {
            count(&trial->acc, got[i].right, ref[i].right);
            count(&trial->acc_norm, got[i].right_norm, ref[i].right_norm);
            trial->items++;
        }
    }
    return rc;
}

int eval_choice_run(struct eval *e, const struct eval_suite *s)
{
    struct group *g = calloc(1, sizeof *g);
    int rc = EXIT_OK;

    if (g)
        g->ids = malloc(eval_choice_batch_rows(s) * sizeof *g->ids);
    if (!g || !g->ids) {
        log_error("out of memory for %u items", s->n);
        free(g);
        return EXIT_FAILED;
    }
    g->n_vocab = e->pass.n_vocab;
    for (uint32_t i = 0; i < s->n && rc == EXIT_OK; i += EVAL_CHOICE_SEQS) {
        lay_out(g, s->items + i, s->n - i < EVAL_CHOICE_SEQS ? s->n - i : EVAL_CHOICE_SEQS);
        rc = run_group(e, g);
    }
    free(g->ids);
    free(g);
    return rc;
}
