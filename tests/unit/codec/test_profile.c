/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles come back from their bytes as they were; damaged and lying ones are refused. */
#include "util.h"

#include <errno.h>
#include <xxhash.h>

#include "codec/codec.h"
#include "codec/profile.h"
#include "codec/rans.h"

/* Of the file's head. */
#define HASH_AT    8u
#define VERSION_AT 24u
#define COLS_AT    28u
#define XFORM_N_AT 32u
#define POINTS_AT  48u
#define CLASSES_AT 52u
#define BODY_AT    56u

static char err[CODEC_PROFILE_ERR];

static float positive(void)
{
    return fabsf(rng_unit()) + .01f;
}

static void fill_coefs(struct codec_profile_coefs *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        c->level[i / RANS_GROUP] = (int8_t)rng();
        c->pre[i] = (uint8_t)rng_below(CODEC_PROFILE_PRE_MAX + 1);
    }
}

static void fill_block(struct codec_profile_block *b)
{
    fill_coefs(&b->scalar);
    fill_coefs(&b->xform);
    for (uint32_t i = 0; i < b->cols; i++)
        b->order[i] = (uint16_t)i;
    for (uint32_t i = b->cols - 1; i > 0; i--) {
        const uint32_t k = rng_below(i + 1);
        const uint16_t other = b->order[k];
        b->order[k] = b->order[i];
        b->order[i] = other;
    }
    for (uint32_t i = 0; i < b->xform.n; i++)
        b->mult[i] = positive();
    for (uint32_t i = 0; i < b->cols; i++)
        b->bscale[i] = positive();
    for (size_t i = 0; i < (size_t)b->cols * b->xform.n; i++) {
        b->a[i] = (int16_t)(rng_unit() * 700);
        b->b[i] = (int16_t)(rng_unit() * 700);
    }
}

static struct codec_profile *random_profile(uint32_t cols, const uint32_t *xform_n,
                                            uint32_t n_classes, uint32_t class_dims)
{
    struct codec_profile *p;

    assert_int_equal(codec_profile_new(cols, xform_n, n_classes, class_dims, &p), 0);
    for (unsigned i = 0; i < 16; i++)
        p->fingerprint[i] = (uint8_t)rng();
    p->split = rng_below(100);
    p->ref_norm = positive();
    p->ref_sigma = positive();
    p->sens_pos = rng_unit();
    p->sens_bias = rng_unit();
    for (uint32_t i = 0; i < cols; i++) {
        p->mean[i] = rng_unit();
        p->sens[i] = rng_unit();
    }
    for (size_t i = 0; i < (size_t)class_dims * cols; i++)
        p->class_p[i] = (int16_t)(rng_unit() * 200);
    for (uint32_t i = 0; i < class_dims; i++)
        p->class_scale[i] = positive();
    for (size_t i = 0; i < (size_t)n_classes * class_dims; i++)
        p->class_w[i] = (int16_t)(rng_unit() * 200);
    for (size_t i = 0; i < (size_t)n_classes * cols; i++)
        p->class_mean[i] = rng_unit();
    for (uint32_t i = 0; i < n_classes; i++)
        p->class_bias[i] = rng_unit();
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++) {
        struct codec_profile_curve *c = &p->curves[i];
        c->n = rng_below(CODEC_PROFILE_POINTS_MAX + 1);
        for (uint32_t k = 0; k < c->n; k++)
            c->points[k] =
                (struct codec_profile_point){.01f * (float)(k + 1), positive(), 100 * positive()};
    }
    for (uint32_t i = 0; i < p->n_blocks; i++)
        fill_block(&p->blocks[i]);
    return p;
}

static void assert_same_coefs(const struct codec_profile_coefs *a,
                              const struct codec_profile_coefs *b)
{
    const size_t groups = (a->n + RANS_GROUP - 1) / RANS_GROUP;

    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->level, b->level, groups);
    assert_memory_equal(a->pre, b->pre, groups * RANS_GROUP); /* the padding too */
}

