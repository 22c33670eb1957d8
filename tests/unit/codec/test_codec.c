/* SPDX-License-Identifier: Apache-2.0 */
/* Rows to tiles and back: values, sizes, cuts, and that every ISA writes the same bytes. */
#include "util.h"

#include <errno.h>
#include <float.h>

#include "codec/codec.h"
#include "codec/cpu.h"

#define TILE_HEADER 6u
#define CUT_HEADER  4u /* more */
#define MAX_TILES   1024u

static const unsigned masks[] = {CPU_ALL, CPU_AVX2 | CPU_AVX512, CPU_AVX2, 0};
#define N_MASKS (sizeof(masks) / sizeof(masks[0]))

static struct codec_params any_params(void)
{
    static const float taus[] = {1e-30f, 0.01f, 0.5f, 1.0f, 3.0f, 4.0f, 50.0f, 1e30f};
    static const float deltas[] = {1e-6f, 0.01f, 0.08f, 0.3f, 0.99f};
    struct codec_params p = codec_params_default((enum codec_mode)rng_below(3));

    p.tau_rule = (enum codec_tau_rule)rng_below(2);
    p.tau = taus[rng_below(8)];
    p.delta = deltas[rng_below(5)];
    p.qmin = (uint8_t)(1 + rng_below(CODEC_QMAX));
    p.qmax = (uint8_t)(p.qmin + rng_below(CODEC_QMAX - p.qmin + 1));
    if (p.qmax < 2)
        p.qmax = 2;
    if (rng_below(3) == 0)
        p = codec_params_default(CODEC_TSQ);
    return p;
}

static uint32_t any_cols(void)
{
    static const uint32_t some[] = {1, 2, 7, 8, 9, 31, 64, 65, 576, 896, 4096, 16384};
    return rng_below(2) ? some[rng_below(12)] : 1 + rng_below(1000);
}

static struct codec *open_masked(const struct codec_params *p, uint32_t cols, unsigned mask)
{
    struct codec *c;

    cpu_set_mask(mask);
    assert_int_equal(codec_open(p, cols, &c), 0);
    cpu_set_mask(CPU_ALL);
    return c;
}

static void fill_for_mode(float *x, uint32_t n, enum codec_mode mode)
{
    fill_any_row(x, n);
    for (uint32_t i = 0; mode == CODEC_F16 && i < n; i++)
        if (fabsf(x[i]) >= 65520.0f)
            x[i] = copysignf(65504.0f, x[i]);
}

/* The tiles of one message, one after another. */
struct tiles {
    uint32_t n;
    uint8_t *at[MAX_TILES];
    int bytes[MAX_TILES];
};

static void tiles_free(struct tiles *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->at[i]);
}

/* Each packet is fenced at its capacity. */
static void encode_all(struct codec *c, const float *rows, size_t stride, uint32_t n_rows,
                       uint32_t first_token, size_t capacity, struct tiles *t,
                       struct codec_stats *stats)
{
    struct codec_cursor at = {0, 0};
    uint8_t *packet = fenced_alloc(capacity);

    t->n = 0;
    while (at.row < n_rows) {
        int bytes =
            codec_encode(c, rows, stride, n_rows, first_token, &at, packet, capacity, stats);
        assert_true(bytes > 0);
        assert_true((size_t)bytes <= capacity);
        assert_true(t->n < MAX_TILES);
        t->at[t->n] = malloc((size_t)bytes);
        memcpy(t->at[t->n], packet, (size_t)bytes);
        t->bytes[t->n++] = bytes;
    }
    assert_int_equal(at.row, n_rows);
    assert_int_equal(at.col, 0);
    fenced_free(packet, capacity);
}

/* Decodes into out[n_rows][stride], filled with a canary first, and checks that the tiles cover
 * every value once. */
