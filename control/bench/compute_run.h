/* SPDX-License-Identifier: Apache-2.0 */
/* Rows through a stage, for `isthmus bench compute`: sequences filled to a depth, from which
 * prompts are read and tokens made again and again. Tokens are made up: speed does not depend on
 * them. */
#ifndef ISTHMUS_CONTROL_BENCH_COMPUTE_RUN_H
#define ISTHMUS_CONTROL_BENCH_COMPUTE_RUN_H

#include <stdint.h>

struct stage;

/* Sequences of one depth. */
struct run_depth {
    uint32_t depth;
    uint32_t n_seqs;
    uint32_t more; /* tokens that may follow */
    int *seqs;     /* kept here: of run_fill */
};

struct compute_run;

/* Buffers for a stage of this many rows a step. 0 or -ENOMEM. Does not take the stage. */
int run_open(struct stage *stage, struct compute_run **out);
void run_close(struct compute_run *r);

/* Open and fill the sequences of a depth, each with rows of its own; what stage_run and
 * stage_seq_open say, or -EINTR when a signal came. Closed with run_empty. */
int run_fill(struct compute_run *r, struct run_depth *d);
void run_empty(struct compute_run *r, struct run_depth *d);

/* After the depth, `tokens` more: of the first sequence at once, logits of the last; or of `batch`
 * sequences a token each at a time, all with logits. Takes *s seconds, and leaves the sequences as
 * they were. 0 or as above. */
int run_prefill(struct compute_run *r, const struct run_depth *d, uint32_t tokens, double *s);
int run_decode(struct compute_run *r, const struct run_depth *d, uint32_t tokens, uint32_t batch,
               double *s);

#endif
