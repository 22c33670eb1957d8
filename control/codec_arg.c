/* SPDX-License-Identifier: Apache-2.0 */
#include "control/codec_arg.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(char *err, const char *text, const char *why)
{
    snprintf(err, CODEC_ARG_ERR, "codec `%.80s`: %s", text, why);
    return -EINVAL;
}

static int parse_number(const char *text, const char *value, double *v, char *err)
{
    char *end;

    *v = strtod(value, &end);
    if (end == value || *end != '\0' || !isfinite(*v))
        return fail(err, text, "a parameter's value is not a number");
    return 0;
}

/* One "key=value" of tsq: key[0,n) and v. */
static int set_tsq(const char *text, const char *key, size_t n, double v, struct codec_params *p,
                   char *err)
{
    if (n == 3 && memcmp(key, "tau", 3) == 0) {
        p->tau_rule = CODEC_TAU_MEAN;
        p->tau = (float)v;
    } else if (n == 7 && memcmp(key, "tau_abs", 7) == 0) {
        p->tau_rule = CODEC_TAU_ABS;
        p->tau = (float)v;
    } else if (n == 5 && memcmp(key, "delta", 5) == 0) {
        p->delta = (float)v;
    } else if (n == 4 && (memcmp(key, "qmin", 4) == 0 || memcmp(key, "qmax", 4) == 0)) {
        if (v < 1 || v > CODEC_QMAX || v != floor(v))
            return fail(err, text, "qmin and qmax are whole numbers of bits, 1 to 8");
        *(key[3] == 'n' ? &p->qmin : &p->qmax) = (uint8_t)v;
    } else {
        return fail(err, text, "unknown parameter: there are tau, tau_abs, delta, qmin and qmax");
    }
    return 0;
}

/* Of rans and xform. */
static int set_coded(const char *text, const char *key, size_t n, double v, struct codec_params *p,
                     char *err)
{
    if (n != 4 || memcmp(key, "step", 4) != 0)
        return fail(err, text, "unknown parameter: there is step");
    p->step = (float)v;
    return 0;
}

static bool is_coded(const struct codec_params *p)
{
    return p->mode == CODEC_RANS || p->mode == CODEC_XFORM;
}

static int parse_setting(const char *text, const char *setting, struct codec_params *p, char *err)
{
    const char *eq = strchr(setting, '=');
    double v;

    if (!eq)
        return fail(err, text,
                    is_coded(p) ? "parameters look like step=.0115"
                                : "parameters look like tau=4,delta=.08,qmin=2,qmax=8");
    const int rc = parse_number(text, eq + 1, &v, err);
    if (rc < 0)
        return rc;
    return (is_coded(p) ? set_coded : set_tsq)(text, setting, (size_t)(eq - setting), v, p, err);
}

static int parse_mode(const char *text, size_t n, struct codec_params *p)
{
    for (unsigned mode = 0; mode < CODEC_MODES; mode++) {
        const char *name = codec_mode_name((enum codec_mode)mode);
        if (strlen(name) == n && memcmp(text, name, n) == 0) {
            *p = codec_params_default((enum codec_mode)mode);
            return 0;
        }
    }
    return -EINVAL;
}

static int check_range(const char *text, const struct codec_params *p, char *err)
{
    if (is_coded(p)) /* codec_params_check would miss a profile here */
        return p->step > 0.0f && isfinite(p->step) ? 0 : fail(err, text, "out of range: step > 0");
    if (codec_params_check(p) < 0)
        return fail(err, text, "out of range: tau > 0, 0 < delta < 1, 1 <= qmin <= qmax, 2 <= qmax <= 8");
    return 0;
}

int codec_arg_parse(const char *text, struct codec_params *p, char *err)
{
    const char *colon = strchr(text, ':');

    if (parse_mode(text, colon ? (size_t)(colon - text) : strlen(text), p) < 0)
        return fail(err, text, "unknown mode: there are tsq, rans, xform, f16 and f32");
    if (colon && (p->mode == CODEC_F32 || p->mode == CODEC_F16))
        return fail(err, text, "only tsq, rans and xform have parameters");

    char settings[128];
    if (colon && strlen(colon + 1) >= sizeof settings)
        return fail(err, text, "too long");
    strcpy(settings, colon ? colon + 1 : "");
    char *save = NULL;
    for (char *s = strtok_r(settings, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        const int rc = parse_setting(text, s, p, err);
        if (rc < 0)
            return rc;
    }
    return check_range(text, p, err);
}

/* The text with the fewest digits that reads back as v. */
static char *format_f32(float v, char buf[24])
{
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(buf, 24, "%.*g", digits, (double)v);
        if ((float)strtod(buf, NULL) == v)
            break;
    }
    return buf;
}

char *codec_arg_format(const struct codec_params *p, char buf[CODEC_ARG_MAX])
{
    char a[24], b[24];

    if (p->mode == CODEC_TSQ)
        snprintf(buf, CODEC_ARG_MAX, "tsq:%s=%s,delta=%s,qmin=%u,qmax=%u",
                 p->tau_rule == CODEC_TAU_ABS ? "tau_abs" : "tau", format_f32(p->tau, a),
                 format_f32(p->delta, b), p->qmin, p->qmax);
    else if (is_coded(p))
        snprintf(buf, CODEC_ARG_MAX, "%s:step=%s", codec_mode_name(p->mode),
                 format_f32(p->step, a));
    else
        strcpy(buf, codec_mode_name(p->mode));
    return buf;
}
