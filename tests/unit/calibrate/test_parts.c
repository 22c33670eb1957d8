/* SPDX-License-Identifier: Apache-2.0 */
/* Each part of the statistics on data whose answer is known. */
#include "util.h"

#include <cblas.h>
#include <errno.h>

#include "codec/rans.h"
#include "compute/calibrate/basis.h"
#include "compute/calibrate/classes.h"
#include "compute/calibrate/gram.h"
#include "compute/calibrate/levels.h"
#include "compute/calibrate/sensitivity.h"

/* --- the library ----------------------------------------------------------------------------- */

enum { BLAS_N = 24, BLAS_TIMES = 20000 };

static void multiply_often(void *arg, unsigned part, unsigned parts)
{
    bool *right = arg;
    float a[BLAS_N * BLAS_N], product[BLAS_N * BLAS_N], first[BLAS_N * BLAS_N];

    for (size_t i = 0; i < BLAS_N * BLAS_N; i++)
        a[i] = (float)((i * 7 + part) % 13);
    right[part] = true;
    for (unsigned i = 0; i < BLAS_TIMES; i++) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, BLAS_N, BLAS_N, BLAS_N, 1, a, BLAS_N,
                    a, BLAS_N, 0, product, BLAS_N);
        if (i == 0)
            memcpy(first, product, sizeof(first));
        right[part] &= memcmp(first, product, sizeof(first)) == 0;
    }
}

/* Threads that multiply at the same time don't spoil each other's results (see blas_lock.c). */
static void test_blas_is_shared(void **state)
{
    bool right[3] = {true, true, true};

    team_run(teams[1], multiply_often, right);
    assert_true(right[0] && right[1] && right[2]);
}

/* --- gram ------------------------------------------------------------------------------------ */

static void test_gram(void **state)
{
    enum { N = 600, COLS = 210, FIRST = 5, STRIDE = 217 }; /* more than a tile, than a chunk */
    static float x[N * STRIDE], center[STRIDE], weight[N];
    static double got[2][COLS * COLS];

    for (size_t i = 0; i < N * STRIDE; i++)
        x[i] = (float)normal();
    for (size_t i = 0; i < STRIDE; i++)
        center[i] = (float)normal();
    for (size_t i = 0; i < N; i++)
        weight[i] = (float)uniform();
    const struct gram_rows rows = {.x = x, .n = N, .stride = STRIDE, .center = center};
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(gram(teams[i], &rows, FIRST, COLS, weight, got[i]), 0);
    assert_memory_equal(got[0], got[1], sizeof(got[0]));
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j += 7) {
            double want = 0;
            for (size_t t = 0; t < N; t++)
                want += (double)weight[t] *
                        ((double)x[t * STRIDE + FIRST + i] - (double)center[FIRST + i]) *
                        ((double)x[t * STRIDE + FIRST + j] - (double)center[FIRST + j]);
            assert_true(fabs(want - got[0][i * COLS + j]) < 1e-9 * N);
            assert_true(got[0][i * COLS + j] == got[0][j * COLS + i]);
        }
}

/* --- sensitivity ----------------------------------------------------------------------------- */

