/* SPDX-License-Identifier: Apache-2.0 */
/* The load of `bench serve`: when what is asked, and what comes of it. */
#ifndef ISTHMUS_CONTROL_BENCH_SERVE_LOAD_H
#define ISTHMUS_CONTROL_BENCH_SERVE_LOAD_H

#include "control/bench/histogram.h"
#include "control/bench/serve_client.h"
#include "control/bench/serve_prompts.h"

/* Whose requests: the load's, the long prompts' beside it, those that only warm the server. */
enum load_kind { LOAD_MAIN, LOAD_INTRUDER, LOAD_WARM, LOAD_KINDS };

struct load_params {
    double rate_per_s;       /* open loop: mean of Poisson arrivals; 0: closed loop */
    uint32_t concurrency;    /* closed loop: clients, each asking again when its answer has ended */
    uint64_t requests;       /* 0: no such limit */
    double duration_s;       /* after which all is over; 0: no such limit */
    uint32_t warmup;         /* requests before, not counted */
    double intruder_every_s; /* 0: none */
    double slo_ttft_s, slo_tpot_s; /* 0: not wanted */
    const struct prompts *prompts; /* NULL: made up */
    struct prompts_ask ask, intruder;
    const char *url, *key;
    double timeout_s;
};

struct load_figures {
    uint64_t requests, outcomes[CALL_OUTCOMES];
    char why[CALL_OUTCOMES][160];            /* of the first of each */
    uint64_t tokens;                         /* of those that went well, or were under way */
    uint64_t prompt_tokens, prompts_counted; /* of those that went well */
    uint64_t good;                           /* within the SLO */
    uint64_t first_due_ns, last_end_ns;
    /* From when it was due to the first text, and from text to text: of those that went well, or
     * were under way when all was over. Times that were open then count as what had passed of them,
     * unless that is less than the median of the others; _open: how many of these count. */
    struct histogram ttft, gap;
    uint64_t ttft_open, gap_open;
    /* Of those that went well: from when it was due to the end, and a token's share of the time
     * after the first text. */
    struct histogram end_to_end, tpot;
};

/*
 * Run it: until all that was to be asked has ended, or duration_s is over, whichever comes first.
 * figures[LOAD_KINDS], all zero before. EXIT_OK, EXIT_INTERRUPTED (figures are those so far), or
 * EXIT_FAILED, said. Progress on stderr.
 */
int load_run(const struct load_params *p, struct load_figures *figures);

#endif
