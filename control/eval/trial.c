/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/trial.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/log.h"
#include "control/quality_arg.h"
#include "control/split_plan.h"

/* --- open, close ----------------------------------------------------------------------------- */

/* Every codec of an evaluation is made here. */
static int open_codec(const struct eval *e, struct eval_trial *t)
{
    return codec_open(&t->params, e->pass.d_model, &t->codec);
}

static int open_trials(struct eval *e)
{
    const struct eval_params *p = e->params;

    e->trials = calloc((size_t)p->n_codecs * p->n_splits, sizeof *e->trials);
    if (!e->trials)
        return -ENOMEM;
    for (unsigned cut = 0; cut < p->n_splits; cut++) {
        for (unsigned i = 0; i < p->n_codecs; i++) {
            struct eval_trial *t = &e->trials[e->n_trials++];

            t->params = p->codecs[i];
            if (p->target.kind &&
                (quality_apply(p->target, p->profiles[cut], p->splits[cut], &t->params) !=
                     EXIT_OK ||
                 codec_rate_init(&t->rate, codec_rate_curve(p->profiles[cut], t->params.mode),
                                 p->target) < 0))
                return -EINVAL;
            split_profile_join(p->profiles[cut], &t->params);
            t->cut = cut;
            t->split = p->splits[cut];
            int rc = open_codec(e, t);
            if (rc == 0)
                rc = divergence_open(&t->divergence, e->pass.n_vocab, p->text_rows);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static int open_rows(struct eval *e)
{
    const size_t bytes = (size_t)e->params->batch_rows * e->pass.d_model * sizeof(float);

    for (unsigned cut = 0; cut < e->params->n_splits; cut++)
        if (!(e->kept[cut] = malloc(bytes)))
            return -ENOMEM;
    return (e->got = malloc(bytes)) ? 0 : -ENOMEM;
}

int eval_open(const struct model *m, const struct eval_params *p, struct team *team, struct eval *e)
{
    const struct splitpass_params pass = {
        .cuts = p->splits,
        .n_cuts = p->n_splits,
        .ctx = p->ctx,
        .n_seqs = p->n_seqs,
        .exact = p->exact,
    };

    struct splitpass_params quantized = pass;
    quantized.kv = p->kv;

    *e = (struct eval){.params = p, .n_layers = m->n_layers};
    int rc = splitpass_open(m, &pass, team, &e->pass);
    if (rc == EXIT_OK && p->kv)
        rc = splitpass_open(m, &quantized, team, &e->quantized);
    if (rc != EXIT_OK)
        return rc;
    rc = open_trials(e);
    if (rc == 0)
        rc = open_rows(e);
    if (rc < 0) {
        log_error("%s", strerror(-rc));
        return EXIT_FAILED;
    }
    uint64_t layers = e->n_layers;
    for (unsigned i = 0; i < e->n_trials; i++)
        layers += e->n_layers - e->trials[i].split;
    if (p->kv)
        layers += p->splits[p->n_splits - 1];
    progress_start(&e->progress, p->exact ? "eval, f32 arithmetic" : "eval", p->rows * layers);
    return EXIT_OK;
}

void eval_close(struct eval *e)
{
    for (unsigned i = 0; i < e->n_trials; i++) {
        codec_close(e->trials[i].codec);
        divergence_close(&e->trials[i].divergence);
    }
    free(e->trials);
    for (unsigned cut = 0; cut < SPLITPASS_CUTS_MAX; cut++)
        free(e->kept[cut]);
    free(e->got);
    splitpass_close(&e->pass);
    splitpass_close(&e->quantized);
}

/* --- run ------------------------------------------------------------------------------------- */

static uint32_t batch_rows(const struct stage_rows *batch, size_t n_batch)
{
    uint32_t n = 0;

    for (size_t i = 0; i < n_batch; i++)
        n += batch[i].n;
    return n;
}

static int failed(int rc)
{
    log_error("%s", strerror(-rc));
    return EXIT_FAILED;
}

int eval_reference(struct eval *e, const struct stage_rows *batch, size_t n_batch, uint32_t at,
                   const int32_t *ids, splitpass_fn fn, void *arg)
{
    float *keep[SPLITPASS_CUTS_MAX] = {NULL};

    for (unsigned cut = 0; cut < e->params->n_splits; cut++)
        keep[cut] = e->kept[cut] + (size_t)at * e->pass.d_model;
    const uint64_t rows = batch_rows(batch, n_batch);
    const unsigned last = e->params->n_splits;
    int rc = splitpass_run(&e->pass, 0, last, batch, n_batch, ids, NULL, keep, fn, arg);
    progress_add(&e->progress, rows * e->n_layers);
    if (rc == 0 && e->quantized.n_parts) {
        rc = splitpass_run(&e->quantized, 0, last - 1, batch, n_batch, ids, NULL, keep, NULL, NULL);
        progress_add(&e->progress, rows * e->params->splits[last - 1]);
    }
    return rc < 0 ? failed(rc) : EXIT_OK;
}

/* ||x - y|| / ||x||. */
static double relative_l2(const float *x, const float *y, size_t n)
{
    double diff = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)x[i] * x[i];
    }
    return norm > 0 ? sqrt(diff / norm) : 0;
}

static int carry(struct eval *e, struct eval_trial *t, struct eval_carried *carried,
                 const struct stage_rows *rows, const float *sent, float *got)
{
    const size_t d = e->pass.d_model;
    const int rc =
        splitpass_carry_rated(t->codec, &t->params, &t->rate, sent, rows->n, rows->pos, (uint32_t)d,
                              e->params->message_rows, got, &carried->traffic);

    if (rc == -EDOM) {
        const struct codec_stats *s = &carried->traffic.codec;
        char codec[CODEC_ARG_MAX];

        log_error("%s cannot carry the value at token %u of its sequence, column %u",
                  codec_arg_format(&t->params, codec), s->bad_token, s->bad_col);
        return EXIT_FAILED;
    }
    if (rc < 0)
        return failed(rc);
    for (uint32_t i = 0; i < rows->n; i++)
        carried->rel_l2 += relative_l2(sent + i * d, got + i * d, d);
    return EXIT_OK;
}

int eval_compressed(struct eval *e, struct eval_trial *t, struct eval_carried *carried,
                    const struct stage_rows *batch, size_t n_batch, uint32_t at, splitpass_fn fn,
                    void *arg)
{
    const size_t d = e->pass.d_model;
    const float *sent = e->kept[t->cut] + at * d;
    float *got = e->got;

    for (size_t i = 0; i < n_batch; i++) {
        const int rc = carry(e, t, carried, &batch[i], sent, got);
        if (rc != EXIT_OK)
            return rc;
        sent += batch[i].n * d;
        got += batch[i].n * d;
    }
    struct splitpass *pass = e->quantized.n_parts ? &e->quantized : &e->pass;
    const int rc = splitpass_run(pass, t->cut + 1, e->params->n_splits, batch, n_batch, NULL,
                                 e->got, NULL, fn, arg);
    progress_add(&e->progress, (uint64_t)batch_rows(batch, n_batch) * (e->n_layers - t->split));
    return rc < 0 ? failed(rc) : EXIT_OK;
}
