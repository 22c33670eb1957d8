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
 *   TILE_FN                  attributes of what must be inlined, for its registers
 */

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
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

/* --- what is read next ----------------------------------------------------------------------- */

/* A page to come would take the place of the one at work in an L1 of 32 KiB, whose misses are also
 * too few at once to read at the memory's rate. */
#define FETCH_TO_L2 2

/* Lines of memory to be asked for, `each` a time: of `rows` that begin `apart` bytes from each
 * other, and go on for row_bytes. */
struct fetch {
    const uint8_t *row;
    size_t rows, apart, row_bytes, at, each;
};

ROWS_FN struct fetch fetch_rows(const uint8_t *row, size_t rows, size_t apart, size_t row_bytes,
                                size_t times)
{
    const size_t lines = rows * ((row_bytes + 63) / 64);

    return (struct fetch){row, lines ? rows : 0, apart, row_bytes, 0, (lines + times - 1) / times};
}

ROWS_FN void fetch_some(struct fetch *f)
{
    for (size_t i = 0; i < f->each && f->rows; i++) {
        __builtin_prefetch(f->row + f->at, 0, FETCH_TO_L2);
        f->at += 64;
        if (f->at >= f->row_bytes) {
            f->at = 0;
            f->row += f->apart;
            f->rows--;
        }
    }
}

ROWS_FN struct fetch fetch_keys(enum kv_format f, size_t hd, const struct attend_ahead *a,
                                size_t times)
{
    const size_t scales = f == KV_F16 ? 0 : KV_PAGE * 2, bytes = kv_key_bytes(f, hd) - scales;

    if (scales && a->tokens)
        for (size_t i = 0; i < scales; i += 64)
            __builtin_prefetch(a->keys + bytes + i, 0, FETCH_TO_L2);
    return fetch_rows(a->keys, 1, 0, (a->tokens + 15) / 16 * (bytes / N_UNITS), times);
}

ROWS_FN struct fetch fetch_values(enum kv_format f, size_t hd, const struct attend_ahead *a,
                                  size_t times)
{
    const size_t scales = f == KV_F16 ? 0 : KV_PAGE * 2, bytes = kv_value_bytes(f, hd) - scales;
    const size_t rows = hd / (kv_value_code(f) == KV_CODE_Q4 ? 32 : 16), apart = bytes / rows;

    if (scales && a->tokens)
        for (size_t i = 0; i < scales; i += 64)
            __builtin_prefetch(a->values + bytes + i, 0, FETCH_TO_L2);
    return fetch_rows(a->values, rows, apart, a->tokens * apart / KV_PAGE, times);
}

/* --- one unit against R queries -------------------------------------------------------------- */

/* acc[u][r] = sum over k < n of a[r][k] times vector k of unit u; units are `apart` bytes apart.
 * Two at once where few queries leave registers: one's sums alone would wait for each other. */
TILE_FN void dots_f16(const size_t R, const size_t U, const float *a, size_t stride,
                      const uint8_t *unit, size_t apart, size_t n, v16 *acc)
{
    UNROLL
    for (size_t i = 0; i < U * R; i++)
        acc[i] = v_set1(0.f);
    for (size_t k = 0; k < n; k++) {
        UNROLL
        for (size_t u = 0; u < U; u++) {
            const v16 b = v_loadh((const uint16_t *)(const void *)(unit + u * apart + 32 * k));

            __asm__("" : "+r"(a)); /* or a[r] stay in registers that three queries do not leave */
            UNROLL
            for (size_t r = 0; r < R; r++)
                acc[u * R + r] = v_fma(v_set1(a[r * stride + k]), b, acc[u * R + r]);
        }
    }
}

#define TWO_UNITS(R)        ((R) <= TILE_QUERIES / 2)
#define PASSES(R, f, units) ((f) == KV_F16 && TWO_UNITS(R) ? ((units) + 1) / 2 : (units))

/* The same over n pairs: q8; or q4's nibbles, where pair k is at unit k / 2 (keys), or all low or
 * all high (values). */
enum nibbles { NONE, BY_TURNS, LOW, HIGH };

TILE_FN void dots_int(const size_t R, const enum nibbles nibbles, const int16_t *a, size_t stride,
                      const uint8_t *unit, size_t n, v16 *out)
{
    vi acc[TILE_QUERIES];

    UNROLL
    for (size_t r = 0; r < R; r++)
        acc[r] = vi_zero();
    for (size_t k = 0; k < n; k++) {
        vp b;

        if (nibbles == NONE)
            b = vp_load8(unit + 32 * k);
        else if (nibbles == BY_TURNS)
            b = vp_load4(unit + 32 * (k / 2), 0);
        else
            b = vp_load4(unit + 32 * k, nibbles == HIGH);
        UNROLL
        for (size_t r = 0; r < R; r++)
            acc[r] = vi_dot(acc[r], vp_bcast(a + r * stride + 2 * k), b);
        if (nibbles != BY_TURNS)
            continue;
        b = vp_load4(unit + 32 * (k / 2), 1);
        k++;
        UNROLL
        for (size_t r = 0; r < R; r++)
            acc[r] = vi_dot(acc[r], vp_bcast(a + r * stride + 2 * k), b);
    }
    UNROLL
    for (size_t r = 0; r < R; r++)
        out[r] = vi_float(acc[r]);
}

