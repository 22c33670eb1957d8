/* SPDX-License-Identifier: Apache-2.0 */
/* Rate-distortion curves by gnuplot: mean KL over bytes a token, a curve for each mode, split and
 * arithmetic. */
#ifndef ISTHMUS_CONTROL_EVAL_PLOT_H
#define ISTHMUS_CONTROL_EVAL_PLOT_H

#include <stddef.h>

#include "control/eval/result.h"

/* Can it be drawn later: is there a gnuplot, and can the file be written? EXIT_OK or an exit code,
 * the error said; here and below. */
int eval_plot_check(const char *path);

/* Draw all points whose KL is above zero. The file comes into being whole or not at all. */
int eval_plot(const char *path, const struct eval_result *results, size_t n);

#endif
