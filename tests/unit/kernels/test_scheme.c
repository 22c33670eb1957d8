/* SPDX-License-Identifier: Apache-2.0 */
/* Weights in schemes: panels hold what the file says, and every ISA multiplies as the reference. */
#include "common.h"

static const struct scheme schemes[] = {
    {SCHEME_SQ, 2, 0}, {SCHEME_SQ, 3, 0},  {SCHEME_SQ, 4, 0},   {SCHEME_G, 2, 32},
    {SCHEME_G, 3, 96}, {SCHEME_G, 4, 128}, {SCHEME_G, 3, 4096},
};
#define N_SCHEMES (sizeof(schemes) / sizeof(schemes[0]))

/* A weight as a file has it. */
struct file {
    struct scheme s;
    uint32_t rows, cols, groups, n_sparse;
    uint8_t *codes;
    uint16_t *levels, *mins; /* sq: levels only */
    uint32_t *sp_rows;
    uint16_t *sp_cols, *sp_values;
};

static struct file random_file(const struct scheme *s, uint32_t rows, uint32_t cols, bool sparse)
{
    struct file f = {.s = *s, .rows = rows, .cols = cols};
    const size_t bytes = (size_t)rows * cols / 8 * s->bits;

    f.groups = s->kind == SCHEME_SQ ? 1u << s->bits : (cols + s->group_cols - 1) / s->group_cols;
    f.codes = malloc(bytes);
    f.levels = malloc((size_t)rows * f.groups * 2);
    f.mins = malloc((size_t)rows * f.groups * 2);
    f.sp_rows = calloc(rows + 1, 4);
    f.sp_cols = malloc((size_t)rows * cols * 2);
    f.sp_values = malloc((size_t)rows * cols * 2);
    for (size_t i = 0; i < bytes; i++)
        f.codes[i] = (uint8_t)rng();
    for (uint32_t r = 0; r < rows; r++) {
        float level = rng_uniform() - 1.f;

        for (uint32_t i = 0; i < f.groups; i++) {
            level += s->kind == SCHEME_SQ ? (rng_uniform() + 1.f) * .2f : 0.f;
            f.levels[r * f.groups + i] =
                f16_from_f32(s->kind == SCHEME_SQ ? level : rng_uniform() * .1f);
            f.mins[r * f.groups + i] = f16_from_f32(rng_uniform());
        }
        f.sp_rows[r] = f.n_sparse;
        for (uint32_t c = 0; sparse && c < cols; c++) {
            if (rng() % 61)
                continue;
            f.sp_cols[f.n_sparse] = (uint16_t)c;
            f.sp_values[f.n_sparse++] = f16_from_f32(rng_uniform() * 4.f);
        }
    }
    f.sp_rows[rows] = f.n_sparse;
    return f;
}

static void file_free(struct file *f)
{
    free(f->codes);
    free(f->levels);
    free(f->mins);
    free(f->sp_rows);
    free(f->sp_cols);
    free(f->sp_values);
}

/* In pieces, the parts in some order. */
static struct mat *pack(const struct file *f)
{
    const size_t row_bytes = f->cols / 8 * f->s.bits;
    const uint32_t first = f->rows > 16 ? 16 * (1 + rng() % (f->rows / 16)) : f->rows;
    const unsigned turn = rng() % 3;
    struct mat *m;

    assert_int_equal(mat_new_scheme(&f->s, f->rows, f->cols, f->n_sparse, &m), 0);
    assert_int_equal(mat_bytes(m), mat_bytes_for_scheme(&f->s, f->rows, f->cols, f->n_sparse));
    for (unsigned i = 0; i < 3; i++) {
        unsigned what = (i + turn) % 3;

        for (uint32_t row = 0; row < f->rows; row = row ? f->rows : first) {
            uint32_t n = row ? f->rows - row : first;

            if (what == 0)
                mat_pack_part(m, SCHEME_CODES, row, f->codes + row * row_bytes, n);
            else if (f->s.kind == SCHEME_SQ)
                mat_pack_part(m, SCHEME_LUT, row, f->levels + row * f->groups, n);
            else
                mat_pack_part(m, what == 1 ? SCHEME_SCALE : SCHEME_MIN, row,
                              (what == 1 ? f->levels : f->mins) + row * f->groups, n);
        }
    }
    uint32_t bad_row;
    if (f->n_sparse) {
        mat_pack_part(m, SCHEME_SP_ROWS, 0, f->sp_rows, f->rows + 1);
        mat_pack_part(m, SCHEME_SP_COLS, 0, f->sp_cols, f->n_sparse);
        mat_pack_part(m, SCHEME_SP_VALUES, 0, f->sp_values, f->n_sparse / 2);
        mat_pack_part(m, SCHEME_SP_VALUES, f->n_sparse / 2, f->sp_values + f->n_sparse / 2,
                      f->n_sparse - f->n_sparse / 2);
    }
    assert_int_equal(mat_close_sparse(m, &bad_row), 0);
    return m;
}

