/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters, and the sizes that follow from them alone. */
#include "codec/codec.h"

#include <errno.h>
#include <math.h>

#include "codec/tile.h"
#include "codec/tsq.h"

struct codec_params codec_params_default(enum codec_mode mode)
{
    return (struct codec_params){
        .mode = mode,
        .tau_rule = CODEC_TAU_MEAN,
        .tau = 4.0f,
        .delta = 0.08f,
        .qmin = 2,
        .qmax = CODEC_QMAX,
    };
}

int codec_params_check(const struct codec_params *p)
{
    if (p->mode == CODEC_F32 || p->mode == CODEC_F16)
        return 0;
    if (p->mode != CODEC_TSQ)
        return -EINVAL;
    if (p->tau_rule != CODEC_TAU_MEAN && p->tau_rule != CODEC_TAU_ABS)
        return -EINVAL;
    if (!(p->tau > 0.0f) || !isfinite(p->tau) || !(p->delta > 0.0f) || !(p->delta < 1.0f))
        return -EINVAL;
    if (p->qmin < 1 || p->qmin > p->qmax || p->qmax > CODEC_QMAX)
        return -EINVAL;
    return 0;
}

uint32_t codec_params_id(const struct codec_params *p)
{
    const uint8_t agreed[] = {'t', 'i', 'l', 'e', TILE_VERSION, (uint8_t)p->mode};
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (size_t i = 0; i < sizeof(agreed); i++)
        hash = (hash ^ agreed[i]) * 16777619u;
    return hash;
}

static size_t row_bound(const struct codec_params *p, uint32_t cols)
{
    if (p->mode != CODEC_TSQ)
        return codec_raw_bytes(p->mode, cols);
    return tsq_row_bound(p, cols);
}

size_t codec_bound(const struct codec_params *p, uint32_t rows, uint32_t cols)
{
    if (rows < 1 || rows > CODEC_ROWS_MAX || cols < 1 || cols > CODEC_COLS_MAX)
        return 0;
    return TILE_HEADER_BYTES + rows * row_bound(p, cols);
}

size_t codec_min_capacity(const struct codec_params *p, uint32_t cols)
{
    uint32_t cut = cols < CUT_COLS ? cols : CUT_COLS;
    size_t whole = codec_bound(p, 1, cols);
    size_t part = p->mode == CODEC_TSQ ? tsq_part_bound(p, cut) : codec_raw_bytes(p->mode, cut);

    return whole < TILE_HEADER_BYTES + part ? whole : TILE_HEADER_BYTES + part;
}
