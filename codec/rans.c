/* SPDX-License-Identifier: Apache-2.0 */
/* Tables, calls and the C kernels, which define the format. */
#include "codec/rans.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/rans_kernels.h"

#define N_MAX ((size_t)1 << 30)

static bool freqs_ok(const uint16_t freq[RANS_SYMBOLS])
{
    uint32_t sum = 0;

    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        sum += freq[s];
    return sum == RANS_TOTAL;
}

int rans_table_init(struct rans_table *table, const uint16_t freq[RANS_SYMBOLS])
{
    struct rans_table t = {0};
    unsigned start = 0, rank = 0;

    if (!freqs_ok(freq))
        return -EINVAL;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        if (freq[s] == RANS_TOTAL) /* frequencies are bytes, to save the kernels a special case */
            t.freq[s ^ 1] = 1;
        t.freq[s] |= (uint8_t)(freq[s] < RANS_TOTAL ? freq[s] : RANS_TOTAL - 1);
    }
    memset(t.last, 255 ^ 128, sizeof(t.last));
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        unsigned recip;
        if (t.freq[s] == 0)
            continue;
        recip = t.freq[s] > 1 ? 65536u / t.freq[s] : 65535;
        t.start[s] = (uint8_t)start;
        t.recip_low[s] = (uint8_t)recip;
        t.recip_high[s] = (uint8_t)(recip >> 8);
        if (rank > 0)
            t.last[rank] = (uint8_t)((start - 1) ^ 128);
        t.rank_freq[rank] = t.freq[s];
        t.rank_start[rank] = (uint8_t)start;
        t.rank_symbol[rank++] = (uint8_t)s;
        start += t.freq[s];
    }
    *table = t;
    return 0;
}

void rans_family_init(struct rans_table tables[RANS_FAMILY])
{
    for (unsigned k = 0; k < RANS_FAMILY; k++) {
        uint16_t freq[RANS_SYMBOLS];
        for (unsigned s = 0; s < RANS_SYMBOLS; s++)
            freq[s] = rans_family[k][s];
        (void)rans_table_init(&tables[k], freq); /* they add up: test_rans.c */
    }
}

/* What one more of RANS_TOTAL slots saves a symbol that has f, in nats a count:
 * log((f + 1) / f) = 2 artanh(1 / (2 f + 1)). By its series and not by log(), whose last bits
 * differ between machines. */
static double gain_of_one(uint32_t count, unsigned f)
{
    const double z = 1.0 / (2.0 * f + 1.0), zz = z * z;
    double sum = 0.0;

    for (int k = 31; k > 0; k -= 2)
        sum = sum * zz + 1.0 / k;
    return 2.0 * z * sum * count;
}

/* The gain falls with f, so an allocation that no single move improves is the best of all. */
int rans_quantize_freqs(const uint32_t counts[RANS_SYMBOLS], uint16_t keep,
                        uint16_t freq[RANS_SYMBOLS])
{
    double up[RANS_SYMBOLS], down[RANS_SYMBOLS]; /* what one more saves, what one less costs */
    uint64_t total = 0;
    int spare = RANS_TOTAL;

    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        total += counts[s];
    if (total == 0)
        return -EINVAL;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        freq[s] = (uint16_t)((uint64_t)counts[s] * RANS_TOTAL / total);
        if (freq[s] == 0 && (counts[s] || keep >> s & 1))
            freq[s] = 1;
        spare -= freq[s];
        up[s] = freq[s] ? gain_of_one(counts[s], freq[s]) : -1.0;
        down[s] = freq[s] > 1 ? gain_of_one(counts[s], freq[s] - 1u) : (double)INFINITY;
    }
    for (;;) {
        unsigned more = 0, less = 0;
        for (unsigned s = 1; s < RANS_SYMBOLS; s++) {
            more = up[s] > up[more] ? s : more;
            less = down[s] < down[less] ? s : less;
        }
        if (spare == 0 && !(up[more] > down[less]))
            return 0;
        if (spare >= 0) {
            freq[more]++;
            spare--;
            down[more] = up[more];
            up[more] = gain_of_one(counts[more], freq[more]);
        } else {
            freq[less]--;
            spare++;
            up[less] = down[less];
            down[less] =
                freq[less] > 1 ? gain_of_one(counts[less], freq[less] - 1u) : (double)INFINITY;
        }
    }
}

size_t rans_bound(size_t n, unsigned lanes)
{
    return 2 * (size_t)lanes + n; /* no symbol takes more than one byte */
}