static struct mat *random_mat(const struct scheme *s, uint32_t rows, uint32_t cols, bool sparse)
{
    struct file f = random_file(s, rows, cols, sparse);
    struct mat *m = pack(&f);

    file_free(&f);
    return m;
}

static void multiply(const struct kernels_isa *isa, const struct mat *m, const struct acts *a,
                     int add, float *y, size_t ldy, unsigned part, unsigned parts)
{
    const struct product p = {m, NULL, y, ldy};

    kernels_mat_mul(isa, &p, 1, a, add, part, parts);
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

/* The identity by f32 arithmetic gives the weights: g's and the sparse ones exactly, sq's rounded
 * to one of 128 of its row. */
static void test_weights_are_the_files(void **state)
{
    static const uint32_t cols_of[] = {32, 96, 256, 288, 576};
    enum { MOST = 576, ROWS = 37 };
    float *eye = calloc(MOST * MOST, sizeof(*eye)), *y = malloc(MOST * ROWS * sizeof(*y));
    struct acts *a;

    for (size_t i = 0; i < N_SCHEMES * 5; i++) {
        const struct scheme *s = &schemes[i / 5];
        const uint32_t cols = cols_of[i % 5];
        struct file f = random_file(s, ROWS, cols, i % 2);
        struct mat *m = pack(&f);

        memset(eye, 0, MOST * MOST * sizeof(*eye));
        for (size_t c = 0; c < cols; c++)
            eye[c * cols + c] = 1.f;
        assert_int_equal(acts_alloc(cols, cols, ACTS_F32, &a), 0);
        acts_set(a, eye, cols, cols, cols, 0, 1);
        multiply(m->isa, m, a, 0, y, ROWS, 0, 1);
        for (size_t r = 0; r < ROWS; r++) {
            const uint16_t *levels = f.levels + r * f.groups;
            float w[MOST], range = 0, sparse[MOST] = {0};

            if (s->kind == SCHEME_SQ)
                range = f32_from_f16(levels[f.groups - 1]) - f32_from_f16(levels[0]);
            scheme_dequantize(s, cols, f.codes + r * (cols / 8 * s->bits), levels,
                              f.mins + r * f.groups, w);
            for (uint32_t k = f.sp_rows[r]; k < f.sp_rows[r + 1]; k++)
                sparse[f.sp_cols[k]] = f32_from_f16(f.sp_values[k]);
            for (size_t c = 0; c < cols; c++) {
                const float got = y[c * ROWS + r], want = w[c] + sparse[c];
                if (s->kind == SCHEME_G
                        ? got != want
                        : fabsf(got - want) > range / (float)scheme_level_max(s->bits) + 1e-6f)
                    fail_msg("%d%u: W[%zu][%zu] of %u is %g, not %g", (int)s->kind, s->bits, r, c,
                             cols, (double)got, (double)want);
            }
        }
        acts_free(a);
        mat_free(m);
        file_free(&f);
    }
    free(eye);
    free(y);
}

/* The reference against double, of what panels and activations mean. */
static void test_reference_is_near_double(void **state)
{
    static const size_t word_at[4] = {0, 2, 1, 3};
    enum { ROWS = 21, COLS = 864, T = 3 };

    for (size_t i = 0; i < N_SCHEMES * 3; i++) {
        const struct scheme *s = &schemes[i / 3];
        const enum acts_kind kind = (enum acts_kind)(i % 3);
        struct file f = random_file(s, ROWS, COLS, true);
        struct mat *m = pack(&f);
        struct acts *a = random_acts(T, COLS, kind);
        float y[T * ROWS];

        multiply(&kernels_isa_c, m, a, 0, y, ROWS, 0, 1);
        for (size_t t = 0; t < T; t++) {
            for (size_t r = 0; r < ROWS; r++) {
                double sum = 0, mag = 0;

                for (size_t b = 0; b < COLS / 32; b++) {
                    uint8_t u[32];
                    float d, min;

                    kernels_scheme_read(&m->scheme, m->panels + r / 16 * m->panel_bytes, r % 16, b, u,
                                      &d, &min);
                    for (size_t k = 0; k < 32; k++) {
                        size_t at = b * T + t;
                        double x =
                            kind == ACTS_F32
                                ? (double)a->x[t * a->ldx + b * 32 + k]
                                : (double)a->d[at] * a->w[at * 32 + k / 4 * 4 + word_at[k % 4]];
                        sum += ((double)d * u[k] + (double)min) * x;
                        mag += (fabs((double)d * u[k]) + fabs((double)min)) * fabs(x);
                    }
                }
                for (uint32_t k = f.sp_rows[r]; k < f.sp_rows[r + 1]; k++) {
                    double v = (double)f32_from_f16(f.sp_values[k]) *
                               (double)a->x[t * a->ldx + f.sp_cols[k]];
                    sum += v;
                    mag += fabs(v);
                }
                if (fabs(sum - (double)y[t * ROWS + r]) > COLS * 0x1p-24 * (mag + 1e-6))
                    fail_msg("%d%u kind %d: %.9g is not %.9g", (int)s->kind, s->bits, (int)kind,
                             (double)y[t * ROWS + r], sum);
            }
        }
        mat_free(m);
        acts_free(a);
        file_free(&f);
    }
}

static void check_case(const struct test_isa *isa, const struct scheme *s, uint32_t rows,
                       uint32_t cols, uint32_t tokens, unsigned parts, enum acts_kind kind)
{
    const size_t ldy = rows + 3, n = ldy * tokens;
    struct mat *m = random_mat(s, rows, cols, rng() % 2);
    struct acts *a = random_acts(tokens, cols, kind);
    float *y = malloc(n * sizeof(*y)), *ref = malloc(n * sizeof(*ref));
    int add = rng() % 2;

    random_floats(y, n);
    memcpy(ref, y, n * sizeof(*y));
    multiply(&kernels_isa_c, m, a, add, ref, ldy, 0, 1);
    for (unsigned p = 0; p < parts; p++)
        multiply(isa->isa, m, a, add, y, ldy, p, parts);
    for (size_t i = 0; i < n; i++)
        if (memcmp(&y[i], &ref[i], 4))
            fail_msg("%s %d%u: %ux%u tokens %u kind %d: [%zu][%zu] is %a, not %a", isa->name,
                     (int)s->kind, s->bits, rows, cols, tokens, (int)kind, i / ldy, i % ldy,
                     (double)y[i], (double)ref[i]);
    free(ref);
    free(y);
    mat_free(m);
    acts_free(a);
}

/* A token's result does not depend on the tokens beside it. */
static void check_batch(const struct test_isa *isa, const struct scheme *s, enum acts_kind kind)
{
    enum { ROWS = 24, COLS = 480, T = 31 };
    struct mat *m = random_mat(s, ROWS, COLS, true);
    float *x = malloc(T * COLS * sizeof(*x)), *y = malloc(T * ROWS * sizeof(*y)), one[ROWS];
    struct acts *a, *single;

    random_floats(x, T * COLS);
    assert_int_equal(acts_alloc(T, COLS, kind, &a), 0);
    assert_int_equal(acts_alloc(1, COLS, kind, &single), 0);
    for (unsigned p = 0; p < 3; p++)
        kernels_acts_set(isa->isa, a, x, COLS, T, COLS, p, 3);
    multiply(isa->isa, m, a, 0, y, ROWS, 0, 1);
    for (size_t t = 0; t < T; t++) {
        kernels_acts_set(&kernels_isa_c, single, x + t * COLS, COLS, 1, COLS, 0, 1);
        multiply(&kernels_isa_c, m, single, 0, one, ROWS, 0, 1);
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
    static const uint32_t rows_of[] = {1, 15, 16, 33, 130},
                          cols_of[] = {32, 64, 96, 576, 896, 1536};
    static const uint32_t tokens_of[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 17, 33, 128};

    for (size_t i = 0; i < N_ISAS; i++) {
        if ((cpu_detect() & isas[i].needs) != isas[i].needs) {
            printf("%s: this CPU lacks it, not run\n", isas[i].name);
            continue;
        }
        for (size_t k = 0; k < N_SCHEMES * 3; k++) {
            const struct scheme *s = &schemes[k / 3];
            const enum acts_kind kind = (enum acts_kind)(k % 3);

            for (size_t j = 0; j < sizeof(tokens_of) / sizeof(tokens_of[0]); j++)
                check_case(&isas[i], s, rows_of[rng() % 5], cols_of[rng() % 6], tokens_of[j],
                           1 + rng() % 3, kind);
            check_case(&isas[i], s, 18, 4864, 1 + rng() % 9, 2, kind);
            check_batch(&isas[i], s, kind);
        }
    }
}

/* The greatest codes, levels and activations: no sum may saturate. */
static void test_extremes(void **state)
{
    enum { ROWS = 16, COLS = 128, T = 13 };
    float x[T * COLS], y[T * ROWS], ref[T * ROWS];

    for (size_t i = 0; i < T * COLS; i++)
        x[i] = i / COLS % 3 == 0 ? 127.f : i / COLS % 3 == 1 ? -127.f : i % 2 ? 127.f : -127.f;
    for (size_t i = 0; i < N_SCHEMES * 2; i++) {
        const struct scheme *s = &schemes[i / 2];
        struct file f = random_file(s, ROWS, COLS, false);
        struct acts *a;

        memset(f.codes, 0xff, (size_t)ROWS * COLS / 8 * s->bits);
        struct mat *m = pack(&f);
        assert_int_equal(acts_alloc(T, COLS, i % 2 ? ACTS_INT16 : ACTS_INT8, &a), 0);
        acts_set(a, x, COLS, T, COLS, 0, 1);
        for (uint32_t tokens = 1; tokens <= T; tokens += 12) {
            kernels_acts_set(&kernels_isa_c, a, x, COLS, tokens, COLS, 0, 1);
            multiply(&kernels_isa_c, m, a, 0, ref, ROWS, 0, 1);
            for (size_t k = 0; k < N_ISAS; k++) {
                if ((cpu_detect() & isas[k].needs) != isas[k].needs)
                    continue;
                multiply(isas[k].isa, m, a, 0, y, ROWS, 0, 1);
                assert_memory_equal(y, ref, tokens * ROWS * sizeof(*y));
            }
        }
        acts_free(a);
        mat_free(m);
        file_free(&f);
    }
}

/* In one call with others, of plain types and other schemes. */
static void test_several_products(void **state)
{
    enum { N = 6, COLS = 256, MOST_ROWS = 300, T = 20 };
    static float y[N][T * MOST_ROWS], ref[N][T * MOST_ROWS];
    static uint8_t blocks[MOST_ROWS * COLS / 32 * 20];

    for (int round = 0; round < 20; round++) {
        struct product products[N];
        struct mat *mats[N];
        const uint32_t tokens = 1 + rng() % T;
        const unsigned parts = 1 + rng() % 4;
        struct acts *a = random_acts(tokens, COLS, rng() % 2 ? ACTS_INT8 : ACTS_INT16);

        for (size_t i = 0; i < N; i++) {
            const uint32_t rows = 1 + rng() % MOST_ROWS;

            if (i == 3) {
                random_blocks(QTYPE_Q4_1, blocks, (size_t)rows * COLS);
                assert_int_equal(mat_from_blocks(QTYPE_Q4_1, blocks, rows, COLS, &mats[i]), 0);
            } else {
                mats[i] = random_mat(&schemes[(size_t)(i / 2 + (size_t)round) % N_SCHEMES], rows,
                                     COLS, i % 2);
            }
            products[i] = (struct product){mats[i], NULL, y[i], MOST_ROWS};
            memset(y[i], 0, sizeof(y[i]));
            memset(ref[i], 0, sizeof(ref[i]));
            multiply(&kernels_isa_c, mats[i], a, 0, ref[i], MOST_ROWS, 0, 1);
        }
        for (unsigned p = 0; p < parts; p++)
            mat_mul(products, N, a, 0, p, parts);
        assert_memory_equal(y, ref, sizeof(y));
        for (size_t i = 0; i < N; i++)
            mat_free(mats[i]);
        acts_free(a);
    }
}

/* Memory is no more than the file's tensors and 3 %. */
static void test_memory(void **state)
{
    static const uint32_t shapes[][2] = {{576, 576}, {192, 576},  {1536, 576}, {576, 1536},
                                         {896, 896}, {4864, 896}, {896, 4864}};

    for (size_t i = 0; i < N_SCHEMES; i++) {
        for (size_t k = 0; k < sizeof(shapes) / sizeof(shapes[0]); k++) {
            const struct scheme *s = &schemes[i];
            const uint32_t rows = shapes[k][0], cols = shapes[k][1], n = rows * cols / 200;
            const size_t row =
                cols / 8 * s->bits + (s->kind == SCHEME_SQ
                                          ? 2u << s->bits
                                          : (cols + s->group_cols - 1) / s->group_cols * 4);
            const size_t file = rows * row + 4 * (rows + 1) + 4 * n;

            assert_in_range(mat_bytes_for_scheme(s, rows, cols, n), file / 2, file * 103 / 100);
        }
    }
}

static void test_refusals(void **state)
{
    struct mat *m;

    assert_int_equal(mat_new_scheme(&schemes[0], 0, 32, 0, &m), -EINVAL);
    assert_null(m);
    assert_int_equal(mat_new_scheme(&schemes[0], 1, 33, 0, &m), -EINVAL);
    assert_int_equal(mat_new_scheme(&schemes[0], 1, 0, 0, &m), -EINVAL);
    assert_int_equal(mat_new_scheme(&schemes[0], (uint64_t)INT32_MAX + 1, 32, 0, &m), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_the_files),
        cmocka_unit_test(test_reference_is_near_double),
        cmocka_unit_test(test_tables_equal_reference),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_several_products),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refusals),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
