/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_gaps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- seen ------------------------------------------------------------------------------------- */

int gaps_queued(uint64_t *ns)
{
    static _Thread_local int fd = -1;
    char text[80];
    ssize_t n;
    uint64_t ran;

    if (fd < 0)
        fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    /* A kernel that was told not to count says zeros. */
    if (sscanf(text, "%" SCNu64 " %" SCNu64, &ran, ns) == 2 && ran)
        return 0;
    *ns = 0;
    return -ENOTSUP;
}

void gaps_begin(struct gaps *g, uint64_t now_ns)
{
    if (!g->looked_ns)
        g->known = !g->queued(&g->queued_ns);
    g->looked_ns = now_ns;
}

static void add(struct gaps *g, uint64_t from_ns, uint64_t to_ns)
{
    if (g->n == GAPS_MAX) {
        g->first = (g->first + 1) % GAPS_MAX;
        g->n--;
    }
    g->at[(g->first + g->n++) % GAPS_MAX] = (struct gap){from_ns, to_ns};
}

void gaps_turn(struct gaps *g, uint64_t now_ns, uint64_t packets, bool idle)
{
    if (!g->looked_ns) {
        gaps_begin(g, now_ns);
        return;
    }
    if (now_ns <= g->looked_ns) /* somebody looked within that turn */
        return;
    const uint64_t took_ns = now_ns - g->looked_ns;

    if (took_ns > GAP_NS) {
        uint64_t all_ns;

        if (g->queued(&all_ns)) {
            g->known = false;
            all_ns = g->queued_ns;
        }
        const uint64_t wait_ns = all_ns - g->queued_ns;

        if (idle && wait_ns > GAP_NS)
            add(g, now_ns - (wait_ns < took_ns ? wait_ns : took_ns), now_ns);
        else if (!idle && (wait_ns > GAP_NS || took_ns > GAP_NS + packets * GAP_PER_PACKET))
            add(g, g->looked_ns, now_ns);
        g->queued_ns = all_ns;
    }
    g->looked_ns = now_ns;
}

uint32_t gaps_take(struct gaps *g, struct gap *to, uint32_t n)
{
    uint32_t taken = 0;

    for (; taken < n && g->n; g->n--) {
        to[taken++] = g->at[g->first];
        g->first = (g->first + 1) % GAPS_MAX;
    }
    return taken;
}

/* --- what they come to ------------------------------------------------------------------------ */

static int by_time(const void *a, const void *b)
{
    const uint64_t x = ((const struct gap *)a)->from_ns, y = ((const struct gap *)b)->from_ns;

    return (x > y) - (x < y);
}

size_t gaps_merge(struct gap *at, size_t n)
{
    size_t kept = 0;

    if (n)
        qsort(at, n, sizeof *at, by_time);
    for (size_t i = 0; i < n; i++) {
        if (!kept || at[i].from_ns > at[kept - 1].to_ns)
            at[kept++] = at[i];
        else if (at[i].to_ns > at[kept - 1].to_ns)
            at[kept - 1].to_ns = at[i].to_ns;
    }
    return kept;
}

uint64_t gaps_within(const struct gap *at, size_t n, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        const uint64_t from = at[i].from_ns > from_ns ? at[i].from_ns : from_ns;
        const uint64_t to = at[i].to_ns < to_ns ? at[i].to_ns : to_ns;

        sum += to > from ? to - from : 0;
    }
    return sum;
}

/* The first that was due then or later; n_flights: none. */
static size_t first_due(const struct flight *flights, size_t n_flights, uint64_t ns)
{
    size_t low = 0, high = n_flights;

    while (low < high) {
        const size_t mid = low + (high - low) / 2;

        if (flights[mid].due_ns < ns)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

size_t gaps_since_due(struct gap *at, size_t n, const struct flight *flights, size_t n_flights)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        const size_t k = first_due(flights, n_flights, at[i].from_ns);

        if (k < n_flights && at[i].to_ns > flights[k].due_ns + GAP_NS)
            at[kept++] = (struct gap){flights[k].due_ns, at[i].to_ns};
    }
    return kept;
}

size_t gaps_until_caught_up(struct gap *at, size_t n, const struct flight *flights,
                            size_t n_flights)
{
    uint64_t soon_ns = UINT64_MAX;
    size_t k = 0;

    for (size_t i = 0; i < n_flights; i++)
        soon_ns = flights[i].rtt_ns < soon_ns ? flights[i].rtt_ns : soon_ns;
    soon_ns = GAP_NS + 2 * soon_ns;
    for (size_t i = 0; i < n; i++) {
        while (k < n_flights && (flights[k].due_ns < at[i].to_ns || flights[k].rtt_ns > soon_ns))
            k++;
        if (k == n_flights && n_flights) { /* never */
            at[i].to_ns = UINT64_MAX;
            return gaps_merge(at, i + 1);
        }
        if (k < n_flights)
            at[i].to_ns = flights[k].due_ns;
    }
    return gaps_merge(at, n);
}

bool gaps_touch(const struct gap *at, size_t n, const struct flight *f, size_t *next)
{
    while (*next < n && at[*next].to_ns <= f->due_ns)
        ++*next;
    return *next < n && at[*next].from_ns < f->due_ns + f->rtt_ns;
}
