/* SPDX-License-Identifier: Apache-2.0 */
/* What a codec's cost is compared with: the products of one layer of a model as wide as its rows,
 * in prefill. */
#ifndef ISTHMUS_CONTROL_BENCH_LAYER_H
#define ISTHMUS_CONTROL_BENCH_LAYER_H

#include <stdint.h>

/* Square matrices that a layer amounts to: 4 of attention and 3 of 8/3 in the feed-forward part. */
#define LAYER_MATRICES 12u
#define LAYER_ROWS     64u /* of a prefill message */

/* A Q4_1 matrix of cols x cols and rows to multiply, with the kernels of cpu_flags(). cols is a
 * multiple of 32. 0 or -errno. */
struct layer;
int layer_open(uint32_t cols, struct layer **out);
void layer_close(struct layer *l);

/* Quantize LAYER_ROWS rows and multiply them by the matrix: a LAYER_MATRICES-th of a layer, on this
 * thread. */
void layer_run(void *layer);

#endif
