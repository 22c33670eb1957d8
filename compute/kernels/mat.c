/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The product's outer loops. The inner ones are the ISA's.
 */
#include <string.h>

#include "compute/kernels/internal.h"
#include "compute/team.h"

#define TILE_TOKENS 128u

/* Tokens that share one unpacking of a panel: their activations should stay in the L2 cache. */
static size_t tile_tokens(const struct mat *w, const struct acts *a, size_t n_tokens)
{
    size_t token_bytes =
        (size_t)w->cols *
        (a->kind == ACTS_F32 || kernels_layouts[w->id].bits == 0 ? sizeof(float) : 1);
    size_t tile = (256u << 10) / token_bytes / 12 * 12; /* whole register tiles */

    if (tile < 24)
        tile = 24;
    if (tile > TILE_TOKENS)
        tile = TILE_TOKENS;
    return tile < n_tokens ? tile : n_tokens;
}

/* acc f32[nt][16] of one panel to its place in y. */
static void write_panel(const float *acc, size_t nt, size_t n_rows, const float *bias, int add,
                        float *y, size_t ldy)
{
    for (size_t t = 0; t < nt; t++, acc += PANEL_ROWS, y += ldy) {
        float v[PANEL_ROWS];

        memcpy(v, acc, sizeof(v));
        if (n_rows < PANEL_ROWS) {
            for (size_t i = 0; i < n_rows; i++) {
                if (bias)
                    v[i] += bias[i];
                y[i] = add ? y[i] + v[i] : v[i];
            }
            continue;
        }
        if (bias)
            for (size_t i = 0; i < PANEL_ROWS; i++)
                v[i] += bias[i];
        if (add)
            for (size_t i = 0; i < PANEL_ROWS; i++)
                v[i] = y[i] + v[i];
        memcpy(y, v, sizeof(v));
    }
}

/* The digits of a token, side by side, to their sum: nt of them become nt / 2 tokens. */
static void add_digits(float *acc, size_t nt)
{
    for (size_t t = 0; t < nt / 2; t++)
        for (size_t i = 0; i < PANEL_ROWS; i++)
            acc[t * PANEL_ROWS + i] =
                acc[2 * t * PANEL_ROWS + i] + acc[(2 * t + 1) * PANEL_ROWS + i];
}

void kernels_mat_mul(const struct kernels_isa *isa, const struct mat *w, const struct acts *a,
                     const float *bias, int add, float *y, size_t ldy, unsigned part,
                     unsigned parts)
{
    panel_fn mul = a->kind == ACTS_F32 ? isa->mul_f32[w->id] : isa->mul[w->id];
    size_t digits = kernels_layouts[w->id].bits ? a->digits : 1;
    size_t n = a->n_tokens / a->digits * digits, tile = tile_tokens(w, a, n), first, end;
    _Alignas(64) float acc[TILE_TOKENS * PANEL_ROWS];

    team_share(n_panels(w->rows), 1, part, parts, &first, &end);
    for (size_t t = 0; t < n; t += tile) { /* n and the tile are even where there are two digits */
        size_t nt = n - t < tile ? n - t : tile;

        for (size_t p = first; p < end; p++) {
            size_t row = p * PANEL_ROWS;
            size_t n_rows = w->rows - row < PANEL_ROWS ? w->rows - row : PANEL_ROWS;

            mul(w->panels + p * w->panel_bytes, a, t, nt, acc);
            if (digits == 2)
                add_digits(acc, nt);
            write_panel(acc, nt / digits, n_rows, bias ? bias + row : NULL, add,
                        y + t / digits * ldy + row, ldy);
        }
    }
}

void mat_mul(const struct mat *w, const struct acts *a, const float *bias, int add, float *y,
             size_t ldy, unsigned part, unsigned parts)
{
    kernels_mat_mul(w->isa, w, a, bias, add, y, ldy, part, parts);
}
