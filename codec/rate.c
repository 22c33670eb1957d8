/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/rate.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>

/* The share of a message's surprise that is believed. The first messages are averaged, so that a
 * session is near its target from the second on; later ones are an exponential average that forgets
 * nine tenths in seven messages. */
#define GAIN_MIN .3

/* --- curves --- */

const struct codec_profile_curve *codec_rate_curve(const struct codec_profile *profile,
                                                   enum codec_mode mode)
{
    const struct codec_profile_curve *curve;

    if (!profile)
        return NULL;
    switch (mode) {
    case CODEC_TSQ:
        curve = &profile->curves[CODEC_PROFILE_TSQ];
        break;
    case CODEC_RANS:
        curve = &profile->curves[CODEC_PROFILE_RANS];
        break;
    case CODEC_XFORM:
        curve = &profile->curves[CODEC_PROFILE_XFORM];
        break;
    default:
        return NULL;
    }
    return curve->n ? curve : NULL;
}

static bool is_positive(double v)
{
    return v > 0 && isfinite(v);
}

static bool curve_usable(const struct codec_profile_curve *c)
{
    if (!c || !c->n || c->n > CODEC_PROFILE_POINTS_MAX)
        return false;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct codec_profile_point *p = &c->points[i];

        if (!is_positive(p->parameter) || !is_positive(p->kl_mean) ||
            !is_positive(p->bytes_per_token))
            return false;
        if (i && (p->parameter <= p[-1].parameter || p->kl_mean < p[-1].kl_mean ||
                  p->bytes_per_token > p[-1].bytes_per_token))
            return false;
    }
    return true;
}

/* Where x is between x0 and x1, as y between y0 and y1, all in logarithms. */
static double between(double x, double x0, double x1, double y0, double y1)
{
    return y0 * pow(y1 / y0, log(x / x0) / log(x1 / x0));
}

int codec_rate_for_kl(const struct codec_profile_curve *curve, double kl, float *parameter)
{
    uint32_t i = 0;

    if (!curve_usable(curve) || !is_positive(kl))
        return -EINVAL;
    const struct codec_profile_point *p = curve->points;
    while (i < curve->n && (double)p[i].kl_mean <= kl) /* i: the first point above kl */
        i++;
    *parameter = p[i ? i - 1 : 0].parameter;
    if (i == 0)
        return -ERANGE;
    if (i == curve->n)
        return (double)p[i - 1].kl_mean < kl ? -ERANGE : 0;
    *parameter =
        (float)between(kl, p[i - 1].kl_mean, p[i].kl_mean, p[i - 1].parameter, p[i].parameter);
    return 0;
}

int codec_rate_for_bytes(const struct codec_profile_curve *curve, double bytes_per_token,
                         float *parameter)
{
    uint32_t i = 0;

    if (!curve_usable(curve) || !is_positive(bytes_per_token))
        return -EINVAL;
    const struct codec_profile_point *p = curve->points;
    while (i < curve->n && (double)p[i].bytes_per_token > bytes_per_token) /* the first that fits */
        i++;
    *parameter = p[i < curve->n ? i : i - 1].parameter;
    if (i == curve->n)
        return -ERANGE;
    if (i == 0)
        return (double)p[0].bytes_per_token < bytes_per_token ? -ERANGE : 0;
    *parameter = (float)between(bytes_per_token, p[i - 1].bytes_per_token, p[i].bytes_per_token,
                                p[i - 1].parameter, p[i].parameter);
    return 0;
}

/* The segment of a parameter inside the curve: its second point, 1 .. n-1. */
static uint32_t segment(const struct codec_profile_curve *c, double parameter)
{
    uint32_t i = 1;

    while (i + 1 < c->n && (double)c->points[i].parameter < parameter)
        i++;
    return i;
}

static double held(const struct codec_profile_curve *c, double parameter)
{
    return fmin(fmax(parameter, c->points[0].parameter), c->points[c->n - 1].parameter);
}

double codec_rate_kl_at(const struct codec_profile_curve *curve, float parameter)
{
    if (!curve_usable(curve) || isnan(parameter))
        return NAN;
    if (curve->n == 1)
        return curve->points[0].kl_mean;
    const struct codec_profile_point *p = &curve->points[segment(curve, parameter)];
    return between(held(curve, parameter), p[-1].parameter, p->parameter, p[-1].kl_mean,
                   p->kl_mean);
}

double codec_rate_bytes_at(const struct codec_profile_curve *curve, float parameter)
{
    if (!curve_usable(curve) || isnan(parameter))
        return NAN;
    if (curve->n == 1)
        return curve->points[0].bytes_per_token;
    const struct codec_profile_point *p = &curve->points[segment(curve, parameter)];
    return between(held(curve, parameter), p[-1].parameter, p->parameter, p[-1].bytes_per_token,
                   p->bytes_per_token);
}

/* --- control --- */

static int aim(const struct codec_rate *r, struct codec_rate_target target, float *parameter)
{
    int rc = -EINVAL;

    if (target.kind == CODEC_RATE_KL)
        rc = codec_rate_for_kl(r->curve, target.value, parameter);
    else if (target.kind == CODEC_RATE_BYTES && is_positive(target.value))
        rc = codec_rate_for_bytes(r->curve, target.value * exp(-r->bias), parameter);
    return rc == -ERANGE ? 0 : rc;
}

int codec_rate_init(struct codec_rate *r, const struct codec_profile_curve *curve,
                    struct codec_rate_target target)
{
    *r = (struct codec_rate){.curve = curve};
    return codec_rate_retarget(r, target);
}

int codec_rate_retarget(struct codec_rate *r, struct codec_rate_target target)
{
    const int rc = aim(r, target, &r->parameter);

    if (rc == 0)
        r->target = target;
    return rc;
}

/*
 * An integrator in the log domain: log(target) - log(bytes) is added up, in `bias`, and moves the
 * log parameter by the curve's slope. What it integrates is written as the distance between the
 * session and the curve at the parameter really used, so that a target out of reach, where the
 * parameter is held at an end of the curve, winds nothing up.
 */
void codec_rate_feed(struct codec_rate *r, uint64_t bytes, uint32_t tokens)
{
    if (r->target.kind != CODEC_RATE_BYTES || !bytes || !tokens)
        return;
    const double seen = log((double)bytes / tokens / codec_rate_bytes_at(r->curve, r->parameter));
    const double gain = fmax(1.0 / ++r->n_fed, GAIN_MIN);

    r->bias += gain * (seen - r->bias);
    aim(r, r->target, &r->parameter);
}

void codec_rate_apply(const struct codec_rate *r, struct codec_params *p)
{
    if (r->target.kind == CODEC_RATE_NONE)
        return;
    if (p->mode == CODEC_TSQ)
        p->delta = r->parameter;
    else if (p->mode == CODEC_RANS || p->mode == CODEC_XFORM)
        p->step = r->parameter;
}

void codec_rate_note(const struct codec_rate *r, struct codec_rate_range *range)
{
    const float now = codec_rate_parameter(r);

    if (r->target.kind == CODEC_RATE_NONE)
        return;
    if (range->min == 0 || now < range->min)
        range->min = now;
    if (now > range->max)
        range->max = now;
    range->last = now;
}
