/* SPDX-License-Identifier: Apache-2.0 */
/* Links that move, for sim_adapt: made ones, and recorded ones (trace.h). And a generator whose
 * numbers a seed decides. */
#ifndef ISTHMUS_TESTS_SIM_ADAPT_TRACES_H
#define ISTHMUS_TESTS_SIM_ADAPT_TRACES_H

#include <stdbool.h>
#include <stdint.h>

#define MS                 1e6
#define S                  1e9
#define TICK_S             .1
#define TICKS              1200u
#define PROMPT             200 /* tokens */
#define TRACE_SESSIONS     4u  /* usually */
#define TRACE_SESSIONS_MAX 16u
#define SIZES              .12
#define SIZES_ALONE        .04 /* as tsq's are, whose messages tell of a rate only by their size */

struct moment {                            /* a tenth of a second */
    double byte_per_s, rtt_ns, loss, slow; /* slow: computing takes so much longer */
    uint32_t sessions;
};

struct trace {
    const char *name;
    double limit_ms, first_ms; /* first_ms: of a prompt's first token; 0: no limit */
    double prompts_per_s;      /* of PROMPT tokens each */
    double sizes;              /* of tiles: standard deviation of their logarithm */
    struct moment at[TICKS];
    uint32_t n; /* of them */
};

/* The made ones: first those whose first tokens have no limit, then those where they have one, then
 * those of a session alone. Static. */
#define TRACES          10u
#define TRACES_PROMPTED 4u
#define TRACES_ALONE    4u
#define TRACES_MADE     (TRACES + TRACES_PROMPTED + TRACES_ALONE)
const struct trace *traces_made(uint64_t seed);

/* A recorded one, or its end first: each of the sessions has as much of the link as one of four
 * has. 0 or -1, said. The name is in path. */
int trace_recorded(const char *path, double limit_ms, uint32_t sessions, bool backwards,
                   struct trace *t);

void random_from(uint64_t seed);
double random_uniform(void); /* [0, 1) */
double random_normal(void);

#endif
