/* SPDX-License-Identifier: Apache-2.0 */
#include "control/adapt/steer.h"

#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "dataplane/pipeline/mix.h"

#define WIDTH  1024u                /* of rows, before it is known */
#define SAY_NS UINT64_C(1000000000) /* between two lines about changes */
#define QUIET_NS                                                                                   \
    UINT64_C(10000000000) /* limits must have been held so long for it to be said again            \
                           * that they are not */

/* --- options ------------------------------------------------------------------------------------
 */

enum { OPT_MAX_TPOT = OPT_OWN + 0x280, OPT_MAX_TTFT, OPT_MAX_KL };

static const struct argp_option options[] = {
    {"max-tpot", OPT_MAX_TPOT, "MS", 0,
     "Longest time between two tokens of an answer: activations are sent coarser, and prompts read "
     "slower, when the link or the load asks for it, as little as holds the limit",
     2},
    {"max-ttft", OPT_MAX_TTFT, "MS", 0, "Longest time to an answer's first token, likewise", 2},
    {"max-kl", OPT_MAX_KL, "KL", 0,
     "With --max-tpot or --max-ttft: no coarser than this mean KL divergence on the profile's "
     "curve "
     "(default: as coarse as was calibrated)",
     2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct adapt_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct adapt_options){0};
        return 0;
    case OPT_MAX_TPOT:
        o->max_tpot_ms = opt_f64(state, "--max-tpot", arg, .1, 1e6);
        return 0;
    case OPT_MAX_TTFT:
        o->max_ttft_ms = opt_f64(state, "--max-ttft", arg, .1, 1e7);
        return 0;
    case OPT_MAX_KL:
        o->max_kl = opt_f64(state, "--max-kl", arg, 1e-9, 1e3);
        return 0;
    case ARGP_KEY_END:
        if (o->max_kl > 0 && !adapt_wanted(o))
            argp_error(state, "--max-kl bounds what --max-tpot or --max-ttft may do: give one");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp adapt_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

const char *adapt_option_given(const struct adapt_options *o)
{
    return o->max_tpot_ms > 0 ? "--max-tpot" : o->max_ttft_ms > 0 ? "--max-ttft" : NULL;
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct steer {
    struct adapt adapt;
    struct codec_profile_curve tsq; /* without a profile */
    const struct codec_profile_curve *curve;
    struct codec_rate_target best; /* of level 0 */
    bool calibrated;
    struct adapt_turn turns[EDGE_TURNS];
    uint32_t n_turns;
    struct edge_stats before; /* as of the last window */
    uint64_t window_ns;
    uint64_t said_ns, missed_ns; /* when a change, and limits not held, were last said and seen */
    uint32_t said_level;
    bool moved;           /* the choice, by steer_floor */
    bool refused;         /* the edge did not take a choice, and that was said */
    uint64_t rejoined_ns; /* when a reconnection was last seen */
    struct steer_view view;
};

static int refuse(const struct split_plan *plan)
{
    if (plan->target.kind == CODEC_RATE_BYTES)
        log_error(
            "--rate fixes the bytes a token takes, --max-tpot and --max-ttft change them: leave "
            "out one");
    else if (plan->profile)
        log_error("--max-tpot and --max-ttft: the profile has no curve for --codec %s, or none "
                  "coarser than what is sent already",
                  codec_mode_name(plan->codec.mode));
    else
        log_error("--max-tpot and --max-ttft need --codec tsq, or rans or xform with a profile: "
                  "%s has no quality to change",
                  codec_mode_name(plan->codec.mode));
    return EXIT_USAGE;
}

int steer_open(const struct adapt_options *o, const struct split_plan *plan, uint32_t n_layers,
               uint32_t chunk_tokens, struct steer **out)
{
    const struct codec_profile_curve *curve = codec_rate_curve(plan->profile, plan->codec.mode);
    *out = NULL;
    if (!adapt_wanted(o))
        return EXIT_OK;
    if (plan->target.kind == CODEC_RATE_BYTES || (!curve && plan->codec.mode != CODEC_TSQ))
        return refuse(plan);
    if (o->max_kl > 0 && !curve) {
        log_error("--max-kl: what a quality costs is known from a profile: --profile is missing");
        return EXIT_USAGE;
    }
    struct steer *s = calloc(1, sizeof *s);
    if (!s) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    s->calibrated = curve;
    if (!curve)
        adapt_tsq_curve(WIDTH, &s->tsq);
    s->curve = curve ? curve : &s->tsq;
    s->best = plan->target;
    const struct adapt_params params = {
        .curve = s->curve,
        .finest = plan->codec.mode == CODEC_TSQ ? plan->codec.delta : plan->codec.step,
        .max_kl = o->max_kl,
        .max_tpot_ns = (uint64_t)(o->max_tpot_ms * 1e6),
        .max_ttft_ns = (uint64_t)(o->max_ttft_ms * 1e6),
        .chunk_tokens = chunk_tokens,
        .bulk_rows = MIX_BULK_ROWS,
        .cloud_per_edge = (double)(n_layers - plan->split) / plan->split,
    };
    if (adapt_init(&s->adapt, &params) < 0) {
        const double best = codec_rate_kl_at(s->curve, params.finest);
        if (o->max_kl > 0 && best >= o->max_kl)
            log_error("--max-kl %g: what is sent without adapting costs %.3g already: a finer "
                      "--quality, or a larger --max-kl",
                      o->max_kl, best);
        else
            refuse(plan);
        free(s);
        return EXIT_USAGE;
    }
    s->view.on = true;
    *out = s;
    return EXIT_OK;
}

void steer_width(struct steer *s, uint32_t d_model)
{
    const struct adapt_params params = s->adapt.p;
    if (s->calibrated)
        return;
    adapt_tsq_curve(d_model, &s->tsq);
    adapt_init(&s->adapt, &params); /* it was proved; only bytes are others now */
}

void steer_close(struct steer *s)
{
    free(s);
}

const struct codec_profile_curve *steer_curve(const struct steer *s)
{
    return s->curve;
}

/* --- in the engine's thread ---------------------------------------------------------------------
 */

static void take_turns(struct steer *s, struct edge *edge)
{
    struct edge_turn turns[EDGE_TURNS];
    const struct adapt_params *p = &s->adapt.p;
    const uint32_t n = edge_take_turns(edge, turns, EDGE_TURNS);
    for (uint32_t i = 0; i < n; i++) {
        const struct edge_turn *t = &turns[i];
        s->view.tokens += t->gap_ns > 0;
        s->view.late += p->max_tpot_ns && t->gap_ns > p->max_tpot_ns;
        s->view.prompts += !t->gap_ns;
        s->view.late_prompts += !t->gap_ns && p->max_ttft_ns && t->turn_ns > p->max_ttft_ns;
        if (s->n_turns < EDGE_TURNS)
            s->turns[s->n_turns++] = (struct adapt_turn){t->at_ns,   t->gap_ns, t->turn_ns,
                                                         t->path_ns, t->bytes,  t->before};
    }
}

static void say_choice(struct steer *s, const struct adapt_choice *c, uint64_t now_ns)
{
    char kl[32] = "";
    if (c->level == s->said_level || now_ns - s->said_ns < SAY_NS)
        return;
    s->said_ns = now_ns;
    s->said_level = c->level;
    if (s->calibrated)
        snprintf(kl, sizeof kl, ", kl %.3g", c->kl);
    log_info(
        "quality %u of 0 (best) to %u: parameter %.3g%s, %.0f bytes a token, up to %u rows of a "
        "prompt beside decode; %.1f ms a token expected",
        c->level, s->adapt.n_levels - 1, (double)c->parameter, kl, c->bytes, c->bulk_rows,
        (double)c->tpot_ns / 1e6);
}

/* Once, until they have been held for a while. */
static void say_missed(struct steer *s, const struct adapt_choice *c, uint64_t now_ns)
{
    if (c->holds)
        return;
    if (!s->missed_ns || now_ns - s->missed_ns > QUIET_NS)
        log_warn(
            "no quality holds the limits now: %.1f ms a token in the mean (--max-tpot %.1f, for "
            "nine of ten), %.0f ms to the first (--max-ttft %.0f): the %s is sent",
            (double)c->tpot_ns / 1e6, (double)s->adapt.p.max_tpot_ns / 1e6,
            (double)c->ttft_ns / 1e6, (double)s->adapt.p.max_ttft_ns / 1e6,
            c->level ? "cheapest that helps" : "best, for a cheaper one would hardly help");
    s->missed_ns = now_ns;
}

static void apply(struct steer *s, struct edge *edge)
{
    const struct adapt_choice *c = adapt_choice(&s->adapt);
    const struct codec_rate_target target = {CODEC_RATE_KL, c->kl};
    const int rc = edge_set_target(edge, c->level ? target : s->best);
    if (rc < 0 && !s->refused)
        log_error("quality %u (parameter %.3g) cannot be sent: %s; what was sent before goes on",
                  c->level, (double)c->parameter, strerror(-rc));
    s->refused = rc < 0;
    edge_set_rows(edge, c->chunk_tokens, c->bulk_rows);
}

/* What is known to be lost may become fewer. */
static uint64_t lost_since(const struct link_stats *now, const struct link_stats *before)
{
    const uint64_t n = link_lost_packets(now), was = link_lost_packets(before);
    return n > was ? n - was : 0;
}

static void decide(struct steer *s, struct edge *edge, const struct edge_stats *now,
                   uint64_t now_ns)
{
    const struct edge_stats *before = &s->before;
    const struct adapt_window w = {
        .now_ns = now_ns,
        .turns = s->turns,
        .n_turns = s->n_turns,
        .rate_byte_per_s = now->link.rate_byte_per_s,
        .rtt_ns = now->link.srtt_ns,
        .packets = now->link.tx_packets - before->link.tx_packets,
        .lost = lost_since(&now->link, &before->link),
        .runs = now->runs - before->runs,
        .compute_ns = now->compute_ns - before->compute_ns,
        .decode_rows = now->decode_rows - before->decode_rows,
        .bulk_rows = now->bulk_rows - before->bulk_rows,
        .decoding = now->decoding,
        .reading = now->reading,
        .rejoined_ns = s->rejoined_ns,
    };
    const uint32_t level = adapt_choice(&s->adapt)->level;
    if (adapt_step(&s->adapt, &w)) {
        const struct adapt_choice *c = adapt_choice(&s->adapt);
        s->view.changes += c->level != level;
    }
    apply(s, edge); /* in any case: a session that was replayed is as it was before */
    say_choice(s, adapt_choice(&s->adapt), now_ns);
    say_missed(s, adapt_choice(&s->adapt), now_ns);
}

uint64_t steer_step(void *steer, struct edge *edge, uint64_t now_ns)
{
    struct steer *s = steer;
    struct edge_stats now;
    if (!s->window_ns) {
        s->window_ns = now_ns;
        edge_stats(edge, &s->before);
    }
    take_turns(s, edge);
    if (s->moved)
        apply(s, edge);
    s->moved = false;
    if (!adapt_due(s->n_turns, now_ns - s->window_ns))
        return UINT64_MAX; /* what it waits for is a token, which makes a step */
    edge_stats(edge, &now);
    if (now.reconnections != s->before.reconnections)
        s->rejoined_ns = now_ns;
    if (s->n_turns)
        decide(s, edge, &now, now_ns);
    s->before = now;
    s->window_ns = now_ns;
    s->n_turns = 0;
    return UINT64_MAX;
}

void steer_floor(struct steer *s, uint32_t steps, uint64_t now_ns)
{
    s->moved |= adapt_floor(&s->adapt, steps, now_ns);
}

void steer_again(struct steer *s, struct edge *edge)
{
    apply(s, edge);
}

void steer_view(const struct steer *s, struct steer_view *view)
{
    *view = s->view;
    view->choice = *adapt_choice(&s->adapt);
    view->levels = s->adapt.n_levels;
    view->floor = s->adapt.floor;
    view->calibrated = s->calibrated;
    view->max_tpot_ns = s->adapt.p.max_tpot_ns;
    view->max_ttft_ns = s->adapt.p.max_ttft_ns;
}
