/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/kernel_rows.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "codec/cpu.h"
#include "compute/kernels/kernels.h"
#include "control/bench/memory.h"

#define COLS     1536u
#define HEAD     64u
#define KEYS     512u
#define KV_HEADS 3u
#define STRIDE   (KV_HEADS * HEAD) /* from one key to the next */
#define VOCAB    49152u

struct rows {
    float *x, *y, *w;   /* [VOCAB] */
    float *scores;      /* [KEYS] */
    uint16_t *k, *v;    /* [KEYS][STRIDE] */
    struct acts *acts;  /* of one row */
    struct acts *acts2; /* the same in two digits */
};

int rows_open(struct rows **out)
{
    struct rows *r = calloc(1, sizeof(*r));

    *out = r;
    if (!r)
        return -ENOMEM;
    r->x = malloc(VOCAB * sizeof(*r->x));
    r->y = calloc(VOCAB, sizeof(*r->y));
    r->w = malloc(VOCAB * sizeof(*r->w));
    r->scores = calloc(KEYS, sizeof(*r->scores));
    r->k = calloc((size_t)KEYS * STRIDE, sizeof(*r->k));
    r->v = calloc((size_t)KEYS * STRIDE, sizeof(*r->v));
    if (!r->x || !r->y || !r->w || !r->scores || !r->k || !r->v ||
        acts_alloc(1, COLS, ACTS_INT8, &r->acts) || acts_alloc(1, COLS, ACTS_INT8X2, &r->acts2)) {
        rows_close(r);
        *out = NULL;
        return -ENOMEM;
    }
    for (size_t i = 0; i < VOCAB; i++) {
        r->x[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
        r->w[i] = 1;
    }
    kernels_get()->f32_to_f16(r->k, r->x, VOCAB); /* the first keys: others are zeroes */
    kernels_get()->f32_to_f16(r->v, r->x, VOCAB);
    return 0;
}

void rows_close(struct rows *r)
{
    if (!r)
        return;
    free(r->x);
    free(r->y);
    free(r->w);
    free(r->scores);
    free(r->k);
    free(r->v);
    acts_free(r->acts);
    acts_free(r->acts2);
    free(r);
}

static void rmsnorm(struct rows *r)
{
    kernels_get()->rmsnorm(r->y, r->x, r->w, COLS, 1e-5f);
}

static void silu_mul(struct rows *r)
{
    kernels_get()->silu_mul(r->y, r->x, r->w, COLS);
}

static void quantize(struct rows *r)
{
    acts_set(r->acts, r->x, COLS, 1, COLS, 0, 1);
}

static void quantize2(struct rows *r)
{
    acts_set(r->acts2, r->x, COLS, 1, COLS, 0, 1);
}

static void attend(struct rows *r)
{
    kernels_get()->attend(r->y, r->x, r->k, r->v, STRIDE, KEYS, HEAD, .125f, r->scores);
}

static void logsumexp(struct rows *r)
{
    float max;
    double sum;

    kernels_get()->logsumexp(r->x, VOCAB, &max, &sum);
}

static const struct {
    const char *name;
    unsigned values;
    size_t bytes;
    void (*run)(struct rows *r);
} operations[] = {
    {"rmsnorm", COLS, COLS * 2 * sizeof(float), rmsnorm},
    {"silu_mul", COLS, COLS * 2 * sizeof(float), silu_mul},
    {"quantize", COLS, COLS * sizeof(float), quantize},
    {"quantize, two digits", COLS, COLS * sizeof(float), quantize2},
    {"attend, a head of 64", KEYS, (size_t)KEYS *HEAD * 2 * sizeof(uint16_t), attend},
    {"logsumexp", VOCAB, VOCAB * sizeof(float), logsumexp},
};

unsigned row_operations(void)
{
    return sizeof(operations) / sizeof(operations[0]);
}

const char *row_name(unsigned nth)
{
    return operations[nth].name;
}

double row_values(unsigned nth)
{
    return operations[nth].values;
}

size_t row_bytes(unsigned nth)
{
    return operations[nth].bytes;
}

void row_run(void *run)
{
    const struct row_run *v = run;

    cpu_set_mask(v->isa);
    operations[v->nth].run(v->rows);
}

void row_read(void *run)
{
    const struct row_run *v = run;

    memory_read(v->rows->x, operations[v->nth].bytes);
}
