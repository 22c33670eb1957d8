/* SPDX-License-Identifier: Apache-2.0 */
/* A text's way through a small model beside its quantized copy. */
#include "../calibrate/util.h"

#include <unistd.h>

#include "../stage/tiny_model.h"
#include "compute/quantize/pass.h"

enum { WINDOWS = 6, WINDOW = 24, TOKENS = WINDOWS * WINDOW };

static int32_t ids[TOKENS];
static char *path;
static struct gguf *g;
static char err[GGUF_ERR];

static int set_up(void **state)
{
    const struct tiny_params p = {.arch = "llama", .seed = 7, .rope_factors = true};

    for (size_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(uniform() * TINY_VOCAB);
    path = tiny_write(&p);
    return !path || gguf_open(path, &g, err);
}

static int tear_down(void **state)
{
    gguf_close(g);
    unlink(path);
    free(path);
    return 0;
}

static struct quantize_pass *open_pass(struct team *team)
{
    struct quantize_pass *p;

    if (quantize_pass_open(g, ids, WINDOWS, WINDOW, team, &p, err))
        fail_msg("%s", err);
    return p;
}

/* sum of products of the embedding's normed rows. */
static void test_first_input(void **state)
{
    struct quantize_pass *p = open_pass(teams[1]);
    struct quantize_moments m;
    float *table = tiny_tensor(g, "token_embd.weight"),
          *weight = tiny_tensor(g, "blk.0.attn_norm.weight");
    static double want[TINY_D * TINY_D];

    memset(want, 0, sizeof(want));
    for (size_t t = 0; t < TOKENS; t++) {
        const float *x = table + (size_t)ids[t] * TINY_D;
        double sq = 0, y[TINY_D];
        for (size_t i = 0; i < TINY_D; i++)
            sq += pow((double)x[i], 2) / TINY_D;
        for (size_t i = 0; i < TINY_D; i++)
            y[i] = (double)x[i] / sqrt(sq + (double)TINY_EPS) * (double)weight[i];
        for (size_t i = 0; i < TINY_D; i++)
            for (size_t j = 0; j < TINY_D; j++)
                want[i * TINY_D + j] += y[i] * y[j];
    }
    assert_int_equal(quantize_pass_layer(p, 0, err), 0);
    assert_int_equal(quantize_pass_moments(p, QUANTIZE_INPUT_QKV, &m), 0);
    assert_int_equal(m.n_cols, TINY_D);
    for (size_t i = 0; i < TINY_D * TINY_D; i++) {
        assert_true(fabs((double)m.moments[i] - want[i]) < 1e-3 * (1 + fabs(want[i])));
        assert_true(fabs((double)m.cross[i] - want[i]) < 1e-3 * (1 + fabs(want[i])));
    }
    free(table);
    free(weight);
    quantize_pass_close(p);
}

/* All inputs of a layer, of which `scale` changes the matrices. */
static void run_layer(struct quantize_pass *p, uint32_t layer, float scale)
{
    struct quantize_moments m;

    assert_int_equal(quantize_pass_layer(p, layer, err), 0);
    for (unsigned i = 0; i < QUANTIZE_MATRICES; i++) {
        uint32_t rows, cols;
        const float *w = quantize_pass_weights(p, i, &rows, &cols);
        float *values = malloc((size_t)rows * cols * sizeof(*values));

        assert_non_null(values);
        if (i == 0 || quantize_matrix_input(i) != quantize_matrix_input(i - 1))
            assert_int_equal(quantize_pass_moments(p, quantize_matrix_input(i), &m), 0);
        assert_int_equal(m.n_cols, cols);
        for (size_t k = 0; k < (size_t)rows * cols; k++)
            values[k] = scale * w[k];
        assert_int_equal(quantize_pass_set(p, i, values), 0);
        free(values);
    }
    quantize_pass_advance(p);
}

/* How far the moments of the last layer's inputs are from those of the untouched model. */
static double distance(const struct quantize_moments *m, const float *want)
{
    double d = 0, all = 0;

    for (size_t i = 0; i < (size_t)m->n_cols * m->n_cols; i++) {
        d += pow((double)m->moments[i] - (double)want[i], 2);
        all += pow((double)want[i], 2);
    }
    return sqrt(d / all);
}

static void test_streams(void **state)
{
    const float scales[] = {1, .9f};
    static float want[TINY_D * TINY_D];
    struct quantize_moments m;

    struct quantize_pass *p = open_pass(teams[0]);
    for (uint32_t i = 0; i + 1 < TINY_LAYERS; i++) {
        assert_int_equal(quantize_pass_layer(p, i, err), 0);
        quantize_pass_skip(p);
    }
    assert_int_equal(quantize_pass_layer(p, TINY_LAYERS - 1, err), 0);
    assert_int_equal(quantize_pass_moments(p, QUANTIZE_INPUT_QKV, &m), 0);
    memcpy(want, m.moments, sizeof(want));
    quantize_pass_close(p);

    for (unsigned i = 0; i < 2; i++) {
        static float got[2][3 * TINY_D * TINY_D];
        for (unsigned t = 0; t < 2; t++) {
            p = open_pass(teams[t]);
            run_layer(p, 0, scales[i]);
            run_layer(p, 1, 1);
            assert_int_equal(quantize_pass_layer(p, 2, err), 0);
            assert_int_equal(quantize_pass_moments(p, QUANTIZE_INPUT_QKV, &m), 0);
            const double apart = distance(&m, want);
            assert_true(i ? apart > .01 : apart < 1e-4);
            memcpy(got[t], m.moments, TINY_D * TINY_D * sizeof(float));
            memcpy(got[t] + TINY_D * TINY_D, m.cross, TINY_D * TINY_D * sizeof(float));
            assert_int_equal(quantize_pass_moments(p, QUANTIZE_INPUT_O, &m), 0);
            memcpy(got[t] + 2 * TINY_D * TINY_D, m.cross, TINY_D * TINY_D * sizeof(float));
            quantize_pass_close(p);
        }
        assert_memory_equal(got[0], got[1], sizeof(got[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_first_input),
                                       cmocka_unit_test(test_streams)};

    return open_teams() ? 1 : cmocka_run_group_tests(tests, set_up, tear_down);
}
