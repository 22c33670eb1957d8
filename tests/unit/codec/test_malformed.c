/* SPDX-License-Identifier: Apache-2.0 */
/* What a decoder does with bytes no encoder wrote: refuses them, or yields finite values within the
 * range they claim; never reads past their end or writes anywhere else. */
#include "util.h"

#include <errno.h>

#include "codec/codec.h"
#include "codec/cpu.h"

#define COLS       100u
#define STRIDE     103u
#define ROWS       4u
#define BASE       1000u
#define HEADER     6u
#define CUT_HEADER 10u

#define FENCED_BYTES 8192u

static uint8_t *fence; /* FENCED_BYTES that end where no access is allowed */

static struct codec *codecs[3];
static struct codec_params absolute; /* tsq, T = 1 */

static float canvas[ROWS + 2][STRIDE]; /* a row before and one behind those offered */

/* Decodes from memory that ends at a fence. Whatever comes of it, nothing outside the tile's
 * claimed range is written. */
static int try_decode(enum codec_mode mode, const uint8_t *bytes, size_t len)
{
    static uint32_t canary[ROWS + 2][STRIDE];
    struct codec_tile tile = {0};
    uint8_t *src = fence + FENCED_BYTES - len;
    int rc;

    memcpy(src, bytes, len);
    memset(canvas, 0xa5, sizeof(canvas));
    rc = codec_decode(codecs[mode], src, len, BASE, canvas[1], STRIDE, ROWS, NULL);
    assert_true(rc == 0 || rc == -EBADMSG);
    memcpy(canary, canvas, sizeof(canvas));
    if (codec_peek(src, len, COLS, &tile) != 0)
        assert_int_equal(rc, -EBADMSG);
    for (uint32_t r = 0; r < ROWS + 2; r++) {
        for (uint32_t k = 0; k < STRIDE; k++) {
            bool inside = r + BASE - 1 - tile.first_token < tile.n_tokens && r > 0 && r <= ROWS &&
                          k - tile.first_col < tile.n_cols && k < COLS;
            if (!inside)
                assert_int_equal(canary[r][k], 0xa5a5a5a5);
            else if (rc == 0 && mode != CODEC_F32)
                assert_true(isfinite(canvas[r][k]));
        }
    }
    return rc;
}

/* A valid tile of rows BASE + 1 and BASE + 2. */
static size_t make_tile(const struct codec_params *p, enum row_kind kind, uint8_t *dst)
{
    struct codec_cursor at = {0, 0};
    float rows[2][COLS];
    struct codec *c;
    int bytes;

    fill_row(rows[0], COLS, kind);
    fill_row(rows[1], COLS, kind);
    for (uint32_t i = 0; p->mode == CODEC_F16 && i < 2 * COLS; i++)
        rows[i / COLS][i % COLS] = fminf(fmaxf(rows[i / COLS][i % COLS], -6e4f), 6e4f);
    assert_int_equal(codec_open(p, COLS, &c), 0);
    bytes = codec_encode(c, rows[0], COLS, 2, BASE + 1, &at, dst, codec_bound(p, 2, COLS), NULL);
    assert_true(bytes > 0);
    assert_int_equal(at.row, 2);
    codec_close(c);
    assert_int_equal(try_decode(p->mode, dst, (size_t)bytes), 0);
    return (size_t)bytes;
}

static void for_each_tile(void (*check)(enum codec_mode, uint8_t *, size_t))
{
    static uint8_t tile[FENCED_BYTES];

    for (int mode = CODEC_F32; mode <= CODEC_TSQ; mode++) {
        for (int kind = 0; kind < ROW_KINDS; kind++) {
            struct codec_params p = codec_params_default((enum codec_mode)mode);
            size_t len = make_tile(&p, (enum row_kind)kind, tile);
            check(p.mode, tile, len);
            if (p.mode != CODEC_TSQ)
                continue;
            p = absolute; /* many outliers: all lists */
            len = make_tile(&p, (enum row_kind)kind, tile);
            check(p.mode, tile, len);
        }
    }
}

