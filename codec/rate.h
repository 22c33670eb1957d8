/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate control: from a target, a KL divergence or bytes a token, to the encoder's parameter (tsq:
 * delta; rans, xform: step), along the curve that calibration measured.
 *
 * The rows of a session are never quite those of calibration. A KL can't be seen by the encoder, so
 * for a KL target the curve is all there is; bytes can, and for a bytes target a controller learns
 * from each message how far the session is off the curve. No clock, no I/O, and the parameter
 * depends on nothing but what was fed: sent again, a session takes the same parameters.
 */
#ifndef ISTHMUS_CODEC_RATE_H
#define ISTHMUS_CODEC_RATE_H

#include <stdint.h>

#include "codec/codec.h"
#include "codec/profile.h"

/* --- curves --- */

/* The mode's curve in a profile; NULL when there is none: no profile, a mode without a parameter,
 * or not measured. */
const struct codec_profile_curve *codec_rate_curve(const struct codec_profile *profile,
                                                   enum codec_mode mode);

/* Between two points, log KL and log bytes go straight over the log parameter. */

/* The coarsest parameter whose KL is at most kl. 0; -ERANGE when the curve was not measured there,
 * with the parameter of its nearest end; -EINVAL for a curve without points, not positive or not
 * monotone, or a target that is not positive. */
int codec_rate_for_kl(const struct codec_profile_curve *curve, double kl, float *parameter);

/* The finest parameter that takes at most so many bytes a token. As above. */
int codec_rate_for_bytes(const struct codec_profile_curve *curve, double bytes_per_token,
                         float *parameter);

/* What the curve says of a parameter, or of the nearest one that was measured. NAN where _for_kl is
 * -EINVAL. */
double codec_rate_kl_at(const struct codec_profile_curve *curve, float parameter);
double codec_rate_bytes_at(const struct codec_profile_curve *curve, float parameter);

/* --- control --- */

enum codec_rate_kind {
    CODEC_RATE_NONE, /* leave the parameters as they are */
    CODEC_RATE_KL,   /* mean KL divergence, nats */
    CODEC_RATE_BYTES /* a token */
};

struct codec_rate_target {
    enum codec_rate_kind kind;
    double value;
};

/* One session's controller. */
struct codec_rate {
    const struct codec_profile_curve *curve; /* borrowed */
    struct codec_rate_target target;
    float parameter; /* of the next message */
    double bias;     /* log of the session's bytes over the curve's, as far as known */
    uint32_t n_fed;
};

/* A target beyond the curve is held at the curve's end. 0 or -EINVAL (as codec_rate_for_kl). */
int codec_rate_init(struct codec_rate *r, const struct codec_profile_curve *curve,
                    struct codec_rate_target target);

/* Another target from the next message on: the link has changed. What was learned of the session
 * stays. 0, or -EINVAL and the target stays. */
int codec_rate_retarget(struct codec_rate *r, struct codec_rate_target target);

/* A message of `tokens` rows took `bytes` at the parameter that codec_rate_parameter gave. */
void codec_rate_feed(struct codec_rate *r, uint64_t bytes, uint32_t tokens);

/* For the next message. */
static inline float codec_rate_parameter(const struct codec_rate *r)
{
    return r->parameter;
}

/* The parameters that messages were sent with; all 0 while there were none under a target. */
struct codec_rate_range {
    float min, max, last;
};

/* Notes the next message's, if there is a target. */
void codec_rate_note(const struct codec_rate *r, struct codec_rate_range *range);

/* Set delta (tsq) or step (rans, xform) for the next message; with no target or in other modes,
 * nothing. */
void codec_rate_apply(const struct codec_rate *r, struct codec_params *p);

#endif
