/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tiles of the modes rans and xform, both ways, with made-up profiles. The first byte says which
 * codec and direction. Then the rest is a tile for the decoder; or a step, a capacity and rows,
 * that must come back as promised and alike on every ISA; or such rows and damage to one of the
 * tiles of their message, which is decoded as a whole.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/codec.h"
#include "codec/coded_rows.h"
#include "codec/cpu.h"
#include "codec/synth.h"
#include "codec/tile.h"

#define KINDS      6u
#define COLS_MAX   2080u /* two blocks */
#define FEW_COEFS  20u   /* of a wide transform: it is slow in C */
#define DIRECTIONS 3u
#define ROWS_MAX   4u

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

static const struct kind {
    enum codec_mode mode;
    uint32_t cols, classes;
    bool profiled;
} kinds[KINDS] = {
    {CODEC_RANS, 100, 0, false}, {CODEC_RANS, 100, 5, true},      {CODEC_XFORM, 100, 300, true},
    {CODEC_RANS, 64, 0, false},  {CODEC_RANS, COLS_MAX, 0, true}, {CODEC_XFORM, COLS_MAX, 3, true},
};

static struct codec *codecs[KINDS][2]; /* in C, and with all there is */
static struct codec_params params[KINDS];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first coefficients of each block alone: its matrices keep their first rows, or columns. */
static void keep_few(struct codec_profile_block *b)
{
    const uint32_t all = b->xform.n;

    b->xform.n = FEW_COEFS;
    for (uint32_t i = 0; i < b->cols; i++)
        memmove(b->b + (size_t)i * FEW_COEFS, b->b + (size_t)i * all, FEW_COEFS * sizeof(*b->b));
}

static struct codec_profile *make_profile(unsigned k)
{
    struct codec_profile *p;

    REQUIRE(codec_synth_profile(kinds[k].cols, kinds[k].classes, k, &p) == 0);
    p->blocks[0].scalar.pre[3] = 3;
    p->blocks[0].xform.pre[0] = 5;
    p->blocks[0].xform.level[1] = -100;
    for (uint32_t i = 0; p->n_blocks > 1 && i < p->n_blocks; i++)
        keep_few(&p->blocks[i]);
    return p;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    for (unsigned k = 0; k < KINDS; k++) {
        struct codec_profile *p = kinds[k].profiled ? make_profile(k) : NULL;
        params[k] = codec_params_default(kinds[k].mode);
        params[k].profile = p;
        for (unsigned i = 0; i < 2; i++) {
            cpu_set_mask(i ? CPU_ALL : 0);
            REQUIRE(codec_open(&params[k], kinds[k].cols, &codecs[k][i]) == 0);
        }
    }
    return 0;
}

static void decode_anything(unsigned k, const uint8_t *data, size_t size)
{
    static float out[2][ROWS_MAX * COLS_MAX];
    const uint32_t cols = kinds[k].cols;
    struct codec_tile tile;
    int rc[2];

    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < 2; i++)
        rc[i] = codec_decode(codecs[k][i], data, size, 0, out[i], cols, ROWS_MAX, &tile);
    REQUIRE(rc[0] == rc[1]);
    if (rc[0])
        return;
    REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
    for (uint32_t i = 0; i < ROWS_MAX * cols; i++)
        REQUIRE(isfinite(out[0][i]));
}

/* One message, each tile decoded as it comes. Returns what its encoder returned last. */
static int round_trip(struct codec *c, const struct kind *k, const float *rows, uint32_t n_rows,
                      size_t capacity, float *out, uint64_t *hash)
{
    struct codec_cursor at = {0, 0};
    struct codec_stats stats = {0};
    int bytes = 0;

    while (at.row < n_rows) {
        const uint32_t row = at.row;
        const uint64_t fallen = stats.rows_fallback;
        uint8_t *packet = malloc(capacity);
        struct codec_tile tile;
        bytes = codec_encode(c, rows, k->cols, n_rows, 0, &at, packet, capacity, &stats);
        if (bytes > 0) {
            REQUIRE((size_t)bytes <= capacity);
            REQUIRE(codec_decode(c, packet, (size_t)bytes, 0, out, k->cols, n_rows, &tile) == 0);
            REQUIRE(stats.rows_fallback == fallen || tile.mode == CODEC_TSQ);
            for (int i = 0; i < bytes; i++)
                *hash = (*hash ^ packet[i]) * 0x100000001b3u;
        }
        /* of its own step, and so of its own bound */
        if (bytes > 0 && tile.mode == CODEC_RANS && tile.n_tokens == 1 &&
            (packet[1] >> 2 & 7) == TILE_RANS && tile.n_cols == k->cols) {
            const double delta = (double)coded_delta(packet[TILE_HEADER_BYTES]);
            for (uint32_t i = 0; i < k->cols; i++) {
                const double x = (double)rows[row * k->cols + i];
                REQUIRE(fabs(x - (double)out[row * k->cols + i]) <= .5001 * delta + 1e-6 * fabs(x));
            }
        }
        free(packet);
        if (bytes <= 0) {
            REQUIRE(bytes == -EDOM && stats.bad_token < n_rows && stats.bad_col < k->cols);
            return bytes;
        }
    }
    REQUIRE(stats.rows == n_rows);
    return bytes;
}

