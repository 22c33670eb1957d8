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
 *   vb_srl16 vb_sll16 vb_sra16  shifts in words
 *   vb_add32 vb_sub16
 *   vb_madd16(a, b)             a dword: the sum of two products of words
 *   vb_dot16(acc, a, b)         acc + that
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
 *   vb_sll32                    shift in dwords
 * or
 *   vb_add16
 *   vb_maddubs(u, s)            a word: the sum of two products, saturating
 *
 * Each block goes from its packed form straight into the dot products of up to four tokens, so that
 * the panels stream by at memory speed. What that unpacked is kept in the L1 cache for the others,
 * if there are more.
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

/* 3 bits: the codes of groups 6 and 7, in the low and the high nibbles. */
KFN vb third_bits(const uint8_t *codes)
{
    const vb spare = vb_set8((char)0x88);
    const vb x0 = vb_and(vb_load(codes), spare), x1 = vb_and(vb_load(codes + 64), spare);
    const vb x2 = vb_and(vb_load(codes + 128), spare);

    return vb_or(vb_srl16(x0, 3), vb_or(vb_srl16(x1, 2), vb_srl16(x2, 1)));
}

/* The codes of group g, as stored (Q8_0: signed). */
KFN vb codes_of(enum layout_id id, const uint8_t *codes, size_t g)
{
    const unsigned bits = kernels_layouts[id].bits;

    if (bits == 8)
        return vb_load(codes + 64 * g);
    if (bits == 2)
        return vb_and(vb_srl16(vb_load(codes + g / 4 * 64), 2 * (int)(g % 4)), vb_set8(3));
    if (bits == 3) {
        vb x = g < 6 ? vb_load(codes + g / 2 * 64) : third_bits(codes);
        return vb_and(g % 2 ? vb_srl16(x, 4) : x, vb_set8(7));
    }
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

/* --- integer activations ----------------------------------------------------------------------- */

/*
 * Dots of one block with 1 to 5 tokens into s0 .. s4. Named accumulators throughout: arrays of
 * this size GCC keeps in memory. CODE(i) gives the codes, as stored in the block or unpacked.
 */
#define TOKENS_1(F, x) F(0, x)
#define TOKENS_2(F, x) F(0, x) F(1, x)
#define TOKENS_3(F, x) F(0, x) F(1, x) F(2, x)
#define TOKENS_4(F, x) F(0, x) F(1, x) F(2, x) F(3, x)
#define TOKENS_5(F, x) F(0, x) F(1, x) F(2, x) F(3, x) F(4, x)

#define STEP(T, i)                                                                                 \
    {                                                                                              \
        const vb c_ = CODE(i);                                                                     \
        T(STEP_, i)                                                                                \
    }
#define STEPS(T)      STEP(T, 0) STEP(T, 1) STEP(T, 2) STEP(T, 3)
#define STEPS_HIGH(T) STEP(T, 4) STEP(T, 5) STEP(T, 6) STEP(T, 7)

KFN v16 accumulate(enum layout_id id, v16 acc, vb sum, v16 d, v16 m, const float *ad,
                   const float *as)
{
    acc = v_fma(v_mul(d, v_set1(*ad)), vb_to_float(sum), acc);
    if (kernels_layouts[id].has_min)
        acc = v_fma(m, v_set1(*as), acc);
    return acc;
}

/*
 * What a kind of activations does with a block, made from its INTS (their type), DOT (tile to
 * sums), CODES (how many vectors a block unpacks to) and unpacking function:
 *   kind_packed_n    1 to 5 tokens; the codes stay in registers, and unless it is NULL in `keep`,
 *                    with d and m behind them
 *   kind_n           1 to 5 tokens, all that from there
 *   kind_block       more: the first unpack the block, into the L1 cache, for the others
 *   mul_kind         panels, block by block in turn; loops apart, or GCC makes one unpacking of all
 */
#define SUM_(j, x)    vb s##j;
#define FINISH_(j, x)                                                                              \
    v_store(y + 16 * (j), accumulate(id, v_load(y + 16 * (j)), s##j, d, m, ad + (j), as + (j)));
#define FINISH(T)                                                                                  \
    const float *ad = a->d + i, *as = a->s + i;                                                    \
    T(FINISH_, 0)
/* d and m are loaded as late: five tokens leave no registers for them. */
#define DEFINE_TILE(name, T, kind)                                                                 \
    KFN void name(enum layout_id id, const uint8_t *codes, vb sc, const struct acts *a, size_t i,  \
                  float *y)                                                                        \
    {                                                                                              \
        const float *scales = (const float *)(const void *)(codes + 64 * CODES_##kind);            \
        T(SUM_, 0)                                                                                 \
        DOT_##kind(T)                                                                              \
        const v16 d = v_load(scales), m = v_load(scales + PANEL_ROWS);                             \
        FINISH(T)                                                                                  \
    }
/* Memory is read in order: the scales after the codes, or the prefetchers lose the stream. */
#define DEFINE_PACKED(name, T, kind)                                                               \
    KFN void name(enum layout_id id, struct place p, const struct acts *a, size_t i, float *y,     \
                  uint8_t *keep)                                                                   \
    {                                                                                              \
        const uint8_t *codes = p.codes;                                                            \
        const vb sc = id == LAYOUT_Q6_K ? vb_widen_i8_16(p.scales) : vb_set8(0);                   \
        T(SUM_, 0)                                                                                 \
        DOT_##kind(T)                                                                              \
        const v16 d = scale_of(id, p);                                                             \
        const v16 m = kernels_layouts[id].has_min ? min_of(id, p) : v_set1(0.f);                   \
        FINISH(T)                                                                                  \
        if (keep) {                                                                                \
            float *scales = (float *)(void *)(keep + 64 * CODES_##kind);                           \
            v_store(scales, d);                                                                    \
            v_store(scales + PANEL_ROWS, m);                                                       \
        }                                                                                          \
    }

KFN vb kept(vb code, uint8_t *keep, size_t i)
{
    if (keep)
        vb_store(keep + 64 * i, code);
    return code;
}

/* What a stream reads 1 KiB on: the processor's own look-ahead ends with each page of memory. It
 * pays where a few tokens share what is read; 8 bits, that take the least work, it slows. */
KFN void fetch_ahead(enum layout_id id, const uint8_t *panel, size_t b)
{
    const struct layout *l = &kernels_layouts[id];
    const size_t bytes = l->unit_bytes * 32u / l->unit_cols;

    if (l->bits == 8)
        return;
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(panel + b * bytes + 1024 + i);
}

/* One token: the processor's look-ahead does better by itself, with two blocks of a stream at a
 * turn where a unit is one; but for 5 and 6 bits in units of 8. Measured on Zen 4. */
KFN bool in_pairs(enum layout_id id)
{
    return kernels_layouts[id].unit_cols == 32 && kernels_layouts[id].bits < 8;
}

KFN void fetch_alone(enum layout_id id, const uint8_t *panel, size_t b)
{
    if (id == LAYOUT_Q5_K || id == LAYOUT_Q6_K)
        fetch_ahead(id, panel, b);
}

#define EACH_BLOCK(turn, ...)                                                                      \
    for (size_t first = 0; first < a->cols / 32; first += (turn))                                  \
        for (size_t j = 0; j < n; j++)                                                             \
            for (size_t b = first; b < first + (turn) && b < a->cols / 32; b++) {                  \
                const struct place p = place_of(id, panels[j], b);                                 \
                const size_t i = b * a->n_tokens + t0;                                             \
                float *y = acc + j * nt * PANEL_ROWS;                                              \
                __VA_ARGS__;                                                                       \
            }
#define FEW(kind, n)                                                                               \
    fetch_ahead(id, panels[j], b);                                                                 \
    kind##_packed_##n(id, p, a, i, y, NULL)
#define TILE(kind, n)                                                                              \
    IN_MEMORY(c);                                                                                  \
    kind##_##n(id, c, sc, a, i, y);                                                                \
    nt -= n, i += n, y += n * PANEL_ROWS;
/* A tile of one token costs almost as much as one of two: five or seven are not four and some. */
#define DEFINE_MUL(kind)                                                                           \
    KFN void kind##_block(enum layout_id id, struct place p, const struct acts *a, size_t i,       \
                          size_t nt, float *y)                                                     \
    {                                                                                              \
        _Alignas(64) uint8_t codes[64 * (CODES_##kind + 2)];                                       \
        const vb sc = id == LAYOUT_Q6_K ? vb_widen_i8_16(p.scales) : vb_set8(0);                   \
        const uint8_t *c = codes;                                                                  \
        const size_t first = FOURS(kind) ? 4 : 2;                                                  \
                                                                                                   \
        if (FOURS(kind))                                                                           \
            kind##_packed_4(id, p, a, i, y, codes);                                                \
        else                                                                                       \
            kind##_packed_2(id, p, a, i, y, codes);                                                \
        nt -= first, i += first, y += first * PANEL_ROWS;                                          \
        if (FOURS(kind)) {                                                                         \
            while (nt >= 7 || nt == 4) {                                                           \
                TILE(kind, 4)                                                                      \
            }                                                                                      \
            if (nt == 6) {                                                                         \
                TILE(kind, 3)                                                                      \
            }                                                                                      \
            if (nt == 5) {                                                                         \
                TILE(kind, 5)                                                                      \
            } else if (nt == 3) {                                                                  \
                TILE(kind, 3)                                                                      \
            }                                                                                      \
        }                                                                                          \
        while (nt >= 2) {                                                                          \
            TILE(kind, 2)                                                                          \
        }                                                                                          \
        if (nt) {                                                                                  \
            TILE(kind, 1)                                                                          \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    KFN void mul_##kind(enum layout_id id, const uint8_t *const *panels, size_t n,                 \
                        const struct acts *a, size_t t0, size_t nt, float *acc)                    \
    {                                                                                              \
        memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));                                        \
        if (nt == 1) {                                                                             \
            EACH_BLOCK(in_pairs(id) ? 2 : 1, fetch_alone(id, panels[j], b);                        \
                       kind##_packed_1(id, p, a, i, y, NULL))                                      \
        } else if (nt == 2) {                                                                      \
            EACH_BLOCK(1, FEW(kind, 2))                                                            \
        } else if (nt == 3 && FOURS(kind)) {                                                       \
            EACH_BLOCK(1, FEW(kind, 3))                                                            \
        } else if (nt == 4 && FOURS(kind)) {                                                       \
            EACH_BLOCK(1, FEW(kind, 4))                                                            \
        } else if (nt == 5 && FOURS(kind)) {                                                       \
            EACH_BLOCK(1, FEW(kind, 5))                                                            \
        } else {                                                                                   \
            EACH_BLOCK(1, kind##_block(id, p, a, i, nt, y))                                        \
        }                                                                                          \
    }

/* Registers enough for more than two tokens? */
#define FOURS(kind) (REGISTERS == 32 || !WIDE_##kind)

/* Whatever p points to is in memory, and p may be another pointer: without it GCC loads all that a
 * loop reads before it, into registers that it has not, and spills them. */
#define IN_MEMORY(p) __asm__ volatile("" : "+r"(p) : : "memory")

/* --- 16 bits a value --- */

/* Codes i / 2 as words, less their offset, Q6_K times their scale: columns 0 and 2 of the group's
 * four where i is even, 1 and 3 where it is odd. */
KFN vb word_code(enum layout_id id, const uint8_t *codes, vb sc, size_t i)
{
    const struct layout *l = &kernels_layouts[id];
    vb c;

    if (l->bits == 4) {
        c = vb_srl16(vb_load(codes + i / 2 % 4 * 64), (int)(i / 8 * 4 + i % 2 * 8));
        if (i / 8 * 4 + i % 2 * 8 < 12)
            c = vb_and(c, vb_set16(15));
    } else {
        c = codes_of(id, codes, i / 2);
        if (l->bits == 8)
            return vb_sra16(i % 2 ? c : vb_sll16(c, 8), 8);
        c = i % 2 ? vb_srl16(c, 8) : vb_and(c, vb_set16(255));
    }
    if (l->offset)
        c = vb_sub16(c, vb_set16(l->offset));
    if (id == LAYOUT_Q6_K)
        c = vb_mullo16(c, i < 8 ? vb_dup_low16(sc) : vb_dup_high16(sc));
    return c;
}

#define CODES_word   16
#define WIDE_word    false
#define BEGIN_(j, x) s##j = vb_set8(0);
#define STEP_(j, g)  s##j = vb_dot16(s##j, c_, vb_bcast(w + 32 * (j) + 2 * (g)));
#define DOT_word(T)                                                                                \
    const int16_t *w = a->w + i * 32;                                                              \
    T(BEGIN_, 0)                                                                                   \
    STEPS_16(T)
#define STEPS_16(T)                                                                                \
    STEPS(T) STEPS_HIGH(T) STEP(T, 8) STEP(T, 9) STEP(T, 10) STEP(T, 11)                           \
        STEP(T, 12) STEP(T, 13) STEP(T, 14) STEP(T, 15)

#define CODE(i) kept(word_code(id, codes, sc, i), keep, i)
DEFINE_PACKED(word_packed_1, TOKENS_1, word)
DEFINE_PACKED(word_packed_2, TOKENS_2, word)
DEFINE_PACKED(word_packed_3, TOKENS_3, word)
DEFINE_PACKED(word_packed_4, TOKENS_4, word)
DEFINE_PACKED(word_packed_5, TOKENS_5, word)
#undef CODE
#define CODE(i) vb_load(codes + 64 * (i))
DEFINE_TILE(word_1, TOKENS_1, word)
DEFINE_TILE(word_2, TOKENS_2, word)
DEFINE_TILE(word_3, TOKENS_3, word)
DEFINE_TILE(word_4, TOKENS_4, word)
DEFINE_TILE(word_5, TOKENS_5, word)
DEFINE_MUL(word)
#undef CODE
#undef BEGIN_
#undef STEP_

/* --- 8 bits a value --- */

#define CODES_byte 8
/* Words and sums of both halves are alive at once. */
#define WIDE_byte (kernels_layouts[id].bits == 6)

#ifdef HAVE_DPBUSD

KFN vb byte_code(enum layout_id id, const uint8_t *codes, vb sc, size_t g)
{
    vb c = codes_of(id, codes, g);

    return id == LAYOUT_Q8_0 ? vb_xor(c, vb_set8((char)0x80)) : c;
}

/* Codes are unsigned to the dot products: sums start from what that adds. By a shift, for the
 * multipliers are what all else waits for. */
KFN vb start_of(enum layout_id id, const int32_t *neg)
{
    const int offset = id == LAYOUT_Q8_0 ? 128 : kernels_layouts[id].offset;

    return offset ? vb_sll32(vb_bcast(neg), __builtin_ctz((unsigned)offset)) : vb_set8(0);
}

/* Sums in dwords cannot overflow; w0 .. w4 serve only the halves that Q6_K scales. */
#define BEGIN_(j, x)   s##j = start_of(id, neg + 4 * (j));
#define STEP_(j, g)    s##j = vb_dot(s##j, c_, vb_bcast(q + 32 * (j) + 4 * (g)));
#define HALF_(j, h)    s##j = start_of(id, neg + 4 * (j) + 1 + (h));
#define SCALE_(j, f)   const vb w##j = vb_mul_low16(s##j, f);
#define SCALE2_(j, f)  s##j = vb_add32(w##j, vb_mul_low16(s##j, f));

#define DOT_byte(T)                                                                                \
    const int8_t *q = a->q + i * 32;                                                               \
    const int32_t *neg = a->neg_all + i * 4;                                                       \
    if (kernels_layouts[id].bits == 6) {                                                           \
        T(HALF_, 0) STEPS(T) T(SCALE_, vb_dup_low16(sc))                                           \
        T(HALF_, 1) STEPS_HIGH(T) T(SCALE2_, vb_dup_high16(sc))                                    \
    } else {                                                                                       \
        T(BEGIN_, 0) STEPS(T) STEPS_HIGH(T)                                                        \
    }

#else

KFN vb byte_code(enum layout_id id, const uint8_t *codes, vb sc, size_t g)
{
    return codes_of(id, codes, g);
}

/*
 * Products are summed in words, modulo 2^16. With codes about zero the sum of a block fits a word:
 * 16 products of up to 127 * 8 (4 bits; without an offset 15) or 127 * 16 (5 bits), 8 of 127 * 32
 * (6 bits, whose halves are scaled apart): so the words start from what the offset takes away, and
 * whatever they pass through, they end right. Where the type has no offset of its own (5 bits with
 * a minimum) it is added again.
 */
KFN vb start_of(const int16_t *neg, int log2_offset)
{
    return vb_sll16(vb_bcast(neg), log2_offset);
}

KFN vb sum_of(enum layout_id id, vb w, const int16_t *neg)
{
    vb s = vb_madd16(w, vb_set16(1));

    if (kernels_layouts[id].bits == 5 && kernels_layouts[id].offset == 0)
        s = vb_add32(s, vb_madd16(vb_bcast(neg), vb_set16(-16)));
    return s;
}

#define FIRST_(j, g)  w##j = vb_maddubs(c_, vb_bcast(q + 32 * (j) + 4 * (g)));
#define BEGIN_(j, b)  w##j = start_of(neg + 6 * (j), b);
#define HALF_(j, h)   w##j = start_of(neg + 6 * (j) + 2 + 2 * (h), 5);
#define WORDS_(j, x)  vb w##j;
#define STEP_(j, g)   w##j = vb_add16(w##j, vb_maddubs(c_, vb_bcast(q + 32 * (j) + 4 * (g))));
#define ADD_(j, x)    s##j = sum_of(id, w##j, neg + 6 * (j));
#define SCALE_(j, f)  s##j = vb_madd16(w##j, f);
#define SCALE2_(j, f) s##j = vb_add32(s##j, vb_madd16(w##j, f));

#define DOT_byte(T)                                                                                \
    const int8_t *q = a->q + i * 32;                                                               \
    const int16_t *neg = a->neg + i * 6;                                                           \
    T(WORDS_, 0)                                                                                   \
    if (kernels_layouts[id].bits == 6) {                                                           \
        T(HALF_, 0) STEPS(T) T(SCALE_, vb_dup_low16(sc))                                           \
        T(HALF_, 1) STEPS_HIGH(T) T(SCALE2_, vb_dup_high16(sc))                                    \
    } else if (kernels_layouts[id].bits <= 4 && kernels_layouts[id].offset == 0) {                 \
        FIRST(T) STEP(T, 1) STEP(T, 2) STEP(T, 3) STEPS_HIGH(T) T(ADD_, 0)                         \
    } else {                                                                                       \
        T(BEGIN_, kernels_layouts[id].bits - 1)                                                    \
        STEPS(T) STEPS_HIGH(T) T(ADD_, 0)                                                          \
    }
#define FIRST(T)                                                                                   \
    {                                                                                              \
        const vb c_ = CODE(0);                                                                     \
        T(FIRST_, 0)                                                                               \
    }

#endif

#define CODE(i) kept(byte_code(id, codes, sc, i), keep, i)
DEFINE_PACKED(byte_packed_1, TOKENS_1, byte)
DEFINE_PACKED(byte_packed_2, TOKENS_2, byte)
DEFINE_PACKED(byte_packed_3, TOKENS_3, byte)
DEFINE_PACKED(byte_packed_4, TOKENS_4, byte)
DEFINE_PACKED(byte_packed_5, TOKENS_5, byte)
#undef CODE
#define CODE(i) vb_load(codes + 64 * (i))
DEFINE_TILE(byte_1, TOKENS_1, byte)
DEFINE_TILE(byte_2, TOKENS_2, byte)
DEFINE_TILE(byte_3, TOKENS_3, byte)
DEFINE_TILE(byte_4, TOKENS_4, byte)
DEFINE_TILE(byte_5, TOKENS_5, byte)
DEFINE_MUL(byte)
#undef CODE

/* Signed codes of 8 bits and int8 activations: as words, unless the dot product takes four. */
KFN void mul_int(enum layout_id id, const uint8_t *const *panels, size_t n, const struct acts *a,
                 size_t t0, size_t nt, float *acc)
{
#ifndef HAVE_DPBUSD
    if (kernels_layouts[id].bits == 8) {
        mul_word(id, panels, n, a, t0, nt, acc);
        return;
    }
#endif
    mul_byte(id, panels, n, a, t0, nt, acc);
}

/* --- f32 arithmetic ---------------------------------------------------------------------------- */

/* A block of codes as plain weights f32[32][16] in w. */
KFN const float *weights_at(enum layout_id id, struct place p, float *w)
{
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

/* Column c of a float type's panel. */
KFN v16 column_of(enum layout_id id, const uint8_t *panel, size_t c)
{
    const uint16_t *h = (const uint16_t *)panel + c * PANEL_ROWS;

    return id == LAYOUT_F32   ? v_load((const float *)panel + c * PANEL_ROWS)
           : id == LAYOUT_F16 ? v_loadh(h)
                              : v_load_bf16(h);
}

/* Block b as plain weights f32[32][16], in `w` unless the panel holds them so. */
KFN const float *weights_of(enum layout_id id, const uint8_t *panel, size_t b, float *w)
{
    if (id == LAYOUT_F32)
        return (const float *)panel + b * 32 * PANEL_ROWS;
    if (kernels_layouts[id].bits == 0) {
        for (size_t k = 0; k < 32; k++)
            v_store(w + 16 * k, column_of(id, panel, b * 32 + k));
        return w;
    }
    return weights_at(id, place_of(id, panel, b), w);
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

/* One token times four panels of a float type: a row's sum is a chain of additions, of which
 * four go on while each waits for its last. */
KFN void mul_columns_4(enum layout_id id, const uint8_t *const *panels, const float *x, size_t cols,
                       float *acc)
{
    const uint8_t *p0 = panels[0], *p1 = panels[1], *p2 = panels[2], *p3 = panels[3];
    v16 a0 = v_set1(0.f), a1 = a0, a2 = a0, a3 = a0;

    for (size_t c = 0; c < cols; c++) {
        const v16 xc = v_set1(x[c]);
        a0 = v_fma(column_of(id, p0, c), xc, a0);
        a1 = v_fma(column_of(id, p1, c), xc, a1);
        a2 = v_fma(column_of(id, p2, c), xc, a2);
        a3 = v_fma(column_of(id, p3, c), xc, a3);
    }
    v_store(acc, a0);
    v_store(acc + 16, a1);
    v_store(acc + 32, a2);
    v_store(acc + 48, a3);
}

KFN void mul_float(enum layout_id id, const uint8_t *const *panels, size_t n, const struct acts *a,
                   size_t t0, size_t nt, float *acc)
{
    _Alignas(64) float scratch[32 * PANEL_ROWS];

    if (kernels_layouts[id].bits == 0 && nt == 1 && n == 4) {
        mul_columns_4(id, panels, a->x + t0 * a->ldx, a->cols, acc);
        return;
    }
    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t b = 0; b < a->cols / 32; b++) {
        const float *x = a->x + t0 * a->ldx + b * 32;

        for (size_t j = 0; j < n; j++) {
            const float *w = weights_of(id, panels[j], b, scratch);
            float *y = acc + j * nt * PANEL_ROWS;
            size_t t = 0;

            for (; t + 6 <= nt; t += 6)
                mul_float_6(w, x + t * a->ldx, a->ldx, y + t * 16);
            for (; t < nt; t++) {
                v16 sum = v_load(y + t * 16);
                for (size_t k = 0; k < 32; k++)
                    sum = v_fma(v_load(w + 16 * k), v_set1(x[t * a->ldx + k]), sum);
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