static void assert_same(const struct codec_profile *a, const struct codec_profile *b)
{
    assert_memory_equal(a->hash, b->hash, 16);
    assert_memory_equal(a->fingerprint, b->fingerprint, 16);
    assert_int_equal(a->split, b->split);
    assert_int_equal(a->cols, b->cols);
    assert_true(a->ref_norm == b->ref_norm && a->ref_sigma == b->ref_sigma);
    assert_true(a->sens_pos == b->sens_pos && a->sens_bias == b->sens_bias);
    assert_memory_equal(a->mean, b->mean, a->cols * sizeof(float));
    assert_memory_equal(a->sens, b->sens, a->cols * sizeof(float));
    assert_memory_equal(a->curves, b->curves, sizeof(a->curves));
    assert_int_equal(a->n_classes, b->n_classes);
    assert_int_equal(a->class_dims, b->class_dims);
    assert_memory_equal(a->class_p, b->class_p, a->class_dims * a->cols * sizeof(*a->class_p));
    assert_memory_equal(a->class_scale, b->class_scale, a->class_dims * sizeof(float));
    assert_memory_equal(a->class_w, b->class_w, a->n_classes * a->class_dims * sizeof(*a->class_w));
    assert_memory_equal(a->class_bias, b->class_bias, a->n_classes * sizeof(float));
    assert_memory_equal(a->class_mean, b->class_mean, a->n_classes * a->cols * sizeof(float));
    assert_int_equal(a->n_blocks, b->n_blocks);
    for (uint32_t i = 0; i < a->n_blocks; i++) {
        const struct codec_profile_block *x = &a->blocks[i], *y = &b->blocks[i];
        const size_t n = (size_t)x->cols * x->xform.n;

        assert_int_equal(x->first_col, y->first_col);
        assert_int_equal(x->cols, y->cols);
        assert_same_coefs(&x->scalar, &y->scalar);
        assert_same_coefs(&x->xform, &y->xform);
        assert_memory_equal(x->order, y->order, x->cols * sizeof(*x->order));
        assert_memory_equal(x->mult, y->mult, x->xform.n * sizeof(*x->mult));
        assert_memory_equal(x->a, y->a, n * sizeof(*x->a));
        assert_memory_equal(x->bscale, y->bscale, x->cols * sizeof(*x->bscale));
        assert_memory_equal(x->b, y->b, n * sizeof(*x->b));
    }
}

static void test_round_trip(void **state)
{
    const uint32_t two[] = {1030, 7};
    const struct {
        uint32_t cols;
        const uint32_t *xform_n;
        uint32_t n_classes, class_dims;
    } cases[] = {{1, NULL, 0, 0},
                 {31, NULL, 1, 1},
                 {576, NULL, 300, 64},
                 {2049, NULL, 2, CODEC_CLASS_DIMS_MAX},
                 {2100, two, 9, 70}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct codec_profile *p = random_profile(cases[i].cols, cases[i].xform_n,
                                                 cases[i].n_classes, cases[i].class_dims),
                             *got;
        uint8_t *bytes;
        size_t len;

        assert_int_equal(codec_profile_serialize(p, &bytes, &len, err), 0);
        uint8_t *odd = malloc(len + 1);
        memcpy(odd + 1, bytes, len);
        assert_int_equal(codec_profile_parse(odd + 1, len, &got, err), 0);
        assert_same(p, got);
        codec_profile_free(got);
        codec_profile_free(p);
        free(odd);
        free(bytes);
    }
}

