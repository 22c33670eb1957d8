/* SPDX-License-Identifier: Apache-2.0 */
#include "control/adapt/adapt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FORGET .9 /* of what windows taught, kept at the next */
#define SOFTEN .3 /* of good news, believed at once */
#define PRIOR_XX                                                                                   \
    5000 /* bytes^2 of messages of different size that weigh as much as the first guess */
#define FLOOR_NS UINT64_C(10000000000)

/* Parts of a limit. */
#define PASSED .98 /* from here on it counts as not held */
#define AIM    .93 /* what is chosen has to be below */
#define FINER  .92 /* and below this, to become better */

#define SAME      1.02 /* so little more is not worth a worse quality, */
#define NEAR      1.1  /* unless some are in time with it; */
#define STAY      1.2  /* and who has gone there for that stays up to here */
#define HOLD_MIN  2u
#define HOLD_MAX  48u
#define SOON      12u /* windows after which going up was not wrong */
#define CALM      40u
#define UNREAD    40u /* windows without a prompt after which the last one tells nothing */
#define BULK_MIN  2u
#define CHUNK_MIN 8u
#define SPREAD    2.0 /* median absolute deviations: nine of ten gaps, as noise usually is */

/* --- curves --- */

void adapt_tsq_curve(uint32_t d_model, struct codec_profile_curve *curve)
{
    /* Bits a value, heads and outliers with them, of SmolLM2's rows at split 10 one a message, as
     * `isthmus eval --rows 1` prints them; another model is off by a factor, which the controller
     * sees. Beyond .2 hardly a byte is saved. */
    static const struct {
        float delta, bits;
    } at[] = {{.04f, 4.737f}, {.08f, 3.705f}, {.12f, 3.179f}, {.16f, 2.734f}, {.2f, 2.505f}};

    *curve = (struct codec_profile_curve){.n = sizeof at / sizeof *at};
    for (uint32_t i = 0; i < curve->n; i++)
        curve->points[i] = (struct codec_profile_point){at[i].delta, at[i].delta * at[i].delta,
                                                        at[i].bits * (float)d_model / 8};
}

/* Levels of equal steps in the logarithm of bytes. */
static int make_levels(struct adapt *a)
{
    const struct codec_profile_curve *c = a->p.curve;
    float coarsest = c->n ? c->points[c->n - 1].parameter : 0;

    if (a->p.max_kl > 0) {
        const int rc = codec_rate_for_kl(c, a->p.max_kl, &coarsest);
        if (rc < 0 && rc != -ERANGE)
            return -EINVAL;
    }
    const double most = codec_rate_bytes_at(c, a->p.finest);
    const double least = codec_rate_bytes_at(c, coarsest);
    if (isnan(most) || isnan(least) || !(coarsest > a->p.finest))
        return -EINVAL;
    a->n_levels = ADAPT_LEVELS;
    for (uint32_t i = 0; i < a->n_levels; i++) {
        struct adapt_level *l = &a->levels[i];
        const double part = (double)i / (a->n_levels - 1);
        /* between the ends by parameter: bytes go straight over its logarithm */
        l->parameter =
            i == 0 ? a->p.finest
            : i == a->n_levels - 1
                ? coarsest
                : (float)((double)a->p.finest * pow((double)coarsest / (double)a->p.finest, part));
        l->kl = codec_rate_kl_at(c, l->parameter);
        l->bytes = codec_rate_bytes_at(c, l->parameter);
    }
    return 0;
}

static void choose(struct adapt *a, uint32_t level)
{
    const struct adapt_level *l = &a->levels[level];

    a->choice.level = level;
    a->choice.parameter = l->parameter;
    a->choice.kl = l->kl;
    a->choice.bytes = l->bytes;
}

