/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

static struct mat *random_mat(enum qtype type, uint32_t rows, uint32_t cols, uint8_t **blocks)
{
    const struct qtype_info *q = qtype_info(type);
    size_t n = (size_t)rows * cols;
    uint8_t *src = malloc(n / q->block_values * q->block_bytes);
    struct mat *m;

    random_blocks(type, src, n);
    assert_int_equal(mat_from_blocks(type, src, rows, cols, &m), 0);
    assert_int_equal(mat_bytes(m), mat_bytes_for(type, rows, cols));
    if (blocks)
        *blocks = src;
    else
        free(src);
    return m;
}

/* One at a time: they look at the values. */
static struct acts *random_acts(uint32_t tokens, uint32_t cols, enum acts_kind kind)
{
    static float *x;
    struct acts *a;

    const size_t ldx = cols + 16;

    free(x);
    x = malloc(tokens * ldx * sizeof(*x));
    assert_int_equal(acts_alloc(tokens, cols, kind, &a), 0);
    random_floats(x, tokens * ldx);
    kernels_acts_set(&kernels_isa_c, a, x, ldx, tokens, cols, 0, 1);
    return a;
}

static void multiply(const struct kernels_isa *isa, const struct mat *m, const struct acts *a,
                     const float *bias, int add, float *y, size_t ldy, unsigned part,
                     unsigned parts)
{
    const struct product p = {m, bias, y, ldy};

    kernels_mat_mul(isa, &p, 1, a, add, part, parts);
}

/* Against the identity, f32 arithmetic must give the stored weights themselves. */
static void test_weights_are_the_dequantized(void **state)
{
    enum { ROWS = 37, COLS = 512 };
    float *eye = calloc(COLS * COLS, sizeof(*eye)), *y = malloc(COLS * ROWS * sizeof(*y));
    float *w = malloc(ROWS * COLS * sizeof(*w));
    struct acts *a;

    for (size_t i = 0; i < COLS; i++)
        eye[i * COLS + i] = 1.f;
    assert_int_equal(acts_alloc(COLS, COLS, ACTS_F32, &a), 0);
    acts_set(a, eye, COLS, COLS, COLS, 0, 1);
    for (size_t i = 0; i < N_TYPES; i++) {
        uint8_t *blocks;
        struct mat *m = random_mat(all_types[i], ROWS, COLS, &blocks);

        multiply(m->isa, m, a, NULL, 0, y, ROWS, 0, 1);
        qtype_dequantize(all_types[i], blocks, w, ROWS * COLS);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t c = 0; c < COLS; c++)
                if (y[c * ROWS + r] != w[r * COLS + c])
                    fail_msg("%s: W[%zu][%zu] is %g, not %g", qtype_info(all_types[i])->name, r, c,
                             y[c * ROWS + r], w[r * COLS + c]);
        free(blocks);
        mat_free(m);
    }
    acts_free(a);
    free(eye);
    free(y);
    free(w);
}

/* Where column k of a block stands among its words. */
static size_t word_of(size_t k)
{
    return k / 4 * 4 + (size_t[]){0, 2, 1, 3}[k % 4];
}

/* The reference against a product in double of what weights and activations mean. The sum of n
 * rounded steps is off by at most n times half an ulp of the sum of magnitudes. */
static void test_reference_is_near_double(void **state)
{
    static const uint32_t cols_of[] = {256, 768, 4864};

    for (size_t i = 0; i < N_TYPES * 3 * 3; i++) {
        enum qtype type = all_types[i % N_TYPES];
        uint32_t rows = 21, cols = cols_of[i / N_TYPES % 3], tokens = 3;
        enum acts_kind kind = (enum acts_kind)(i / (N_TYPES * 3));
        bool plain =
            kind == ACTS_F32 || type == QTYPE_F32 || type == QTYPE_F16 || type == QTYPE_BF16;
        uint8_t *blocks;
        struct mat *m = random_mat(type, rows, cols, &blocks);
        struct acts *a = random_acts(tokens, cols, kind);
        float *w = malloc((size_t)rows * cols * sizeof(*w)), y[3 * 21];

        multiply(&kernels_isa_c, m, a, NULL, 0, y, rows, 0, 1);
        qtype_dequantize(type, blocks, w, (size_t)rows * cols);
        for (size_t t = 0; t < tokens; t++) {
            for (size_t r = 0; r < rows; r++) {
                double sum = 0, mag = 0;
                for (size_t c = 0; c < cols; c++) {
                    size_t at = c / 32 * tokens + t;
                    double x = plain ? (double)a->x[t * a->ldx + c]
                                     : (double)a->d[at] * a->w[at * 32 + word_of(c % 32)];
                    sum += (double)w[r * cols + c] * x;
                    mag += fabs((double)w[r * cols + c] * x);
                }
                /* With a minimum, d * code and m may cancel: both are below 32 |d|-ish. */
                double bound = (plain ? cols : cols / 8) * 0x1p-24 * (mag * 4 + 1e-6);
                if (fabs(sum - (double)y[t * rows + r]) > bound)
                    fail_msg("%s cols %u kind %d: %.9g is not %.9g +- %g", qtype_info(type)->name,
                             cols, (int)kind, (double)y[t * rows + r], sum, bound);
            }
        }
        free(w);
        free(blocks);
        mat_free(m);
        acts_free(a);
    }
}