static void test_new_refuses(void **state)
{
    const uint32_t none = 0, many = 33;
    struct codec_profile *p;

    assert_int_equal(codec_profile_new(0, NULL, 0, 0, &p), -EINVAL);
    assert_int_equal(codec_profile_new(CODEC_COLS_MAX + 1, NULL, 0, 0, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, &none, 0, 0, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, &many, 0, 0, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, NULL, CODEC_CLASSES_MAX + 1, 1, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, NULL, 1, CODEC_CLASS_DIMS_MAX + 1, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, NULL, 1, 0, &p), -EINVAL);
    assert_int_equal(codec_profile_new(32, NULL, 0, 1, &p), -EINVAL);
    assert_null(p);
}

static void test_blocks(void **state)
{
    for (uint32_t cols = 1; cols <= CODEC_COLS_MAX; cols++) {
        const uint32_t n = codec_blocks(cols);

        assert_int_equal(codec_block_first(cols, 0), 0);
        assert_int_equal(codec_block_first(cols, n), cols);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t first = codec_block_first(cols, i);
            const uint32_t width = codec_block_first(cols, i + 1) - first;
            assert_true(first % 32 == 0 && width > 0 && width <= CODEC_BLOCK_COLS_MAX);
        }
    }
}

/* --- outside bytes --------------------------------------------------------------------------- */

static uint8_t *small_profile(size_t *len)
{
    struct codec_profile *p = random_profile(40, NULL, 2, 3);
    uint8_t *bytes;

    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        p->curves[i] = (struct codec_profile_curve){
            .n = 2, .points = {{.01f, .001f, 300}, {.02f, .002f, 200}}};
    assert_int_equal(codec_profile_serialize(p, &bytes, len, err), 0);
    codec_profile_free(p);
    return bytes;
}

static int parse_copy(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1); /* its end is ASan's */
    struct codec_profile *p;

    memcpy(copy, bytes, len);
    err[0] = '\0';
    const int rc = codec_profile_parse(copy, len, &p, err);
    assert_true((rc == 0) == (p != NULL));
    assert_true(rc == 0 || err[0] != '\0');
    codec_profile_free(p);
    free(copy);
    return rc;
}

static void seal(uint8_t *bytes, size_t len)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes + VERSION_AT, len - VERSION_AT));
    memcpy(bytes + HASH_AT, canonical.digest, 16);
}

static void test_truncated(void **state)
{
    size_t len;
    uint8_t *bytes = small_profile(&len);

    for (size_t n = 0; n < len; n++)
        assert_int_equal(parse_copy(bytes, n), -EBADMSG);
    assert_int_equal(parse_copy(bytes, len), 0);
    free(bytes);
}

