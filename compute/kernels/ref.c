/* SPDX-License-Identifier: Apache-2.0 */
/* The C reference: what every kernel's result is, bit by bit. Written to be read, not to be fast. */
#include <math.h>
#include <string.h>

#include "compute/kernels/internal.h"

/* --- 16 virtual lanes -------------------------------------------------------------------------- */

#define ROWS_FN static

typedef struct {
    float l[16];
} v16;

#define LANES(expr)                                                                                \
    v16 r;                                                                                         \
    for (int i = 0; i < 16; i++)                                                                   \
        r.l[i] = (expr);                                                                           \
    return r

ROWS_FN v16 v_load(const float *p)
{
    LANES(p[i]);
}

ROWS_FN v16 v_set1(float x)
{
    LANES(x);
}

ROWS_FN v16 v_loadh(const uint16_t *p)
{
    LANES(f32_from_f16(p[i]));
}

ROWS_FN v16 v_add(v16 a, v16 b)
{
    LANES(a.l[i] + b.l[i]);
}

ROWS_FN v16 v_sub(v16 a, v16 b)
{
    LANES(a.l[i] - b.l[i]);
}

ROWS_FN v16 v_mul(v16 a, v16 b)
{
    LANES(a.l[i] * b.l[i]);
}

ROWS_FN v16 v_div(v16 a, v16 b)
{
    LANES(a.l[i] / b.l[i]);
}

ROWS_FN v16 v_fma(v16 a, v16 b, v16 c)
{
    LANES(fmaf(a.l[i], b.l[i], c.l[i]));
}

ROWS_FN v16 v_max(v16 a, v16 b)
{
    LANES(a.l[i] > b.l[i] ? a.l[i] : b.l[i]);
}

ROWS_FN v16 v_min(v16 a, v16 b)
{
    LANES(a.l[i] < b.l[i] ? a.l[i] : b.l[i]);
}

ROWS_FN v16 v_abs(v16 a)
{
    LANES(fabsf(a.l[i]));
}

ROWS_FN v16 v_ldexp(v16 p, v16 t)
{
    LANES(f32_from_bits(f32_bits(p.l[i]) + (f32_bits(t.l[i]) << 23)));
}

ROWS_FN v16 v_zero_below(v16 x, v16 lo, v16 y)
{
    LANES(x.l[i] < lo.l[i] ? 0.f : y.l[i]);
}

ROWS_FN void v_store(float *p, v16 a)
{
    memcpy(p, a.l, sizeof(a.l));
}

ROWS_FN void v_storeh(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++)
        p[i] = f16_from_f32(a.l[i]);
}

ROWS_FN void v_store_i8(int8_t *p, v16 a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)a.l[i];
}

ROWS_FN void v_store_words(int16_t *p, v16 a)
{
    static const int from[4] = {0, 2, 1, 3};

    for (int i = 0; i < 16; i++)
        p[i] = (int16_t)a.l[i / 4 * 4 + from[i % 4]];
}

ROWS_FN float v_sum(v16 a)
{
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++)
            a.l[i] += a.l[i + n];
    return a.l[0];
}

ROWS_FN float v_neg_sums(int16_t neg[6], int32_t neg_all[4], v16 x, v16 y)
{
    int sum[2][2] = {{0}};

    for (int i = 0; i < 16; i++) {
        sum[0][i / 2 % 2] += (int)x.l[i];
        sum[1][i / 2 % 2] += (int)y.l[i];
    }
    for (int p = 0; p < 2; p++) {
        neg[p] = (int16_t)-(sum[0][p] + sum[1][p]);
        neg[2 + p] = (int16_t)-sum[0][p];
        neg[4 + p] = (int16_t)-sum[1][p];
    }
    for (int i = 0; i < 3; i++)
        neg_all[i] = neg[2 * i] + neg[2 * i + 1];
    return (float)-neg_all[0];
}

ROWS_FN float v_hmax(v16 a)
{
    float m = a.l[0];
    for (int i = 1; i < 16; i++)
        m = a.l[i] > m ? a.l[i] : m;
    return m;
}