static void check_quantized(enum acts_kind kind, int most)
{
    enum { T = 5, COLS = 96 };
    float x[T * COLS];
    struct acts *a;

    assert_int_equal(acts_alloc(T, COLS, kind, &a), 0);
    random_floats(x, T * COLS);
    memset(x, 0, 32 * sizeof(*x)); /* a block of zeros */
    for (size_t i = 32; i < 64; i++)
        x[i] = rng_uniform() * 1e-40f; /* subnormals count as zeros */
    for (unsigned p = 0; p < 3; p++)
        acts_set(a, x, COLS, T, COLS, p, 3);
    for (size_t t = 0; t < T; t++) {
        for (size_t b = 0; b < COLS / 32; b++) {
            size_t at = b * T + t;
            int sum[2][2] = {{0}};
            float top = 0;

            for (size_t k = 0; k < 32; k++) {
                float v = x[t * COLS + b * 32 + k];
                int q = a->w[at * 32 + word_of(k)];

                top = fmaxf(top, fabsf(v));
                assert_in_range(q + most, 0, 2 * most);
                assert_true(fabsf(v - a->d[at] * (float)q) <= a->d[at] * .502f + 1e-39f);
                sum[k / 16][k / 2 % 2] += q;
                if (kind == ACTS_INT8)
                    assert_int_equal(a->q[at * 32 + k], q);
            }
            assert_true(fabsf(a->d[at] * (float)most - top) <= top * 1e-6f + 1e-39f);
            assert_true(a->s[at] ==
                        a->d[at] * (float)(sum[0][0] + sum[0][1] + sum[1][0] + sum[1][1]));
            for (size_t p = 0; p < 2 && kind == ACTS_INT8; p++) {
                assert_int_equal(a->neg[6 * at + p], -sum[0][p] - sum[1][p]);
                assert_int_equal(a->neg[6 * at + 2 + p], -sum[0][p]);
                assert_int_equal(a->neg[6 * at + 4 + p], -sum[1][p]);
            }
            if (kind == ACTS_INT8)
                for (size_t i = 0; i < 3; i++)
                    assert_int_equal(a->neg_all[4 * at + i],
                                     a->neg[6 * at + 2 * i] + a->neg[6 * at + 2 * i + 1]);
        }
    }
    acts_free(a);
}

static void test_quantized_activations(void **state)
{
    check_quantized(ACTS_INT8, 127);
    check_quantized(ACTS_INT16, INT16_MAX_ACT);
}

/* --- every table gives the reference's bits -------------------------------------------------- */

#define GUARD 0x7fc12345u

