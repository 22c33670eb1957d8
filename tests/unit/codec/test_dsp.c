/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of every ISA against the C one: same bits, nothing touched outside. */
#include "util.h"

#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/tabq.h"

#define MAX_N  2048u
#define GUARD  64u
#define REPEAT 400

#ifdef HAVE_EMULATED
void codec_dsp_init_emulated(struct codec_dsp *dsp);
#endif

static struct codec_dsp ref;
static struct isa {
    const char *name;
    struct codec_dsp dsp;
} isas[3];
static size_t n_isas;

static void list_isas(void)
{
    const unsigned have = cpu_detect();

    codec_dsp_init(&ref, 0);
    if (have & CPU_AVX2) {
        isas[n_isas].name = "avx2";
        codec_dsp_init(&isas[n_isas++].dsp, CPU_AVX2);
    }
    if (have & CPU_AVX512) {
        isas[n_isas].name = "avx512";
        codec_dsp_init(&isas[n_isas++].dsp, CPU_AVX2 | CPU_AVX512);
    }
#ifdef HAVE_EMULATED
    if (have & CPU_AVX2) { /* its 256-bit parts are native */
        isas[n_isas].name = "avx512 (emulated)";
        codec_dsp_init(&isas[n_isas].dsp, CPU_AVX2);
        codec_dsp_init_emulated(&isas[n_isas++].dsp);
    }
#endif
    for (size_t i = 0; i < n_isas; i++)
        printf("isa: %s\n", isas[i].name);
}

/* Two buffers of the same content, at odd offsets, each between guards. */
struct pair {
    uint8_t store[2][8 * MAX_N + 4 * GUARD];
    uint8_t *a, *b; /* for the reference, for the ISA */
    size_t bytes;
};

static struct pair in_pair, out_pair, pos_pair;

static void pair_reset(struct pair *p, size_t bytes, size_t align)
{
    const size_t shift = rng_below(GUARD) / align * align;

    assert_true(bytes <= 8 * MAX_N);
    memset(p->store, 0xa5, sizeof(p->store));
    p->bytes = bytes;
    p->a = p->store[0] + GUARD + shift;
    p->b = p->store[1] + GUARD + shift;
}

/* The first `equal` bytes are the same, and nothing outside `bytes` has changed. */
static void pair_check(const struct pair *p, size_t equal, const char *what, const char *isa)
{
    for (unsigned s = 0; s < 2; s++) {
        const uint8_t *start = s ? p->b : p->a;
        for (const uint8_t *q = p->store[s]; q < p->store[s] + sizeof(p->store[s]); q++)
            if ((q < start || q >= start + p->bytes) && *q != 0xa5)
                fail_msg("%s, %s: wrote outside its buffer", what, isa);
    }
    if (memcmp(p->a, p->b, equal) != 0)
        fail_msg("%s, %s: differs from C", what, isa);
}

static uint32_t any_n(void)
{
    return rng_below(8) ? 1 + rng_below(700) : 1 + rng_below(MAX_N);
}

/* A dense row as split() leaves it: zeros up to the padding. */
static float *dense_row(uint32_t n)
{
    static float dense[MAX_N + CODEC_PAD];

    memset(dense, 0, sizeof(dense));
    fill_any_row(dense, n);
    return dense;
}

static void random_mask(uint8_t *mask, uint32_t n)
{
    const uint32_t one_in = 1 + rng_below(60);

    memset(mask, 0, CODEC_PAD_TO(n) / 8);
    for (uint32_t k = 0; k < n; k++)
        if (rng_below(one_in) == 0)
            mask[k / 8] |= (uint8_t)(1u << k % 8);
}

static struct codec_grid any_grid(const float *dense, uint32_t n)
{
    static uint8_t mask[MAX_N / 8 + CODEC_PAD], codes[MAX_N + CODEC_PAD];
    static float copy[MAX_N + CODEC_PAD];
    struct codec_params p = codec_params_default(CODEC_TSQ);
    struct codec_span span;
    struct codec_grid g;

    p.qmin = p.qmax = (uint8_t)(1 + rng_below(8));
    ref.split(dense, n, INFINITY, copy, mask, &span);
    codec_grid_choose(&ref, &p, dense, n, &span, 0, 0.0, &g, codes);
    return g;
}

