/* SPDX-License-Identifier: Apache-2.0 */
/* Ids out of logits, guesses accepted or not: at the half that has the head, alike in both. */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_PICK_H
#define ISTHMUS_DATAPLANE_PIPELINE_PICK_H

#include "compute/sampler.h"
#include "dataplane/pipeline/proto.h"

struct pick {
    struct sampler *sampler;
    const struct sampler_params *params;
    const float *logits; /* [n][n_vocab], of the row before the first guess, and of each guess */
    uint32_t n_vocab, n;
    const int32_t *drafts; /* [n - 1], the guesses */
    uint32_t most;         /* ids are picked; >= 1 */
    uint32_t n_top;        /* alternatives of each */
    uint32_t position;     /* of the first id */
    int32_t *generated;    /* of the sequence so far; those that are picked are put behind them */
    uint32_t n_generated;
};

/* Sample after the last row that was not guessed, and go on while the sample is what was guessed,
 * for `most` ids. n 0: none. 0, or -EDOM as sampler_pick. */
int pick_tokens(const struct pick *p, struct proto_tokens *out);

#endif
