/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The row operations, written once over vectors of 16 virtual lanes and compiled for each ISA.
 * No include guard: an ISA's file includes it once, having defined
 *
 *   v16                         16 floats
 *   v_load v_store v_set1       unaligned
 *   v_loadh v_storeh            from and to f16
 *   v_add v_sub v_mul v_div     IEEE, rounded each
 *   v_fma(a, b, c)              a * b + c, rounded once
 *   v_max(a, b) v_min(a, b)     a > b ? a : b, a < b ? a : b: the second when one is a NaN
 *   v_abs
 *   v_swap(x, h)                lane i: lane i ^ h; h 1, 2, 4 or 8
 *   v_ldexp(p, t)               bits of p + (bits of t << 23)
 *   v_zero_below(x, lo, y)      x < lo ? 0 : y
 *   v_sum                       halves added: lane i + lane i + 8, then + 4, + 2, + 1
 *   v_hmax                      the greatest lane
 *   v_neg_sums(neg, all, x, y)  the sum of all lanes, integers of 8 bits; minus the sums over lanes
 *                               i / 2 % 2 == 0 and 1 of both, of x, of y to neg[6], over all lanes
 *                               to all[3]; all[4] may be written
 *   v_store_i8(p, x)            integers in [-128, 127]
 *   v_store_words(p, x)         integers of 16 bits, of each four in the order 0, 2, 1, 3
 *   ROWS_FN                     attributes of every function
 */

/* Nearest integer, ties to even, for |x| < 2^22. */
ROWS_FN v16 v_round(v16 x)
{
    const v16 magic = v_set1(0x1.8p23f);
    return v_sub(v_add(x, magic), magic);
}

/* exp(x): x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^7 (its error is 5e-9), times 2^n.
 * Below -87 it is 0, above 88 exp(88). */
ROWS_FN v16 v_exp(v16 x)
{
    const v16 magic = v_set1(0x1.8p23f);
    v16 c = v_max(v_set1(-87.f), v_min(v_set1(88.f), x));
    v16 t = v_fma(c, v_set1(0x1.715476p+0f), magic); /* its low bits hold n */
    v16 n = v_sub(t, magic);
    v16 r = v_fma(n, v_set1(-0x1.62e4p-1f), c); /* ln 2 in two parts, the first short: exact */
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
    v16 p = v_set1(1.f / 5040.f);
    p = v_fma(p, r, v_set1(1.f / 720.f));
    p = v_fma(p, r, v_set1(1.f / 120.f));
    p = v_fma(p, r, v_set1(1.f / 24.f));
    p = v_fma(p, r, v_set1(1.f / 6.f));
    p = v_fma(p, r, v_set1(.5f));
    p = v_fma(p, r, v_set1(1.f));
    p = v_fma(p, r, v_set1(1.f));
    return v_zero_below(x, v_set1(-87.f), v_ldexp(p, t));
}

ROWS_FN void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    v16 sum = v_set1(0.f);

    for (size_t i = 0; i < n; i += 16)
        sum = v_fma(v_load(x + i), v_load(x + i), sum);
    float inv = 1.f / sqrtf(v_sum(sum) / (float)n + eps);
    for (size_t i = 0; i < n; i += 16)
        v_store(y + i, v_mul(v_mul(v_load(x + i), v_set1(inv)), v_load(w + i)));
}

ROWS_FN v16 silu_mul16(v16 g, v16 u)
{
    v16 e = v_exp(v_sub(v_set1(0.f), g));
    return v_mul(v_div(g, v_add(v_set1(1.f), e)), u);
}

ROWS_FN void silu_mul(float *y, const float *g, const float *u, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        v_store(y + i, silu_mul16(v_load(g + i), v_load(u + i)));
    if (i < n) {
        float tg[16] = {0}, tu[16] = {0};
        memcpy(tg, g + i, (n - i) * sizeof(float));
        memcpy(tu, u + i, (n - i) * sizeof(float));
        v_store(tg, silu_mul16(v_load(tg), v_load(tu)));
        memcpy(y + i, tg, (n - i) * sizeof(float));
    }
}

/* Pairs of neighbours. */
ROWS_FN void rope_pairs(float *x, const float *c, const float *s, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        v16 a = v_load(x + i);
        v_store(x + i, v_fma(a, v_load(c + i), v_mul(v_swap(a, 1), v_load(s + i))));
    }
    for (; i < n; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = fmaf(a, c[i], b * s[i]);
        x[i + 1] = fmaf(b, c[i + 1], a * s[i + 1]);
    }
}

/* Pairs (i, i + n/2). */
ROWS_FN void rope_halves(float *x, const float *c, const float *s, size_t n)
{
    size_t i = 0, h = n / 2;

    for (; i + 16 <= h; i += 16) {
        v16 a = v_load(x + i), b = v_load(x + h + i);
        v_store(x + i, v_fma(a, v_load(c + i), v_mul(b, v_load(s + i))));
        v_store(x + h + i, v_fma(b, v_load(c + h + i), v_mul(a, v_load(s + h + i))));
    }
    for (; i < h; i++) {
        float a = x[i], b = x[h + i];
        x[i] = fmaf(a, c[i], b * s[i]);
        x[h + i] = fmaf(b, c[h + i], a * s[h + i]);
    }
}

