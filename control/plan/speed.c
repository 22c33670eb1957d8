/* SPDX-License-Identifier: Apache-2.0 */
/* Times of layers from a host's profile. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "control/plan/latency.h"

#define ROWS_KEPT 64u /* row counts whose sums are kept */
#define LEAST     .2  /* of what was measured: no correction makes it less */

/* Sums over layers of the products' times in one scheme, by one row count: sum[l] of the first l.
 */
struct sums {
    bool made, known;
    double *sum; /* [n_layers + 1] */
};

struct plan_speed {
    const struct plan_model *m;
    const struct plan_host *h;
    uint32_t n_rows, rows[ROWS_KEPT];
    struct sums sums[ROWS_KEPT][PLAN_SCHEMES];
};

int plan_speed_open(const struct plan_model *m, const struct plan_host *h, struct plan_speed **out)
{
    struct plan_speed *s = calloc(1, sizeof(*s));

    *out = s;
    if (!s)
        return -ENOMEM;
    s->m = m;
    s->h = h;
    return 0;
}

void plan_speed_close(struct plan_speed *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_rows; i++)
        for (unsigned k = 0; k < PLAN_SCHEMES; k++)
            free(s->sums[i][k].sum);
    free(s);
}

const struct plan_host *plan_speed_host(const struct plan_speed *s)
{
    return s->h;
}

/* --- between what was measured ---------------------------------------------------------------- */

/* On straight lines between row counts; beyond the last, on the last one's. */
static double at_rows(const struct plan_host *h, const double *s, uint32_t rows)
{
    uint32_t i = 1;

    while (i + 1 < h->n_rows && h->rows[i] < rows)
        i++;
    const double x = ((double)rows - h->rows[i - 1]) / (h->rows[i] - h->rows[i - 1]);
    const double y = s[i - 1] + x * (s[i] - s[i - 1]);
    return y > 0 ? y : 0;
}

/* A stage of so many of the first layers: on lines through nothing and those measured. */
static double stage_s(const struct plan_host *h, uint32_t layers, uint32_t rows, bool rested)
{
    double before = 0, n_before = 0;

    for (uint32_t i = 0; i < h->n_stages; i++) {
        const double *times = rested ? h->stages[i].rested_s : h->stages[i].s;
        const double s = at_rows(h, times, rows), n = h->stages[i].layers;
        if (layers <= n || i + 1 == h->n_stages)
            return before + (s - before) * (layers - n_before) / (n - n_before);
        before = s;
        n_before = n;
    }
    return before;
}

/* Of a multiply-add with a matrix stored as a scheme has it. NULL: not measured, or not to be had.
 */
static const double *times_of(const struct plan_host *h, const struct plan_matrix *m,
                              enum plan_scheme s)
{
    if (!plan_matrix_takes(m, s))
        return NULL;
    if (!plan_scheme_is_standard(s))
        return h->scheme_s[s][0] > 0 ? h->scheme_s[s] : NULL;
    const enum qtype type = plan_matrix_type(m, s);
    for (uint32_t i = 0; i < h->n_types; i++)
        if (h->types[i].type == type)
            return h->types[i].s;
    return NULL;
}

/* --- sums over layers --------------------------------------------------------------------------
 */

static int make(struct plan_speed *s, enum plan_scheme scheme, uint32_t rows, struct sums *to)
{
    to->made = to->known = true;
    to->sum = calloc(s->m->n_layers + 1, sizeof(*to->sum));
    if (!to->sum)
        return -ENOMEM;
    for (uint32_t l = 0; l < s->m->n_layers; l++) {
        const struct plan_layer *layer = &s->m->layers[l];
        double time_s = 0;
        for (uint32_t i = 0; i < layer->n_mats; i++) {
            const struct plan_matrix *m = &layer->mats[i];
            const double *of = times_of(s->h, m, scheme);
            if (!of) {
                to->known = false;
                return 0;
            }
            time_s += (double)m->rows * m->cols * rows * at_rows(s->h, of, rows);
        }
        to->sum[l + 1] = to->sum[l] + time_s;
    }
    return 0;
}

static int sums_of(struct plan_speed *s, enum plan_scheme scheme, uint32_t rows,
                   const struct sums **out)
{
    uint32_t i = 0;

    while (i < s->n_rows && s->rows[i] != rows)
        i++;
    if (i == ROWS_KEPT) { /* the first is the oldest: its place is taken */
        i = 0;
        for (unsigned k = 0; k < PLAN_SCHEMES; k++) {
            free(s->sums[0][k].sum);
            s->sums[0][k] = (struct sums){.made = false};
        }
        s->rows[0] = rows;
    } else if (i == s->n_rows) {
        s->rows[s->n_rows++] = rows;
    }
    *out = &s->sums[i][scheme];
    return s->sums[i][scheme].made ? 0 : make(s, scheme, rows, &s->sums[i][scheme]);
}

/* What was measured of as many of the first layers, plus what these layers' products take beyond
 * those'. */
int plan_speed_layers(struct plan_speed *s, uint32_t first, uint32_t end, enum plan_scheme scheme,
                      uint32_t rows, bool rested, double *time_s)
{
    const double measured_s = stage_s(s->h, end - first, rows, rested);
    const struct sums *these, *those;

    *time_s = measured_s;
    if (first == 0 && scheme == PLAN_KEEP)
        return 0;
    int rc = sums_of(s, PLAN_KEEP, rows, &those);
    if (rc == 0)
        rc = sums_of(s, scheme, rows, &these);
    if (rc)
        return rc;
    if (!these->known || !those->known)
        return scheme == PLAN_KEEP ? 0 : -ENOENT; /* a file's own types differ little by layer */
    *time_s += these->sum[end] - these->sum[first] - those->sum[end - first];
    if (*time_s < LEAST * measured_s)
        *time_s = LEAST * measured_s;
    return 0;
}

int plan_speed_attend(const struct plan_speed *s, uint32_t layers, enum kv_format kv, uint32_t rows,
                      double depth, double *time_s)
{
    const double one_s = s->h->attend[kv].one_s, many_s = s->h->attend[kv].many_s;
    const double share = rows == 1 ? 0 : fmin(1, log2(rows) / log2(s->h->attend_rows));

    *time_s = layers * rows * depth * (one_s + (many_s - one_s) * share);
    return one_s > 0 && many_s > 0 ? 0 : -ENOENT;
}

double plan_speed_head(const struct plan_speed *s, uint32_t rows)
{
    return at_rows(s->h, s->h->head_s, rows);
}
