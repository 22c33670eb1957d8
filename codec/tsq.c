/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/tsq.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A part's head: the step's code in bits 0..10, width - 1 in 11..13, form in 14..15. All 0: every
 * value is 0, and nothing follows. */
#define HEAD_BYTES    2u
#define HEAD_STEP     ((1u << TABQ_STEP_BITS) - 1)
#define HEAD_WIDTH_AT TABQ_STEP_BITS
#define HEAD_WIDTH    7u
#define HEAD_FORM_AT  (TABQ_STEP_BITS + 3)

#define K_BYTES 2u /* of a value beyond all ranges */

/* With a larger step, a value next to FLT_MAX might be rounded to infinity. */
#define STEP_SAFE 0x1p110f

/* Codes of one range. */
struct list {
    int8_t *k;      /* what the range before leaves for it, padded */
    uint8_t *codes; /* packed on the way out, one a byte on the way in; padded */
};

struct tsq {
    struct codec_params params;
    const struct codec_dsp *dsp;
    uint32_t cols;
    size_t row_bound; /* of a row of cols */
    struct tabq_row row;
    struct list lists[TABQ_RANGES + 1]; /* the last: k beyond all ranges */
    float *held;                        /* a part with values next to FLT_MAX held back; the
                                         * decoder's outliers; padded */
    uint64_t *outliers;                 /* a bit for each column that is one */
    uint8_t *bits;                      /* padded, and as much as unpack reads beyond */
    int16_t *beyond;                    /* k beyond all ranges of the part planned */
};

/* --- open, close, sizes --- */

static int list_open(struct list *l, size_t padded)
{
    l->k = calloc(padded, sizeof(*l->k));
    l->codes = calloc(padded, sizeof(*l->codes));
    return l->k && l->codes ? 0 : -ENOMEM;
}

int tsq_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
             struct tsq **out)
{
    const size_t padded = CODEC_PAD_TO(cols) + CODEC_PAD;
    struct tsq *t = calloc(1, sizeof(*t));
    int rc = 0;

    if (!t)
        return -ENOMEM;
    t->dsp = dsp;
    t->cols = cols;
    tsq_tune(t, p);
    t->held = calloc(padded, sizeof(*t->held));
    t->outliers = calloc(padded / 64, sizeof(*t->outliers));
    t->bits = calloc(padded + CODEC_PAD, 1);
    t->beyond = calloc(cols, sizeof(*t->beyond));
    for (unsigned i = 0; i <= TABQ_RANGES && rc == 0; i++)
        rc = list_open(&t->lists[i], padded);
    if (rc || !t->held || !t->outliers || !t->bits || !t->beyond) {
        tsq_close(t);
        return -ENOMEM;
    }
    *out = t;
    return 0;
}

void tsq_close(struct tsq *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i <= TABQ_RANGES; i++) {
        free(t->lists[i].k);
        free(t->lists[i].codes);
    }
    free(t->held);
    free(t->outliers);
    free(t->bits);
    free(t->beyond);
    free(t);
}

void tsq_tune(struct tsq *t, const struct codec_params *p)
{
    t->params = *p;
    t->row_bound = tsq_row_bound(p, t->cols);
}

static size_t packed_bytes(size_t n, unsigned width)
{
    return (n * width + 7) / 8;
}

/* The most a part takes whose dense range leaves out no more than `outliers` of `cols` values: if
 * all of those are beyond all ranges, in the form whose codes are shortest. */
static size_t bound(uint32_t cols, uint32_t outliers, unsigned width)
{
    const struct codec_range *r = tabq_ranges(width, 0);

    return HEAD_BYTES + packed_bytes(cols, width) + packed_bytes(outliers, r[1].width) +
           packed_bytes(outliers, r[2].width) + K_BYTES * (size_t)outliers;
}

/* Of a whole row, no more than cols / tau values exceed tau times the mean, and a step never leaves
 * others than those out of qmax bits (but a little room is needed for the sum's rounding); except
 * that the largest step is too small for 2 bits to reach values next to FLT_MAX. */
