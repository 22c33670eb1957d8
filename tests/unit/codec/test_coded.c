/* SPDX-License-Identifier: Apache-2.0 */
/* The modes rans and xform: what comes back, from which bytes, on every ISA. */
#include "util.h"

#include <errno.h>

#include "codec/codec.h"
#include "codec/coded_rows.h"
#include "codec/cpu.h"
#include "codec/synth.h"
#include "codec/tile.h"

#define MAX_TILES 600u

static const unsigned masks[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512, CPU_ALL};
#define N_MASKS (sizeof(masks) / sizeof(masks[0]))

/* What can be coded: a mode, and whether it has a profile. */
static const struct kind {
    enum codec_mode mode;
    bool profiled;
} kinds[] = {{CODEC_RANS, false}, {CODEC_RANS, true}, {CODEC_XFORM, true}};

static const uint32_t widths[] = {1, 31, 33, 64, 576, 1000, 2080};

static uint32_t any_classes(void)
{
    static const uint32_t some[] = {0, 0, 1, 3, 256, 257, 1024};
    return some[rng_below(7)];
}

static struct codec *open_masked(const struct codec_params *p, uint32_t cols, unsigned mask)
{
    struct codec *c;

    cpu_set_mask(mask);
    assert_int_equal(codec_open(p, cols, &c), 0);
    cpu_set_mask(CPU_ALL);
    return c;
}

struct message {
    uint32_t n;
    uint8_t *at[MAX_TILES];
    int bytes[MAX_TILES];
    size_t total;
};

static void encode(struct codec *c, const float *rows, uint32_t cols, uint32_t n_rows,
                   uint32_t first_token, size_t capacity, struct message *m,
                   struct codec_stats *stats)
{
    struct codec_cursor at = {0, 0};
    uint8_t *packet = fenced_alloc(capacity);

    m->n = 0;
    m->total = 0;
    while (at.row < n_rows) {
        const int bytes =
            codec_encode(c, rows, cols, n_rows, first_token, &at, packet, capacity, stats);
        assert_true(bytes > 0 && (size_t)bytes <= capacity && m->n < MAX_TILES);
        m->at[m->n] = malloc((size_t)bytes);
        memcpy(m->at[m->n], packet, (size_t)bytes);
        m->total += (size_t)bytes;
        m->bytes[m->n++] = bytes;
    }
    fenced_free(packet, capacity);
}

static void decode(struct codec *c, const struct message *m, uint32_t cols, uint32_t n_rows,
                   uint32_t first_token, float *out)
{
    memset(out, 0xff, n_rows * cols * sizeof(*out));
    const bool later = rng() & 1; /* must make no difference */

    for (uint32_t i = 0; i < m->n; i++) {
        const size_t len = (size_t)m->bytes[i];
        uint8_t *src = fenced_alloc(len);
        memcpy(src, m->at[i], len);
        assert_int_equal((later ? codec_decode_later : codec_decode)(c, src, len, first_token, out,
                                                                     cols, n_rows, NULL),
                         0);
        fenced_free(src, len);
    }
    assert_int_equal(codec_decode_finish(c), 0);
    for (size_t i = 0; i < (size_t)n_rows * cols; i++)
        assert_true(isfinite(out[i]));
}

static void message_free(struct message *m)
{
    for (uint32_t i = 0; i < m->n; i++)
        free(m->at[i]);
}

/* Rows like the profile's, and one of every temper. */
static void fill_rows(const struct codec_profile *p, uint32_t n_rows, float *rows)
{
    assert_int_equal(codec_synth_rows(p, rng(), n_rows, rows, p->cols), 0);
    for (uint32_t i = 0; i < n_rows; i++)
        if (rng_below(3) == 0)
            fill_any_row(rows + i * p->cols, p->cols);
}

static struct codec_params params_of(const struct kind *k, const struct codec_profile *p)
{
    struct codec_params params = codec_params_default(k->mode);

    params.profile = k->profiled ? p : NULL;
    params.step = powf(2.0f, 3.0f * rng_unit() - 5.0f);
    return params;
}

