/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/mix.h"

#define LEARN .25 /* of the latest run's error */
#define LEARN_UP                                                                                   \
    2.0 /* no run counts as more than so many times what was expected: others may have             \
         * had the core meanwhile */
#define START_ROWS 2.0 /* an error is taken for the start's as if it were so many rows */

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
    m->bulk_depth = 0;
    m->n_decoding = n_decoding;
    m->n_others = n_others;
    m->max_rows = max_rows;
    for (unsigned r = 0; r < MIX_RANKS; r++) {
        m->waiting[r] = waiting[r];
        m->took[r] = false;
    }
    put_in_order(m);
}

static double depth_of(uint32_t position, uint32_t n)
{
    return n * (position / (double)MIX_DEEP);
}

bool mix_crowded(uint32_t n_decoding, uint32_t n_others)
{
    return n_others > n_decoding;
}

static double decode_ns(const struct mix *m, uint32_t n)
{
    return m->ns[MIX_START] + n * m->ns[MIX_DECODE_ROW];
}

/* Time of all others in this run, beside what it takes to start: of what they may have beside all
 * that decode, their share beside those of them that are in it. */
static double most_ns(const struct mix *m)
{
    const uint32_t n = m->n_rows - m->n_bulk;
    double ns = mix_crowded(m->n_decoding, m->n_others) ? decode_ns(m, m->n_others) * 2
                                                        : decode_ns(m, m->n_decoding) / 2;

    ns = ns > MIX_BULK_NS ? ns : MIX_BULK_NS;
    return n && n < m->n_decoding ? ns * n / m->n_decoding : ns;
}

static uint32_t timed_room(const struct mix *m, uint32_t position)
{
    const double took_ns = m->n_bulk * m->ns[MIX_BULK_ROW] + m->bulk_depth * m->ns[MIX_BULK_DEPTH];
    double rows;

    if (!m->n_decoding)
        return UINT32_MAX;
    if (m->waiting[MIX_DECODE] && m->bulk_alone)
        return 0;
    if (m->ns[MIX_BULK_ROW] == 0)
        return m->n_bulk < MIX_BULK_ROWS ? MIX_BULK_ROWS - m->n_bulk : 0;
    rows = (most_ns(m) - took_ns) /
           (m->ns[MIX_BULK_ROW] + depth_of(position, 1) * m->ns[MIX_BULK_DEPTH]);
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
    m->bulk_depth += depth_of(position, n);
}

bool mix_older(struct mix_prompt a, struct mix_prompt b)
{
    return a.number < b.number;
}

bool mix_shorter(struct mix_prompt a, struct mix_prompt b)
{
    return a.left < b.left || (a.left == b.left && mix_older(a, b));
}

bool mix_before(const struct mix *m, struct mix_prompt a, struct mix_prompt b)
{
    if (mix_crowded(m->n_decoding, m->n_others))
        return a.turn < b.turn;
    return m->oldest_first ? mix_older(a, b) : mix_shorter(a, b);
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
    m->oldest_first ^= m->took[MIX_PREFILL];
}

static double at_least(double x, double least)
{
    return x > least ? x : least;
}

/* The error goes to the parts as each counts in the run, so that runs of several kinds tell them
 * apart (normalised least mean squares). */
static void learn(struct mix *m, const double count[MIX_PARTS], double error_ns)
{
    double size = 0;

    for (unsigned i = 0; i < MIX_PARTS; i++)
        size += count[i] * count[i];
    for (unsigned i = 0; i < MIX_PARTS; i++) {
        const double unit = i == MIX_START ? START_ROWS : 1;

        m->ns[i] = at_least(m->ns[i] + error_ns * count[i] * unit / size, m->ns[i] / 2);
    }
}

void mix_ran(struct mix *m, uint64_t ns)
{
    const uint32_t n = m->n_rows - m->n_bulk;
    const double count[MIX_PARTS] = {START_ROWS, n, m->n_bulk, m->bulk_depth};
    double expected_ns = m->ns[MIX_START], error_ns;

    if (!ns || !m->n_rows)
        return;
    for (unsigned i = MIX_START + 1; i < MIX_PARTS; i++)
        expected_ns += count[i] * m->ns[i];
    error_ns = (double)ns - expected_ns;
    if (n && m->ns[MIX_DECODE_ROW] == 0) {
        if (!m->n_bulk)
            learn(m, count, error_ns);
    } else if (m->n_bulk && m->ns[MIX_BULK_ROW] == 0) {
        if (m->ns[MIX_START] == 0) /* a few rows would count for all of it */
            learn(m, count, error_ns);
        else
            m->ns[MIX_BULK_ROW] = at_least(error_ns / (m->n_bulk + m->bulk_depth), 1);
        m->ns[MIX_BULK_DEPTH] = m->ns[MIX_BULK_ROW]; /* a guess, as good as any */
    } else {
        const double most_ns = (LEARN_UP - 1) * expected_ns;

        learn(m, count, LEARN * (error_ns < most_ns ? error_ns : most_ns));
    }
}