static uint32_t row_outliers_max(const struct codec_params *p, uint32_t cols)
{
    const double most = (double)cols / (double)p->tau * (1.0 + 0x1p-14);

    return p->tau_rule == CODEC_TAU_MEAN && p->qmax > 2 && most < (double)cols ? (uint32_t)most
                                                                               : cols;
}

size_t tsq_row_bound(const struct codec_params *p, uint32_t cols)
{
    return bound(cols, row_outliers_max(p, cols), p->qmax);
}

size_t tsq_part_bound(const struct codec_params *p, uint32_t cols)
{
    return bound(cols, cols, p->qmax);
}

/* --- encode --- */

static const float *hold_back(struct tsq *t, const float *x, uint32_t cols, float step)
{
    const float edge = (float)((double)FLT_MAX - (double)step);

    for (uint32_t i = 0; i < cols; i++)
        t->held[i] = fminf(fmaxf(x[i], -edge), edge);
    return t->held;
}

/* Codes for the first range's k, and its outliers' in the next, and theirs in the last. */
static void fill_lists(struct tsq *t, struct tsq_part *part)
{
    const struct codec_range *ranges = tabq_ranges(part->width, 0);

    part->form = 0;
    for (unsigned i = 0; i < TABQ_RANGES; i++) {
        int8_t *rest = t->lists[i + 1].k;
        size_t n = 0;
        if (part->n[i])
            n = t->dsp->to_codes(t->lists[i].k, part->n[i], &ranges[i], t->lists[i].codes, rest);
        part->n[i + 1] = (uint32_t)n;
        memset(rest + n, 0, CODEC_PAD);
        if (i == 0 && n > 0) {
            part->form = (uint8_t)tabq_form_choose(t->dsp, part->width, rest, n);
            ranges = tabq_ranges(part->width, part->form);
        }
    }
    part->bytes = HEAD_BYTES + K_BYTES * (size_t)part->n[TABQ_RANGES];
    for (unsigned i = 0; i < TABQ_RANGES; i++)
        part->bytes += packed_bytes(part->n[i], ranges[i].width);
}

/* The values beyond all ranges, as multiples of the step. k has those that 8 bits hold, and where
 * the others are, each sign's in their order. False when one is beyond TABQ_K_MAX, not finite, or
 * larger than `giant`. */
static bool fill_beyond(struct tsq *t, const struct tsq_part *part, const float *x, float inv,
                        float giant)
{
    const int8_t *k = t->lists[0].k, *end = k + part->n[0], *at[2] = {k, k};
    const int8_t *rest = t->lists[TABQ_RANGES].k;

    for (uint32_t i = 0; i < part->n[TABQ_RANGES]; i++) {
        t->beyond[i] = rest[i];
        if (rest[i] > CODEC_K8_MAX || rest[i] < -CODEC_K8_MAX) {
            const int8_t **from = &at[rest[i] < 0];
            const int8_t *found = memchr(*from, rest[i] & 0xff, (size_t)(end - *from));
            const float v = x[found - k] * inv;
            if (!(fabsf(v) < TABQ_K_MAX + .5f && fabsf(x[found - k]) <= giant))
                return false;
            *from = found + 1;
            t->beyond[i] = (int16_t)lrintf(v);
        }
    }
    return true;
}

/* False when the step is too small for a value, or a value not finite or larger than `giant`. */
static bool plan(struct tsq *t, const float *x, uint32_t cols, uint32_t step_code, float giant,
                 struct tsq_part *part)
{
    const size_t most = cols == t->cols ? t->row_bound : tsq_row_bound(&t->params, cols);
    const float step = tabq_step(step_code), inv = (float)(1.0 / (double)step);

    *part = (struct tsq_part){.bytes = HEAD_BYTES, .n = {cols}, .step_code = (uint16_t)step_code};
    if (lrintf(t->row.max * inv) == 0)
        return true;
    x = step > STEP_SAFE ? hold_back(t, x, cols, step) : x;
    t->dsp->quantize(x, cols, inv, t->lists[0].k);
    part->width = (uint8_t)tabq_width_choose(t->dsp, &t->params, t->lists[0].k, cols,
                                             t->row.mean / (double)step);
    fill_lists(t, part);
    if (part->width < t->params.qmax && part->bytes > most) {
        part->width = t->params.qmax;
        fill_lists(t, part);
    }
    return fill_beyond(t, part, x, inv, giant);
}

