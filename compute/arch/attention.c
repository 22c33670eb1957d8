/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/attention.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct attention {
    struct attention_params p;
    const struct kernels *k;

    float *cs;     /* [max_rows][rope_dims / 2][2] cos, sin of the row's position */
    float *scores; /* [team][scores_stride]: head_dim results, then n_ctx scores */
    size_t scores_stride;
    double *freq; /* [rope_dims / 2] radians a position */
    size_t bytes;

    /* one run */
    const struct decoder_row *rows;
    uint32_t n_rows;
};

static float *alloc_f32(struct attention *a, size_t n)
{
    size_t bytes = (n * sizeof(float) + 63) / 64 * 64;

    a->bytes += bytes;
    return aligned_alloc(64, bytes);
}

int attention_open(const struct attention_params *p, struct attention **out)
{
    const struct hparams *hp = p->hp;
    struct attention *a = calloc(1, sizeof(*a));

    *out = a;
    if (!a)
        return -ENOMEM;
    a->p = *p;
    a->k = kernels_get();
    a->scores_stride = hp->head_dim + ((size_t)p->n_ctx + 15) / 16 * 16;
    a->cs = alloc_f32(a, (size_t)p->max_rows * hp->rope_dims);
    a->scores = alloc_f32(a, team_size(p->team) * a->scores_stride);
    a->freq = calloc(hp->rope_dims / 2, sizeof(*a->freq));
    if (!a->cs || !a->scores || !a->freq)
        return -ENOMEM;
    for (uint32_t i = 0; i < hp->rope_dims / 2; i++) {
        double factor = p->rope_factors ? p->rope_factors[i] : 1;

        a->freq[i] = pow(hp->rope_base, -2.0 * i / hp->rope_dims) * hp->rope_scale / factor;
    }
    return 0;
}

void attention_close(struct attention *a)
{
    if (!a)
        return;
    free(a->cs);
    free(a->scores);
    free(a->freq);
    free(a);
}

size_t attention_bytes(const struct attention *a)
{
    return a->bytes;
}

void attention_begin(struct attention *a, const struct decoder_row *rows, uint32_t n_rows)
{
    a->rows = rows;
    a->n_rows = n_rows;
}

/* Angles in double: the same table whatever the position, rounded once. */
void attention_angles(struct attention *a, unsigned part, unsigned parts)
{
    uint32_t pairs = a->p.hp->rope_dims / 2;

    for (uint32_t r = part; r < a->n_rows; r += parts) {
        float *cs = a->cs + (size_t)r * pairs * 2;

        for (uint32_t i = 0; i < pairs; i++) {
            double angle = a->rows[r].pos * a->freq[i];

            cs[2 * i] = (float)cos(angle);
            cs[2 * i + 1] = (float)sin(angle);
        }
    }
}

static void rotate(const struct attention *a, float *head, uint32_t row)
{
    const struct hparams *hp = a->p.hp;

    a->k->rope(head, a->cs + (size_t)row * hp->rope_dims, hp->rope_dims, hp->arch->rope_neox);
}

static void store_kv(struct attention *a, uint32_t layer, float *keys, float *values,
                     unsigned part, unsigned parts)
{
    uint32_t heads = a->p.hp->n_kv_heads, hd = a->p.hp->head_dim;

    for (uint32_t i = part; i < a->n_rows * heads; i += parts) {
        uint32_t r = i / heads, h = i % heads;
        const struct decoder_row *row = &a->rows[r];
        float *key = keys + (size_t)i * hd, *value = values + (size_t)i * hd;
        size_t at = (size_t)row->pos * hd;

        rotate(a, key, r);
        a->k->f32_to_f16(kv_keys(a->p.kv, row->seq, layer, h) + at, key, hd);
        a->k->f32_to_f16(kv_values(a->p.kv, row->seq, layer, h) + at, value, hd);
    }
}

/* One task a (head, row), heads outside so that a head's keys stay in cache for many rows. */
static void attend(struct attention *a, uint32_t layer, float *queries, unsigned part,
                   unsigned parts)
{
    uint32_t heads = a->p.hp->n_heads, hd = a->p.hp->head_dim;
    uint32_t group = heads / a->p.hp->n_kv_heads;
    float *result = a->scores + part * a->scores_stride, *scores = result + hd;
    const float scale = (float)(1 / sqrt(hd));

    for (uint32_t i = part; i < heads * a->n_rows; i += parts) {
        uint32_t h = i / a->n_rows, r = i % a->n_rows;
        const struct decoder_row *row = &a->rows[r];
        float *q = queries + ((size_t)r * heads + h) * hd;

        rotate(a, q, r);
        a->k->attend(result, q, kv_keys(a->p.kv, row->seq, layer, h / group),
                     kv_values(a->p.kv, row->seq, layer, h / group), hd, row->pos + 1, hd, scale,
                     scores);
        memcpy(q, result, hd * sizeof(float));
        a->p.worked(a->p.arg, part, 2ull * hd * (row->pos + 1));
    }
}

void attention_run(struct attention *a, uint32_t layer, float *q, float *keys, float *values,
                   unsigned part, unsigned parts)
{
    store_kv(a, layer, keys, values, part, parts);
    team_barrier(a->p.team);
    attend(a, layer, q, part, parts);
}
