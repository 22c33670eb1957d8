/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_CALIBRATE_MEMORY_H
#define ISTHMUS_CONTROL_CALIBRATE_MEMORY_H

#include <stdint.h>

#include "control/model.h"

/* Whether what calibration will hold besides the model fits into the memory available, before any
 * of it is taken: `tokens` tokens in windows, rows of cols columns, `samples` gradients of each, by
 * `threads` threads. EXIT_OK or an exit code, the error said. */
int calibrate_check_memory(const struct model *m, uint32_t split, uint32_t tokens, uint32_t cols,
                           uint32_t samples, unsigned threads);

#endif
