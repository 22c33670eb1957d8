/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/coded_restore.h"

/* What a row is added to, in a block's columns. */
static const float *base_of(const struct coded_basis *basis, const struct coded_block *b,
                            uint16_t class)
{
    const float *mean = basis->mean + b->first_col, *more;

    if (!basis->n_classes)
        return mean;
    more = basis->class_mean + (size_t) class * basis->cols + b->first_col;
    for (uint32_t j = 0; j < b->cols; j++)
        basis->base[j] = mean[j] + more[j];
    return basis->base;
}

static bool restore_values(const struct coded_basis *basis, const struct codec_dsp *dsp,
                           const struct coded_block *b, int16_t *waiting,
                           const struct coded_waiting_row *rows, uint32_t n)
{
    bool good = true;

    for (uint32_t i = 0; i < n; i++) {
        const int16_t *k = coded_k(waiting, b, i);
        if (b->order) {
            for (uint32_t j = 0; j < b->n; j++)
                basis->natural[b->order[j]] = k[j];
            k = basis->natural;
        }
        good &=
            dsp->from_i16(k, rows[i].delta, base_of(basis, b, rows[i].class), b->cols, rows[i].out);
    }
    return good;
}

static bool restore_transform(const struct coded_basis *basis, const struct codec_dsp *dsp,
                              const struct coded_block *b, int16_t *waiting,
                              const struct coded_waiting_row *rows, uint32_t n)
{
    const size_t width = coded_whole_groups(b->cols);
    bool good = true;

    codec_gemm(dsp, coded_k(waiting, b, 0), b->groups * RANS_GROUP, n, b->b, basis->acc, width);
    for (uint32_t i = 0; i < n; i++)
        good &= dsp->from_i32(basis->acc + i * width, b->bscale, rows[i].delta,
                              base_of(basis, b, rows[i].class), b->cols, rows[i].out);
    return good;
}

bool coded_restore(const struct coded_basis *b, const struct codec_dsp *dsp,
                   struct coded_waiting *waiting, uint32_t i)
{
    const uint32_t n = waiting->n[i];

    waiting->n[i] = 0;
    return b->transform ? restore_transform(b, dsp, &b->blocks[i], waiting->k, waiting->rows[i], n)
                        : restore_values(b, dsp, &b->blocks[i], waiting->k, waiting->rows[i], n);
}
