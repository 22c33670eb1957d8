/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codec's kernels behind one table, one implementation an ISA. All implementations give the
 * same bits: sums are f32 in CODEC_LANES lanes (element i in lane i % CODEC_LANES) that are added
 * pairwise at the end, a product and the sum it goes into are rounded once (fma), and rounding to
 * an integer is to nearest even.
 *
 * "Padded" buffers are the codec's own scratch: n is rounded up to CODEC_PAD elements, and a kernel
 * may read and write all of those. Other buffers are the caller's: a kernel touches the n elements
 * only. None need be aligned.
 */
#ifndef ISTHMUS_CODEC_DSP_H
#define ISTHMUS_CODEC_DSP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/levels.h"
#include "codec/rans.h"

#define CODEC_LANES     32u
#define CODED_K_MAX     30000 /* and half a step of SHIFT_MAX stay within 16 bits */
#define CODEC_PAD       64u
#define CODEC_PAD_TO(n) (((size_t)(n) + CODEC_PAD - 1) / CODEC_PAD * CODEC_PAD)

/* One row's uniform grid: value = unit * ((code << (8 - width)) - zero). */
struct codec_grid {
    uint8_t width;  /* bits a code, 1..8; 0: no codes, every value is 0 */
    uint8_t zero;   /* zero point, in units */
    uint16_t scale; /* the unit as sent: bits 30..15 of its f32 */
    float unit;     /* a power of two x 9 bits: unit * (up to 9 bits) is exact */
    float inv;      /* 1 / (unit << (8 - width)), rounded: value -> code */
    float bias;     /* zero in code steps */
    uint8_t top;    /* largest code */
};

/* What the values of a row that are not outliers span. lo <= 0 <= hi. */
struct codec_span {
    float lo, hi;
    float sum_sq; /* may be infinite, or 0 where squares are too small for f32 */
};

/* rANS: every lane's 16-bit state, as two planes of bytes. Lanes beyond the call's are unspecified.
 */
struct rans_states {
    uint8_t high[RANS_LANES_MAX], low[RANS_LANES_MAX];
};

#define RANS_WIDTH(lanes) ((unsigned)__builtin_ctz(lanes) - 2) /* 4, 8, .. 64 lanes: 0 to 4 */
#define RANS_WIDTHS       5
#define RANS_RAN_OUT      SIZE_MAX

struct codec_dsp {
    /* Sum of |x|. Not finite when a value is not, or when f32 is too small for it. */
    float (*sum_abs)(const float *x, size_t n);

    /* A copy of x with zeros for outliers, |x| > limit, and from n on (padded); bit i % 8 of
     * mask[i / 8] is set for an outlier (padded). Returns the number of outliers. */
    size_t (*split)(const float *x, size_t n, float limit, float *dense, uint8_t *mask,
                    struct codec_span *span);

    /* Codes of all n columns; returns the sum of squared errors, in code steps squared. Both
     * buffers padded; codes from n on are unspecified. */
    float (*quantize)(const float *dense, size_t n, const struct codec_grid *g, uint8_t *codes);

    /* The codes of a row back to their columns: out[n] has a value wherever bit i % 8 of mask[i /
     * 8] is clear, and anything else where it is set. codes and mask padded. */
    void (*dequantize)(const uint8_t *codes, const uint8_t *mask, size_t n,
                       const struct codec_grid *g, float *out);

    /* Codes of q bits, first code in the lowest bits. n codes either way (n need not be whole
     * groups of 8: codes from n on are zero for pack, unspecified after unpack). Both buffers
     * padded, but unpack reads no more than CODEC_PAD bytes behind the last code's. */
    void (*pack)(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits);
    void (*unpack)(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes);

    /* Buffers apart. */
    void (*copy)(void *dst, const void *src, size_t bytes);

    /* f16 little-endian. False when a value is NaN or beyond f16 (dst is then unspecified). */
    bool (*to_f16)(const float *x, size_t n, uint8_t *dst);
    /* False when a value is not finite (out is then unspecified). */
    bool (*from_f16)(const uint8_t *src, size_t n, float *out);

    /* --- coded modes; x, out and k are n values, no more. The k to be split are within
     * CODED_K_MAX. --- */

    /* x - mean; returns the sum of their squares, which may be infinite. out may be x. */
    float (*center)(const float *x, const float *mean, size_t n, float *out);

    /* Sum of a[i] * b[i]. */
    float (*dot)(const float *a, const float *b, size_t n);

    /* Sum of squares, no value counted as more than cap. */
    float (*sum_sq_capped)(const float *x, size_t n, float cap);

