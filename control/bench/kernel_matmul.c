/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/kernel_matmul.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "codec/cpu.h"
#include "compute/kernels/kernels.h"
#include "compute/team.h"
#include "control/bench/turns.h"

#define ISAS_MAX     4u
#define RING_BYTES   ((size_t)64 << 20)
#define RING_L3      2u /* and so many times the last cache */
#define C_RUNS       3u
#define C_OPS_A_RUN  2e7 /* some ten milliseconds */
#define MATRICES_MAX 4096u
#define SPARSE_PART  200u /* of the columns one, unless it is said */

/* The matrices of one instruction set. */
struct ring {
    unsigned isa, next;
    struct mat **mats;
};

struct matmul {
    struct matmul_format format;
    uint32_t rows, cols, n_mats, n_rings;
    struct ring rings[ISAS_MAX]; /* of C one matrix: it is not timed by going round */
    struct acts *acts;
    float *x, *y; /* [tokens][cols], [tokens][rows] */
};

static uint32_t sparse_part(const struct matmul *p)
{
    return p->format.sparse_part ? p->format.sparse_part : SPARSE_PART;
}

static uint32_t n_sparse(const struct matmul *p)
{
    return p->format.sparse ? p->rows * (p->cols / sparse_part(p)) : 0;
}

static size_t bytes_of(const struct matmul *p)
{
    return p->format.scheme.kind
               ? mat_bytes_for_scheme(&p->format.scheme, p->rows, p->cols, n_sparse(p))
               : mat_bytes_for(p->format.type, p->rows, p->cols);
}

static unsigned ring_length(const struct matmul *p, const struct ring *r, size_t ring_bytes)
{
    const size_t n = ring_bytes / bytes_of(p) + 1;

    return r->isa == 0 ? 1 : n > MATRICES_MAX ? MATRICES_MAX : (unsigned)n;
}

/* Every row's entries in every so manieth column. */
static int pack_sparse(const struct matmul *p, struct mat *m)
{
    const uint32_t part = sparse_part(p), n = p->cols / part;
    uint32_t bad_row;

    for (uint32_t r = 0; r <= p->rows; r++) {
        const uint32_t start = r * n;
        mat_pack_part(m, SCHEME_SP_ROWS, r, &start, 1);
    }
    for (uint32_t i = 0; i < p->rows * n; i++) {
        const uint16_t col = (uint16_t)(i % n * part + i / n % part), value = 0x3000;
        mat_pack_part(m, SCHEME_SP_COLS, i, &col, 1);
        mat_pack_part(m, SCHEME_SP_VALUES, i, &value, 1);
    }
    return mat_close_sparse(m, &bad_row);
}

static int open_scheme(const struct matmul *p, const uint8_t *bytes, struct mat **out)
{
    const struct scheme *s = &p->format.scheme;
    const int rc = mat_new_scheme(s, p->rows, p->cols, n_sparse(p), out);

    if (rc)
        return rc;
    mat_pack_part(*out, SCHEME_CODES, 0, bytes, p->rows);
    if (s->kind == SCHEME_SQ)
        mat_pack_part(*out, SCHEME_LUT, 0, bytes, p->rows);
    for (int part = SCHEME_SCALE; s->kind == SCHEME_G && part <= SCHEME_MIN; part++)
        mat_pack_part(*out, (enum scheme_part)part, 0, bytes, p->rows);
    return n_sparse(p) ? pack_sparse(p, *out) : 0;
}

static int open_ring(struct matmul *p, struct ring *r, const uint8_t *blocks, size_t ring_bytes)
{
    const unsigned n = ring_length(p, r, ring_bytes);
    int rc = 0;

    r->mats = calloc(n, sizeof(*r->mats));
    if (!r->mats)
        return -ENOMEM;
    cpu_set_mask(r->isa);
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = p->format.scheme.kind
                 ? open_scheme(p, blocks, &r->mats[i])
                 : mat_from_blocks(p->format.type, blocks, p->rows, p->cols, &r->mats[i]);
    p->n_mats = p->n_mats > n ? p->n_mats : n;
    return rc;
}

/* Small numbers, whatever the format makes of them: no scale has an exponent that is not finite. */
static uint8_t *some_blocks(const struct matmul *p)
{
    const struct qtype_info *q = qtype_info(p->format.type);
    const size_t bytes = p->format.scheme.kind
                             ? (size_t)p->rows * (p->cols + 32) /* codes; levels: 32 bytes a row */
                             : (size_t)p->rows * p->cols / q->block_values * q->block_bytes;
    uint8_t *blocks = malloc(bytes);

    for (size_t i = 0; blocks && i < bytes; i++)
        blocks[i] = (uint8_t)(i * 2654435761u >> 16 & 0x3f);
    return blocks;
}