/* Alike on every ISA, both ways; no longer than promised. */
static void every_isa_gives_the_same_bytes(void **state)
{
    for (size_t w = 0; w < sizeof(widths) / sizeof(widths[0]); w++) {
        const uint32_t cols = widths[w], n_rows = 1 + rng_below(cols > 1000 ? 6 : 70);
        float *rows = malloc(n_rows * cols * sizeof(*rows));
        float *out[2] = {malloc(n_rows * cols * sizeof(*rows)),
                         malloc(n_rows * cols * sizeof(*rows))};
        struct codec_profile *p;
        assert_int_equal(codec_synth_profile(cols, any_classes(), rng(), &p), 0);
        fill_rows(p, n_rows, rows);
        for (size_t k = 0; k < 3; k++) {
            const struct codec_params params = params_of(&kinds[k], p);
            const size_t least = codec_min_capacity(&params, cols);
            const size_t capacity =
                rng_below(4) ? least + rng_below(3000) : codec_bound(&params, n_rows, cols);
            struct message m[2];
            for (size_t i = 0; i < N_MASKS; i++) {
                struct codec *c = open_masked(&params, cols, masks[i]);
                struct codec_stats stats = {0};
                encode(c, rows, cols, n_rows, 7, capacity, &m[i > 0], &stats);
                decode(c, &m[i > 0], cols, n_rows, 7, out[i > 0]);
                assert_int_equal(stats.rows, n_rows);
                assert_int_equal(stats.values, (uint64_t)n_rows * cols);
                assert_int_equal(stats.bytes, m[i > 0].total);
                codec_close(c);
                if (i == 0)
                    continue;
                assert_int_equal(m[0].n, m[1].n);
                for (uint32_t t = 0; t < m[0].n; t++) {
                    assert_int_equal(m[0].bytes[t], m[1].bytes[t]);
                    assert_memory_equal(m[0].at[t], m[1].at[t], (size_t)m[0].bytes[t]);
                }
                assert_memory_equal(out[0], out[1], n_rows * cols * sizeof(*rows));
                message_free(&m[1]);
            }
            message_free(&m[0]);
        }
        codec_profile_free(p);
        free(rows);
        free(out[0]);
        free(out[1]);
    }
}

/* The step of a tile of one row. */
static float step_of(const struct message *m)
{
    assert_int_equal(m->n, 1);
    return coded_delta(m->at[0][(m->at[0][1] >> 2 & 7) == TILE_RANS_TABLE ? 14 : 6]);
}

/* rans: every value within half a step. xform: every coefficient, so the norm of the error. */
static void errors_are_within_half_a_step(void **state)
{
    for (int r = 0; r < 40; r++) {
        const uint32_t cols = widths[rng_below(sizeof(widths) / sizeof(widths[0]))];
        float *row = malloc(cols * sizeof(*row)), *out = malloc(cols * sizeof(*row));
        struct codec_profile *p;
        assert_int_equal(codec_synth_profile(cols, any_classes(), rng(), &p), 0);
        fill_rows(p, 1, row);
        for (size_t k = 0; k < 3; k++) {
            const struct codec_params params = params_of(&kinds[k], p);
            struct codec *c = open_masked(&params, cols, CPU_ALL);
            struct codec_stats stats = {0};
            struct message m;
            double err_sq = 0.0;
            encode(c, row, cols, 1, 0, 10 * codec_bound(&params, 1, cols), &m, &stats);
            decode(c, &m, cols, 1, 0, out);
            for (uint32_t i = 0; i < cols && !stats.rows_fallback; i++) {
                const double e = fabs((double)row[i] - (double)out[i]);
                err_sq += e * e;
                if (kinds[k].mode == CODEC_RANS &&
                    e > .5001 * (double)step_of(&m) + 1e-6 * fabs((double)row[i]))
                    fail_msg("%g came back as %g, the step is %g", (double)row[i], (double)out[i],
                             (double)step_of(&m));
            }
            /* 16 bits of the row and of the basis cost a little */
            if (!stats.rows_fallback && sqrt(err_sq) > .55 * sqrt(cols) * (double)step_of(&m))
                fail_msg("error %g, step %g, %u columns", sqrt(err_sq), (double)step_of(&m), cols);
            message_free(&m);
            codec_close(c);
        }
        codec_profile_free(p);
        free(row);
        free(out);
    }
}

