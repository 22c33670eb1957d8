/* SPDX-License-Identifier: Apache-2.0 */
#include "control/quality_arg.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

#define KEPT .1 /* as near to a target as it is called kept */

/* number[0, ..) then exactly `unit`. */
static int parse(const char *option, const char *text, const char *number, const char *unit,
                 const char *example, enum codec_rate_kind kind, struct codec_rate_target *target,
                 char *err)
{
    char *end = NULL;
    const double v = number ? strtod(number, &end) : 0;

    if (target->kind) {
        snprintf(err, QUALITY_ARG_ERR, "--quality and --rate: give one of them, once");
        return -EINVAL;
    }
    if (!number || end == number || strcmp(end, unit) != 0 || !(v > 0) || !isfinite(v)) {
        snprintf(err, QUALITY_ARG_ERR, "%s %.80s: must look like %s", option, text, example);
        return -EINVAL;
    }
    *target = (struct codec_rate_target){kind, v};
    return 0;
}

int quality_arg_parse(const char *text, struct codec_rate_target *target, char *err)
{
    const char *number = strncmp(text, "kl=", 3) == 0 ? text + 3 : NULL;

    return parse("--quality", text, number, "", "kl=.006, a mean KL divergence in nats",
                 CODEC_RATE_KL, target, err);
}

int rate_arg_parse(const char *text, struct codec_rate_target *target, char *err)
{
    return parse("--rate", text, text, "B/token", "200B/token", CODEC_RATE_BYTES, target, err);
}

bool quality_arg_conflicts(const char *codec_text)
{
    return strstr(codec_text, "delta=") || strstr(codec_text, "step=");
}

int quality_apply(struct codec_rate_target target, const struct codec_profile *profile,
                  uint32_t split, struct codec_params *p)
{
    const bool kl = target.kind == CODEC_RATE_KL;
    const char *option = kl ? "--quality" : "--rate";
    struct codec_rate rate;
    float parameter = 0;
    int rc;

    if (!target.kind)
        return EXIT_OK;
    const struct codec_profile_curve *curve = codec_rate_curve(profile, p->mode);
    if (!curve) {
        if (profile)
            log_error("%s: the profile of split %u has no curve for --codec %s", option, split,
                      codec_mode_name(p->mode));
        else
            log_error("%s: needs a profile of split %u: `isthmus calibrate` makes one, and "
                      "--profile FILE names it",
                      option, split);
        return EXIT_USAGE;
    }
    rc = kl ? codec_rate_for_kl(curve, target.value, &parameter)
            : codec_rate_for_bytes(curve, target.value, &parameter);
    if (rc == -ERANGE) {
        const struct codec_profile_point *a = &curve->points[0], *z = &curve->points[curve->n - 1];
        if (kl)
            log_error("--quality kl=%g: at split %u %s was calibrated from kl=%.3g to kl=%.3g",
                      target.value, split, codec_mode_name(p->mode), (double)a->kl_mean,
                      (double)z->kl_mean);
        else
            log_error(
                "--rate %gB/token: at split %u %s was calibrated from %.0fB/token to %.0fB/token",
                target.value, split, codec_mode_name(p->mode), (double)z->bytes_per_token,
                (double)a->bytes_per_token);
        return EXIT_USAGE;
    }
    if (rc == 0)
        rc = codec_rate_init(&rate, curve, target);
    if (rc < 0) {
        log_error(
            "%s: the curve for %s of the profile of split %u does not fall from point to point: "
            "`isthmus calibrate` again, on more text",
            option, codec_mode_name(p->mode), split);
        return EXIT_USAGE;
    }
    codec_rate_apply(&rate, p);
    return EXIT_OK;
}

struct codec_params quality_with(const struct codec_params *p, float parameter)
{
    struct codec_params with = *p;

    if (parameter > 0 && p->mode == CODEC_TSQ)
        with.delta = parameter;
    else if (parameter > 0)
        with.step = parameter;
    return with;
}

bool quality_kept(struct codec_rate_target target, const struct codec_profile_curve *curve,
                  const struct quality_outcome *o, const char *whom)
{
    const double off = o->bytes_per_token / target.value - 1;

    if (target.kind != CODEC_RATE_BYTES || !curve || !o->rows || fabs(off) <= KEPT)
        return true;
    const float finest = curve->points[0].parameter,
                coarsest = curve->points[curve->n - 1].parameter;
    char why[80];
    if (off > 0 && o->max >= coarsest)
        snprintf(why, sizeof why, "no less at %.3g, the coarsest that was calibrated",
                 (double)coarsest);
    else if (off < 0 && o->min <= finest)
        snprintf(why, sizeof why, "no more at %.3g, the finest that was calibrated",
                 (double)finest);
    else
        snprintf(why, sizeof why, "%llu tokens were too few to come near",
                 (unsigned long long)o->rows);
    log_warn("--rate %gB/token was not kept: %s takes %.1f bytes/token: %s", target.value, whom,
             o->bytes_per_token, why);
    return false;
}
