/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/mix.h"

#define LEARN .25 /* what the latest run counts */
#define LEARN_UP                                                                                   \
    2.0 /* no run counts as more than so many times what was expected: others may have             \
         * had the core meanwhile */

/* Insertion sort: by who has waited for too long, and longest; else as they are. */
static void put_in_order(struct mix *m)
{
    for (unsigned r = 0; r < MIX_RANKS; r++) {
        unsigned at = r;

        while (at && m->waited[r] >= MIX_PATIENCE && m->waited[r] > m->waited[m->order[at - 1]]) {
            m->order[at] = m->order[at - 1];
            at--;
        }
        m->order[at] = (enum mix_rank)r;
    }
}

void mix_begin(struct mix *m, const bool waiting[MIX_RANKS], uint32_t n_decoding, uint32_t n_others,
               uint32_t max_rows)
{
    m->n_rows = m->n_bulk = 0;
    m->bulk_work = 0;
    m->n_decoding = n_decoding;
    m->n_others = n_others;
    m->max_rows = max_rows;
    for (unsigned r = 0; r < MIX_RANKS; r++) {
        m->waiting[r] = waiting[r];
        m->took[r] = false;
    }
    put_in_order(m);
}

/* As if it were at position 0. */
static double work_of(uint32_t position, uint32_t n)
{
    return n * (1 + position / (double)MIX_DEEP);
}

/* Time of all others in this run: of what they may have beside all that decode, their share beside
 * those of them that are in it. */
static double bulk_ns(const struct mix *m)
{
    const double decode_ns =
        (m->n_decoding > m->n_others ? m->n_decoding : m->n_others) * m->decode_row_ns;
    const double most_ns = decode_ns > MIX_BULK_NS ? decode_ns : MIX_BULK_NS;
    const uint32_t n = m->n_rows - m->n_bulk;

    return n && n < m->n_decoding ? most_ns * n / m->n_decoding : most_ns;
}

static uint32_t timed_room(const struct mix *m, uint32_t position)
{
    double rows;

    if (!m->n_decoding)
        return UINT32_MAX;
    if (m->waiting[MIX_DECODE] && m->bulk_alone)
        return 0;
    if (m->bulk_row_ns == 0)
        return m->n_bulk < MIX_BULK_ROWS ? MIX_BULK_ROWS - m->n_bulk : 0;
    rows = (bulk_ns(m) / m->bulk_row_ns - m->bulk_work) / work_of(position, 1);
    if (rows < 1)
        return !m->n_bulk;
    return rows < UINT32_MAX ? (uint32_t)rows : UINT32_MAX;
}

static uint32_t bulk_room(const struct mix *m, uint32_t position)
{
    const uint32_t rows = timed_room(m, position);
    const uint32_t left = m->max_bulk > m->n_bulk ? m->max_bulk - m->n_bulk : 0;

    return m->n_decoding && m->max_bulk && left < rows ? left : rows;
}

uint32_t mix_room(const struct mix *m, enum mix_rank rank, uint32_t position)
{
    const uint32_t rows = m->max_rows - m->n_rows;
    const uint32_t most = rank == MIX_DECODE ? rows : bulk_room(m, position);

    return rows < most ? rows : most;
}

void mix_add(struct mix *m, enum mix_rank rank, uint32_t position, uint32_t n)
{
    m->n_rows += n;
    m->took[rank] = true;
    if (rank == MIX_DECODE)
        return;
    m->n_bulk += n;
    m->bulk_work += work_of(position, n);
}

uint32_t mix_sessions(const struct mix *m)
{
    return m->n_others || m->n_decoding < MIX_HALVES ? UINT32_MAX : (m->n_decoding + 1) / 2;
}

void mix_end(struct mix *m)
{
    for (unsigned r = 0; r < MIX_RANKS; r++)
        m->waited[r] = m->waiting[r] && !m->took[r] ? m->waited[r] + 1 : 0;
    m->bulk_alone = m->n_bulk && !m->took[MIX_DECODE];
}

static void learn(double *known, double ns)
{
    if (*known == 0)
        *known = ns;
    else
        *known += LEARN * ((ns < LEARN_UP * *known ? ns : LEARN_UP * *known) - *known);
}

void mix_ran(struct mix *m, uint64_t ns)
{
    const uint32_t n = m->n_rows - m->n_bulk;
    const double bulk = (double)ns - n * m->decode_row_ns;

    if (!ns || !m->n_rows)
        return;
    if (!m->n_bulk)
        learn(&m->decode_row_ns, (double)ns / n);
    else if (bulk > 0 && (m->decode_row_ns > 0 || !n))
        learn(&m->bulk_row_ns, bulk / m->bulk_work);
}
