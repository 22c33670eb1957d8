/* SPDX-License-Identifier: Apache-2.0 */
/* What --quality kl=.006 and --rate 200B/token ask for, and the codec parameters that promise it.
 */
#ifndef ISTHMUS_CONTROL_QUALITY_ARG_H
#define ISTHMUS_CONTROL_QUALITY_ARG_H

#include <stdbool.h>

#include "codec/rate.h"

#define QUALITY_ARG_ERR 256

/* 0, or -EINVAL and one line in err (QUALITY_ARG_ERR bytes). A target given before is an error. */
int quality_arg_parse(const char *text, struct codec_rate_target *target, char *err);
int rate_arg_parse(const char *text, struct codec_rate_target *target, char *err);

/* Whether a codec's text sets what a target is to find: delta or step. */
bool quality_arg_conflicts(const char *codec_text);

/* Set p's delta or step to what the profile's curve says of the target; with no target, nothing.
 * split: where, for what is said. EXIT_OK, or EXIT_USAGE, said, when there is no such curve or the
 * target is beyond it. */
int quality_apply(struct codec_rate_target target, const struct codec_profile *profile,
                  uint32_t split, struct codec_params *p);

/* p with the step or delta `parameter`; 0 leaves it. */
struct codec_params quality_with(const struct codec_params *p, float parameter);

/* What came of a target over `rows` rows that took bytes_per_token each, with parameters of
 * [min, max]. */
struct quality_outcome {
    uint64_t rows;
    double bytes_per_token;
    float min, max;
};

/* Whether a target of bytes was kept to a tenth, either way; if not, that and why is said on
 * stderr, for `whom`. True for others: a KL can't be seen on the way, nor bytes of no rows. */
bool quality_kept(struct codec_rate_target target, const struct codec_profile_curve *curve,
                  const struct quality_outcome *o, const char *whom);

#endif
