/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "compute/backprop/impl.h"

static float inverse_rms(const float *x, uint32_t cols, float eps)
{
    double sum = 0;

    for (uint32_t i = 0; i < cols; i++)
        sum += (double)x[i] * (double)x[i];
    return (float)(1 / sqrt(sum / cols + (double)eps));
}

void bp_norm(float *y, const float *x, const float *weight, uint32_t n, uint32_t cols, float eps)
{
    for (uint32_t t = 0; t < n; t++, x += cols, y += cols) {
        const float r = inverse_rms(x, cols, eps);

        for (uint32_t i = 0; i < cols; i++)
            y[i] = x[i] * r * weight[i];
    }
}

/* y_i = r x_i w_i with r = (mean(x^2) + eps)^(-1/2), so dr/dx_i = -r^3 x_i / cols. */
static void norm_row_backward(float *dx, const float *dy, const float *x, const float *weight,
                              uint32_t cols, float r)
{
    double along = 0;

    for (uint32_t i = 0; i < cols; i++)
        along += (double)(dy[i] * weight[i]) * (double)x[i];
    const float back = (float)(along * (double)r * (double)r * (double)r / cols);
    for (uint32_t i = 0; i < cols; i++)
        dx[i] += r * weight[i] * dy[i] - back * x[i];
}

void bp_norm_backward(float *dx, const float *dy, const float *x, const float *weight, uint32_t n,
                      uint32_t samples, uint32_t cols, float eps)
{
    for (uint32_t t = 0; t < n; t++) {
        const float *row = x + (size_t)t * cols;
        const float r = inverse_rms(row, cols, eps);

        for (uint32_t s = 0; s < samples; s++) {
            const size_t at = ((size_t)s * n + t) * cols;
            norm_row_backward(dx + at, dy + at, row, weight, cols, r);
        }
    }
}

static void rotate_head(float *x, const float *cs, uint32_t dims, bool neox, float sign)
{
    for (uint32_t i = 0; i < dims / 2; i++) {
        float *a = neox ? &x[i] : &x[2 * i], *b = neox ? &x[i + dims / 2] : &x[2 * i + 1];
        const float c = cs[2 * i], s = sign * cs[2 * i + 1], old = *a;

        *a = old * c - *b * s;
        *b = old * s + *b * c;
    }
}

void bp_rotate(const struct backprop_work *w, float *x, uint32_t n, uint32_t heads, float sign)
{
    const struct hparams *hp = &w->b->hp;

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < heads; h++, x += hp->head_dim)
            rotate_head(x, w->cs + (size_t)t * hp->rope_dims, hp->rope_dims, hp->arch->rope_neox,
                        sign);
}
