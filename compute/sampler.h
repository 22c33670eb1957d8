/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From logits to one token id. The random number is counter-based, keyed by (seed, position):
 * the same seed gives the same text whatever the batching, loss or replay.
 */
#ifndef ISTHMUS_COMPUTE_SAMPLER_H
#define ISTHMUS_COMPUTE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_params {
    float temp;           /* 0: greedy */
    uint32_t top_k;       /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1: off; over the generated ids given to sampler_pick */
    uint64_t seed;
};

struct sampler_params sampler_params_default(void); /* greedy */
int sampler_params_check(const struct sampler_params *p); /* 0 or -EINVAL */

/* Uniform in [0,1) from (seed, position): Philox4x32-10 or another published counter-based RNG. */
double sampler_uniform(uint64_t seed, uint64_t position);

/* Scratch for one thread; n_vocab fixed. */
struct sampler;
int sampler_open(uint32_t n_vocab, struct sampler **out); /* 0 or -ENOMEM */
void sampler_close(struct sampler *s);

/*
 * Pick the id for `position` from logits f32[n_vocab] (unchanged). generated[0,n) are the ids
 * generated so far in this sequence. Order: repetition penalty (divide positive, multiply negative
 * logits), temperature, top-k, top-p, min-p, draw. Ties go to the smaller id.
 * *logprob (may be NULL): log-softmax of the raw logits at the id.
 * -EDOM when a logit is NaN or infinite: no token can be made of that.
 */
int32_t sampler_pick(struct sampler *s, const struct sampler_params *p, const float *logits,
                     const int32_t *generated, size_t n_generated, uint64_t position,
                     float *logprob);

#define SAMPLER_TOP_MAX 20u /* alternatives that a session may want of each id */

struct sampler_top {
    int32_t id;
    float logprob;
};

/* An id that was picked, as it is told on. */
struct token_sample {
    int32_t id;
    float logprob;
    uint32_t n_top;                /* as many as the session wanted */
    const struct sampler_top *top; /* [n_top], as sampler_top_logprobs gives them: the id is not
                                    * always among them. Borrowed for the call that tells it */
};

/* The k best of the log-softmax of logits, best first, ties by smaller id: the same values that
 * sampler_pick gives. A NaN or +infinity among the logits makes every logprob a NaN. Returns the
 * count: k, or n_vocab where that is less. k 0 costs nothing. */
size_t sampler_top_logprobs(struct sampler *s, const float *logits, struct sampler_top *top,
                            size_t k);

#endif
