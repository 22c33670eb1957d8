/* SPDX-License-Identifier: Apache-2.0 */
/* Curves are read both ways and refused when they are none; a session finds its target. */
#include "util.h"

#include <errno.h>

#include "codec/rate.h"

/* Roughly what xform does: 4 bits fewer a doubled step, KL with its square. */
static const struct codec_profile_curve typical = {
    .n = 6,
    .points = {{.003f, .0008f, 305},
               {.006f, .002f, 240},
               {.0115f, .006f, 184},
               {.023f, .023f, 121},
               {.046f, .1f, 70},
               {.09f, .4f, 38}},
};

static struct codec_profile_curve random_curve(void)
{
    struct codec_profile_curve c = {.n = 2 + rng_below(CODEC_PROFILE_POINTS_MAX - 1)};
    double parameter = .001 * exp(2 * (double)rng_unit());
    double kl = 1e-5 * exp(3 * (double)rng_unit()), bytes = 2000 * exp((double)rng_unit());

    for (uint32_t i = 0; i < c.n; i++) {
        c.points[i] = (struct codec_profile_point){(float)parameter, (float)kl, (float)bytes};
        parameter *= 1.05 + fabs((double)rng_unit());
        kl *= rng_below(5) ? 1.01 + 2 * fabs((double)rng_unit()) : 1; /* or level */
        bytes /= rng_below(5) ? 1.01 + .5 * fabs((double)rng_unit()) : 1;
    }
    return c;
}

static void assert_near(double a, double b, double relative)
{
    if (!(fabs(a - b) <= relative * fabs(b)))
        fail_msg("%.9g is not within %g of %.9g", a, relative, b);
}

/* --- curves --- */

static void test_points_are_met(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < typical.n; i++) {
        const struct codec_profile_point *p = &typical.points[i];
        float parameter;

        assert_int_equal(codec_rate_for_kl(&typical, p->kl_mean, &parameter), 0);
        assert_near(parameter, p->parameter, 1e-6);
        assert_int_equal(codec_rate_for_bytes(&typical, p->bytes_per_token, &parameter), 0);
        assert_near(parameter, p->parameter, 1e-6);
        assert_near(codec_rate_kl_at(&typical, p->parameter), p->kl_mean, 1e-6);
        assert_near(codec_rate_bytes_at(&typical, p->parameter), p->bytes_per_token, 1e-6);
    }
    /* Half way in the logarithms. */
    float parameter;
    assert_int_equal(codec_rate_for_kl(&typical, sqrt(.006 * .023), &parameter), 0);
    assert_near(parameter, sqrt(.0115 * .023), 1e-6);
}

static void test_there_and_back(void **state)
{
    (void)state;
    rng_seed();
    for (unsigned i = 0; i < 20000; i++) {
        const struct codec_profile_curve c = random_curve();
        const struct codec_profile_point *a = &c.points[0], *z = &c.points[c.n - 1];
        const double at = fabs((double)rng_unit());
        const double kl = a->kl_mean * pow((double)z->kl_mean / a->kl_mean, at);
        const double bytes =
            a->bytes_per_token * pow((double)z->bytes_per_token / a->bytes_per_token, at);
        float parameter;

        int rc = codec_rate_for_kl(&c, kl, &parameter); /* -ERANGE: rounded past an end */
        assert_true(rc == 0 || rc == -ERANGE);
        assert_true(parameter >= a->parameter * .999999f && parameter <= z->parameter * 1.000001f);
        assert_near(codec_rate_kl_at(&c, parameter), kl, 1e-4);
        rc = codec_rate_for_bytes(&c, bytes, &parameter);
        assert_true(rc == 0 || rc == -ERANGE);
        assert_true(parameter >= a->parameter * .999999f && parameter <= z->parameter * 1.000001f);
        assert_near(codec_rate_bytes_at(&c, parameter), bytes, 1e-4);
    }
}

