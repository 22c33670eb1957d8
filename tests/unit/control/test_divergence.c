/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "control/divergence.h"

enum { VOCAB = 1000 };

static double plain_kl(const float *ref, const float *got)
{
    double sum_ref = 0, sum_got = 0, kl = 0;

    for (int i = 0; i < VOCAB; i++) {
        sum_ref += exp(ref[i]);
        sum_got += exp(got[i]);
    }
    for (int i = 0; i < VOCAB; i++) {
        double p = exp(ref[i]) / sum_ref, q = exp(got[i]) / sum_got;

        kl += p * log(p / q);
    }
    return kl;
}

static void fill(float *x, float base, float noise)
{
    for (int i = 0; i < VOCAB; i++)
        x[i] = base * (float)(i * 7919 % 101) / 10 + noise * (float)(i * 104729 % 97);
}

static void agrees_with_the_definition(void **state)
{
    float ref[VOCAB], got[VOCAB];
    struct divergence d;

    assert_int_equal(divergence_open(&d, VOCAB, 10), 0);
    fill(ref, 1, 0);
    const float noise[] = {1e-4f, .002f, .05f};
    for (int i = 0; i < 3; i++) {
        fill(got, 1, noise[i]);
        divergence_add(&d, ref, got, -1, false);
        double want = plain_kl(ref, got);
        assert_true(fabs(d.kl[i] - want) < want * .001 + 2e-7);
    }
    divergence_close(&d);
}

static void equal_rows_do_not_diverge(void **state)
{
    float ref[VOCAB], shifted[VOCAB];
    struct divergence d;

    assert_int_equal(divergence_open(&d, VOCAB, 10), 0);
    fill(ref, 1, .01f);
    for (int i = 0; i < VOCAB; i++)
        shifted[i] = ref[i] + 4; /* the same distribution */
    divergence_add(&d, ref, ref, 3, true);
    divergence_add(&d, ref, shifted, 3, true);
    struct divergence_summary s = divergence_summary(&d);
    assert_true(s.kl_mean < 1e-6 && s.kl_p99 < 1e-6);
    assert_true(s.top1 == 1);
    assert_true(fabs(s.ppl / s.ppl_ref - 1) < 1e-5);
    divergence_close(&d);
}

static void summary(void **state)
{
    float ref[VOCAB] = {0}, got[VOCAB] = {0};
    struct divergence d;

    assert_int_equal(divergence_open(&d, VOCAB, 200), 0);
    for (int i = 0; i < 200; i++) {
        /* Two of a hundred positions differ, and have another best id. */
        ref[5] = 1;
        got[5] = i % 100 < 2 ? 0 : 1;
        got[6] = i % 100 < 2 ? 1 : 0;
        divergence_add(&d, ref, got, i < 100 ? 5 : -1, i < 50);
    }
    struct divergence_summary s = divergence_summary(&d);
    double p = exp(1) / (VOCAB - 1 + exp(1)), other = 1 / (VOCAB - 1 + exp(1));
    double kl = (p - other) * 1; /* sum p (ref - got): equal normalisers */
    assert_true(fabs(s.kl_mean - kl * .02) < 1e-7);
    assert_true(fabs(s.kl_p99 - kl) < 1e-6);
    assert_true(fabs(s.top1 - .98) < 1e-12);
    assert_true(fabs(s.ppl_ref - 1 / p) < 1e-3 / p);
    assert_true(fabs(log(s.ppl) - (.96 * -log(p) + .04 * -log(other))) < 1e-5);
    assert_true(fabs(log(s.ppl_full) - (.98 * -log(p) + .02 * -log(other))) < 1e-5);
    assert_true(fabs(s.ppl_full_ref - 1 / p) < 1e-3 / p);
    assert_true(fabs(s.kl_median) < 1e-6 && fabs(s.kl_max - kl) < 1e-6);
    assert_true(fabs(log_prob(ref, VOCAB, 5) - log(p)) < 1e-6);
    divergence_close(&d);

    /* Nothing scored: no number. */
    assert_int_equal(divergence_open(&d, VOCAB, 1), 0);
    divergence_add(&d, ref, got, -1, false);
    s = divergence_summary(&d);
    assert_true(isnan(s.ppl) && isnan(s.ppl_ref));
    divergence_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_definition),
        cmocka_unit_test(equal_rows_do_not_diverge),
        cmocka_unit_test(summary),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
