/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of every ISA against the C one: same bits, nothing touched outside. */
#include <float.h>

#include "isas.h"
#include "util.h"

#include "codec/tabq.h"

#define MAX_N  2048u
#define GUARD  64u
#define REPEAT 400

#ifdef HAVE_EMULATED
void codec_dsp_init_emulated(struct codec_dsp *dsp);
void tsq_dsp_init_emulated(struct codec_dsp *dsp);

static void emulated(struct codec_dsp *dsp)
{
    codec_dsp_init_emulated(dsp);
    tsq_dsp_init_emulated(dsp);
}
#define EMULATED emulated
#else
#define EMULATED NULL
#endif

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

/* Multiples of a step, zeros up to the padding: mostly small ones. */
static void any_k(int8_t *k, uint32_t n)
{
    const uint32_t spread = 1 + rng_below(100);

    memset(k, 0, CODEC_PAD_TO(n));
    for (uint32_t i = 0; i < n; i++)
        k[i] = (int8_t)(rng_below(20) ? (int)rng_below(2 * spread + 1) - (int)spread
                                      : (int)rng_below(255) - 127);
}

static struct codec_range any_range(void)
{
    return tabq_ranges(1 + rng_below(8), rng_below(TABQ_FORMS))[rng_below(TABQ_RANGES)];
}

static void sums(void **state)
{
    static struct codec_span spans[2][CODEC_SPANS_MAX];

    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        const size_t every = r % 3 == 0 && n >= CODEC_LANES ? 1 + rng_below(4) : 1;
        float *row;
        if (every > 1)
            n = n / CODEC_LANES * CODEC_LANES;
        const size_t n_spans = (n + CODEC_SPAN - 1) / CODEC_SPAN;
        const size_t total = (n - 1) / CODEC_LANES * CODEC_LANES * every + (n - 1) % CODEC_LANES +
                             1; /* the last group ends the row */
        row = fenced_alloc(total * sizeof(*row));
        fill_any_row(row, (uint32_t)total);
        for (uint32_t i = 0; i < total; i++)
            if (i / CODEC_LANES % every) /* none of these columns' business */
                row[i] = NAN;
        if (r % 8 == 0)
            row[rng_below(n) / CODEC_LANES * CODEC_LANES * every] = r % 16 ? NAN : -INFINITY;
        for (size_t i = 0; i < n_isas; i++) {
            float a[3], b[3]; /* sum, the spans' largest, largest value */
            a[0] = ref.sum_abs(row, n, every, spans[0], &a[1]);
            b[0] = isas[i].dsp.sum_abs(row, n, every, spans[1], &b[1]);
            a[2] = ref.max_abs(row, every > 1 ? CODEC_LANES : n);
            b[2] = isas[i].dsp.max_abs(row, every > 1 ? CODEC_LANES : n);
            if (r % 8 == 0) {
                assert_false(isfinite(a[0]) || isfinite(b[0]));
                if (every == 1)
                    assert_false(isfinite(a[2]) || isfinite(b[2]));
                continue;
            }
            if (memcmp(a, b, sizeof(a)) != 0)
                fail_msg("sum_abs or max_abs, %s, n %u: differs from C", isas[i].name, n);
            assert_memory_equal(spans[0], spans[1], n_spans * sizeof(spans[0][0]));
            for (unsigned k = 0; k < 4; k++) { /* below many values, few, and none */
                const float cap = a[2] * (float[]){.1f, .9f, 1.0f, 2.0f}[k];
                a[0] = ref.sum_sq(row, n, every, cap, spans[0]);
                b[0] = isas[i].dsp.sum_sq(row, n, every, cap, spans[1]);
                if (memcmp(a, b, sizeof(a[0])) != 0)
                    fail_msg("sum_sq, %s, n %u: differs from C", isas[i].name, n);
            }
        }
        fenced_free(row, total * sizeof(*row));
    }
}

static void quantize(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        float *row = fenced_alloc(n * sizeof(*row));
        float inv, max;
        fill_any_row(row, n);
        max = ref.max_abs(row, n);
        if (r % 4 == 0) /* what no step reaches */
            row[rng_below(n)] =
                (float[]){NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX}[rng_below(5)];
        inv = fminf(fmaxf((float)(1 + rng_below(r % 2 ? 100 : TABQ_K_MAX)) / max, 0x1p-126f),
                    0x1p100f);
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&out_pair, CODEC_PAD_TO(n), 1);
            ref.quantize(row, n, inv, (int8_t *)out_pair.a);
            isas[i].dsp.quantize(row, n, inv, (int8_t *)out_pair.b);
            pair_check(&out_pair, CODEC_PAD_TO(n), "quantize", isas[i].name);
        }
        fenced_free(row, n * sizeof(*row));
    }
}

