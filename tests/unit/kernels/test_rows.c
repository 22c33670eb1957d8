/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

static const struct kernels *ref = &kernels_isa_c.rows;

/* --- the reference against double --------------------------------------------------------------- */

static void assert_near(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %.9g is not %.9g +- %g", what, got, want, tolerance);
}

static void test_rmsnorm(void **state)
{
    float x[576], w[576], y[576];
    double sum = 0;

    random_floats(x, 576);
    random_floats(w, 576);
    for (int i = 0; i < 576; i++)
        sum += (double)x[i] * (double)x[i];
    ref->rmsnorm(y, x, w, 576, 1e-5f);
    for (int i = 0; i < 576; i++) {
        double want = (double)x[i] / sqrt(sum / 576 + 1e-5) * (double)w[i];
        assert_near((double)y[i], want, fabs(want) * 1e-5, "rmsnorm");
    }
}

static void test_silu_mul(void **state)
{
    float g[101], u[101], y[101];

    for (int i = 0; i < 101; i++) {
        g[i] = rng_uniform() * (i % 4 ? 10.f : 120.f);
        u[i] = rng_uniform();
    }
    ref->silu_mul(y, g, u, 101);
    for (int i = 0; i < 101; i++) {
        double want = (double)g[i] / (1 + exp(-(double)g[i])) * (double)u[i];
        assert_near((double)y[i], want, fabs(want) * 2e-6 + 1e-34, "silu");
    }
}

static void test_rope(void **state)
{
    for (int neox = 0; neox < 2; neox++) {
        float x[64], y[64], cs[128];

        random_floats(x, 64);
        memcpy(y, x, sizeof(x));
        for (int i = 0; i < 32; i++) {
            double angle = (double)rng_uniform() * 3;
            int a = neox ? i : 2 * i, b = neox ? i + 32 : 2 * i + 1;
            cs[a] = cs[b] = (float)cos(angle);
            cs[64 + b] = (float)sin(angle);
            cs[64 + a] = -cs[64 + b];
        }
        ref->rope(y, cs, 64, neox);
        for (int i = 0; i < 32; i++) {
            int a = neox ? i : 2 * i, b = neox ? i + 32 : 2 * i + 1;
            double c = (double)cs[b], s = (double)cs[64 + b];
            double xa = (double)x[a], xb = (double)x[b], tol = (fabs(xa) + fabs(xb)) * 1e-6;
            assert_near((double)y[a], xa * c - xb * s, tol, "rope");
            assert_near((double)y[b], xa * s + xb * c, tol, "rope");
        }
    }
}

static void test_logsumexp(void **state)
{
    static float x[49157];
    double want = 0, sum;
    float max, top = -INFINITY;
    size_t n = sizeof(x) / sizeof(x[0]);

    for (size_t i = 0; i < n; i++) {
        x[i] = rng_uniform() * 12.f;
        top = x[i] > top ? x[i] : top;
    }
    x[7] = -INFINITY; /* a suppressed token */
    ref->logsumexp(x, n, &max, &sum);
    for (size_t i = 0; i < n; i++)
        want += exp((double)x[i] - (double)top);
    assert_true(max == top);
    assert_near(sum, want, want * 1e-6, "logsumexp");
}

