/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Panel products for x86, written once over vectors of 64 bytes (a group of 4 columns by 16 rows)
 * and compiled for each ISA. No include guard: an ISA's file includes it once, having defined what
 * rows_impl.h asks for, and
 *
 *   ALWAYS_INLINE               so that a type's constants fold
 *   REGISTERS                   how many the ISA has: 16 or 32
 *   vb                          64 bytes; lane = dword = row
 *   vb_load vb_store            unaligned
 *   vb_set8 vb_set16            the same in every byte, word
 *   vb_bcast(p)                 the 4 bytes at p in every dword
 *   vb_and vb_or vb_xor
 *   vb_srl16 vb_sll16           shifts in words
 *   vb_add32
 *   vb_madd16(a, b)             a dword: the sum of two products of words
 *   vb_mullo16
 *   vb_byte_to_float(x, j, s)   byte j of every dword, signed if s
 *   vb_to_float                 of int32 dwords
 *   vb_widen_i8_16(p)           32 bytes at p to words
 *   v_load_u8(p)                16 bytes at p to floats
 *   v_load_bf16(p)              16 bf16 at p to floats
 *   vb_dup_low16 vb_dup_high16  each dword's low or high word in both its words
 *   vb_low_one16()              words 1, 0, 1, 0 ...
 * and either, with HAVE_DPBUSD,
 *   vb_dot(acc, u, s)           acc + the sum of four products of unsigned u and signed s
 *   vb_mul_low16(a, b)          dword a times the low word of b
 * or
 *   vb_add16
 *   vb_maddubs(u, s)            a word: the sum of two products, saturating
 *   vb_abs8, vb_sign8(a, b)     |a|; a with b's sign put on
 *
 * One or two tokens: each block goes from its packed form straight into the dot products, so that
 * the panels stream by at memory speed. More: a block is unpacked once into the L1 cache for all.
 */

#define KFN static ALWAYS_INLINE

/* Where block b of a panel stands. */
struct place {
    const uint8_t *unit, *codes, *scales;
};

KFN struct place place_of(enum layout_id id, const uint8_t *panel, size_t b)
{
    const struct layout *l = &kernels_layouts[id];
    size_t per_unit = l->unit_cols / 32u, i = b % per_unit;
    const uint8_t *unit = panel + b / per_unit * l->unit_bytes;

    return (struct place){unit, unit + l->codes + i * l->block_bytes, unit + l->scales + 32 * i};
}

/* The codes of group g, as stored (Q8_0: signed). */
KFN vb codes_of(enum layout_id id, const uint8_t *codes, size_t g)
{
    const unsigned bits = kernels_layouts[id].bits;

    if (bits == 8)
        return vb_load(codes + 64 * g);
    vb c = vb_load(codes + g % 4 * 64);
    c = vb_and(g < 4 ? c : vb_srl16(c, 4), vb_set8(15));
    if (bits == 5) {
        vb h = vb_load(codes + 256);
        h = g < 4 ? vb_sll16(h, 4 - (int)g) : vb_srl16(h, (int)g - 4);
        c = vb_or(c, vb_and(h, vb_set8(0x10)));
    } else if (bits == 6) {
        vb h = vb_load(codes + 256 + g / 4 * 64);
        int at = 2 * (int)(g % 4); /* to bit 4 */
        h = at < 4 ? vb_sll16(h, 4 - at) : vb_srl16(h, at - 4);
        c = vb_or(c, vb_and(h, vb_set8(0x30)));
    }
    return c;
}

KFN v16 scale_of(enum layout_id id, struct place at)
{
    v16 d = v_loadh((const uint16_t *)(at.unit + kernels_layouts[id].d));

    if (id == LAYOUT_Q4_K || id == LAYOUT_Q5_K)
        d = v_mul(d, v_load_u8(at.scales));
    return d;
}

