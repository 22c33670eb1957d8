/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

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
    size_t n = (size_t)max_tokens * max_cols, blocks = n / ACT_BLOCK;
    if (kind != ACTS_F32) {
        a->w = alloc64(a, n * sizeof(*a->w));
        a->d = alloc64(a, blocks * sizeof(*a->d));
        a->s = alloc64(a, blocks * sizeof(*a->s));
    }
    if (kind == ACTS_INT8) {
        a->q = alloc64(a, n);
        a->neg = alloc64(a, blocks * 6 * sizeof(*a->neg));
        a->neg_all = alloc64(a, blocks * 4 * sizeof(*a->neg_all));
    }
    if ((kind != ACTS_F32 && (!a->w || !a->d || !a->s)) ||
        (kind == ACTS_INT8 && (!a->q || !a->neg || !a->neg_all))) {
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
    free(a->q);
    free(a->w);
    free(a->d);
    free(a->s);
    free(a->neg);
    free(a->neg_all);
    free(a);
}

size_t acts_bytes(const struct acts *a)
{
    return a->bytes;
}

void kernels_acts_set(const struct kernels_isa *isa, struct acts *a, const float *x, size_t ldx,
                      uint32_t n_tokens, uint32_t cols, unsigned part, unsigned parts)
{
    size_t from, to;

    if (part == 0) {
        a->n_tokens = n_tokens;
        a->cols = cols;
        a->x = x;
        a->ldx = ldx;
    }
    team_share(n_tokens, 1, part, parts, &from, &to);
    for (size_t t = from; t < to && a->kind != ACTS_F32; t++) /* a->n_tokens may not be set yet */
        isa->quantize(x + t * ldx, cols / ACT_BLOCK, a, n_tokens, t);
}

void acts_set(struct acts *a, const float *x, size_t ldx, uint32_t n_tokens, uint32_t cols,
              unsigned part, unsigned parts)
{
    kernels_acts_set(kernels_isa_get(), a, x, ldx, n_tokens, cols, part, parts);
}