static void sum_abs(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        float *row = fenced_alloc(n * sizeof(*row));
        fill_any_row(row, n);
        if (r % 8 == 0)
            row[rng_below(n)] = r % 16 ? NAN : -INFINITY;
        for (size_t i = 0; i < n_isas; i++) {
            float a = ref.sum_abs(row, n), b = isas[i].dsp.sum_abs(row, n);
            if (r % 8 == 0)
                assert_false(isfinite(a) || isfinite(b));
            else if (memcmp(&a, &b, sizeof(a)) != 0)
                fail_msg("sum_abs, %s, n %u: %a, not %a", isas[i].name, n, (double)b, (double)a);
        }
        fenced_free(row, n * sizeof(*row));
    }
}

static void split(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        float *row = fenced_alloc(n * sizeof(*row));
        float limit;
        fill_any_row(row, n);
        limit = r % 4 ? fabsf(row[rng_below(n)]) : ref.sum_abs(row, n) / (float)n;
        for (size_t i = 0; i < n_isas; i++) {
            struct codec_span s, t;
            size_t a, b;
            pair_reset(&out_pair, CODEC_PAD_TO(n) * sizeof(float), sizeof(float));
            pair_reset(&pos_pair, CODEC_PAD_TO(n) / 8, 1);
            a = ref.split(row, n, limit, (float *)(void *)out_pair.a, pos_pair.a, &s);
            b = isas[i].dsp.split(row, n, limit, (float *)(void *)out_pair.b, pos_pair.b, &t);
            assert_int_equal(a, b);
            pair_check(&out_pair, out_pair.bytes, "split", isas[i].name);
            pair_check(&pos_pair, pos_pair.bytes, "split's mask", isas[i].name);
            if (!(s.lo == t.lo && s.hi == t.hi && memcmp(&s.sum_sq, &t.sum_sq, sizeof(float)) == 0))
                fail_msg("split's span, %s, n %u: differs from C", isas[i].name, n);
        }
        fenced_free(row, n * sizeof(*row));
    }
}

static void quantize(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        const float *dense = dense_row(n);
        struct codec_grid g = any_grid(dense, n);
        for (size_t i = 0; g.width && i < n_isas; i++) {
            float a, b;
            pair_reset(&out_pair, CODEC_PAD_TO(n), 1);
            a = ref.quantize(dense, n, &g, out_pair.a);
            b = isas[i].dsp.quantize(dense, n, &g, out_pair.b);
            pair_check(&out_pair, n, "quantize", isas[i].name);
            for (uint32_t k = 0; k < n; k++)
                assert_true(out_pair.a[k] < 1u << g.width);
            if (!isfinite(a) || memcmp(&a, &b, sizeof(a)) != 0)
                fail_msg("quantize's error, %s, n %u q %u: %a, not %a", isas[i].name, n, g.width,
                         (double)b, (double)a);
        }
    }
}

static void dequantize(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        struct codec_grid g = any_grid(dense_row(n), n);
        uint8_t mask[(MAX_N + CODEC_PAD) / 8];
        random_mask(mask, n);
        for (size_t i = 0; g.width && i < n_isas; i++) {
            pair_reset(&in_pair, CODEC_PAD_TO(n), 1);
            pair_reset(&out_pair, n * sizeof(float), sizeof(float));
            for (uint32_t k = 0; k < n; k++)
                in_pair.a[k] = in_pair.b[k] = (uint8_t)rng_below(1u << g.width);
            ref.dequantize(in_pair.a, mask, n, &g, (float *)(void *)out_pair.a);
            isas[i].dsp.dequantize(in_pair.b, mask, n, &g, (float *)(void *)out_pair.b);
            pair_check(&in_pair, n, "dequantize's codes", isas[i].name);
            for (uint32_t k = 0; k < n; k++) /* any value will do there */
                if (mask[k / 8] >> k % 8 & 1)
                    memcpy(out_pair.b + 4 * k, out_pair.a + 4 * k, 4);
            pair_check(&out_pair, n * sizeof(float), "dequantize", isas[i].name);
        }
    }
}