ROWS_FN v16 v_swap(v16 a, int h)
{
    LANES(a.l[i ^ h]);
}

ROWS_FN void v_store_i16(int16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int16_t)a.l[i];
}

#include "compute/kernels/rows_impl.h"

/* --- attention: 16 pairs of integers ----------------------------------------------------------- */

#define TILE_FN   static
#define TILE_SUMS 6

typedef struct {
    int16_t l[16][2];
} vp;

typedef struct {
    int32_t l[16];
} vi;

TILE_FN vp vp_load8(const uint8_t *p)
{
    vp r;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 2; j++)
            r.l[i][j] = (int8_t)p[2 * i + j];
    return r;
}

TILE_FN vp vp_load4(const uint8_t *p, int high)
{
    vp r;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 2; j++)
            r.l[i][j] = kv_levels[p[2 * i + j] >> (high ? 4 : 0) & 15];
    return r;
}

TILE_FN vp vp_bcast(const int16_t *p)
{
    vp r;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 2; j++)
            r.l[i][j] = p[j];
    return r;
}

TILE_FN vi vi_zero(void)
{
    return (vi){{0}};
}

TILE_FN vi vi_dot(vi acc, vp a, vp b)
{
    for (int i = 0; i < 16; i++)
        acc.l[i] += a.l[i][0] * b.l[i][0] + a.l[i][1] * b.l[i][1];
    return acc;
}

TILE_FN v16 vi_float(vi a)
{
    LANES((float)a.l[i]);
}

#include "compute/kernels/attend_impl.h"

/* --- products ---------------------------------------------------------------------------------- */

/* One block of 32 columns of a panel, read out of its layout. */
struct block {
    int8_t code[PANEL_ROWS][32];        /* less the type's offset */
    float d[PANEL_ROWS], m[PANEL_ROWS]; /* weight = d * code + m; Q6_K: d * sc * code */
    int8_t sc[PANEL_ROWS][2];           /* Q6_K: of columns < 16 and >= 16 */
};

static void read_codes(const struct layout *l, const uint8_t *p, struct block *blk)
{
    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        for (size_t k = 0; k < 32; k++) {
            size_t g = k / 4, at = lane * 4 + k % 4;
            unsigned c;

            if (l->bits == 8) {
                blk->code[lane][k] = (int8_t)p[g * 64 + at];
                continue;
            }
            c = p[g % 4 * 64 + at] >> (g < 4 ? 0 : 4) & 15;
            if (l->bits == 5)
                c |= (p[256 + at] >> g & 1u) << 4;
            else if (l->bits == 6)
                c |= (p[256 + g / 4 * 64 + at] >> 2 * (g % 4) & 3u) << 4;
            blk->code[lane][k] = (int8_t)((int)c - l->offset);
        }
    }
}

static void read_block(enum layout_id id, const uint8_t *panel, size_t b, struct block *blk)
{
    const struct layout *l = &kernels_layouts[id];
    size_t per_unit = l->unit_cols / 32u;
    const uint8_t *unit = panel + b / per_unit * l->unit_bytes;
    const uint8_t *sc = unit + l->scales + 32 * (b % per_unit);

    read_codes(l, unit + l->codes + b % per_unit * l->block_bytes, blk);
    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        blk->d[lane] = f32_from_f16(load_u16(unit + l->d + 2 * lane));
        blk->m[lane] = l->has_min ? f32_from_f16(load_u16(unit + l->m + 2 * lane)) : 0.f;
        if (id == LAYOUT_Q6_K) {
            memcpy(blk->sc[lane], sc + 2 * lane, 2);
        } else if (l->unit_cols == 256) { /* products exact: 11 bits by 6 */
            blk->d[lane] *= (float)sc[lane];
            blk->m[lane] *= -(float)sc[16 + lane];
        }
    }
}

/* Columns k0 .. k0 + n of one row's codes times the activations' words. */
static int32_t dot(const int8_t *code, const int16_t *w, size_t k0, size_t n)
{
    static const size_t at[4] = {0, 2, 1, 3};
    int32_t sum = 0;

    for (size_t k = k0; k < k0 + n; k++)
        sum += code[k] * w[k / 4 * 4 + at[k % 4]];
    return sum;
}

