/* SPDX-License-Identifier: Apache-2.0 */
/* Rows and gradients of known statistics give the profile that they should. */
#include "util.h"

#include <errno.h>

#include "codec/codec.h"
#include "codec/rans.h"
#include "compute/calibrate/calibrate.h"

#define N       6000u
#define COLS    64u
#define SAMPLES 2u

static float rows[N * COLS], grads[N * SAMPLES * COLS];
static uint32_t token[N];
static double rotation[COLS * COLS];

static struct calibrate_data data_of(uint32_t classes)
{
    return (struct calibrate_data){.n = N,
                                   .cols = COLS,
                                   .samples = SAMPLES,
                                   .classes = classes,
                                   .rows = rows,
                                   .token = token,
                                   .grads = grads};
}

static double row_sigma(size_t i)
{
    return 10 * pow(.93, (double)i);
}

/* Rows with variance along the rotation's axes, gradients that say the first half of the columns
 * matters twice as much as the second. */
static void fill(double unevenness)
{
    random_rotation(rotation, COLS);
    for (size_t t = 0; t < N; t++) {
        double y[COLS];

        token[t] = t % 512;
        for (size_t i = 0; i < COLS; i++)
            y[i] = row_sigma(i) * normal();
        for (size_t j = 0; j < COLS; j++) {
            double x = 5;
            for (size_t i = 0; i < COLS; i++)
                x += rotation[i * COLS + j] * y[i];
            rows[t * COLS + j] = (float)x;
        }
        for (size_t i = 0; i < SAMPLES * COLS; i++)
            grads[t * SAMPLES * COLS + i] =
                (float)(normal() * (i % COLS < COLS / 2 ? unevenness : 1));
    }
}

static struct codec_profile *make(unsigned team, uint32_t classes)
{
    const struct calibrate_data data = data_of(classes);
    struct codec_profile *p;

    assert_int_equal(calibrate_profile(teams[team], &data, &p), 0);
    return p;
}

static double a_at(const struct codec_profile_block *b, size_t i, size_t j)
{
    return (double)b->mult[i] * b->a[i * b->cols + j];
}

static void test_klt(void **state)
{
    fill(1);
    struct codec_profile *p = make(0, 0);
    const struct codec_profile_block *b = &p->blocks[0];

    for (size_t j = 0; j < COLS; j++)
        assert_true(fabsf(p->mean[j] - 5) < 1);
    assert_true(fabsf(p->sens_pos) < .1f);
    /* The axes a step apart in variance mix; the first half of the space is what it is. */
    for (size_t i = 0; i < 8; i++) {
        double inside = 0, all = 0;
        for (size_t k = 0; k < COLS; k++) {
            double along = 0;
            for (size_t j = 0; j < COLS; j++)
                along += a_at(b, i, j) * rotation[k * COLS + j];
            all += along * along;
            inside += k < 24 ? along * along : 0;
        }
        assert_true(inside > .98 * all);
        assert_true(fabs(sqrt(all) - 1) < .05); /* gradients say no direction matters more */
    }
    for (size_t i = 0; i < COLS; i++) {
        const double kept =
            (double)p->ref_sigma * exp2(b->xform.level[i / RANS_GROUP] / 4.0 + b->xform.pre[i]);

        /* Those well below the median of their group share its level. */
        assert_true(i % RANS_GROUP > RANS_GROUP / 2 || fabs(log2(kept / row_sigma(i))) < 1);
    }
    codec_profile_free(p);
}

static void test_metric(void **state)
{
    fill(3);
    struct codec_profile *p = make(0, 0);
    const struct codec_profile_block *b = &p->blocks[0];
    double important = 0, other = 0;

    /* An error of one unit in a coefficient moves less where it costs more. */
    for (size_t j = 0; j < COLS; j++)
        for (size_t i = 0; i < COLS; i++) {
            const double v = (double)b->bscale[j] * b->b[j * COLS + i];
            *(j < COLS / 2 ? &important : &other) += v * v;
        }
    /* 9 : 1 in the Fisher matrix, each sample's weight limited, a quarter of it the identity. */
    assert_true(important < .5 * other && important > other / 9);
    codec_profile_free(p);
}

static void test_inverse(void **state)
{
    fill(2);
    struct codec_profile *p = make(0, 3);
    const struct codec_profile_block *b = &p->blocks[0];

    for (size_t i = 0; i < COLS; i++)
        for (size_t k = 0; k < COLS; k++) {
            double sum = 0;
            for (size_t j = 0; j < COLS; j++)
                sum += a_at(b, i, j) * (double)b->bscale[j] * b->b[j * COLS + k];
            assert_true(fabs(sum - (i == k)) < 2e-3);
        }
    codec_profile_free(p);
}