/* What a row decodes to does not depend on the rows beside it nor on the token range encoded. */
static void rows_are_independent(void **state)
{
    for (int r = 0; r < 12; r++) {
        const uint32_t cols = widths[rng_below(sizeof(widths) / sizeof(widths[0]))];
        const uint32_t n_rows = 2 + rng_below(90), some = rng_below(n_rows);
        float *rows = malloc(n_rows * cols * sizeof(*rows));
        float *all = malloc(n_rows * cols * sizeof(*rows)), *one = malloc(cols * sizeof(*one));
        struct codec_profile *p;
        assert_int_equal(codec_synth_profile(cols, any_classes(), rng(), &p), 0);
        fill_rows(p, n_rows, rows);
        for (size_t k = 0; k < 3; k++) {
            const struct codec_params params = params_of(&kinds[k], p);
            const size_t capacity = codec_min_capacity(&params, cols) + rng_below(2000);
            struct codec *c = open_masked(&params, cols, CPU_ALL);
            struct message m;
            encode(c, rows, cols, n_rows, 100, capacity, &m, NULL);
            decode(c, &m, cols, n_rows, 100, all);
            message_free(&m);
            encode(c, rows + some * cols, cols, 1, 100 + some, capacity, &m, NULL);
            decode(c, &m, cols, 1, 100 + some, one);
            message_free(&m);
            assert_memory_equal(one, all + some * cols, cols * sizeof(*one));
            codec_close(c);
        }
        codec_profile_free(p);
        free(rows);
        free(all);
        free(one);
    }
}

/* Rows of zeros cost nothing but their heads where nothing is subtracted from them. */
static void zeros_are_cheap(void **state)
{
    static float rows[64 * 576], out[64 * 576];
    const struct codec_params params = codec_params_default(CODEC_RANS);
    struct codec *c = open_masked(&params, 576, CPU_ALL);
    struct message m;

    memset(rows, 0, sizeof(rows));
    encode(c, rows, 576, 64, 0, 1400, &m, NULL);
    assert_int_equal(m.n, 1);
    assert_int_equal(m.bytes[0], 6 + 2 * 64 + 1);
    decode(c, &m, 576, 64, 0, out);
    assert_memory_equal(rows, out, sizeof(rows));
    message_free(&m);
    codec_close(c);
}

static void rows_not_finite_are_named(void **state)
{
    static float rows[3 * 64];
    struct codec_profile *p;
    uint8_t packet[4000];

    assert_int_equal(codec_synth_profile(64, 0, 1, &p), 0);
    for (size_t k = 0; k < 3; k++) {
        static const float bad[] = {INFINITY, -INFINITY, NAN};
        const struct codec_params params = params_of(&kinds[k], p);
        struct codec *c = open_masked(&params, 64, CPU_ALL);
        for (size_t b = 0; b < 3; b++) {
            struct codec_cursor at = {0, 0};
            struct codec_stats stats = {0};
            fill_rows(p, 3, rows);
            rows[2 * 64 + 17] = bad[b];
            int rc;
            do
                rc = codec_encode(c, rows, 64, 3, 50, &at, packet, sizeof(packet), &stats);
            while (rc > 0);
            assert_int_equal(rc, -EDOM);
            assert_int_equal(stats.bad_token, 52);
            assert_int_equal(stats.bad_col, 17);
            assert_int_equal(at.col, 0);
        }
        codec_close(c);
    }
    codec_profile_free(p);
}

/* A giant above a fine step goes as tsq, and is counted. */
static void giants_fall_back(void **state)
{
    float row[100], out[100];
    struct codec_profile *p;

    assert_int_equal(codec_synth_profile(100, 5, 1, &p), 0);
    for (size_t k = 0; k < 3; k++) {
        struct codec_params params = params_of(&kinds[k], p);
        struct codec_stats stats = {0};
        struct message m;
        struct codec *c;
        params.step = 1e-5f;
        c = open_masked(&params, 100, CPU_ALL);
        assert_int_equal(codec_synth_rows(p, 5, 1, row, 100), 0);
        row[40] = 1e20f;
        encode(c, row, 100, 1, 0, 1000, &m, &stats);
        decode(c, &m, 100, 1, 0, out);
        assert_int_equal(stats.rows_fallback, 1);
        assert_true(fabsf(out[40] / row[40] - 1.0f) < .01f); /* half a step of tsq */
        message_free(&m);
        codec_close(c);
    }
    codec_profile_free(p);
}

