/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention, written once over vectors of 16 virtual lanes as the row operations are, and included
 * after them. Beside theirs an ISA's file has defined
 *
 *   v_store_i16(p, x)        integers in [-32768, 32767]
 *   vp, vp_load8(p)          16 pairs of int16 from 32 int8
 *   vp_load4(p, high)        the same from the low or high nibbles of 32 bytes, by kv_levels
 *   vp_bcast(p)              the pair at p, 16 times
 *   vi, vi_zero()            16 int32
 *   vi_dot(acc, a, b)        acc + a[2i] b[2i] + a[2i+1] b[2i+1]
 *   vi_float(x)              rounded to nearest
 *   TILE_SUMS                sums of 16 lanes that registers hold, beside two vectors
 *   TILE_FN                  attributes of what must be inlined, for its registers
 */

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

#define TILE_QUERIES 6u /* of one pass over a page: what 16 registers hold */
#define N_UNITS      (KV_PAGE / 16)

/* --- Hadamard -------------------------------------------------------------------------------- */

/* Dims that are transformed together: the greatest power of two that divides hd. */
ROWS_FN size_t hadamard_dims(size_t hd)
{
    return hd & -hd;
}

/* Not normalised: twice gives hadamard_dims(hd) times x. */
ROWS_FN void hadamard(float *x, size_t hd)
{
    static const float sign[4][16] = {
        {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
        {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
        {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
        {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
    };
    size_t dims = hadamard_dims(hd);

    for (size_t h = dims / 2; h >= 16; h /= 2) {
        for (size_t i = 0; i < hd; i += 16) {
            v16 a = v_load(x + i), b;

            if (i & h)
                continue;
            b = v_load(x + i + h);
            v_store(x + i, v_add(a, b));
            v_store(x + i + h, v_sub(a, b));
        }
    }
    for (size_t i = 0; i < hd; i += 16) {
        v16 v = v_load(x + i);

        v = v_fma(v, v_load(sign[3]), v_swap(v, 8)); /* exact products: a sum, rounded once */
        v = v_fma(v, v_load(sign[2]), v_swap(v, 4));
        v = v_fma(v, v_load(sign[1]), v_swap(v, 2));
        v = v_fma(v, v_load(sign[0]), v_swap(v, 1));
        v_store(x + i, v);
    }
}

/* --- what is cached -------------------------------------------------------------------------- */

/* x in units of a scale -> codes int8[hd] of q8, or 0 .. 15 of q4; the scale as f16. */
ROWS_FN uint16_t codes_q8(int8_t *codes, const float *x, size_t hd)
{
    const v16 lo = v_set1(-127.f), hi = v_set1(127.f);
    v16 top = v_set1(0.f);

    for (size_t i = 0; i < hd; i += 16)
        top = v_max(v_abs(v_load(x + i)), top);
    float most = v_hmax(top) / 127.f;
    uint16_t d = f16_from_f32(most < KV_F16_MAX ? most : KV_F16_MAX);
    v16 inv = v_set1(d ? 1.f / f32_from_f16(d) : 0.f);
    for (size_t i = 0; i < hd; i += 16)
        v_store_i8(codes + i, v_round(v_max(lo, v_min(v_mul(v_load(x + i), inv), hi))));
    return d;
}

/* The nearest level; then the scale that makes the error of all least. */
ROWS_FN uint16_t codes_q4(int8_t *codes, const float *x, size_t hd)
{
    v16 sum = v_set1(0.f), dot = sum, square = sum;

    for (size_t i = 0; i < hd; i += 16)
        sum = v_fma(v_load(x + i), v_load(x + i), sum);
    float rms = sqrtf(v_sum(sum) / (float)hd);
    v16 inv = v_set1(rms > 0x1p-60f && rms < 0x1p60f ? KV_LEVELS_RMS / rms : 0.f);
    for (size_t i = 0; i < hd; i += 16) {
        v16 y = v_mul(v_load(x + i), inv), code = v_set1(0.f), level = v_set1((float)kv_levels[0]);

        for (size_t c = 1; c < 16; c++) {
            float here = (float)kv_levels[c], below = (float)kv_levels[c - 1];
            v16 bound = v_set1((here + below) / 2);

            code = v_add(code, v_zero_below(y, bound, v_set1(1.f)));
            level = v_add(level, v_zero_below(y, bound, v_set1(here - below)));
        }
        dot = v_fma(level, v_load(x + i), dot);
        square = v_fma(level, level, square);
        v_store_i8(codes + i, code);
    }
    float d = v_sum(dot) / v_sum(square);
    return f16_from_f32(d > 0.f ? (d < KV_F16_MAX ? d : KV_F16_MAX) : 0.f);
}

/* Codes and scale of a head: of what is left of x, its Hadamard transform. */
ROWS_FN void encode(enum kv_code c, uint8_t *tile, size_t hd, size_t at, float *x, int8_t *codes)
{
    hadamard(x, hd);
    uint16_t d = c == KV_CODE_Q8 ? codes_q8(codes, x, hd) : codes_q4(codes, x, hd);
    memcpy(tile + kv_code_bytes(c, hd) - KV_PAGE * 2 + at * 2, &d, 2);
}

ROWS_FN void to_f16(uint16_t *y, const float *x, size_t hd)
{
    const v16 lo = v_set1(-KV_F16_MAX), hi = v_set1(KV_F16_MAX);

    for (size_t i = 0; i < hd; i += 16)
        v_storeh(y + i, v_max(lo, v_min(v_load(x + i), hi)));
}

ROWS_FN void put_key(enum kv_format f, uint8_t *tile, size_t hd, size_t at, float *x)
{
    uint16_t h[KV_HEAD_DIM_MAX];
    int8_t c[KV_HEAD_DIM_MAX];
    const enum kv_code code = kv_key_code(f);
    size_t unit = at / 16, lane = at % 16;

    if (code == KV_CODE_F16) {
        to_f16(h, x, hd);
        for (size_t i = 0; i < hd; i++)
            memcpy(tile + ((unit * hd + i) * 16 + lane) * 2, &h[i], 2);
        return;
    }
    encode(code, tile, hd, at, x, c);
    if (code == KV_CODE_Q8)
        for (size_t i = 0; i < hd; i++)
            tile[(unit * hd / 2 + i / 2) * 32 + lane * 2 + i % 2] = (uint8_t)c[i];
    else
        for (size_t i = 0; i < hd; i += i % 2 ? 3 : 1)
            tile[(unit * hd / 4 + i / 4) * 32 + lane * 2 + i % 2] = (uint8_t)(c[i] | c[i + 2] << 4);
}

ROWS_FN void put_value(enum kv_format f, uint8_t *tile, size_t hd, size_t at, float *x)
{
    uint16_t h[KV_HEAD_DIM_MAX];
    int8_t c[KV_HEAD_DIM_MAX];
    const enum kv_code code = kv_value_code(f);

    if (code == KV_CODE_F16) {
        to_f16(h, x, hd);
        for (size_t i = 0; i < hd; i += 16)
            memcpy(tile + (i * KV_PAGE + at * 16) * 2, h + i, 32);
        return;
    }
    encode(code, tile, hd, at, x, c);
    if (code == KV_CODE_Q8)
        for (size_t i = 0; i < hd; i++)
            tile[(i / 16 * KV_PAGE / 2 + at / 2) * 32 + i % 16 * 2 + at % 2] = (uint8_t)c[i];
    else
        for (size_t i = 0; i < hd; i += i % 32 == 15 ? 17 : 1)
            tile[(i / 32 * KV_PAGE / 2 + at / 2) * 32 + i % 16 * 2 + at % 2] =
                (uint8_t)(c[i] | c[i + 16] << 4);
}

ROWS_FN float query(enum kv_format f, void *out, size_t hd, float *q, float scale)
{
    v16 top = v_set1(0.f);

    if (f == KV_F16) {
        memcpy(out, q, hd * sizeof(*q));
        return scale;
    }
    hadamard(q, hd);
    for (size_t i = 0; i < hd; i += 16)
        top = v_max(v_abs(v_load(q + i)), top);
    float most = v_hmax(top);
    bool tiny = most < 0x1p-100f; /* its reciprocal might overflow */
    v16 inv = v_set1(tiny ? 0.f : KV_QUERY_MAX / most), lo = v_set1(-KV_QUERY_MAX),
        hi = v_set1(KV_QUERY_MAX);
    for (size_t i = 0; i < hd; i += 16)
        v_store_i16((int16_t *)out + i, v_round(v_max(lo, v_min(v_mul(v_load(q + i), inv), hi))));
    return tiny ? 0.f : most / KV_QUERY_MAX * scale / (float)hadamard_dims(hd);
}

/* --- units against R queries ----------------------------------------------------------------- */

/* Units at once: U * R sums that registers hold, and that do not wait for each other. Sums of
 * integers leave room for what the compiler makes of their products. */
#define SUMS(f)          ((f) == KV_F16 || TILE_SUMS < 12 ? TILE_SUMS : 12)
#define UNITS_MOST(R, f) (SUMS(f) / (R) >= 4 ? 4 : SUMS(f) / (R) >= 2 ? 2 : 1)
#define NTH(i)           ((i) % TILE_SUMS) /* i, which GCC does not always see to be less */

/* Asks for the two vectors, 64 bytes, of each unit that lie `ahead` bytes from those at `at`. Into
 * L2: in an L1 of 32 KiB a page to come would take the place of the one at work, and its misses are
 * too few at once to read at the memory's rate. */
TILE_FN void fetch(const size_t U, const uint8_t *at, size_t apart, ptrdiff_t ahead)
{
    UNROLL
    for (size_t u = 0; u < U; u++)
        __builtin_prefetch((const uint8_t *)((uintptr_t)(at + u * apart) + (uintptr_t)ahead), 0, 2);
}

/* acc[u][r] += a[r][k] times vector k of unit u. */
TILE_FN void dots_f16_step(const size_t R, const size_t U, const float *a, size_t stride,
                           const uint8_t *unit, size_t apart, size_t k, v16 *acc)
{
    UNROLL
    for (size_t u = 0; u < U; u++) {
        const v16 b = v_loadh((const uint16_t *)(const void *)(unit + u * apart + 32 * k));

        __asm__("" : "+r"(a)); /* or a[r] stay in registers that three queries do not leave */
        UNROLL
        for (size_t r = 0; r < R; r++)
            acc[u * R + r] = v_fma(v_set1(a[r * stride + k]), b, acc[u * R + r]);
    }
}

/* acc[u][r] = sum over k < n of a[r][k] times vector k of unit u; units are `apart` bytes apart. */
TILE_FN void dots_f16(const size_t R, const size_t U, const float *a, size_t stride,
                      const uint8_t *unit, size_t apart, ptrdiff_t ahead, size_t n, v16 *acc)
{
    size_t k = 0;

    UNROLL
    for (size_t i = 0; i < U * R; i++)
        acc[i] = v_set1(0.f);
    for (; k + 2 <= n; k += 2) {
        fetch(U, unit + 32 * k, apart, ahead);
        dots_f16_step(R, U, a, stride, unit, apart, k, acc);
        dots_f16_step(R, U, a, stride, unit, apart, k + 1, acc);
    }
    if (k < n)
        dots_f16_step(R, U, a, stride, unit, apart, k, acc);
}

/* The same over n pairs: q8; or q4's nibbles, where pair k is at unit k / 2 (keys), or all low or
 * all high (values). */
enum nibbles { NONE, BY_TURNS, LOW, HIGH };

TILE_FN void dots_int_step(const size_t R, const size_t U, const enum nibbles nibbles,
                           const int16_t *a, size_t stride, const uint8_t *unit, size_t apart,
                           vi *acc)
{
    UNROLL
    for (size_t u = 0; u < U; u++) {
        const uint8_t *at = unit + u * apart;
        const vp b = nibbles == NONE ? vp_load8(at) : vp_load4(at, nibbles == HIGH);

        __asm__("" : "+r"(a)); /* as above */
        UNROLL
        for (size_t r = 0; r < R; r++)
            acc[u * R + r] = vi_dot(acc[u * R + r], vp_bcast(a + r * stride), b);
        if (nibbles != BY_TURNS)
            continue;
        const vp c = vp_load4(at, 1);
        UNROLL
        for (size_t r = 0; r < R; r++)
            acc[u * R + r] = vi_dot(acc[u * R + r], vp_bcast(a + r * stride + 2), c);
    }
}

TILE_FN void dots_int(const size_t R, const size_t U, const enum nibbles nibbles, const int16_t *a,
                      size_t stride, const uint8_t *unit, size_t apart, ptrdiff_t ahead, size_t n,
                      v16 *out)
{
    const size_t pairs = nibbles == BY_TURNS ? 2 : 1, vectors = n / pairs;
    vi acc[TILE_SUMS];
    size_t k = 0;

    UNROLL
    for (size_t i = 0; i < U * R; i++)
        acc[i] = vi_zero();
    for (; k + 2 <= vectors; k += 2, unit += 64, a += 4 * pairs) {
        fetch(U, unit, apart, ahead);
        dots_int_step(R, U, nibbles, a, stride, unit, apart, acc);
        dots_int_step(R, U, nibbles, a + 2 * pairs, stride, unit + 32, apart, acc);
    }
    if (k < vectors)
        dots_int_step(R, U, nibbles, a, stride, unit, apart, acc);
    UNROLL
    for (size_t i = 0; i < U * R; i++)
        out[i] = vi_float(acc[i]);
}

/* --- a page against R queries ---------------------------------------------------------------- */

/* Scores of U units from `unit` on. */
TILE_FN void unit_dots(const size_t R, const size_t U, const enum kv_format f, const uint8_t *keys,
                       size_t hd, const void *q, const float *factors, size_t unit,
                       float scores[][KV_PAGE], ptrdiff_t ahead)
{
    const uint16_t *d = (const uint16_t *)(const void *)(keys + kv_key_bytes(f, hd) - KV_PAGE * 2);
    const enum nibbles nibbles = kv_key_code(f) == KV_CODE_Q8 ? NONE : BY_TURNS;
    const size_t apart = hd * (f == KV_F16 ? 32 : nibbles == NONE ? 16 : 8);
    v16 s[TILE_SUMS];

    if (f == KV_F16)
        dots_f16(R, U, q, hd, keys + unit * apart, apart, ahead, hd, s);
    else
        dots_int(R, U, nibbles, q, hd, keys + unit * apart, apart, ahead, hd / 2, s);
    UNROLL
    for (size_t u = 0; u < U; u++) {
        UNROLL
        for (size_t r = 0; r < R; r++) {
            v16 factor = v_set1(factors[r]);

            if (f != KV_F16)
                factor = v_mul(factor, v_loadh(d + (unit + u) * 16));
            v_store(scores[r] + (unit + u) * 16, v_mul(s[NTH(u * R + r)], factor));
        }
    }
}

TILE_FN void page_scores(const size_t R, const enum kv_format f, const uint8_t *keys, size_t hd,
                         const void *q, const float *factors, size_t units,
                         float scores[][KV_PAGE], ptrdiff_t ahead)
{
    const size_t most = UNITS_MOST(R, f);
    size_t u = 0;

    if (f != KV_F16) /* the scales */
        fetch(1, keys + kv_key_bytes(f, hd) - KV_PAGE * 2, 0, ahead);
    for (; u + most <= units; u += most)
        unit_dots(R, most, f, keys, hd, q, factors, u, scores, ahead);
    for (; u < units; u++)
        unit_dots(R, 1, f, keys, hd, q, factors, u, scores, ahead);
}

/* p times the tokens' scales as int16: returns what one is worth. */
ROWS_FN float page_weights(int16_t *w, const float *p, const uint16_t *d, size_t units)
{
    v16 x[N_UNITS], m = v_set1(0.f);

    for (size_t u = 0; u < units; u++) {
        x[u] = v_mul(v_load(p + u * 16), v_loadh(d + u * 16));
        m = v_max(x[u], m);
    }
    float most = v_hmax(m);
    bool tiny = most < 0x1p-100f;
    v16 inv = v_set1(tiny ? 0.f : KV_QUERY_MAX / most), hi = v_set1(KV_QUERY_MAX);
    for (size_t u = 0; u < units; u++)
        v_store_i16(w + u * 16, v_round(v_min(v_mul(x[u], inv), hi)));
    return tiny ? 0.f : most / KV_QUERY_MAX;
}

/* Of n states at once: how much what was, *top, and what comes weigh under the greater of both
 * greatest scores, which becomes *top. */
ROWS_FN void weigh(size_t n, float *top, size_t stride, const float *next, float *old_weight,
                   float *new_weight)
{
    float t[16] = {0};

    for (size_t r = 0; r < n; r++) {
        float *m = top + r * stride, was = *m;

        *m = next[r] > was ? next[r] : was;
        t[r] = was - *m;
        t[TILE_QUERIES + r] = next[r] - *m;
    }
    v_store(t, v_exp(v_load(t)));
    memcpy(old_weight, t, n * sizeof(*t));
    memcpy(new_weight, t + TILE_QUERIES, n * sizeof(*t));
}

/* Scores of unit u; those of tokens from n on become -infinity. */
ROWS_FN v16 unit_scores(const float *p, size_t u, size_t n)
{
    static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const v16 lane = v_load(lanes), x = v_load(p + u * 16);

    if (n >= u * 16 + 16)
        return x;
    const float end = (float)n - (float)(u * 16);
    return v_add(v_zero_below(v_set1(end - 1), lane, x),
                 v_zero_below(lane, v_set1(end), v_set1(-INFINITY)));
}

/* Scores of the tokens that each of R queries sees -> exp(score - greatest), and zeros to the end
 * of `units`; what came of it goes into the states' greatest scores and sums. Each step for all
 * queries: one's would wait for each other. */
ROWS_FN void page_softmax(size_t R, float p[][KV_PAGE], const uint8_t *visible, size_t units,
                          float *top, size_t stride, float *old_weight, float *new_weight)
{
    float next[TILE_QUERIES] = {0};

    for (size_t r = 0; r < R; r++) {
        v16 m = v_set1(-INFINITY);

        for (size_t u = 0; u < units; u++) {
            const v16 x = unit_scores(p[r], u, visible[r]);

            v_store(p[r] + u * 16, x);
            m = v_max(x, m);
        }
        next[r] = v_hmax(m);
    }
    weigh(R, top, stride, next, old_weight, new_weight);
    for (size_t r = 0; r < R; r++) {
        const v16 m = v_set1(next[r]);
        v16 total = v_set1(0.f);
        float *sum = top + r * stride + 1;

        for (size_t u = 0; u < units; u++) {
            const v16 e = v_exp(v_sub(v_load(p[r] + u * 16), m));

            v_store(p[r] + u * 16, e);
            total = v_add(total, e);
        }
        *sum = fmaf(*sum, old_weight[r], v_sum(total) * new_weight[r]);
    }
}

/* 16 dims of a state, and what a page gives of them. */
TILE_FN void fold(float *state, v16 next, float old_weight, float new_weight)
{
    v_store(state,
            v_fma(v_load(state), v_set1(old_weight), v_mul(next, v_set1(new_weight))));
}

/* Dims of U units from g on. q4's come in twos, of the same bytes. */
TILE_FN void value_dots(const size_t R, const size_t U, const enum kv_format f,
                        const uint8_t *values, size_t hd, const void *weights, size_t n,
                        const float *old_weight, const float *new_weight, float *state, size_t g,
                        ptrdiff_t ahead)
{
    const size_t stride = attend_state_floats(hd), apart = KV_PAGE * (f == KV_F16 ? 32 : 16);
    const bool halves = kv_value_code(f) == KV_CODE_Q4;
    const uint8_t *at = values + (halves ? g / 2 : g) * apart;
    v16 s[TILE_SUMS];

    if (f == KV_F16)
        dots_f16(R, U, weights, KV_PAGE, at, apart, ahead, n, s);
    else if (!halves)
        dots_int(R, U, NONE, weights, KV_PAGE, at, apart, ahead, (n + 1) / 2, s);
    else if (g % 2 == 0)
        dots_int(R, U, LOW, weights, KV_PAGE, at, apart, ahead, (n + 1) / 2, s);
    else
        dots_int(R, U, HIGH, weights, KV_PAGE, at, apart, ahead, (n + 1) / 2, s);
    UNROLL
    for (size_t u = 0; u < U; u++) {
        UNROLL
        for (size_t r = 0; r < R; r++)
            fold(state + r * stride + (g + u * (halves ? 2 : 1)) * 16, s[NTH(u * R + r)],
                 old_weight[r], new_weight[r]);
    }
}

TILE_FN void page_values(const size_t R, const enum kv_format f, const uint8_t *values, size_t hd,
                         const void *weights, size_t n, const float *old_weight,
                         const float *new_weight, float *state, ptrdiff_t ahead)
{
    const size_t most = UNITS_MOST(R, f), every = kv_value_code(f) == KV_CODE_Q4 ? 2 : 1;

    if (f != KV_F16) /* the scales */
        fetch(1, values + kv_value_bytes(f, hd) - KV_PAGE * 2, 0, ahead);
    for (size_t first = 0; first < every; first++) {
        size_t g = first;

        for (; g + (most - 1) * every < hd / 16; g += most * every)
            value_dots(R, most, f, values, hd, weights, n, old_weight, new_weight, state, g, ahead);
        for (; g < hd / 16; g += every)
            value_dots(R, 1, f, values, hd, weights, n, old_weight, new_weight, state, g, ahead);
    }
}

static inline ptrdiff_t distance(const uint8_t *from, const uint8_t *to) /* of two objects */
{
    return (ptrdiff_t)((uintptr_t)to - (uintptr_t)from);
}

TILE_FN void page_tile(const size_t R, const enum kv_format f, const uint8_t *keys,
                       const uint8_t *values, size_t hd, const void *q, const float *factors,
                       const uint8_t *visible, float *state, const struct attend_ahead *ahead)
{
    const uint16_t *d =
        (const uint16_t *)(const void *)(values + kv_value_bytes(f, hd) - KV_PAGE * 2);
    float p[TILE_QUERIES][KV_PAGE], old_weight[TILE_QUERIES], new_weight[TILE_QUERIES];
    int16_t w[TILE_QUERIES][KV_PAGE];
    size_t n = 0, stride = attend_state_floats(hd);

    for (size_t r = 0; r < R; r++)
        n = visible[r] > n ? visible[r] : n;
    size_t units = (n + 15) / 16;
    page_scores(R, f, keys, hd, q, factors, units, p, ahead ? distance(keys, ahead->keys) : 0);
    page_softmax(R, p, visible, units, state + hd, stride, old_weight, new_weight);
    for (size_t r = 0; r < R && f != KV_F16; r++)
        new_weight[r] *= page_weights(w[r], p[r], d, units);
    page_values(R, f, values, hd, f == KV_F16 ? (const void *)p : w, n, old_weight, new_weight,
                state, ahead ? distance(values, ahead->values) : 0);
}

#define PAGE_FORMAT(R, f)                                                                          \
    ROWS_FN void page_##f##_##R(const uint8_t *keys, const uint8_t *values, size_t hd,             \
                                const void *q, const float *factors, const uint8_t *visible,       \
                                float *state, const struct attend_ahead *ahead)                    \
    {                                                                                              \
        page_tile(R, KV_##f, keys, values, hd, q, factors, visible, state, ahead);                 \
    }
#define PAGE_FORMATS(R)                                                                            \
    PAGE_FORMAT(R, F16) PAGE_FORMAT(R, Q8) PAGE_FORMAT(R, K8V4) PAGE_FORMAT(R, Q4)
PAGE_FORMATS(1)
PAGE_FORMATS(2)
PAGE_FORMATS(3)
PAGE_FORMATS(4)
PAGE_FORMATS(5)
PAGE_FORMATS(6)

typedef void (*page_fn)(const uint8_t *keys, const uint8_t *values, size_t hd, const void *q,
                        const float *factors, const uint8_t *visible, float *state,
                        const struct attend_ahead *ahead);

ROWS_FN void page(enum kv_format f, const uint8_t *keys, const uint8_t *values, size_t hd, size_t n,
                  const void *q, const float *factors, const uint8_t *visible, float *state,
                  const struct attend_ahead *ahead)
{
    static const page_fn tiles[KV_FORMATS][TILE_QUERIES] = {
        {page_F16_1, page_F16_2, page_F16_3, page_F16_4, page_F16_5, page_F16_6},
        {page_Q8_1, page_Q8_2, page_Q8_3, page_Q8_4, page_Q8_5, page_Q8_6},
        {page_K8V4_1, page_K8V4_2, page_K8V4_3, page_K8V4_4, page_K8V4_5, page_K8V4_6},
        {page_Q4_1, page_Q4_2, page_Q4_3, page_Q4_4, page_Q4_5, page_Q4_6},
    };
    size_t bytes = attend_query_bytes(f, hd);
    size_t tiles_left = (n + TILE_QUERIES - 1) / TILE_QUERIES;

    for (size_t i = 0; i < n; tiles_left--) {
        size_t r = (n - i + tiles_left - 1) / tiles_left; /* 7: 4 and 3, not 6 and 1 */
        const struct attend_ahead *next = i == 0 && ahead && ahead->keys ? ahead : NULL;

        tiles[f][r - 1](keys, values, hd, (const char *)q + i * bytes, factors + i, visible + i,
                        state + i * attend_state_floats(hd), next);
        i += r;
    }
}

/* --- states ---------------------------------------------------------------------------------- */

ROWS_FN void begin(float *state, size_t hd)
{
    memset(state, 0, attend_state_floats(hd) * sizeof(*state));
    state[hd] = -INFINITY;
}

ROWS_FN void join(float *state, const float *next, size_t hd)
{
    float old_weight, new_weight;

    weigh(1, state + hd, 0, next + hd, &old_weight, &new_weight);
    state[hd + 1] = fmaf(state[hd + 1], old_weight, next[hd + 1] * new_weight);
    for (size_t i = 0; i < hd; i += 16)
        v_store(state + i, v_fma(v_load(state + i), v_set1(old_weight),
                                 v_mul(v_load(next + i), v_set1(new_weight))));
}

ROWS_FN void attend_finish(enum kv_format f, float *out, float *state, size_t hd)
{
    float norm = 1.f / (f == KV_F16 ? state[hd + 1] : state[hd + 1] * (float)hadamard_dims(hd));

    if (f != KV_F16)
        hadamard(state, hd);
    for (size_t i = 0; i < hd; i += 16)
        v_store(out + i, v_mul(v_load(state + i), v_set1(norm)));
}

#define ATTEND_KERNELS                                                                             \
    {                                                                                              \
        .put_key = put_key, .put_value = put_value, .query = query, .page = page, .begin = begin,  \
        .join = join, .finish = attend_finish,                                                            \
    }
