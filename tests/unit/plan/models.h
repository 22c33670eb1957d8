/* SPDX-License-Identifier: Apache-2.0 */
/* A model and hosts that are made up, for tests of the planner: no file, round numbers. */
#ifndef ISTHMUS_TESTS_PLAN_MODELS_H
#define ISTHMUS_TESTS_PLAN_MODELS_H

#include "control/plan/search.h"

/* Layers of Q4_1 as a 7B's (d 4096, ff 11008, 32 heads of 128, 8 of keys); free with
 * plan_model_free. */
void made_model(uint32_t n_layers, struct plan_model *m);

/* A host whose steps take per_layer_s for the first row of a layer and a sixteenth for each further
 * one, the head five layers' time. All standard types are measured, in proportion to their bytes.
 */
void made_host(const struct plan_model *m, double per_layer_s, struct plan_host *h);

/* Codecs, caches and schemes of made-up costs: rough, smooth in the split. */
void made_quality(const struct plan_model *m, struct plan_quality *q);

/* A wish of everything, without limits but KL .05; its parts stay the caller's. */
void made_wish(const struct plan_model *m, struct plan_speed *edge, struct plan_speed *cloud,
               const struct plan_link *link, const struct plan_quality *q, struct plan_wish *w);

#endif
