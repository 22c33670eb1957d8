/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of schemes' panels (scheme_panel.h) for x86, included by an ISA's file after mat_impl.h.
 * Beside what that asks for it has defined
 *
 *   vb_bcast128(p)      16 bytes at p in each 128-bit lane
 *   vb_lookup(t, i)     bytes i of the lane's table t, by their low four bits; bit 7 of i is 0
 *   vb_even(a, b)       a lane: dwords 0 and 2 of a's, then of b's
 *   vb_odd(a, b)        1 and 3
 *   v_permute(a, i)     lane j is a's lane i[j], of which the low four bits count
 *   vb_nibbles(x)       dword j: the j'th four bits of x, whatever above them
 *   vb_load_u16(p)      16 words at p to dwords
 *   vb_count_above(n, k)        how many dwords of n are above k
 *   v_fma_above(n, k, a, b, y)  a * b + y there, else y
 *   vh, vh_*            the same and vb_'s others for one of HALVES parts of HALF_BYTES: of a vb
 * what a register holds vh_join(halves)     a vb of them
 *
 * A lane of 16 bytes has columns of one row. So activations go to all lanes, 16 at a time, and the
 * sums of a lane are of one row, a few dwords that are added when a block ends. Sums are exact
 * integers: in what order they are made changes nothing.
 */

/* Without it GCC keeps a second copy of what was just stored. */
#define STORED(p) __asm__ volatile("" : : "r"(p) : "memory")

#define EACH(i, n) UNROLL for (size_t i = 0, i##_n = (n); i < i##_n; i++)

/* Of sq, what is known when it is compiled. */
struct kind {
    unsigned bits;
    bool words; /* activations of 16 bits */
};

#define FIELDS(bits) ((bits) == 4 ? 2u : 4u) /* vectors of u that a vector of codes gives */

/* --- tables ------------------------------------------------------------------------------------
 */

/* Of a panel in sq: vector q's at t[q]; 2 bits: for the low two bits of a nibble, and at t[4 + q]
 * for the high two. */
KFN void tables_of(const unsigned bits, const uint8_t *head, uint8_t *t)
{
    static const uint8_t low[4][16] = {
        {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3},
        {4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7},
        {8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11},
        {12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15}};
    static const uint8_t high[4][16] = {
        {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
        {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7},
        {8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11},
        {12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15}};
    static const uint8_t half[2][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7},
        {8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15}};

    EACH(q, 4)
    {
        if (bits == 4) {
            vb_store(t + 64 * q, vb_load(head + 64 * q));
        } else if (bits == 3) {
            vb_store(t + 64 * q, vb_lookup(vb_load(head + 64 * (q / 2)), vb_bcast128(half[q % 2])));
        } else {
            vb_store(t + 64 * q, vb_lookup(vb_load(head), vb_bcast128(low[q])));
            vb_store(t + 64 * (4 + q), vb_lookup(vb_load(head), vb_bcast128(high[q])));
        }
    }
}

/* --- a vector of codes -------------------------------------------------------------------------
 */

/* u of half a vector q of a unit, codes and tables from that half on: 4 bits: columns 16 k + i;
 * else 8 k + i of both blocks, as they lie. */
KFN void read_unit(const struct kind k, const uint8_t *unit, const size_t q, const uint8_t *tables,
                   vh u[4])
{
    const vh x = vh_load(unit + 64 * q);

    if (k.bits == 4) {
        u[0] = vh_and(x, vh_set8(15));
        u[1] = vh_and(vh_srl16(x, 4), vh_set8(15));
    } else if (k.bits == 3) {
        vh third = vh_load(unit + 256 + 64 * (q / 2));
        if (q % 2)
            third = vh_sll16(third, 2);
        u[0] = vh_or(vh_and(x, vh_set8(0x33)), vh_and(third, vh_set8(0x44)));
        u[1] =
            vh_or(vh_and(vh_srl16(x, 2), vh_set8(0x33)), vh_and(vh_srl16(third, 1), vh_set8(0x44)));
        u[2] = vh_srl16(u[0], 4); /* bits 3 and 7 are 0, and 4 to 6 no index */
        u[3] = vh_srl16(u[1], 4);
    } else {
        u[0] = u[1] = vh_and(x, vh_set8(15));
        u[2] = u[3] = vh_and(vh_srl16(x, 4), vh_set8(15));
    }
    EACH(i, FIELDS(k.bits))
    u[i] = vh_lookup(vh_load(tables + 64 * (q + (k.bits == 2 && i % 2 ? 4 : 0))), u[i]);
}