static void the_profile_must_fit(void **state)
{
    struct codec_params params = codec_params_default(CODEC_XFORM), other;
    struct codec_profile *p, *q;
    struct codec *c;
    char err[CODEC_PROFILE_ERR];
    uint8_t hash[2][16];
    uint8_t *bytes;
    size_t len;

    assert_int_equal(codec_open(&params, 64, &c), -EINVAL); /* none */
    assert_int_equal(codec_synth_profile(64, 0, 1, &p), 0);
    assert_int_equal(codec_synth_profile(64, 0, 2, &q), 0);
    assert_int_equal(codec_profile_serialize(p, &bytes, &len, err), 0);
    free(bytes);
    assert_int_equal(codec_profile_serialize(q, &bytes, &len, err), 0);
    free(bytes);
    params.profile = p;
    assert_int_equal(codec_open(&params, 65, &c), -EINVAL);
    assert_int_equal(codec_open(&params, 64, &c), 0);
    other = params;
    other.step = .5f;
    assert_int_equal(codec_params_id(&params), codec_params_id(&other));
    assert_int_equal(codec_retune(c, &other), 0);
    other.step = 0.0f;
    assert_int_equal(codec_retune(c, &other), -EINVAL);
    other.step = .5f;
    other.profile = q;
    codec_params_profile(&params, hash[0]);
    codec_params_profile(&other, hash[1]);
    assert_memory_equal(hash[0], p->hash, 16);
    assert_memory_equal(hash[1], q->hash, 16);
    assert_memory_not_equal(hash[0], hash[1], 16);
    assert_int_equal(codec_retune(c, &other), -EINVAL);
    other = codec_params_default(CODEC_TSQ);
    assert_int_equal(codec_retune(c, &other), -EINVAL);
    codec_close(c);
    codec_profile_free(p);
    codec_profile_free(q);
}

/* Any change to a tile is refused or decodes to something finite; other lengths are refused. */
static void damage_is_survived(void **state)
{
    enum { COLS = 96, ROWS = 5 };
    static float rows[ROWS * COLS], out[ROWS * COLS];
    struct codec_profile *p;

    assert_int_equal(codec_synth_profile(COLS, 300, rng(), &p), 0);
    p->blocks[0].scalar.pre[3] = 4;
    p->blocks[0].xform.pre[3] = 2;
    for (size_t k = 0; k < 3; k++) {
        const struct codec_params params = params_of(&kinds[k], p);
        struct codec *c = open_masked(&params, COLS, CPU_ALL);
        struct message m;
        fill_rows(p, ROWS, rows);
        encode(c, rows, COLS, ROWS, 0, codec_bound(&params, ROWS, COLS), &m, NULL);
        for (uint32_t t = 0; t < m.n; t++) {
            const size_t len = (size_t)m.bytes[t];
            uint8_t *src = fenced_alloc(len);
            for (size_t n = 0; n < len; n++) {
                memcpy(src + len - n, m.at[t], n);
                if (codec_decode(c, src + len - n, n, 0, out, COLS, ROWS, NULL) != -EBADMSG)
                    fail_msg("%zu of %zu bytes believed", n, len);
            }
            for (size_t bit = 0; bit < 8 * len; bit++) {
                memcpy(src, m.at[t], len);
                src[bit / 8] ^= (uint8_t)(1u << bit % 8);
                memset(out, 0, sizeof(out));
                if (codec_decode(c, src, len, 0, out, COLS, ROWS, NULL) == 0)
                    for (size_t i = 0; i < ROWS * COLS; i++)
                        assert_true(isfinite(out[i]));
            }
            for (int n = 0; n < 2000; n++) {
                memcpy(src, m.at[t], len);
                for (size_t i = 6 + rng_below((uint32_t)len - 6); i < len; i++)
                    src[i] = (uint8_t)(n & 1 ? rng() : rng() & rng() & rng());
                codec_decode(c, src, len, 0, out, COLS, ROWS, NULL);
            }
            fenced_free(src, len);
        }
        message_free(&m);
        codec_close(c);
    }
    codec_profile_free(p);
}

