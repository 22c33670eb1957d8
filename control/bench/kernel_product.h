/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices of one format and shape, together larger than the caches, and rows to multiply, for
 * `isthmus bench kernels`. */
#ifndef ISTHMUS_CONTROL_BENCH_KERNEL_PRODUCT_H
#define ISTHMUS_CONTROL_BENCH_KERNEL_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "compute/qtype.h"

struct product;
struct turns_job;

/* With matrices of their own for each instruction set: a matrix keeps the kernels of its making.
 * 0, -EINVAL (rows and cols that the format does not have) or -ENOMEM. */
int product_open(enum qtype type, uint32_t rows, uint32_t cols, const unsigned *isas,
                 unsigned n_isas, struct product **out);
void product_close(struct product *p);
uint32_t product_rows(const struct product *p);
uint32_t product_cols(const struct product *p);
size_t product_bytes(const struct product *p); /* of one matrix, as the kernels read it */

/* So many rows from now on. 0 or -ENOMEM. */
int product_set(struct product *p, uint32_t tokens);

/* One product, by the next matrix; for turns_take(). */
struct product_run {
    struct product *product;
    unsigned isa; /* one of those it was opened with */
};
void product_run(void *run);

/* C's: the fastest of three runs of a part of the rows, as if of all. */
int product_time_c(struct product *p, uint32_t tokens, struct turns_job *job);

#endif