/* More than counters of a byte can count. */
static void counts_of_wide_rows(void **state)
{
    static float row[CODEC_COLS_MAX];
    static int8_t k[CODEC_COLS_MAX + CODEC_PAD];
    const uint8_t limits[CODEC_LIMITS] = {0, 1, 2, 3, 4, 5, 6, 126};
    uint32_t counts[CODEC_LIMITS];

    for (uint32_t i = 0; i < CODEC_COLS_MAX; i++)
        row[i] = i % 2 ? 5.0f : -5.0f;
    for (size_t i = 0; i < n_isas; i++) {
        isas[i].dsp.quantize(row, CODEC_COLS_MAX, 1.0f, k);
        isas[i].dsp.above(k, CODEC_COLS_MAX, 1, limits, counts);
        for (unsigned l = 0; l < CODEC_LIMITS; l++)
            assert_int_equal(counts[l], l < 5 ? CODEC_COLS_MAX : 0);
    }
}

static void above(void **state)
{
    static int8_t k[CODEC_COLS_MAX + CODEC_PAD];

    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = r % 16 ? any_n() : 1 + rng_below(CODEC_COLS_MAX);
        const size_t every = rng_below(2) ? 1 : 1 + rng_below(5);
        uint8_t limits[CODEC_LIMITS];
        any_k(k, n);
        for (unsigned l = 0; l < CODEC_LIMITS; l++)
            limits[l] = (uint8_t)rng_below(CODEC_K8_MAX + 1);
        for (size_t i = 0; i < n_isas; i++) {
            uint32_t a[CODEC_LIMITS], b[CODEC_LIMITS];
            ref.above(k, n, every, limits, a);
            isas[i].dsp.above(k, n, every, limits, b);
            assert_memory_equal(a, b, sizeof(a));
        }
    }
}

static void to_codes(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        struct codec_range range = any_range();
        const size_t bytes = ((size_t)n * range.width + 7) / 8;
        int8_t k[MAX_N + 2 * CODEC_PAD];
        any_k(k, n);
        for (uint32_t c = 0; c < n; c++) /* the range leaves out what it goes on around */
            if (k[c] + range.down >= 1 << (range.width - 1) &&
                k[c] + range.up < 1 << (range.width - 1))
                k[c] = 127;
        for (size_t c = n; c < sizeof(k); c++)
            k[c] = (int8_t)(c < CODEC_PAD_TO(n) ? 0 : rng());
        for (size_t i = 0; i < n_isas; i++) {
            size_t a, b;
            pair_reset(&out_pair, bytes + CODEC_PAD, 1);
            pair_reset(&pos_pair, n + CODEC_PAD, 1);
            a = ref.to_codes(k, n, &range, out_pair.a, (int8_t *)pos_pair.a);
            b = isas[i].dsp.to_codes(k, n, &range, out_pair.b, (int8_t *)pos_pair.b);
            assert_int_equal(a, b);
            pair_check(&out_pair, bytes, "to_codes", isas[i].name);
            pair_check(&pos_pair, a, "to_codes' rest", isas[i].name);
        }
    }
}

/* A range that 8 bits hold. */
static struct codec_range any_range_k8(void)
{
    struct codec_range r;

    do
        r = any_range();
    while (r.lo < -127 || r.hi > 127);
    return r;
}

static void from_codes(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n(), one_in = 1 + rng_below(60);
        struct codec_range range = any_range_k8();
        uint8_t codes[MAX_N + CODEC_PAD];
        int8_t rest[MAX_N + CODEC_PAD];
        for (uint32_t c = 0; c < CODEC_PAD_TO(n); c++) {
            codes[c] = rng_below(one_in) ? (uint8_t)rng_below(1u << range.width) : 0;
            rest[c] = (int8_t)rng();
        }
        for (size_t i = 0; i < n_isas; i++) {
            const bool in_place = rng() & 1;
            pair_reset(&out_pair, CODEC_PAD_TO(n), 1);
            memcpy(out_pair.b, codes, CODEC_PAD_TO(n));
            ref.from_codes(codes, n, &range, rest, (int8_t *)out_pair.a);
            isas[i].dsp.from_codes(in_place ? out_pair.b : codes, n, &range, rest,
                                   (int8_t *)out_pair.b);
            pair_check(&out_pair, n, "from_codes", isas[i].name);
        }
    }
}

