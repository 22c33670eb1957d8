/* SPDX-License-Identifier: Apache-2.0 */
/* rANS: any bytes decode, or fail, alike on C and on the best ISA; any symbols come back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/dsp.h"

#define N_MAX  512u
#define TABLES 4u

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct choice {
    uint8_t lanes, groups, tables, keep;
    uint8_t seeds[RANS_LANES_MAX];
    uint8_t counts[TABLES][RANS_SYMBOLS];
    uint8_t table_of[N_MAX / RANS_GROUP];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct codec_dsp dsp[2]; /* C, the best */
static struct rans_table tables[TABLES];
static uint16_t freq[TABLES][RANS_SYMBOLS];

static void decode_anything(const struct rans_model *model, size_t n, unsigned lanes,
                            const uint8_t *data, size_t size)
{
    uint8_t symbols[2][N_MAX], seeds[2][RANS_LANES_MAX];
    uint8_t *src = malloc(size); /* its end is ASan's */
    int rc[2];

    memcpy(src, data, size);
    for (unsigned i = 0; i < 2; i++)
        rc[i] = rans_decode(&dsp[i], model, src, size, n, lanes, symbols[i], seeds[i]);
    REQUIRE(rc[0] == rc[1]);
    if (rc[0] == 0) {
        REQUIRE(memcmp(symbols[0], symbols[1], n) == 0);
        REQUIRE(memcmp(seeds[0], seeds[1], lanes) == 0);
    }
    free(src);
}

static void encode_anything(const struct rans_model *model, size_t n, unsigned lanes,
                            const uint8_t *seeds, const uint8_t *data, size_t size)
{
    uint8_t symbols[N_MAX], out[N_MAX], seeds_out[RANS_LANES_MAX];
    uint8_t *dst[2];
    bool good = true;
    int len[2];

    for (size_t i = 0; i < n; i++) {
        const uint8_t v = size ? data[i % size] : 0;
        symbols[i] = v < 0xf0 ? v % RANS_SYMBOLS : v;
        good &= symbols[i] < RANS_SYMBOLS &&
                model->tables[model->table_of[i / RANS_GROUP]].freq[symbols[i]];
    }
    for (unsigned i = 0; i < 2; i++) {
        dst[i] = malloc(rans_bound(n, lanes));
        len[i] =
            rans_encode(&dsp[i], model, symbols, n, lanes, seeds, dst[i], rans_bound(n, lanes));
    }
    REQUIRE(len[0] == len[1]);
    REQUIRE((len[0] > 0) == good);
    if (good) {
        REQUIRE(memcmp(dst[0], dst[1], (size_t)len[0]) == 0);
        REQUIRE(rans_decode(&dsp[1], model, dst[1], (size_t)len[1], n, lanes, out, seeds_out) == 0);
        REQUIRE(memcmp(out, symbols, n) == 0 && memcmp(seeds_out, seeds, lanes) == 0);
    }
    free(dst[0]);
    free(dst[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choice ch;
    struct rans_model model = {tables, ch.table_of};
    unsigned lanes;
    size_t n;

    if (size < sizeof(ch))
        return 0;
    memcpy(&ch, data, sizeof(ch));
    data += sizeof(ch);
    size -= sizeof(ch);
    codec_dsp_init(&dsp[0], 0);
    codec_dsp_init(&dsp[1], cpu_detect());
    lanes = 4u << ch.lanes % 5;
    n = RANS_GROUP * (ch.groups % (N_MAX / RANS_GROUP + 1));
    for (unsigned k = 0; k < TABLES; k++) {
        uint32_t counts[RANS_SYMBOLS];
        unsigned sum = 0;
        for (unsigned s = 0; s < RANS_SYMBOLS; s++)
            counts[s] = ch.counts[k][s];
        if (rans_quantize_freqs(counts, ch.keep, freq[k]))
            freq[k][ch.keep % RANS_SYMBOLS] = RANS_TOTAL;
        for (unsigned s = 0; s < RANS_SYMBOLS; s++)
            sum += freq[k][s];
        REQUIRE(sum == RANS_TOTAL);
        REQUIRE(rans_table_init(&tables[k], freq[k]) == 0);
        memset(freq[k], 0, sizeof(freq[k]));
    }
    for (size_t g = 0; g < N_MAX / RANS_GROUP; g++)
        ch.table_of[g] %= TABLES;
    decode_anything(&model, n, lanes, data, size);
    encode_anything(&model, n, lanes, ch.seeds, data, size);
    return 0;
}