int adapt_init(struct adapt *a, const struct adapt_params *p)
{
    *a = (struct adapt){.p = *p, .hold = HOLD_MIN, .burst = 1, .bytes_over = 1};
    if (!p->curve || (!p->max_tpot_ns && !p->max_ttft_ns) || !p->chunk_tokens || !p->bulk_rows ||
        make_levels(a) < 0)
        return -EINVAL;
    a->choice = (struct adapt_choice){
        .chunk_tokens = p->chunk_tokens, .bulk_rows = p->bulk_rows, .holds = true};
    choose(a, 0);
    return 0;
}

bool adapt_due(uint32_t n_turns, uint64_t age_ns)
{
    return age_ns >= ADAPT_WINDOW_NS && (n_turns >= ADAPT_GAPS || age_ns >= 10 * ADAPT_WINDOW_NS);
}

/* --- estimates --- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* How many of n waited for a packet that was lost: no quality helps them. */
static uint32_t dropped(const struct adapt_window *w, uint32_t n)
{
    const double share = w->packets ? (double)w->retransmits / (double)w->packets : 0;

    return (uint32_t)ceil(fmin(share, .5) * n);
}

/* What nine of ten gaps stay below, but for single ones. */
static double usual(double *v, uint32_t n, uint32_t lost)
{
    qsort(v, n, sizeof *v, by_value);
    n -= lost;
    const double middle = median(v, n);

    for (uint32_t i = 0; i < n; i++)
        v[i] = fabs(v[i] - middle);
    return middle + SPREAD * median(v, n);
}

static double towards(double now, double seen, double share)
{
    return now > 0 ? now + share * (seen - now) : seen;
}

static double bytes_of(const struct adapt_turn *t)
{
    return (double)t->bytes + t->before;
}

/* How much later a larger message is answered, or one with more before it: within the window, so
 * that what changed between two windows is not taken for it. */
static void learn_wire(struct adapt *a, const struct adapt_window *w, const uint32_t *of,
                       uint32_t n)
{
    double ns[ADAPT_TURNS], x = 0, y = 0, own = 0;
    uint32_t kept = 0, lost = dropped(w, n);

    if (n <= lost)
        return;
    for (uint32_t i = 0; i < n; i++)
        ns[i] = (double)w->turns[of[i]].path_ns;
    qsort(ns, n, sizeof *ns, by_value);
    const double most = ns[n - 1 - lost];
    for (uint32_t i = 0; i < n; i++) {
        const struct adapt_turn *t = &w->turns[of[i]];
        own += t->bytes;
        if ((double)t->path_ns > most)
            continue;
        x += bytes_of(t);
        y += (double)t->path_ns;
        kept++;
    }
    x /= kept;
    y /= kept;
    own /= n;
    a->wire.xx *= FORGET;
    a->wire.xy *= FORGET;
    a->wire.yy *= FORGET;
    a->wire.n *= FORGET;
    for (uint32_t i = 0; i < n; i++) {
        const struct adapt_turn *t = &w->turns[of[i]];
        const double dx = bytes_of(t) - x, dy = (double)t->path_ns - y;
        if ((double)t->path_ns > most)
            continue;
        a->wire.xx += dx * dx;
        a->wire.xy += dx * dy;
        a->wire.yy += dy * dy;
        a->wire.n++;
    }
    a->bytes_over = towards(a->bytes_over, own / a->choice.bytes, SOFTEN);
    if (a->floor_ns == 0 || y < a->floor_ns || w->now_ns - a->floor_at_ns > FLOOR_NS) {
        a->floor_ns = y;
        a->floor_at_ns = w->now_ns;
    }
    /* The first guess: no slower than what the link has seen, and no more than what this takes
     * longer than the shortest. */
    double guess = fmax(0, (y - a->floor_ns) / x);
    if (w->rate_byte_per_s)
        guess = fmin(guess, 1e9 / (double)w->rate_byte_per_s);
    const double seen = (a->wire.xy + PRIOR_XX * guess) / (a->wire.xx + PRIOR_XX);
    const double noise = fmax(0, a->wire.yy - seen * a->wire.xy) / fmax(a->wire.n - 2, 1);
    a->slope = fmin(fmax(seen, 0), y / x);
    a->slope_off = sqrt(noise / (a->wire.xx + PRIOR_XX));
}

