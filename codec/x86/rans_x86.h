/* SPDX-License-Identifier: Apache-2.0 */
/* What the rANS kernels for AVX2 and AVX-512 share. */
#ifndef ISTHMUS_CODEC_X86_RANS_X86_H
#define ISTHMUS_CODEC_X86_RANS_X86_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "codec/dsp.h"
#include "codec/rans_kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline)) /* a copy for each number of lanes */

static inline __m256i load16_twice(const uint8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}

/* A step of all lanes reads up to FAR bytes on. The last ones of src are read from a copy with room
 * behind it. */
#define FAR 64

struct source {
    const uint8_t *at, *end;
    bool copied;
};

/* False when more was taken than there is. */
static inline bool source_check(struct source *s, uint8_t copy[2 * FAR])
{
    if (__builtin_expect(s->end - s->at >= FAR, 1))
        return true;
    if (!s->copied) {
        const size_t rest = (size_t)(s->end - s->at);
        memset(copy, 0, 2 * FAR);
        memcpy(copy, s->at, rest);
        *s = (struct source){copy, copy + rest, true};
    }
    return s->at <= s->end;
}

static inline void store_upper8(uint8_t *p, __m128i v)
{
    const long long upper = _mm_extract_epi64(v, 1);
    memcpy(p, &upper, sizeof(upper));
}

/* For a mask of 8 bytes the shuffle that moves those bytes, in order, to the top. */
extern const uint64_t rans_to_top[256];

/* Write the bytes of v that mask names, in lane order, so that they end at end. Returns where
 * they begin; up to 8 bytes before that are overwritten. */
static inline uint8_t *put_bytes(uint8_t *end, __m256i v, unsigned mask)
{
    const unsigned m0 = mask & 0xff, m1 = mask >> 8 & 0xff, m2 = mask >> 16 & 0xff, m3 = mask >> 24;
    const __m256i upper = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808);
    __m256i order = _mm256_setr_epi64x((long long)rans_to_top[m0], (long long)rans_to_top[m1],
                                       (long long)rans_to_top[m2], (long long)rans_to_top[m3]);
    __m128i half;

    v = _mm256_shuffle_epi8(v, _mm256_or_si256(order, upper));
    half = _mm256_extracti128_si256(v, 1);
    store_upper8(end - 8, half);
    end -= __builtin_popcount(m3);
    _mm_storel_epi64((__m128i *)(end - 8), half);
    end -= __builtin_popcount(m2);
    half = _mm256_castsi256_si128(v);
    store_upper8(end - 8, half);
    end -= __builtin_popcount(m1);
    _mm_storel_epi64((__m128i *)(end - 8), half);
    return end - __builtin_popcount(m0);
}

#endif