/* More KL allowed, or fewer bytes: never a finer parameter. */
static void test_monotone(void **state)
{
    (void)state;
    rng_seed();
    for (unsigned i = 0; i < 1000; i++) {
        const struct codec_profile_curve c = random_curve();
        const double kl_from = c.points[0].kl_mean / 3.0, kl_to = c.points[c.n - 1].kl_mean * 3.0;
        const double bytes_from = c.points[0].bytes_per_token * 3.0,
                     bytes_to = c.points[c.n - 1].bytes_per_token / 3.0;
        float kl_before = 0, bytes_before = 0;

        for (unsigned step = 0; step <= 100; step++) {
            float parameter;

            codec_rate_for_kl(&c, kl_from * pow(kl_to / kl_from, step * .01), &parameter);
            assert_true(parameter >= kl_before);
            kl_before = parameter;
            codec_rate_for_bytes(&c, bytes_from * pow(bytes_to / bytes_from, step * .01),
                                 &parameter);
            assert_true(parameter >= bytes_before);
            bytes_before = parameter;
        }
    }
}

/* On a level stretch: the coarsest parameter for a KL, the finest for a number of bytes. */
static void test_level_stretches(void **state)
{
    (void)state;
    const struct codec_profile_curve c = {
        .n = 4, .points = {{1, 1, 100}, {2, 2, 50}, {3, 2, 50}, {4, 4, 25}}};
    float parameter;

    assert_int_equal(codec_rate_for_kl(&c, 2, &parameter), 0);
    assert_near(parameter, 3, 1e-6);
    assert_int_equal(codec_rate_for_bytes(&c, 50, &parameter), 0);
    assert_near(parameter, 2, 1e-6);
}

static void test_beyond(void **state)
{
    (void)state;
    float parameter = 0;

    assert_int_equal(codec_rate_for_kl(&typical, .0001, &parameter), -ERANGE);
    assert_float_equal(parameter, .003f, 0);
    assert_int_equal(codec_rate_for_kl(&typical, 1, &parameter), -ERANGE);
    assert_float_equal(parameter, .09f, 0);
    assert_int_equal(codec_rate_for_bytes(&typical, 1000, &parameter), -ERANGE);
    assert_float_equal(parameter, .003f, 0);
    assert_int_equal(codec_rate_for_bytes(&typical, 10, &parameter), -ERANGE);
    assert_float_equal(parameter, .09f, 0);
    assert_near(codec_rate_kl_at(&typical, 1), .4, 1e-6);
    assert_near(codec_rate_bytes_at(&typical, 1e-9f), 305, 1e-6);

    const struct codec_profile_curve point = {.n = 1, .points = {{.01f, .005f, 200}}};
    assert_int_equal(codec_rate_for_kl(&point, .006, &parameter), -ERANGE);
    assert_float_equal(parameter, .01f, 0);
    assert_int_equal(codec_rate_for_bytes(&point, 200, &parameter), 0);
    assert_near(codec_rate_kl_at(&point, 3), .005, 1e-6);
}

static void check_refused(const struct codec_profile_curve *c)
{
    struct codec_rate r;
    float parameter;

    assert_int_equal(codec_rate_for_kl(c, .01, &parameter), -EINVAL);
    assert_int_equal(codec_rate_for_bytes(c, 200, &parameter), -EINVAL);
    assert_true(isnan(codec_rate_kl_at(c, .01f)));
    assert_true(isnan(codec_rate_bytes_at(c, .01f)));
    assert_int_equal(codec_rate_init(&r, c, (struct codec_rate_target){CODEC_RATE_BYTES, 200}),
                     -EINVAL);
    assert_int_equal(codec_rate_init(&r, c, (struct codec_rate_target){CODEC_RATE_KL, .01}),
                     -EINVAL);
}