KFN v16 min_of(enum layout_id id, struct place at)
{
    v16 m = v_loadh((const uint16_t *)(at.unit + kernels_layouts[id].m));

    if (id == LAYOUT_Q4_K || id == LAYOUT_Q5_K)
        m = v_mul(m, v_sub(v_set1(0.f), v_load_u8(at.scales + 16)));
    return m;
}

/* --- int8 activations -------------------------------------------------------------------------- */

/* The least code as the dot products see it is 0: what the sums of activations make up for. */
KFN int code_offset(enum layout_id id)
{
#ifdef HAVE_DPBUSD
    if (id == LAYOUT_Q8_0)
        return 128;
#endif
    return kernels_layouts[id].offset;
}

/* Words to be multiplied by the two half sums of activations: minus offset, times the scale of
 * each half when it has one. */
KFN vb correction_of(enum layout_id id, struct place at)
{
    vb c = vb_set16((int16_t)-code_offset(id));

    return id == LAYOUT_Q6_K ? vb_mullo16(c, vb_widen_i8_16(at.scales)) : c;
}

KFN vb dot_codes(enum layout_id id, const uint8_t *codes, size_t g)
{
    vb c = codes_of(id, codes, g);
#ifdef HAVE_DPBUSD
    if (id == LAYOUT_Q8_0)
        c = vb_xor(c, vb_set8((char)0x80));
#endif
    return c;
}

/*
 * Dots of one block with 1, 2 or 4 tokens: s0 .. s3 += codes times activations. Named accumulators
 * throughout: arrays of this size GCC keeps in memory. In scope: id, CODE(g) giving the codes of
 * group g, q the tokens' activations (32 bytes apart), sc the scale pairs of Q6_K.
 *
 * The products of a group are added to words w0 .. w3 while these cannot overflow (they are below
 * 2^15 for codes of 8 bits, 2^14 of 6, 2^13 of 5, 2^12 of 4), then to the sums.
 */
#define TOKENS_1(F, x) F(0, x)
#define TOKENS_2(F, x) F(0, x) F(1, x)
#define TOKENS_4(F, x) F(0, x) F(1, x) F(2, x) F(3, x)

#define FIRST(T, g)                                                                                \
    {                                                                                              \
        const vb c_ = CODE(g);                                                                     \
        T(FIRST_, g)                                                                               \
    }
#define STEP(T, g)                                                                                 \
    {                                                                                              \
        const vb c_ = CODE(g);                                                                     \
        T(STEP_, g)                                                                                \
    }

#ifdef HAVE_DPBUSD

/* Sums in dwords cannot overflow; words w0 .. w3 serve only the halves that Q6_K scales. */
#define FIRST_(j, g)      w##j = vb_dot(vb_set8(0), c_, vb_bcast(q + 32 * (j) + 4 * (g)));
#define STEP_(j, g)       w##j = vb_dot(w##j, c_, vb_bcast(q + 32 * (j) + 4 * (g)));
#define BEGIN_(j, x)      w##j = s##j;
#define END_(j, x)        s##j = w##j;
#define ADD_SCALED_(j, f) s##j = vb_add32(s##j, vb_mul_low16(w##j, f));

#define DOT_TILE(T)                                                                                \
    do {                                                                                           \
        if (kernels_layouts[id].bits == 6) {                                                       \
            const vb lo_ = vb_dup_low16(sc), hi_ = vb_dup_high16(sc);                              \
            FIRST(T, 0) STEP(T, 1) STEP(T, 2) STEP(T, 3) T(ADD_SCALED_, lo_)                       \
            FIRST(T, 4) STEP(T, 5) STEP(T, 6) STEP(T, 7) T(ADD_SCALED_, hi_)                       \
        } else {                                                                                   \
            T(BEGIN_, 0)                                                                           \
            STEP(T, 0) STEP(T, 1) STEP(T, 2) STEP(T, 3)                                            \
            STEP(T, 4) STEP(T, 5) STEP(T, 6) STEP(T, 7)                                            \
            T(END_, 0)                                                                             \
        }                                                                                          \
    } while (0)

#else

