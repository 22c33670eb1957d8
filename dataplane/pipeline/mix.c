/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/mix.h"

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

void mix_begin(struct mix *m, const bool waiting[MIX_RANKS], bool decoding, uint32_t max_rows)
{
    m->n_rows = m->n_bulk = 0;
    m->max_rows = max_rows;
    m->max_bulk = decoding ? MIX_BULK_ROWS : UINT32_MAX;
    for (unsigned r = 0; r < MIX_RANKS; r++) {
        m->waiting[r] = waiting[r];
        m->took[r] = false;
    }
    put_in_order(m);
}

uint32_t mix_room(const struct mix *m, enum mix_rank rank)
{
    uint32_t rows = m->max_rows - m->n_rows, bulk = m->max_bulk - m->n_bulk;

    return rank == MIX_DECODE || rows < bulk ? rows : bulk;
}

bool mix_fits(const struct mix *m, enum mix_rank rank, uint32_t n)
{
    return n <= (m->n_bulk ? mix_room(m, rank) : m->max_rows - m->n_rows);
}

void mix_add(struct mix *m, enum mix_rank rank, uint32_t n)
{
    m->n_rows += n;
    m->took[rank] = true;
    if (rank == MIX_DECODE)
        return;
    m->n_bulk = n < m->max_bulk - m->n_bulk ? m->n_bulk + n : m->max_bulk;
}

void mix_end(struct mix *m)
{
    for (unsigned r = 0; r < MIX_RANKS; r++)
        m->waited[r] = m->waiting[r] && !m->took[r] ? m->waited[r] + 1 : 0;
}