static void test_garbage_refused(void **state)
{
    (void)state;
    const float bad[] = {0, -1, NAN, INFINITY};
    struct codec_profile_curve c = {.n = 0};

    check_refused(NULL);
    check_refused(&c);
    c = typical;
    c.n = CODEC_PROFILE_POINTS_MAX + 1;
    check_refused(&c);
    for (unsigned i = 0; i < typical.n; i++) {
        for (unsigned k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            c = typical;
            c.points[i].parameter = bad[k];
            check_refused(&c);
            c = typical;
            c.points[i].kl_mean = bad[k];
            check_refused(&c);
            c = typical;
            c.points[i].bytes_per_token = bad[k];
            check_refused(&c);
        }
    }
    c = typical; /* the KL falls */
    c.points[3].kl_mean = .001f;
    check_refused(&c);
    c = typical; /* the bytes rise */
    c.points[3].bytes_per_token = 200;
    check_refused(&c);
    c = typical; /* twice the same */
    c.points[3].parameter = c.points[2].parameter;
    check_refused(&c);

    struct codec_rate r;
    for (unsigned k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        const double value = bad[k];
        assert_int_equal(
            codec_rate_init(&r, &typical, (struct codec_rate_target){CODEC_RATE_KL, value}),
            -EINVAL);
        assert_int_equal(
            codec_rate_init(&r, &typical, (struct codec_rate_target){CODEC_RATE_BYTES, value}),
            -EINVAL);
    }
    assert_int_equal(codec_rate_init(&r, &typical, (struct codec_rate_target){CODEC_RATE_NONE, 1}),
                     -EINVAL);
}

/* --- control --- */

/* A session whose rows take `factor` times the curve's bytes, and `steeper` the curve's slope. */
struct session {
    double factor, steeper, noise;
};

static double bytes_of(const struct session *s, float parameter)
{
    const double on_curve = codec_rate_bytes_at(&typical, parameter) / 184;

    return 184 * s->factor * pow(on_curve, s->steeper);
}

static void send(const struct session *s, struct codec_rate *r, uint32_t tokens)
{
    const double noisy =
        bytes_of(s, codec_rate_parameter(r)) * exp(s->noise * (double)rng_normal());

    codec_rate_feed(r, (uint64_t)(noisy * tokens + .5), tokens);
}

static struct codec_rate start(enum codec_rate_kind kind, double value)
{
    struct codec_rate r;

    assert_int_equal(codec_rate_init(&r, &typical, (struct codec_rate_target){kind, value}), 0);
    return r;
}

/* Eight messages bring any session within 5 %, and none after them leaves. */
static void test_converges(void **state)
{
    (void)state;
    rng_seed();
    for (unsigned i = 0; i < 5000; i++) {
        const double target = 110 + 70 * fabs((double)rng_unit());
        const struct session s = {.factor = exp(.3 * (double)rng_unit()),
                                  .steeper = 1 + .3 * (double)rng_unit()};
        struct codec_rate r = start(CODEC_RATE_BYTES, target);

        for (unsigned m = 0; m < 40; m++) {
            if (m >= 8)
                assert_near(bytes_of(&s, codec_rate_parameter(&r)), target, .05);
            send(&s, &r, 64);
        }
    }
}

/* The rows change in the midst of the session, and the target with the link. */
static void test_steps(void **state)
{
    (void)state;
    rng_seed();
    for (unsigned i = 0; i < 5000; i++) {
        struct session s = {.factor = exp(.2 * (double)rng_unit()), .steeper = 1};
        struct codec_rate r = start(CODEC_RATE_BYTES, 150);
        double before;

        for (unsigned m = 0; m < 20; m++)
            send(&s, &r, 64);
        s.factor *= exp(.4 * (double)rng_unit());
        before = fabs(log(bytes_of(&s, codec_rate_parameter(&r)) / 150));
        for (unsigned m = 0; m < 8; m++) { /* ever nearer, from one side */
            send(&s, &r, 64);
            const double now = fabs(log(bytes_of(&s, codec_rate_parameter(&r)) / 150));
            assert_true(now <= before * .75 + .005);
            before = now;
        }
        assert_near(bytes_of(&s, codec_rate_parameter(&r)), 150, .05);

        /* What was learned of the rows holds for another target at once. */
        assert_int_equal(codec_rate_retarget(&r, (struct codec_rate_target){CODEC_RATE_BYTES, 100}),
                         0);
        assert_near(bytes_of(&s, codec_rate_parameter(&r)), 100, .05);
    }
}

/* Noise of a tenth from message to message: the mean is on target, the parameter keeps calm. */
static void test_noise(void **state)
{
    (void)state;
    rng_seed();
    const struct session s = {.factor = 1.25, .steeper = 1, .noise = .1 / sqrt(8. / 3)};
    struct codec_rate r = start(CODEC_RATE_BYTES, 120);
    double sum = 0, squares = 0;

    for (unsigned m = 0; m < 8; m++)
        send(&s, &r, 1);
    for (unsigned m = 0; m < 4000; m++) {
        const double off = log(bytes_of(&s, codec_rate_parameter(&r)) / 120);

        sum += off;
        squares += off * off;
        send(&s, &r, 1);
    }
    assert_true(fabs(sum / 4000) < .01);
    assert_true(sqrt(squares / 4000) < .06); /* .042 expected: .1 sqrt(.3 / 1.7) */
}

