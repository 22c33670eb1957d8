/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far one set of distributions lies from a reference, over the whole vocabulary.
 */
#ifndef ISTHMUS_CONTROL_DIVERGENCE_H
#define ISTHMUS_CONTROL_DIVERGENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct divergence {
    size_t n_vocab;
    double *kl; /* of every position so far: [n] */
    size_t n, room;
    uint64_t same_top; /* positions with the same likeliest id */
    struct divergence_nll {
        double got, ref; /* -log p of the id that came, summed */
        uint64_t n;
    } all, half; /* of all positions scored, and of those in the second half of their window */
};

/* What there is to say of it in the end. */
struct divergence_summary {
    double kl_mean, kl_median, kl_p99, kl_max, top1;
    double ppl, ppl_ref;           /* over second halves; NaN: nothing was scored */
    double ppl_full, ppl_full_ref; /* over all positions */
};

/* Room for max_positions. 0 or -ENOMEM. */
int divergence_open(struct divergence *d, size_t n_vocab, size_t max_positions);
void divergence_close(struct divergence *d);

/* One position: KL(ref || got) of the softmaxes of two rows of logits. next: the id that came next,
 * scored for perplexity; -1: not scored. second_half: of its window, where every id has context. */
void divergence_add(struct divergence *d, const float *ref, const float *got, int32_t next,
                    bool second_half);

struct divergence_summary divergence_summary(struct divergence *d);

/* log p of an id under the softmax of a row of logits. */
double log_prob(const float *logits, size_t n_vocab, int32_t id);

#endif
