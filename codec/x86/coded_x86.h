/* SPDX-License-Identifier: Apache-2.0 */
/* What the coded modes' kernels of both x86 instruction sets share, in 256-bit registers. */
#ifndef ISTHMUS_CODEC_X86_CODED_X86_H
#define ISTHMUS_CODEC_X86_CODED_X86_H

#include <immintrin.h>

#include "codec/dsp.h"
#include "codec/levels.h"

static inline __m256i row_16(const uint8_t row[RANS_SYMBOLS])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)row));
}

static inline uint64_t sum_64(__m256i v)
{
    uint64_t lane[4];

    _mm256_storeu_si256((__m256i *)lane, v);
    return lane[0] + lane[1] + lane[2] + lane[3];
}

/* symbols_of is the instruction set's own: 32 coefficients as symbols, 16 for an escape, in any
 * order. */
static inline __attribute__((always_inline)) uint32_t
cost_by(__m256i (*symbols_of)(const int16_t *k, unsigned shift), const struct levels *l,
        const int16_t *k, const int8_t *level, int offset, size_t groups)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i low = zero, high = zero;
    uint64_t bits = 0;

    for (size_t g = 0; g < groups; g++) {
        const unsigned at = level_index(level[g], offset);
        const unsigned table = l->table[at], shift = l->shift[at];
        const __m256i s = symbols_of(k + g * RANS_GROUP, shift);
        const __m256i a = _mm256_shuffle_epi8(row_16(l->cost_low[table]), s);
        const __m256i b = _mm256_shuffle_epi8(row_16(l->cost_high[table]), s);
        low = _mm256_add_epi64(low, _mm256_sad_epu8(a, zero));
        high = _mm256_add_epi64(high, _mm256_sad_epu8(b, zero));
        bits += shift;
    }
    return (uint32_t)(sum_64(low) + 256 * (sum_64(high) + RANS_GROUP * bits));
}

#endif
