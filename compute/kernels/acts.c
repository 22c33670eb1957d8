/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/kernels/internal.h"
#include "compute/team.h"

static void *alloc64(struct acts *a, size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    a->bytes += bytes;
    return aligned_alloc(64, bytes);
}

int acts_alloc(uint32_t max_tokens, uint32_t max_cols, enum acts_kind kind, struct acts **out)
{
    *out = NULL;
    if (max_tokens == 0 || max_cols == 0 || max_cols % ACT_BLOCK ||
        (uint64_t)max_tokens * max_cols > SIZE_MAX / 64)
        return -EINVAL;
    struct acts *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->max_tokens = max_tokens;
    a->max_cols = max_cols;
    a->kind = kind;
    a->digits = kind == ACTS_INT8X2 ? 2 : 1;
    size_t n = (size_t)max_tokens * max_cols, blocks = n * a->digits / ACT_BLOCK;
    a->x = alloc64(a, n * sizeof(*a->x));
    if (a->digits == 2)
        a->rest = alloc64(a, n * sizeof(*a->rest));
    if (kind != ACTS_F32) {
        a->q = alloc64(a, blocks * ACT_BLOCK);
        a->d = alloc64(a, blocks * sizeof(*a->d));
        a->s = alloc64(a, blocks * sizeof(*a->s));
        a->half = alloc64(a, blocks * 2 * sizeof(*a->half));
    }
    if (!a->x || (a->digits == 2 && !a->rest) ||
        (kind != ACTS_F32 && (!a->q || !a->d || !a->s || !a->half))) {
        acts_free(a);
        return -ENOMEM;
    }
    *out = a;
    return 0;
}

void acts_free(struct acts *a)
{
    if (!a)
        return;
    free(a->x);
    free(a->rest);
    free(a->q);
    free(a->d);
    free(a->s);
    free(a->half);
    free(a);
}

size_t acts_bytes(const struct acts *a)
{
    return a->bytes;
}

/* What the first digit of token t leaves over of its x. */
static const float *rest_of(const struct acts *a, size_t t, size_t cols, size_t stride)
{
    const float *x = a->x + t * cols;
    float *rest = a->rest + t * cols;

    for (size_t b = 0; b < cols / ACT_BLOCK; b++) {
        size_t i = b * stride + 2 * t;

        for (size_t k = 0; k < ACT_BLOCK; k++)
            rest[b * ACT_BLOCK + k] =
                x[b * ACT_BLOCK + k] - a->d[i] * (float)a->q[i * ACT_BLOCK + k];
    }
    return rest;
}

void kernels_acts_set(const struct kernels_isa *isa, struct acts *a, const float *x, size_t ldx,
                      uint32_t n_tokens, uint32_t cols, unsigned part, unsigned parts)
{
    size_t from, to;

    if (part == 0) {
        a->n_tokens = n_tokens * a->digits;
        a->cols = cols;
    }
    team_share(n_tokens, 1, part, parts, &from, &to);
    for (size_t t = from; t < to; t++) {
        memcpy(a->x + t * cols, x + t * ldx, cols * sizeof(*x));
        if (a->kind == ACTS_F32)
            continue;
        size_t stride = (size_t)n_tokens * a->digits; /* a->n_tokens may not be set yet */
        isa->quantize(x + t * ldx, cols / ACT_BLOCK, a, stride, t * a->digits);
        if (a->digits == 2)
            isa->quantize(rest_of(a, t, cols, stride), cols / ACT_BLOCK, a, stride, 2 * t + 1);
    }
}

void acts_set(struct acts *a, const float *x, size_t ldx, uint32_t n_tokens, uint32_t cols,
              unsigned part, unsigned parts)
{
    kernels_acts_set(kernels_isa_get(), a, x, ldx, n_tokens, cols, part, parts);
}
