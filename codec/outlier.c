/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/outlier.h"

#include <math.h>
#include <string.h>

#include "codec/f16.h"

/* Bytes of a gap list: 0..253 columns skipped, then an outlier; 254 columns skipped and no outlier;
 * the end. */
#define GAP_SKIP 254u
#define GAP_END  255u

static size_t bitmap_bytes(uint32_t cols)
{
    return (cols + 7) / 8;
}

void codec_outliers_find(const float *x, uint32_t cols, const uint8_t *mask, uint16_t *pos,
                         float *values)
{
    size_t n = 0;

    for (uint32_t col = 0; col < cols; col += 64) {
        uint64_t set;
        memcpy(&set, mask + col / 8, sizeof(set));
        for (; set; set &= set - 1)
            pos[n++] = (uint16_t)(col + (unsigned)__builtin_ctzll(set));
    }
    for (size_t i = 0; i < n; i++)
        values[i] = x[pos[i]];
}

void codec_outliers_plan(uint32_t cols, const uint16_t *pos, const float *values, size_t n,
                         struct codec_outliers *o)
{
    size_t gaps = n + 1; /* with GAP_END */
    uint32_t next = 0;
    int wide = 0;

    *o = (struct codec_outliers){.form = OUTLIERS_NONE, .n = (uint32_t)n};
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        if (pos[i] - next >= GAP_SKIP)
            gaps += (pos[i] - next) / GAP_SKIP;
        next = pos[i] + 1u;
    }
    for (size_t i = 0; i < n; i++)
        wide |= !(fabsf(values[i]) >= F16_NORMAL) | !(fabsf(values[i]) < F16_OVERFLOW);
    o->wide = wide;
    o->form = gaps < bitmap_bytes(cols) ? OUTLIERS_GAPS : OUTLIERS_BITMAP;
    o->bytes = (o->form == OUTLIERS_GAPS ? gaps : bitmap_bytes(cols)) + n * (o->wide ? 4 : 2);
}

static uint8_t *write_gaps(const uint16_t *pos, uint32_t n, uint8_t *dst)
{
    uint32_t next = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t gap = pos[i] - next;
        for (; gap >= GAP_SKIP; gap -= GAP_SKIP)
            *dst++ = GAP_SKIP;
        *dst++ = (uint8_t)gap;
        next = pos[i] + 1u;
    }
    *dst++ = GAP_END;
    return dst;
}

static uint8_t *write_bitmap(const uint16_t *pos, uint32_t n, uint32_t cols, uint8_t *dst)
{
    memset(dst, 0, bitmap_bytes(cols));
    for (uint32_t i = 0; i < n; i++)
        dst[pos[i] / 8] |= (uint8_t)(1u << pos[i] % 8);
    return dst + bitmap_bytes(cols);
}

uint8_t *codec_outliers_write(const struct codec_dsp *dsp, const struct codec_outliers *o,
                              uint32_t cols, const uint16_t *pos, const float *values, uint8_t *dst)
{
    if (o->form == OUTLIERS_NONE)
        return dst;
    dst =
        o->form == OUTLIERS_GAPS ? write_gaps(pos, o->n, dst) : write_bitmap(pos, o->n, cols, dst);
    if (o->wide) {
        memcpy(dst, values, 4 * (size_t)o->n);
        return dst + 4 * (size_t)o->n;
    }
    dsp->to_f16(values, o->n, dst); /* plan saw that they fit */
    return dst + 2 * (size_t)o->n;
}

static const uint8_t *read_gaps(uint32_t cols, const uint8_t *src, const uint8_t *end,
                                uint16_t *pos, uint8_t *mask, uint32_t *n)
{
    uint32_t col = 0, skipped = 0;

    for (; src < end && *src != GAP_END; src++) {
        if (*src == GAP_SKIP) {
            skipped += GAP_SKIP;
            if (skipped >= cols)
                return NULL;
            continue;
        }
        col += skipped + *src;
        skipped = 0;
        if (col >= cols)
            return NULL;
        mask[col / 8] |= (uint8_t)(1u << col % 8);
        pos[(*n)++] = (uint16_t)col++;
    }
    /* A skip that leads nowhere is not what an encoder writes. */
    return src < end && !skipped ? src + 1 : NULL;
}

static const uint8_t *read_bitmap(uint32_t cols, const uint8_t *src, const uint8_t *end,
                                  uint16_t *pos, uint8_t *mask, uint32_t *n)
{
    size_t bytes = bitmap_bytes(cols);

    if ((size_t)(end - src) < bytes)
        return NULL;
    if (cols % 8 && src[bytes - 1] >> cols % 8)
        return NULL;
    for (size_t i = 0; i < bytes; i++)
        for (unsigned set = src[i]; set; set &= set - 1)
            pos[(*n)++] = (uint16_t)(8 * i + (unsigned)__builtin_ctz(set));
    memcpy(mask, src, bytes);
    return src + bytes;
}

static const uint8_t *read_values(const struct codec_dsp *dsp, bool wide, uint32_t n,
                                  const uint8_t *src, const uint8_t *end, float *values)
{
    const size_t bytes = (size_t)n * (wide ? 4 : 2);

    if ((size_t)(end - src) < bytes)
        return NULL;
    if (!wide)
        return dsp->from_f16(src, n, values) ? src + bytes : NULL;
    memcpy(values, src, bytes);
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return NULL;
    return src + bytes;
}

const uint8_t *codec_outliers_read(const struct codec_dsp *dsp, struct codec_outliers *o,
                                   uint32_t cols, const uint8_t *src, const uint8_t *end,
                                   uint16_t *pos, uint8_t *mask, float *values)
{
    o->n = 0;
    if (o->form == OUTLIERS_NONE)
        return o->wide ? NULL : src;
    src = o->form == OUTLIERS_GAPS ? read_gaps(cols, src, end, pos, mask, &o->n)
                                   : read_bitmap(cols, src, end, pos, mask, &o->n);
    if (!src || o->n == 0)
        return NULL;
    return read_values(dsp, o->wide, o->n, src, end, values);
}