/* --- few tokens: codes in registers all the while -----------------------------------------------
 */

KFN __m128i dwords_even(__m128i a, __m128i b)
{
    return _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0x88));
}

KFN __m128i dwords_odd(__m128i a, __m128i b)
{
    return _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0xdd));
}

#define ACTS_BYTES 128u /* of a token and unit, at most: 4 vectors of u, by words */

/* A token's activations of a unit, laid out as read_unit gives u: 16 bytes for each vector of u; of
 * words two: those of the even bytes, of the odd. Of 64 columns `second` are the upper 32's, zeros
 * past the last block. Whole vectors are stored: what is loaded must lie in one store. */
KFN void read_acts(const struct kind k, const void *first, const void *second, uint8_t *to)
{
    const __m128i *p = first, *p2 = second;

    if (k.bits == 4) {
        EACH(f, 2)
        {
            __m128i x = _mm_loadu_si128(p + f), y;
            if (k.words) { /* dwords: even columns, odd, and so on */
                x = _mm_loadu_si128(p + 2 * f);
                y = _mm_loadu_si128(p + 2 * f + 1);
                _mm_storeu_si128((__m128i *)to + 2 * f, dwords_even(x, y));
                _mm_storeu_si128((__m128i *)to + 2 * f + 1, dwords_odd(x, y));
            } else {
                _mm_storeu_si128((__m128i *)to + f, x);
            }
        }
        return;
    }
    EACH(f, k.words ? 4 : 2)
    {
        const __m128i x = _mm_loadu_si128(p + f), y = _mm_loadu_si128(p2 + f);
        _mm_storeu_si128((__m128i *)to + 2 * f,
                         k.words ? dwords_even(x, y) : _mm_unpacklo_epi64(x, y));
        _mm_storeu_si128((__m128i *)to + 2 * f + 1,
                         k.words ? dwords_odd(x, y) : _mm_unpackhi_epi64(x, y));
    }
}

/* How many products of bytes, two by two, a word holds the sum of: see
 * scheme_level_max. */
KFN size_t words_hold(const struct kind k)
{
    return k.bits == 2 ? 4 : k.bits == 3 ? 2 : 1;
}

/* The i'th of n products of u and signed a, which go to *word and, as often as that is full, to *s:
 * of whole vectors (v vb) or halves (v vh). */
#ifdef HAVE_DPBUSD
#define ADD_BYTES(v, k, i, n, u, a, word, s) s = vb_dot((i) ? (s) : vb_set8(0), u, a)
#else
#define ADD_BYTES(v, k, i, n, u, a, word, s)                                                       \
    {                                                                                              \
        const size_t hold_ = words_hold(k) < (n) ? words_hold(k) : (n);                            \
        word = (i) % hold_ ? v##_add16(word, v##_maddubs(u, a)) : v##_maddubs(u, a);               \
        if ((i) % hold_ == hold_ - 1)                                                              \
            s = (i) < hold_ ? v##_madd16(word, v##_set16(1))                                       \
                            : v##_add32(s, v##_madd16(word, v##_set16(1)));                        \
    }
#endif

/* vb_dot16 of halves. */
KFN vh dot_words(vh s, vh a, vh b)
{
#ifdef HAVE_DPBUSD
    return vb_dot16(s, a, b);
#else
    return vh_add32(s, vh_madd16(a, b));
#endif
}

/* Of half a vector q and a token: sums by dword, of columns that lie in the lane. */
KFN vh dot_unit(const struct kind k, const vh u[4], const uint8_t *acts)
{
    vh s = vh_set8(0), word = s;

    EACH(f, FIELDS(k.bits))
    {
        if (k.words) {
            s = dot_words(s, vh_and(u[f], vh_set16(255)), vh_bcast128(acts + 32 * f));
            s = dot_words(s, vh_srl16(u[f], 8), vh_bcast128(acts + 32 * f + 16));
        } else {
            ADD_BYTES(vh, k, f, FIELDS(k.bits), u[f], vh_bcast128(acts + 16 * f), word, s);
        }
    }
    (void)word;
    return s;
}

KFN vh add_pairs(vh a, vh b)
{
    return vh_add32(vh_even(a, b), vh_odd(a, b));
}

