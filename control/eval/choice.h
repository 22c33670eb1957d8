/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answering a suite: the choice whose tokens the model holds likeliest after the context, by summed
 * log-probability (acc) and by that over the number of tokens (acc_norm).
 */
#ifndef ISTHMUS_CONTROL_EVAL_CHOICE_H
#define ISTHMUS_CONTROL_EVAL_CHOICE_H

#include "control/eval/suite.h"
#include "control/eval/trial.h"

#define EVAL_CHOICE_SEQS 16u /* sequences, an item each, that run side by side */

/* Rows that eval_choice_run runs without a codec, and the most of them at once. */
uint64_t eval_choice_rows(const struct eval_suite *s);
uint32_t eval_choice_batch_rows(const struct eval_suite *s);

/* Every trial's scores over the suite, paired with the uncompressed model's on the same items.
 * EXIT_OK or an exit code, the error said. */
int eval_choice_run(struct eval *e, const struct eval_suite *s);

#endif
