/* SPDX-License-Identifier: Apache-2.0 */
/* The C reference of schemes' products, included by ref.c. */

/* One block of a panel, against all tokens. */
static void scheme_block(const struct scheme_panel *s, const uint8_t *panel, size_t b,
                         const struct acts *a, size_t t0, size_t nt, bool floats, float *acc)
{
    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        uint8_t u[SCHEME_BLOCK];
        int8_t code[SCHEME_BLOCK];
        float d, m;

        scheme_panel_read(s, panel, lane, b, u, &d, &m);
        for (size_t k = 0; k < SCHEME_BLOCK; k++)
            code[k] = (int8_t)u[k];
        for (size_t t = 0; t < nt; t++) {
            const size_t at = b * a->n_tokens + t0 + t;
            const float *x = a->x + (t0 + t) * a->cols + b * SCHEME_BLOCK;
            float *y = &acc[t * PANEL_ROWS + lane];

            if (floats) {
                for (size_t k = 0; k < SCHEME_BLOCK; k++) {
                    const float product = d * (float)u[k], w = product + m;
                    *y = fmaf(w, x[k], *y);
                }
            } else {
                *y = fmaf(d * a->d[at], (float)dot(code, a->w + at * 32, 0, 32), *y);
                *y = fmaf(m, a->s[at], *y);
            }
        }
    }
}

static void scheme_mul(const struct scheme_panel *s, const uint8_t *const *panels, size_t n,
                       const struct acts *a, size_t t0, size_t nt, bool floats, float *acc)
{
    memset(acc, 0, n * nt * PANEL_ROWS * sizeof(*acc));
    for (size_t j = 0; j < n; j++)
        for (size_t b = 0; b < s->blocks; b++)
            scheme_block(s, panels[j], b, a, t0, nt, floats, acc + j * nt * PANEL_ROWS);
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

static void sparse_add(const struct sparse *s, size_t row, size_t n_rows, const struct acts *a,
                       size_t t0, size_t nt, float *acc)
{
    for (size_t t = 0; t < nt; t++) {
        const float *x = a->x + (t0 + t) * a->cols;

        for (size_t r = 0; r < n_rows; r++) {
            float *y = &acc[t * PANEL_ROWS + r];

            for (uint32_t i = s->rows[row + r]; i < s->rows[row + r + 1]; i++)
                *y = fmaf(f32_from_f16(s->values[i]), x[s->cols[i]], *y);
        }
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