    /* x * scale to the nearest integer within +-32767. */
    void (*to_i16)(const float *x, size_t n, float scale, int16_t *k);

    /* The same of float(acc) * (mult * scale). */
    void (*scale_to_i16)(const int32_t *acc, const float *mult, float scale, size_t n, int16_t *k);

    /* The first k of n of the largest float(acc[k]) * unit + bias[k], rounded twice. */
    size_t (*best_class)(const int32_t *acc, float unit, const float *bias, size_t n);

    /* Sum of squares; k within +-32767. */
    uint64_t (*sum_sq_i16)(const int16_t *k, size_t n);

    /* fma(k, delta, mean). False when a value is not finite. */
    bool (*from_i16)(const int16_t *k, float delta, const float *mean, size_t n, float *out);

    /* fma(float(acc), scale * delta, mean). False when a value is not finite. */
    bool (*from_i32)(const int32_t *acc, const float *scale, float delta, const float *mean,
                     size_t n, float *out);

    /* What groups of 32 coefficients cost, low bits included, in 1/256 bit. */
    uint32_t (*code_cost)(const struct levels *l, const int16_t *k, const int8_t *level, int offset,
                          size_t groups);

    /* The symbols of the groups that are coded, one after another, and for each such group a bit a
     * coefficient that is escaped. Returns the number of coded groups. */
    size_t (*split_symbols)(const struct levels *l, const int16_t *k, const int8_t *level,
                            int offset, size_t groups, uint8_t *symbols, uint32_t *escapes);

    /* The way back, to within low bits: (symbol - 8) << shift; bits for symbols 0. Groups that are
     * not coded become zeros. */
    size_t (*join_symbols)(const struct levels *l, const uint8_t *symbols, const int8_t *level,
                           int offset, size_t groups, int16_t *k, uint32_t *escapes);

    /* rANS by RANS_WIDTH(lanes), n a multiple of RANS_GROUP; called through rans.h. The encoder
     * writes backwards from end, of which it may use n bytes and overwrite 8 more; it returns
     * where the bytes begin, or NULL when a symbol cannot be coded. The decoder returns the bytes
     * it took or RANS_RAN_OUT, and reads none outside src. */
    uint8_t *(*rans_encode[RANS_WIDTHS])(const struct rans_model *model, const uint8_t *symbols,
                                         size_t n, struct rans_states *st, uint8_t *end);
    size_t (*rans_decode[RANS_WIDTHS])(const struct rans_model *model, const uint8_t *src,
                                       size_t len, size_t n, struct rans_states *st,
                                       uint8_t *symbols);

    /* One block of an integer matrix product; called through gemm.h, which says how b is packed.
     * out i32[m][ldo] = a i16[m][GEMM_LDA] * b i16[n][k]^T, or += where add. m <= GEMM_ROWS, k <=
     * GEMM_K, n and k multiples of GEMM_UNIT. Sums are modulo 2^32. */
    void (*gemm)(const int16_t *a, size_t m, const int16_t *b, size_t n, size_t k, int32_t *out,
                 size_t ldo, bool add);
};

/* The table for these cpu_flags(). */
void codec_dsp_init(struct codec_dsp *dsp, unsigned flags);

/* Fill in what the ISA does better. */
void codec_dsp_init_avx2(struct codec_dsp *dsp);
void codec_dsp_init_avx512(struct codec_dsp *dsp);

/* The same for the coded modes' part. */
void coded_dsp_init(struct codec_dsp *dsp, unsigned flags);
void coded_dsp_init_avx2(struct codec_dsp *dsp);
void coded_dsp_init_avx512(struct codec_dsp *dsp);

/* The same for its rANS part. */
void rans_dsp_init(struct codec_dsp *dsp, unsigned flags);
void rans_dsp_init_avx2(struct codec_dsp *dsp);
void rans_dsp_init_avx512(struct codec_dsp *dsp);

/* And for its matrix product. */
void gemm_dsp_init(struct codec_dsp *dsp, unsigned flags);
void gemm_dsp_init_avx2(struct codec_dsp *dsp);
void gemm_dsp_init_avx512(struct codec_dsp *dsp);
void gemm_dsp_init_vnni(struct codec_dsp *dsp);

/* pack.c */
void codec_pack(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits);
void codec_unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes);

/* The end of every lane-wise sum. */
static inline float codec_lanes_sum_f32(float lane[CODEC_LANES])
{
    for (unsigned half = CODEC_LANES / 2; half; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

#endif
