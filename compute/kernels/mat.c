/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The product's outer loops. The inner ones are the ISA's.
 */
#include "compute/kernels/internal.h"
#include "compute/team.h"

#define TILE_TOKENS 128u
#define STREAMS     4u

static bool is_float(const struct mat *w)
{
    return w->id != N_LAYOUTS && kernels_layouts[w->id].bits == 0;
}

/* Whether one function multiplies both. */
static bool alike(const struct mat *a, const struct mat *b)
{
    return a->id == b->id &&
           (a->id != N_LAYOUTS || (a->scheme.scheme.kind == b->scheme.scheme.kind &&
                                   a->scheme.scheme.bits == b->scheme.scheme.bits &&
                                   a->scheme.group_blocks == b->scheme.group_blocks));
}

/* Tokens that share one unpacking of a panel: their activations should stay in the L2 cache. */
static size_t tile_tokens(const struct mat *w, const struct acts *a, size_t n_tokens)
{
    size_t token_bytes = (size_t)w->cols * (a->kind == ACTS_F32 || is_float(w) ? sizeof(float)
                                            : a->kind == ACTS_INT16            ? sizeof(int16_t)
                                                                               : 1);
    size_t tile = (256u << 10) / token_bytes / 12 * 12; /* whole register tiles */

    if (tile < 24)
        tile = 24;
    if (tile > TILE_TOKENS)
        tile = TILE_TOKENS;
    return tile < n_tokens ? tile : n_tokens;
}

/* What a call multiplies: the panels of all its products one after another. */
struct call {
    const struct kernels_isa *isa;
    const struct product *products;
    const struct acts *acts;
    panel_fn mul;
    scheme_fn scheme; /* instead, where they are of one */
    size_t t, nt;     /* tokens [t, t + nt) */
    int add;
};

/* acc f32[nt][16] of panel p of a product to its place. */
static void finish(const struct call *c, const struct product *of, size_t p, const float *acc)
{
    size_t row = p * PANEL_ROWS, rows = of->w->rows - row;

    c->isa->finish(acc, c->nt, rows < PANEL_ROWS ? rows : PANEL_ROWS,
                   of->bias ? of->bias + row : NULL, c->add, of->y + c->t * of->ldy + row, of->ldy);
}

/* The product that panel *p of all stands in; *p becomes its number there. */
static const struct product *find(const struct call *c, size_t *p)
{
    const struct product *of = c->products;

    for (; *p >= n_panels(of->w->rows); of++)
        *p -= n_panels(of->w->rows);
    return of;
}

/* Panels p, p + step, .. (n of them) at once, as streams that run on side by side: what is dense of
 * them to acc f32[n][nt][16]. */
static void mul_panels(const struct call *c, size_t p, size_t step, size_t n, float *acc)
{
    const struct product *of = NULL;
    const uint8_t *panels[STREAMS] = {NULL};

    for (size_t j = 0; j < n; j++) {
        size_t at = p + j * step;
        of = find(c, &at);
        panels[j] = of->w->panels + at * of->w->panel_bytes;
    }
    if (c->scheme)
        c->scheme(&of->w->scheme, panels, n, c->acts, c->t, c->nt, acc);
    else
        c->mul(panels, n, c->acts, c->t, c->nt, acc);
}

/* What is left to do of panel p. */
static void close_panel(const struct call *c, size_t p, float *acc)
{
    const struct product *of = find(c, &p);

    if (of->w->sparse.n)
        c->isa->sparse(&of->w->sparse, p, c->acts, c->t, c->nt, acc);
    finish(c, of, p, acc);
}

/*
 * Panels [first, end). A core reads memory a third faster in several streams, far from each other,
 * than in one: few tokens go through the quarters of the range at once. Many tokens take far longer
 * to compute than to read. What else is read or written after a panel breaks the streams off, the
 * sparse parts most: it waits for as many panels as there is room for.
 */
static void mul_range(const struct call *c, size_t first, size_t end)
{
    _Alignas(64) float acc[TILE_TOKENS * PANEL_ROWS];
    const size_t streams = c->nt * STREAMS <= TILE_TOKENS ? STREAMS : 1;
    const size_t each = (end - first) / streams, past = first + each * streams;
    const size_t panel_acc = c->nt * PANEL_ROWS, room = TILE_TOKENS / (c->nt * streams);

    for (size_t i = 0; i < each; i += room) {
        const size_t n = each - i < room ? each - i : room;

        for (size_t k = 0; k < n; k++)
            mul_panels(c, first + i + k, each, streams, acc + k * streams * panel_acc);
        for (size_t j = 0; j < streams; j++)
            for (size_t k = 0; k < n; k++)
                close_panel(c, first + j * each + i + k, acc + (k * streams + j) * panel_acc);
    }
    if (past < end)
        mul_panels(c, past, 1, end - past, acc);
    for (size_t p = past; p < end; p++)
        close_panel(c, p, acc + (p - past) * panel_acc);
}

/* Products of one layout and width. */
static void mul_alike(const struct kernels_isa *isa, const struct product *products, unsigned n,
                      const struct acts *a, int add, unsigned part, unsigned parts)
{
    const struct mat *w = products[0].w;
    struct call c = {
        .isa = isa,
        .products = products,
        .acts = a,
        .add = add,
    };
    size_t tile = tile_tokens(w, a, a->n_tokens), panels = 0, first, end;

    if (w->id == N_LAYOUTS)
        c.scheme =
            isa->scheme[a->kind][w->scheme.scheme.kind == SCHEME_G][w->scheme.scheme.bits - 2];
    else
        c.mul = a->kind == ACTS_F32     ? isa->mul_f32[w->id]
                : a->kind == ACTS_INT16 ? isa->mul_int16[w->id]
                                        : isa->mul[w->id];
    for (unsigned i = 0; i < n; i++)
        panels += n_panels(products[i].w->rows);
    team_share(panels, 1, part, parts, &first, &end);
    for (; c.t < a->n_tokens; c.t += tile) {
        c.nt = a->n_tokens - c.t < tile ? a->n_tokens - c.t : tile;
        mul_range(&c, first, end);
    }
}

void kernels_mat_mul(const struct kernels_isa *isa, const struct product *products, unsigned n,
                     const struct acts *a, int add, unsigned part, unsigned parts)
{
    while (n) {
        unsigned same = 1;

        while (same < n && alike(products[same].w, products->w))
            same++;
        mul_alike(isa, products, same, a, add, part, parts);
        products += same;
        n -= same;
    }
}

void mat_mul(const struct product *products, unsigned n, const struct acts *a, int add,
             unsigned part, unsigned parts)
{
    kernels_mat_mul(products->w->isa, products, n, a, add, part, parts);
}
