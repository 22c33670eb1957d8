/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_ADAPT_SHOW_H
#define ISTHMUS_CONTROL_ADAPT_SHOW_H

#include <jansson.h>

#include "control/adapt/steer.h"

/* For --json, `ctl stats` and `ctl codec.get`; null where nothing adapts. */
json_t *adapt_show_json(const struct steer_view *v);

#endif
