/* SPDX-License-Identifier: Apache-2.0 */
/* Rate-distortion curves by gnuplot: mean KL over bytes a token, a curve for each mode, split and
 * arithmetic. */
#ifndef ISTHMUS_CONTROL_EVAL_PLOT_H
#define ISTHMUS_CONTROL_EVAL_PLOT_H

#include <stddef.h>

#include "control/eval/result.h"

/* Draw all points whose KL is above zero, after gnuplot_check. The file comes into being whole or not
 * at all. EXIT_OK or an exit code, the error said. */
int eval_plot(const char *path, const struct eval_result *results, size_t n);

#endif