int tsq_plan_row(struct tsq *t, const float *row, uint32_t cols, uint32_t *step_code,
                 struct tsq_part *part)
{
    int rc;

    if (tabq_row_sample(t->dsp, &t->params, row, cols, &t->row, step_code) &&
        plan(t, row, cols, *step_code, (float)(TABQ_SAMPLE_GIANT * t->row.mean), part) &&
        part->bytes <= t->row_bound)
        return 0;
    rc = tabq_row_read(t->dsp, &t->params, row, cols, &t->row);
    if (rc)
        return rc;
    *step_code = tabq_step_choose(t->dsp, &t->params, row, cols, &t->row);
    plan(t, row, cols, *step_code, INFINITY, part);
    return 0;
}

void tsq_plan(struct tsq *t, const float *x, uint32_t cols, uint32_t step_code,
              struct tsq_part *part)
{
    plan(t, x, cols, step_code, INFINITY, part);
}

void tsq_write(struct tsq *t, const struct tsq_part *part, uint8_t *dst)
{
    const struct codec_range *ranges;
    uint16_t head = 0;

    if (part->width)
        head = (uint16_t)(part->step_code | (part->width - 1u) << HEAD_WIDTH_AT |
                          (unsigned)part->form << HEAD_FORM_AT);
    memcpy(dst, &head, HEAD_BYTES);
    if (!part->width)
        return;
    dst += HEAD_BYTES;
    ranges = tabq_ranges(part->width, part->form);
    for (unsigned i = 0; i < TABQ_RANGES; i++) {
        const size_t bytes = packed_bytes(part->n[i], ranges[i].width);
        t->dsp->copy(dst, t->lists[i].codes, bytes);
        dst += bytes;
    }
    for (uint32_t i = 0; i < part->n[TABQ_RANGES];
         i++, dst += K_BYTES) /* few: a call takes longer */
        memcpy(dst, &t->beyond[i], K_BYTES);
}

/* --- decode --- */

/* Where a list of n codes can be read, kernels' little more included; NULL when it would pass
 * `end`, or has bits behind its last code. */
static const uint8_t *find_codes(struct tsq *t, size_t n, unsigned width, const uint8_t *src,
                                 const uint8_t *end)
{
    const size_t bytes = packed_bytes(n, width);

    if ((size_t)(end - src) < bytes)
        return NULL;
    if (n * width % 8 && src[bytes - 1] >> n * width % 8)
        return NULL;
    return (size_t)(end - src) - bytes < CODEC_PAD ? memcpy(t->bits, src, bytes) : src;
}

/* n codes to `codes`, and how many of them are 0. Returns the list's end, or NULL. */
static const uint8_t *read_codes(struct tsq *t, size_t n, unsigned width, const uint8_t *src,
                                 const uint8_t *end, uint8_t *codes, size_t *n_zeros)
{
    const uint8_t *from;

    *n_zeros = 0;
    if (n == 0)
        return src;
    from = find_codes(t, n, width, src, end);
    if (!from)
        return NULL;
    *n_zeros = t->dsp->unpack(from, n, width, codes);
    return src + packed_bytes(n, width);
}

/* Whether a code's k is beyond 8 bits. No encoder sends such. */
static bool any_beyond_k8(const struct codec_range *r, const uint8_t *codes, size_t n)
{
    const int half = 1 << (r->width - 1);
    const int low = r->down - 128, high = 128 + r->up; /* codes of -128 and 128 */
    const uint8_t lowest = (uint8_t)(low < 0 ? 0 : low < half ? low : half - 1);
    const uint8_t highest = (uint8_t)((high < half ? half : high < 256 ? high : 256) - 1);
    uint8_t any = 0;

    if (lowest == 0 && highest >= 2 * half - 1)
        return false;
    for (size_t i = 0; i < n; i++)
        any |= ((uint8_t)(codes[i] - 1) < lowest) | (codes[i] > highest);
    return any;
}

