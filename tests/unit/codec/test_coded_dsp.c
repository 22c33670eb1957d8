/* SPDX-License-Identifier: Apache-2.0 */
/* The coded modes' kernels of every ISA against the C ones: same bits, nothing touched outside. */
#include "isas.h"
#include "util.h"

#define MAX_N  2100u
#define REPEAT 300

#ifdef HAVE_EMULATED
void coded_dsp_init_emulated(struct codec_dsp *dsp);
#define EMULATED coded_dsp_init_emulated
#else
#define EMULATED NULL
#endif

static struct levels levels;

static uint32_t any_n(void)
{
    return rng_below(4) ? 1 + rng_below(200) : 1 + rng_below(MAX_N);
}

/* Buffers that end at a fence: inputs, then outputs of the reference and of the ISA. */
static void *at_fence(unsigned which, size_t bytes)
{
    static uint8_t *fence[6];

    if (!fence[which])
        fence[which] = fenced_alloc(MAX_N * 4);
    return fence[which] + MAX_N * 4 - bytes;
}

static void same(const void *a, const void *b, size_t bytes, const char *what, const char *isa)
{
    if (memcmp(a, b, bytes) != 0)
        fail_msg("%s, %s: differs from C", what, isa);
}

static void same_f32(float a, float b, const char *what, const char *isa)
{
    if (isnan(a) && isnan(b)) /* which NaN is not promised */
        return;
    same(&a, &b, sizeof(a), what, isa);
}

static void sums(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        const uint32_t n = any_n();
        float *x = at_fence(0, 4 * n), *y = at_fence(1, 4 * n);
        float *a = at_fence(2, 4 * n), *b = at_fence(3, 4 * n);
        fill_any_row(x, n);
        fill_any_row(y, n);
        for (size_t i = 0; i < n_isas; i++) {
            const struct codec_dsp *dsp = &isas[i].dsp;
            same_f32(ref.center(x, y, n, a), dsp->center(x, y, n, b), "center", isas[i].name);
            same(a, b, 4 * n, "center", isas[i].name);
            same_f32(ref.dot(x, y, n), dsp->dot(x, y, n), "dot", isas[i].name);
        }
    }
}

static void fill_i32(int32_t *acc, uint32_t n)
{
    const unsigned shift = rng_below(31);

    for (uint32_t i = 0; i < n; i++)
        acc[i] = (int32_t)rng() >> shift;
}

static void fill_i16(int16_t *k, uint32_t n, int16_t max)
{
    const unsigned shift = rng_below(16);

    for (uint32_t i = 0; i < n; i++) {
        k[i] = (int16_t)((int16_t)rng() >> shift);
        k[i] = k[i] > max ? max : k[i] < -max ? (int16_t)-max : k[i];
    }
}

static void integers(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        const uint32_t n = any_n();
        float *x = at_fence(0, 4 * n), *mult = at_fence(1, 4 * n);
        int32_t *acc = at_fence(2, 4 * n);
        int16_t *a = at_fence(3, 2 * n), *b = at_fence(4, 2 * n);
        const float scale = ldexpf(1.0f + fabsf(rng_unit()), (int)rng_below(30) - 15);
        for (uint32_t i = 0; i < n; i++) {
            x[i] = rng_below(4) ? rng_normal() * 100.0f : (float)(int)rng_below(100) + .5f;
            mult[i] = fabsf(rng_normal());
        }
        fill_i32(acc, n);
        for (size_t i = 0; i < n_isas; i++) {
            const struct codec_dsp *dsp = &isas[i].dsp;
            ref.to_i16(x, n, scale, a);
            dsp->to_i16(x, n, scale, b);
            same(a, b, 2 * n, "to_i16", isas[i].name);
            assert_true(ref.sum_sq_i16(a, n) == dsp->sum_sq_i16(b, n));
            ref.scale_to_i16(acc, mult, scale, n, a);
            dsp->scale_to_i16(acc, mult, scale, n, b);
            same(a, b, 2 * n, "scale_to_i16", isas[i].name);
            if (rng_below(2))
                for (uint32_t k = 0; k < n; k++) /* ties */
                    acc[k] &= 3, mult[k] = 0.0f;
            assert_int_equal(ref.best_class(acc, scale, mult, n),
                             dsp->best_class(acc, scale, mult, n));
        }
    }
}

