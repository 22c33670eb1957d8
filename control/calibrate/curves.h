/* SPDX-License-Identifier: Apache-2.0 */
/* Quality over bytes of each mode at a split, measured through real tiles. */
#ifndef ISTHMUS_CONTROL_CALIBRATE_CURVES_H
#define ISTHMUS_CONTROL_CALIBRATE_CURVES_H

#include "codec/profile.h"
#include "control/calibrate/gather.h"
#include "control/splitpass.h"

/* Fill p->curves from n_windows windows of the gathered rows, evenly spread; their heads are made
 * by pass, cut once, at the split. EXIT_OK or an exit code, the error said. */
int calibrate_curves(struct splitpass *pass, const struct gathered *g, uint32_t n_windows,
                     struct codec_profile *p);

#endif