int matmul_open(const struct matmul_format *format, uint32_t rows, uint32_t cols,
                const unsigned *isas, unsigned n_isas, struct matmul **out)
{
    struct matmul *p = calloc(1, sizeof(*p));
    struct topology t = {0};

    *out = NULL;
    if (!p)
        return -ENOMEM;
    *p = (struct matmul){.format = *format, .rows = rows, .cols = cols};
    topology_read(&t); /* without it: a size that is beyond most caches */
    const size_t bytes = RING_L3 * t.l3_bytes > RING_BYTES ? RING_L3 * t.l3_bytes : RING_BYTES;
    uint8_t *blocks = some_blocks(p);
    int rc = blocks ? 0 : -ENOMEM;
    for (unsigned i = 0; i < n_isas && rc == 0; i++) {
        struct ring *r = &p->rings[p->n_rings++];
        r->isa = isas[i];
        rc = open_ring(p, r, blocks, bytes);
    }
    free(blocks);
    if (rc < 0)
        matmul_close(p);
    else
        *out = p;
    return rc;
}

static void close_rows(struct matmul *p)
{
    acts_free(p->acts);
    free(p->x);
    free(p->y);
    p->acts = NULL;
    p->x = p->y = NULL;
}

void matmul_close(struct matmul *p)
{
    if (!p)
        return;
    close_rows(p);
    for (unsigned i = 0; i < p->n_rings; i++) {
        for (unsigned k = 0; p->rings[i].mats && k < p->n_mats; k++) {
            if (p->rings[i].isa == 0 && k > 0)
                break;
            mat_free(p->rings[i].mats[k]);
        }
        free(p->rings[i].mats);
    }
    free(p);
}

uint32_t matmul_rows(const struct matmul *p)
{
    return p->rows;
}

uint32_t matmul_cols(const struct matmul *p)
{
    return p->cols;
}

size_t matmul_bytes(const struct matmul *p)
{
    return mat_bytes(p->rings[0].mats[0]);
}

int matmul_set(struct matmul *p, uint32_t tokens)
{
    const size_t n = (size_t)tokens * p->cols;

    close_rows(p);
    p->x = malloc(n * sizeof(*p->x));
    p->y = calloc((size_t)tokens * p->rows, sizeof(*p->y));
    int rc = p->x && p->y ? acts_alloc(tokens, p->cols, ACTS_INT8, &p->acts) : -ENOMEM;
    for (size_t i = 0; i < n && rc == 0; i++)
        p->x[i] = (float)(i * 2654435761u % 1000) - 500.0f;
    if (rc == 0)
        acts_set(p->acts, p->x, p->cols, tokens, p->cols, 0, 1);
    return rc;
}

static struct ring *ring_of(struct matmul *p, unsigned isa)
{
    struct ring *r = p->rings;

    while (r->isa != isa)
        r++;
    return r;
}

void matmul_run(void *run)
{
    const struct matmul_run *v = run;
    struct matmul *p = v->matmul;
    struct ring *r = ring_of(p, v->isa);

    mat_mul(&(struct product){r->mats[r->next], NULL, p->y, p->rows}, 1, p->acts, 0, 0, 1);
    r->next = (r->next + 1) % p->n_mats;
}

int matmul_time_c(struct matmul *p, uint32_t tokens, struct turns_job *job)
{
    const struct mat *m = ring_of(p, 0)->mats[0];
    const double ops = 2.0 * p->rows * p->cols * tokens;
    const uint32_t panels = (p->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    const unsigned parts = (unsigned)fmin(panels, fmax(1, ops / C_OPS_A_RUN));
    size_t from, to;

    team_share(p->rows, PANEL_ROWS, 0, parts, &from, &to);
    job->best_ns = INFINITY;
    job->sd_ns = NAN;
    job->turns = C_RUNS;
    for (unsigned i = 0; i < C_RUNS; i++) {
        const double start = turns_now_ns();
        mat_mul(&(struct product){m, NULL, p->y, p->rows}, 1, p->acts, 0, 0, parts);
        job->best_ns = fmin(job->best_ns, (turns_now_ns() - start) * p->rows / (double)(to - from));
    }
    return 0;
}