static void decode_all(struct codec *c, const struct tiles *t, uint32_t cols, uint32_t base_token,
                       float *out, size_t stride, uint32_t n_rows)
{
    uint32_t row = 0, col = 0;

    memset(out, 0xa5, n_rows * stride * sizeof(*out));
    for (uint32_t i = 0; i < t->n; i++) {
        struct codec_tile tile, peeked;
        uint8_t *src = fenced_alloc((size_t)t->bytes[i]);
        memcpy(src, t->at[i], (size_t)t->bytes[i]);
        assert_int_equal(
            codec_decode(c, src, (size_t)t->bytes[i], base_token, out, stride, n_rows, &tile), 0);
        assert_int_equal(codec_peek(src, (size_t)t->bytes[i], cols, &peeked), 0);
        assert_memory_equal(&tile, &peeked, sizeof(tile));
        assert_int_equal(tile.first_token, base_token + row);
        assert_int_equal(tile.first_col, col);
        assert_true(tile.n_tokens == 1 || tile.n_cols == cols);
        col += tile.n_cols;
        row += tile.n_tokens - (col < cols);
        col %= cols;
        fenced_free(src, (size_t)t->bytes[i]);
    }
    assert_int_equal(row, n_rows);
    for (uint32_t r = 0; r < n_rows; r++)
        for (size_t k = cols; k < stride; k++) {
            uint32_t bits;
            memcpy(&bits, &out[r * stride + k], 4);
            assert_int_equal(bits, 0xa5a5a5a5);
        }
}

/* A wide row's squared norm by every second or third 32 columns. */
static double sampled_norm(const struct codec_params *p, const float *x, uint32_t n)
{
    const uint32_t every = n < 3 * 1024 ? 2 : 3, groups = n / (32 * every);
    double mean = 0.0, limit, norm = 0.0;

    for (uint32_t i = 0; i < 32 * groups; i++)
        mean += fabs((double)x[i / 32 * 32 * every + i % 32]) / (32 * groups);
    limit = p->tau_rule == CODEC_TAU_MEAN ? p->tau * mean : (double)p->tau;
    for (uint32_t i = 0; i < 32 * groups; i++)
        norm += pow(fmin(fabs((double)x[i / 32 * 32 * every + i % 32]), 8 * limit), 2);
    return norm * n / (32 * groups);
}

/* What TS + TAB-Q promise of one row: every value within half of the largest step they may take. */
static void check_tsq_row(const struct codec_params *p, const float *x, const float *y, uint32_t n)
{
    const double reach = p->qmax < 8 ? (1 << (p->qmax - 1)) - 1 : 126;
    double mean = 0.0, limit, norm = 0.0, biggest = 0.0, step;

    for (uint32_t i = 0; i < n; i++) {
        mean += fabs((double)x[i]) / n;
        biggest = fmax(biggest, fabs((double)x[i]));
    }
    limit = p->tau_rule == CODEC_TAU_MEAN ? p->tau * mean : (double)p->tau;
    for (uint32_t i = 0; i < n; i++)
        norm += pow(fmin(fabs((double)x[i]), 8 * limit), 2);
    if (n >= 2048) /* a sample may tell the norm */
        norm = fmax(norm, sampled_norm(p, x, n));
    step = fmax(fmin(limit, biggest) / (reach + .5), biggest / 32767) * 1.125 * 1.002;
    step = fmax(fmax(step, (double)p->delta * sqrt(12 * norm / n) * 1.0001), 0x1p-100);
    for (uint32_t i = 0; i < n; i++) {
        const double e = fabs((double)x[i] - (double)y[i]);
        const double edge = fabs((double)x[i]) > 0x1p126 ? step : 0; /* held back from infinity */
        assert_true(isfinite(y[i]));
        if (e > .505 * step + edge)
            fail_msg("%a came back as %a, step %a", (double)x[i], (double)y[i], step);
    }
}

