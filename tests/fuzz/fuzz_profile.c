/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Profiles: any bytes are parsed or refused, what is parsed serializes to the same bytes, and rows
 * are coded by it alike on every ISA, however little sense it makes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "codec/codec.h"
#include "codec/cpu.h"
#include "codec/profile.h"

#define HASH_AT     8u
#define HASHED_FROM 24u
#define COLS_MAX    100u /* of profiles to code by: wider ones are slow */
#define ROWS        3u
#define CAPACITY    4096u

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Near the mean, far from it, and of any bytes. */
static void make_rows(const struct codec_profile *p, const uint8_t *data, size_t size, float *rows)
{
    for (uint32_t i = 0; i < p->cols; i++) {
        const float byte = (float)(int8_t)data[i % size];
        float any;
        memcpy(&any, data + 4 * i % (size - 3), sizeof(any));
        rows[i] = p->mean[i] + byte * p->ref_norm / 1024;
        rows[p->cols + i] = byte;
        rows[2 * p->cols + i] = isfinite(any) ? any : byte;
    }
}

/* What the decoder says of the tiles; it may refuse what such a profile makes infinite. */
static int round_trip(struct codec *c, const float *rows, uint32_t cols, uint64_t *hash, float *out)
{
    struct codec_cursor at = {0, 0};
    uint8_t tile[CAPACITY];
    int refused = 0;

    while (at.row < ROWS) {
        const int bytes = codec_encode(c, rows, cols, ROWS, 0, &at, tile, CAPACITY, NULL);
        REQUIRE(bytes > 0);
        *hash = XXH3_64bits_withSeed(tile, (size_t)bytes, *hash);
        refused |= codec_decode_later(c, tile, (size_t)bytes, 0, out, cols, ROWS, NULL);
    }
    return refused | codec_decode_finish(c);
}

static void code_by(const struct codec_profile *p, enum codec_mode mode, const float *rows)
{
    struct codec_params params = codec_params_default(mode);
    float out[2][ROWS * COLS_MAX] = {{0}};
    uint64_t hash[2] = {0};
    int rc[2];

    params.profile = p;
    for (unsigned i = 0; i < 2; i++) {
        struct codec *c;
        cpu_set_mask(i ? CPU_ALL : 0);
        REQUIRE(codec_open(&params, p->cols, &c) == 0);
        rc[i] = round_trip(c, rows, p->cols, &hash[i], out[i]);
        codec_close(c);
    }
    REQUIRE(rc[0] == rc[1] && hash[0] == hash[1]);
    REQUIRE(rc[0] || memcmp(out[0], out[1], sizeof(out[0])) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *src = malloc(size ? size : 1), *bytes;
    struct codec_profile *p;
    char err[CODEC_PROFILE_ERR];
    size_t len;

    memcpy(src, data, size);
    if (size >= HASHED_FROM) { /* the hash keeps a fuzzer out */
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(src + HASHED_FROM, size - HASHED_FROM));
        memcpy(src + HASH_AT, canonical.digest, 16);
    }
    if (codec_profile_parse(src, size, &p, err) == 0) {
        REQUIRE(codec_profile_serialize(p, &bytes, &len, err) == 0);
        REQUIRE(len == size && memcmp(bytes, src, len) == 0);
        if (p->cols <= COLS_MAX) {
            float rows[ROWS * COLS_MAX];
            make_rows(p, bytes, len, rows);
            code_by(p, CODEC_RANS, rows);
            code_by(p, CODEC_XFORM, rows);
        }
        free(bytes);
        codec_profile_free(p);
    }
    free(src);
    return 0;
}
