/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_CALIBRATE_SHOW_H
#define ISTHMUS_CONTROL_CALIBRATE_SHOW_H

#include <stdbool.h>

#include "codec/profile.h"

/* What a profile is for, and its curves, to stdout. EXIT_OK or an exit code. */
int calibrate_show(const struct codec_profile *p, bool json);

#endif
