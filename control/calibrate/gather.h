/* SPDX-License-Identifier: Apache-2.0 */
/* What calibration learns from: the rows of a text at a split, and gradients of what the model says
 * after them. */
#ifndef ISTHMUS_CONTROL_CALIBRATE_GATHER_H
#define ISTHMUS_CONTROL_CALIBRATE_GATHER_H

#include <stdint.h>

#include "compute/team.h"
#include "control/eval/text.h"
#include "control/model.h"
#include "control/splitpass.h"

struct gathered {
    uint32_t n, cols, samples; /* n whole windows' tokens */
    float *rows;               /* f32[n][cols] */
    uint32_t *token;           /* [n] place in its window */
    float *grads;              /* f32[n][samples][cols] */
};

/* text: whole windows. pass: cut once, at the split. EXIT_OK or an exit code, the error said; free
 * either way. */
int gather(const struct model *m, struct splitpass *pass, struct team *team, uint32_t split,
           const struct eval_text *text, uint32_t samples, uint64_t seed, struct gathered *g);
void gathered_free(struct gathered *g);

#endif
