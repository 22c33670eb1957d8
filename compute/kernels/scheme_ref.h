/* SPDX-License-Identifier: Apache-2.0 */
/* The C reference of schemes' products, included by ref.c. */

/* One row of a panel against a token. */
static float scheme_row(const struct scheme_panel *s, const uint8_t *panel, size_t lane,
                        const struct acts *a, size_t t, bool floats)
{
    const bool levels = s->scheme.kind == SCHEME_SQ;
    float acc = 0, sum = 0, d = 0, m = 0;

    for (size_t b = 0; b < s->blocks; b++) {
        const size_t at = b * a->n_tokens + t;
        const float *x = a->x + t * a->ldx + b * SCHEME_BLOCK;
        uint8_t u[SCHEME_BLOCK];

        kernels_scheme_read(s, panel, lane, b, u, &d, &m);
        for (size_t k = 0; floats && k < SCHEME_BLOCK; k++) {
            const float product = d * (float)u[k], w = product + m;
            acc = fmaf(w, x[k], acc);
        }
        if (floats)
            continue;
        int8_t code[SCHEME_BLOCK];
        for (size_t k = 0; k < SCHEME_BLOCK; k++)
            code[k] = (int8_t)u[k];
        acc = fmaf(levels ? a->d[at] : d * a->d[at], (float)dot(code, a->w + at * 32, 0, 32), acc);
        if (levels)
            sum += a->s[at];
        else
            acc = fmaf(m, a->s[at], acc);
    }
    return floats || !levels ? acc : fmaf(d, acc, m * sum);
}

static void scheme_mul(const struct scheme_panel *s, const uint8_t *const *panels, size_t n,
                       const struct acts *a, size_t t0, size_t nt, bool floats, float *acc)
{
    for (size_t j = 0; j < n; j++)
        for (size_t t = 0; t < nt; t++)
            for (size_t lane = 0; lane < PANEL_ROWS; lane++)
                acc[(j * nt + t) * PANEL_ROWS + lane] =
                    scheme_row(s, panels[j], lane, a, t0 + t, floats);
}

static void scheme_float(const struct scheme_panel *s, const uint8_t *const *panels, size_t n,
                         const struct acts *a, size_t t0, size_t nt, float *acc)
{
    scheme_mul(s, panels, n, a, t0, nt, true, acc);
}

/* The words of int8 activations are the same integers. */
static void scheme_integer(const struct scheme_panel *s, const uint8_t *const *panels, size_t n,
                           const struct acts *a, size_t t0, size_t nt, float *acc)
{
    scheme_mul(s, panels, n, a, t0, nt, false, acc);
}

static void sparse_add(const struct sparse *s, size_t p, const struct acts *a, size_t t0, size_t nt,
                       float *acc)
{
    const struct sparse_panel *of = sparse_panel(s, p);
    const uint16_t *column = sparse_columns(s, of), *value = sparse_values(s, of);

    for (size_t k = 0; k < of->n[0]; k++)
        for (size_t i = 0; i < PANEL_ROWS && of->n[i] > k; i++, column++, value++)
            for (size_t t = 0; t < nt; t++) {
                float *y = &acc[t * PANEL_ROWS + (of->rows >> 4 * i & 15)];

                *y = fmaf(f32_from_f16(*value), a->x[(t0 + t) * a->ldx + *column], *y);
            }
}

/* One for all: a scheme is read, not compiled in. */
#define scheme_int_sq2   scheme_integer
#define scheme_int_sq3   scheme_integer
#define scheme_int_sq4   scheme_integer
#define scheme_int_g2    scheme_integer
#define scheme_int_g3    scheme_integer
#define scheme_int_g4    scheme_integer
#define scheme_word_sq2  scheme_integer
#define scheme_word_sq3  scheme_integer
#define scheme_word_sq4  scheme_integer
#define scheme_word_g2   scheme_integer
#define scheme_word_g3   scheme_integer
#define scheme_word_g4   scheme_integer
#define scheme_float_sq2 scheme_float
#define scheme_float_sq3 scheme_float
#define scheme_float_sq4 scheme_float
#define scheme_float_g2  scheme_float
#define scheme_float_g3  scheme_float
#define scheme_float_g4  scheme_float
