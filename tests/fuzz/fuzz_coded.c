/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tiles of the modes rans and xform, both ways, with made-up profiles. The first byte says which
 * codec and direction; then the rest is a tile for the decoder, or a step, a capacity and rows,
 * that must come back as promised and alike on every ISA.
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

#define KINDS    5u
#define COLS_MAX 2080u /* two blocks; their transform is slow in C */
#define ROWS_MAX 4u

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
    {CODEC_RANS, 64, 0, false},  {CODEC_RANS, COLS_MAX, 0, true},
};

static struct codec *codecs[KINDS][2]; /* in C, and with all there is */
static struct codec_params params[KINDS];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    for (unsigned k = 0; k < KINDS; k++) {
        struct codec_profile *p = NULL;
        if (kinds[k].profiled) {
            REQUIRE(codec_synth_profile(kinds[k].cols, kinds[k].classes, k, &p) == 0);
            p->blocks[0].scalar.pre[3] = 3;
            p->blocks[0].xform.pre[0] = 5;
            p->blocks[0].xform.level[1] = -100;
        }
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

static void encode_anything(unsigned k, const uint8_t *data, size_t size)
{
    static float rows[ROWS_MAX * COLS_MAX], out[2][ROWS_MAX * COLS_MAX];
    struct codec_params p = params[k];
    const uint32_t cols = kinds[k].cols;
    uint32_t n_rows;
    uint64_t hash[2] = {0};
    uint8_t choice[2];
    size_t capacity;
    int rc[2];

    if (size < 6)
        return;
    memcpy(&p.step, data, 4);
    memcpy(choice, data + 4, 2);
    data += 6;
    size -= 6;
    if (codec_params_check(&p))
        return;
    n_rows = 1 + choice[0] % ROWS_MAX;
    capacity = codec_min_capacity(&p, cols) + 16 * (size_t)choice[1];
    memset(out, 0, sizeof(out));
    memset(rows, 0, sizeof(rows));
    for (size_t i = 0; size && i < n_rows * cols; i++) { /* the bytes over and over */
        if (choice[0] & 128)
            rows[i] = (float)(int8_t)data[i % size];
        else
            for (unsigned b = 0; b < 4; b++)
                ((uint8_t *)&rows[i])[b] = data[(4 * i + b) % size];
    }
    for (unsigned i = 0; i < 2; i++) {
        REQUIRE(codec_retune(codecs[k][i], &p) == 0);
        rc[i] = round_trip(codecs[k][i], &kinds[k], rows, n_rows, capacity, out[i], &hash[i]);
    }
    REQUIRE(rc[0] == rc[1] && hash[0] == hash[1]);
    REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
    for (size_t i = 0; rc[0] > 0 && i < n_rows * cols; i++)
        REQUIRE(isfinite(out[0][i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1)
        decode_anything(data[0] / 2 % KINDS, data + 1, size - 1);
    else
        encode_anything(data[0] / 2 % KINDS, data + 1, size - 1);
    return 0;
}