static void mul_word(enum layout_id id, const uint8_t *panel, const struct acts *a, size_t t0,
                     size_t nt, float *acc)
{
    const struct layout *l = &kernels_layouts[id];

    memset(acc, 0, nt * PANEL_ROWS * sizeof(*acc));
    for (size_t b = 0; b < a->cols / 32; b++) {
        struct block blk;

        read_block(id, panel, b, &blk);
        for (size_t t = 0; t < nt; t++) {
            size_t at = b * a->n_tokens + t0 + t;
            const int16_t *w = a->w + at * 32;

            for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
                const int8_t *code = blk.code[lane];
                float *y = &acc[t * PANEL_ROWS + lane];
                int32_t i = id == LAYOUT_Q6_K ? blk.sc[lane][0] * dot(code, w, 0, 16) +
                                                    blk.sc[lane][1] * dot(code, w, 16, 16)
                                              : dot(code, w, 0, 32);

                *y = fmaf(blk.d[lane] * a->d[at], (float)i, *y);
                if (l->has_min)
                    *y = fmaf(blk.m[lane], a->s[at], *y);
            }
        }
    }
}

/* The words of int8 activations are the same integers. */
static void mul_int(enum layout_id id, const uint8_t *panel, const struct acts *a, size_t t0,
                    size_t nt, float *acc)
{
    mul_word(id, panel, a, t0, nt, acc);
}

/* Block b as plain weights w[32][16]. Only the addition of a minimum rounds. */
static void read_weights(enum layout_id id, const uint8_t *panel, size_t b, float *w)
{
    struct block blk;

    if (kernels_layouts[id].bits == 0) {
        for (size_t i = 0; i < 32 * PANEL_ROWS; i++) {
            size_t at = b * 32 * PANEL_ROWS + i;

            if (id == LAYOUT_F32)
                memcpy(&w[i], panel + 4 * at, 4);
            else if (id == LAYOUT_F16)
                w[i] = f32_from_f16(load_u16(panel + 2 * at));
            else
                w[i] = f32_from_bits((uint32_t)load_u16(panel + 2 * at) << 16);
        }
        return;
    }
    read_block(id, panel, b, &blk);
    for (size_t k = 0; k < 32; k++) {
        for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
            float d = blk.d[lane], code = blk.code[lane][k];

            if (id == LAYOUT_Q6_K)
                d *= (float)blk.sc[lane][k / 16];
            w[k * PANEL_ROWS + lane] = kernels_layouts[id].has_min ? d * code + blk.m[lane]
                                                                   : d * code;
        }
    }
}

static void mul_float(enum layout_id id, const uint8_t *panel, const struct acts *a, size_t t0,
                      size_t nt, float *acc)
{
    memset(acc, 0, nt * PANEL_ROWS * sizeof(*acc));
    for (size_t b = 0; b < a->cols / 32; b++) {
        float w[32 * PANEL_ROWS];

        read_weights(id, panel, b, w);
        for (size_t t = 0; t < nt; t++) {
            const float *x = a->x + (t0 + t) * a->ldx + b * 32;

            for (size_t k = 0; k < 32; k++)
                for (size_t lane = 0; lane < PANEL_ROWS; lane++)
                    acc[t * PANEL_ROWS + lane] =
                        fmaf(w[k * PANEL_ROWS + lane], x[k], acc[t * PANEL_ROWS + lane]);
        }
    }
}

#define PANEL_FN(type, kind)                                                                       \
    static void mul_##kind##_##type(const uint8_t *const *panels, size_t n, const struct acts *a,  \
                                    size_t t0, size_t nt, float *acc)                              \
    {                                                                                              \
        for (size_t j = 0; j < n; j++)                                                             \
            mul_##kind(LAYOUT_##type, panels[j], a, t0, nt, acc + j * nt * PANEL_ROWS);            \
    }
#include "compute/kernels/isa_table.h"
#include "compute/kernels/scheme_ref.h"

const struct kernels_isa kernels_isa_c = KERNELS_ISA_TABLE("c");