/* A step, a capacity and rows, of the input. */
struct message {
    struct codec_params params;
    uint32_t n_rows;
    size_t capacity;
    const float *rows;
};

static bool read_message(unsigned k, const uint8_t *data, size_t size, struct message *m)
{
    static float rows[ROWS_MAX * COLS_MAX];
    uint8_t choice[2];

    if (size < 6)
        return false;
    m->params = params[k];
    memcpy(&m->params.step, data, 4);
    memcpy(choice, data + 4, 2);
    data += 6;
    size -= 6;
    if (codec_params_check(&m->params))
        return false;
    m->n_rows = 1 + choice[0] % ROWS_MAX;
    m->capacity = codec_min_capacity(&m->params, kinds[k].cols) + 16 * (size_t)choice[1];
    memset(rows, 0, sizeof(rows));
    for (size_t i = 0; size && i < m->n_rows * kinds[k].cols; i++) { /* the bytes over and over */
        if (choice[0] & 128)
            rows[i] = (float)(int8_t)data[i % size];
        else
            for (unsigned b = 0; b < 4; b++)
                ((uint8_t *)&rows[i])[b] = data[(4 * i + b) % size];
    }
    m->rows = rows;
    return true;
}

static void encode_anything(unsigned k, const uint8_t *data, size_t size)
{
    static float out[2][ROWS_MAX * COLS_MAX];
    struct message m;
    uint64_t hash[2] = {0};
    int rc[2];

    if (!read_message(k, data, size, &m))
        return;
    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < 2; i++) {
        REQUIRE(codec_retune(codecs[k][i], &m.params) == 0);
        rc[i] = round_trip(codecs[k][i], &kinds[k], m.rows, m.n_rows, m.capacity, out[i], &hash[i]);
    }
    REQUIRE(rc[0] == rc[1] && hash[0] == hash[1]);
    REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
    for (size_t i = 0; rc[0] > 0 && i < m.n_rows * kinds[k].cols; i++)
        REQUIRE(isfinite(out[0][i]));
}

/* The message's tiles as they would come by packet, one of them damaged; all that the decoder said.
 */
static uint64_t decode_hurt(struct codec *c, const struct message *m, uint32_t cols,
                            const uint8_t damage[4], float *out, bool *refused)
{
    struct codec_cursor at = {0, 0};
    uint64_t said = 0;
    int rc;

    *refused = false;
    for (unsigned tile = 0; at.row < m->n_rows; tile++) {
        uint8_t *packet = malloc(m->capacity);
        int bytes = codec_encode(c, m->rows, cols, m->n_rows, 0, &at, packet, m->capacity, NULL);
        if (bytes <= 0) {
            free(packet);
            *refused = true;
            break;
        }
        if (tile == damage[0] % 4) {
            packet[(damage[1] | damage[2] << 8) % bytes] ^= damage[3];
            bytes -= damage[3] == 0; /* a byte short */
        }
        rc = codec_decode_later(c, packet, (size_t)bytes, 0, out, cols, m->n_rows, NULL);
        said = said * 31 + (unsigned)rc;
        *refused |= rc != 0;
        free(packet);
    }
    rc = codec_decode_finish(c);
    *refused |= rc != 0;
    return said * 31 + (unsigned)rc;
}

static void decode_message(unsigned k, const uint8_t *data, size_t size)
{
    static float out[2][ROWS_MAX * COLS_MAX];
    struct message m;
    uint64_t said[2];
    bool refused[2];

    if (size < 4 || !read_message(k, data + 4, size - 4, &m))
        return;
    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < 2; i++) {
        REQUIRE(codec_retune(codecs[k][i], &m.params) == 0);
        said[i] = decode_hurt(codecs[k][i], &m, kinds[k].cols, data, out[i], &refused[i]);
    }
    REQUIRE(said[0] == said[1]);
    if (refused[0])
        return;
    REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
    for (size_t i = 0; i < m.n_rows * kinds[k].cols; i++)
        REQUIRE(isfinite(out[0][i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const directions[DIRECTIONS])(unsigned, const uint8_t *, size_t) = {
        encode_anything, decode_anything, decode_message};

    if (size == 0)
        return 0;
    directions[data[0] % DIRECTIONS](data[0] / DIRECTIONS % KINDS, data + 1, size - 1);
    return 0;
}
