/* SPDX-License-Identifier: Apache-2.0 */
/* Codecs as a quality table and `plan --codec` name them: any text that halves take, for the same
 * parameters. */
#ifndef ISTHMUS_CONTROL_PLAN_CODECS_H
#define ISTHMUS_CONTROL_PLAN_CODECS_H

#include "control/plan/search.h"

/* A table's codecs are what halves are started with. EXIT_OK or EXIT_USAGE, said; here and below.
 * path: the table's. */
int plan_codecs_check(const char *path, const struct plan_quality *q);

/* Only these n of the table's from now on; of n = 0, all. path: NULL without a table. */
int plan_codecs_choose(const char *path, const char *const *texts, unsigned n, struct plan_wish *w);

#endif
