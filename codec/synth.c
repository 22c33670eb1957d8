/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/synth.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/rans.h"

#define PI 3.14159265358979323846
/* Of a matrix row: entries' rounding must not carry it over CODEC_PROFILE_NORM_MAX. */
#define ROW_NORM 32700.0

#define FIRST_OCTAVES 3 /* above the rest */
#define CLASS_DIMS    64u
#define CLASS_SCALE   256.0 /* class_w in a class' point */

static uint64_t next(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state) /* -1..1 */
{
    return (double)(int64_t)next(state) * 0x1p-63;
}

static double gaussian(uint64_t *state) /* nearly; of deviation 1 */
{
    double sum = 0.0;

    for (unsigned i = 0; i < 12; i++)
        sum += uniform(state);
    return sum / 2;
}

/* Of coefficient i of n. The first is one of those that a model has a few of. */
static double deviation(uint32_t i, uint32_t n)
{
    return (i == 0 ? exp2(FIRST_OCTAVES) : 1.0) * exp2(-(double)SYNTH_OCTAVES * i / n);
}

static void fill_coefs(struct codec_profile_coefs *c)
{
    for (uint32_t i = 0; i < c->n; i += RANS_GROUP)
        c->level[i / RANS_GROUP] = (int8_t)lrint(4 * log2(deviation(i + RANS_GROUP / 2, c->n)));
    c->pre[0] = FIRST_OCTAVES;
}

static void shuffle(uint16_t *order, uint32_t n, uint64_t *state)
{
    for (uint32_t i = 0; i < n; i++)
        order[i] = (uint16_t)i;
    for (uint32_t i = n - 1; i > 0; i--) {
        const uint32_t k = (uint32_t)(next(state) % (i + 1));
        const uint16_t other = order[k];
        order[k] = order[i];
        order[i] = other;
    }
}

static int fill_block(struct codec_profile_block *b, uint64_t *state)
{
    const uint32_t n = b->cols;
    double *cosine = malloc(4 * (size_t)n * sizeof(*cosine)), *sign = malloc(n * sizeof(*sign));
    const double largest = sqrt(2.0 / n) * ROW_NORM;

    if (!cosine || !sign) {
        free(cosine);
        free(sign);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < 4 * n; i++)
        cosine[i] = cos(2 * PI * i / (4.0 * n));
    for (uint32_t j = 0; j < n; j++)
        sign[j] = next(state) & 1 ? 1.0 : -1.0;
    fill_coefs(&b->scalar);
    fill_coefs(&b->xform);
    shuffle(b->order, n, state);
    for (uint32_t i = 0; i < n; i++) {
        b->mult[i] = b->bscale[i] = (float)(1 / ROW_NORM);
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t turn = (uint64_t)i * (2 * j + 1) % (4 * n);
            const double v = (i ? largest : largest * sqrt(.5)) * cosine[turn] * sign[j];
            b->a[(size_t)i * n + j] = b->b[(size_t)j * n + i] = (int16_t)lrint(v);
        }
    }
    free(cosine);
    free(sign);
    return 0;
}

/* Columns added up with random signs: distances between points stay about the same. */
static void fill_projection(struct codec_profile *p, uint64_t *state)
{
    const int16_t one = (int16_t)(ROW_NORM / sqrt(p->cols));

    for (size_t i = 0; i < (size_t)p->class_dims * p->cols; i++)
        p->class_p[i] = next(state) & 1 ? one : (int16_t)-one;
    for (uint32_t i = 0; i < p->class_dims; i++)
        p->class_scale[i] = (float)(1 / (one * sqrt(p->class_dims)));
}

/* Any point: the class is the one whose point, projected, is nearest, |z - m|^2 / 2. */
static void fill_class(struct codec_profile *p, uint32_t class, uint64_t *state)
{
    float *mean = p->class_mean + (size_t) class * p->cols;
    double norm_sq = 0.0;

    for (uint32_t i = 0; i < p->cols; i++)
        mean[i] = (float)(.2 * gaussian(state));
    for (uint32_t i = 0; i < p->class_dims; i++) {
        double z = 0.0;
        for (uint32_t j = 0; j < p->cols; j++)
            z += (double)p->class_p[(size_t)i * p->cols + j] * (double)mean[j];
        z *= (double)p->class_scale[i];
        norm_sq += z * z;
        p->class_w[(size_t) class * p->class_dims + i] = (int16_t)lrint(z * CLASS_SCALE);
    }
    p->class_bias[class] = (float)(-norm_sq / 2 * CLASS_SCALE);
}

int codec_synth_profile(uint32_t cols, uint32_t n_classes, uint64_t seed,
                        struct codec_profile **out)
{
    struct codec_profile *p;
    double sum_sq = 0.0;
    const uint32_t dims = n_classes ? CLASS_DIMS : 0;
    int rc = codec_profile_new(cols, NULL, n_classes, dims, &p);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < cols; i++) {
        p->mean[i] = (float)uniform(&seed);
        p->sens[i] = (float)(uniform(&seed) / sqrt(cols));
    }
    p->sens_pos = -.1f;
    p->sens_bias = .5f;
    fill_projection(p, &seed);
    for (uint32_t k = 0; k < n_classes; k++)
        fill_class(p, k, &seed);
    for (uint32_t b = 0; b < p->n_blocks && !rc; b++) {
        rc = fill_block(&p->blocks[b], &seed);
        for (uint32_t i = 0; i < p->blocks[b].cols; i++)
            sum_sq += pow(deviation(i, p->blocks[b].cols), 2);
    }
    p->ref_sigma = 1.0f;
    p->ref_norm = (float)sqrt(sum_sq);
    if (rc) {
        codec_profile_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

int codec_synth_rows(const struct codec_profile *p, uint64_t seed, uint32_t n, float *rows,
                     size_t stride)
{
    double *y = malloc(CODEC_BLOCK_COLS_MAX * sizeof(*y));

    if (!y)
        return -ENOMEM;
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t k = 0; k < p->n_blocks; k++) {
            const struct codec_profile_block *b = &p->blocks[k];
            for (uint32_t i = 0; i < b->cols; i++)
                y[i] = deviation(i, b->cols) * gaussian(&seed);
            for (uint32_t j = 0; j < b->cols; j++) {
                double sum = 0.0;
                for (uint32_t i = 0; i < b->xform.n; i++)
                    sum += (double)b->b[(size_t)j * b->xform.n + i] * y[i];
                rows[r * stride + b->first_col + j] =
                    (float)((double)p->mean[b->first_col + j] + (double)b->bscale[j] * sum);
            }
        }
    }
    free(y);
    return 0;
}
