/* SPDX-License-Identifier: Apache-2.0 */
#include "control/codec_arg.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(char *err, const char *text, const char *why)
{
    snprintf(err, CODEC_ARG_ERR, "codec `%.80s`: %s", text, why);
    return -EINVAL;
}

/* One "key=value" of tsq. */
static int parse_setting(const char *text, const char *setting, struct codec_params *p, char *err)
{
    const char *eq = strchr(setting, '=');
    if (!eq)
        return fail(err, text, "parameters look like tau=4,delta=.08,qmin=2,qmax=8");

    char *end;
    const double v = strtod(eq + 1, &end);
    if (end == eq + 1 || *end != '\0' || !isfinite(v))
        return fail(err, text, "a parameter's value is not a number");

    const size_t n = (size_t)(eq - setting);
    if (n == 3 && memcmp(setting, "tau", 3) == 0) {
        p->tau_rule = CODEC_TAU_MEAN;
        p->tau = (float)v;
    } else if (n == 7 && memcmp(setting, "tau_abs", 7) == 0) {
        p->tau_rule = CODEC_TAU_ABS;
        p->tau = (float)v;
    } else if (n == 5 && memcmp(setting, "delta", 5) == 0) {
        p->delta = (float)v;
    } else if (n == 4 && (memcmp(setting, "qmin", 4) == 0 || memcmp(setting, "qmax", 4) == 0)) {
        if (v < 1 || v > CODEC_QMAX || v != floor(v))
            return fail(err, text, "qmin and qmax are whole numbers of bits, 1 to 8");
        *(setting[3] == 'n' ? &p->qmin : &p->qmax) = (uint8_t)v;
    } else {
        return fail(err, text, "unknown parameter: there are tau, tau_abs, delta, qmin and qmax");
    }
    return 0;
}

int codec_arg_parse(const char *text, struct codec_params *p, char *err)
{
    const char *colon = strchr(text, ':');
    const size_t n = colon ? (size_t)(colon - text) : strlen(text);
    if (n != 3)
        return fail(err, text, "unknown mode: there are tsq, f16 and f32");
    if (memcmp(text, "f32", 3) == 0)
        *p = codec_params_default(CODEC_F32);
    else if (memcmp(text, "f16", 3) == 0)
        *p = codec_params_default(CODEC_F16);
    else if (memcmp(text, "tsq", 3) == 0)
        *p = codec_params_default(CODEC_TSQ);
    else
        return fail(err, text, "unknown mode: there are tsq, f16 and f32");

    if (colon && p->mode != CODEC_TSQ)
        return fail(err, text, "only tsq has parameters");

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
    if (codec_params_check(p) < 0)
        return fail(err, text, "out of range: tau > 0, 0 < delta < 1, 1 <= qmin <= qmax <= 8");
    return 0;
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
    char step[24];
    switch (p->mode) {
    case CODEC_F32:
        return strcpy(buf, "f32");
    case CODEC_F16:
        return strcpy(buf, "f16");
    case CODEC_RANS:
    case CODEC_XFORM:
        snprintf(buf, CODEC_ARG_MAX, "%s:step=%s", p->mode == CODEC_RANS ? "rans" : "xform",
                 format_f32(p->step, step));
        return buf;
    case CODEC_TSQ:
        break;
    }
    char tau[24], delta[24];
    snprintf(buf, CODEC_ARG_MAX, "tsq:%s=%s,delta=%s,qmin=%u,qmax=%u",
             p->tau_rule == CODEC_TAU_ABS ? "tau_abs" : "tau", format_f32(p->tau, tau),
             format_f32(p->delta, delta), p->qmin, p->qmax);
    return buf;
}