/* A target out of reach for long leaves nothing behind. */
static void test_no_windup(void **state)
{
    (void)state;
    const struct session s = {.factor = 1.2, .steeper = 1};
    struct codec_rate r = start(CODEC_RATE_BYTES, 20);

    for (unsigned m = 0; m < 1000; m++) {
        assert_float_equal(codec_rate_parameter(&r), .09f, 1e-7);
        send(&s, &r, 64);
    }
    assert_int_equal(codec_rate_retarget(&r, (struct codec_rate_target){CODEC_RATE_BYTES, 150}), 0);
    assert_near(bytes_of(&s, codec_rate_parameter(&r)), 150, .01);
}

/* KL is not seen: the curve's parameter, whatever is fed. Bad targets change nothing. */
static void test_kl_target(void **state)
{
    (void)state;
    struct codec_rate r = start(CODEC_RATE_KL, .006);

    for (unsigned m = 0; m < 20; m++) {
        assert_float_equal(codec_rate_parameter(&r), .0115f, 1e-7);
        codec_rate_feed(&r, 64 * 900, 64);
    }
    assert_int_equal(codec_rate_retarget(&r, (struct codec_rate_target){CODEC_RATE_KL, -1}),
                     -EINVAL);
    assert_float_equal(codec_rate_parameter(&r), .0115f, 1e-7);
    assert_int_equal(codec_rate_retarget(&r, (struct codec_rate_target){CODEC_RATE_KL, .023}), 0);
    assert_float_equal(codec_rate_parameter(&r), .023f, 1e-7);
    codec_rate_feed(&r, 0, 0);

    r = start(CODEC_RATE_BYTES, 184);
    codec_rate_feed(&r, 0, 64); /* nothing to learn from */
    codec_rate_feed(&r, 64, 0);
    assert_float_equal(codec_rate_parameter(&r), .0115f, 1e-7);
    codec_rate_feed(&r, UINT64_MAX, 1);
    assert_float_equal(codec_rate_parameter(&r), .09f, 1e-7);
}

static void test_apply(void **state)
{
    (void)state;
    const struct codec_rate r = start(CODEC_RATE_KL, .023), none = {.curve = NULL};
    struct codec_params p = codec_params_default(CODEC_TSQ);
    const float delta = p.delta;

    codec_rate_apply(&none, &p);
    assert_float_equal(p.delta, delta, 0);
    codec_rate_apply(&r, &p);
    assert_float_equal(p.delta, .023f, 1e-7);
    p = codec_params_default(CODEC_XFORM);
    codec_rate_apply(&r, &p);
    assert_float_equal(p.step, .023f, 1e-7);
    p = codec_params_default(CODEC_RANS);
    codec_rate_apply(&r, &p);
    assert_float_equal(p.step, .023f, 1e-7);
}

static void test_curve_of_mode(void **state)
{
    (void)state;
    struct codec_profile p = {.n_blocks = 0};

    p.curves[CODEC_PROFILE_XFORM] = typical;
    assert_ptr_equal(codec_rate_curve(&p, CODEC_XFORM), &p.curves[CODEC_PROFILE_XFORM]);
    assert_null(codec_rate_curve(&p, CODEC_RANS)); /* not measured */
    assert_null(codec_rate_curve(&p, CODEC_F16));
    assert_null(codec_rate_curve(NULL, CODEC_XFORM));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_are_met), cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_monotone),       cmocka_unit_test(test_level_stretches),
        cmocka_unit_test(test_beyond),         cmocka_unit_test(test_garbage_refused),
        cmocka_unit_test(test_converges),      cmocka_unit_test(test_steps),
        cmocka_unit_test(test_noise),          cmocka_unit_test(test_no_windup),
        cmocka_unit_test(test_kl_target),      cmocka_unit_test(test_apply),
        cmocka_unit_test(test_curve_of_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