/* --- a page against R queries ---------------------------------------------------------------- */

TILE_FN void page_scores(const size_t R, const enum kv_format f, const uint8_t *keys, size_t hd,
                         const void *q, const float *factors, size_t n, float scores[][KV_PAGE],
                         const struct attend_ahead *ahead)
{
    const uint16_t *d = (const uint16_t *)(const void *)(keys + kv_key_bytes(f, hd) - KV_PAGE * 2);
    const enum nibbles nibbles = kv_key_code(f) == KV_CODE_Q8 ? NONE : BY_TURNS;
    size_t unit_bytes = hd * (f == KV_F16 ? 32 : nibbles == NONE ? 16 : 8), u = 0;

    struct fetch fetch = fetch_keys(f, hd, ahead, PASSES(R, f, (n + 15) / 16));

    for (; f == KV_F16 && TWO_UNITS(R) && (u + 1) * 16 < n; u += 2) {
        v16 s[TILE_QUERIES];

        fetch_some(&fetch);
        dots_f16(R, 2, q, hd, keys + u * unit_bytes, unit_bytes, hd, s);
        UNROLL
        for (size_t r = 0; r < R; r++) {
            v_store(scores[r] + u * 16, v_mul(s[r], v_set1(factors[r])));
            v_store(scores[r] + u * 16 + 16, v_mul(s[R + r], v_set1(factors[r])));
        }
    }
    for (; u * 16 < n; u++) {
        v16 s[TILE_QUERIES];

        fetch_some(&fetch);
        if (f == KV_F16)
            dots_f16(R, 1, q, hd, keys + u * unit_bytes, 0, hd, s);
        else
            dots_int(R, nibbles, q, hd, keys + u * unit_bytes, hd / 2, s);
        UNROLL
        for (size_t r = 0; r < R; r++) {
            v16 factor = v_set1(factors[r]);

            if (f != KV_F16)
                factor = v_mul(factor, v_loadh(d + u * 16));
            v_store(scores[r] + u * 16, v_mul(s[r], factor));
        }
    }
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

TILE_FN void page_values(const size_t R, const enum kv_format f, const uint8_t *values, size_t hd,
                         const void *weights, size_t n, const float *old_weight,
                         const float *new_weight, float *state, const struct attend_ahead *ahead)
{
    struct fetch fetch = fetch_values(f, hd, ahead, PASSES(R, f, hd / 16));
    size_t stride = attend_state_floats(hd), g = 0;

    for (; f == KV_F16 && TWO_UNITS(R) && g + 1 < hd / 16; g += 2) {
        v16 s[TILE_QUERIES];

        fetch_some(&fetch);
        dots_f16(R, 2, weights, KV_PAGE, values + g * KV_PAGE * 32, KV_PAGE * 32, n, s);
        UNROLL
        for (size_t r = 0; r < R; r++) {
            float *o = state + r * stride + g * 16;

            fold(o, s[r], old_weight[r], new_weight[r]);
            fold(o + 16, s[R + r], old_weight[r], new_weight[r]);
        }
    }
    for (; g < hd / 16; g++) {
        v16 s[TILE_QUERIES];

        fetch_some(&fetch);
        if (f == KV_F16)
            dots_f16(R, 1, weights, KV_PAGE, values + g * KV_PAGE * 32, 0, n, s);
        else if (f == KV_Q8)
            dots_int(R, NONE, weights, KV_PAGE, values + g * KV_PAGE * 16, (n + 1) / 2, s);
        else if (g % 2 == 0)
            dots_int(R, LOW, weights, KV_PAGE, values + g / 2 * KV_PAGE * 16, (n + 1) / 2, s);
        else
            dots_int(R, HIGH, weights, KV_PAGE, values + g / 2 * KV_PAGE * 16, (n + 1) / 2, s);
        UNROLL
        for (size_t r = 0; r < R; r++)
            fold(state + r * stride + g * 16, s[r], old_weight[r], new_weight[r]);
    }
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
    page_scores(R, f, keys, hd, q, factors, n, p, ahead);
    page_softmax(R, p, visible, units, state + hd, stride, old_weight, new_weight);
    for (size_t r = 0; r < R && f != KV_F16; r++)
        new_weight[r] *= page_weights(w[r], p[r], d, units);
    page_values(R, f, values, hd, f == KV_F16 ? (const void *)p : w, n, old_weight, new_weight,
                state, ahead);
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
    static const struct attend_ahead nothing = {0};
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

        tiles[f][r - 1](keys, values, hd, (const char *)q + i * bytes, factors + i, visible + i,
                        state + i * attend_state_floats(hd), i || !ahead ? &nothing : ahead);
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
