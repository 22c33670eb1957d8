/* SPDX-License-Identifier: Apache-2.0 */
/* Threshold splitting's side list: the columns and values set aside, as bytes and back. */
#ifndef ISTHMUS_CODEC_OUTLIER_H
#define ISTHMUS_CODEC_OUTLIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/dsp.h"

/* How the columns are listed. */
enum outlier_form {
    OUTLIERS_NONE = 0,
    OUTLIERS_GAPS = 1,   /* a byte for the columns skipped before each: best for few */
    OUTLIERS_BITMAP = 2, /* a bit a column: best for many */
};

struct codec_outliers {
    enum outlier_form form;
    bool wide; /* values are f32, because one would lose precision or overflow in f16 */
    uint32_t n;
    size_t bytes; /* of the whole list */
};

/* Columns and values of the outliers of x[cols], ascending, by their mask (a bit a column, padded);
 * pos and values are padded. */
void codec_outliers_find(const float *x, uint32_t cols, const uint8_t *mask, uint16_t *pos,
                         float *values);

void codec_outliers_plan(uint32_t cols, const uint16_t *pos, const float *values, size_t n,
                         struct codec_outliers *o);

/* Writes o->bytes bytes at dst; returns their end. */
uint8_t *codec_outliers_write(const struct codec_dsp *dsp, const struct codec_outliers *o,
                              uint32_t cols, const uint16_t *pos, const float *values,
                              uint8_t *dst);

/* Reads a list of o->form and o->wide into o->n, pos and values (room for cols each), and sets the
 * columns' bits in mask (clear before). Returns its end, or NULL when it is malformed or would pass
 * `end`. */
const uint8_t *codec_outliers_read(const struct codec_dsp *dsp, struct codec_outliers *o,
                                   uint32_t cols, const uint8_t *src, const uint8_t *end,
                                   uint16_t *pos, uint8_t *mask, float *values);

#endif