static void test_sensitivity(void **state)
{
    enum { N = 40000, COLS = 8 };
    static float x[N * COLS], y[N], f[2][N];
    static uint32_t token[N];
    static double truth[N];
    const double planted[COLS] = {.5, -.3, .02, 0, .004, -.2, 0, 0}, planted_pos = -.2;
    const double scale[COLS] = {1, 1, 10, 1, 100, 1, 1, 0}; /* the last never changes */
    float mean[COLS], weight[2][COLS];
    struct sensitivity s[2] = {{.weight = weight[0]}, {.weight = weight[1]}};
    double sum = 0, sum_f = 0, with = 0, sq = 0, sq_f = 0;

    for (size_t i = 0; i < COLS; i++)
        mean[i] = (float)(3 * scale[i]);
    for (size_t t = 0; t < N; t++) {
        token[t] = t % 500;
        truth[t] = planted_pos * log(token[t] + 4.0);
        for (size_t i = 0; i < COLS; i++) {
            const double v = scale[i] * normal();
            x[t * COLS + i] = mean[i] + (float)v;
            truth[t] += planted[i] * v;
        }
        y[t] = (float)(exp(truth[t]) * -log(uniform())); /* exponential: the noise of |g|^2 */
        sum += (double)y[t];
    }
    for (size_t t = 0; t < N; t++)
        y[t] *= (float)(N / sum);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(sensitivity_fit(teams[i], x, token, N, COLS, mean, y, &s[i], f[i]), 0);
    assert_memory_equal(weight[0], weight[1], sizeof(weight[0]));
    assert_memory_equal(f[0], f[1], sizeof(f[0]));

    assert_true(weight[0][7] == 0);
    /* The ridge takes 3000 / N off. */
    for (size_t i = 0; i < COLS - 1; i++)
        assert_true(fabs((double)weight[0][i] - planted[i]) * scale[i] <
                    .05 + .1 * fabs(planted[i]) * scale[i]);
    sum = 0;
    for (size_t t = 0; t < N; t++) {
        double again = (double)(s[0].bias + s[0].pos * logf((float)token[t] + 4));

        for (size_t i = 0; i < COLS; i++)
            again += (double)weight[0][i] * (double)(x[t * COLS + i] - mean[i]);
        assert_true(fabs(again - (double)f[0][t]) < 1e-3);
        sum += truth[t];
        sum_f += (double)f[0][t];
    }
    assert_true(fabs(sum_f / N) < 1e-5);
    for (size_t t = 0; t < N; t++) {
        with += (truth[t] - sum / N) * (double)f[0][t];
        sq += pow(truth[t] - sum / N, 2);
        sq_f += pow((double)f[0][t], 2);
    }
    assert_true(with / sqrt(sq * sq_f) > .99);
}

static void test_not_finite(void **state)
{
    const uint32_t token[4] = {0, 1, 2, 3};
    const float mean[2] = {0}, y[4] = {1, 1, 1, 1};
    float x[8] = {1, 2, 3, 4, 5, 6, NAN, 8}, weight[2], f[4];
    struct sensitivity s = {.weight = weight};

    assert_int_equal(sensitivity_fit(teams[0], x, token, 4, 2, mean, y, &s, f), -EDOM);
    x[6] = 7;
    assert_int_equal(sensitivity_fit(teams[0], x, token, 4, 2, mean, y, &s, f), 0);
}

/* --- basis ----------------------------------------------------------------------------------- */

/* out = Q' diag(d) Q */
static void from_eigen(const double *q, const double *d, size_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            out[i * n + j] = 0;
            for (size_t k = 0; k < n; k++)
                out[i * n + j] += q[k * n + i] * d[k] * q[k * n + j];
        }
}

/* a' m b, or a m b' */
static double form(const double *m, const double *a, const double *b, size_t n, size_t step)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            sum += a[i * step] * m[i * n + j] * b[j * step];
    return sum;
}

static void test_basis(void **state)
{
    enum { N = 40 };
    static double q[N * N], c[N * N], g[N * N], a[N * N], b[N * N], c2[N * N], g2[N * N];
    double dc[N], dg[N], before = INFINITY;

    for (size_t i = 0; i < N; i++) {
        dc[i] = exp(2 * normal());
        dg[i] = .2 + uniform();
    }
    random_rotation(q, N);
    from_eigen(q, dc, N, c);
    random_rotation(q, N);
    from_eigen(q, dg, N, g);
    memcpy(c2, c, sizeof(c));
    memcpy(g2, g, sizeof(g));
    assert_int_equal(basis_make(c2, g2, N, a, b), 0);
    for (size_t i = 0; i < N; i++) {
        const double variance = form(c, a + i * N, a + i * N, N, 1);

        assert_true(variance <= before * (1 + 1e-9));
        before = variance;
        for (size_t j = 0; j < N; j++) {
            double ab = 0;
            for (size_t k = 0; k < N; k++)
                ab += a[i * N + k] * b[k * N + j];
            assert_true(fabs(ab - (i == j)) < 1e-9);
            assert_true(fabs(form(g, b + i, b + j, N, N) - (i == j)) < 1e-9);
            if (i != j)
                assert_true(fabs(form(c, a + i * N, a + j * N, N, 1)) < 1e-8 * dc[0] + 1e-8);
        }
    }
}

