/* SPDX-License-Identifier: Apache-2.0 */
/* Own schemes: their codes' round trip, and the error that feedback leaves. */
#include "../calibrate/util.h"

#include <errno.h>

#include "codec/f16.h"
#include "compute/quantize/impl.h"

enum { ROWS = 70, COLS = 160, TOKENS = 1000, MIXED = 24 };

static float w[ROWS * COLS], moments[COLS * COLS];

/* Inputs whose columns go together, as a model's do, and differ in size. */
static void make_problem(void)
{
    static float mix[MIXED][COLS], x[TOKENS][COLS];

    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = (float)(normal() * .02);
    for (size_t i = 0; i < MIXED; i++)
        for (size_t j = 0; j < COLS; j++)
            mix[i][j] = (float)normal();
    memset(moments, 0, sizeof(moments));
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t j = 0; j < COLS; j++)
            x[t][j] = (float)(.3 * normal());
        for (size_t i = 0; i < MIXED; i++) {
            const float much = (float)normal();
            for (size_t j = 0; j < COLS; j++)
                x[t][j] += much * mix[i][j];
        }
        for (size_t j = 0; j < COLS; j++)
            x[t][j] *= 1 + (float)(j % 7);
        for (size_t i = 0; i < COLS; i++)
            for (size_t j = 0; j < COLS; j++)
                moments[i * COLS + j] += x[t][i] * x[t][j] / TOKENS;
    }
}

static double error_of(const float *q)
{
    double sum = 0;

    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < COLS; i++) {
            const double d = (double)(q[r * COLS + i] - w[r * COLS + i]);
            for (size_t j = 0; j < COLS; j++)
                sum +=
                    d * (double)moments[i * COLS + j] * (double)(q[r * COLS + j] - w[r * COLS + j]);
        }
    return sum;
}

/* Every weight to the nearest of the levels that clustering gives its row. */
static void nearest(unsigned bits, float *q)
{
    const struct quantize_scheme s = {.kind = QUANTIZE_LEVELS, .bits = bits};
    struct cluster *c = cluster_open(COLS);
    float levels[CLUSTER_LEVELS_MAX];
    const struct grid g = {.scheme = &s, .levels = levels};

    assert_non_null(c);
    for (size_t r = 0; r < ROWS; r++) {
        struct cluster_point p[COLS];
        for (size_t i = 0; i < COLS; i++)
            p[i] = (struct cluster_point){w[r * COLS + i], moments[i * (COLS + 1)]};
        cluster_levels(c, p, COLS, 1u << bits, levels);
        for (size_t i = 0; i < COLS; i++)
            grid_nearest(&g, (uint32_t)i, w[r * COLS + i], &q[r * COLS + i]);
    }
    cluster_close(c);
}

static void check_shape(const struct quantized *q)
{
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 1; q->lut && i < 1u << q->scheme.bits; i++)
            assert_true(f32_from_f16(q->lut[(r << q->scheme.bits) + i]) >=
                        f32_from_f16(q->lut[(r << q->scheme.bits) + i - 1]));
        for (uint32_t i = 0; q->n_sparse && i + 1 < q->sp_rows[r + 1]; i++)
            if (i >= q->sp_rows[r])
                assert_true(q->sp_cols[i] < q->sp_cols[i + 1] && q->sp_cols[i + 1] < COLS);
    }
    if (q->n_sparse)
        assert_int_equal(q->sp_rows[ROWS], q->n_sparse);
}

/* Bytes of a scheme, by the storage that is agreed on. */
static size_t bytes_of(const struct quantize_scheme *s, size_t n_sparse)
{
    const size_t groups = s->kind == QUANTIZE_GROUPS ? (COLS + s->group - 1) / s->group : 0;

    return ROWS * COLS * s->bits / 8 +
           (groups ? ROWS * groups * 4 : (size_t)ROWS << (s->bits + 1)) +
           (n_sparse ? (ROWS + 1) * 4 + n_sparse * 4 : 0);
}

static double quantize(const char *name, float sparse, uint32_t group)
{
    static float q[2][ROWS * COLS];
    const struct quantize_input in = {ROWS, COLS, w, moments};
    struct quantize_scheme s;
    struct quantized got[2];

    assert_int_equal(quantize_scheme_parse(name, &s), 0);
    s.sparse = sparse;
    if (s.kind == QUANTIZE_GROUPS)
        s.group = group;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(quantize_matrix(teams[i], &in, &s, &got[i]), 0);
        assert_int_equal(quantized_values(&got[i], q[i]), 0);
    }
    /* The same whatever the team. */
    assert_memory_equal(q[0], q[1], sizeof(q[0]));
    assert_int_equal(got[0].n_sparse, quantize_n_sparse(&s, ROWS, COLS));
    assert_int_equal(quantized_bytes(&got[0]), bytes_of(&s, got[0].n_sparse));
    check_shape(&got[0]);
    quantized_free(&got[0]);
    quantized_free(&got[1]);
    return error_of(q[0]);
}

