/* SPDX-License-Identifier: Apache-2.0 */
/* One model's distributions against another's over a text: what fewer bits cost. */
#ifndef ISTHMUS_CONTROL_EVAL_COMPARE_H
#define ISTHMUS_CONTROL_EVAL_COMPARE_H

#include <stdbool.h>

#include "control/eval/text.h"
#include "control/model.h"

/* A line of JSON to stdout: mean KL(reference || model) and the share of equal likeliest ids, over
 * all positions and over the second halves of windows, and both perplexities over these. The models
 * share a vocabulary. EXIT_OK or an exit code, the error said. */
int eval_compare(const struct model *reference, const struct model *m, const struct eval_text *t,
                 bool exact, struct team *team);

#endif