static void check_case(const struct test_isa *isa, enum qtype type, uint32_t rows, uint32_t cols,
                       uint32_t tokens, unsigned parts, enum acts_kind kind)
{
    size_t ldy = rows + rng() % 5, n = tokens * ldy;
    struct mat *m = random_mat(type, rows, cols, NULL);
    struct acts *a = random_acts(tokens, cols, kind);
    float *bias = malloc(rows * sizeof(*bias)), *ref = malloc(n * 4 + 64), *y = malloc(n * 4 + 64);
    int add = (int)(rng() % 2), with_bias = (int)(rng() % 2);

    random_floats(bias, rows);
    random_floats(ref, n);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = rows; i < ldy; i++)
            ref[t * ldy + i] = f32_from_bits(GUARD);
    for (size_t i = n; i < n + 16; i++)
        ref[i] = f32_from_bits(GUARD);
    memcpy(y, ref, n * 4 + 64);
    multiply(&kernels_isa_c, m, a, with_bias ? bias : NULL, add, ref, ldy, 0, 1);
    for (unsigned p = 0; p < parts; p++)
        multiply(isa->isa, m, a, with_bias ? bias : NULL, add, y, ldy, p, parts);
    if (memcmp(y, ref, n * 4 + 64))
        for (size_t i = 0; i < n + 16; i++)
            if (f32_bits(y[i]) != f32_bits(ref[i]))
                fail_msg("%s %s %ux%u tokens %u parts %u kind %d: [%zu][%zu] is %a, not %a",
                         isa->name, qtype_info(type)->name, rows, cols, tokens, parts, (int)kind,
                         i / ldy, i % ldy, (double)y[i], (double)ref[i]);
    free(bias);
    free(ref);
    free(y);
    mat_free(m);
    acts_free(a);
}

/* A token's result must not depend on the tokens beside it: each alone, by the reference. */
static void check_batch(const struct test_isa *isa, enum qtype type, enum acts_kind kind)
{
    enum { ROWS = 24, COLS = 512, T = 41 };
    struct mat *m = random_mat(type, ROWS, COLS, NULL);
    float *x = malloc(T * COLS * sizeof(*x)), *y = malloc(T * ROWS * sizeof(*y)), one[ROWS];
    struct acts *a, *single;

    random_floats(x, T * COLS);
    assert_int_equal(acts_alloc(T, COLS, kind, &a), 0);
    assert_int_equal(acts_alloc(1, COLS, kind, &single), 0);
    for (unsigned p = 0; p < 3; p++)
        kernels_acts_set(isa->isa, a, x, COLS, T, COLS, p, 3);
    multiply(isa->isa, m, a, NULL, 0, y, ROWS, 0, 1);
    for (size_t t = 0; t < T; t++) {
        kernels_acts_set(&kernels_isa_c, single, x + t * COLS, COLS, 1, COLS, 0, 1);
        multiply(&kernels_isa_c, m, single, NULL, 0, one, ROWS, 0, 1);
        assert_memory_equal(one, y + t * ROWS, sizeof(one));
    }
    acts_free(a);
    acts_free(single);
    mat_free(m);
    free(x);
    free(y);
}

static void test_tables_equal_reference(void **state)
{
    static const uint32_t rows_of[] = {1, 15, 16, 33, 50}, cols_of[] = {32, 64, 96, 576, 896, 1536};
    static const uint32_t tokens_of[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                         13, 14, 15, 16, 17, 18, 19, 20, 33, 128, 130};

    for (size_t s = 0; s < N_ISAS; s++) {
        if ((cpu_detect() & isas[s].needs) != isas[s].needs) {
            printf("%s: this CPU lacks it, not run\n", isas[s].name);
            continue;
        }
        for (size_t i = 0; i < N_TYPES * 3; i++) {
            enum qtype type = all_types[i / 3];
            enum acts_kind kind = (enum acts_kind)(i % 3);
            uint32_t block = qtype_info(type)->block_values;

            for (size_t j = 0; j < sizeof(tokens_of) / sizeof(tokens_of[0]); j++) {
                uint32_t cols = block == 256 ? 256 * (1 + rng() % 3) : cols_of[rng() % 6];
                check_case(&isas[s], type, rows_of[rng() % 5], cols, tokens_of[j], 1 + rng() % 3,
                           kind);
            }
            check_case(&isas[s], type, 18, 4864, 1 + rng() % 9, 2, kind);
            check_batch(&isas[s], type, kind);
        }
    }
}

