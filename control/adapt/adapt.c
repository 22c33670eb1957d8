/* SPDX-License-Identifier: Apache-2.0 */
#include "control/adapt/adapt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SOFTEN .3 /* of good news, believed at once */

/* What a level costs: the share of tokens that come late, and quality in the same coin. */
#define WORTH .07  /* the coarsest level: as much as so many late tokens */
#define OVER  .5   /* what a token costs more that is late by as long as the limit; */
#define CLOSE 2.   /* and more, on that scale, */
#define NEAR  .2   /* for the first so much of it: there less to send may still help */
#define BLUR  .05  /* part of the limit by which a forecast may be off */
#define STAY  .005 /* what another level has to gain */

/* So many windows in a row beyond all but this share of what was seen: that counts no more. */
#define ASIDE 3
#define SIDE  .3

#define DRIFT       .5   /* part by which the price of a byte may change between two windows, */
#define DRIFT_LEAST .2   /* of this part of the highest that can be at least */
#define NOISE_SHARE .1   /* of what a window tells of noise, by its logarithm, believed at once */
#define NOISE_LEAST 1e10 /* ns^2 */
#define ALONE       1.5  /* messages a run: with fewer, messages of several runs are compared */

/* Parts of --max-ttft. */
#define PASSED .98  /* from here on it counts as not held */
#define AIM    .93  /* what is chosen has to be below */
#define FINER  .92  /* and below this, to become better, */
#define SAME   1.02 /* so little more is not worth a worse quality */

#define CALM_NS UINT64_C(1000000000) /* for prompts nothing becomes better so soon again */
#define UNREAD  40u                  /* windows without one after which the last tells nothing */

#define HELD      .1   /* so many may be late, and the limit counts as held */
#define BULK_LATE .005 /* so many may be late for rows beside decode */
#define BULK_MIN  2u
#define CHUNK_MIN 8u

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
    *a = (struct adapt){.p = *p, .burst = 1, .bytes_over = 1};
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
    const uint32_t least = age_ns >= 100 * ADAPT_WINDOW_NS  ? 0
                           : age_ns >= 10 * ADAPT_WINDOW_NS ? ADAPT_GAPS_LEAST
                                                            : ADAPT_GAPS;
    return age_ns >= ADAPT_WINDOW_NS && n_turns >= least;
}

/* --- estimates --- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* How many of n waited for a packet that was lost: no quality helps them. */
static uint32_t dropped(const struct adapt_window *w, uint32_t n)
{
    const double share = w->packets ? (double)w->lost / (double)w->packets : 0;

    return (uint32_t)ceil(fmin(share, .5) * n);
}

static double towards(double now, double seen, double share)
{
    return now > 0 ? now + share * (seen - now) : seen;
}

static double level_bytes(const struct adapt *a, uint32_t level)
{
    return a->levels[level].bytes * a->bytes_over;
}

static double bytes_of(const struct adapt_turn *t)
{
    return (double)t->bytes + t->before;
}

/* Sums over turns, about the mean of those that are compared. */
struct sums {
    double n, xx, xy, yy;
};

static void add_turns(struct sums *s, const struct adapt_turn *const *turns, uint32_t n)
{
    double x = 0, y = 0;

    for (uint32_t i = 0; i < n; i++) {
        x += bytes_of(turns[i]) / n;
        y += (double)turns[i]->path_ns / n;
    }
    for (uint32_t i = 0; i < n; i++) {
        const double dx = bytes_of(turns[i]) - x, dy = (double)turns[i]->path_ns - y;
        s->xx += dx * dx;
        s->xy += dx * dy;
        s->yy += dy * dy;
    }
    s->n += n - 1;
}

/* What a byte costs: how much later a message is answered that has more before it; where each goes
 * alone, a larger one than others of its window. What changed from one run to the next is not taken
 * for it. */
static void learn_price(struct adapt *a, const struct adapt_turn *const *turns, uint32_t n,
                        double most)
{
    struct sums s = {0};

    for (uint32_t from = 0, to; from < n; from = to) {
        for (to = from + 1;
             to < n && (a->burst < ALONE || turns[to]->before > turns[to - 1]->before);)
            to++;
        add_turns(&s, turns + from, to - from);
    }
    if (!(s.xx > 0) || s.n < 2)
        return;
    const double seen = fmin(fmax(s.xy / s.xx, 0), most);
    const double noise = fmax(NOISE_LEAST, (s.yy - seen * s.xy) / (s.n - 1));
    /* The window in which a rate falls, with what was sent twice in it, has a thousand times the
     * usual noise: it tells little of the price, and of the noise of those to come. */
    a->noise_var = a->noise_var > 0 ? a->noise_var * pow(noise / a->noise_var, NOISE_SHARE) : noise;
    const double var = fmax(a->noise_var, noise) / s.xx, off = seen - a->price;
    const double drift = DRIFT * fmax(a->price, DRIFT_LEAST * most);
    a->price_var += drift * drift;
    const double gain = a->price_var / (a->price_var + var);
    a->price += gain * off;
    a->price_var *= 1 - gain;
}