/* Signed codes multiply as |c| and q with c's sign. */
KFN vb words_of(enum layout_id id, vb c, const int8_t *q)
{
    if (kernels_layouts[id].bits == 8)
        return vb_maddubs(vb_abs8(c), vb_sign8(vb_bcast(q), c));
    return vb_maddubs(c, vb_bcast(q));
}

#define FIRST_(j, g) w##j = words_of(id, c_, q + 32 * (j) + 4 * (g));
#define STEP_(j, g)  w##j = vb_add16(w##j, words_of(id, c_, q + 32 * (j) + 4 * (g)));
#define ADD_(j, f)   s##j = vb_add32(s##j, vb_madd16(w##j, f));

#define DOT_TILE(T)                                                                                \
    do {                                                                                           \
        const vb one_ = vb_set16(1);                                                               \
        if (kernels_layouts[id].bits == 4) {                                                       \
            FIRST(T, 0) STEP(T, 1) STEP(T, 2) STEP(T, 3)                                           \
            STEP(T, 4) STEP(T, 5) STEP(T, 6) STEP(T, 7) T(ADD_, one_)                              \
        } else if (kernels_layouts[id].bits == 5) {                                                \
            FIRST(T, 0) STEP(T, 1) STEP(T, 2) STEP(T, 3) T(ADD_, one_)                             \
            FIRST(T, 4) STEP(T, 5) STEP(T, 6) STEP(T, 7) T(ADD_, one_)                             \
        } else if (kernels_layouts[id].bits == 6) {                                                \
            const vb lo_ = vb_dup_low16(sc), hi_ = vb_dup_high16(sc);                              \
            FIRST(T, 0) STEP(T, 1) T(ADD_, lo_) FIRST(T, 2) STEP(T, 3) T(ADD_, lo_)                \
            FIRST(T, 4) STEP(T, 5) T(ADD_, hi_) FIRST(T, 6) STEP(T, 7) T(ADD_, hi_)                \
        } else {                                                                                   \
            FIRST(T, 0) T(ADD_, one_) FIRST(T, 1) T(ADD_, one_)                                    \
            FIRST(T, 2) T(ADD_, one_) FIRST(T, 3) T(ADD_, one_)                                    \
            FIRST(T, 4) T(ADD_, one_) FIRST(T, 5) T(ADD_, one_)                                    \
            FIRST(T, 6) T(ADD_, one_) FIRST(T, 7) T(ADD_, one_)                                    \
        }                                                                                          \
    } while (0)

#endif

/* What acc starts from, for the activations at index `at`. */
KFN vb start_of(enum layout_id id, const struct acts *a, size_t at, vb correction)
{
    return code_offset(id) ? vb_madd16(vb_bcast(&a->half[2 * at]), correction) : vb_set8(0);
}

KFN v16 accumulate(enum layout_id id, v16 acc, vb sum, v16 d, v16 m, const struct acts *a, size_t at)
{
    acc = v_fma(v_mul(d, v_set1(a->d[at])), vb_to_float(sum), acc);
    if (kernels_layouts[id].has_min)
        acc = v_fma(m, v_set1(a->s[at]), acc);
    return acc;
}

