/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/compute_run.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "compute/stage.h"
#include "control/bench/turns.h"
#include "control/signals.h"

struct compute_run {
    struct stage *stage;
    const struct stage_info *info;
    bool front, head;
    struct stage_rows *batch; /* [max_seqs] */
    int32_t *ids;             /* [max_rows]; NULL: not the model's front */
    float *in, *out;          /* [max_rows][d_model]; NULL: not needed */
    float *logits;            /* [max_seqs][n_vocab]; NULL: no head */
};

int run_open(struct stage *stage, struct compute_run **out)
{
    struct compute_run *r = calloc(1, sizeof(*r));

    *out = NULL;
    if (!r)
        return -ENOMEM;
    const struct stage_info *info = r->info = stage_info(stage);
    const size_t row_values = (size_t)info->max_rows * info->d_model;
    r->stage = stage;
    r->front = info->first_layer == 0;
    r->head = info->end_layer == info->n_layers;
    r->batch = calloc(info->max_seqs, sizeof(*r->batch));
    if (r->front)
        r->ids = calloc(info->max_rows, sizeof(*r->ids));
    else
        r->in = calloc(row_values, sizeof(*r->in));
    if (r->head)
        r->logits = calloc((size_t)info->max_seqs * info->n_vocab, sizeof(*r->logits));
    else
        r->out = calloc(row_values, sizeof(*r->out));
    if (!r->batch || (r->front ? !r->ids : !r->in) || (r->head ? !r->logits : !r->out)) {
        run_close(r);
        return -ENOMEM;
    }
    for (uint32_t i = 0; r->ids && i < info->max_rows; i++)
        r->ids[i] = (int32_t)((i + 1) * 7919u % info->n_vocab);
    for (size_t i = 0; r->in && i < row_values; i++)
        r->in[i] = (float)(i * 2654435761u % 2001) / 1000 - 1; /* about as large as hidden states */
    *out = r;
    return 0;
}

void run_close(struct compute_run *r)
{
    if (!r)
        return;
    free(r->batch);
    free(r->ids);
    free(r->in);
    free(r->out);
    free(r->logits);
    free(r);
}

static int step(struct compute_run *r, uint32_t n_batch)
{
    const int rc = stage_run(r->stage, r->batch, n_batch, r->ids, r->in, r->out, r->logits);

    return rc < 0 ? rc : signals_caught() ? -EINTR : 0;
}

/* Rows of one sequence in steps as long as they may be. */
static int append(struct compute_run *r, int seq, uint32_t pos, uint32_t n, bool logits)
{
    int rc = 0;

    for (const uint32_t end = pos + n; pos < end && rc == 0; pos += r->batch[0].n) {
        const uint32_t left = end - pos;
        const uint32_t now = left < r->info->max_rows ? left : r->info->max_rows;
        r->batch[0] = (struct stage_rows){
            .seq = seq, .pos = pos, .n = now, .n_logits = logits && r->head && now == left};
        rc = step(r, 1);
    }
    return rc;
}

int run_fill(struct compute_run *r, struct run_depth *d)
{
    int rc = 0;

    d->seqs = malloc(d->n_seqs * sizeof(*d->seqs));
    if (!d->seqs)
        return -ENOMEM;
    for (uint32_t i = 0; i < d->n_seqs; i++)
        d->seqs[i] = -1;
    for (uint32_t i = 0; i < d->n_seqs && rc == 0; i++) {
        rc = d->seqs[i] = stage_seq_open(r->stage, d->depth + d->more);
        if (rc >= 0)
            rc = append(r, d->seqs[i], 0, d->depth, false);
    }
    return rc;
}

void run_empty(struct compute_run *r, struct run_depth *d)
{
    for (uint32_t i = 0; d->seqs && i < d->n_seqs; i++)
        if (d->seqs[i] >= 0)
            stage_seq_close(r->stage, d->seqs[i]);
    free(d->seqs);
    d->seqs = NULL;
}

/* Back to where they began, whatever has become of them. */
static int rewind_seqs(struct compute_run *r, const struct run_depth *d, uint32_t n, int rc)
{
    for (uint32_t i = 0; i < n; i++) {
        const int back = stage_seq_truncate(r->stage, d->seqs[i], d->depth);
        if (rc == 0)
            rc = back;
    }
    return rc;
}

int run_prefill(struct compute_run *r, const struct run_depth *d, uint32_t tokens, double *s)
{
    const double start = turns_now_ns();
    const int rc = append(r, d->seqs[0], d->depth, tokens, true);

    *s = (turns_now_ns() - start) * 1e-9;
    return rewind_seqs(r, d, 1, rc);
}

int run_decode(struct compute_run *r, const struct run_depth *d, uint32_t tokens, uint32_t batch,
               double *s)
{
    const double start = turns_now_ns();
    int rc = 0;

    for (uint32_t t = 0; t < tokens && rc == 0; t++) {
        for (uint32_t i = 0; i < batch; i++)
            r->batch[i] = (struct stage_rows){
                .seq = d->seqs[i], .pos = d->depth + t, .n = 1, .n_logits = r->head};
        rc = step(r, batch);
    }
    *s = (turns_now_ns() - start) * 1e-9;
    return rewind_seqs(r, d, batch, rc);
}