static void learn_wire(struct adapt *a, const struct adapt_window *w,
                       const struct adapt_turn **turns, uint32_t n)
{
    double ns[ADAPT_TURNS], x = 0, y = 0, own = 0, burst = 0;
    const uint32_t lost = dropped(w, n);
    uint32_t kept = 0;

    if (n <= lost)
        return;
    for (uint32_t i = 0; i < n; i++)
        ns[i] = (double)turns[i]->path_ns;
    qsort(ns, n, sizeof *ns, by_value);
    for (uint32_t i = 0; i < n; i++) {
        own += turns[i]->bytes;
        burst = fmax(burst, bytes_of(turns[i]));
        if ((double)turns[i]->path_ns <= ns[n - 1 - lost])
            turns[kept++] = turns[i];
    }
    for (uint32_t i = 0; i < kept; i++) {
        x += bytes_of(turns[i]);
        y += (double)turns[i]->path_ns;
    }
    a->bytes_over = towards(a->bytes_over, own / n / a->choice.bytes, SOFTEN);
    a->more_bytes = burst - a->burst * level_bytes(a, a->choice.level);
    if (!(a->price_var > 0)) { /* first guess: no slower than what the link has seen */
        a->price = w->rate_byte_per_s ? fmin(1e9 / (double)w->rate_byte_per_s, y / x) : 0;
        a->price_var = y / x * y / x / 4;
    }
    learn_price(a, turns, kept, y / x);
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

/* What a token waits for bytes, and for rows of a prompt beside. */
static double sent_ns(const struct adapt *a, uint32_t level, double bulk)
{
    return a->price * (a->more_bytes + level_bytes(a, level) * (a->burst + bulk)) +
           bulk * a->row_ns * (1 + a->p.cloud_per_edge);
}

/* Share of what was seen that is below. */
static double share_below(const struct adapt *a, double ns)
{
    double below = 0;

    for (uint32_t k = 0; k < a->n_seen; k++) {
        const struct adapt_seen *s = &a->seen[k];
        uint32_t n = 0;
        while (n < s->n && (double)s->residual_ns[n] < ns)
            n++;
        below += (double)n / s->n / a->n_seen;
    }
    return below;
}

/* What this window's gaps leave, sorted, beside what was seen before; where that holds no more,
 * instead of it. */
static void note_gaps(struct adapt *a, const struct adapt_window *w, double *gaps, uint32_t n)
{
    const double sent = sent_ns(a, a->choice.level, a->bulk_now);

    qsort(gaps, n, sizeof *gaps, by_value);
    n -= dropped(w, n);
    const double below = a->n_seen ? share_below(a, gaps[n / 2] - sent) : .5;
    const int side = below > 1 - SIDE ? 1 : below < SIDE ? -1 : 0;
    a->aside = side * a->aside > 0 ? a->aside + side : side;
    if (abs(a->aside) == ASIDE) {
        a->n_seen = ASIDE - 1;
        a->aside = 0;
    }
    if (a->n_seen == ADAPT_SEEN)
        a->n_seen--;
    memmove(a->seen + 1, a->seen, a->n_seen * sizeof *a->seen);
    a->n_seen++;
    struct adapt_seen *s = a->seen;
    s->n = n < ADAPT_RESIDUALS ? n : ADAPT_RESIDUALS;
    for (uint32_t i = 0; i < s->n; i++)
        s->residual_ns[i] = (float)(gaps[(2 * i + 1) * n / (2 * s->n)] - sent);
}

static void learn(struct adapt *a, const struct adapt_window *w)
{
    const struct adapt_turn *turns[ADAPT_TURNS];
    double gaps[ADAPT_TURNS];
    uint32_t n = 0, n_gaps = 0;
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
            turns[n++] = t;
    }
    learn_runs(a, w);
    learn_wire(a, w, turns, n);
    if (!(a->price_var > 0) && w->rate_byte_per_s) /* no answer was longer than a token yet */
        a->price = 1e9 / (double)w->rate_byte_per_s;
    if (a->unread >= UNREAD) /* one slow prompt is not paid for without end */
        a->ttft_ns = 0;
    if (n_gaps >= ADAPT_GAPS_LEAST)
        note_gaps(a, w, gaps, n_gaps);
}

/* --- the model --- */

struct forecast {
    double late;    /* share of tokens */
    double mean_ns; /* from one to the next */
    double cost;
};

static struct forecast forecast(const struct adapt *a, uint32_t level, double bulk)
{
    const double limit = a->p.max_tpot_ns ? (double)a->p.max_tpot_ns : INFINITY;
    const double sent = sent_ns(a, level, bulk);
    const double finest = a->levels[0].kl;
    const double range = fmax(a->levels[a->n_levels - 1].kl - finest, 1e-12);
    struct forecast f = {.cost = WORTH * (a->levels[level].kl - finest) / range};