/* What no sample of a wide row sees: it is refused, or carried as any other. */
static void wide_rows_have_no_blind_columns(void **state)
{
    const struct codec_params p = codec_params_default(CODEC_TSQ);
    static float x[4096], y[4096];
    static uint8_t tile[4096 * 3];

    for (unsigned m = 0; m < 3; m++) {
        struct codec *c = open_masked(&p, 4096, (unsigned[]){0, CPU_AVX2, CPU_ALL}[m]);
        for (int r = 0; r < 200; r++) {
            const uint32_t col = rng_below(4096);
            const float odd = (float[]){NAN, INFINITY, -INFINITY, 1e5f, -3e9f, FLT_MAX}[r % 6];
            struct codec_cursor at = {0, 0};
            struct codec_stats stats = {0};
            int bytes;
            for (uint32_t i = 0; i < 4096; i++)
                x[i] = rng_normal();
            x[col] = odd;
            bytes = codec_encode(c, x, 4096, 1, 0, &at, tile, sizeof(tile), &stats);
            if (!isfinite(odd)) {
                assert_int_equal(bytes, -EDOM);
                assert_int_equal(stats.bad_col, col);
                continue;
            }
            assert_true(bytes > 0);
            assert_int_equal(codec_decode(c, tile, (size_t)bytes, 0, y, 4096, 1, NULL), 0);
            /* half a step, which is up to 1.13 of that; held back from infinity: one more */
            if (!(fabsf(y[col] - odd) <= fabsf(odd) * ((odd == FLT_MAX ? 1.7f : .6f) / 32767)))
                fail_msg("%a came back as %a", (double)odd, (double)y[col]);
        }
        codec_close(c);
    }
}

static void round_trips_on_every_isa(void **state)
{
    for (int r = 0; r < 300; r++) {
        const struct codec_params p = any_params();
        const uint32_t cols = any_cols(), n_rows = 1 + rng_below(cols > 2000 ? 2 : 6);
        const uint32_t token = (uint32_t)rng() & 0x7fffffff;
        const size_t stride = cols + rng_below(5);
        const size_t least = codec_min_capacity(&p, cols), bound = codec_bound(&p, n_rows, cols);
        const size_t capacity =
            rng_below(2) ? bound : least + rng_below((uint32_t)(bound - least) + 1);
        float *rows = malloc(n_rows * stride * sizeof(*rows));
        float *out[2] = {malloc(n_rows * stride * sizeof(*rows)),
                         malloc(n_rows * stride * sizeof(*rows))};
        static struct tiles tiles[2];

        memset(rows, 0, n_rows * stride * sizeof(*rows));
        for (uint32_t i = 0; i < n_rows; i++)
            fill_for_mode(rows + i * stride, cols, p.mode);
        for (size_t m = 0; m < N_MASKS; m++) {
            struct codec *c = open_masked(&p, cols, masks[m]);
            struct codec_stats stats = {0};
            struct tiles *t = &tiles[m > 0];
            uint64_t bytes = 0;
            encode_all(c, rows, stride, n_rows, token, capacity, t, &stats);
            decode_all(c, t, cols, token, out[m > 0], stride, n_rows);
            for (uint32_t i = 0; i < t->n; i++)
                bytes += (uint64_t)t->bytes[i];
            assert_int_equal(stats.rows, n_rows);
            assert_int_equal(stats.values, (uint64_t)n_rows * cols);
            assert_int_equal(stats.bytes, bytes);
            codec_close(c);
            if (m == 0)
                continue;
            assert_int_equal(tiles[0].n, tiles[1].n);
            for (uint32_t i = 0; i < t->n; i++) {
                assert_int_equal(tiles[0].bytes[i], tiles[1].bytes[i]);
                assert_memory_equal(tiles[0].at[i], tiles[1].at[i], (size_t)t->bytes[i]);
            }
            assert_memory_equal(out[0], out[1], n_rows * stride * sizeof(*rows));
            tiles_free(t);
        }
        for (uint32_t i = 0; i < n_rows; i++) {
            const float *x = rows + i * stride, *y = out[0] + i * stride;
            if (p.mode == CODEC_F32)
                assert_memory_equal(x, y, cols * sizeof(*x));
            for (uint32_t k = 0; p.mode == CODEC_F16 && k < cols; k++)
                assert_true(fabsf(x[k] - y[k]) <= fmaxf(fabsf(x[k]) * 0x1p-11f, 0x1p-25f));
            if (p.mode == CODEC_TSQ)
                check_tsq_row(&p, x, y, cols);
        }
        tiles_free(&tiles[0]);
        free(rows);
        free(out[0]);
        free(out[1]);
    }
}

