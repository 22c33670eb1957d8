/* SPDX-License-Identifier: Apache-2.0 */
/* Integer matrix products: C against plain sums in 64 bits, every ISA against C for every number of
 * rows, nothing read or written outside. */
#include "util.h"

#include <errno.h>

#include "codec/cpu.h"
#include "codec/gemm.h"

#define MAX_M 70u
#define NORM2 (1u << 30) /* a row's most: then no sum passes 2^30 */

#ifdef HAVE_EMULATED
void gemm_dsp_init_emulated(struct codec_dsp *dsp);
void gemm_dsp_init_emulated_vnni(struct codec_dsp *dsp);
#endif

static struct isa {
    const char *name;
    struct codec_dsp dsp;
} isas[6];
static size_t n_isas;

static struct codec_dsp *add_isa(const char *name, unsigned flags)
{
    struct isa *isa = &isas[n_isas++];

    isa->name = name;
    codec_dsp_init(&isa->dsp, flags);
    printf("isa: %s\n", name);
    return &isa->dsp;
}

static void list_isas(void)
{
    const unsigned have = cpu_detect();

    add_isa("c", 0);
    if (have & CPU_AVX2)
        add_isa("avx2", CPU_AVX2);
    if (have & CPU_AVX512)
        add_isa("avx512", CPU_AVX2 | CPU_AVX512);
    if (have & CPU_VNNI)
        add_isa("vnni", CPU_AVX2 | CPU_AVX512 | CPU_VNNI);
#ifdef HAVE_EMULATED
    if (have & CPU_AVX2) {
        gemm_dsp_init_emulated(add_isa("avx512 (emulated)", CPU_AVX2));
        gemm_dsp_init_emulated_vnni(add_isa("vnni (emulated)", CPU_AVX2));
    }
#endif
}

enum temper {
    NORMAL,  /* a norm of almost 2^15, spread out */
    EXTREME, /* the same, in one value of +-32767 and small change */
    BINARY,  /* values of one magnitude, so that equal rows reach 2^30 */
    WILD,    /* any i16: sums wrap around */
    TEMPERS,
};

static void fill(int16_t *row, uint32_t k, enum temper temper)
{
    const int16_t level = (int16_t)(32768.0 / sqrt(k)); /* k level^2 <= 2^30 */

    memset(row, 0, k * sizeof(*row));
    switch (temper) {
    case NORMAL:
        for (uint32_t i = 0; i < k; i++)
            row[i] = (int16_t)(rng_unit() * level * 1.7f); /* uniform: a mean square of 1/3 */
        break;
    case EXTREME:
        for (int i = 0; i < 200; i++) /* 32767^2 + 200 * 18^2 < 2^30 */
            row[rng_below(k)] = (int16_t)((int)rng_below(37) - 18);
        row[rng_below(k)] = rng() & 1 ? 32767 : -32767;
        break;
    case BINARY:
        for (uint32_t i = 0; i < k; i++)
            row[i] = rng_below(8) ? level : (int16_t)-level;
        break;
    default:
        for (uint32_t i = 0; i < k; i++)
            row[i] = rng_below(4) ? (int16_t)rng() : -32768;
    }
}

static int16_t *matrix(uint32_t rows, uint32_t cols, enum temper temper)
{
    int16_t *m = fenced_alloc((size_t)rows * cols * sizeof(*m));

    for (uint32_t r = 0; r < rows; r++)
        fill(m + (size_t)r * cols, cols, temper);
    return m;
}

/* Modulo 2^32; where norms are in bounds, first checks that 32 bits were enough. */
static int32_t plain_dot(const int16_t *a, const int16_t *b, uint32_t k, enum temper temper)
{
    int64_t sum = 0;

    for (uint32_t i = 0; i < k; i++)
        sum += (int64_t)a[i] * b[i];
    if (temper != WILD)
        assert_true(sum >= -(int64_t)NORM2 && sum <= (int64_t)NORM2);
    return (int32_t)(uint32_t)(uint64_t)sum;
}

/* One product on every ISA. All of the caller's buffers end where no access is allowed; out's rows
 * are further apart than they are long, and the gaps stay as they were. */