static void learn_runs(struct adapt *a, const struct adapt_window *w)
{
    if (!w->runs)
        return;
    const double rows = (double)(w->decode_rows + w->bulk_rows) / (double)w->runs;
    const double run = (double)w->compute_ns / (double)w->runs;
    const double bulk = (double)w->bulk_rows / (double)w->runs;

    a->bulk_now = bulk;
    if (w->decode_rows)
        a->burst = fmax(1, (double)w->decode_rows / (double)w->runs);
    /* A run with a prompt beside it costs so much more than one without. */
    if (bulk < .5)
        a->run_ns = towards(a->run_ns, run, SOFTEN);
    else if (a->run_ns > 0 && run > a->run_ns)
        a->row_ns = towards(a->row_ns, (run - a->run_ns) / bulk, SOFTEN);
    if (a->row_ns <= 0 && rows > 0)
        a->row_ns = run / rows / 2;
}

/* A prompt that waited for the link to come back tells of the link, not of the quality. */
static void learn_prompt(struct adapt *a, const struct adapt_window *w, const struct adapt_turn *t)
{
    const double ns = (double)t->turn_ns;

    a->unread = 0;
    a->prompt_rows = towards(a->prompt_rows, t->bytes, SOFTEN);
    if (!w->rejoined_ns || t->at_ns >= w->rejoined_ns + t->turn_ns)
        a->ttft_ns = ns > a->ttft_ns ? ns : towards(a->ttft_ns, ns, SOFTEN);
}

static void learn(struct adapt *a, const struct adapt_window *w, double *tpot_ns)
{
    static const double loss_share = .1;
    double gaps[ADAPT_TURNS];
    uint32_t of[ADAPT_TURNS], n = 0, n_gaps = 0;
    const uint32_t first = w->n_turns > ADAPT_TURNS ? w->n_turns - ADAPT_TURNS : 0;

    a->unread = w->reading ? 0 : a->unread + 1;
    for (uint32_t i = first; i < w->n_turns; i++) {
        const struct adapt_turn *t = &w->turns[i];
        if (!t->gap_ns) {
            learn_prompt(a, w, t);
            continue;
        }
        if (t->at_ns - t->turn_ns < a->changed_ns)
            continue; /* sent as it was before */
        gaps[n_gaps++] = (double)t->gap_ns;
        if (t->path_ns && t->bytes)
            of[n++] = i;
    }
    learn_runs(a, w);
    learn_wire(a, w, of, n);
    if (!(a->wire.n > 0) && w->rate_byte_per_s) /* no answer was longer than a token yet */
        a->slope = 1e9 / (double)w->rate_byte_per_s;
    if (a->unread >= UNREAD) /* one slow prompt is not paid for without end */
        a->ttft_ns = 0;
    if (w->packets)
        a->loss += loss_share * ((double)w->retransmits / (double)w->packets - a->loss);
    *tpot_ns = n_gaps >= ADAPT_GAPS / 2 ? usual(gaps, n_gaps, dropped(w, n_gaps)) : 0;
}

/* --- the model --- */

static double level_bytes(const struct adapt *a, uint32_t level)
{
    return a->levels[level].bytes * a->bytes_over;
}

/* A row of a prompt beside decode: computed here and there, and sent. */
static double bulk_ns(const struct adapt *a, uint32_t level, double slope)
{
    return a->row_ns * (1 + a->p.cloud_per_edge) + slope * level_bytes(a, level);
}

static double tpot_at(const struct adapt *a, uint32_t level, double bulk, double slope)
{
    const double more = level_bytes(a, level) - level_bytes(a, a->choice.level);

    return a->tpot_ns + slope * more * (a->burst + a->bulk_now) +
           (bulk - a->bulk_now) * bulk_ns(a, level, slope);
}