/* The rows' d and m are for scale_rows. */
KFN void add_block(float *y, vb sum, const struct acts *a, size_t at)
{
    v_store(y, v_fma(v_set1(a->d[at]), vb_to_float(sum), v_load(y)));
}

KFN void scale_rows(const unsigned bits, const struct scheme_panel *s, const uint8_t *head,
                    const struct acts *a, size_t t0, size_t nt, float *y)
{
    const float *scales = (const float *)(const void *)(head + (16u << bits));
    const v16 d = v_load(scales), m = v_load(scales + 16);

    for (size_t t = 0; t < nt; t++) {
        float sum = 0;
        for (size_t b = 0; b < s->blocks; b++)
            sum += a->s[b * a->n_tokens + t0 + t];
        v_store(y + 16 * t, v_fma(d, v_load(y + 16 * t), v_mul(m, v_set1(sum))));
    }
}

/* As fetch_ahead. 4 bits take too little work to each byte. */
KFN void fetch_unit(const struct kind k, const uint8_t *codes)
{
    if (k.bits == 4)
        return;
    EACH(i, k.bits == 3 ? 6u : 4u) __builtin_prefetch(codes + 1024 + 64 * i);
}

/* One unit of a panel against T tokens: acts of them, y their accumulators. */
KFN void unit_few(const struct kind k, const size_t T, const struct scheme_panel *s,
                  const uint8_t *panel, size_t unit, const uint8_t *tables, const uint8_t *acts,
                  const struct acts *a, size_t t, float *y)
{
    const uint8_t *codes = panel + s->head_bytes + unit * (k.bits == 3 ? 384 : 256);
    const size_t b = unit * (k.bits == 4 ? 1 : 2);
    vh sum0[4][HALVES], sum1[4][HALVES]; /* of each block */

    fetch_unit(k, codes);
    EACH(h, HALVES)
    {
        vh first[4], low[4], u[4];
        EACH(q, 4)
        {
            read_unit(k, codes + HALF_BYTES * h, q, tables + HALF_BYTES * h, u);
            EACH(i, T)
            {
                const vh sum = dot_unit(k, u, acts + i * ACTS_BYTES);
                if (q == 0 || q == 2) {
                    first[i] = sum;
                } else if (q == 1) {
                    low[i] = add_pairs(first[i], sum);
                } else {
                    const vh high = add_pairs(first[i], sum);
                    sum0[i][h] = k.bits == 4 ? add_pairs(low[i], high) : vh_even(low[i], high);
                    sum1[i][h] = vh_odd(low[i], high);
                }
            }
        }
    }
    EACH(i, T) add_block(y + 16 * i, vh_join(sum0[i]), a, b * a->n_tokens + t + i);
    if (k.bits == 4 || b + 1 == s->blocks)
        return;
    EACH(i, T) add_block(y + 16 * i, vh_join(sum1[i]), a, (b + 1) * a->n_tokens + t + i);
}

#define STREAMS_MAX 4u

KFN void pass_few(const struct kind k, const size_t T, const struct scheme_panel *s,
                  const uint8_t *const *panels, size_t n, const uint8_t (*tables)[512],
                  const struct acts *a, size_t t0, size_t t, size_t nt, float *acc)
{
    static const int16_t zeros[32];
    _Alignas(64) uint8_t acts[4 * ACTS_BYTES];
    const size_t block_bytes = k.words ? 64 : 32;

    for (size_t unit = 0; unit < s->n_units; unit++) {
        const size_t b = unit * s->unit_blocks, at = b * a->n_tokens + t0 + t;
        const uint8_t *from = k.words ? (const uint8_t *)a->w : (const uint8_t *)a->q;
        EACH(i, T)
        {
            const uint8_t *first = from + (at + i) * block_bytes;
            read_acts(k, first,
                      b + 1 < s->blocks ? first + a->n_tokens * block_bytes : (const void *)zeros,
                      acts + i * ACTS_BYTES);
        }
        STORED(acts);
        for (size_t j = 0; j < n; j++)
            unit_few(k, T, s, panels[j], unit, tables[j], acts, a, t0 + t,
                     acc + (j * nt + t) * PANEL_ROWS);
    }
}

/* --- many tokens: a unit's u unpacked once, to groups of four columns by 16 rows -----------------
 */

