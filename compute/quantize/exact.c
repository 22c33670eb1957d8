/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "codec/f16.h"
#include "compute/quantize/impl.h"

/* Not negative, so that its bits rise with it. */
typedef uint32_t (*score_fn)(const float *w, const float *diag, uint32_t n_cols, size_t at);

static uint32_t by_size(const float *w, const float *diag, uint32_t n_cols, size_t at)
{
    return f32_bits(w[at]) & 0x7fffffffu;
}

static uint32_t by_effect(const float *w, const float *diag, uint32_t n_cols, size_t at)
{
    return f32_bits(diag[at % n_cols] * w[at] * w[at]);
}

/* The score that at least `count` of those not yet taken reach and fewer exceed: its upper 16 bits,
 * then its lower ones. *above: how many exceed it. */
static uint32_t threshold(const float *w, const float *diag, uint32_t n_cols, size_t n,
                          const bool *taken, score_fn score, size_t count, uint32_t *seen,
                          size_t *above)
{
    uint32_t prefix = 0;

    *above = 0;
    for (unsigned shift = 16;; shift = 0) {
        for (size_t i = 0; i < 65536; i++)
            seen[i] = 0;
        for (size_t i = 0; i < n; i++) {
            const uint32_t s = score(w, diag, n_cols, i);
            if (!taken[i] && (shift || s >> 16 == prefix >> 16))
                seen[s >> shift & 0xffff]++;
        }
        uint32_t at = 65535;
        while (at > 0 && *above + seen[at] < count)
            *above += seen[at--];
        prefix |= at << shift;
        if (shift == 0)
            return prefix;
    }
}

/* The `count` largest of those not yet taken, of equal ones the first. */
static void take_largest(const float *w, const float *diag, uint32_t n_cols, size_t n, bool *taken,
                         score_fn score, size_t count, uint32_t *seen)
{
    size_t above;

    if (count == 0)
        return;
    const uint32_t least = threshold(w, diag, n_cols, n, taken, score, count, seen, &above);
    size_t ties = count - above;

    for (size_t i = 0; i < n; i++) {
        const uint32_t s = score(w, diag, n_cols, i);
        if (taken[i] || s < least)
            continue;
        if (s > least)
            taken[i] = true;
        else if (ties > 0) {
            taken[i] = true;
            ties--;
        }
    }
}

bool *exact_choose(const float *w, const float *diag, uint32_t n_rows, uint32_t n_cols,
                   size_t count)
{
    const size_t n = (size_t)n_rows * n_cols;
    bool *taken = calloc(n, sizeof(*taken));
    uint32_t *seen = malloc(65536 * sizeof(*seen));

    if (taken && seen) {
        take_largest(w, diag, n_cols, n, taken, by_size, count / 2, seen);
        take_largest(w, diag, n_cols, n, taken, by_effect, count - count / 2, seen);
    } else {
        free(taken);
        taken = NULL;
    }
    free(seen);
    return taken;
}
