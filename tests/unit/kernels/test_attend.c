/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

static const struct attend_kernels *ref = &kernels_isa_c.rows.attend;

/* How far a format's result may be from double arithmetic's, relative to the values' size. */
static const double tolerances[KV_FORMATS] = {.0006, .012, .2, .3};

/* --- one head of a sequence --------------------------------------------------------------------
 */

struct head {
    enum kv_format format;
    size_t hd, n, n_pages, n_queries;
    float *keys, *values, *q; /* [n][hd], [n][hd], [n_queries][hd] */
    uint8_t *tiles;           /* [n_pages][keys, values] */
    uint8_t *queries;
    float *factors, *states;
};

static void *fill(size_t bytes, int byte)
{
    void *p = malloc(bytes);
    memset(p, byte, bytes);
    return p;
}

static struct head head_new(enum kv_format f, size_t hd, size_t n, size_t n_queries)
{
    const size_t pages = (n + KV_PAGE - 1) / KV_PAGE;
    struct head h = {f, hd, n, pages, n_queries};

    h.keys = malloc(n * hd * sizeof(float));
    h.values = malloc(n * hd * sizeof(float));
    h.q = malloc(n_queries * hd * sizeof(float));
    for (size_t i = 0; i < n * hd; i++) {
        /* A channel much greater than the others, as models have them. */
        h.keys[i] = rng_uniform() * (i % hd == 3 ? 30.f : 1.f);
        h.values[i] = rng_uniform() + rng_uniform();
    }
    for (size_t i = 0; i < n_queries * hd; i++)
        h.q[i] = rng_uniform() * (i % hd == 3 ? .03f : 1.f);
    h.tiles = fill(pages * (kv_key_bytes(f, hd) + kv_value_bytes(f, hd)), 0);
    h.queries = fill(n_queries * attend_query_bytes(f, hd), 0x55);
    h.factors = malloc(n_queries * sizeof(float));
    h.states = malloc(n_queries * attend_state_floats(hd) * sizeof(float));
    return h;
}

static void head_free(struct head *h)
{
    free(h->keys);
    free(h->values);
    free(h->q);
    free(h->tiles);
    free(h->queries);
    free(h->factors);
    free(h->states);
}

static size_t tiles_bytes(enum kv_format f, size_t hd)
{
    return kv_key_bytes(f, hd) + kv_value_bytes(f, hd);
}

static uint8_t *page_tiles(const struct head *h, size_t page)
{
    return h->tiles + page * tiles_bytes(h->format, h->hd);
}

static void head_put(const struct head *h, const struct attend_kernels *k)
{
    float x[KV_HEAD_DIM_MAX];

    for (size_t j = 0; j < h->n; j++) {
        uint8_t *tiles = page_tiles(h, j / KV_PAGE);

        memcpy(x, h->keys + j * h->hd, h->hd * sizeof(float));
        k->put_key(h->format, tiles, h->hd, j % KV_PAGE, x);
        memcpy(x, h->values + j * h->hd, h->hd * sizeof(float));
        k->put_value(h->format, tiles + kv_key_bytes(h->format, h->hd), h->hd, j % KV_PAGE, x);
    }
    for (size_t i = 0; i < h->n_queries; i++) {
        memcpy(x, h->q + i * h->hd, h->hd * sizeof(float));
        h->factors[i] = k->query(h->format, h->queries + i * attend_query_bytes(h->format, h->hd),
                                 h->hd, x, 1 / sqrtf((float)h->hd));
    }
}

/* Query i sees all tokens but the last n_queries - 1 - i, as the rows of a prompt do. */
static size_t seen(const struct head *h, size_t i)
{
    return h->n + 1 + i - h->n_queries;
}

