/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Panels, the walk over blocks, and the C kernel.
 *
 * B is cut into ranges of its k, equal but for a unit and of at most GEMM_K; a range into panels of
 * GEMM_COLS rows of B, the columns of the product; a panel holds pairs (k, k + 1) of all its
 * columns, then the next pairs. So one pass over the rows of A at hand reads B from end to end,
 * however many they are, and while a panel is in the L1 cache all rows meet it.
 */
#include "codec/gemm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"

#define ALIGN 64u

struct codec_panel {
    uint32_t n, k;
    int16_t *packed; /* ALIGN-ed */
};

/* Where range i of k begins. */
static uint32_t range_start(uint32_t k, uint32_t i)
{
    const uint32_t ranges = (k + GEMM_K - 1) / GEMM_K;

    return (uint32_t)((uint64_t)(k / GEMM_UNIT) * i / ranges * GEMM_UNIT);
}

int codec_panel_pack(const int16_t *b, uint32_t n, uint32_t k, struct codec_panel **out)
{
    struct codec_panel *p;
    int16_t *dst;

    if (n == 0 || k == 0 || n % GEMM_UNIT || k % GEMM_UNIT)
        return -EINVAL;
    p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    *p = (struct codec_panel){n, k, aligned_alloc(ALIGN, (size_t)n * k * sizeof(*b))};
    if (!p->packed) {
        free(p);
        return -ENOMEM;
    }
    dst = p->packed;
    for (uint32_t i = 0, start = 0, end; start < k; start = end) {
        end = range_start(k, ++i);
        for (uint32_t col = 0; col < n; col += GEMM_COLS)
            for (uint32_t at = start; at < end; at += 2)
                for (uint32_t c = col; c < col + GEMM_COLS; c++, dst += 2)
                    memcpy(dst, b + (size_t)c * k + at, 2 * sizeof(*b));
    }
    *out = p;
    return 0;
}

void codec_panel_free(struct codec_panel *p)
{
    if (!p)
        return;
    free(p->packed);
    free(p);
}

uint32_t codec_panel_n(const struct codec_panel *p)
{
    return p->n;
}

uint32_t codec_panel_k(const struct codec_panel *p)
{
    return p->k;
}

size_t codec_panel_bytes(const struct codec_panel *p)
{
    return sizeof(*p) + (size_t)p->n * p->k * sizeof(*p->packed);
}

static void gemm_rows(const struct codec_dsp *dsp, const int16_t *a, size_t lda, uint32_t m,
                      const struct codec_panel *p, int32_t *out, size_t ldo)
{
    _Alignas(ALIGN) int16_t rows[GEMM_ROWS * GEMM_LDA];

    for (uint32_t i = 0, start = 0, end; start < p->k; start = end) {
        end = range_start(p->k, ++i);
        for (uint32_t r = 0; r < m; r++)
            memcpy(rows + r * GEMM_LDA, a + r * lda + start, (end - start) * sizeof(*a));
        dsp->gemm(rows, m, p->packed + (size_t)start * p->n, p->n, end - start, out, ldo,
                  start > 0);
    }
}

void codec_gemm(const struct codec_dsp *dsp, const int16_t *a, size_t lda, uint32_t m,
                const struct codec_panel *p, int32_t *out, size_t ldo)
{
    for (uint32_t r = 0; r < m; r += GEMM_ROWS) {
        const uint32_t left = m - r;
        gemm_rows(dsp, a + r * lda, lda, left < GEMM_ROWS ? left : GEMM_ROWS, p, out + r * ldo,
                  ldo);
    }
}

/* Unsigned, for the sums are modulo 2^32. */
static void gemm(const int16_t *a, size_t m, const int16_t *b, size_t n, size_t k, int32_t *out,
                 size_t ldo, bool add)
{
    for (size_t col = 0; col < n; col += GEMM_COLS, b += GEMM_COLS * k) {
        for (size_t r = 0; r < m; r++) {
            const int16_t *row = a + r * GEMM_LDA;
            int32_t *dst = out + r * ldo + col;
            uint32_t acc[GEMM_COLS] = {0};
            if (add)
                memcpy(acc, dst, sizeof(acc));
            for (size_t i = 0; i < k; i += 2) {
                const int16_t *pairs = b + GEMM_COLS * i;
                for (unsigned c = 0; c < GEMM_COLS; c++)
                    acc[c] += (uint32_t)(row[i] * pairs[2 * c]) +
                              (uint32_t)(row[i + 1] * pairs[2 * c + 1]);
            }
            memcpy(dst, acc, sizeof(acc));
        }
    }
}

void gemm_dsp_init(struct codec_dsp *dsp, unsigned flags)
{
    dsp->gemm = gemm;
#if defined(CODEC_X86)
    if (flags & CPU_AVX2)
        gemm_dsp_init_avx2(dsp);
    if (flags & CPU_AVX512)
        gemm_dsp_init_avx512(dsp);
    if (flags & CPU_VNNI)
        gemm_dsp_init_vnni(dsp);
#endif
}
