/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters, and the sizes that follow from them alone. */
#include "codec/codec.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "codec/coded.h"
#include "codec/profile.h"
#include "codec/tile.h"
#include "codec/tsq.h"

const char *codec_mode_name(enum codec_mode mode)
{
    static const char *const names[CODEC_MODES] = {"f32", "f16", "tsq", "rans", "xform"};

    return names[mode];
}

struct codec_params codec_params_default(enum codec_mode mode)
{
    return (struct codec_params){
        .mode = mode,
        .tau_rule = CODEC_TAU_MEAN,
        .tau = 4.0f,
        .delta = 0.08f,
        .qmin = 2,
        .qmax = CODEC_QMAX,
        .step = .0115f,
    };
}

int codec_params_check(const struct codec_params *p)
{
    if (p->mode == CODEC_F32 || p->mode == CODEC_F16)
        return 0;
    if (p->mode == CODEC_RANS || p->mode == CODEC_XFORM) {
        const bool profiled = p->profile || p->mode == CODEC_RANS;
        return profiled && p->step > 0.0f && isfinite(p->step) ? 0 : -EINVAL;
    }
    if (p->mode != CODEC_TSQ)
        return -EINVAL;
    if (p->tau_rule != CODEC_TAU_MEAN && p->tau_rule != CODEC_TAU_ABS)
        return -EINVAL;
    if (!(p->tau > 0.0f) || !isfinite(p->tau) || !(p->delta > 0.0f) || !(p->delta < 1.0f))
        return -EINVAL;
    if (p->qmin < 1 || p->qmin > p->qmax || p->qmax < 2 || p->qmax > CODEC_QMAX)
        return -EINVAL;
    return 0;
}

static uint32_t fnv1a(uint32_t hash, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

uint32_t codec_params_id(const struct codec_params *p)
{
    const uint8_t agreed[] = {'t', 'i', 'l', 'e', TILE_VERSION, (uint8_t)p->mode};

    return fnv1a(2166136261u, agreed, sizeof(agreed));
}

void codec_params_profile(const struct codec_params *p, uint8_t hash[16])
{
    memset(hash, 0, 16);
    if (codec_is_coded(p->mode) && p->profile)
        memcpy(hash, p->profile->hash, 16);
}

static size_t row_bound(const struct codec_params *p, uint32_t cols)
{
    const struct codec_params fallback = codec_params_default(CODEC_TSQ);
    const size_t coded = codec_is_coded(p->mode) ? coded_row_bound(cols) : 0;

    if (coded)
        return coded > tsq_row_bound(&fallback, cols) ? coded : tsq_row_bound(&fallback, cols);
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

/* What a coded mode cannot fit into a packet goes as tsq, which can be cut finely. */
size_t codec_min_capacity(const struct codec_params *p, uint32_t cols)
{
    const struct codec_params fallback = codec_params_default(CODEC_TSQ);
    const struct codec_params *q = codec_is_coded(p->mode) ? &fallback : p;
    uint32_t cut = cols < CUT_COLS ? cols : CUT_COLS;
    size_t part = q->mode == CODEC_TSQ ? tsq_part_bound(q, cut) : codec_raw_bytes(q->mode, cut);
    size_t whole = codec_bound(q, 1, cols);

    part += TILE_HEADER_BYTES + TILE_CUT_BYTES;
    return whole < part ? whole : part;
}
