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

#include "codec/codec.h"
#include "codec/levels.h"
#include "codec/rans.h"

#define CODEC_LANES     32u
#define CODEC_SPAN      256u  /* columns whose squares are added up apart */
#define CODED_K_MAX     30000 /* and half a step of SHIFT_MAX stay within 16 bits */
#define CODEC_PAD       64u
#define CODEC_PAD_TO(n) (((size_t)(n) + CODEC_PAD - 1) / CODEC_PAD * CODEC_PAD)

/* Values that are k steps, lo <= k <= hi, and their codes of `width` bits, none of which is 0: the
 * upper half of the codes is k + up, the lower k + down. A range goes on around another one, whose
 * k it leaves out: 0 < k for the upper half then, and k < 0 for the lower. */
struct codec_range {
    uint8_t width;
    int16_t lo, hi;
    int16_t up, down;
};

/* A span's squares added up, as far as to 8 lanes. */
struct codec_span {
    float sum_sq[8];
};
#define CODEC_SPANS_MAX (CODEC_COLS_MAX / CODEC_SPAN)

#define CODEC_K8_MAX  126    /* in 8 bits, 127 and -127 stand for all beyond as well */
#define CODEC_K8_NONE (-128) /* stands for none */
#define CODEC_LIMITS  8u

/* rANS: every lane's 16-bit state, as two planes of bytes. Lanes beyond the call's are unspecified.
 */
struct rans_states {
    uint8_t high[RANS_LANES_MAX], low[RANS_LANES_MAX];
};

#define RANS_WIDTH(lanes) ((unsigned)__builtin_ctz(lanes) - 2) /* 4, 8, .. 64 lanes: 0 to 4 */
#define RANS_WIDTHS       5
#define RANS_RAN_OUT      SIZE_MAX

struct codec_dsp {
    /* Sum of |x|, not finite when a value is not, and perhaps when the sum is too large; the sums
     * of squares of every span, the last of which may be shorter; and the largest of those sums.
     * Of the n columns, 32 lie side by side at every `every` times 32 from x on, as if there were
     * none between; n is a multiple of 32 where every is not 1. */
    float (*sum_abs)(const float *x, size_t n, size_t every, struct codec_span *spans,
                     float *largest);

    /* Sum of squares of the same columns, no value counted as more than cap; it may be infinite.
     * Only spans that may have larger values are read once more: where a lane's sum is cap's square
     * at least. The spans' sums are added up lane by lane in their order, then the lanes pairwise.
     */
    float (*sum_sq)(const float *x, size_t n, size_t every, float cap,
                    const struct codec_span *spans);

    /* The largest |x|, not finite when a value is not. */
    float (*max_abs)(const float *x, size_t n);

    /* k = x * inv to the nearest integer; 127 for those above CODEC_K8_MAX, -127 for those below
     * -CODEC_K8_MAX, from 2^31 on and for NaN, and 0 from n on (padded). */
    void (*quantize)(const float *x, size_t n, float inv, int8_t *k);

    /* How many |k| are above each limit (at most CODEC_K8_MAX), in the first 32 of every `every`
     * times 32. k padded with 0. */
    void (*above)(const int8_t *k, size_t n, size_t every, const uint8_t limits[CODEC_LIMITS],
                  uint32_t counts[CODEC_LIMITS]);

    /* Codes of the k in the range, packed like pack's, and 0 for others, which are moved to rest in
     * their order. Returns how many. k padded with 0, and one more; bits padded, and unspecified
     * behind the last code's byte; CODEC_PAD more than n in rest, unspecified behind its end. */
    size_t (*to_codes)(const int8_t *k, size_t n, const struct codec_range *range, uint8_t *bits,
                       int8_t *rest);

    /* Codes of q bits, first code in the lowest bits. n codes either way (n need not be whole
     * groups of 8: codes from n on are zero for pack, unspecified after unpack). Both buffers
     * padded, but unpack reads no more than CODEC_PAD bytes behind the last code's. unpack returns
     * how many of the n codes are 0. */
    void (*pack)(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits);
    size_t (*unpack)(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes);

    /* The k of codes of the range, none of which is beyond 8 bits; for codes 0, the next of rest.
     * codes and k padded, CODEC_PAD more than there are in rest; k from n on is unspecified. */
    void (*from_codes)(const uint8_t *codes, size_t n, const struct codec_range *range,
                       const int8_t *rest, int8_t *k);

    /* k * step. k padded; out[n]. */
    void (*scale)(const int8_t *k, size_t n, float step, float *out);

    /* Codes of q bits, as unpack takes them, of a range around nothing: k * step in out[n], and in
     * outliers a bit for each code 0, whose out is unspecified; bits from n on are 0. step has the
     * 4 bits of mantissa that are sent of one. Returns how many outliers there are. */
    size_t (*to_values)(const uint8_t *bits, size_t n, unsigned q, float step, float *out,
                        uint64_t *outliers);

    /* The next of values where a bit says so. CODEC_PAD more values than there are bits, which are
     * not used. */
    void (*fill_in)(const uint64_t *outliers, size_t n, const float *values, float *out);

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
void tsq_dsp_init_avx2(struct codec_dsp *dsp, bool pext); /* whether PEXT is fast */
void tsq_dsp_init_vbmi(struct codec_dsp *dsp);

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
size_t codec_unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes);

/* Lanes added pairwise, until there are `to`. */
static inline void codec_lanes_add(float lane[CODEC_LANES], unsigned from, unsigned to)
{
    for (unsigned half = from / 2; half >= to; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lane[i] += lane[i + half];
}

/* The end of every lane-wise sum. */
static inline float codec_lanes_sum_f32(float lane[CODEC_LANES])
{
    codec_lanes_add(lane, CODEC_LANES, 1);
    return lane[0];
}

#endif