static void check_lengths(enum codec_mode mode, uint8_t *tile, size_t len)
{
    for (size_t n = 0; n < len; n++)
        assert_int_equal(try_decode(mode, tile, n), -EBADMSG);
    for (int byte = 0; byte < 256; byte += 85) {
        tile[len] = (uint8_t)byte;
        assert_int_equal(try_decode(mode, tile, len + 1), -EBADMSG);
    }
}

static void every_other_length_is_refused(void **state)
{
    for_each_tile(check_lengths);
}

static void check_flips(enum codec_mode mode, uint8_t *tile, size_t len)
{
    for (size_t bit = 0; bit < 8 * len; bit++) {
        tile[bit / 8] ^= (uint8_t)(1u << bit % 8);
        try_decode(mode, tile, len);
        tile[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void every_flipped_bit_is_survived(void **state)
{
    for_each_tile(check_flips);
}

static void check_noise(enum codec_mode mode, uint8_t *tile, size_t len)
{
    for (int r = 0; r < 200; r++) {
        for (size_t i = HEADER; i < len; i++)
            tile[i] = (uint8_t)(r & 1 ? rng() : rng() & rng() & rng());
        try_decode(mode, tile, HEADER + rng_below((uint32_t)(len - HEADER) + 1));
    }
}

static void noise_is_survived(void **state)
{
    for_each_tile(check_noise);
}

static void lying_headers_are_refused(void **state)
{
    static uint8_t tile[FENCED_BYTES];
    const struct codec_params p = codec_params_default(CODEC_TSQ);
    const size_t len = make_tile(&p, ROW_NORMAL, tile);
    static const struct {
        unsigned byte;
        uint8_t value, mask;
    } lies[] = {
        {1, 0x00, 0xc0}, {1, 0x80, 0xc0}, /* version 0, 2 */
        {1, 0x00, 0x1c}, {1, 0x04, 0x1c}, /* f32, f16: not the codec's */
        {1, 0x0c, 0x1c}, {1, 0x10, 0x1c}, /* rans */
        {1, 0x14, 0x1c}, {1, 0x18, 0x1c}, /* rans by a profile, xform */
        {1, 0x1c, 0x1c},                  /* none */
        {0, 0x00, 0xff},                  /* 1 row of 2 */
        {0, 0x02, 0xff},                  /* 3 rows */
        {0, 0x04, 0xff},                  /* more rows than offered */
        {1, 0x03, 0x03}, {2, 0xe7, 0xff}, /* token 999: before the first */
        {2, 0xeb, 0xff},                  /* token 1003: its second row is behind the last */
        {5, 0x80, 0xff},
    };
    struct codec_tile peeked;

    assert_int_equal(codec_peek(tile, len, COLS, &peeked), 0);
    assert_int_equal(peeked.mode, CODEC_TSQ);
    assert_int_equal(peeked.first_token, BASE + 1);
    assert_int_equal(peeked.n_tokens, 2);
    assert_int_equal(peeked.first_col, 0);
    assert_int_equal(peeked.n_cols, COLS);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        uint8_t old = tile[lies[i].byte];
        tile[lies[i].byte] = (uint8_t)((old & ~lies[i].mask) | lies[i].value);
        if (try_decode(CODEC_TSQ, tile, len) != -EBADMSG)
            fail_msg("lie %zu believed", i);
        tile[lies[i].byte] = old;
    }
    memset(tile + 2, 0xff, 4); /* token 2^32 - 1, and one more */
    assert_int_equal(codec_peek(tile, len, COLS, &peeked), -EBADMSG);
}

/* One-row tiles written by hand after docs/codec.md. 8 columns unless said. */
static int decode_part(uint32_t cols, const uint8_t *part, size_t len)
{
    uint8_t tile[CUT_HEADER + 1024] = {0x00, 0x68, (uint8_t)BASE,       BASE >> 8, 0, 0,
                                       0,    0,    (uint8_t)(cols - 1), 0};

    memcpy(tile + CUT_HEADER, part, len);
    return try_decode(CODEC_TSQ, tile, CUT_HEADER + len);
}

static int decode_zeros(uint16_t first_col, uint16_t last)
{
    const uint8_t tile[] = {0x00,
                            0x68,
                            (uint8_t)BASE,
                            BASE >> 8,
                            0,
                            0,
                            (uint8_t)first_col,
                            (uint8_t)(first_col >> 8),
                            (uint8_t)last,
                            (uint8_t)(last >> 8),
                            0x00,
                            0x00};

    return try_decode(CODEC_TSQ, tile, sizeof(tile));
}

static void lying_columns_are_refused(void **state)
{
    assert_int_equal(decode_zeros(0, COLS - 1), 0);
    assert_int_equal(decode_zeros(COLS - 1, 0), 0);
    assert_int_equal(decode_zeros(1, COLS - 1), -EBADMSG);
    assert_int_equal(decode_zeros(COLS, 0), -EBADMSG);
    assert_int_equal(decode_zeros(0, COLS), -EBADMSG);
    assert_int_equal(decode_zeros(0x4000, 0), -EBADMSG); /* bits beyond any row */
    assert_int_equal(decode_zeros(0x8000, 0), -EBADMSG);
    assert_int_equal(decode_zeros(0, 0x4000), -EBADMSG);
    assert_int_equal(decode_zeros(0, 0xffff), -EBADMSG);
}

#define PART(cols, ...)                                                                            \
    decode_part(cols, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define ACCEPTED(...) assert_int_equal(PART(__VA_ARGS__), 0)
#define REFUSED(...)  assert_int_equal(PART(__VA_ARGS__), -EBADMSG)

static void lying_parts_are_refused(void **state)
{
    /* zeros: nothing follows */
    ACCEPTED(8, 0x00, 0x00);
    assert_true(canvas[1][0] == 0.0f && canvas[1][7] == 0.0f);
    REFUSED(8, 0x00);
    REFUSED(8, 0x00, 0x00, 0x00);
    REFUSED(8, 0x00, 0x08, 0xff, 0xff); /* step 0 */
    REFUSED(8, 0x07, 0x08, 0xff, 0xff); /* subnormal */
    REFUSED(8, 0xf8, 0x0f, 0xff, 0xff); /* infinite */
    REFUSED(8, 0xff, 0x0f, 0xff, 0xff); /* NaN */
    /* step 1 is 0x3f8; codes of 2 bits are outlier, -1, 0, 1 */
    ACCEPTED(8, 0xf8, 0x0b, 0xe5, 0xe5);
    assert_true(canvas[1][0] == -1.0f && canvas[1][2] == 0.0f && canvas[1][7] == 1.0f);
    REFUSED(8, 0xf8, 0x0b, 0xe5);
    REFUSED(8, 0xf8, 0x0b, 0xe5, 0xe5, 0x00);
    REFUSED(7, 0xf8, 0x0b, 0xe5, 0xe5); /* bits behind the last code */
    ACCEPTED(7, 0xf8, 0x0b, 0xe5, 0x25);
    /* form 0: outlier codes of 2 bits: farther, -2, 2, 3 */
    ACCEPTED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x0d);
    assert_true(canvas[1][0] == -2.0f && canvas[1][1] == -1.0f && canvas[1][4] == 3.0f);
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x1d); /* bits behind the last code */
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4);
    /* and of 4 bits: beyond, -9 .. -3, 4 .. 11 */
    ACCEPTED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x00, 0xf1);
    assert_true(canvas[1][0] == -9.0f && canvas[1][4] == 11.0f);
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x03, 0xf1); /* one is not for this column */
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x00);
    /* and beyond */
    ACCEPTED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x00, 0xf0, 0x18, 0xfc);
    assert_true(canvas[1][0] == -1000.0f && canvas[1][4] == 11.0f && canvas[1][5] == -1.0f);
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x00, 0xf0, 0x18);
    REFUSED(8, 0xf8, 0x0b, 0xe4, 0xe4, 0x00, 0x00, 0x18, 0xfc);
    /* steps of 2^127, of which there is one below infinity */
    ACCEPTED(8, 0xf0, 0x0f, 0xe5, 0xe5);
    REFUSED(8, 0xf0, 0x0f, 0xe4, 0xe5, 0x01);
    REFUSED(8, 0xf0, 0x0f, 0xe4, 0xe5, 0x00, 0x01);
    REFUSED(8, 0xf0, 0x0f, 0xe4, 0xe5, 0x00, 0x00, 0xfe, 0xff);
    ACCEPTED(8, 0xf0, 0x0f, 0xe4, 0xe5, 0x00, 0x00, 0xff, 0xff); /* no encoder writes -1 so */
}