    for (uint32_t k = 0; k < a->n_seen; k++) {
        const struct adapt_seen *s = &a->seen[k];
        for (uint32_t i = 0; i < s->n; i++) {
            const double ns = fmax((double)s->residual_ns[i] + sent, 0), over = ns / limit - 1;
            const double part = 1. / s->n / a->n_seen;
            f.late += part * fmin(fmax(over / (2 * BLUR) + .5, 0), 1);
            f.cost += part * (OVER * fmax(over, 0) + CLOSE * fmin(fmax(over, 0), NEAR));
            f.mean_ns += part * ns;
        }
    }
    f.cost += f.late;
    return f;
}

static double ttft_at(const struct adapt *a, uint32_t level, double price)
{
    return a->ttft_ns +
           a->prompt_rows * price * (level_bytes(a, level) - level_bytes(a, a->choice.level));
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

/* The finest whose prompts are in time; where none is, the finest that is hardly slower than the
 * cheapest. */
static uint32_t level_for_prompts(const struct adapt *a, uint64_t now_ns)
{
    const double limit = (double)a->p.max_ttft_ns, cautious = a->price + sqrt(a->price_var);
    const uint32_t now = a->choice.level, cheapest = a->n_levels - 1;
    uint32_t l = 0;

    if (!a->p.max_ttft_ns || !(a->ttft_ns > 0))
        return 0;
    if (now_ns - a->changed_ns >= CALM_NS)
        while (l < now && ttft_at(a, l, cautious) > FINER * limit)
            l++;
    else
        l = now;
    if (l < now || a->ttft_ns <= PASSED * limit)
        return l;
    while (l < a->n_levels && ttft_at(a, l, a->price) > AIM * limit)
        l++;
    if (l < a->n_levels)
        return l;
    for (l = 0; ttft_at(a, l, a->price) > SAME * ttft_at(a, cheapest, a->price);)
        l++;
    return l;
}

/* What costs least, no finer than that; or what is sent now, or the finest that no more tokens are
 * late with, where that is hardly dearer. */
static uint32_t best_level(const struct adapt *a, uint32_t finest, double bulk)
{
    struct forecast f[ADAPT_LEVELS] = {{0}};
    uint32_t best = finest, stay = a->choice.level > finest ? a->choice.level : finest;

    if (!a->p.max_tpot_ns || !a->n_seen)
        return finest;
    for (uint32_t l = finest; l < a->n_levels; l++) {
        f[l] = forecast(a, l, bulk);
        if (f[l].cost < f[best].cost)
            best = l;
    }
    while (stay > finest && f[stay - 1].cost <= f[stay].cost && f[stay - 1].late <= f[stay].late)
        stay--;
    return f[stay].cost <= f[best].cost + STAY ? stay : best;
}

static uint32_t most_bulk(const struct adapt *a, uint32_t level, double needed)
{
    const double least = fmax(needed, BULK_MIN), most = forecast(a, level, least).late + BULK_LATE;
    uint32_t rows = a->p.bulk_rows;

    while (rows > least && forecast(a, level, rows).late > most)
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
    const double wire = a->price * level_bytes(a, level);
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

/* What was seen of prompts is what the model says of the new level. */
static void move_to(struct adapt *a, uint32_t level, uint64_t now_ns)
{
    if (a->ttft_ns > 0)
        a->ttft_ns = fmax(ttft_at(a, level, a->price), 1);
    choose(a, level);
    a->changed_ns = now_ns;
}

bool adapt_floor(struct adapt *a, uint32_t level, uint64_t now_ns)
{
    a->floor = level < a->n_levels ? level : a->n_levels - 1;
    if (a->choice.level >= a->floor)
        return false;
    move_to(a, a->floor, now_ns);
    return true;
}

bool adapt_step(struct adapt *a, const struct adapt_window *w)
{
    const struct adapt_choice before = a->choice;

    learn(a, w);
    if (!w->n_turns || !(a->n_seen || a->ttft_ns > 0))
        return false; /* nothing new */
    const double needed = bulk_needed(a, w), bulk = w->reading ? needed : a->bulk_now;
    const uint32_t prompts = level_for_prompts(a, w->now_ns);
    const uint32_t level = best_level(a, prompts > a->floor ? prompts : a->floor, bulk);
    if (level != before.level)
        move_to(a, level, w->now_ns);
    const struct forecast f = forecast(a, level, bulk);
    a->tpot_ns = f.mean_ns;
    a->choice.holds =
        f.late <= HELD && (!a->p.max_ttft_ns || a->ttft_ns <= (double)a->p.max_ttft_ns);
    a->choice.bulk_rows = most_bulk(a, level, needed);
    a->choice.chunk_tokens = best_chunk(a, level);
    a->choice.tpot_ns = (uint64_t)a->tpot_ns;
    a->choice.ttft_ns = (uint64_t)a->ttft_ns;
    return a->choice.level != before.level || a->choice.bulk_rows != before.bulk_rows ||
           a->choice.chunk_tokens != before.chunk_tokens || a->choice.holds != before.holds;
}