static double ttft_at(const struct adapt *a, uint32_t level, double slope)
{
    return a->ttft_ns +
           a->prompt_rows * slope * (level_bytes(a, level) - level_bytes(a, a->choice.level));
}

/* Rows beside decode for a prompt of the usual length to be read in time. */
static double bulk_needed(const struct adapt *a, const struct adapt_window *w)
{
    if (!w->reading)
        return 0;
    if (!a->p.max_ttft_ns || !(a->tpot_ns > 0))
        return BULK_MIN;
    const double runs = (double)a->p.max_ttft_ns * AIM / a->tpot_ns;
    return fmin(fmax(ceil(a->prompt_rows * w->reading / fmax(runs, 1)), BULK_MIN), a->p.bulk_rows);
}

static bool holds(const struct adapt *a, uint32_t level, double bulk, double slope, double part)
{
    if (a->p.max_tpot_ns && a->tpot_ns > 0 &&
        tpot_at(a, level, bulk, slope) > part * (double)a->p.max_tpot_ns)
        return false;
    return !a->p.max_ttft_ns || !(a->ttft_ns > 0) ||
           ttft_at(a, level, slope) <= part * (double)a->p.max_ttft_ns;
}

/* How far the worse of the two is past its limit, as a part of it. */
static double excess(const struct adapt *a, uint32_t level, double bulk, double slope)
{
    double worst = 0;

    if (a->p.max_tpot_ns && a->tpot_ns > 0)
        worst = tpot_at(a, level, bulk, slope) / (double)a->p.max_tpot_ns;
    if (a->p.max_ttft_ns && a->ttft_ns > 0)
        worst = fmax(worst, ttft_at(a, level, slope) / (double)a->p.max_ttft_ns);
    return worst;
}

/* The finest that holds; where none does the cheapest, or, far from the limit, the finest of those
 * that are hardly slower. */
static uint32_t best_level(const struct adapt *a, double bulk, double slope, double part)
{
    for (uint32_t l = 0; l < a->n_levels; l++) {
        if (holds(a, l, bulk, slope, part))
            return l;
    }
    const uint32_t cheapest = a->n_levels - 1;
    const double least = excess(a, cheapest, bulk, slope);
    const double near = a->choice.level == cheapest && !a->choice.holds ? STAY : NEAR;
    if (least < near && excess(a, 0, bulk, slope) > SAME * least)
        return cheapest;
    uint32_t l = 0;
    while (excess(a, l, bulk, slope) > SAME * least)
        l++;
    return l;
}

static uint32_t most_bulk(const struct adapt *a, uint32_t level, double needed)
{
    if (!a->p.max_tpot_ns || !(a->tpot_ns > 0))
        return a->p.bulk_rows;
    uint32_t rows = a->p.bulk_rows;
    while (rows > BULK_MIN && rows > needed &&
           tpot_at(a, level, rows, a->slope) > AIM * (double)a->p.max_tpot_ns)
        rows--;
    return rows;
}

/*
 * A prompt that nobody decodes beside goes through the edge, the wire and the cloud one chunk
 * behind the other: the slowest of them works all the time, the others add a chunk each; and every
 * chunk costs the run that computes it.
 */
static uint32_t best_chunk(const struct adapt *a, uint32_t level)
{
    const double wire = a->slope * level_bytes(a, level);
    const double there = a->row_ns * a->p.cloud_per_edge;
    uint32_t best = a->p.chunk_tokens;
    double least = INFINITY;

    if (!a->p.max_ttft_ns || !(a->prompt_rows > 0) || !(a->row_ns > 0) || !(a->run_ns > 0))
        return best;
    for (uint32_t chunk = a->p.chunk_tokens; chunk >= CHUNK_MIN; chunk /= 2) {
        const double run = a->run_ns / chunk;
        const double here = a->row_ns + run, back = there + run * a->p.cloud_per_edge;
        const double slowest = fmax(wire, fmax(here, back));
        const double ns = a->prompt_rows * slowest + chunk * (here + wire + back - slowest);
        if (ns < least * .98) {
            least = ns;
            best = chunk;
        }
    }
    return best;
}