struct bits {
    uint8_t bytes[1024];
    size_t n; /* bits */
};

static void put_bits(struct bits *b, unsigned v, unsigned width)
{
    for (unsigned i = 0; i < width; i++, b->n++)
        b->bytes[b->n / 8] |= (uint8_t)((v >> i & 1) << b->n % 8);
}

static void put_codes(struct bits *b, const uint8_t *codes, size_t n, unsigned width)
{
    for (size_t i = 0; i < n; i++)
        put_bits(b, codes[i], width);
    b->n = (b->n + 7) / 8 * 8;
}

/* By docs/codec.md, and of its codes also those that no encoder sends. */
static void any_codes_are_read(void **state)
{
    for (int r = 0; r < 3000; r++) {
        const unsigned form = rng_below(4),
                       width[3] = {1 + rng_below(8), 2 + form, form < 2 ? 4 + 2 * form : 8};
        const uint32_t one_in = 1 + rng_below(10), cols = 1 + rng_below(COLS);
        uint8_t codes[3][COLS];
        size_t n[3] = {0}, n_rest = 0;
        int16_t rest[COLS];
        float expected[COLS];
        struct bits b = {0};

        for (uint32_t c = 0; c < cols; c++) {
            int lo = 0, hi = -1, k = 0;
            unsigned list = 0, code = 0;
            for (; list < 3 && !code; list++) {
                const int half = 1 << (width[list] - 1);
                code = rng_below(one_in) ? rng_below(2 * (unsigned)half) : 0;
                codes[list][n[list]++] = (uint8_t)code;
                k = (int)code < half ? lo - half + (int)code : hi + 1 - half + (int)code;
                lo -= half - 1;
                hi += half;
            }
            if (!code)
                k = rest[n_rest++] = (int16_t)((int)rng_below(2 * 32767 + 1) - 32767);
            expected[c] = (float)k;
        }
        put_bits(&b, 0x3f8 | (width[0] - 1) << 11 | form << 14, 16);
        for (unsigned list = 0; list < 3; list++)
            put_codes(&b, codes[list], n[list], width[list]);
        for (size_t i = 0; i < n_rest; i++)
            put_bits(&b, (uint16_t)rest[i], 16);
        assert_int_equal(decode_part(cols, b.bytes, b.n / 8), 0);
        assert_memory_equal(canvas[1], expected, cols * sizeof(float));
    }
}