/* The whole of it, `together` queries a call. */
static void head_attend(const struct head *h, const struct attend_kernels *k, size_t together,
                        float *out)
{
    const size_t hd = h->hd, state = attend_state_floats(hd);
    uint8_t visible[64];

    for (size_t i = 0; i < h->n_queries; i++)
        k->begin(h->states + i * state, hd);
    for (size_t page = 0; page < h->n_pages; page++) {
        const uint8_t *tiles = page_tiles(h, page), *after = page_tiles(h, page + 1);
        size_t base = page * KV_PAGE, first = 0;
        struct attend_ahead ahead = {after, after + kv_key_bytes(h->format, hd)};

        while (seen(h, first) <= base)
            first++;
        for (size_t n; first < h->n_queries; first += n) {
            n = h->n_queries - first < together ? h->n_queries - first : together;
            for (size_t i = 0; i < n; i++) {
                size_t tokens = seen(h, first + i) - base;
                visible[i] = (uint8_t)(tokens < KV_PAGE ? tokens : KV_PAGE);
            }
            k->page(h->format, tiles, tiles + kv_key_bytes(h->format, hd), hd, n,
                    h->queries + first * attend_query_bytes(h->format, hd), h->factors + first,
                    visible, h->states + first * state, page + 1 < h->n_pages ? &ahead : NULL);
        }
    }
    for (size_t i = 0; i < h->n_queries; i++)
        k->finish(h->format, out + i * hd, h->states + i * state, hd);
}

/* --- against double ----------------------------------------------------------------------------
 */

static void plain(const struct head *h, size_t query, double *out)
{
    const size_t n = seen(h, query), hd = h->hd;
    double *p = malloc(n * sizeof(*p)), top = -1e300, sum = 0;

    for (size_t j = 0; j < n; j++) {
        p[j] = 0;
        for (size_t i = 0; i < hd; i++)
            p[j] += (double)h->q[query * hd + i] * (double)h->keys[j * hd + i] / sqrt((double)hd);
        top = p[j] > top ? p[j] : top;
    }
    for (size_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - top);
    for (size_t i = 0; i < hd; i++) {
        out[i] = 0;
        for (size_t j = 0; j < n; j++)
            out[i] += p[j] / sum * (double)h->values[j * hd + i];
    }
    free(p);
}

static void near_plain_arithmetic(void **state)
{
    static const size_t dims[] = {16, 64, 80, 96, 128, 256, 512}, tokens[] = {1, 5, 64, 65, 200};

    for (int f = 0; f < KV_FORMATS; f++)
        for (size_t d = 0; d < 7; d++)
            for (size_t t = 0; t < 5; t++) {
                if (kv_value_code((enum kv_format)f) == KV_CODE_Q4 && dims[d] % 32)
                    continue;
                struct head h = head_new((enum kv_format)f, dims[d], tokens[t], 1);
                float out[KV_HEAD_DIM_MAX];
                double want[KV_HEAD_DIM_MAX], diff = 0, size = 0;

                head_put(&h, ref);
                head_attend(&h, ref, 1, out);
                plain(&h, 0, want);
                for (size_t i = 0; i < h.hd; i++) {
                    diff += ((double)out[i] - want[i]) * ((double)out[i] - want[i]);
                    size += (double)h.values[i] * (double)h.values[i];
                }
                if (!(sqrt(diff / size) <= tolerances[f]))
                    fail_msg("%s, %zu dims, %zu tokens: relative error %g",
                             kv_format_name((enum kv_format)f), dims[d], tokens[t],
                             sqrt(diff / size));
                head_free(&h);
            }
}

/* --- what is the same, to the bit --------------------------------------------------------------
 */

static void assert_same(const char *what, const char *isa, const struct head *h, const void *got,
                        const void *want, size_t bytes)
{
    if (memcmp(got, want, bytes))
        fail_msg("%s: %s of %s differ: %zu dims, %zu tokens, %zu queries", isa, what,
                 kv_format_name(h->format), h->hd, h->n, h->n_queries);
}