/* --- what to do --- */

static void note_passed(struct adapt *a)
{
    if (a->since_up < SOON) { /* it should not have become better: wait longer next time */
        a->hold = a->hold * 2 < HOLD_MAX ? a->hold * 2 : HOLD_MAX;
        a->since_up = SOON;
    }
    a->good = a->calm = 0;
}

static void note_held(struct adapt *a)
{
    if (++a->calm >= CALM && a->hold > HOLD_MIN) {
        a->hold = a->hold / 2 > HOLD_MIN ? a->hold / 2 : HOLD_MIN;
        a->calm = 0;
    }
}

static uint32_t next_level(struct adapt *a, const struct adapt_window *w, double needed)
{
    const double cautious = a->slope + a->slope_off;
    const uint32_t now = a->choice.level;

    a->since_up++;
    if (!holds(a, now, w->reading ? needed : a->bulk_now, a->slope, PASSED)) {
        const uint32_t worse = best_level(a, needed, a->slope, AIM);
        note_passed(a);
        a->choice.holds = holds(a, worse, needed, a->slope, 1);
        return worse;
    }
    const double bulk = fmax(needed, a->bulk_now);
    uint32_t better = best_level(a, bulk, cautious, FINER);
    better = better < a->floor ? a->floor : better;
    a->choice.holds = true;
    note_held(a);
    if (better >= now || !holds(a, better, bulk, cautious, FINER)) {
        a->good = 0;
        return now;
    }
    if (++a->good < a->hold)
        return now;
    a->good = 0;
    a->since_up = 0;
    return better;
}

/* What was seen is what the model says of the new level. */
static void move_to(struct adapt *a, uint32_t level)
{
    if (a->tpot_ns > 0)
        a->tpot_ns = tpot_at(a, level, a->bulk_now, a->slope);
    if (a->ttft_ns > 0)
        a->ttft_ns = ttft_at(a, level, a->slope);
    choose(a, level);
}

bool adapt_floor(struct adapt *a, uint32_t level, uint64_t now_ns)
{
    a->floor = level < a->n_levels ? level : a->n_levels - 1;
    if (a->choice.level >= a->floor)
        return false;
    move_to(a, a->floor);
    a->changed_ns = now_ns;
    return true;
}

bool adapt_step(struct adapt *a, const struct adapt_window *w)
{
    const struct adapt_choice before = a->choice;
    double tpot_ns;

    learn(a, w, &tpot_ns);
    if (a->p.max_tpot_ns && tpot_ns > PASSED * (double)a->p.max_tpot_ns)
        a->tpot_ns = tpot_ns;
    else if (tpot_ns > 0)
        a->tpot_ns = towards(a->tpot_ns, tpot_ns, SOFTEN);
    else if (!w->n_turns || !(a->tpot_ns > 0 || a->ttft_ns > 0))
        return false; /* nothing new */
    const double needed = bulk_needed(a, w);
    uint32_t level = next_level(a, w, needed);
    level = level < a->floor ? a->floor : level;
    if (level != before.level) {
        move_to(a, level);
        a->changed_ns = w->now_ns;
    }
    a->choice.bulk_rows = most_bulk(a, level, needed);
    a->choice.chunk_tokens = best_chunk(a, level);
    a->choice.tpot_ns = (uint64_t)fmax(a->tpot_ns, 0);
    a->choice.ttft_ns = (uint64_t)fmax(a->ttft_ns, 0);
    return a->choice.level != before.level || a->choice.bulk_rows != before.bulk_rows ||
           a->choice.chunk_tokens != before.chunk_tokens || a->choice.holds != before.holds;
}