/* Rows made to be long: as many wide outliers as the rule lets through, the widest codes. */
static void bound_is_never_exceeded(void **state)
{
    for (int r = 0; r < 400; r++) {
        struct codec_params p = any_params();
        const uint32_t cols = 1 + rng_below(r % 8 ? 300 : 3000), n_rows = 1 + rng_below(4);
        uint32_t peaks = cols;
        const size_t bound = codec_bound(&p, n_rows, cols);
        float *rows = malloc((size_t)n_rows * cols * sizeof(*rows));
        struct codec_cursor at = {0, 0};
        struct codec *c = open_masked(&p, cols, CPU_ALL);
        uint8_t *packet = fenced_alloc(bound);

        p.delta = 1e-6f;
        if (p.tau_rule == CODEC_TAU_MEAN && p.tau > 1.0f)
            peaks = (uint32_t)((float)cols / p.tau);
        for (uint32_t i = 0; i < n_rows * cols; i++) {
            float small = p.mode == CODEC_TSQ ? 1e-9f * rng_unit() : 1.0f;
            rows[i] = i % cols < peaks ? 1e5f : small;
            if (rng_below(50) == 0 && r % 2)
                rows[i] = small;
            if (p.mode == CODEC_F16)
                rows[i] = 1.0f;
        }
        assert_true(codec_min_capacity(&p, cols) <= codec_bound(&p, 1, cols));
        assert_true(codec_encode(c, rows, cols, n_rows, 7, &at, packet, bound, NULL) > 0);
        assert_int_equal(at.row, n_rows);
        fenced_free(packet, bound);
        codec_close(c);
        free(rows);
    }
}

/* A value the worst case reaches: the bound is no larger than it has to be. */
static void bound_is_reached(void **state)
{
    struct codec_params p = codec_params_default(CODEC_TSQ);
    struct codec_cursor at = {0, 0};
    struct codec *c;
    float row[100];
    uint8_t packet[1000];

    p.tau_rule = CODEC_TAU_ABS;
    p.tau = 1.0f;
    p.qmin = p.qmax;
    for (int i = 0; i < 100; i++)
        row[i] = 1e6f;
    assert_int_equal(codec_open(&p, 100, &c), 0);
    assert_int_equal(codec_encode(c, row, 100, 1, 0, &at, packet, sizeof(packet), NULL),
                     codec_bound(&p, 1, 100));
    codec_close(c);
}

static size_t part_bytes(const struct codec_params *p, const float *x, uint32_t cols)
{
    const size_t bound = codec_bound(p, 1, cols);
    uint8_t *packet = malloc(bound);
    struct codec_cursor at = {0, 0};
    struct codec *c = open_masked(p, cols, CPU_ALL);
    int bytes = codec_encode(c, x, cols, 1, 0, &at, packet, bound, NULL);

    assert_true(bytes > 0);
    codec_close(c);
    free(packet);
    return (size_t)bytes;
}

/* Parameters and a row by which every part is as long as if it were a row: by mode tsq, if its step
 * hangs on T alone and all widths are looked at. */
static struct codec_params separable(float *row, uint32_t cols)
{
    struct codec_params p = any_params();