static void values(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        const uint32_t n = any_n();
        float *mean = at_fence(0, 4 * n), *scale = at_fence(1, 4 * n);
        int32_t *acc = at_fence(2, 4 * n);
        int16_t *k = at_fence(3, 2 * n);
        float *a = at_fence(4, 4 * n), *b = at_fence(5, 4 * n);
        const float delta = fabsf(rng_normal());
        fill_i32(acc, n);
        fill_i16(k, n, INT16_MAX);
        for (uint32_t i = 0; i < n; i++) {
            mean[i] = rng_normal();
            scale[i] = rng_normal();
        }
        if (rng_below(4) == 0)
            mean[rng_below(n)] = rng_below(2) ? INFINITY : NAN;
        for (size_t i = 0; i < n_isas; i++) {
            const struct codec_dsp *dsp = &isas[i].dsp;
            const bool good = ref.from_i16(k, delta, mean, n, a);
            assert_int_equal(dsp->from_i16(k, delta, mean, n, b), good);
            if (good)
                same(a, b, 4 * n, "from_i16", isas[i].name);
            assert_int_equal(ref.from_i32(acc, scale, delta, mean, n, a), good);
            assert_int_equal(dsp->from_i32(acc, scale, delta, mean, n, b), good);
            if (good)
                same(a, b, 4 * n, "from_i32", isas[i].name);
        }
    }
}

static void symbols(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        const uint32_t groups = 1 + rng_below(64), n = groups * RANS_GROUP;
        int16_t *k = at_fence(0, 2 * n), *back[2] = {at_fence(1, 2 * n), at_fence(2, 2 * n)};
        uint8_t *out[2] = {at_fence(3, n), at_fence(4, n)};
        int8_t *level = at_fence(5, groups);
        uint32_t escapes[2][64];
        const int offset = (int)rng_below(256) - 128;
        fill_i16(k, n, CODED_K_MAX);
        for (uint32_t g = 0; g < groups; g++)
            level[g] = (int8_t)(rng_below(8) ? (int)rng_below(30) - 15 - offset / 2 : (int)rng());
        for (size_t i = 0; i < n_isas; i++) {
            const struct codec_dsp *dsp = &isas[i].dsp;
            size_t coded;
            assert_int_equal(ref.code_cost(&levels, k, level, offset, groups),
                             dsp->code_cost(&levels, k, level, offset, groups));
            memset(out[0], 0xa5, n);
            memset(out[1], 0xa5, n);
            coded = ref.split_symbols(&levels, k, level, offset, groups, out[0], escapes[0]);
            assert_int_equal(
                dsp->split_symbols(&levels, k, level, offset, groups, out[1], escapes[1]), coded);
            same(out[0], out[1], n, "split_symbols", isas[i].name);
            same(escapes[0], escapes[1], 4 * coded, "split_symbols", isas[i].name);
            ref.join_symbols(&levels, out[0], level, offset, groups, back[0], escapes[0]);
            assert_int_equal(
                dsp->join_symbols(&levels, out[1], level, offset, groups, back[1], escapes[1]),
                coded);
            same(back[0], back[1], 2 * n, "join_symbols", isas[i].name);
            same(escapes[0], escapes[1], 4 * coded, "join_symbols", isas[i].name);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),
        cmocka_unit_test(integers),
        cmocka_unit_test(values),
        cmocka_unit_test(symbols),
    };

    rng_seed();
    list_isas(EMULATED);
    levels_init(&levels);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
