/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "compute/kernels/kernels.h"

struct layer {
    uint32_t cols;
    struct mat *matrix;
    struct acts *acts;
    float *x, *y; /* [LAYER_ROWS][cols] */
};

static int open_matrix(struct layer *l)
{
    const struct qtype_info *q = qtype_info(QTYPE_Q4_1);
    const size_t bytes = (size_t)l->cols * l->cols / q->block_values * q->block_bytes;
    uint8_t *blocks = malloc(bytes);

    if (!blocks)
        return -ENOMEM;
    for (size_t i = 0; i < bytes; i++)
        blocks[i] = (uint8_t)(i * 2654435761u >> 16 & 0x3f); /* small numbers, whatever it means */
    const int rc = mat_from_blocks(QTYPE_Q4_1, blocks, l->cols, l->cols, &l->matrix);
    free(blocks);
    return rc;
}

int layer_open(uint32_t cols, struct layer **out)
{
    const size_t n = (size_t)LAYER_ROWS * cols;
    struct layer *l = calloc(1, sizeof *l);

    if (!l)
        return -ENOMEM;
    l->cols = cols;
    l->x = malloc(n * sizeof *l->x);
    l->y = calloc(n, sizeof *l->y);
    int rc = l->x && l->y ? open_matrix(l) : -ENOMEM;
    if (rc == 0)
        rc = acts_alloc(LAYER_ROWS, cols, ACTS_INT8, &l->acts);
    if (rc < 0) {
        layer_close(l);
        return rc;
    }
    for (size_t i = 0; i < n; i++)
        l->x[i] = (float)(i * 2654435761u % 1000) - 500.0f;
    *out = l;
    return 0;
}

void layer_close(struct layer *l)
{
    if (!l)
        return;
    mat_free(l->matrix);
    acts_free(l->acts);
    free(l->x);
    free(l->y);
    free(l);
}

void layer_run(void *layer)
{
    struct layer *l = layer;

    acts_set(l->acts, l->x, l->cols, LAYER_ROWS, l->cols, 0, 1);
    mat_mul(&(struct product){l->matrix, NULL, l->y, l->cols}, 1, l->acts, 0, 0, 1);
}