static void test_basis_refuses(void **state)
{
    double c[4] = {1, 0, 0, 1}, g[4] = {1, 0, 0, -1}, a[4], b[4];

    assert_int_equal(basis_make(c, g, 2, a, b), -EDOM);
}

static void test_quantize(void **state)
{
    enum { ROWS = 3, COLS = 2048 };
    static double m[ROWS * COLS];
    static int16_t q[ROWS * COLS];
    float scale[ROWS];

    for (size_t j = 0; j < COLS; j++) {
        m[j] = 1e-3 * normal();
        m[COLS + j] = 0;
        m[2 * COLS + j] = j == 7 ? -5 : 0;
    }
    basis_quantize(m, ROWS, COLS, q, scale);
    for (size_t i = 0; i < ROWS; i++) {
        double norm = 0, norm_q = 0, error = 0;

        for (size_t j = 0; j < COLS; j++) {
            norm += pow(m[i * COLS + j], 2);
            norm_q += pow(q[i * COLS + j], 2);
            error = fmax(error, fabs(q[i * COLS + j] * (double)scale[i] - m[i * COLS + j]));
        }
        assert_true(norm_q <= CODEC_PROFILE_NORM_MAX * CODEC_PROFILE_NORM_MAX);
        assert_true(error <= sqrt(norm) / 32700 * .51);
    }
    assert_true(scale[1] == 0);
}

/* --- levels ---------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static void test_robust_sigma(void **state)
{
    enum { N = 20001 };
    static float v[N], sorted[N];
    double sum = 0, sum_sq = 0;

    for (size_t n = 1; n < 40; n++) { /* ties too */
        sum = sum_sq = 0;
        for (size_t i = 0; i < n; i++) {
            v[i] = floorf(4 * (float)normal());
            sorted[i] = v[i] * v[i];
            sum += (double)v[i];
            sum_sq += (double)sorted[i];
        }
        qsort(sorted, n, sizeof(*sorted), ascending);
        const double variance = sum_sq / (double)n - pow(sum / (double)n, 2);
        const double want = sqrt(.5 * (double)sorted[n / 2] / .4549364 + .5 * fmax(variance, 0));
        assert_true(fabs((double)robust_sigma(v, n) - want) < 1e-5 * (1 + want));
    }
    for (size_t i = 0; i < N; i++)
        v[i] = 3 * (float)normal();
    assert_true(fabs((double)robust_sigma(v, N) - 3) < .1);
}

static void test_order(void **state)
{
    const float sigma[] = {1, 5, 2, 5, 0};
    const uint16_t want[] = {1, 3, 2, 0, 4};
    uint16_t order[5];

    assert_int_equal(levels_order(sigma, 5, order), 0);
    assert_memory_equal(order, want, sizeof(want));
}

static void test_levels(void **state)
{
    enum { N = 200 };
    const float ref = 3;
    float sigma[N];
    int8_t level[7];
    uint8_t pre[7 * RANS_GROUP] = {0};
    struct codec_profile_coefs c = {.n = N, .level = level, .pre = pre};

    for (size_t i = 0; i < N; i++)
        sigma[i] = 1000 * ref * powf((float)(i + 1), -1.3f);
    sigma[N - 1] = 0;
    levels_set(sigma, ref, &c);
    for (size_t i = 0; i < N - 1; i++) {
        const double kept = (double)ref * exp2(level[i / RANS_GROUP] / 4.0 + pre[i]);

        if (i / RANS_GROUP < N / RANS_GROUP) /* the last group has the zero */
            assert_true(fabs(log2(kept / (double)sigma[i])) < 1);
        assert_true(i == 0 || pre[i] <= pre[i - 1] || i % RANS_GROUP == 0);
    }
    assert_true(pre[0] >= 4);
    assert_int_equal(pre[N], 0);
}