ROWS_FN void rope(float *x, const float *cs, size_t n, int neox)
{
    if (neox)
        rope_halves(x, cs, cs + n, n);
    else
        rope_pairs(x, cs, cs + n, n);
}

ROWS_FN void f32_to_f16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        v_storeh(y + i, v_load(x + i));
    for (; i < n; i++)
        y[i] = f16_from_f32(x[i]);
}

ROWS_FN void f16_to_f32(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_loadh(x + i));
    for (; i < n; i++)
        y[i] = f32_from_f16(x[i]);
}

/* The last, partial vector of x, filled up with -infinity. */
ROWS_FN v16 load_tail(const float *x, size_t n)
{
    float t[16];

    for (size_t i = 0; i < 16; i++)
        t[i] = i < n ? x[i] : -INFINITY;
    return v_load(t);
}

/* Sums run in f32 over 512 values at most, then in double. */
ROWS_FN void logsumexp(const float *x, size_t n, float *max, double *sum)
{
    v16 top = v_set1(-INFINITY);
    double total = 0;

    for (size_t i = 0; i < n; i += 16)
        top = v_max(n - i < 16 ? load_tail(x + i, n - i) : v_load(x + i), top);
    *max = v_hmax(top);
    top = v_set1(*max);
    for (size_t i = 0; i < n; i += 512) {
        size_t end = n - i < 512 ? n : i + 512;
        v16 part = v_set1(0.f);
        for (size_t j = i; j < end; j += 16) {
            v16 t = end - j < 16 ? load_tail(x + j, end - j) : v_load(x + j);
            part = v_add(part, v_exp(v_sub(t, top)));
        }
        total += (double)v_sum(part);
    }
    *sum = total;
}

/* For 16 blocks of 32 at most: d = max|x| / most, and what x is multiplied with. NaNs count as
 * nothing in the maximum. */
ROWS_FN void block_scales(const float *x, size_t n, float most, float d[16], float inv[16])
{
    const v16 tiny = v_set1(0x1p-100f); /* its reciprocal might overflow */
    float top[16] = {0};

    for (size_t b = 0; b < n; b++, x += 32) {
        v16 top1 = v_max(v_abs(v_load(x + 16)), v_set1(0.f));
        top[b] = v_hmax(v_max(v_abs(v_load(x)), top1));
    }
    const v16 tops = v_load(top);
    v_store(d, v_zero_below(tops, tiny, v_div(tops, v_set1(most))));
    v_store(inv, v_zero_below(tops, tiny, v_div(v_set1(most), tops)));
}

/* Blocks of 32 to integers, nearest even. All sums are exact. */
ROWS_FN void quantize(const float *x, size_t n_blocks, const struct acts *a, size_t n_tokens,
                      size_t t)
{
    const float most = a->kind == ACTS_INT16 ? INT16_MAX_ACT : 127;
    const v16 lo = v_set1(-most), hi = v_set1(most);
    float d[16], inv[16];

    for (size_t b = 0; b < n_blocks; b++, x += 32) {
        const size_t at = b * n_tokens + t, left = n_blocks - b;

        if (b % 16 == 0)
            block_scales(x, left < 16 ? left : 16, most, d, inv);
        const v16 by = v_set1(inv[b % 16]);
        v16 q0 = v_max(lo, v_min(v_round(v_mul(v_load(x), by)), hi));
        v16 q1 = v_max(lo, v_min(v_round(v_mul(v_load(x + 16), by)), hi));
        v_store_words(a->w + at * 32, q0);
        v_store_words(a->w + at * 32 + 16, q1);
        a->d[at] = d[b % 16];
        if (a->kind != ACTS_INT8) {
            a->s[at] = d[b % 16] * v_sum(v_add(q0, q1));
            continue;
        }
        v_store_i8(a->q + at * 32, q0);
        v_store_i8(a->q + at * 32 + 16, q1);
        a->s[at] = d[b % 16] * v_neg_sums(a->neg + at * 6, a->neg_all + at * 4, q0, q1);
    }
}

ROWS_FN void finish(const float *acc, size_t nt, size_t n_rows, const float *bias, int add,
                    float *y, size_t ldy)
{
    float b[16] = {0}, out[16];

    if (n_rows == 16) {
        const v16 bias16 = bias ? v_load(bias) : v_set1(0.f);
        for (size_t t = 0; t < nt; t++, acc += 16, y += ldy) {
            v16 v = v_load(acc);
            if (bias)
                v = v_add(v, bias16);
            v_store(y, add ? v_add(v_load(y), v) : v);
        }
        return;
    }
    if (bias)
        memcpy(b, bias, n_rows * sizeof(*b));
    for (size_t t = 0; t < nt; t++, acc += 16, y += ldy) {
        v16 v = v_load(acc);
        if (bias)
            v = v_add(v, v_load(b));
        v_store(out, v);
        for (size_t i = 0; i < n_rows; i++)
            y[i] = add ? y[i] + out[i] : out[i];
    }
}