static bool args_ok(size_t n, unsigned lanes)
{
    return n % RANS_GROUP == 0 && n <= N_MAX && lanes >= 4 && lanes <= RANS_LANES_MAX &&
           (lanes & (lanes - 1)) == 0;
}

int rans_encode(const struct codec_dsp *dsp, const struct rans_model *model, const uint8_t *symbols,
                size_t n, unsigned lanes, const uint8_t *seeds, uint8_t *dst, size_t capacity)
{
    struct rans_states st;
    uint8_t *end, *p;

    if (!args_ok(n, lanes))
        return -EINVAL;
    if (capacity < rans_bound(n, lanes))
        return -ENOSPC;
    end = dst + rans_bound(n, lanes);
    memset(st.high, 1, sizeof(st.high));
    memcpy(st.low, seeds, lanes);
    p = dsp->rans_encode[RANS_WIDTH(lanes)](model, symbols, n, &st, end);
    if (!p)
        return -EINVAL;
    memcpy(dst, st.high, lanes);
    memcpy(dst + lanes, st.low, lanes);
    memmove(dst + 2 * (size_t)lanes, p, (size_t)(end - p));
    return (int)(2 * lanes + (size_t)(end - p));
}

int rans_decode(const struct codec_dsp *dsp, const struct rans_model *model, const uint8_t *src,
                size_t len, size_t n, unsigned lanes, uint8_t *symbols, uint8_t *seeds)
{
    struct rans_states st;
    bool good = true;

    if (!args_ok(n, lanes))
        return -EINVAL;
    if (len < 2 * (size_t)lanes)
        return -EBADMSG;
    memcpy(st.high, src, lanes);
    memcpy(st.low, src + lanes, lanes);
    if (memchr(st.high, 0, lanes))
        return -EBADMSG;
    src += 2 * (size_t)lanes;
    len -= 2 * (size_t)lanes;
    if (dsp->rans_decode[RANS_WIDTH(lanes)](model, src, len, n, &st, symbols) != len)
        return -EBADMSG;
    for (unsigned i = 0; i < lanes; i++)
        good &= st.high[i] == 1;
    memcpy(seeds, st.low, lanes);
    return good ? 0 : -EBADMSG;
}

static inline uint8_t *encode(const struct rans_model *model, const uint8_t *symbols, size_t n,
                              struct rans_states *st, uint8_t *end, unsigned lanes)
{
    bool good = true;

    for (size_t i = n; i-- > 0;) {
        const struct rans_table *t = rans_table_at(model, i);
        const unsigned s = symbols[i] % RANS_SYMBOLS, f = t->freq[s];
        uint8_t *high = &st->high[i % lanes], *low = &st->low[i % lanes];
        unsigned x = *high << 8 | *low;

        if (symbols[i] >= RANS_SYMBOLS || f == 0) {
            good = false;
            continue;
        }
        if (x >= f << 8) {
            *--end = *low;
            x >>= 8;
        }
        *high = (uint8_t)(x / f);
        *low = (uint8_t)(t->start[s] + x % f);
    }
    return good ? end : NULL;
}

/* The last rank that begins at or before the slot. */
static inline unsigned find_rank(const struct rans_table *t, unsigned slot)
{
    unsigned rank = 0;

    for (unsigned step = RANS_SYMBOLS / 2; step; step /= 2)
        rank += step & -(unsigned)(slot > (t->last[rank + step] ^ 128u)); /* no branch to guess */
    return rank;
}

static inline size_t decode(const struct rans_model *model, const uint8_t *src, size_t len,
                            size_t n, struct rans_states *st, uint8_t *symbols, unsigned lanes)
{
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        const struct rans_table *t = rans_table_at(model, i);
        uint8_t *high = &st->high[i % lanes], *low = &st->low[i % lanes];
        const unsigned rank = find_rank(t, *low);
        unsigned x = (unsigned)t->rank_freq[rank] * *high + *low - t->rank_start[rank];

        if (x < 256) {
            if (at == len)
                return RANS_RAN_OUT;
            x = x << 8 | src[at++];
        }
        *high = (uint8_t)(x >> 8);
        *low = (uint8_t)x;
        symbols[i] = t->rank_symbol[rank];
    }
    return at;
}

RANS_KERNELS

void rans_dsp_init(struct codec_dsp *dsp, unsigned flags)
{
    set_kernels(dsp);
#if defined(CODEC_X86)
    if (flags & CPU_AVX2)
        rans_dsp_init_avx2(dsp);
    if (flags & CPU_AVX512)
        rans_dsp_init_avx512(dsp);
#endif
}