/* --- classes --------------------------------------------------------------------------------- */

/* Whether the planted classes were found. Clustering starts from rows drawn by chance, and now and
 * then ends with two of them in one class and another one split. */
static bool find_classes(void)
{
    enum { N = 3000, COLS = 40, K = 5 };
    static float x[N * COLS], centers[K * COLS], weight[N];
    static uint16_t planted[N], got[2][N];
    struct codec_profile *p[2];

    for (size_t i = 0; i < K * COLS; i++)
        centers[i] = 200 * (float)normal();
    for (size_t t = 0; t < N; t++) {
        planted[t] = (uint16_t)(uniform() * K);
        weight[t] = t % 50 != 0;
        for (size_t i = 0; i < COLS; i++)
            x[t * COLS + i] =
                100 + centers[planted[t] * COLS + i] + (float)normal() + (weight[t] > 0 ? 0 : 1e4f);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(codec_profile_new(COLS, NULL, K, classes_dims(COLS), &p[i]), 0);
        const struct gram_rows rows = {.x = x, .n = N, .stride = COLS, .center = p[i]->mean};
        p[i]->ref_norm = 10000; /* so that noise is not whitened to be as loud as the rest */
        for (size_t k = 0; k < COLS; k++)
            p[i]->mean[k] = 100;
        assert_int_equal(classes_make(teams[i], &rows, weight, p[i], got[i]), 0);
    }
    assert_memory_equal(got[0], got[1], sizeof(got[0]));
    assert_memory_equal(p[0]->class_p, p[1]->class_p, COLS * COLS * sizeof(*p[0]->class_p));
    assert_memory_equal(p[0]->class_w, p[1]->class_w, K * COLS * sizeof(*p[0]->class_w));
    assert_memory_equal(p[0]->class_mean, p[1]->class_mean, K * COLS * sizeof(float));

    uint16_t class_of_planted[K];
    bool found = true;
    for (size_t t = N; t-- > 0;)
        if (weight[t] > 0)
            class_of_planted[planted[t]] = got[0][t];
    for (size_t t = 0; t < N; t++)
        found &= weight[t] == 0 || got[0][t] == class_of_planted[planted[t]];
    for (size_t t = 0; found && t < N; t++) {
        double z[COLS] = {0}, most = -INFINITY;
        uint16_t best = 0;

        if (weight[t] == 0)
            continue;
        for (size_t i = 0; i < COLS * COLS; i++)
            z[i / COLS] += (double)p[0]->class_scale[i / COLS] * p[0]->class_p[i] *
                           (double)(x[t * COLS + i % COLS] - 100);
        for (uint16_t k = 0; k < K; k++) { /* as an encoder chooses */
            double score = (double)p[0]->class_bias[k];
            for (size_t i = 0; i < COLS; i++)
                score += p[0]->class_w[k * COLS + i] * z[i];
            if (score > most) {
                most = score;
                best = k;
            }
        }
        assert_int_equal(best, got[0][t]);
    }
    for (size_t k = 0; found && k < K; k++)
        for (size_t i = 0; i < COLS; i++)
            assert_true(fabsf(p[0]->class_mean[class_of_planted[k] * COLS + i] -
                              centers[k * COLS + i]) < .3f + .02f * fabsf(centers[k * COLS + i]));
    for (unsigned i = 0; i < 2; i++)
        codec_profile_free(p[i]);
    return found;
}

static void test_classes(void **state)
{
    enum { ROUNDS = 10 };
    unsigned found = 0;

    for (unsigned i = 0; i < ROUNDS; i++)
        found += find_classes();
    assert_true(found >= ROUNDS - 3); /* one in forty fails */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blas_is_shared), cmocka_unit_test(test_gram),
        cmocka_unit_test(test_sensitivity),    cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_basis),          cmocka_unit_test(test_basis_refuses),
        cmocka_unit_test(test_quantize),       cmocka_unit_test(test_robust_sigma),
        cmocka_unit_test(test_order),          cmocka_unit_test(test_levels),
        cmocka_unit_test(test_classes),
    };
    return open_teams() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
