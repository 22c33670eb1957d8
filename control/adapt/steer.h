/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adaptation of a running edge: what it measures goes to the controller (adapt.h), what that
 * chooses to the edge, in the engine's thread, between two of its steps. --max-tpot, --max-ttft,
 * --max-kl.
 */
#ifndef ISTHMUS_CONTROL_ADAPT_STEER_H
#define ISTHMUS_CONTROL_ADAPT_STEER_H

#include <argp.h>

#include "control/adapt/adapt.h"
#include "control/split_plan.h"
#include "dataplane/pipeline/pipeline.h"

struct adapt_options {
    double max_tpot_ms, max_ttft_ms; /* 0: no limit */
    double max_kl;                   /* 0: as coarse as was calibrated */
};
/* The options, as an argp child. */
extern const struct argp adapt_argp;

static inline bool adapt_wanted(const struct adapt_options *o)
{
    return o->max_tpot_ms > 0 || o->max_ttft_ms > 0;
}

/* What --local has no use for, or NULL. */
const char *adapt_option_given(const struct adapt_options *o);

struct steer;

/* For engine_stats: what is chosen now, and how it went. */
struct steer_view {
    bool on;
    struct adapt_choice choice;
    uint32_t levels, floor; /* floor: no finer than that, for --memory-budget */
    bool calibrated;        /* choice.kl is what calibration measured, else only a scale */
    uint64_t max_tpot_ns, max_ttft_ns;
    uint64_t changes;               /* of the quality, so far */
    uint64_t tokens, late;          /* timed, and of these past --max-tpot */
    uint64_t prompts, late_prompts; /* the same for first tokens and --max-ttft */
};

/* The plan is borrowed. chunk_tokens: the edge's. EXIT_OK or an exit code, the error said; *out
 * NULL: no limit was given. */
int steer_open(const struct adapt_options *o, const struct split_plan *plan, uint32_t n_layers,
               uint32_t chunk_tokens, struct steer **out);
void steer_close(struct steer *s);

/* Values of a row, once the stage is there: what tsq without a profile takes follows from it. */
void steer_width(struct steer *s, uint32_t d_model);

/* The curve that edge_params must have for it. */
const struct codec_profile_curve *steer_curve(const struct steer *s);

/* Before each step of the edge. Returns when it wants to be called again at the latest. */
uint64_t steer_step(void *steer, struct edge *edge, uint64_t now_ns);
/* No finer than so many steps from the best from now on, whatever the limits of time allow; 0: any.
 */
void steer_floor(struct steer *s, uint32_t steps, uint64_t now_ns);
/* A session that was given a target of its own has none any more. */
void steer_again(struct steer *s, struct edge *edge);

void steer_view(const struct steer *s, struct steer_view *view);

#endif
