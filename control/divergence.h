/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far one set of distributions lies from a reference, over the whole vocabulary.
 */
#ifndef ISTHMUS_CONTROL_DIVERGENCE_H
#define ISTHMUS_CONTROL_DIVERGENCE_H

#include <stddef.h>
#include <stdint.h>

struct divergence {
    size_t n_vocab;
    double *kl; /* of every position so far: [n] */
    size_t n, room;
    uint64_t same_top;   /* positions with the same likeliest id */
    double nll, nll_ref; /* summed over scored positions */
    uint64_t n_scored;
};

/* What there is to say of it in the end. */
struct divergence_summary {
    double kl_mean, kl_p99, top1;
    double ppl, ppl_ref; /* NaN: nothing was scored */
};

/* Room for max_positions. 0 or -ENOMEM. */
int divergence_open(struct divergence *d, size_t n_vocab, size_t max_positions);
void divergence_close(struct divergence *d);

/* One position: KL(ref || got) of the softmaxes of two rows of logits. next: the id that came next,
 * scored for perplexity; -1: not scored. */
void divergence_add(struct divergence *d, const float *ref, const float *got, int32_t next);

struct divergence_summary divergence_summary(struct divergence *d);

#endif
