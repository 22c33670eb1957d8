/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codecs on trial: rows go through the model once as they are, which gives the reference and the
 * rows at every cut, and then once for each codec at each cut from there on, through real tiles.
 */
#ifndef ISTHMUS_CONTROL_EVAL_TRIAL_H
#define ISTHMUS_CONTROL_EVAL_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "control/divergence.h"
#include "control/progress.h"
#include "control/splitpass.h"

/* What rows cost on their way through a codec, and what they lost. */
struct eval_carried {
    struct splitpass_traffic traffic;
    double rel_l2; /* ||x - x'|| / ||x||, summed over rows */
};

/* Items answered rightly. */
struct eval_score {
    uint32_t right, right_ref;
    uint32_t lost, gained; /* right without the codec only, with it only */
};

/* One codec at one cut. */
struct eval_trial {
    struct codec_params params; /* as used: what a missing profile changes is changed */
    unsigned cut;               /* of the pass */
    uint32_t split;
    struct codec *codec;
    struct codec_rate rate; /* the text and the suite are one session */

    struct eval_carried text, suite;
    struct divergence divergence;    /* over the text */
    struct eval_score acc, acc_norm; /* over the suite */
    uint32_t items;
};

struct eval_params {
    const struct codec_params *codecs;
    unsigned n_codecs;
    const uint32_t *splits; /* ascending, all different */
    unsigned n_splits;
    struct codec_profile *const *profiles; /* of each split; NULL: none */
    struct codec_rate_target target;
    uint32_t message_rows;
    uint32_t ctx, n_seqs; /* of the pass */
    uint32_t batch_rows;  /* of all batches between two calls of eval_reference with at == 0 */
    size_t text_rows;     /* positions of the text in all */
    uint64_t rows;        /* of everything to come: for the progress */
    enum kv_format kv;    /* of what is on trial; the reference has f16 */
    bool exact;
};

/* All trials under one arithmetic. */
struct eval {
    const struct eval_params *params;
    struct splitpass pass; /* the reference */
    struct splitpass
        quantized; /* another pass for the trials, with their KV cache; n_parts 0: the same */
    struct eval_trial *trials;
    unsigned n_trials;
    uint32_t n_layers;
    float *kept[SPLITPASS_CUTS_MAX]; /* f32[batch_rows][d_model] at each cut, uncompressed */
    float *got;                      /* f32[batch_rows][d_model] after a codec */
    struct progress progress;
};

/* EXIT_OK or an exit code, the error said, here and below; close either way. */
int eval_open(const struct model *m, const struct eval_params *p, struct team *team,
              struct eval *e);
void eval_close(struct eval *e);

/* Run a batch as it is, and keep its rows at the cuts from row `at` on: those of the trials' pass.
 */
int eval_reference(struct eval *e, const struct stage_rows *batch, size_t n_batch, uint32_t at,
                   const int32_t *ids, splitpass_fn fn, void *arg);

/* Run the batch that eval_reference kept at `at` through a codec. Every entry of it is carried in
 * messages of its own. */
int eval_compressed(struct eval *e, struct eval_trial *t, struct eval_carried *carried,
                    const struct stage_rows *batch, size_t n_batch, uint32_t at, splitpass_fn fn,
                    void *arg);

#endif
