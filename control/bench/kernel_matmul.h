/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices of one format and shape, together larger than the caches, and rows to multiply, for
 * `isthmus bench kernels`. */
#ifndef ISTHMUS_CONTROL_BENCH_KERNEL_MATMUL_H
#define ISTHMUS_CONTROL_BENCH_KERNEL_MATMUL_H

#include <stddef.h>
#include <stdint.h>

#include "compute/qtype.h"
#include "compute/scheme.h"

struct matmul;
struct turns_job;

/* A plain type, or a scheme with or without a sparse part. */
struct matmul_format {
    enum qtype type;      /* where there is no scheme */
    struct scheme scheme; /* kind SCHEME_NONE: none */
    bool sparse;
    uint32_t sparse_part; /* so that each row has an entry for so many columns; 0: 200 */
};

/* With matrices of their own for each instruction set: a matrix keeps the kernels of its making.
 * 0, -EINVAL (rows and cols that the format does not have) or -ENOMEM. */
int matmul_open(const struct matmul_format *format, uint32_t rows, uint32_t cols,
                const unsigned *isas, unsigned n_isas, struct matmul **out);
void matmul_close(struct matmul *p);
uint32_t matmul_rows(const struct matmul *p);
uint32_t matmul_cols(const struct matmul *p);
size_t matmul_bytes(const struct matmul *p); /* of one matrix, as the kernels read it */

/* So many rows from now on. 0 or -ENOMEM. */
int matmul_set(struct matmul *p, uint32_t tokens);

/* One product, by the next matrix; for turns_take(). */
struct matmul_run {
    struct matmul *matmul;
    unsigned isa; /* one of those it was opened with */
};
void matmul_run(void *run);

/* C's: the fastest of three runs of a part of the rows, as if of all. */
int matmul_time_c(struct matmul *p, uint32_t tokens, struct turns_job *job);

#endif
