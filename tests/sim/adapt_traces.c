/* SPDX-License-Identifier: Apache-2.0 */
#include "adapt_traces.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trace.h"

static uint64_t state;

void random_from(uint64_t seed)
{
    state = seed;
}

double random_uniform(void)
{
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = state;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

double random_normal(void)
{
    return sqrt(-2 * log(1 - random_uniform())) * cos(2 * 3.14159265358979 * random_uniform());
}

static const struct moment calm = {125e3, 20 * MS, 0, 1, TRACE_SESSIONS}; /* 1 Mbit/s */

static void make_step(struct moment *m, uint32_t i, void *memory)
{
    (void)memory;
    if (i / 100 % 2)
        m->byte_per_s /= 3;
}

static void make_ramp(struct moment *m, uint32_t i, void *memory)
{
    (void)memory;
    const double phase = fabs((double)(i % 400) / 200 - 1); /* 1 .. 0 .. 1 */
    m->byte_per_s *= .25 + .75 * phase;
}

static void make_walk(struct moment *m, uint32_t i, void *memory)
{
    double *at = memory;
    (void)i;
    *at = fmin(fmax(*at + .08 * random_normal(), -1.6), .4);
    m->byte_per_s *= exp(*at);
}

static void make_burst(struct moment *m, uint32_t i, void *memory)
{
    double *bad = memory;
    (void)i;
    *bad = *bad > 0 ? random_uniform() > .1 : random_uniform() < .02;
    m->loss = *bad > 0 ? .2 : .001;
}

static void make_far(struct moment *m, uint32_t i, void *memory)
{
    (void)memory;
    m->byte_per_s *= 8;
    if (i / 150 % 2)
        m->rtt_ns = 70 * MS; /* no quality helps against that */
}

static void make_crowd(struct moment *m, uint32_t i, void *memory)
{
    static const uint32_t n[] = {1, 4, 9, 6, 12, 3};
    (void)memory;
    m->byte_per_s *= 1.3;
    m->sessions = n[i / 75 % 6];
}

static void make_neighbour(struct moment *m, uint32_t i, void *memory)
{
    double *on = memory;
    (void)i;
    if (random_uniform() < .03)
        *on = *on > 0 ? 0 : 1;
    m->slow = *on > 0 ? 1.5 : 1;
    m->byte_per_s *= .6;
}

static void make_radio(struct moment *m, uint32_t i, void *memory)
{
    double *fade = memory;
    if (i % 20 == 0)
        *fade = random_uniform();
    m->byte_per_s *= *fade < .15 ? .2 : *fade < .4 ? .5 : 1.4;
    m->rtt_ns = (18 + 10 * random_uniform()) * MS;
    m->loss = *fade < .15 ? .03 : .002;
}

/* One session; where the rate falls what was on the way holds it up first. */
static void make_alone(struct moment *m, uint32_t i, void *memory)
{
    (void)memory;
    m->sessions = 1;
    if (i / 100 % 2)
        m->byte_per_s = i % 100 < 2 ? 600 : 5e3;
}

static void make_alone_ramp(struct moment *m, uint32_t i, void *memory)
{
    const double phase = fabs((double)(i % 400) / 200 - 1); /* 1 .. 0 .. 1 */

    (void)memory;
    m->sessions = 1;
    m->byte_per_s = 125e3 * pow(.04, 1 - phase);
}

static void make_alone_walk(struct moment *m, uint32_t i, void *memory)
{
    double *at = memory;
    (void)i;
    *at = fmin(fmax(*at + .12 * random_normal(), -3.2), -2);
    m->sessions = 1;
    m->byte_per_s *= exp(*at);
}

/* Its round trips move, which is not to be taken for the rate's doing. */
static void make_alone_far(struct moment *m, uint32_t i, void *memory)
{
    make_alone_walk(m, i, memory);
    if (i / 150 % 2)
        m->rtt_ns = 40 * MS;
}

struct made {
    const char *name;
    double limit_ms, first_ms, prompts_per_s;
    void (*make)(struct moment *m, uint32_t i, void *memory);
};

static const struct made made[TRACES_MADE] = {
    {"steps, 1 and 1/3 Mbit/s", 75, 0, 0, make_step},
    {"ramps, 1 to 1/4 Mbit/s", 75, 0, 0, make_ramp},
    {"random walk of the rate", 75, 0, 0, make_walk},
    {"bursts of loss", 60, 0, 0, make_burst},
    {"round trips 20 and 70 ms", 75, 0, 0, make_far},
    {"1 to 12 sessions", 80, 0, 0, make_crowd},
    {"a neighbour on the cores", 80, 0, 0, make_neighbour},
    {"radio: fades and loss", 80, 0, 0, make_radio},
    {"steps, and prompts to read", 90, 0, .3, make_step},
    {"random walk, and prompts", 90, 0, .3, make_walk},
    {"steps, and prompts", 90, 4000, .2, make_step},
    {"ramps, and prompts", 90, 4000, .2, make_ramp},
    {"random walk, and prompts", 90, 4000, .2, make_walk},
    {"radio, and prompts", 95, 4000, .2, make_radio},
    {"steps, 1 Mbit/s and 40 kbit/s", 88, 0, 0, make_alone},
    {"ramps, 1 Mbit/s to 40 kbit/s", 88, 0, 0, make_alone_ramp},
    {"random walk, 40 to 135 kbit/s", 80, 0, 0, make_alone_walk},
    {"the same, round trips 20 and 40 ms", 88, 0, 0, make_alone_far},
};

const struct trace *traces_made(uint64_t seed)
{
    static struct trace traces[TRACES_MADE];

    for (uint32_t k = 0; k < TRACES_MADE; k++) {
        const struct made *of = &made[k];
        struct trace *t = &traces[k];
        double memory = 0;
        t->name = of->name;
        t->limit_ms = of->limit_ms;
        t->first_ms = of->first_ms;
        t->prompts_per_s = of->prompts_per_s;
        t->sizes = k < TRACES_MADE - TRACES_ALONE ? SIZES : SIZES_ALONE;
        t->n = TICKS;
        random_from(seed * 1000 + k);
        for (uint32_t i = 0; i < TICKS; i++) {
            t->at[i] = calm;
            of->make(&t->at[i], i, &memory);
        }
    }
    return traces;
}

/* --- recorded ones ------------------------------------------------------------------------------
 */

#define LEAST_KBIT 20. /* a path on which nothing came through is not one without end */

int trace_recorded(const char *path, double limit_ms, uint32_t sessions, bool backwards,
                   struct trace *t)
{
    static struct link_trace l;
    unsigned line = 0;

    if (!sessions || sessions > TRACE_SESSIONS_MAX) {
        fprintf(stderr, "--sessions: 1 to %u\n", TRACE_SESSIONS_MAX);
        return -1;
    }
    FILE *f = fopen(path, "r");
    if (!f || link_trace_read(f, &l, &line)) {
        fprintf(stderr, "%s: cannot be read, or line %u is none of a link's trace\n", path, line);
        if (f)
            fclose(f);
        return -1;
    }
    fclose(f);
    const double end_ms = l.at[l.n - 1].at_ms;
    const char *slash = strrchr(path, '/');
    const double share = (double)sessions / calm.sessions;
    *t = (struct trace){.name = slash ? slash + 1 : path, .limit_ms = limit_ms, .sizes = SIZES};
    for (uint32_t i = 0, k = 0; i < TICKS && i * TICK_S * 1e3 <= end_ms; i++) {
        while (k + 1 < l.n && l.at[k + 1].at_ms <= i * TICK_S * 1e3)
            k++;
        const struct link_trace_line *now = &l.at[backwards ? l.n - 1 - k : k];
        t->at[i] = calm;
        t->at[i].sessions = sessions;
        t->at[i].byte_per_s = fmax(now->kbit_per_s, LEAST_KBIT) * 125 * share;
        t->at[i].rtt_ns = now->rtt_ms * MS;
        t->at[i].loss = now->loss;
        t->n = i + 1;
    }
    return 0;
}
