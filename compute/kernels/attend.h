/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over a KV cache in pages, and the formats that keys and values are cached in.
 *
 * A page holds KV_PAGE tokens. For each layer and KV head it has two tiles, one of keys and one of
 * values. Both are made of units of 16 lanes that a kernel reads one after another, and multiplies
 * each with one number of a query (keys) or of the probabilities (values):
 *
 *   f16   keys    f16[KV_PAGE/16][hd][16]       lane: token
 *         values  f16[hd/16][KV_PAGE][16]       lane: dim
 *   q8    keys    s8[KV_PAGE/16][hd/2][16][2]   lane: token; two dims beside each other
 *         values  s8[hd/16][KV_PAGE/2][16][2]   lane: dim; two tokens
 *   q4    keys    u8[KV_PAGE/16][hd/4][16][2]   as q8; low nibble dims 4k, 4k+1, high 4k+2, 4k+3
 *         values  u8[hd/32][KV_PAGE/2][16][2]   as q8; low nibble dims 32g + lane, high + 16
 *   q8, q4: then f16[KV_PAGE] scales, one a token
 *
 * q8 and q4 hold Hadamard transforms of heads, which leaves q.k as it is and spreads a channel that
 * is far greater than the others over all: then one scale a token is enough. q4's codes mean 16
 * levels that suit what a transformed channel looks like, a normal distribution (Lloyd and Max).
 * A token is cached as it is, whatever comes after it, so that sequences can be cut anywhere.
 *
 * Queries are then int16, with a scale for each, and so are the probabilities of a page: products
 * with codes are exact integers.
 *
 * Order of sums. Within a page: over dims, over tokens, in order; the probabilities of a page
 * relative to its greatest. Pages are folded in order within spans of KV_SPAN_PAGES, and spans in
 * order: so threads may take spans, and the bits depend on positions only.
 */
#ifndef ISTHMUS_COMPUTE_ATTEND_H
#define ISTHMUS_COMPUTE_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#define KV_PAGE       64u
#define KV_SPAN_PAGES 4u
#define KV_SPAN       (KV_PAGE * KV_SPAN_PAGES)

enum kv_format {
    KV_F16,
    KV_Q8,
    KV_K8V4, /* keys as q8, values as q4: keys are what costs quality */
    KV_Q4,
    KV_FORMATS
};

/* Of one tile. */
enum kv_code { KV_CODE_F16, KV_CODE_Q8, KV_CODE_Q4 };

static inline enum kv_code kv_key_code(enum kv_format f)
{
    return f == KV_F16 ? KV_CODE_F16 : f == KV_Q4 ? KV_CODE_Q4 : KV_CODE_Q8;
}

static inline enum kv_code kv_value_code(enum kv_format f)
{
    return f == KV_F16 ? KV_CODE_F16 : f == KV_Q8 ? KV_CODE_Q8 : KV_CODE_Q4;
}

/* "f16", "q8", "k8v4", "q4"; "?" for what is none. */
static inline const char *kv_format_name(enum kv_format f)
{
    static const char *const names[KV_FORMATS] = {"f16", "q8", "k8v4", "q4"};

    return f < KV_FORMATS ? names[f] : "?";
}

#define KV_HEAD_DIM_MAX 512u
#define KV_F16_MAX      65504.f
#define KV_QUERY_MAX    32767.f /* of a query's and a weight's integers: 127 of them 512 times fit */

/* q4's codes mean these; a channel of deviation 1 is scaled by KV_LEVELS_RMS before the nearest is
 * taken. */
#define KV_LEVELS_RMS 46.476f
static const int8_t kv_levels[16] = {-127, -96, -75, -58, -44, -31, -18, -6,
                                     6,    18,  31,  44,  58,  75,  96,  127};

/* Bytes of a tile of keys, and of one of values; multiples of 64. Head dims: a multiple of 16, of
 * q4 values of 32. */
static inline size_t kv_code_bytes(enum kv_code c, size_t hd)
{
    const size_t n = KV_PAGE * hd;

    return c == KV_CODE_F16 ? n * 2 : (c == KV_CODE_Q8 ? n : n / 2) + KV_PAGE * 2;
}

static inline size_t kv_key_bytes(enum kv_format f, size_t hd)
{
    return kv_code_bytes(kv_key_code(f), hd);
}

static inline size_t kv_value_bytes(enum kv_format f, size_t hd)
{
    return kv_code_bytes(kv_value_code(f), hd);
}

/* Bytes of a query as query() makes it. */
static inline size_t attend_query_bytes(enum kv_format f, size_t hd)
{
    return hd * (f == KV_F16 ? sizeof(float) : sizeof(int16_t));
}

/* What a query has seen so far, f32[attend_state_floats(hd)]: sum of p v (hd), the greatest score,
 * sum of p. */
static inline size_t attend_state_floats(size_t hd)
{
    return hd + 16;
}

/* Tiles of the same format and head's size: of another the hint is off. */
struct attend_ahead {
    const uint8_t *keys, *values;
};

struct attend_kernels {
    /* Put one head's key or value, as token `at` of a page, into a tile. x f32[hd] is overwritten.
     * What f16 can't hold becomes the greatest that it can. */
    void (*put_key)(enum kv_format f, uint8_t *tile, size_t hd, size_t at, float *x);
    void (*put_value)(enum kv_format f, uint8_t *tile, size_t hd, size_t at, float *x);

    /* One query: q f32[hd], overwritten -> out, f32[hd] for KV_F16, else int16[hd]. Returns the
     * factor from its products with keys to scores, `scale` times what the format makes of it. */
    float (*query)(enum kv_format f, void *out, size_t hd, float *q, float scale);

    /*
     * n queries q[n][hd], as query() made them, with factors[n], see the first visible[i] >= 1
     * tokens of a page; state[n] goes on. All queries are of one KV head. What is read next is
     * fetched meanwhile, as much of it as of this page; NULL, or no keys: nothing.
     */
    void (*page)(enum kv_format f, const uint8_t *keys, const uint8_t *values, size_t hd, size_t n,
                 const void *q, const float *factors, const uint8_t *visible, float *state,
                 const struct attend_ahead *ahead);

    /* An empty state; the state after those of two ranges of tokens, the first in *state. */
    void (*begin)(float *state, size_t hd);
    void (*join)(float *state, const float *next, size_t hd);
    /* out f32[hd] = what the values give. */
    void (*finish)(enum kv_format f, float *out, float *state, size_t hd);
};

#endif
