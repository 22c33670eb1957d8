/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transform.h"

#include <errno.h>
#include <stdlib.h>

#include "codec/codec.h"
#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/gemm.h"

#define BLOCKS_MAX (CODEC_COLS_MAX / CODEC_BLOCK_COLS_MAX)

struct transform {
    struct codec_dsp dsp;
    uint32_t rows, cols, n_blocks;
    uint32_t first_col[BLOCKS_MAX];
    struct codec_panel *a[BLOCKS_MAX], *b[BLOCKS_MAX];
    int16_t *in;  /* [rows][cols] */
    int32_t *out; /* the same */
};

int transform_open(const struct codec_profile *p, uint32_t rows, struct transform **out)
{
    struct transform *t = calloc(1, sizeof(*t));
    const size_t n = (size_t)rows * p->cols;
    int rc = 0;

    if (!t)
        return -ENOMEM;
    codec_dsp_init(&t->dsp, cpu_flags());
    t->rows = rows;
    t->cols = p->cols;
    t->n_blocks = p->n_blocks;
    for (uint32_t i = 0; i < p->n_blocks && rc == 0; i++) {
        const struct codec_profile_block *block = &p->blocks[i];

        t->first_col[i] = block->first_col;
        rc = codec_panel_pack(block->a, block->xform.n, block->cols, &t->a[i]);
        if (rc == 0)
            rc = codec_panel_pack(block->b, block->cols, block->xform.n, &t->b[i]);
    }
    t->in = malloc(n * sizeof(*t->in));
    t->out = malloc(n * sizeof(*t->out));
    if (rc == 0 && (!t->in || !t->out))
        rc = -ENOMEM;
    if (rc < 0) {
        transform_close(t);
        return rc;
    }
    for (size_t i = 0; i < n; i++)
        t->in[i] = (int16_t)(i * 2654435761u % 1000) - 500;
    *out = t;
    return 0;
}

void transform_close(struct transform *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_blocks; i++) {
        codec_panel_free(t->a[i]);
        codec_panel_free(t->b[i]);
    }
    free(t->in);
    free(t->out);
    free(t);
}

static void run(const struct transform *t, struct codec_panel *const *panels)
{
    for (uint32_t i = 0; i < t->n_blocks; i++)
        codec_gemm(&t->dsp, t->in + t->first_col[i], t->cols, t->rows, panels[i],
                   t->out + t->first_col[i], t->cols);
}

void transform_analyse(void *transform)
{
    const struct transform *t = transform;

    run(t, t->a);
}

void transform_synthesise(void *transform)
{
    const struct transform *t = transform;

    run(t, t->b);
}
