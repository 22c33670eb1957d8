/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fine activations may be, and how much of a prompt goes beside decode, so that limits of time
 * are held at the best quality: a controller for one edge. It is a model of a turn,
 *
 *     time between two tokens = computing here + bytes x messages / rate + round trip + computing
 *     there,
 *
 * whose parts are estimated from what was seen, and the first of a row of levels that the model
 * says will hold the limits. No clock, no I/O: time and measurements come in, a choice goes out.
 *
 * Worse is reacted to at once, better slowly and with a margin, and more slowly the more often it
 * was wrong (docs/adaptation.md).
 */
#ifndef ISTHMUS_CONTROL_ADAPT_ADAPT_H
#define ISTHMUS_CONTROL_ADAPT_ADAPT_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/rate.h"

#define ADAPT_LEVELS    9u
#define ADAPT_TURNS     256u /* of a window: the newest are enough */
#define ADAPT_WINDOW_NS UINT64_C(100000000)
#define ADAPT_GAPS      6u /* fewer tell nothing yet */

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
    uint64_t packets, retransmits;    /* sent */
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

/* y over x, forgotten bit by bit. */
struct adapt_line {
    double xx, xy, yy, n;
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
    struct adapt_line wire;  /* the path's time, over bytes of the message and those before it */
    double slope, slope_off; /* ns a byte, and how far that may be off */
    double floor_ns;         /* shortest path of late */
    uint64_t floor_at_ns;
    double tpot_ns, ttft_ns; /* as they are now; 0: not known */
    uint32_t unread;         /* windows in a row without a prompt */
    double burst;            /* messages that go together */
    double row_ns, run_ns;   /* of the edge: a row more, a run without */
    double bulk_now;         /* rows beside decode, a run */
    double prompt_rows;      /* of prompts, usually */
    double loss;
    double bytes_over; /* a token's bytes over the curve's */
    /* how it moves */
    uint64_t changed_ns;     /* what was sent before tells of another level */
    uint32_t good, hold;     /* windows that would have allowed better; that are asked for */
    uint32_t since_up, calm; /* windows since it went up; without a limit passed */
};

/* 0, or -EINVAL: a curve that is none, a finest parameter without a coarser one, no limit. */
int adapt_init(struct adapt *a, const struct adapt_params *p);

/* Whether there is something to decide: the turns of a window, and its age. */
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