static int open_codecs(void **state)
{
    fence = fenced_alloc(FENCED_BYTES);
    absolute = codec_params_default(CODEC_TSQ);
    absolute.tau_rule = CODEC_TAU_ABS;
    absolute.tau = 1.0f;
    for (int mode = CODEC_F32; mode <= CODEC_TSQ; mode++) {
        struct codec_params p = codec_params_default((enum codec_mode)mode);
        if (codec_open(&p, COLS, &codecs[mode]))
            return -1;
    }
    return 0;
}

static int close_codecs(void **state)
{
    for (int mode = CODEC_F32; mode <= CODEC_TSQ; mode++)
        codec_close(codecs[mode]);
    fenced_free(fence, FENCED_BYTES);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(noise_is_survived),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(lying_columns_are_refused),
        cmocka_unit_test(lying_parts_are_refused),
        cmocka_unit_test(any_codes_are_read),
    };
    unsigned tried = ~0u;
    int failed = 0;

    rng_seed();
    for (unsigned mask = 0; mask <= CPU_ALL; mask = mask << 1 | 1) { /* c, avx2, avx512, vnni */
        cpu_set_mask(mask);
        if (cpu_flags() == tried)
            continue;
        tried = cpu_flags();
        printf("kernels: %s\n", cpu_level_name(cpu_flags()));
        failed += cmocka_run_group_tests(tests, open_codecs, close_codecs);
    }
    return failed;
}
