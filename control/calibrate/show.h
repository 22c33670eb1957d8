/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_CALIBRATE_SHOW_H
#define ISTHMUS_CONTROL_CALIBRATE_SHOW_H

#include <jansson.h>
#include <stdbool.h>

#include "codec/profile.h"

/* What a profile is for, and its curves, to stdout. EXIT_OK or an exit code. */
int calibrate_show(const struct codec_profile *p, bool json);

/* The same as an object, for six digits (JSON_REAL_PRECISION(6)). NULL: out of memory. */
json_t *calibrate_show_json(const struct codec_profile *p);

#endif
