/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute kernels: quantized matrix products and the row operations of a transformer.
 *
 * Every kernel is defined by its C reference (ref.c) down to the last bit: sums run in a fixed
 * order over 16 virtual lanes, products use fused multiply-add where the reference says fmaf(), and
 * exp() is our own polynomial. The SIMD files give the same bits, so a result depends neither on the
 * ISA, nor on how many rows share a call, nor on the number of threads.
 *
 * Matrices live in panels of 16 output rows, repacked at load at their own bit width.
 */
#ifndef ISTHMUS_COMPUTE_KERNELS_H
#define ISTHMUS_COMPUTE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/kernels/attend.h"
#include "compute/scheme.h"
#include "compute/team.h"

#define ACT_BLOCK  32u /* activations share a scale in blocks of 32 */
#define PANEL_ROWS 16u

/* Changes whenever a kernel's rounding does; exchanged at session set-up. */
#define KERNELS_NUMERICS_ID 2u

/* --- memory ------------------------------------------------------------------------------------ */

/* Rather take the memory of matrices loaded from now on from these NUMA nodes, of several in turn;
 * n 0: wherever it is touched first. One for the process: set it before a stage is loaded. 0, or
 * -errno (a container may forbid it), and it is as with n 0. */
int kernels_mem_place(const struct team_nodes *nodes);

/* Keep the memory of all matrices that are loaded from being swapped out; how much that is goes to
 * *bytes. 0, or -errno: not all of it, for lack of CAP_IPC_LOCK or RLIMIT_MEMLOCK. */
int kernels_mem_lock(size_t *bytes);

/* --- matrices ---------------------------------------------------------------------------------- */

struct mat; /* W[rows][cols], read-only once packed */

/* A matrix whose rows are still to be packed: none of its memory is touched. cols must be a multiple
 * of ACT_BLOCK and of the type's block. 0, -EINVAL, -ENOMEM. */
int mat_new(enum qtype type, uint64_t rows, uint64_t cols, struct mat **out);
/* Pack rows [row, row + n), which stand at src in the file's own block format. row is a multiple of
 * PANEL_ROWS, and n too, except at the end. Different rows may be packed by different threads. */
void mat_pack(struct mat *m, uint32_t row, const void *src, uint32_t n);
/* The rows [*first, *end) that mat_mul, given this one matrix, computes as this part: whoever packs
 * them should be it, so that their memory is near. */
void mat_share(const struct mat *m, unsigned part, unsigned parts, uint32_t *first, uint32_t *end);
/* New and packed from memory, `src` rows x cols. For tests, bench. */
int mat_from_blocks(enum qtype type, const void *src, uint32_t rows, uint32_t cols,
                    struct mat **out);
void mat_free(struct mat *m);
uint32_t mat_rows(const struct mat *m);
uint32_t mat_cols(const struct mat *m);
bool mat_in_scheme(const struct mat *m); /* made by mat_new_scheme */
size_t mat_bytes(const struct mat *m);                       /* resident bytes of the panels */
size_t mat_bytes_for(enum qtype type, uint32_t rows, uint32_t cols); /* before loading */

/* The same for a weight in a scheme (compute/scheme.h), with n_sparse entries beside its codes.
 * Its parts are packed in any order: rows [row, row + n) of those that have rows, as mat_pack's; of
 * the sparse part entries. Values and codes may be anything. */
int mat_new_scheme(const struct scheme *s, uint64_t rows, uint64_t cols, uint32_t n_sparse,
                   struct mat **out);
void mat_pack_part(struct mat *m, enum scheme_part part, uint32_t row, const void *src, uint32_t n);
/* Once all of the sparse part is packed, and before the matrix is multiplied: proves its rows and
 * columns, and puts its entries in the order that products take them in. Without such a part nothing
 * is done. 0; -ERANGE: the row starts do not rise from 0 to n_sparse; -EBADMSG: the columns of
 * *bad_row do not rise, or end past the matrix; -ENOMEM. */
int mat_close_sparse(struct mat *m, uint32_t *bad_row);
size_t mat_bytes_for_scheme(const struct scheme *s, uint32_t rows, uint32_t cols,
                            uint32_t n_sparse);

/* --- activations ------------------------------------------------------------------------------- */

/*
 * n_tokens rows of `cols` activations, quantized for mat_mul: per block of 32, int8 values q, a
 * scale d with x ~ d * q, and sums of q. Matrices of float types, which always use f32 arithmetic,
 * take the f32 values from where they stand.
 *
 * For the few inputs that decide a model's accuracy there are values of 15 bits instead: two thirds
 * dearer in products of 4 to 6 bit types, the same in others.
 */
enum acts_kind {
    ACTS_INT8 = 0,
    ACTS_F32 = 1,   /* f32 arithmetic for every type (eval --exact) */
    ACTS_INT16 = 2, /* -16383 .. 16383 */
};

struct acts;
int acts_alloc(uint32_t max_tokens, uint32_t max_cols, enum acts_kind kind, struct acts **out);
void acts_free(struct acts *a);
size_t acts_bytes(const struct acts *a);

/* Quantize x f32[n_tokens][ldx] into a: this part's share, the tokens that team_share(n_tokens, 1)
 * gives it; so a part may fill just those rows of x and go on without a barrier. All parts must be done
 * (team_barrier) before mat_mul, and x stays as it is until products are done. n_tokens and cols are
 * taken from the call. */
void acts_set(struct acts *a, const float *x, size_t ldx, uint32_t n_tokens, uint32_t cols,
              unsigned part, unsigned parts);

struct product {
    const struct mat *w;
    const float *bias; /* [rows]; NULL: none */
    float *y;          /* [n_tokens][ldy] */
    size_t ldy;
};

/*
 * y[t][r] = sum_c W[r][c] * x[t][c] (+ bias[r]) for n products of the same activations, this part's
 * share of their rows. When add != 0, y[t][r] += instead of = (residual). The panels of matrices of
 * one type that follow one another are shared out as if they were of one matrix.
 */
void mat_mul(const struct product *products, unsigned n, const struct acts *a, int add,
             unsigned part, unsigned parts);

/* --- row operations, from the table of this process's ISA --------------------------------------- */

struct kernels {
    const char *name; /* "c", "avx2", "avx512", "vnni" */

    /* y[i] = x[i] / sqrt(mean(x^2) + eps) * w[i], i < n; n a multiple of 16; y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    /* y[i] = g[i] / (1 + exp(-g[i])) * u[i]. y may be g. */
    void (*silu_mul)(float *y, const float *g, const float *u, size_t n);
    /* Rotate one head, n = dims (even), by cs f32[2][n]: cos of this position for each dim, then sin,
     * negated for the first of a pair. neox: pairs (i, i + n/2); else pairs (2i, 2i+1). */
    void (*rope)(float *x, const float *cs, size_t n, int neox);
    /* f32 -> f16 with round to nearest even, and back. */
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n);
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
    /* max over x, and sum of exp(x - max): for log-softmax. */
    void (*logsumexp)(const float *x, size_t n, float *max, double *sum);
    struct attend_kernels attend;
};

/* The table for cpu_flags(). Never NULL. */
const struct kernels *kernels_get(void);

#endif