/* One block of a panel with one or two tokens: its codes stay in registers. */
#define CODE(g)             dot_codes(id, p.codes, g)
#define STREAM_START_(j, x) vb s##j = start_of(id, a, at + (j), correction), w##j;
#define STREAM_ADD_(j, x)                                                                          \
    v_store(acc + 16 * (j), accumulate(id, v_load(acc + 16 * (j)), s##j, d, m, a, at + (j)));
#define DEFINE_STREAM(name, T)                                                                     \
    KFN void name(enum layout_id id, struct place p, const struct acts *a, size_t at, float *acc)  \
    {                                                                                              \
        const int8_t *q = a->q + at * 32;                                                          \
        const vb sc = id == LAYOUT_Q6_K ? vb_widen_i8_16(p.scales) : vb_set8(0);                   \
        const vb correction = correction_of(id, p);                                                \
        T(STREAM_START_, 0)                                                                        \
        DOT_TILE(T);                                                                               \
        const v16 d = scale_of(id, p);                                                             \
        const v16 m = kernels_layouts[id].has_min ? min_of(id, p) : v_set1(0.f);                   \
        T(STREAM_ADD_, 0)                                                                          \
    }
DEFINE_STREAM(mul_int_1, TOKENS_1)
DEFINE_STREAM(mul_int_2, TOKENS_2)
#undef CODE

/* One block of a panel times all tokens, acc f32[nt][16] in the L1 cache. */
KFN void mul_int_block(enum layout_id id, struct place p, const struct acts *a, size_t at,
                       size_t nt, float *acc)
{
    _Alignas(64) uint8_t codes[8 * 64];
    const vb sc = id == LAYOUT_Q6_K ? vb_widen_i8_16(p.scales) : vb_set8(0);
    const vb correction = correction_of(id, p);
    const v16 d = scale_of(id, p);
    const v16 m = kernels_layouts[id].has_min ? min_of(id, p) : v_set1(0.f);
    size_t t = 0;

    for (size_t g = 0; g < 8; g++)
        vb_store(codes + 64 * g, dot_codes(id, p.codes, g));

#define CODE(g)       vb_load(codes + 64 * (g))
#define START_(j, x)  vb s##j = start_of(id, a, at + t + (j), correction), w##j;
#define FINISH_(j, x)                                                                              \
    v_store(y + 16 * (j), accumulate(id, v_load(y + 16 * (j)), s##j, d, m, a, at + t + (j)));
#define TILE(T)                                                                                    \
    do {                                                                                           \
        const int8_t *q = a->q + (at + t) * 32;                                                    \
        float *y = acc + t * 16;                                                                   \
        T(START_, 0)                                                                               \
        DOT_TILE(T);                                                                               \
        T(FINISH_, 0)                                                                              \
    } while (0)

    if (REGISTERS == 32 || kernels_layouts[id].bits == 4)
        for (; t + 4 <= nt; t += 4)
            TILE(TOKENS_4);
    for (; t + 2 <= nt; t += 2)
        TILE(TOKENS_2);
    if (t < nt)
        TILE(TOKENS_1);
#undef CODE
#undef START_
#undef FINISH_
#undef TILE
}

KFN void mul_int(enum layout_id id, const uint8_t *const *panels, size_t n, const struct acts *a,
                 size_t t0, size_t nt, float *acc)
{
    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t b = 0; b < a->cols / 32; b++) {
        for (size_t j = 0; j < n; j++) {
            struct place p = place_of(id, panels[j], b);
            size_t at = b * a->n_tokens + t0;

            if (nt == 1)
                mul_int_1(id, p, a, at, acc + j * PANEL_ROWS);
            else if (nt == 2)
                mul_int_2(id, p, a, at, acc + j * 2 * PANEL_ROWS);
            else
                mul_int_block(id, p, a, at, nt, acc + j * nt * PANEL_ROWS);
        }
    }
}

/* --- f32 arithmetic ---------------------------------------------------------------------------- */

/* Block b as plain weights f32[32][16], in `w` unless the panel holds them so. */
KFN const float *weights_of(enum layout_id id, const uint8_t *panel, size_t b, float *w)
{
    if (id == LAYOUT_F32)
        return (const float *)panel + b * 32 * PANEL_ROWS;
    if (kernels_layouts[id].bits == 0) {
        const uint16_t *h = (const uint16_t *)panel + b * 32 * PANEL_ROWS;
        for (size_t k = 0; k < 32; k++)
            v_store(w + 16 * k, id == LAYOUT_F16 ? v_loadh(h + 16 * k) : v_load_bf16(h + 16 * k));
        return w;
    }
    struct place p = place_of(id, panel, b);
    const v16 d = scale_of(id, p);
    const v16 m = kernels_layouts[id].has_min ? min_of(id, p) : v_set1(0.f);
    const v16 offset = v_set1(kernels_layouts[id].offset);
    v16 half[2] = {d, d};
    if (id == LAYOUT_Q6_K) {
        vb sc = vb_widen_i8_16(p.scales);
        half[0] = v_mul(d, vb_to_float(vb_madd16(vb_dup_low16(sc), vb_low_one16())));
        half[1] = v_mul(d, vb_to_float(vb_madd16(vb_dup_high16(sc), vb_low_one16())));
    }
#define COLUMN(g, j)                                                                               \
    do {                                                                                           \
        v16 c_ = vb_byte_to_float(codes_of(id, p.codes, g), j, kernels_layouts[id].bits == 8);     \
        c_ = v_mul(half[(g) / 4], v_sub(c_, offset)); /* exact */                                  \
        if (kernels_layouts[id].has_min)                                                           \
            c_ = v_add(c_, m);                                                                     \
        v_store(w + (4 * (g) + (j)) * 16, c_);                                                     \
    } while (0);
#define COLUMNS(g) COLUMN(g, 0) COLUMN(g, 1) COLUMN(g, 2) COLUMN(g, 3)
    COLUMNS(0) COLUMNS(1) COLUMNS(2) COLUMNS(3) COLUMNS(4) COLUMNS(5) COLUMNS(6) COLUMNS(7)
#undef COLUMNS
#undef COLUMN
    return w;
}

/* Six tokens' x, ldx apart, times one block of weights: the accumulators stay in registers. */
KFN void mul_float_6(const float *w, const float *x, size_t ldx, float *acc)
{
    v16 a0 = v_load(acc), a1 = v_load(acc + 16), a2 = v_load(acc + 32);
    v16 a3 = v_load(acc + 48), a4 = v_load(acc + 64), a5 = v_load(acc + 80);
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx, *x4 = x3 + ldx, *x5 = x4 + ldx;

    for (size_t k = 0; k < 32; k++) {
        v16 wk = v_load(w + 16 * k);
        a0 = v_fma(wk, v_set1(x[k]), a0);
        a1 = v_fma(wk, v_set1(x1[k]), a1);
        a2 = v_fma(wk, v_set1(x2[k]), a2);
        a3 = v_fma(wk, v_set1(x3[k]), a3);
        a4 = v_fma(wk, v_set1(x4[k]), a4);
        a5 = v_fma(wk, v_set1(x5[k]), a5);
    }
    v_store(acc, a0);
    v_store(acc + 16, a1);
    v_store(acc + 32, a2);
    v_store(acc + 48, a3);
    v_store(acc + 64, a4);
    v_store(acc + 80, a5);
}

KFN void mul_float(enum layout_id id, const uint8_t *const *panels, size_t n,
                   const struct acts *a, size_t t0, size_t nt, float *acc)
{
    _Alignas(64) float scratch[32 * PANEL_ROWS];

    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t b = 0; b < a->cols / 32; b++) {
        const float *x = a->x + t0 * a->cols + b * 32;

        for (size_t j = 0; j < n; j++) {
            const float *w = weights_of(id, panels[j], b, scratch);
            float *y = acc + j * nt * PANEL_ROWS;
            size_t t = 0;

            for (; t + 6 <= nt; t += 6)
                mul_float_6(w, x + t * a->cols, a->cols, y + t * 16);
            for (; t < nt; t++) {
                v16 sum = v_load(y + t * 16);
                for (size_t k = 0; k < 32; k++)
                    sum = v_fma(v_load(w + 16 * k), v_set1(x[t * a->cols + k]), sum);
                v_store(y + t * 16, sum);
            }
        }
    }
}

#define PANEL_FN(type, kind)                                                                       \
    static void mul_##kind##_##type(const uint8_t *const *panels, size_t n, const struct acts *a,  \
                                    size_t t0, size_t nt, float *acc)                              \
    {                                                                                              \
        mul_##kind(LAYOUT_##type, panels, n, a, t0, nt, acc);                                      \
    }
#include "compute/kernels/isa_table.h"
