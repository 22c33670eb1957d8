/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fine activations may be, and how much of a prompt goes beside decode, so that limits of time
 * are held at the best quality: a controller for one edge. It is a model of a turn,
 *
 *     time between two tokens = bytes x price + rows of prompts x price + the rest,
 *
 * whose prices are estimated from what was seen. The rest (computing, round trips) is not: the
 * residuals of the last windows are kept as they were, and tell, shifted by what each level would
 * cost, what share of tokens would be late with it. The level is chosen at which that share, and
 * the quality given up in the same coin, are least. No clock, no I/O: time and measurements come
 * in, a choice goes out (docs/adaptation.md).
 */
#ifndef ISTHMUS_CONTROL_ADAPT_ADAPT_H
#define ISTHMUS_CONTROL_ADAPT_ADAPT_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/rate.h"

#define ADAPT_LEVELS     9u
#define ADAPT_TURNS      256u /* of a window: the newest are enough */
#define ADAPT_WINDOW_NS  UINT64_C(100000000)
#define ADAPT_GAPS       6u  /* fewer tell nothing yet, */
#define ADAPT_GAPS_LEAST 3u  /* and of slow ones fewer than these */
#define ADAPT_SEEN       32u /* windows that are remembered, */
#define ADAPT_RESIDUALS  16u /* and quantiles of each */

struct adapt_params {
    /* Bytes and KL over the codec's parameter; borrowed. Of adapt_tsq_curve its KL is a scale of
     * our own. */
    const struct codec_profile_curve *curve;
    float finest;  /* the parameter at the best quality: what the edge was told to send */
    double max_kl; /* on the curve: no coarser than that; 0: to its end */
    uint64_t max_tpot_ns, max_ttft_ns; /* 0: no limit */
    uint32_t chunk_tokens, bulk_rows;  /* most rows of a prompt message, and beside decode */
    double cloud_per_edge;             /* time of a row there over its time here, as layers go */
};

/* One token of a session: what was waited for it. */
struct adapt_turn {
    uint64_t at_ns;   /* it came */
    uint64_t gap_ns;  /* since the token before; 0: it is the first */
    uint64_t turn_ns; /* since its row was sent; of a first token, since it was asked for */
    uint64_t path_ns; /* of turn_ns: not at the cloud, as it says */
    uint32_t bytes;   /* of its message's tiles; of a first token: rows that its prompt took */
    uint32_t before;  /* bytes of messages that were sent together with it, and before it */
};

/* What was seen since the window before. */
struct adapt_window {
    uint64_t now_ns;
    const struct adapt_turn *turns; /* in order of time */
    uint32_t n_turns;
    uint64_t rate_byte_per_s, rtt_ns; /* of the link, as it knows them; 0: not known */
    uint64_t packets, lost;           /* sent; of them, not those sent again needlessly */
    uint64_t runs, compute_ns;        /* of the stage */
    uint64_t decode_rows, bulk_rows;  /* that these runs had */
    uint32_t decoding, reading;       /* sessions, now */
    uint64_t rejoined_ns;             /* the link last came back, or was seen to have; 0: never */
};

struct adapt_choice {
    uint32_t level;   /* 0: the best quality */
    float parameter;  /* of the codec */
    double kl, bytes; /* that the curve has there, a token */
    uint32_t chunk_tokens, bulk_rows;
    bool holds;       /* the model says that the limits will be held */
    uint64_t tpot_ns; /* that it says; 0: nothing was seen yet */
    uint64_t ttft_ns;
};

/* The gaps of a window, less what bytes and rows of prompts cost at the prices of then. */
struct adapt_seen {
    float residual_ns[ADAPT_RESIDUALS]; /* in order */
    uint32_t n;
};

struct adapt_level {
    float parameter;
    double kl, bytes;
};

struct adapt {
    struct adapt_params p;
    struct adapt_level levels[ADAPT_LEVELS];
    uint32_t n_levels, floor;
    struct adapt_choice choice;
    /* beliefs */
    double price, price_var; /* ns a byte of the path, and how far that may be off, squared */
    double noise_var;        /* of a message's time on the path, ns^2 */
    struct adapt_seen seen[ADAPT_SEEN]; /* newest first */
    uint32_t n_seen;
    int aside; /* windows in a row whose residuals are larger, or (below 0) smaller, than usual */
    double tpot_ns, ttft_ns; /* as they are now; 0: not known */
    uint32_t unread;         /* windows in a row without a prompt */
    double burst;            /* messages that go together */
    double more_bytes;       /* that these take beside their tiles */
    double row_ns, run_ns;   /* of the edge: a row more, a run without */
    double bulk_now;         /* rows beside decode, a run */
    double prompt_rows;      /* of prompts, usually */
    double bytes_over;       /* a token's bytes over the curve's */
    uint64_t changed_ns;     /* what was sent before tells of another level */
};

/* 0, or -EINVAL: a curve that is none, a finest parameter without a coarser one, no limit. */
int adapt_init(struct adapt *a, const struct adapt_params *p);

/* Whether there is something to decide: the turns of a window, and its age. A window is .1 s at
 * least, of ADAPT_GAPS turns; from 1 s on of ADAPT_GAPS_LEAST, from 10 s on of any. */
bool adapt_due(uint32_t n_turns, uint64_t age_ns);

/* A window has passed. True: the choice is another one. */
bool adapt_step(struct adapt *a, const struct adapt_window *w);

/* No finer than so many levels from the best from now on, whatever the limits of time allow: what
 * is sent is kept, and memory is short. True: the choice is another one. */
bool adapt_floor(struct adapt *a, uint32_t level, uint64_t now_ns);

static inline const struct adapt_choice *adapt_choice(const struct adapt *a)
{
    return &a->choice;
}

/* Without a profile: tsq's delta for rows of d_model values, by measured bits a value. What it
 * costs is not known without a profile: kl_mean is the square of delta, which only says what is
 * more. */
void adapt_tsq_curve(uint32_t d_model, struct codec_profile_curve *curve);

#endif
