/* SPDX-License-Identifier: Apache-2.0 */
/* Targets as text, and the parameters that they become on a profile's curve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "control/cmd.h"
#include "control/quality_arg.h"

static const struct codec_profile profile = {
    .curves[CODEC_PROFILE_TSQ] = {.n = 2, .points = {{.05f, .002f, 400}, {.2f, .05f, 250}}},
    .curves[CODEC_PROFILE_RANS] = {.n = 2, .points = {{.01f, .01f, 100}, {.02f, .005f, 200}}},
    .curves[CODEC_PROFILE_XFORM] = {.n = 2, .points = {{.006f, .002f, 240}, {.03f, .05f, 110}}},
};

static void text(void **state)
{
    (void)state;
    const char *bad[] = {"", "kl", "kl=", "kl=0", "kl=-1", "kl=nan", "kl=inf", "kl=.1x", "200"};
    const char *bad_rate[] = {"", "200", "200B", "B/token", "0B/token", "-1B/token", "infB/token"};
    struct codec_rate_target t = {.kind = CODEC_RATE_NONE};
    char err[QUALITY_ARG_ERR];

    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(quality_arg_parse(bad[i], &t, err), -EINVAL);
    for (unsigned i = 0; i < sizeof bad_rate / sizeof bad_rate[0]; i++)
        assert_int_equal(rate_arg_parse(bad_rate[i], &t, err), -EINVAL);
    assert_int_equal(t.kind, CODEC_RATE_NONE);
    assert_int_equal(rate_arg_parse("199.5B/token", &t, err), 0);
    assert_int_equal(t.kind, CODEC_RATE_BYTES);
    assert_float_equal(t.value, 199.5, 0);
    assert_int_equal(quality_arg_parse("kl=.006", &t, err), -EINVAL); /* one of them */
    t.kind = CODEC_RATE_NONE;
    assert_int_equal(quality_arg_parse("kl=.006", &t, err), 0);
    assert_int_equal(t.kind, CODEC_RATE_KL);
    assert_float_equal(t.value, .006, 0);
    assert_true(quality_arg_conflicts("tsq:tau=4,delta=.1"));
    assert_true(quality_arg_conflicts("xform:step=.01"));
    assert_false(quality_arg_conflicts("tsq:tau=4"));
}

static void on_the_curve(void **state)
{
    (void)state;
    const struct codec_rate_target none = {.kind = CODEC_RATE_NONE};
    struct codec_params p = codec_params_default(CODEC_XFORM);
    const float step = p.step;

    assert_int_equal(quality_apply(none, NULL, 10, &p), EXIT_OK);
    assert_float_equal(p.step, step, 0);
    assert_int_equal(quality_apply((struct codec_rate_target){CODEC_RATE_KL, .01}, &profile, 10, &p),
                     EXIT_OK);
    assert_float_equal(p.step, .01342, .00005); /* half way in the logarithms */
    p = codec_params_default(CODEC_TSQ);
    assert_int_equal(
        quality_apply((struct codec_rate_target){CODEC_RATE_BYTES, 316.23}, &profile, 10, &p), EXIT_OK);
    assert_float_equal(p.delta, .1, .0005);
}

static void kept(void **state)
{
    (void)state;
    const struct codec_rate_target bytes = {CODEC_RATE_BYTES, 200}, kl = {CODEC_RATE_KL, .01},
                                   none = {.kind = CODEC_RATE_NONE};
    const struct codec_profile_curve *c = &profile.curves[CODEC_PROFILE_XFORM];
    const struct {
        struct codec_rate_target target;
        struct quality_outcome o;
        bool kept;
    } cases[] = {
        {bytes, {100, 200, .01f, .02f}, true},
        {bytes, {100, 219, .01f, .03f}, true},
        {bytes, {100, 181, .006f, .02f}, true},
        {bytes, {100, 221, .01f, .03f}, false},
        {bytes, {100, 179, .006f, .01f}, false},
        {bytes, {3, 260, .01f, .02f}, false},
        {bytes, {0, 0, 0, 0}, true},
        {kl, {100, 900, .01f, .01f}, true},
        {none, {100, 900, 0, 0}, true},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(quality_kept(cases[i].target, c, &cases[i].o, "xform"), cases[i].kept);
}

static void parameter(void **state)
{
    (void)state;
    struct codec_params p = codec_params_default(CODEC_XFORM);

    assert_float_equal(quality_with(&p, 0).step, p.step, 0);
    assert_float_equal(quality_with(&p, .02f).step, .02f, 0);
    p = codec_params_default(CODEC_TSQ);
    assert_float_equal(quality_with(&p, .2f).delta, .2f, 0);
}

static void refused(void **state)
{
    (void)state;
    const struct {
        enum codec_mode mode;
        const struct codec_profile *profile;
        struct codec_rate_target target;
    } bad[] = {
        {CODEC_XFORM, NULL, {CODEC_RATE_KL, .01}},
        {CODEC_F16, &profile, {CODEC_RATE_KL, .01}},
        {CODEC_XFORM, &profile, {CODEC_RATE_KL, .06}}, /* beyond the curve */
        {CODEC_XFORM, &profile, {CODEC_RATE_KL, .001}},
        {CODEC_XFORM, &profile, {CODEC_RATE_BYTES, 100}},
        {CODEC_XFORM, &profile, {CODEC_RATE_BYTES, 250}},
        {CODEC_RANS, &profile, {CODEC_RATE_BYTES, 150}}, /* it rises */
    };

    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct codec_params p = codec_params_default(bad[i].mode);

        assert_int_equal(quality_apply(bad[i].target, bad[i].profile, 10, &p), EXIT_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text), cmocka_unit_test(on_the_curve), cmocka_unit_test(refused),
        cmocka_unit_test(kept), cmocka_unit_test(parameter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