/* One tile as large as a packet may be: what is left of the rows goes into the next. */
static void huge_round_trip(const struct codec_params *p, uint32_t cols, uint32_t n_rows,
                            const float *rows)
{
    const size_t n = (size_t)n_rows * cols;
    float *out[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
    struct message m;

    for (unsigned i = 0; i < 2; i++) {
        struct codec *c = open_masked(p, cols, i ? CPU_ALL : 0);
        encode(c, rows, cols, n_rows, 0, codec_bound(p, n_rows, cols), &m, NULL);
        decode(c, &m, cols, n_rows, 0, out[i]);
        message_free(&m);
        codec_close(c);
    }
    assert_memory_equal(out[0], out[1], n * sizeof(float));
    free(out[0]);
    free(out[1]);
}

/* 2048 groups of 32 that are coded, then one that is not. */
static void groups_end_where_scratch_does(void **state)
{
    enum { COLS = 2048, ROWS = 34 };
    struct codec_params p = codec_params_default(CODEC_RANS);
    float *rows = calloc(ROWS * COLS, sizeof(float));

    for (uint32_t i = 0; i < ROWS * COLS; i++)
        rows[i] = i / COLS == 32 ? 0.0f : (float)rng_normal();
    huge_round_trip(&p, COLS, ROWS, rows);
    free(rows);
    (void)state;
}

/* Rows of which nothing is coded still have their pre bits. */
static void pre_bits_end_where_scratch_does(void **state)
{
    enum { COLS = 576 };
    struct codec_params p = codec_params_default(CODEC_RANS);
    float *rows = malloc(CODEC_ROWS_MAX * COLS * sizeof(float));
    struct codec_profile *profile;

    assert_int_equal(codec_synth_profile(COLS, 0, 1, &profile), 0);
    memset(profile->blocks[0].scalar.pre, CODED_PRE_MAX, COLS);
    for (uint32_t i = 0; i < CODEC_ROWS_MAX; i++)
        memcpy(rows + i * COLS, profile->mean, COLS * sizeof(float));
    p.profile = profile;
    huge_round_trip(&p, COLS, CODEC_ROWS_MAX, rows);
    codec_profile_free(profile);
    free(rows);
    (void)state;
}

/* A tile that is refused by its header alone leaves no row waiting for a place that is gone. */
static void refused_tiles_take_others_along(void **state)
{
    enum { COLS = 64, ROWS = 3 };
    struct codec_params p = codec_params_default(CODEC_XFORM);
    float rows[ROWS * COLS], out[ROWS * COLS], before[ROWS * COLS];
    struct codec_profile *profile;
    struct codec *c;
    struct message m;

    assert_int_equal(codec_synth_profile(COLS, 0, 1, &profile), 0);
    /* Rows that are coded, all of them: one that falls back is written at once. */
    assert_int_equal(codec_synth_rows(profile, rng(), ROWS, rows, COLS), 0);
    p.profile = profile;
    c = open_masked(&p, COLS, CPU_ALL);
    encode(c, rows, COLS, ROWS, 0, codec_bound(&p, ROWS, COLS), &m, NULL);
    memset(out, 0x7f, sizeof(out));
    memcpy(before, out, sizeof(out));
    assert_int_equal(codec_decode_later(c, m.at[0], (size_t)m.bytes[0], 0, out, COLS, ROWS, NULL),
                     0);
    assert_int_equal(codec_decode_later(c, m.at[0], 3, 0, out, COLS, ROWS, NULL), -EBADMSG);
    assert_int_equal(codec_decode_finish(c), 0);
    assert_memory_equal(out, before, sizeof(out));
    message_free(&m);
    codec_close(c);
    codec_profile_free(profile);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa_gives_the_same_bytes),
        cmocka_unit_test(errors_are_within_half_a_step),
        cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(zeros_are_cheap),
        cmocka_unit_test(rows_not_finite_are_named),
        cmocka_unit_test(giants_fall_back),
        cmocka_unit_test(the_profile_must_fit),
        cmocka_unit_test(damage_is_survived),
        cmocka_unit_test(groups_end_where_scratch_does),
        cmocka_unit_test(pre_bits_end_where_scratch_does),
        cmocka_unit_test(refused_tiles_take_others_along),
    };

    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