    fill_for_mode(row, cols, p.mode);
    if (p.mode != CODEC_TSQ)
        return p;
    p.tau_rule = CODEC_TAU_ABS;
    p.tau = 1.0f;
    p.delta = 1e-6f;
    p.qmax = (uint8_t)(2 + rng_below(4));
    p.qmin = p.qmax < 4 ? 1 : (uint8_t)(p.qmax - 3);
    for (uint32_t i = 0; i < cols; i++)
        row[i] = (rng() & 1 ? 1.0f : -1.0f) * (1.0f + 50.0f * (float)(rng() >> 40) * 0x1p-24f);
    return p;
}

static void cuts_into_the_fewest_equal_ranges(void **state)
{
    for (int r = 0; r < 60; r++) {
        const uint32_t cols = 200 + rng_below(1500);
        float *row = malloc(cols * sizeof(*row)), *out = malloc(cols * sizeof(*row));
        const struct codec_params p = separable(row, cols);
        const size_t least = codec_min_capacity(&p, cols);
        const size_t capacity = least + rng_below((uint32_t)least);
        static struct tiles tiles;
        uint32_t parts = 0;
        struct codec *c;
        bool fits;

        c = open_masked(&p, cols, CPU_ALL);
        encode_all(c, row, cols, 1, 5, capacity, &tiles, NULL);
        decode_all(c, &tiles, cols, 5, out, cols, 1);
        do {
            fits = true;
            parts++;
            for (uint32_t i = 0; i < parts && fits; i++) {
                uint32_t a = cols * i / parts, b = cols * (i + 1) / parts;
                fits = part_bytes(&p, row + a, b - a) + (parts > 1 ? CUT_HEADER : 0) <= capacity;
            }
        } while (!fits);
        assert_int_equal(tiles.n, parts);
        tiles_free(&tiles);
        codec_close(c);
        free(row);
        free(out);
    }
}

static void tile_mates_change_nothing(void **state)
{
    const uint32_t cols = 333, n_rows = 40;
    const struct codec_params p = codec_params_default(CODEC_TSQ);
    struct codec *c = open_masked(&p, cols, CPU_ALL);
    float *rows = malloc(n_rows * cols * sizeof(*rows));
    float *together = malloc(n_rows * cols * sizeof(*rows));
    float *alone = malloc(n_rows * cols * sizeof(*rows));
    static struct tiles tiles;

    for (uint32_t i = 0; i < n_rows; i++)
        fill_any_row(rows + i * cols, cols);
    encode_all(c, rows, cols, n_rows, 0, codec_bound(&p, n_rows, cols), &tiles, NULL);
    assert_int_equal(tiles.n, 1);
    decode_all(c, &tiles, cols, 0, together, cols, n_rows);
    tiles_free(&tiles);
    for (uint32_t i = 0; i < n_rows; i++) {
        encode_all(c, rows + i * cols, cols, 1, i, codec_bound(&p, 1, cols), &tiles, NULL);
        decode_all(c, &tiles, cols, i, alone + i * cols, cols, 1);
        tiles_free(&tiles);
    }
    assert_memory_equal(together, alone, n_rows * cols * sizeof(*rows));
    codec_close(c);
    free(rows);
    free(together);
    free(alone);
}

static void more_rows_than_a_tile_holds(void **state)
{
    const struct codec_params p = codec_params_default(CODEC_F16);
    const uint32_t n_rows = CODEC_ROWS_MAX + 1;
    float *rows = calloc(n_rows, sizeof(*rows)), *out = calloc(n_rows, sizeof(*rows));
    struct codec *c = open_masked(&p, 1, CPU_ALL);
    static struct tiles tiles;

    encode_all(c, rows, 1, n_rows, UINT32_MAX - CODEC_ROWS_MAX, 1 << 20, &tiles, NULL);
    assert_int_equal(tiles.n, 2);
    decode_all(c, &tiles, 1, UINT32_MAX - CODEC_ROWS_MAX, out, 1, n_rows);
    tiles_free(&tiles);
    codec_close(c);
    free(rows);
    free(out);
}