static void check(const struct test_isa *isa, enum kv_format f, size_t hd, size_t n, size_t queries)
{
    const struct attend_kernels *k = &isa->isa->rows.attend;
    struct head h = head_new(f, hd, n, queries);
    const size_t tiles = h.n_pages * (kv_key_bytes(f, hd) + kv_value_bytes(f, hd)),
                 q = queries * attend_query_bytes(f, hd);
    uint8_t *want_tiles = malloc(tiles), *want_q = malloc(q);
    float *got = malloc(queries * hd * sizeof(float)), *want = malloc(queries * hd * sizeof(float));

    head_put(&h, ref);
    head_attend(&h, ref, queries, want);
    memcpy(want_tiles, h.tiles, tiles);
    memcpy(want_q, h.queries, q);
    memset(h.tiles, 0, tiles);
    head_put(&h, k);
    assert_same("tiles", isa->name, &h, h.tiles, want_tiles, tiles);
    assert_same("queries", isa->name, &h, h.queries, want_q, q);
    head_attend(&h, k, queries, got);
    assert_same("results", isa->name, &h, got, want, queries * hd * sizeof(float));
    head_attend(&h, k, 1 + rng() % queries, got);
    assert_same("results in parts", isa->name, &h, got, want, queries * hd * sizeof(float));
    free(want_tiles);
    free(want_q);
    free(got);
    free(want);
    head_free(&h);
}

static void isas_give_the_reference_bits(void **state)
{
    static const size_t dims[] = {64, 32, 128, 96, 16, 80};

    for (size_t s = 0; s < N_ISAS; s++) {
        if ((cpu_detect() & isas[s].needs) != isas[s].needs) {
            printf("%s: this CPU lacks it, not run\n", isas[s].name);
            continue;
        }
        for (int f = 0; f < KV_FORMATS; f++) {
            const size_t n_dims = kv_value_code((enum kv_format)f) == KV_CODE_Q4 ? 4 : 6;

            for (size_t n = 1; n <= 300; n += n < 70 || (n > 120 && n < 132) ? 1 : 13)
                check(&isas[s], (enum kv_format)f, dims[n % n_dims], n,
                      1 + rng() % (n < 20 ? n : 20));
        }
    }
}

/* Tokens after those that a query sees, of whatever size, do not reach it. */
static void later_tokens_do_not_matter(void **state)
{
    for (int f = 0; f < KV_FORMATS; f++) {
        struct head h = head_new((enum kv_format)f, 64, 40, 1);
        float want[64], got[64], x[64];

        head_put(&h, ref);
        head_attend(&h, ref, 1, want);
        for (size_t j = 40; j < KV_PAGE; j++)
            for (int value = 0; value < 2; value++) {
                for (size_t i = 0; i < 64; i++)
                    x[i] = j == 41 ? NAN : j == 42 ? INFINITY : rng_uniform() * 1e30f;
                (value ? ref->put_value : ref->put_key)(
                    h.format, h.tiles + (value ? kv_key_bytes(h.format, 64) : 0), 64, j, x);
            }
        for (size_t s = 0; s < N_ISAS; s++) {
            if ((cpu_detect() & isas[s].needs) != isas[s].needs)
                continue;
            head_attend(&h, &isas[s].isa->rows.attend, 1, got);
            assert_same("results", isas[s].name, &h, got, want, sizeof(got));
        }
        head_free(&h);
    }
}

/* Values no format holds are cached as finite ones, the same on every ISA. */
static void odd_values(void **state)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-44f, -1e-38f, 0.f, 65520.f};

    for (int f = 0; f < KV_FORMATS; f++)
        for (size_t s = 0; s < N_ISAS; s++) {
            if ((cpu_detect() & isas[s].needs) != isas[s].needs)
                continue;
            for (size_t o = 0; o < 16; o++) {
                const size_t bytes = kv_key_bytes((enum kv_format)f, 64);
                uint8_t *a = fill(bytes, 0), *b = fill(bytes, 0);
                float x[64], y[64];

                for (size_t i = 0; i < 64; i++)
                    x[i] = y[i] = o >= 8 || i == 9 ? odd[o % 8] : rng_uniform();
                ref->put_key((enum kv_format)f, a, 64, 5, x);
                isas[s].isa->rows.attend.put_key((enum kv_format)f, b, 64, 5, y);
                assert_memory_equal(a, b, bytes);
                uint16_t d;
                memcpy(&d, a + bytes - 2 * KV_PAGE + 10, 2);
                if (f != KV_F16)
                    assert_true(isfinite(f32_from_f16(d)));
                free(a);
                free(b);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_plain_arithmetic),
        cmocka_unit_test(isas_give_the_reference_bits),
        cmocka_unit_test(later_tokens_do_not_matter),
        cmocka_unit_test(odd_values),
    };

    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
