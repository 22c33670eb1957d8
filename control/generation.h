/* SPDX-License-Identifier: Apache-2.0 */
/* One answer as it grows: the sink of a request's callbacks. */
#ifndef ISTHMUS_CONTROL_GENERATION_H
#define ISTHMUS_CONTROL_GENERATION_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "compute/tokenizer.h"
#include "control/engine.h"

struct generation {
    /* set by the caller */
    const struct tokenizer *tok;
    FILE *stream;    /* where text goes as it comes, or NULL */
    bool ignore_eos; /* go on after an end-of-generation id */
    const int32_t *prompt_ids;
    uint32_t n_prompt, n_predict; /* n_predict: cut to what the context leaves */
    struct sampler_params sampler;
    uint32_t n_top; /* alternatives to keep with each id */

    /* filled in */
    int64_t session;
    int32_t *ids; /* generated, the end-of-generation id included */
    uint32_t n_ids;
    float *logprobs;         /* [n_ids], of ids; NULL: n_top is 0 */
    struct sampler_top *top; /* [n_ids][n_top]; id -1: the vocabulary has no more */
    uint64_t *gaps_ns; /* [n_ids - 1] between one id and the next */
    uint64_t last_ns;
    char *text; /* their bytes, control tokens left out; may hold invalid UTF-8 */
    size_t n_text;
    bool done;
    struct edge_result result;

    size_t n_shown;
    bool out_of_memory;
    int write_error; /* errno of the first write to stream that failed; 0: none */
};

/* Room for the answer, then engine_submit. 0, -ERANGE (the prompt leaves no room in the context),
 * -EAGAIN and others as engine_submit, -ENOMEM. g must stay where it is until done. */
int generation_start(struct generation *g, struct engine *e);
void generation_free(struct generation *g);

/* The text, NUL-terminated, which the caller frees; NULL: out of memory. */
char *generation_take_text(struct generation *g);

double generation_ttft_ms(const struct generation *g);
double generation_prefill_tokens_per_s(const struct generation *g); /* of those computed */
double generation_decode_tokens_per_s(const struct generation *g); /* from the second token on */
/* Of the times between one id and the next the one that `share` of them do not exceed; 0: none. */
double generation_gap_ms(const struct generation *g, double share);

/* "length", "stop", "cancelled", "refused", "lost". */
const char *generation_finish_name(const struct generation *g);

#endif