static void bad_values_are_named(void **state)
{
    static const struct {
        enum codec_mode mode;
        float value;
    } cases[] = {{CODEC_TSQ, NAN},     {CODEC_TSQ, INFINITY}, {CODEC_TSQ, -INFINITY},
                 {CODEC_F16, NAN},     {CODEC_F16, INFINITY}, {CODEC_F16, 65520.0f},
                 {CODEC_F16, -FLT_MAX}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t m = 0; m < N_MASKS; m++) {
            for (int small = 0; small < 2; small++) {
                const struct codec_params p = codec_params_default(cases[i].mode);
                struct codec *c = open_masked(&p, 500, masks[m]);
                const size_t capacity =
                    small ? codec_min_capacity(&p, 500) : codec_bound(&p, 3, 500);
                struct codec_cursor at = {1, 0};
                struct codec_stats stats = {0};
                uint8_t *packet = malloc(capacity);
                float rows[3][500];
                uint32_t row = small ? 1 : 2, col = rng_below(small ? 60 : 500);
                for (uint32_t k = 0; k < 3 * 500; k++)
                    rows[k / 500][k % 500] = rng_normal();
                rows[row][col] = cases[i].value;
                assert_int_equal(
                    codec_encode(c, rows[0], 500, 3, 100, &at, packet, capacity, &stats), -EDOM);
                assert_int_equal(stats.bad_token, 100 + row);
                assert_int_equal(stats.bad_col, col);
                assert_int_equal(stats.rows, 0);
                assert_int_equal(at.row, 1);
                assert_int_equal(at.col, 0);
                assert_int_equal(codec_encode(c, rows[0], 500, 3, 100, &at, packet, capacity, NULL),
                                 -EDOM);
                free(packet);
                codec_close(c);
            }
        }
    }
}

static void wrong_arguments_are_refused(void **state)
{
    struct codec_params p = codec_params_default(CODEC_TSQ), bad;
    struct codec_cursor at;
    struct codec *c = NULL;
    float row[600] = {1.0f};
    uint8_t packet[2000];

#define REFUSED(field, value)                                                                      \
    (bad = p, bad.field = (value), assert_int_equal(codec_params_check(&bad), -EINVAL),            \
     assert_int_equal(codec_open(&bad, 10, &c), -EINVAL))
    REFUSED(mode, (enum codec_mode)CODEC_MODES);
    REFUSED(tau_rule, (enum codec_tau_rule)2);
    REFUSED(tau, 0.0f);
    REFUSED(tau, -1.0f);
    REFUSED(tau, INFINITY);
    REFUSED(tau, NAN);
    REFUSED(delta, 0.0f);
    REFUSED(delta, 1.0f);
    REFUSED(delta, NAN);
    REFUSED(qmin, 0);
    REFUSED(qmin, 9);
    REFUSED(qmax, 9);
    REFUSED(qmax, 1);
    p.qmin = 1;
    REFUSED(qmax, 1);
    assert_int_equal(codec_open(&p, 0, &c), -EINVAL);
    assert_int_equal(codec_open(&p, CODEC_COLS_MAX + 1, &c), -EINVAL);
    assert_int_equal(codec_bound(&p, 0, 10), 0);
    assert_int_equal(codec_bound(&p, CODEC_ROWS_MAX + 1, 10), 0);
    assert_int_equal(codec_bound(&p, 1, 0), 0);
    assert_int_equal(codec_bound(&p, 1, CODEC_COLS_MAX + 1), 0);

    assert_int_equal(codec_open(&p, 600, &c), 0);
    at = (struct codec_cursor){1, 0};
    assert_int_equal(codec_encode(c, row, 600, 1, 0, &at, packet, 2000, NULL), -EINVAL);
    at = (struct codec_cursor){0, 600};
    assert_int_equal(codec_encode(c, row, 600, 1, 0, &at, packet, 2000, NULL), -EINVAL);
    at = (struct codec_cursor){0, 1}; /* where no part begins */
    assert_int_equal(codec_encode(c, row, 600, 1, 0, &at, packet, 2000, NULL), -EINVAL);
    at = (struct codec_cursor){0, 0};
    assert_int_equal(codec_encode(c, row, 600, 0, 0, &at, packet, 2000, NULL), -EINVAL);
    assert_int_equal(codec_encode(c, row, 600, 2, UINT32_MAX, &at, packet, 2000, NULL), -EINVAL);
    assert_int_equal(
        codec_encode(c, row, 600, 1, 0, &at, packet, codec_min_capacity(&p, 600) - 1, NULL),
        -ENOSPC);
    codec_close(c);
    codec_close(NULL);
}

