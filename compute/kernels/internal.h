/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel files share: the panel layouts, the inside of acts, and the table of one ISA.
 *
 * Numerics of a product, the same bits on every ISA. Lane = output row. For each token and row, over
 * the blocks of 32 columns in order, starting from acc = 0:
 *
 *   i   = sum_k (code_k - offset) * a_k                        exact integer, converted to nearest
 *         (Q6_K: sc0 * sum over k < 16 + sc1 * sum over k >= 16; below 2^24 for int8 a, 2^31 for int16)
 *   acc = fmaf(dw * da, (float)i, acc)                         dw: weight scale, da: acts' scale
 *   acc = fmaf(m, s, acc)                                      types with a minimum m; s = da * sum a
 *
 * and for float types and `exact` acts, over the columns in order:
 *
 *   acc = fmaf(w_k, x_k, acc)                                  w_k as qtype_dequantize() gives it
 */
#ifndef ISTHMUS_COMPUTE_KERNELS_INTERNAL_H
#define ISTHMUS_COMPUTE_KERNELS_INTERNAL_H

#include "codec/f16.h"
#include "compute/kernels/kernels.h"
#include "compute/kernels/scheme_panel.h"

/* --- panels ------------------------------------------------------------------------------------ */

enum layout_id {
    LAYOUT_F32,
    LAYOUT_F16,
    LAYOUT_BF16,
    LAYOUT_Q4_0,
    LAYOUT_Q4_1,
    LAYOUT_Q5_0,
    LAYOUT_Q5_1,
    LAYOUT_Q8_0,
    LAYOUT_Q4_K,
    LAYOUT_Q5_K,
    LAYOUT_Q6_K,
    N_LAYOUTS,
    LAYOUT_G2, /* groups of a scheme (scheme_panel.h) */
    LAYOUT_G3,
    LAYOUT_G4,
    N_CODINGS
};

/*
 * A panel is 16 rows x cols, stored as units of unit_cols columns one after another: one stream.
 * Inside a unit, in bytes (n = number of 32-column blocks in the unit, 1 or 8):
 *
 *   floats  element[32][16]: column by column
 *   others  blocks' codes: n times, from `codes` on, `block_bytes` apart:
 *             Q8_0    int8[8][16][4]: group g of 4 columns, row, column in the group
 *             2 bits  u8[2][16][4]: of [h] bits 2f, 2f+1 are the code of group 4h + f;
 *             3 bits  u8[3][16][4]: of [i] bits 0-2 are the code of group 2i, bits 4-6 of group
 *                     2i + 1, bit 3 is bit i of group 6's code, bit 7 of group 7's
 *             others  nibbles u8[4][16][4]: low nibble group g, high nibble group g + 4;
 *             then    5 bits: u8[16][4], bit g is bit 4 of group g's code;
 *                     6 bits: u8[2][16][4], bits 2g, 2g+1 of [0] are bits 4, 5 of group g's code,
 *                     of [1] those of group g + 4
 *           d f16[16] at `d`; m (K: dmin) f16[16] at `m` when the type has one
 *           K-quants: at `scales`, 32 bytes a block: u8 sc[16], mn[16]; Q6_K: s8 sc[16][2]
 */
struct layout {
    enum qtype type;
    uint16_t unit_cols, unit_bytes;
    uint16_t codes, block_bytes, d, m, scales;
    uint8_t bits, offset; /* 0 bits: float */
    bool has_min;
};

/* Here and not in panel.c, so that kernels specialised by type fold it. */
/* clang-format off */
static const struct layout kernels_layouts[N_CODINGS] = {
    /*              type        cols  bytes  codes block    d    m  scales bits off  min */
    [LAYOUT_F32]  = {QTYPE_F32,   32, 2048,    0, 2048,     0,   0,   0,   0,   0, false},
    [LAYOUT_F16]  = {QTYPE_F16,   32, 1024,    0, 1024,     0,   0,   0,   0,   0, false},
    [LAYOUT_BF16] = {QTYPE_BF16,  32, 1024,    0, 1024,     0,   0,   0,   0,   0, false},
    [LAYOUT_Q4_0] = {QTYPE_Q4_0,  32,  288,    0,  256,   256,   0,   0,   4,   8, false},
    [LAYOUT_Q4_1] = {QTYPE_Q4_1,  32,  320,    0,  256,   256, 288,   0,   4,   0, true},
    [LAYOUT_Q5_0] = {QTYPE_Q5_0,  32,  352,    0,  320,   320,   0,   0,   5,  16, false},
    [LAYOUT_Q5_1] = {QTYPE_Q5_1,  32,  384,    0,  320,   320, 352,   0,   5,   0, true},
    [LAYOUT_Q8_0] = {QTYPE_Q8_0,  32,  544,    0,  512,   512,   0,   0,   8,   0, false},
    [LAYOUT_Q4_K] = {QTYPE_Q4_K, 256, 2368,  320,  256,     0,  32,  64,   4,   0, true},
    [LAYOUT_Q5_K] = {QTYPE_Q5_K, 256, 2880,  320,  320,     0,  32,  64,   5,   0, true},
    [LAYOUT_Q6_K] = {QTYPE_Q6_K, 256, 3360,  288,  384,     0,   0,  32,   6,  32, false},
    [LAYOUT_G2]   = {.codes = 64, .block_bytes = 128, .m = 32, .bits = 2, .has_min = true},
    [LAYOUT_G3]   = {.codes = 64, .block_bytes = 192, .m = 32, .bits = 3, .has_min = true},
    [LAYOUT_G4]   = {.codes = 64, .block_bytes = 256, .m = 32, .bits = 4, .has_min = true},
};
/* clang-format on */

