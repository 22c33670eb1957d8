/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tiles, both ways. The first byte says which: an odd one makes the rest a tile for the decoder; an
 * even one makes it parameters, a capacity and rows, that must come back as promised and alike on
 * every ISA.
 */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codec/codec.h"
#include "codec/cpu.h"

#define COLS_MAX 4200u /* wide rows too, of which a sample tells the step */
#define ROWS_MAX 3u

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct codec *open_masked(const struct codec_params *p, uint32_t cols, unsigned mask)
{
    struct codec *c;

    cpu_set_mask(mask);
    REQUIRE(codec_open(p, cols, &c) == 0);
    return c;
}

static void decode_anything(const uint8_t *data, size_t size)
{
    static float out[2][ROWS_MAX][COLS_MAX];
    struct codec_tile tile;
    struct codec_params p;
    int rc[2];

    if (codec_peek(data, size, COLS_MAX, &tile))
        return;
    p = codec_params_default(tile.mode);
    if (codec_params_check(&p)) /* xform needs a profile: fuzz_coded */
        return;
    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < 2; i++) {
        struct codec *c = open_masked(&p, COLS_MAX, i ? CPU_ALL : 0);
        rc[i] = codec_decode(c, data, size, 0, out[i][0], COLS_MAX, ROWS_MAX, &tile);
        codec_close(c);
    }
    REQUIRE(rc[0] == rc[1]);
    if (rc[0] == 0)
        REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
}

/* One message, each tile decoded as it comes. Returns what its encoder returned last. */
static int round_trip(struct codec *c, const float *rows, uint32_t cols, uint32_t n_rows,
                      size_t capacity, float *out, uint64_t *hash)
{
    struct codec_cursor at = {0, 0};
    struct codec_stats stats = {0};
    int bytes = 0;

    while (at.row < n_rows) {
        uint8_t *packet = malloc(capacity);
        bytes = codec_encode(c, rows, cols, n_rows, 0, &at, packet, capacity, &stats);
        if (bytes > 0) {
            REQUIRE((size_t)bytes <= capacity);
            REQUIRE(codec_decode(c, packet, (size_t)bytes, 0, out, cols, n_rows, NULL) == 0);
            for (int i = 0; i < bytes; i++)
                *hash = (*hash ^ packet[i]) * 0x100000001b3u;
        }
        free(packet);
        if (bytes <= 0) {
            REQUIRE(bytes == -EDOM && stats.bad_token < n_rows && stats.bad_col < cols);
            return bytes;
        }
    }
    REQUIRE(stats.rows == n_rows);
    return bytes;
}

struct choice {
    uint8_t mode, rule, qmin, qmax, rows, capacity;
    uint16_t cols;
    float tau, delta;
};

static void encode_anything(const uint8_t *data, size_t size)
{
    static float rows[ROWS_MAX * COLS_MAX], out[2][ROWS_MAX * COLS_MAX];
    struct choice ch;
    struct codec_params p;
    uint32_t cols, n_rows;
    size_t capacity, least, bound;
    uint64_t hash[2] = {0};
    int rc[2];

    if (size < sizeof(ch))
        return;
    memcpy(&ch, data, sizeof(ch));
    data += sizeof(ch);
    size -= sizeof(ch);
    p = (struct codec_params){(enum codec_mode)(ch.mode % 3),
                              (enum codec_tau_rule)(ch.rule % 2),
                              ch.tau,
                              ch.delta,
                              ch.qmin,
                              ch.qmax};
    if (codec_params_check(&p))
        return;
    cols = 1 + ch.cols % COLS_MAX;
    n_rows = 1 + ch.rows % ROWS_MAX;
    memset(rows, 0, sizeof(rows));
    memset(out, 0, sizeof(out));
    for (size_t i = 0; size && i < n_rows * cols; i++) /* the bytes over and over */
        for (unsigned k = 0; k < 4; k++)
            ((uint8_t *)&rows[i])[k] = data[(4 * i + k) % size];
    least = codec_min_capacity(&p, cols);
    bound = codec_bound(&p, n_rows, cols);
    capacity = least + (bound - least) * ch.capacity / 255;
    for (unsigned i = 0; i < 2; i++) {
        struct codec *c = open_masked(&p, cols, i ? CPU_ALL : 0);
        rc[i] = round_trip(c, rows, cols, n_rows, capacity, out[i], &hash[i]);
        codec_close(c);
    }
    REQUIRE(rc[0] == rc[1] && hash[0] == hash[1]);
    REQUIRE(memcmp(out[0], out[1], sizeof(out[0])) == 0);
    for (size_t i = 0; rc[0] > 0 && i < n_rows * cols; i++) {
        if (p.mode == CODEC_F32)
            REQUIRE(memcmp(&rows[i], &out[0][i], 4) == 0);
        else
            REQUIRE(isfinite(out[0][i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1)
        decode_anything(data + 1, size - 1);
    else
        encode_anything(data + 1, size - 1);
    return 0;
}