/* The extremes: no sum may saturate. */
static void check_extreme_codes(enum acts_kind kind)
{
    enum { ROWS = 16, COLS = 256, T = 9 };
    float x[T * COLS], y[T * ROWS], ref[T * ROWS];
    struct acts *a;

    assert_int_equal(acts_alloc(T, COLS, kind, &a), 0);
    for (size_t i = 0; i < T * COLS; i++)
        x[i] = i / COLS % 3 == 0 ? 127.f : i / COLS % 3 == 1 ? -127.f : i % 2 ? 127.f : -127.f;
    acts_set(a, x, COLS, T, COLS, 0, 1);
    for (size_t i = 0; i < N_TYPES; i++) {
        for (int fill = 0; fill < 3; fill++) {
            const struct qtype_info *q = qtype_info(all_types[i]);
            size_t n = ROWS * COLS / q->block_values;
            uint8_t *src = malloc(n * q->block_bytes);
            uint16_t one = 0x3c00;
            struct mat *m;

            for (size_t b = 0; b < n; b++) {
                uint8_t *p = src + b * q->block_bytes;
                memset(p, (int[]){0x00, 0xff, 0x80}[fill], q->block_bytes);
                if (q->block_values == 1)
                    memset(p, 0x3c, q->block_bytes);
                else
                    memcpy(p + (all_types[i] == QTYPE_Q6_K ? 208 : 0), &one, 2);
                if (q->block_values > 1 && all_types[i] != QTYPE_Q8_0)
                    memcpy(p + 2, &one, 2);
            }
            assert_int_equal(mat_from_blocks(all_types[i], src, ROWS, COLS, &m), 0);
            multiply(&kernels_isa_c, m, a, NULL, 0, ref, ROWS, 0, 1);
            for (size_t s = 0; s < N_ISAS; s++) {
                if ((cpu_detect() & isas[s].needs) != isas[s].needs)
                    continue;
                multiply(isas[s].isa, m, a, NULL, 0, y, ROWS, 0, 1);
                assert_memory_equal(y, ref, sizeof(y));
            }
            mat_free(m);
            free(src);
        }
    }
    acts_free(a);
}

static void test_extreme_codes(void **state)
{
    check_extreme_codes(ACTS_INT8);
    check_extreme_codes(ACTS_INT16);
}

/* Products of several matrices in one call, of several types, are those of each alone. */
static void test_several_products(void **state)
{
    static const enum qtype types[] = {QTYPE_Q5_0, QTYPE_Q5_0, QTYPE_Q8_0, QTYPE_Q5_0};
    enum { N = 4, COLS = 256, MOST_ROWS = 300 };
    static float y[N][20 * MOST_ROWS], ref[N][20 * MOST_ROWS], bias[MOST_ROWS];

    random_floats(bias, MOST_ROWS);
    for (int round = 0; round < 40; round++) {
        struct product products[N];
        struct mat *mats[N];
        uint32_t tokens = 1 + rng() % 20;
        unsigned parts = 1 + rng() % 4;
        struct acts *a = random_acts(tokens, COLS, rng() % 2 ? ACTS_INT8 : ACTS_INT16);

        for (size_t i = 0; i < N; i++) {
            mats[i] = random_mat(types[i], 1 + rng() % MOST_ROWS, COLS, NULL);
            products[i] = (struct product){mats[i], i % 2 ? bias : NULL, y[i], MOST_ROWS};
            memset(y[i], 0, sizeof(y[i]));
            memset(ref[i], 0, sizeof(ref[i]));
            multiply(&kernels_isa_c, mats[i], a, products[i].bias, 0, ref[i], MOST_ROWS, 0, 1);
        }
        for (unsigned p = 0; p < parts; p++)
            mat_mul(products, N, a, 0, p, parts);
        assert_memory_equal(y, ref, sizeof(y));
        for (size_t i = 0; i < N; i++)
            mat_free(mats[i]);
        acts_free(a);
    }
}

static void test_refusals(void **state)
{
    uint8_t src[32 * 34] = {0};
    struct mat *m;
    struct acts *a;

    assert_int_equal(mat_from_blocks(QTYPE_Q8_0, src, 1, 33, &m), -EINVAL);
    assert_null(m);
    assert_int_equal(mat_from_blocks(QTYPE_Q4_K, src, 1, 32, &m), -EINVAL);
    assert_int_equal(mat_from_blocks(QTYPE_Q8_0, src, 0, 32, &m), -EINVAL);
    assert_int_equal(mat_from_blocks((enum qtype)77, src, 1, 32, &m), -EINVAL);
    assert_int_equal(mat_bytes_for((enum qtype)77, 1, 32), 0);
    assert_int_equal(acts_alloc(0, 32, 0, &a), -EINVAL);
    assert_int_equal(acts_alloc(1, 31, 0, &a), -EINVAL);
    mat_free(NULL);
    acts_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_the_dequantized),
        cmocka_unit_test(test_reference_is_near_double),
        cmocka_unit_test(test_quantized_activations),
        cmocka_unit_test(test_tables_equal_reference),
        cmocka_unit_test(test_extreme_codes),
        cmocka_unit_test(test_several_products),
        cmocka_unit_test(test_refusals),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
