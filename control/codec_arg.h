/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codec parameters as text: "f32", "f16", "tsq", "rans" or "xform", the latter three with some of
 * their parameters if wished, e.g. "tsq:tau=4,delta=.08,qmin=2,qmax=8" or "xform:step=.0115".
 * tau_abs=T instead of tau sets an absolute threshold. The profile is not among them.
 */
#ifndef ISTHMUS_CONTROL_CODEC_ARG_H
#define ISTHMUS_CONTROL_CODEC_ARG_H

#include <stddef.h>

#include "codec/codec.h"

#define CODEC_ARG_ERR 256
#define CODEC_ARG_MAX 96 /* room for any formatted parameters, NUL included */

/* 0, or -EINVAL and one line in err (CODEC_ARG_ERR bytes) naming what is wrong and what is allowed.
 */
int codec_arg_parse(const char *text, struct codec_params *p, char *err);

/* The whole parameters but the profile, so that parsing them gives p again. Returns buf. */
char *codec_arg_format(const struct codec_params *p, char buf[CODEC_ARG_MAX]);

#endif
