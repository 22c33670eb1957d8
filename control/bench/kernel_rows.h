/* SPDX-License-Identifier: Apache-2.0 */
/* What stands between a layer's products, on rows as wide as a small model's, for `isthmus bench
 * kernels`. */
#ifndef ISTHMUS_CONTROL_BENCH_KERNEL_ROWS_H
#define ISTHMUS_CONTROL_BENCH_KERNEL_ROWS_H

#include <stddef.h>

struct rows;

/* 0 or -ENOMEM. */
int rows_open(struct rows **out);
void rows_close(struct rows *r);

/* How many operations there are; of the nth: its name, how many values (keys, for attention) it
 * works on, and the bytes that it has to read. */
unsigned row_operations(void);
const char *row_name(unsigned nth);
double row_values(unsigned nth);
size_t row_bytes(unsigned nth);

/* Once the nth operation, with the kernels of isa; or only reading as many bytes, where they lie.
 * For turns_take(). */
struct row_run {
    struct rows *rows;
    unsigned nth, isa;
};
void row_run(void *run);
void row_read(void *run);

#endif