/* Every f16 there and back; f32 halfway between two goes to the even one. */
static void test_f16(void **state)
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float f = f32_from_f16((uint16_t)h);
        double want = h >> 10 ? ldexp(1024 + (h & 1023), (int)(h >> 10) - 25) : ldexp(h, -24);

        assert_true((double)f == want);
        assert_int_equal(f16_from_f32(f), h);
        assert_int_equal(f16_from_f32(-f), h | 0x8000);
        if (h == 0x7bff)
            break;
        float next = f32_from_f16((uint16_t)(h + 1)), mid = (f + next) / 2;
        assert_int_equal(f16_from_f32(mid), h + (h & 1));
        assert_int_equal(f16_from_f32(nextafterf(mid, 0.f)), h);
        assert_int_equal(f16_from_f32(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(f16_from_f32(65519.99f), 0x7bff);
    assert_int_equal(f16_from_f32(65520.f), 0x7c00);
    assert_int_equal(f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(f16_from_f32(NAN) & 0x7e00, 0x7e00);
    assert_true(isinf(f32_from_f16(0x7c00)) && isnan(f32_from_f16(0x7c01)));
}

/* --- every table gives the reference's bits ----------------------------------------------------- */

static bool runnable(size_t s)
{
    bool ok = (cpu_detect() & isas[s].needs) == isas[s].needs;
    if (!ok)
        printf("%s: this CPU lacks it, not run\n", isas[s].name);
    return ok;
}

/* Equal bits; for NaNs it is enough that both are. */
static void assert_same(const char *isa, const char *what, const float *got, const float *want,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s %s [%zu] of %zu: %a is not %a", isa, what, i, n, (double)got[i],
                     (double)want[i]);
}

#define MAX_N 1600

static void check_rows(const char *isa, const struct kernels *k, size_t n)
{
    static float a[MAX_N + 1], b[MAX_N + 1], c[2 * MAX_N], y[MAX_N + 1], z[MAX_N + 1];
    static uint16_t h[MAX_N + 1], g[MAX_N + 1];
    size_t n16 = n / 16 * 16;
    float max[2];
    double sum[2];

    random_floats(a, MAX_N + 1);
    random_floats(b, MAX_N + 1);
    random_floats(c, 2 * MAX_N);
    memcpy(y, b, sizeof(y)); /* what must not be written stays */
    memcpy(z, b, sizeof(z));
    k->rmsnorm(y, a, b, n16, 1e-6f);
    ref->rmsnorm(z, a, b, n16, 1e-6f);
    assert_same(isa, "rmsnorm", y, z, MAX_N + 1);
    k->silu_mul(y, a, b, n);
    ref->silu_mul(z, a, b, n);
    assert_same(isa, "silu_mul", y, z, MAX_N + 1);
    for (int neox = 0; neox < 2; neox++) {
        k->rope(y, c, n & ~(size_t)1, neox);
        ref->rope(z, c, n & ~(size_t)1, neox);
        assert_same(isa, "rope", y, z, MAX_N + 1);
    }
    k->logsumexp(a, n, &max[0], &sum[0]);
    ref->logsumexp(a, n, &max[1], &sum[1]);
    assert_memory_equal(&max[0], &max[1], sizeof(float));
    assert_memory_equal(&sum[0], &sum[1], sizeof(double));
    memset(h, 0x55, sizeof(h));
    memset(g, 0x55, sizeof(g));
    k->f32_to_f16(h, a, n);
    ref->f32_to_f16(g, a, n);
    assert_memory_equal(h, g, sizeof(h));
    k->f16_to_f32(y, h, n);
    ref->f16_to_f32(z, h, n);
    assert_same(isa, "f16_to_f32", y, z, MAX_N + 1);
}

static void test_tables_equal_reference(void **state)
{
    for (size_t s = 1; s < N_ISAS; s++) {
        if (!runnable(s))
            continue;
        const struct kernels *k = &isas[s].isa->rows;
        for (size_t n = 1; n < 70; n++)
            check_rows(isas[s].name, k, n);
        for (int i = 0; i < 20; i++)
            check_rows(isas[s].name, k, 70 + rng() % (MAX_N - 70));
    }
}

/* All f16, and floats of every exponent, with NaNs and infinities, through conversion and exp. */
static void test_odd_values(void **state)
{
    enum { N = 1 << 16 };
    uint16_t *h = malloc(N * 2), *g = malloc(N * 2), *all = malloc(N * 2);
    float *x = malloc(N * 4), *y = malloc(N * 4), *z = malloc(N * 4), *one = malloc(N * 4);

    for (uint32_t i = 0; i < N; i++) {
        all[i] = (uint16_t)i;
        x[i] = f32_from_bits(i << 16 | (rng() & 0xffff));
        one[i] = 1.f;
    }
    for (size_t s = 1; s < N_ISAS; s++) {
        if (!runnable(s))
            continue;
        const struct kernels *k = &isas[s].isa->rows;
        k->f16_to_f32(y, all, N);
        ref->f16_to_f32(z, all, N);
        assert_same(isas[s].name, "f16_to_f32", y, z, N);
        k->f32_to_f16(h, x, N);
        ref->f32_to_f16(g, x, N);
        for (size_t i = 0; i < N; i++)
            if (h[i] != g[i])
                fail_msg("%s f32_to_f16(%a): %x is not %x", isas[s].name, (double)x[i], h[i], g[i]);
        k->silu_mul(y, x, one, N);
        ref->silu_mul(z, x, one, N);
        assert_same(isas[s].name, "silu_mul", y, z, N);
    }
    free(h);
    free(g);
    free(all);
    free(x);
    free(y);
    free(z);
    free(one);
}

static void test_quantize(void **state)
{
    enum { COLS = 1536, T = 3 };
    static float x[T * COLS];
    struct acts *a, *b;

    for (int round = 0; round < 20; round++) {
        enum acts_kind kind = round % 2 ? ACTS_INT8 : ACTS_INT16;

        assert_int_equal(acts_alloc(T, COLS, kind, &a), 0);
        assert_int_equal(acts_alloc(T, COLS, kind, &b), 0);
        random_floats(x, T * COLS);
        x[rng() % COLS] = NAN;
        x[rng() % COLS] = INFINITY;
        x[rng() % COLS] = -1e-38f;
        kernels_acts_set(&kernels_isa_c, a, x, COLS, T, COLS, 0, 1);
        for (size_t s = 1; s < N_ISAS; s++) {
            if ((cpu_detect() & isas[s].needs) != isas[s].needs)
                continue;
            kernels_acts_set(isas[s].isa, b, x, COLS, T, COLS, 0, 1);
            assert_memory_equal(a->w, b->w, T * COLS * 2);
            if (kind == ACTS_INT8) {
                assert_memory_equal(a->q, b->q, T * COLS);
                assert_memory_equal(a->neg, b->neg, T * COLS / 32 * 12);
                for (size_t i = 0; i < T * COLS / 32; i++)
                    assert_memory_equal(a->neg_all + 4 * i, b->neg_all + 4 * i, 12);
            }
            assert_same(isas[s].name, "quantize d", a->d, b->d, T * COLS / 32);
            assert_same(isas[s].name, "quantize s", a->s, b->s, T * COLS / 32);
        }
        acts_free(a);
        acts_free(b);
    }
}

/* The table follows the mask. */
static void test_dispatch(void **state)
{
    static const char *const levels[] = {"c", "avx2", "avx512", "vnni"};

    for (size_t i = 0; i < 4; i++) {
        unsigned mask;
        assert_int_equal(cpu_parse_mask(levels[i], &mask), 0);
        cpu_set_mask(mask);
        assert_string_equal(kernels_get()->name, cpu_level_name(cpu_flags()));
        if (cpu_level_name(cpu_detect() & mask) == cpu_level_name(mask))
            assert_string_equal(kernels_get()->name, levels[i]);
    }
    cpu_set_mask(CPU_ALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_silu_mul),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_logsumexp),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_tables_equal_reference),
        cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_dispatch),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
