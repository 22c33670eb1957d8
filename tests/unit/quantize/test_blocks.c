/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's blocks: what qtype_dequantize reads of them is near, and nearer than the usual scale's. */
#include "../calibrate/util.h"

#include <errno.h>

#include "compute/quantize/quantize.h"

enum { ROWS = 20, COLS = 512 };

static float w[ROWS * COLS], moments[COLS * COLS];

static const struct {
    const char *name;
    double steps; /* of a block's range */
} types[] = {{"Q8_0", 255}, {"Q6_K", 63}, {"Q5_0", 31}, {"Q4_0", 15}, {"Q4_1", 15}};

static double weighted(const float *q, const float *weight)
{
    double sum = 0;

    for (size_t i = 0; i < ROWS * COLS; i++)
        sum += (double)(weight ? weight[i % COLS * (COLS + 1)] : 1) *
               pow((double)q[i] - (double)w[i], 2);
    return sum;
}

/* The rule without a search: the largest value of each block of 32 decides its scale. */
static double usual(double steps, const float *weight)
{
    static float q[ROWS * COLS];

    for (size_t b = 0; b < ROWS * COLS; b += 32) {
        double most = 0;
        for (size_t i = b; i < b + 32; i++)
            most = fmax(most, fabs((double)w[i]));
        const double d = 2 * most / steps;
        for (size_t i = b; i < b + 32; i++)
            q[i] = d > 0 ? (float)(d * rint((double)w[i] / d)) : 0;
    }
    return weighted(q, weight);
}

static void test_round_trip(void **state)
{
    static float q[2][ROWS * COLS];

    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = i / 32 % 9 == 0 ? 0 : (float)(normal() * .03);
    for (size_t i = 0; i < COLS; i++)
        moments[i * (COLS + 1)] = (float)pow(10, 2 * uniform());
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
        for (unsigned weights = 0; weights < 2; weights++) {
            const struct quantize_input in = {ROWS, COLS, w, weights ? moments : NULL};
            struct quantize_scheme s;
            struct quantized got[2];

            assert_int_equal(quantize_scheme_parse(types[t].name, &s), 0);
            for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(quantize_matrix(teams[i], &in, &s, &got[i]), 0);
                assert_int_equal(quantized_values(&got[i], q[i]), 0);
            }
            assert_memory_equal(got[0].blocks, got[1].blocks, got[0].blocks_bytes);
            assert_int_equal(quantized_bytes(&got[0]), ROWS * COLS /
                                                           qtype_info(s.type)->block_values *
                                                           qtype_info(s.type)->block_bytes);
            /* A block of zeros stays one. */
            for (size_t i = 0; i < 32; i++)
                assert_true(q[0][i] == 0);
            assert_true(weighted(q[0], in.moments) < usual(types[t].steps, in.moments));
            quantized_free(&got[0]);
            quantized_free(&got[1]);
        }
}

static void test_refused(void **state)
{
    struct quantize_scheme s;
    struct quantized q;
    struct quantize_input in = {ROWS, 48, w, NULL};

    assert_int_equal(quantize_scheme_parse("Q4_0", &s), 0);
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EINVAL);
    quantized_free(&q);
    assert_int_equal(quantize_scheme_parse("Q6_K", &s), 0);
    in.n_cols = 32;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EINVAL);
    quantized_free(&q);
    assert_true(quantize_scheme_fit(&s, 576));
    assert_int_equal(s.type, QTYPE_Q8_0);
    assert_false(quantize_scheme_fit(&s, 576));
    w[5] = NAN;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EDOM);
    quantized_free(&q);
    assert_int_equal(quantize_scheme_parse("sq5", &s), -EINVAL);
    assert_int_equal(quantize_scheme_parse("", &s), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_refused)};

    return open_teams() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