static void check(uint32_t m, uint32_t n, uint32_t k, enum temper temper)
{
    const size_t a_bytes = (size_t)m * k * sizeof(int16_t),
                 b_bytes = (size_t)n * k * sizeof(int16_t);
    const size_t ldo = n + rng_below(3), before = rng_below(9);
    const size_t count = before + (m - 1) * ldo + n, out_bytes = count * sizeof(int32_t);
    int16_t *a = matrix(m, k, temper), *b = matrix(n, k, temper);
    int32_t *expected = malloc(out_bytes);
    struct codec_panel *p;

    assert_non_null(expected);
    if (temper == BINARY) /* the largest sum there is */
        memcpy(a + (size_t)(m - 1) * k, b + (size_t)(n - 1) * k, k * sizeof(*a));
    assert_int_equal(codec_panel_pack(b, n, k, &p), 0);
    memset(expected, 0xa5, out_bytes);
    for (uint32_t r = 0; r < m; r++)
        for (uint32_t c = 0; c < n; c++)
            expected[before + r * ldo + c] =
                plain_dot(a + (size_t)r * k, b + (size_t)c * k, k, temper);
    fenced_free(b, b_bytes);
    for (size_t i = 0; i < n_isas; i++) {
        int32_t *out = fenced_alloc(out_bytes);
        memset(out, 0xa5, out_bytes);
        codec_gemm(&isas[i].dsp, a, k, m, p, out + before, ldo);
        if (memcmp(out, expected, out_bytes) != 0)
            fail_msg("%s, m %u n %u k %u, temper %d: differs", isas[i].name, m, n, k, (int)temper);
        fenced_free(out, out_bytes);
    }
    codec_panel_free(p);
    fenced_free(a, a_bytes);
    free(expected);
}

static uint32_t any_units(uint32_t most)
{
    return GEMM_UNIT * (1 + rng_below(most / GEMM_UNIT));
}

static void every_m(void **state)
{
    for (uint32_t m = 1; m <= MAX_M; m++)
        check(m, any_units(160), any_units(320), (enum temper)(m % TEMPERS));
}

static void any_shape(void **state)
{
    for (int r = 0; r < 40; r++)
        check(1 + rng_below(9), any_units(224), any_units(2048), (enum temper)(r % TEMPERS));
}

/* The ranges of k are cut where GEMM_K says: on both sides of that. */
static void around_a_range(void **state)
{
    for (uint32_t times = 1; times <= 3; times++)
        for (int d = -1; d <= 1; d++)
            for (int temper = 0; temper < TEMPERS; temper++)
                check(7, 32, times * GEMM_K + (uint32_t)(d * (int)GEMM_UNIT), (enum temper)temper);
}

static void as_models_have_it(void **state)
{
    check(3, 576, 576, NORMAL);
    check(2, 896, 896, EXTREME);
    check(1, 2048, 2048, BINARY);
}

/* A row of A does not depend on those beside it, nor on where in memory they are. */
static void rows_stand_alone(void **state)
{
    const uint32_t m = 67, n = 96, k = 608, lda = k + 5;
    int16_t *a = matrix(m, lda, NORMAL), *b = matrix(n, k, NORMAL);
    int32_t *all = malloc(sizeof(*all) * m * n), one[96];
    struct codec_panel *p;

    assert_non_null(all);
    assert_int_equal(codec_panel_pack(b, n, k, &p), 0);
    for (size_t i = 0; i < n_isas; i++) {
        codec_gemm(&isas[i].dsp, a, lda, m, p, all, n);
        for (uint32_t r = 0; r < m; r++) {
            codec_gemm(&isas[i].dsp, a + r * lda, 1, 1, p, one, 1);
            assert_memory_equal(one, all + r * n, sizeof(one));
        }
    }
    codec_panel_free(p);
    free(all);
    fenced_free(a, (size_t)m * lda * sizeof(*a));
    fenced_free(b, (size_t)n * k * sizeof(*b));
}

static void panels(void **state)
{
    int16_t b[64 * 32] = {0};
    struct codec_panel *p;
    int32_t out;

    assert_int_equal(codec_panel_pack(b, 64, 32, &p), 0);
    assert_int_equal(codec_panel_n(p), 64);
    assert_int_equal(codec_panel_k(p), 32);
    assert_true(codec_panel_bytes(p) >= sizeof(b) &&
                (double)codec_panel_bytes(p) <= 1.05 * sizeof(b));
    codec_gemm(&isas[0].dsp, b, 32, 0, p, &out, 64); /* no rows: nothing happens */
    codec_panel_free(p);
    codec_panel_free(NULL);
    assert_int_equal(codec_panel_pack(b, 0, 32, &p), -EINVAL);
    assert_int_equal(codec_panel_pack(b, 32, 0, &p), -EINVAL);
    assert_int_equal(codec_panel_pack(b, 48, 32, &p), -EINVAL);
    assert_int_equal(codec_panel_pack(b, 32, 33, &p), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_m),          cmocka_unit_test(any_shape),
        cmocka_unit_test(around_a_range),   cmocka_unit_test(as_models_have_it),
        cmocka_unit_test(rows_stand_alone), cmocka_unit_test(panels),
    };

    rng_seed();
    list_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