/* Two classes of rows far apart: what they leave is narrower than what there was. */
static void test_classes_narrow(void **state)
{
    fill(1);
    for (size_t t = 0; t < N; t++)
        for (size_t j = 0; j < COLS; j++)
            rows[t * COLS + j] = (t % 2 ? 60 : 0) + .02f * rows[t * COLS + j];
    struct codec_profile *without = make(0, 0), *with = make(0, 2);

    assert_int_equal(with->n_classes, 2);
    assert_true(without->blocks[0].scalar.level[1] > with->blocks[0].scalar.level[1] + 4);
    for (size_t j = 0; j < COLS; j++)
        assert_true(fabsf(fabsf(with->class_mean[j]) - 30) < 2);
    codec_profile_free(without);
    codec_profile_free(with);
}

static void test_deterministic(void **state)
{
    uint8_t *bytes[2];
    size_t len[2];

    fill(2);
    for (unsigned i = 0; i < 2; i++) {
        char err[CODEC_PROFILE_ERR];
        struct codec_profile *p = make(i, 16), *again;

        assert_int_equal(codec_profile_serialize(p, &bytes[i], &len[i], err), 0);
        assert_int_equal(codec_profile_parse(bytes[i], len[i], &again, err), 0);
        codec_profile_free(again);
        codec_profile_free(p);
    }
    assert_int_equal(len[0], len[1]);
    assert_memory_equal(bytes[0], bytes[1], len[0]);
    free(bytes[0]);
    free(bytes[1]);
}

/* What codecs make of it: fewer bytes than without a profile, no more error than steps allow. */
static void test_codecs(void **state)
{
    static float out[N * COLS];
    double bytes[3];

    fill(1);
    struct codec_profile *p = make(0, 16);
    const struct codec_params params[3] = {
        {.mode = CODEC_RANS, .step = .02f},
        {.mode = CODEC_RANS, .step = .02f, .profile = p},
        {.mode = CODEC_XFORM, .step = .02f, .profile = p},
    };
    for (unsigned i = 0; i < 3; i++) {
        struct codec_params cp = codec_params_default(params[i].mode);
        struct codec_stats stats = {0};
        struct codec_cursor at = {0, 0};
        uint8_t tile[1400];
        struct codec *c;
        double error = 0;

        cp.step = params[i].step;
        cp.profile = params[i].profile;
        assert_int_equal(codec_open(&cp, COLS, &c), 0);
        while (at.row < N) {
            const int len = codec_encode(c, rows, COLS, N, 0, &at, tile, sizeof(tile), &stats);
            assert_true(len > 0);
            assert_int_equal(codec_decode(c, tile, (size_t)len, 0, out, COLS, N, NULL), 0);
        }
        for (size_t k = 0; k < N * COLS; k++)
            error += pow((double)(out[k] - rows[k]), 2);
        const double step = .02 * (double)p->ref_norm;
        assert_true(sqrt(error / (N * COLS)) < step * .5);
        bytes[i] = (double)stats.bytes / N;
        codec_close(c);
    }
    assert_true(bytes[1] < bytes[0] && bytes[2] < .9 * bytes[1]);
    codec_profile_free(p);
}

static void test_refuses(void **state)
{
    const struct calibrate_data data = data_of(0);
    struct codec_profile *p;

    fill(1);
    rows[12345] = NAN;
    assert_int_equal(calibrate_profile(teams[0], &data, &p), -EDOM);
    assert_null(p);
    rows[12345] = 0;
    grads[777] = INFINITY;
    assert_int_equal(calibrate_profile(teams[0], &data, &p), -EDOM);
}

/* A dead model: nothing varies, nothing matters. */
static void test_constant(void **state)
{
    char err[CODEC_PROFILE_ERR];
    uint8_t *bytes;
    size_t len;

    memset(grads, 0, sizeof(grads));
    for (size_t i = 0; i < N * COLS; i++)
        rows[i] = 7;
    struct codec_profile *p = make(0, 4);
    assert_int_equal(codec_profile_serialize(p, &bytes, &len, err), 0);
    free(bytes);
    codec_profile_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_klt),           cmocka_unit_test(test_metric),
        cmocka_unit_test(test_inverse),       cmocka_unit_test(test_classes_narrow),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_codecs),
        cmocka_unit_test(test_refuses),       cmocka_unit_test(test_constant),
    };
    return open_teams() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