static void pack_and_unpack(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        unsigned q = 1 + rng_below(8);
        size_t bytes = ((size_t)n * q + 7) / 8;
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&in_pair, CODEC_PAD_TO(n), 1);
            pair_reset(&out_pair, bytes + CODEC_PAD, 1);
            memset(in_pair.a, 0, in_pair.bytes);
            memset(in_pair.b, 0, in_pair.bytes);
            for (uint32_t k = 0; k < n; k++)
                in_pair.a[k] = in_pair.b[k] = (uint8_t)rng_below(1u << q);
            ref.pack(in_pair.a, n, q, out_pair.a);
            isas[i].dsp.pack(in_pair.b, n, q, out_pair.b);
            pair_check(&out_pair, bytes, "pack", isas[i].name);

            memset(out_pair.b + bytes, 0xff, out_pair.bytes - bytes); /* is not to matter */
            pair_reset(&pos_pair, CODEC_PAD_TO(n), 1);
            ref.unpack(out_pair.a, n, q, pos_pair.a);
            isas[i].dsp.unpack(out_pair.b, n, q, pos_pair.b);
            pair_check(&pos_pair, n, "unpack", isas[i].name);
            assert_memory_equal(pos_pair.a, in_pair.a, n);
        }
    }
}

static void copy(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = rng_below(MAX_N);
        uint8_t *src = fenced_alloc(n + 1);
        for (uint32_t k = 0; k < n; k++)
            src[k] = (uint8_t)rng();
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&out_pair, n, 1);
            ref.copy(out_pair.a, src + 1, n);
            isas[i].dsp.copy(out_pair.b, src + 1, n);
            pair_check(&out_pair, n, "copy", isas[i].name);
        }
        fenced_free(src, n + 1);
    }
}

static void to_f16(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        float *row = fenced_alloc(n * sizeof(*row));
        bool fits = true;
        fill_any_row(row, n);
        if (r % 8 == 0)
            row[rng_below(n)] = r % 16 ? NAN : 65520.0f;
        for (uint32_t k = 0; k < n; k++)
            fits &= fabsf(row[k]) < 65520.0f;
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&out_pair, 2 * n, 1);
            assert_int_equal(ref.to_f16(row, n, out_pair.a), fits);
            assert_int_equal(isas[i].dsp.to_f16(row, n, out_pair.b), fits);
            pair_check(&out_pair, fits ? 2 * n : 0, "to_f16", isas[i].name);
        }
        fenced_free(row, n * sizeof(*row));
    }
}

static void from_f16(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        uint8_t *half = fenced_alloc(2 * n);
        bool finite = true;
        for (uint32_t k = 0; k < n; k++) {
            uint16_t h = (uint16_t)rng() & (rng_below(1000) ? 0xbfff : 0xffff);
            memcpy(half + 2 * k, &h, 2);
            finite &= (h & 0x7c00) != 0x7c00;
        }
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&out_pair, n * sizeof(float), sizeof(float));
            assert_int_equal(ref.from_f16(half, n, (float *)(void *)out_pair.a), finite);
            assert_int_equal(isas[i].dsp.from_f16(half, n, (float *)(void *)out_pair.b), finite);
            pair_check(&out_pair, finite ? n * sizeof(float) : 0, "from_f16", isas[i].name);
        }
        fenced_free(half, 2 * n);
    }
}

/* All 65,536 halves there and back, so that C's conversion stands on its own feet. */
static void f16_is_ieee(void **state)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t in = (uint16_t)h, out;
        int exponent, mantissa;
        float v;
        if (!ref.from_f16((const uint8_t *)&in, 1, &v)) {
            assert_int_equal(h & 0x7c00, 0x7c00);
            continue;
        }
        exponent = (int)(h >> 10 & 31);
        mantissa = (int)(h & 0x3ff) + (exponent ? 0x400 : 0);
        assert_true(fabs((double)v) == ldexp(mantissa, (exponent ? exponent : 1) - 25));
        assert_int_equal(signbit(v) != 0, h >> 15);
        assert_true(ref.to_f16(&v, 1, (uint8_t *)&out));
        assert_int_equal(out, in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_abs),         cmocka_unit_test(split),
        cmocka_unit_test(quantize),        cmocka_unit_test(dequantize),
        cmocka_unit_test(pack_and_unpack), cmocka_unit_test(copy),
        cmocka_unit_test(to_f16),          cmocka_unit_test(from_f16),
        cmocka_unit_test(f16_is_ieee),
    };

    rng_seed();
    list_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