static void scale(void **state)
{
    for (int r = 0; r < REPEAT; r++) {
        uint32_t n = any_n();
        const float step = fabsf(rng_normal()) * 0x1p-3f;
        int8_t k[MAX_N + CODEC_PAD];
        for (uint32_t c = 0; c < CODEC_PAD_TO(n); c++)
            k[c] = (int8_t)rng();
        for (size_t i = 0; i < n_isas; i++) {
            pair_reset(&out_pair, n * sizeof(float), sizeof(float));
            ref.scale(k, n, step, (float *)(void *)out_pair.a);
            isas[i].dsp.scale(k, n, step, (float *)(void *)out_pair.b);
            pair_check(&out_pair, n * sizeof(float), "scale", isas[i].name);
        }
    }
}

/* Any step that a part may have: those of rows, the smallest and the largest. */
static float any_step(void)
{
    const uint32_t code = rng_below(3) ? (120 << 3) + rng_below(64) : 8 + rng_below((254 << 3) - 8);

    return tabq_step(code);
}

static void values_with_outliers(void **state)
{
    static uint64_t outliers[2][MAX_N / 64];

    for (int r = 0; r < REPEAT; r++) {
        const uint32_t n = any_n(), one_in = 1 + rng_below(60);
        const unsigned q = 1 + rng_below(8);
        const float step = any_step();
        uint8_t codes[MAX_N + CODEC_PAD] = {0}, bits[MAX_N + 2 * CODEC_PAD];
        float values[MAX_N + CODEC_PAD];
        memset(bits, 0xff, sizeof(bits)); /* is not to matter */
        for (uint32_t c = 0; c < n; c++) {
            codes[c] = rng_below(one_in) ? (uint8_t)rng_below(1u << q) : 0;
            values[c] = rng_normal();
        }
        ref.pack(codes, n, q, bits);
        for (size_t i = 0; i < n_isas; i++) {
            size_t a, b;
            pair_reset(&out_pair, n * sizeof(float), sizeof(float));
            a = ref.to_values(bits, n, q, step, (float *)(void *)out_pair.a, outliers[0]);
            b = isas[i].dsp.to_values(bits, n, q, step, (float *)(void *)out_pair.b, outliers[1]);
            assert_int_equal(a, b);
            assert_memory_equal(outliers[0], outliers[1], (n + 63) / 64 * 8);
            for (uint32_t c = 0; c < n; c++)
                assert_int_equal(outliers[0][c / 64] >> c % 64 & 1, codes[c] == 0);
            ref.fill_in(outliers[0], n, values, (float *)(void *)out_pair.a);
            isas[i].dsp.fill_in(outliers[1], n, values, (float *)(void *)out_pair.b);
            pair_check(&out_pair, n * sizeof(float), "to_values and fill_in", isas[i].name);
        }
    }
}

/* Each k in 16 bits has one code, and the code gives it back. */
static void ranges_go_on_around_each_other(void **state)
{
    for (unsigned width = 1; width <= CODEC_QMAX; width++) {
        for (unsigned form = 0; form < TABQ_FORMS; form++) {
            const struct codec_range *r = tabq_ranges(width, form);
            int lo = 0, hi = -1;
            for (unsigned i = 0; i < TABQ_RANGES; i++) {
                const int codes = 1 << r[i].width;
                assert_int_equal(hi - lo + 1 + codes - 1, r[i].hi - r[i].lo + 1);
                assert_int_equal(r[i].lo + r[i].down, 1);
                assert_int_equal(lo - 1 + r[i].down, codes / 2 - 1);
                assert_int_equal(hi + 1 + r[i].up, codes / 2);
                assert_int_equal(r[i].hi + r[i].up, codes - 1);
                lo = r[i].lo;
                hi = r[i].hi;
            }
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
            assert_int_equal(ref.unpack(out_pair.a, n, q, pos_pair.a),
                             isas[i].dsp.unpack(out_pair.b, n, q, pos_pair.b));
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
        cmocka_unit_test(sums),
        cmocka_unit_test(quantize),
        cmocka_unit_test(above),
        cmocka_unit_test(counts_of_wide_rows),
        cmocka_unit_test(to_codes),
        cmocka_unit_test(from_codes),
        cmocka_unit_test(scale),
        cmocka_unit_test(values_with_outliers),
        cmocka_unit_test(pack_and_unpack),
        cmocka_unit_test(copy),
        cmocka_unit_test(ranges_go_on_around_each_other),
        cmocka_unit_test(to_f16),
        cmocka_unit_test(from_f16),
        cmocka_unit_test(f16_is_ieee),
    };

    rng_seed();
    list_isas(EMULATED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