/* Of a block 8 vectors, the block's second half a unit further on. */
KFN void unpack_unit(const struct kind k, const uint8_t *codes, const uint8_t *tables, uint8_t *to)
{
    vb u[4][4]; /* vector q, of which a lane has row 4 l + q */

    EACH(q, 4)
    {
        vh half[HALVES][4];
        EACH(h, HALVES)
        read_unit(k, codes + HALF_BYTES * h, q, tables + HALF_BYTES * h, half[h]);
        EACH(f, FIELDS(k.bits))
        {
            vh field[HALVES];
            EACH(h, HALVES) field[h] = half[h][f];
            u[q][f] = vh_join(field);
        }
    }
    EACH(f, FIELDS(k.bits))
    {
        const vb even01 = vb_even(u[0][f], u[1][f]), even23 = vb_even(u[2][f], u[3][f]);
        const vb odd01 = vb_odd(u[0][f], u[1][f]), odd23 = vb_odd(u[2][f], u[3][f]);
        /* Dword e of each row: 4 bits: columns 16 f + 4 e; else 8 f + 4 (e % 2) of block e / 2. */
        uint8_t *at = to + (k.bits == 4 ? 256 : 128) * f, *next = k.bits == 4 ? at + 128 : at + 512;
        vb_store(at, vb_even(even01, even23));
        vb_store(at + 64, vb_even(odd01, odd23));
        vb_store(next, vb_odd(even01, even23));
        vb_store(next + 64, vb_odd(odd01, odd23));
    }
}

KFN void tile_many(const struct kind k, const size_t T, const uint8_t *codes, const struct acts *a,
                   size_t i, float *y)
{
    vb s[4], word[4];

    EACH(t, T) s[t] = vb_set8(0);
    EACH(g, 8)
    {
        const vb c = vb_load(codes + 64 * g);
        if (k.words) {
            const vb even = vb_and(c, vb_set16(255)), odd = vb_srl16(c, 8);
            EACH(t, T)
            {
                const int16_t *w = a->w + (i + t) * 32 + 4 * g;
                s[t] = vb_dot16(s[t], even, vb_bcast(w));
                s[t] = vb_dot16(s[t], odd, vb_bcast(w + 2));
            }
        } else {
            EACH(t, T)
            ADD_BYTES(vb, k, g, 8u, c, vb_bcast(a->q + (i + t) * 32 + 4 * g), word[t], s[t]);
        }
    }
    (void)word;
    EACH(t, T) add_block(y + 16 * t, s[t], a, i + t);
}

KFN void block_many(const struct kind k, size_t b, const uint8_t *codes, const struct acts *a,
                    size_t t0, size_t nt, float *y)
{
    size_t i = b * a->n_tokens + t0;

    for (; nt >= 4; nt -= 4, i += 4, y += 64)
        tile_many(k, 4, codes, a, i, y);
    for (; nt >= 2; nt -= 2, i += 2, y += 32)
        tile_many(k, 2, codes, a, i, y);
    if (nt)
        tile_many(k, 1, codes, a, i, y);
}

KFN void pass_many(const struct kind k, const struct scheme_panel *s, const uint8_t *const *panels,
                   size_t n, const uint8_t (*tables)[512], const struct acts *a, size_t t0,
                   size_t nt, float *acc)
{
    _Alignas(64) uint8_t codes[1024];

    for (size_t unit = 0; unit < s->n_units; unit++)
        for (size_t j = 0; j < n; j++) {
            unpack_unit(k, panels[j] + s->head_bytes + unit * s->unit_bytes, tables[j], codes);
            STORED(codes);
            for (size_t h = 0; h < s->unit_blocks; h++)
                if (unit * s->unit_blocks + h < s->blocks)
                    block_many(k, unit * s->unit_blocks + h, codes + 512 * h, a, t0, nt,
                               acc + j * nt * PANEL_ROWS);
        }
}

/* From how many tokens on it pays to unpack a unit for all of them: below, each four (two, one) pass
 * over the panels by themselves. */
#define UNPACK_TOKENS 12

KFN void mul_scheme(const struct kind k, const struct scheme_panel *s, const uint8_t *const *panels,
                    size_t n, const struct acts *a, size_t t0, size_t nt, float *acc)
{
    _Alignas(64) uint8_t tables[STREAMS_MAX][512];
    size_t t = 0;

    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t j = 0; j < n; j++)
        tables_of(k.bits, panels[j], tables[j]);
    if (nt >= UNPACK_TOKENS) {
        pass_many(k, s, panels, n, tables, a, t0, nt, acc);
        t = nt;
    }
    for (; t + 4 <= nt; t += 4)
        pass_few(k, 4, s, panels, n, tables, a, t0, t, nt, acc);
    for (; t + 2 <= nt; t += 2)
        pass_few(k, 2, s, panels, n, tables, a, t0, t, nt, acc);
    if (t < nt)
        pass_few(k, 1, s, panels, n, tables, a, t0, t, nt, acc);
    for (size_t j = 0; j < n; j++)
        scale_rows(k.bits, s, panels[j], a, t0, nt, acc + j * nt * PANEL_ROWS);
}