static void test_error(void **state)
{
    static float q[ROWS * COLS];

    make_problem();
    for (unsigned bits = 2; bits <= 4; bits++) {
        char sq[8], g[8];

        snprintf(sq, sizeof(sq), "sq%u", bits);
        snprintf(g, sizeof(g), "g%u", bits);
        nearest(bits, q);
        const double plain = error_of(q), fed = quantize(sq, 0, 0), sparse = quantize(sq, 2, 0);
        const double groups = quantize(g, 0, 64), small = quantize(g, 0, 32),
                     both = quantize(g, 2, 64);
        print_message("%u bits: nearest %.3g, sq %.3g, sparse %.3g; g64 %.3g, g32 %.3g, sparse "
                      "%.3g\n",
                      bits, plain, fed, sparse, groups, small, both);
        assert_true(fed < .6 * plain);
        assert_true(sparse < fed);
        assert_true(small < groups);
        assert_true(both < groups);
        assert_true(groups < plain * 1.2);
    }
}

/* Fewer codes than levels, rows of zeros, a column that no input ever reaches. */
static void test_odd_rows(void **state)
{
    static float q[ROWS * COLS];
    const struct quantize_input in = {ROWS, COLS, w, moments};
    struct quantized got;
    struct quantize_scheme s;

    make_problem();
    for (size_t i = 0; i < COLS; i++) {
        w[i] = 0;
        w[COLS + i] = i % 2 ? .25f : -.5f;
        moments[i * COLS + 9] = moments[9 * COLS + i] = 0;
    }
    for (unsigned k = 0; k < 2; k++) {
        assert_int_equal(quantize_scheme_parse(k ? "g2" : "sq2", &s), 0);
        assert_int_equal(quantize_matrix(teams[0], &in, &s, &got), 0);
        assert_int_equal(quantized_values(&got, q), 0);
        for (size_t i = 0; i < COLS; i++) {
            assert_true(q[i] == 0);
            assert_true(fabsf(q[COLS + i] - w[COLS + i]) < 1e-3f);
        }
        quantized_free(&got);
    }
}

static void test_pack(void **state)
{
    uint8_t codes[96], packed[48], back[96];

    for (unsigned bits = 2; bits <= 4; bits++) {
        for (size_t i = 0; i < sizeof(codes); i++)
            codes[i] = (uint8_t)(uniform() * (1 << bits));
        codes_pack(codes, sizeof(codes), bits, packed);
        codes_unpack(packed, sizeof(codes), bits, back);
        assert_memory_equal(codes, back, sizeof(codes));
        for (unsigned i = 0; i < 32; i++) {
            const uint8_t *b = packed + 4 * bits; /* the second block */
            const unsigned want = codes[32 + i];
            unsigned got = bits == 4 ? b[i % 16] >> i / 16 * 4 & 15 : b[i % 8] >> i / 8 * 2 & 3;
            if (bits == 3)
                got |= (b[8 + i / 8] >> i % 8 & 1u) << 2;
            assert_int_equal(got, want);
        }
    }
}

/* Weights behind a layer that lost something: the new ones bring the outputs nearer, and are the
 * old ones where nothing was lost. */
static void test_retarget(void **state)
{
    enum { N = 32, R = 6, T = 400 };
    static float x[T][N], lost[T][N], h[N * N], c[N * N];
    float v[R * N], was[R * N];
    double before = 0, after = 0;

    for (size_t i = 0; i < R * N; i++)
        v[i] = was[i] = (float)normal();
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < N; j++) {
            x[t][j] = (float)normal();
            lost[t][j] = .6f * x[t][j] + .3f * x[t][(j + 1) % N]; /* the quantized model's */
        }
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            for (size_t t = 0; t < T; t++) {
                h[i * N + j] += lost[t][i] * lost[t][j];
                c[i * N + j] += x[t][i] * lost[t][j];
            }
    assert_int_equal(quantize_retarget(v, R, N, h, h, .01f), 0);
    for (size_t i = 0; i < R * N; i++)
        assert_true(fabsf(v[i] - was[i]) < 1e-6f);
    assert_int_equal(quantize_retarget(v, R, N, h, c, .001f), 0);
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < R; r++) {
            double want = 0, old = 0, now = 0;
            for (size_t j = 0; j < N; j++) {
                want += (double)(was[r * N + j] * x[t][j]);
                old += (double)(was[r * N + j] * lost[t][j]);
                now += (double)(v[r * N + j] * lost[t][j]);
            }
            before += pow(want - old, 2);
            after += pow(want - now, 2);
        }
    assert_true(after < .01 * before);
}

static void test_refused(void **state)
{
    static float none[COLS * COLS];
    struct quantize_input in = {ROWS, COLS, w, NULL};
    struct quantize_scheme s;
    struct quantized q;

    make_problem();
    assert_int_equal(quantize_scheme_parse("sq3", &s), 0);
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EINVAL); /* no moments */
    quantized_free(&q);
    in.moments = none;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EDOM);
    quantized_free(&q);
    in.moments = moments;
    s.sparse = 6;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EINVAL);
    quantized_free(&q);
    assert_int_equal(quantize_scheme_parse("g3", &s), 0);
    s.group = 40;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EINVAL);
    quantized_free(&q);
    moments[3] = NAN;
    s.group = 32;
    assert_int_equal(quantize_matrix(teams[0], &in, &s, &q), -EDOM);
    quantized_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),   cmocka_unit_test(test_odd_rows),
        cmocka_unit_test(test_pack),    cmocka_unit_test(test_retarget),
        cmocka_unit_test(test_refused),
    };

    return open_teams() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
