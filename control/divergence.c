/* SPDX-License-Identifier: Apache-2.0 */
#include "control/divergence.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "compute/kernels/kernels.h"

int divergence_open(struct divergence *d, size_t n_vocab, size_t max_positions)
{
    *d = (struct divergence){.n_vocab = n_vocab, .room = max_positions};
    d->kl = malloc((max_positions + 1) * sizeof(*d->kl));
    return d->kl ? 0 : -ENOMEM;
}

void divergence_close(struct divergence *d)
{
    free(d->kl);
    d->kl = NULL;
}

/* log(sum(exp(x))), and where x is largest. */
static double log_sum_exp(const float *x, size_t n, float *max)
{
    double sum;

    kernels_get()->logsumexp(x, n, max, &sum);
    return *max + log(sum);
}

static size_t first_of(const float *x, size_t n, float value)
{
    size_t i = 0;

    while (i < n && x[i] != value)
        i++;
    return i;
}

/* sum p_i (log p_i - log q_i) in blocks, so that the inner loop is plain float work. */
static double kl_divergence(const float *ref, const float *got, size_t n, double lse_ref,
                            double lse_got)
{
    const float shift = (float)lse_ref;
    double kl = 0, mass = 0;

    for (size_t at = 0; at < n; at += 256) {
        size_t end = at + 256 < n ? at + 256 : n;
        float block_kl = 0, block_mass = 0;

        for (size_t i = at; i < end; i++) {
            float p = expf(ref[i] - shift);

            block_mass += p;
            block_kl += p * (ref[i] - got[i]);
        }
        kl += block_kl;
        mass += block_mass;
    }
    /* mass is 1 but for rounding: dividing by it keeps a KL of 1e-9 meaningful. */
    return kl / mass - (lse_ref - lse_got);
}

static void add_nll(struct divergence_nll *sum, double ref, double got)
{
    sum->ref += ref;
    sum->got += got;
    sum->n++;
}

void divergence_add(struct divergence *d, const float *ref, const float *got, int32_t next,
                    bool second_half)
{
    float max_ref, max_got;
    double lse_ref = log_sum_exp(ref, d->n_vocab, &max_ref);
    double lse_got = log_sum_exp(got, d->n_vocab, &max_got);

    if (d->n < d->room)
        d->kl[d->n++] = kl_divergence(ref, got, d->n_vocab, lse_ref, lse_got);
    d->same_top += first_of(ref, d->n_vocab, max_ref) == first_of(got, d->n_vocab, max_got);
    if (next < 0)
        return;
    add_nll(&d->all, lse_ref - (double)ref[next], lse_got - (double)got[next]);
    if (second_half)
        add_nll(&d->half, lse_ref - (double)ref[next], lse_got - (double)got[next]);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct divergence_summary divergence_summary(struct divergence *d)
{
    const size_t n = d->n;
    double sum = 0;

    qsort(d->kl, n, sizeof(*d->kl), ascending);
    for (size_t i = 0; i < n; i++)
        sum += d->kl[i];
    return (struct divergence_summary){
        .kl_mean = sum / (double)n,
        .kl_median = n ? (d->kl[(n - 1) / 2] + d->kl[n / 2]) / 2 : NAN,
        .kl_p99 = n ? d->kl[(size_t)ceil(.99 * (double)n) - 1] : NAN,
        .kl_max = n ? d->kl[n - 1] : NAN,
        .top1 = (double)d->same_top / (double)n,
        .ppl = exp(d->half.got / (double)d->half.n),
        .ppl_ref = exp(d->half.ref / (double)d->half.n),
        .ppl_full = exp(d->all.got / (double)d->all.n),
        .ppl_full_ref = exp(d->all.ref / (double)d->all.n),
    };
}

double log_prob(const float *logits, size_t n_vocab, int32_t id)
{
    float max;

    return (double)logits[id] - log_sum_exp(logits, n_vocab, &max);
}