static void params_id_is_what_the_ends_agree_on(void **state)
{
    struct codec_params p = codec_params_default(CODEC_TSQ), q = p;

    q.tau = 7.0f;
    q.delta = 0.2f;
    q.qmin = q.qmax = 5;
    assert_int_equal(codec_params_id(&p), codec_params_id(&q));
    assert_int_equal(codec_params_id(&p), 0xfc04812e);
    q.mode = CODEC_F16;
    assert_int_not_equal(codec_params_id(&p), codec_params_id(&q));
}

/* Real hidden states: within the byte budget and the error asked for. */
static bool skipped;

static void hidden_states_of_a_model(void **state)
{
    enum { LAYERS = 31, TOKENS = 5, D = 576 };
    static const int after[] = {5, 10, 15, 20};
    static float hidden[LAYERS][TOKENS][D];
    const struct codec_params p = codec_params_default(CODEC_TSQ);
    const char *shared = getenv("ISTHMUS_SHARED");
    char path[4096];
    struct codec *c;
    FILE *f;

    snprintf(path, sizeof(path), "%s/golden/smollm2-hidden-f32.bin",
             shared ? shared : SOURCE_ROOT "/../shared");
    f = fopen(path, "rb");
    if (!f) {
        printf("no %s: skipped\n", path);
        skipped = true;
        skip();
    }
    assert_int_equal(fread(hidden, 1, sizeof(hidden), f), sizeof(hidden));
    fclose(f);
    c = open_masked(&p, D, CPU_ALL);
    for (size_t l = 0; l < sizeof(after) / sizeof(after[0]); l++) {
        double worst = 0.0;
        int bytes = 0;
        for (int t = 0; t < TOKENS; t++) {
            const float *x = hidden[after[l]][t];
            struct codec_cursor at = {0, 0};
            double err = 0.0, norm = 0.0;
            uint8_t packet[1400];
            float y[D];
            int n = codec_encode(c, x, D, 1, 0, &at, packet, sizeof(packet), NULL);
            assert_true(n > 0);
            bytes += n;
            assert_int_equal(codec_decode(c, packet, (size_t)n, 0, y, D, 1, NULL), 0);
            for (int i = 0; i < D; i++) {
                err += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
                norm += (double)x[i] * (double)x[i];
            }
            worst = fmax(worst, sqrt(err / norm));
        }
        printf("after layer %2d: %.1f bytes a row, relative L2 at most %.4f\n", after[l],
               (double)bytes / TOKENS, worst);
        assert_true(bytes <= TOKENS * 275);
        assert_true(worst <= 0.08);
    }
    codec_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips_on_every_isa),
        cmocka_unit_test(wide_rows_have_no_blind_columns),
        cmocka_unit_test(bound_is_never_exceeded),
        cmocka_unit_test(bound_is_reached),
        cmocka_unit_test(cuts_into_the_fewest_equal_ranges),
        cmocka_unit_test(tile_mates_change_nothing),
        cmocka_unit_test(more_rows_than_a_tile_holds),
        cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(params_id_is_what_the_ends_agree_on),
        cmocka_unit_test(hidden_states_of_a_model),
    };

    rng_seed();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : skipped ? 77 : 0; /* 77: meson's code for it */
}
