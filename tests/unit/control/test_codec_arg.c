/* SPDX-License-Identifier: Apache-2.0 */
/* Codecs as text: what is read is written again, and what is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <float.h>
#include <string.h>

#include "control/codec_arg.h"

static struct codec_params parsed(const char *text)
{
    struct codec_params p;
    char err[CODEC_ARG_ERR] = "";

    assert_int_equal(codec_arg_parse(text, &p, err), 0);
    return p;
}

static void modes_and_parameters(void **state)
{
    (void)state;
    assert_int_equal(parsed("f32").mode, CODEC_F32);
    assert_int_equal(parsed("f16").mode, CODEC_F16);
    assert_int_equal(parsed("tsq").mode, CODEC_TSQ);
    assert_int_equal(parsed("rans").mode, CODEC_RANS);
    assert_int_equal(parsed("xform").mode, CODEC_XFORM);
    assert_true(parsed("xform").step == codec_params_default(CODEC_XFORM).step);
    assert_true(parsed("xform:step=.02").step == .02f);
    assert_true(parsed("rans:step=1e-3").step == 1e-3f);
    const struct codec_params p = parsed("tsq:tau_abs=2,delta=.1,qmin=3,qmax=5");
    assert_int_equal(p.tau_rule, CODEC_TAU_ABS);
    assert_true(p.tau == 2.0f && p.delta == .1f && p.qmin == 3 && p.qmax == 5);
    assert_null(parsed("xform").profile);
}

static void written_and_read_again(void **state)
{
    (void)state;
    const char *texts[] = {"f32", "f16", "tsq:tau=4,delta=0.08,qmin=2,qmax=8", "rans:step=0.0115",
                           "xform:step=1.23456789e-10"};
    char text[CODEC_ARG_MAX];

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct codec_params p = parsed(texts[i]);
        const struct codec_params q = parsed(codec_arg_format(&p, text));
        assert_true(p.mode == q.mode && p.tau == q.tau && p.delta == q.delta && p.step == q.step);
    }
    struct codec_params longest = codec_params_default(CODEC_TSQ);
    longest.tau_rule = CODEC_TAU_ABS;
    longest.tau = FLT_MIN * 1.2345678f;
    longest.delta = 1.2345679e-30f;
    const struct codec_params q = parsed(codec_arg_format(&longest, text));
    assert_true(q.tau == longest.tau && q.delta == longest.delta);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "there are tsq, rans, xform, f16 and f32"},
        {"zip", "there are tsq, rans, xform, f16 and f32"},
        {"xfor", "unknown mode"},
        {"xforms", "unknown mode"},
        {"f32:step=1", "only tsq, rans and xform"},
        {"xform:tau=4", "there is step"},
        {"rans:lanes=4", "there is step"},
        {"tsq:step=1", "there are tau, tau_abs"},
        {"xform:step", "step=.0115"},
        {"xform:step=", "not a number"},
        {"xform:step=1x", "not a number"},
        {"xform:step=nan", "not a number"},
        {"xform:step=inf", "not a number"},
        {"xform:step=0", "step > 0"},
        {"xform:step=-1", "step > 0"},
        {"xform:step=1e300", "step > 0"},
        {"xform:step=1e-300", "step > 0"},
        {"tsq:qmin=9", "1 to 8"},
        {"tsq:delta=1", "0 < delta < 1"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct codec_params p;
        char err[CODEC_ARG_ERR] = "";

        assert_int_equal(codec_arg_parse(cases[i].text, &p, err), -EINVAL);
        if (!strstr(err, cases[i].says))
            fail_msg("`%s` says: %s", cases[i].text, err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modes_and_parameters),
        cmocka_unit_test(written_and_read_again),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