/* --- f32 arithmetic ------------------------------------------------------------------------------
 */

KFN void mul_block_float(const float *w, const struct acts *a, size_t t0, size_t nt, size_t b,
                         float *y)
{
    const float *x = a->x + t0 * a->ldx + b * SCHEME_BLOCK;
    size_t t = 0;

    for (; t + 6 <= nt; t += 6)
        mul_float_6(w, x + t * a->ldx, a->ldx, y + t * 16);
    for (; t < nt; t++) {
        v16 sum = v_load(y + t * 16);
        for (size_t i = 0; i < SCHEME_BLOCK; i++)
            sum = v_fma(v_load(w + 16 * i), v_set1(x[t * a->ldx + i]), sum);
        v_store(y + t * 16, sum);
    }
}

KFN void mul_scheme_float(const struct kind k, const struct scheme_panel *s,
                          const uint8_t *const *panels, size_t n, const struct acts *a, size_t t0,
                          size_t nt, float *acc)
{
    _Alignas(64) float w[SCHEME_BLOCK * PANEL_ROWS];
    _Alignas(64) uint8_t codes[1024];
    _Alignas(64) uint8_t tables[512];

    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t j = 0; j < n; j++) {
        const float *scales = (const float *)(const void *)(panels[j] + (16u << k.bits));
        const v16 d = v_load(scales), m = v_load(scales + 16);

        tables_of(k.bits, panels[j], tables);
        for (size_t b = 0; b < s->blocks; b++) {
            const size_t unit = b / s->unit_blocks, h = b % s->unit_blocks;

            if (h == 0)
                unpack_unit(k, panels[j] + s->head_bytes + unit * s->unit_bytes, tables, codes);
            for (size_t g = 0; g < 8; g++) {
                const vb c = vb_load(codes + 512 * h + 64 * g);
#define COLUMN(i)                                                                                  \
    v_store(w + (4 * g + (i)) * 16, v_add(v_mul(d, vb_byte_to_float(c, i, false)), m));
                COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3)
#undef COLUMN
            }
            mul_block_float(w, a, t0, nt, b, acc + j * nt * PANEL_ROWS);
        }
    }
}

/* --- g: as types with a minimum, but for where d and m stand ------------------------------------ */

#define EACH_GROUP_BLOCK(...)                                                                      \
    for (size_t b = 0, unit = 0; b < s->blocks; unit += s->unit_bytes)                             \
        for (size_t at = unit + 64, end_ = b + s->unit_blocks;                                     \
             b < end_ && b < s->blocks; b++, at += kernels_layouts[id].block_bytes)                \
            for (size_t j = 0; j < n; j++) {                                                       \
                const struct place p = {panels[j] + unit, panels[j] + at, NULL};                   \
                const size_t i = b * a->n_tokens + t0;                                             \
                float *y = acc + j * nt * PANEL_ROWS;                                              \
                __VA_ARGS__;                                                                       \
            }