/* Where the values of a part come from. */
struct source {
    const struct codec_range *ranges;
    const uint8_t *codes[TABQ_RANGES];
    const uint8_t *rest; /* k of those beyond all ranges */
};

static int next_rest(struct source *s)
{
    int16_t k;

    memcpy(&k, s->rest, K_BYTES);
    s->rest += K_BYTES;
    return k;
}

static int next_k(struct source *s, unsigned list)
{
    const struct codec_range *r = &s->ranges[list];

    if (list == TABQ_RANGES)
        return next_rest(s);
    const unsigned code = *s->codes[list]++;
    return code ? (int)code - (code >> (r->width - 1) ? r->up : r->down) : next_k(s, list + 1);
}

/* The n outliers' values, one by one, whatever their k. */
static void read_values(struct source *s, size_t n, float step, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)next_k(s, 1) * step;
}

/* In bytes: every list's k into the gaps of the list before. Those beyond all ranges are
 * CODEC_K8_NONE in there, and looked for in the end: there are few. */
static void read_values_k8(struct tsq *t, struct source *s, const size_t n[TABQ_RANGES + 1],
                           float step, float *out)
{
    int8_t *k = t->lists[1].k;
    const int8_t *at = k;

    memset(t->lists[TABQ_RANGES].k, CODEC_K8_NONE, n[TABQ_RANGES]);
    for (unsigned i = TABQ_RANGES; --i > 0;)
        if (n[i])
            t->dsp->from_codes(s->codes[i], n[i], &s->ranges[i], t->lists[i + 1].k, t->lists[i].k);
    t->dsp->scale(k, n[1], step, out);
    for (size_t i = 0; i < n[TABQ_RANGES]; i++, at++) {
        at = memchr(at, CODEC_K8_NONE & 0xff, (size_t)(k + n[1] - at));
        out[at - k] = (float)next_rest(s) * step;
    }
}

static bool all_finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

const uint8_t *tsq_read(struct tsq *t, uint32_t cols, const uint8_t *src, const uint8_t *end,
                        float *out)
{
    size_t n[TABQ_RANGES + 1] = {cols};
    const uint8_t *dense;
    bool beyond_k8 = false;
    struct source s;
    uint16_t head;
    float step;

    if ((size_t)(end - src) < HEAD_BYTES)
        return NULL;
    memcpy(&head, src, HEAD_BYTES);
    src += HEAD_BYTES;
    if (head == 0) {
        memset(out, 0, cols * sizeof(*out));
        return src;
    }
    step = tabq_step(head & HEAD_STEP);
    if (!isnormal(step))
        return NULL;
    s.ranges = tabq_ranges((head >> HEAD_WIDTH_AT & HEAD_WIDTH) + 1, head >> HEAD_FORM_AT);
    dense = find_codes(t, cols, s.ranges[0].width, src, end);
    if (!dense)
        return NULL;
    n[1] = t->dsp->to_values(dense, cols, s.ranges[0].width, step, out, t->outliers);
    src += packed_bytes(cols, s.ranges[0].width);
    for (unsigned i = 1; i < TABQ_RANGES; i++) {
        uint8_t *codes = t->lists[i].codes;
        src = read_codes(t, n[i], s.ranges[i].width, src, end, codes, &n[i + 1]);
        if (!src)
            return NULL;
        s.codes[i] = codes;
        beyond_k8 |= any_beyond_k8(&s.ranges[i], codes, n[i]);
    }
    if ((size_t)(end - src) < K_BYTES * n[TABQ_RANGES])
        return NULL;
    s.rest = src;
    if (beyond_k8)
        read_values(&s, n[1], step, t->held);
    else
        read_values_k8(t, &s, n, step, t->held);
    t->dsp->fill_in(t->outliers, cols, t->held, out);
    if (step > STEP_SAFE && !all_finite(out, cols))
        return NULL;
    return src + K_BYTES * n[TABQ_RANGES];
}