static void test_flipped(void **state)
{
    size_t len;
    uint8_t *bytes = small_profile(&len);

    for (size_t bit = 0; bit < 8 * len; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const int rc = parse_copy(bytes, len);
        assert_true(rc == -EBADMSG || (rc == -ENOTSUP && bit / 8 - VERSION_AT < 4));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(bytes);
}

/* Sealed again, so that only the field itself can give it away. */
static void assert_refused(const uint8_t *good, size_t len, size_t at, const void *lie, size_t n,
                           int rc, const char *names)
{
    uint8_t *bytes = malloc(len);

    memcpy(bytes, good, len);
    memcpy(bytes + at, lie, n);
    seal(bytes, len);
    assert_int_equal(parse_copy(bytes, len), rc);
    if (!strstr(err, names))
        fail_msg("'%s' does not name '%s'", err, names);
    free(bytes);
}

static void test_lies(void **state)
{
    const float nan = NAN, inf = INFINITY, minus = -1, zero = 0, big = 0x1p61f;
    const uint32_t version = 1, wide = CODEC_COLS_MAX + 1, other = 39;
    const uint16_t n_zero = 0, n_many = 41, column = 40, classes = 1025, dims = 257;
    const int16_t high[2] = {-32768, 1};
    const uint8_t many = 17, shift = CODEC_PROFILE_PRE_MAX + 1;
    const size_t ref_norm = BODY_AT + 20, curves = ref_norm + 16, mean = curves + 72;
    const size_t sens = mean + 160, class_p = sens + 160, class_scale = class_p + 240;
    const size_t class_w = class_scale + 12, class_bias = class_w + 12;
    const size_t class_mean = class_bias + 8, pre = class_mean + 320 + 2, order = pre + 40;
    const size_t mult = order + 80 + 2 + 40, a = mult + 160, bscale = a + 3200, b = bscale + 160;
    const struct {
        size_t at, bytes;
        const void *lie;
        int rc;
        const char *names;
    } lies[] = {
        {VERSION_AT, 4, &version, -ENOTSUP, "version 1"},
        {COLS_AT, 4, &zero, -EBADMSG, "0 columns"},
        {COLS_AT, 4, &wide, -EBADMSG, "16385 columns"},
        {COLS_AT, 4, &other, -EBADMSG, "head"},
        {XFORM_N_AT, 2, &n_zero, -EBADMSG, "head"},
        {XFORM_N_AT, 2, &n_many, -EBADMSG, "head"},
        {XFORM_N_AT + 2, 2, &n_many, -EBADMSG, "head"},
        {POINTS_AT, 1, &many, -EBADMSG, "head"},
        {POINTS_AT + 3, 1, &many, -EBADMSG, "head"},
        {CLASSES_AT, 2, &classes, -EBADMSG, "head"},
        {CLASSES_AT, 2, &zero, -EBADMSG, "head"},
        {CLASSES_AT + 2, 2, &dims, -EBADMSG, "head"},
        {CLASSES_AT + 2, 2, &zero, -EBADMSG, "head"},
        {class_p, 4, high, -EBADMSG, "class"},
        {class_scale, 4, &minus, -EBADMSG, "class"},
        {class_scale, 4, &big, -EBADMSG, "class"},
        {class_w, 4, high, -EBADMSG, "class"},
        {class_bias, 4, &nan, -EBADMSG, "class"},
        {class_mean, 4, &inf, -EBADMSG, "class"},
        {ref_norm, 4, &zero, -EBADMSG, "reference norm"},
        {ref_norm, 4, &nan, -EBADMSG, "reference norm"},
        {ref_norm + 4, 4, &inf, -EBADMSG, "reference deviation"},
        {ref_norm + 8, 4, &nan, -EBADMSG, "sensitivity"},
        {ref_norm + 12, 4, &big, -EBADMSG, "sensitivity"},
        {curves, 4, &zero, -EBADMSG, "curve"},
        {curves + 12, 4, &minus, -EBADMSG, "curve"},
        {curves + 4, 4, &nan, -EBADMSG, "curve"},
        {mean, 4, &nan, -EBADMSG, "mean"},
        {sens, 4, &inf, -EBADMSG, "sensitivity"},
        {pre, 1, &shift, -EBADMSG, "shift"},
        {order, 2, &column, -EBADMSG, "order"},
        {mult, 4, &minus, -EBADMSG, "scale"},
        {a, 4, high, -EBADMSG, "forward"},
        {bscale, 4, &nan, -EBADMSG, "scale"},
        {b, 4, high, -EBADMSG, "inverse"},
    };
    size_t len;
    uint8_t *good = small_profile(&len);

    assert_int_equal(b + 3200, len);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
        assert_refused(good, len, lies[i].at, lies[i].lie, lies[i].bytes, lies[i].rc,
                       lies[i].names);
    /* A column twice. */
    assert_refused(good, len, order, good + order + 2, 2, -EBADMSG, "order");
    free(good);
}

static void test_serialize_refuses(void **state)
{
    struct codec_profile *p = random_profile(64, NULL, 0, 0);
    uint8_t *bytes;
    size_t len;

    p->mean[3] = NAN;
    assert_int_equal(codec_profile_serialize(p, &bytes, &len, err), -EINVAL);
    assert_non_null(strstr(err, "mean"));
    assert_null(bytes);
    codec_profile_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_new_refuses),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_serialize_refuses),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