#define DEFINE_GROUPS(kind)                                                                        \
    KFN void groups_##kind(enum layout_id id, const struct scheme_panel *s,                        \
                           const uint8_t *const *panels, size_t n, const struct acts *a,           \
                           size_t t0, size_t nt, float *acc)                                       \
    {                                                                                              \
        memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));                                        \
        if (nt == 1) {                                                                             \
            EACH_GROUP_BLOCK(kind##_packed_1(id, p, a, i, y, NULL))                                \
        } else if (nt == 2) {                                                                      \
            EACH_GROUP_BLOCK(kind##_packed_2(id, p, a, i, y, NULL))                                \
        } else if (nt == 3) {                                                                      \
            EACH_GROUP_BLOCK(kind##_packed_3(id, p, a, i, y, NULL))                                \
        } else if (nt == 4) {                                                                      \
            EACH_GROUP_BLOCK(kind##_packed_4(id, p, a, i, y, NULL))                                \
        } else if (nt == 5) {                                                                      \
            EACH_GROUP_BLOCK(kind##_packed_5(id, p, a, i, y, NULL))                                \
        } else {                                                                                   \
            EACH_GROUP_BLOCK(kind##_block(id, p, a, i, nt, y))                                     \
        }                                                                                          \
    }
DEFINE_GROUPS(byte)
DEFINE_GROUPS(word)

KFN void groups_float(enum layout_id id, const struct scheme_panel *s, const uint8_t *const *panels,
                      size_t n, const struct acts *a, size_t t0, size_t nt, float *acc)
{
    _Alignas(64) float w[SCHEME_BLOCK * PANEL_ROWS];

    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    EACH_GROUP_BLOCK(
        (void)i;
        mul_block_float(weights_at(id, p, w), a, t0, nt, b, y))
}

/* --- the sparse part -----------------------------------------------------------------------------
 */

/* Activations that are brought together at once; vectors read past them. */
#define GATHERED 256u

/* x of n columns. A few at a time, and the last few once more where they are not as many: loads and
 * stores of floats one by one are faster than the gathering instructions. */
KFN void gather(const float *x, const uint16_t *columns, size_t n, float *to)
{
    const size_t step = 8;

    for (size_t i = 0; i < n; i += step) {
        if (n < step) {
            for (; i < n; i++)
                to[i] = x[columns[i]];
            return;
        }
        const size_t at = n - i < step ? n - step : i;
        EACH(k, step) to[at + k] = x[columns[at + k]];
    }
}

static void sparse_add(const struct sparse *s, size_t p, const struct acts *a, size_t t0, size_t nt,
                       float *acc)
{
    const struct sparse_panel *of = sparse_panel(s, p);
    const uint16_t *columns = sparse_columns(s, of), *values = sparse_values(s, of);
    const vb rows = vb_nibbles(of->rows), places = vb_nibbles(of->places), n = vb_load_u16(of->n);
    _Alignas(64) float x[GATHERED + PANEL_ROWS];

    for (size_t t = 0; t < nt; t++, acc += PANEL_ROWS) {
        v16 y = v_permute(v_load(acc), rows);

        for (size_t k = 0, done = 0; k < of->n[0];) {
            const size_t left = of->n_entries - done, here = left < GATHERED ? left : GATHERED;
            size_t i = 0, next;

            gather(a->x + (t0 + t) * a->ldx, columns + done, here, x);
            for (; k < of->n[0] && (next = i + vb_count_above(n, k)) <= here; k++, i = next)
                y = v_fma_above(n, k, v_loadh(values + done + i), v_load(x + i), y);
            done += i;
        }
        v_store(acc, v_permute(y, places));
    }
}

#define SCHEME_ARGS                                                                                \
    const struct scheme_panel *s, const uint8_t *const *panels, size_t n, const struct acts *a,    \
        size_t t0, size_t nt, float *acc
#define LEVELS_FN(name, bits)                                                                      \
    static void scheme_int_##name(SCHEME_ARGS)                                                     \
    {                                                                                              \
        mul_scheme((struct kind){bits, false}, s, panels, n, a, t0, nt, acc);                      \
    }                                                                                              \
    static void scheme_word_##name(SCHEME_ARGS)                                                    \
    {                                                                                              \
        mul_scheme((struct kind){bits, true}, s, panels, n, a, t0, nt, acc);                       \
    }                                                                                              \
    static void scheme_float_##name(SCHEME_ARGS)                                                   \
    {                                                                                              \
        mul_scheme_float((struct kind){bits, false}, s, panels, n, a, t0, nt, acc);                \
    }
#define GROUPS_FN(name, id)                                                                        \
    static void scheme_int_##name(SCHEME_ARGS)                                                     \
    {                                                                                              \
        groups_byte(id, s, panels, n, a, t0, nt, acc);                                             \
    }                                                                                              \
    static void scheme_word_##name(SCHEME_ARGS)                                                    \
    {                                                                                              \
        groups_word(id, s, panels, n, a, t0, nt, acc);                                             \
    }                                                                                              \
    static void scheme_float_##name(SCHEME_ARGS)                                                   \
    {                                                                                              \
        groups_float(id, s, panels, n, a, t0, nt, acc);                                            \
    }
LEVELS_FN(sq2, 2)
LEVELS_FN(sq3, 3)
LEVELS_FN(sq4, 4)
GROUPS_FN(g2, LAYOUT_G2)
GROUPS_FN(g3, LAYOUT_G3)
GROUPS_FN(g4, LAYOUT_G4)
