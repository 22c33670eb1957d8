/* SPDX-License-Identifier: Apache-2.0 */
/* Where a command cuts the model and what carries the rows there: --split, --codec and --profile
 * proved against the model and each other. Errors are said on stderr. */
#ifndef ISTHMUS_CONTROL_SPLIT_PLAN_H
#define ISTHMUS_CONTROL_SPLIT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/profile.h"
#include "control/model.h"
#include "control/options.h"

struct split_plan {
    uint32_t split;
    struct codec_params codec;
    struct codec_profile *profile;   /* NULL: none; codec points to it */
    struct codec_rate_target target; /* to keep; codec has the parameter to begin with */
};

/* Where the model is a half: its split goes to *split, which may be < 0 (not given) or the same.
 * EXIT_OK, or an exit code with the error said. */
int split_of_half(const struct model *m, int32_t *split);

/* Without --split it is the profile's; without --codec and with a profile it is xform. The model's
 * file is still open. EXIT_OK, or an exit code with nothing to free. */
int split_plan(const struct split_options *o, const struct model *m, struct split_plan *plan);
void split_plan_free(struct split_plan *plan);

/* The parts of it, for more than one split. A profile of this model, whatever its split: */
int split_profile_read(const char *path, const struct model *m, struct codec_profile **out);

/* Whether a mode makes use of a profile. */
bool split_profile_is_for(enum codec_mode mode);

/* What p becomes with a profile, or NULL for none: xform without one becomes tsq, which is said
 * once. */
void split_profile_join(const struct codec_profile *profile, struct codec_params *p);

#endif
