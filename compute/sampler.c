/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/sampler.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compute/kernels/kernels.h"
#include "compute/philox.h"

struct cand {
    float x; /* logit after penalty; then relative to the best, over the temperature */
    int32_t id;
};

struct sampler {
    uint32_t n_vocab;
    struct cand *cand; /* [n_vocab] */
    uint64_t *seen;    /* bit per id: penalised already; all zero between calls */
};

struct sampler_params sampler_params_default(void)
{
    return (struct sampler_params){.temp = 0, .top_p = 1, .min_p = 0, .repeat_penalty = 1};
}

int sampler_params_check(const struct sampler_params *p)
{
    /* Written so that a NaN fails. */
    if (!(p->temp >= 0 && p->temp <= 100) || !(p->top_p > 0 && p->top_p <= 1) ||
        !(p->min_p >= 0 && p->min_p <= 1) || !(p->repeat_penalty > 0 && p->repeat_penalty <= 100))
        return -EINVAL;
    return 0;
}

double sampler_uniform(uint64_t seed, uint64_t position)
{
    uint32_t ctr[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};

    philox4x32_10(ctr, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (double)(((uint64_t)ctr[1] << 32 | ctr[0]) >> 11) * 0x1p-53;
}

int sampler_open(uint32_t n_vocab, struct sampler **out)
{
    struct sampler *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (!s)
        return -ENOMEM;
    s->n_vocab = n_vocab;
    s->cand = calloc(n_vocab, sizeof(*s->cand));
    s->seen = calloc((n_vocab + 63) / 64, sizeof(*s->seen));
    if (!s->cand || !s->seen) {
        sampler_close(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->cand);
    free(s->seen);
    free(s);
}

/* --- order of candidates --------------------------------------------------------------------- */

static bool better(struct cand a, struct cand b)
{
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}

static int by_rank(const void *a, const void *b)
{
    return better(*(const struct cand *)a, *(const struct cand *)b) ? -1 : 1;
}

/* heap[0] is the worst of heap[0, n): restore that after heap[0] changed. */
static void sift_down(struct cand *heap, size_t n)
{
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= n)
            return;
        if (child + 1 < n && better(heap[child], heap[child + 1]))
            child++;
        if (!better(heap[i], heap[child]))
            return;
        struct cand t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

/* A descending sort has its worst last; reversed it is a heap with the worst on top. */
static void make_heap(struct cand *c, size_t n)
{
    qsort(c, n, sizeof(*c), by_rank);
    for (size_t i = 0; i < n / 2; i++) {
        struct cand t = c[i];
        c[i] = c[n - 1 - i];
        c[n - 1 - i] = t;
    }
}

/* Move the k best of c[0, n) to its front, best first. The rest stays behind in any order. */
static void select_best(struct cand *c, size_t n, size_t k)
{
    if (k < n && k > 0) {
        make_heap(c, k);
        for (size_t i = k; i < n; i++) {
            if (!better(c[i], c[0]))
                continue;
            struct cand t = c[0];
            c[0] = c[i];
            c[i] = t;
            sift_down(c, k);
        }
    }
    qsort(c, k < n ? k : n, sizeof(*c), by_rank);
}

/* --- picking --------------------------------------------------------------------------------- */

static void penalise(struct sampler *s, float penalty, const int32_t *generated, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t id = (uint32_t)generated[i];
        uint64_t bit = 1ull << (id % 64);

        if (id >= s->n_vocab || s->seen[id / 64] & bit)
            continue;
        s->seen[id / 64] |= bit;
        float *x = &s->cand[id].x;
        *x = *x > 0 ? *x / penalty : *x * penalty;
    }
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)generated[i] < s->n_vocab)
            s->seen[(uint32_t)generated[i] / 64] = 0;
}

static int32_t argmax(const struct cand *c, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (better(c[i], c[best]))
            best = i;
    return c[best].id;
}

static double weight_sum(const struct cand *c, size_t n, float max)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += exp((double)c[i].x - max);
    return sum;
}

/* Keep the smallest best-first prefix of c[0, n) that holds top_p of the mass. */
static size_t keep_top_p(struct cand *c, size_t n, float top_p, bool sorted)
{
    size_t k = sorted ? n : 0;
    double mass = 0, want = 0;

    /* Mostly a few candidates hold the mass: order only as many as it takes. */
    for (size_t i = 0; i < n; i++) {
        if (i == k) {
            k = k ? k * 8 : 128;
            k = k < n ? k : n;
            select_best(c + i, n - i, k - i);
        }
        if (i == 0)
            want = top_p * weight_sum(c, n, c[0].x);
        mass += exp((double)c[i].x - c[0].x);
        if (mass >= want)
            return i + 1;
    }
    return n;
}