/* N_LAYOUTS when the type is unknown. */
enum layout_id kernels_layout_of(enum qtype type);

/* Pack one panel from its n_rows (1 to 16) rows at src, in the file's blocks; rows past them become
 * zeros. */
void kernels_pack_panel(enum layout_id id, const uint8_t *src, size_t n_rows, size_t cols,
                        uint8_t *dst);

static inline size_t panel_bytes(const struct layout *l, size_t cols)
{
    return cols / l->unit_cols * l->unit_bytes;
}

struct kernels_isa;

struct mat {
    const struct kernels_isa *isa;
    enum layout_id id; /* N_LAYOUTS: of a scheme */
    uint32_t rows, cols;
    size_t panel_bytes, bytes;
    uint8_t *panels;
    struct scheme_panel scheme;
    struct sparse sparse;
};

static inline uint32_t n_panels(uint32_t rows)
{
    return rows / PANEL_ROWS + (rows % PANEL_ROWS != 0);
}

/* Memory for panels: shared 2 MiB-page regions, so that small matrices fill huge pages together.
 * Aligned to 64. NULL: no memory. */
void *kernels_mem_alloc(size_t bytes);
void kernels_mem_free(void *p, size_t bytes);

/* --- activations ------------------------------------------------------------------------------- */

#define INT16_MAX_ACT 16383 /* Q6_K: 128 * 32 * 32 of them stay below 2^31 */

struct acts {
    uint32_t max_tokens, max_cols;
    uint32_t n_tokens, cols; /* of the present content */
    enum acts_kind kind;
    size_t bytes;
    /* Block b of token t is at index i = b * n_tokens + t. */
    int8_t *q;    /* q[i * 32 + k], never -128; int8 only */
    int16_t *w;   /* the integers as words: of each four, in the order 0, 2, 1, 3 */
    float *d;     /* x ~ d[i] * integer */
    float *s;     /* d[i] * sum of integers */
    int16_t *neg; /* int8 only: what an offset of 1 takes from the words that products are summed
                     to. neg[6i + p]: minus the sum over k / 2 % 2 == p; [6i + 2 + 2h + p]: of those
                     the k / 16 == h */
    int32_t *neg_all; /* int8 only: the same of dwords. neg_all[4i]: minus the sum of all;
                         [4i + 1 + h]: of those the k / 16 == h */
    const float *x; /* x[t * ldx + c]: the caller's */
    size_t ldx;
};

/* --- one ISA ----------------------------------------------------------------------------------- */

/* Tokens [t0, t0 + nt) of `a` times n panels, block by block in turn: acc f32[n][nt][16]. */
typedef void (*panel_fn)(const uint8_t *const *panels, size_t n, const struct acts *a, size_t t0,
                         size_t nt, float *acc);

struct kernels_isa {
    struct kernels rows;
    /* One token's row x[n_blocks * 32] into block column t of a, whose rows have n_tokens. */
    void (*quantize)(const float *x, size_t n_blocks, const struct acts *a, size_t n_tokens,
                     size_t t);
    panel_fn mul[N_LAYOUTS];     /* int8 activations (floats: as mul_f32) */
    panel_fn mul_int16[N_LAYOUTS];
    panel_fn mul_f32[N_LAYOUTS];
    scheme_fn scheme[3][2][3]; /* by acts' kind, sq or g, bits - 2 */
    sparse_fn sparse;
    /* acc f32[nt][16] (+ bias, + y) to y, n_rows of the 16. */
    void (*finish)(const float *acc, size_t nt, size_t n_rows, const float *bias, int add, float *y,
                   size_t ldy);
};

extern const struct kernels_isa kernels_isa_c;
#if defined(__x86_64__)
extern const struct kernels_isa kernels_isa_avx2, kernels_isa_avx512, kernels_isa_vnni;
#endif

/* The table for cpu_flags(). */
const struct kernels_isa *kernels_isa_get(void);

/* mat_mul and acts_set with a table of choice, for tests and bench. */
void kernels_mat_mul(const struct kernels_isa *isa, const struct product *products, unsigned n,
                     const struct acts *a, int add, unsigned part, unsigned parts);
void kernels_acts_set(const struct kernels_isa *isa, struct acts *a, const float *x, size_t ldx,
                      uint32_t n_tokens, uint32_t cols, unsigned part, unsigned parts);

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

#endif
