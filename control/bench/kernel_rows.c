/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/kernel_rows.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/kernels/kernels.h"
#include "control/bench/memory.h"

#define COLS    1536u
#define HEAD    64u
#define QUERIES 3u /* heads that share keys and values */
#define VOCAB   49152u

struct rows {
    float *x, *y, *w;                               /* [VOCAB] */
    uint8_t *keys[KV_FORMATS], *values[KV_FORMATS]; /* a tile each */
    uint8_t *queries[KV_FORMATS];                   /* QUERIES of them */
    float *states;                                  /* of the queries */
    struct acts *acts;                              /* of one row */
    struct acts *acts2;                             /* the same in 15 bits */
};

/* A page full of heads and what asks for them. */
static int open_tiles(struct rows *r, enum kv_format f)
{
    const struct attend_kernels *k = &kernels_get()->attend;
    const size_t query = attend_query_bytes(f, HEAD);
    float head[HEAD];

    r->keys[f] = aligned_alloc(64, kv_key_bytes(f, HEAD));
    r->values[f] = aligned_alloc(64, kv_value_bytes(f, HEAD));
    r->queries[f] = aligned_alloc(64, (QUERIES * query + 63) / 64 * 64);
    if (!r->keys[f] || !r->values[f] || !r->queries[f])
        return -ENOMEM;
    for (size_t at = 0; at < KV_PAGE; at++) {
        memcpy(head, r->x + at * HEAD, sizeof(head)); /* it is overwritten */
        k->put_key(f, r->keys[f], HEAD, at, head);
        memcpy(head, r->x + (KV_PAGE + at) * HEAD, sizeof(head));
        k->put_value(f, r->values[f], HEAD, at, head);
    }
    for (size_t i = 0; i < QUERIES; i++) {
        memcpy(head, r->x + (2 * KV_PAGE + i) * HEAD, sizeof(head));
        k->query(f, r->queries[f] + i * query, HEAD, head, .125f);
    }
    return 0;
}

int rows_open(struct rows **out)
{
    struct rows *r = calloc(1, sizeof(*r));

    *out = r;
    if (!r)
        return -ENOMEM;
    r->x = malloc(VOCAB * sizeof(*r->x));
    r->y = calloc(VOCAB, sizeof(*r->y));
    r->w = malloc(VOCAB * sizeof(*r->w));
    r->states = calloc(QUERIES * attend_state_floats(HEAD), sizeof(*r->states));
    if (!r->x || !r->y || !r->w || !r->states || acts_alloc(1, COLS, ACTS_INT8, &r->acts) ||
        acts_alloc(1, COLS, ACTS_INT16, &r->acts2)) {
        rows_close(r);
        *out = NULL;
        return -ENOMEM;
    }
    for (size_t i = 0; i < VOCAB; i++) {
        r->x[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
        r->w[i] = 1;
    }
    for (enum kv_format f = 0; f < KV_FORMATS; f++)
        if (open_tiles(r, f) < 0) {
            rows_close(r);
            *out = NULL;
            return -ENOMEM;
        }
    return 0;
}

void rows_close(struct rows *r)
{
    if (!r)
        return;
    free(r->x);
    free(r->y);
    free(r->w);
    for (enum kv_format f = 0; f < KV_FORMATS; f++) {
        free(r->keys[f]);
        free(r->values[f]);
        free(r->queries[f]);
    }
    free(r->states);
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

/* A page of keys and values, by the heads that share them. */
static void attend(struct rows *r, enum kv_format f)
{
    static const float factors[QUERIES] = {.01f, .01f, .01f};
    static const uint8_t visible[QUERIES] = {KV_PAGE, KV_PAGE, KV_PAGE};
    const struct attend_kernels *k = &kernels_get()->attend;

    for (unsigned i = 0; i < QUERIES; i++)
        k->begin(r->states + i * attend_state_floats(HEAD), HEAD);
    k->page(f, r->keys[f], r->values[f], HEAD, QUERIES, r->queries[f], factors, visible, r->states,
            NULL);
}

static void attend_f16(struct rows *r)
{
    attend(r, KV_F16);
}

static void attend_q8(struct rows *r)
{
    attend(r, KV_Q8);
}

static void attend_k8v4(struct rows *r)
{
    attend(r, KV_K8V4);
}

static void attend_q4(struct rows *r)
{
    attend(r, KV_Q4);
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
    {"quantize, 15 bits", COLS, COLS * sizeof(float), quantize2},
    {"attend f16, 3 heads of 64", KV_PAGE, (size_t)2 * KV_PAGE * HEAD * 2, attend_f16},
    {"attend q8, 3 heads of 64", KV_PAGE, (size_t)2 * KV_PAGE * (HEAD + 2), attend_q8},
    {"attend k8v4, 3 heads of 64", KV_PAGE, (size_t)KV_PAGE * (HEAD + 2 + HEAD / 2 + 2),
     attend_k8v4},
    {"attend q4, 3 heads of 64", KV_PAGE, (size_t)2 * KV_PAGE * (HEAD / 2 + 2), attend_q4},
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
