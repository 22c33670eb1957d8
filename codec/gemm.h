/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer matrix products for the codec's transforms: i32 out[m][n] = i16 A[m][k] * B[n][k]^T, for
 * a constant B that is repacked once. Sums are modulo 2^32, so a result depends on neither the ISA,
 * the order of its sums, nor how many rows share a call; it is exact where the norms of a row of A
 * and of a row of B have a product below 2^31 (Cauchy-Schwarz).
 */
#ifndef ISTHMUS_CODEC_GEMM_H
#define ISTHMUS_CODEC_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "codec/dsp.h"

/* A panel's columns, rows of a block, and the most columns of A that a block takes: 16 columns x
 * 576 pairs of bytes and 6 rows of A are at home in an L1 cache of 32 KiB together. */
#define GEMM_COLS 16u
#define GEMM_ROWS 64u
#define GEMM_K    576u
/* Both n and k are multiples of this. */
#define GEMM_UNIT 32u

/* Elements from row to row of the block of A that kernels see: rows must not share cache sets. */
#define GEMM_LDA (GEMM_K + 32u)

struct codec_panel; /* B[n][k], read-only after it is packed: threads may share it */

/* b i16[n][k] is copied, into 2 n k bytes. n and k multiples of GEMM_UNIT, not 0. 0, -EINVAL or
 * -ENOMEM. */
int codec_panel_pack(const int16_t *b, uint32_t n, uint32_t k, struct codec_panel **out);
void codec_panel_free(struct codec_panel *p); /* NULL is fine */
uint32_t codec_panel_n(const struct codec_panel *p);
uint32_t codec_panel_k(const struct codec_panel *p);
size_t codec_panel_bytes(const struct codec_panel *p); /* resident */

/* out i32[m][ldo] = a i16[m][lda] * p^T: n values of every row of out, from k of a. lda and ldo in
 * elements; any alignment. Takes 80 KiB of stack. Any m; a multiple of GEMM_ROWS is best. */
void codec_gemm(const struct codec_dsp *dsp, const int16_t *a, size_t lda, uint32_t m,
                const struct codec_panel *p, int32_t *out, size_t ldo);

#endif