static size_t keep_min_p(struct cand *c, size_t n, float min_p)
{
    float max = c[0].x;
    size_t kept = 0;

    for (size_t i = 1; i < n; i++)
        max = fmaxf(max, c[i].x);
    double floor = (double)max + log(min_p);
    for (size_t i = 0; i < n; i++)
        if (c[i].x >= floor)
            c[kept++] = c[i];
    return kept;
}

static int32_t draw(const struct cand *c, size_t n, double u)
{
    float max = c[0].x;
    double mass = 0;

    for (size_t i = 1; i < n; i++)
        max = fmaxf(max, c[i].x);
    double want = u * weight_sum(c, n, max);
    for (size_t i = 0; i < n; i++) {
        mass += exp((double)c[i].x - max);
        if (mass > want)
            return c[i].id;
    }
    return argmax(c, n); /* u * sum rounded up to the sum */
}

/* By penalty and chance: candidates, fewer and fewer, and one of them. */
static int32_t choose(struct sampler *s, const struct sampler_params *p, const float *logits,
                      const int32_t *generated, size_t n_generated, uint64_t position)
{
    struct cand *c = s->cand;
    size_t n = s->n_vocab;
    bool sorted = false;

    for (size_t i = 0; i < n; i++)
        c[i] = (struct cand){logits[i], (int32_t)i};
    if (p->repeat_penalty != 1)
        penalise(s, p->repeat_penalty, generated, n_generated);
    if (p->temp == 0)
        return argmax(c, n);

    const float best = c[argmax(c, n)].x;
    for (size_t i = 0; i < n; i++) /* relative to the best: a tiny temp must not overflow */
        c[i].x = (c[i].x - best) / p->temp;
    if (p->top_k && p->top_k < n) {
        select_best(c, n, p->top_k);
        n = p->top_k;
        sorted = true;
    }
    if (p->top_p < 1)
        n = keep_top_p(c, n, p->top_p, sorted);
    if (p->min_p > 0)
        n = keep_min_p(c, n, p->min_p);
    return draw(c, n, sampler_uniform(p->seed, position));
}

static bool all_finite(const float *x, size_t n)
{
    bool finite = true;

    for (size_t i = 0; i < n; i++)
        finite &= fabsf(x[i]) <= FLT_MAX;
    return finite;
}

/* The first of x[0, n) that is max, which one is. */
static int32_t find(const float *x, size_t n, float max)
{
    size_t i = 0;

    for (bool found = false; i + 64 <= n; i += 64) {
        for (size_t j = 0; j < 64; j++)
            found |= x[i + j] == max;
        if (found)
            break;
    }
    while (x[i] != max)
        i++;
    return (int32_t)i;
}

int32_t sampler_pick(struct sampler *s, const struct sampler_params *p, const float *logits,
                     const int32_t *generated, size_t n_generated, uint64_t position,
                     float *logprob)
{
    const size_t n = s->n_vocab;
    int32_t id;
    double sum;
    float max;

    if (!all_finite(logits, n))
        return -EDOM;
    kernels_get()->logsumexp(logits, n, &max, &sum);
    if (p->temp > 0 || p->repeat_penalty != 1)
        id = choose(s, p, logits, generated, n_generated, position);
    else
        id = find(logits, n, max);
    if (logprob)
        *logprob = (float)((double)logits[id] - max - log(sum));
    return id;
}

size_t sampler_top_logprobs(struct sampler *s, const float *logits, struct sampler_top *top,
                            size_t k)
{
    struct cand *heap = s->cand;
    float max;
    double sum;

    if (!k)
        return 0;
    kernels_get()->logsumexp(logits, s->n_vocab, &max, &sum);
    if (k > s->n_vocab)
        k = s->n_vocab;
    for (uint32_t i = 0; i < k; i++)
        heap[i] = (struct cand){logits[i], (int32_t)i};
    make_heap(heap, k);
    for (uint32_t i = (uint32_t)k; i < s->n_vocab; i++) {
        if (!(logits[i] > heap[0].x)) /* alike: those before have smaller ids */
            continue;
        heap[0] = (struct cand){logits[i], (int32_t)i};
        sift_down(heap, k);
    }
    qsort(heap, k, sizeof(*heap), by_rank);
    for (size_t i = 0; i < k; i++)
        top[i] = (struct sampler_top){
            .id = heap[i].id,
            .logprob = (float)((double)heap[i].x - max - log(sum)),
        };
    return k;
}
