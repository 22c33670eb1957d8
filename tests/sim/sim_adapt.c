/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The controller of quality (control/adapt) on links that move, under a virtual clock: beside every
 * fixed setting, beside a rule with a threshold, and beside one that knows the future. For each
 * trace the share of tokens that came later than the limit, and the mean KL that was paid.
 *
 *   sim_adapt [--seed N] [--runs R | --seconds S]
 *   sim_adapt [--seed N] [--runs R | --seconds S] [--limit MS] [--sessions N]
 *             --trace FILE | --backwards FILE ...
 *     of recorded links instead (trace.h), with the limit and the sessions that stand before
 *
 * Fails where the controller is not better than the rule (fewer late at no more KL), or where some
 * fixed setting is better in both.
 */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/adapt/adapt.h"
#include "tests/sim/seeds.h"
#include "tests/sim/trace.h"

#define MS       1e6
#define S        1e9
#define HEADS    106 /* bytes of a packet beside its tile */
#define SIZES    .12 /* a tile's size: standard deviation of its logarithm */
#define SESSIONS 16u
#define RTO_NS   (20 * MS)
#define TRACE_S  120
#define TICK_S   .1
#define TICKS    1200u

/* As `isthmus calibrate` measured xform on SmolLM2 at split 10. */
static const struct codec_profile_curve curve = {
    .n = 6,
    .points = {{.006f, .00172f, 224.7f},
               {.0085f, .0035f, 190.0f},
               {.012f, .00614f, 156.5f},
               {.017f, .01299f, 124.3f},
               {.024f, .02546f, 94.8f},
               {.034f, .0491f, 68.8f}},
};

static struct seeds seeds = {.seed = 1, .runs = 1};
static uint64_t state;

static double uniform(void)
{
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = state;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - uniform())) * cos(2 * 3.14159265358979 * uniform());
}

/* --- traces -------------------------------------------------------------------------------------
 */

struct moment {                            /* a tenth of a second */
    double byte_per_s, rtt_ns, loss, slow; /* slow: computing takes so much longer */
    uint32_t sessions;
};

struct trace {
    const char *name;
    double limit_ms;
    double prompts_per_s; /* of PROMPT tokens each */
    void (*make)(struct moment *m, uint32_t i, void *memory);
    struct moment at[TICKS];
    uint32_t n; /* of them; 0: all */
};
#define PROMPT 200

static const struct moment calm = {125e3, 20 * MS, 0, 1, 4}; /* 1 Mbit/s */

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
    *at = fmin(fmax(*at + .08 * normal(), -1.6), .4);
    m->byte_per_s *= exp(*at);
}

static void make_burst(struct moment *m, uint32_t i, void *memory)
{
    double *bad = memory;
    (void)i;
    *bad = *bad > 0 ? uniform() > .1 : uniform() < .02;
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
    if (uniform() < .03)
        *on = *on > 0 ? 0 : 1;
    m->slow = *on > 0 ? 1.5 : 1;
    m->byte_per_s *= .6;
}

static void make_radio(struct moment *m, uint32_t i, void *memory)
{
    double *fade = memory;
    if (i % 20 == 0)
        *fade = uniform();
    m->byte_per_s *= *fade < .15 ? .2 : *fade < .4 ? .5 : 1.4;
    m->rtt_ns = (18 + 10 * uniform()) * MS;
    m->loss = *fade < .15 ? .03 : .002;
}

static struct trace traces[] = {
    {"steps, 1 and 1/3 Mbit/s", 75, 0, make_step, {{.loss = 0}}},
    {"ramps, 1 to 1/4 Mbit/s", 75, 0, make_ramp, {{.loss = 0}}},
    {"random walk of the rate", 75, 0, make_walk, {{.loss = 0}}},
    {"bursts of loss", 60, 0, make_burst, {{.loss = 0}}},
    {"round trips 20 and 70 ms", 75, 0, make_far, {{.loss = 0}}},
    {"1 to 12 sessions", 80, 0, make_crowd, {{.loss = 0}}},
    {"a neighbour on the cores", 80, 0, make_neighbour, {{.loss = 0}}},
    {"radio: fades and loss", 80, 0, make_radio, {{.loss = 0}}},
    {"steps, and prompts to read", 90, .3, make_step, {{.loss = 0}}},
    {"random walk, and prompts", 90, .3, make_walk, {{.loss = 0}}},
};
#define TRACES (sizeof traces / sizeof *traces)

static void make_traces(void)
{
    for (uint32_t k = 0; k < TRACES; k++) {
        double memory = 0;
        state = seeds.seed * 1000 + k;
        for (uint32_t i = 0; i < TICKS; i++) {
            traces[k].at[i] = calm;
            traces[k].make(&traces[k].at[i], i, &memory);
        }
    }
}

/* --- recorded ones ------------------------------------------------------------------------------
 */

#define RECORDED_MAX 8u
#define LEAST_KBIT   20. /* a path on which nothing came through is not one without end */

static struct trace recorded[RECORDED_MAX];
static uint32_t n_recorded;

/* Each of the sessions has as much of the link as one of four has. 0 or -1, said. */
static int add_recorded(const char *path, double limit_ms, uint32_t sessions, bool backwards)
{
    static struct link_trace l;
    struct trace *t = &recorded[n_recorded];
    unsigned line = 0;

    if (!sessions || sessions > SESSIONS) {
        fprintf(stderr, "--sessions: 1 to %u\n", SESSIONS);
        return -1;
    }
    FILE *f = n_recorded < RECORDED_MAX ? fopen(path, "r") : NULL;
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
    *t = (struct trace){.name = slash ? slash + 1 : path, .limit_ms = limit_ms};
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
    n_recorded++;
    return 0;
}

/* --- who decides --------------------------------------------------------------------------------
 */

enum who { FIXED, THRESHOLD, OURS, ORACLE };

struct decider {
    const char *name;
    enum who who;
    uint32_t level; /* fixed */
};

static const struct decider deciders[] = {
    {"fixed, the finest", FIXED, 0},   {"fixed, level 2", FIXED, 2},
    {"fixed, level 4", FIXED, 4},      {"fixed, level 6", FIXED, 6},
    {"fixed, the coarsest", FIXED, 8}, {"threshold rule", THRESHOLD, 0},
    {"the controller", OURS, 0},       {"one that knows", ORACLE, 0},
};
#define DECIDERS (sizeof deciders / sizeof *deciders)

struct outcome {
    uint64_t tokens, late;
    double kl, ttft_ns;
    uint64_t prompts;
};

/* --- the plant ----------------------------------------------------------------------------------
 */

#define EDGE_RUN  (4 * MS)
#define EDGE_ROW  (1.0 * MS)
#define CLOUD_RUN (8 * MS)
#define CLOUD_ROW (2.0 * MS)

struct plant {
    const struct trace *t;
    const struct decider *d;
    struct adapt adapt; /* its levels are everybody's */
    struct adapt_choice now;
    double now_ns, wire_free_ns;
    double gap_more_ns[SESSIONS];
    double prompt_left[64], prompt_from_ns[64];
    uint32_t prompts;
    double next_prompt_ns;
    /* a window */
    struct adapt_turn turns[ADAPT_TURNS];
    struct adapt_window w;
    double window_ns;
    uint32_t good;
    struct outcome out;
};

static uint32_t ticks(const struct trace *t)
{
    return t->n ? t->n : TICKS;
}

static const struct moment *moment(const struct plant *p)
{
    const uint32_t i = (uint32_t)(p->now_ns / S / TICK_S);
    return &p->t->at[i < ticks(p->t) ? i : ticks(p->t) - 1];
}

/* Mean time of a step, as the plant has it. */
static double step_ns(const struct moment *m, double bytes, double bulk)
{
    const double rows = m->sessions + bulk;
    return m->slow * (EDGE_RUN + CLOUD_RUN + rows * (EDGE_ROW + CLOUD_ROW)) + m->rtt_ns +
           (m->sessions * (bytes + HEADS) + bulk * bytes) / m->byte_per_s * S;
}

static void oracle(struct plant *p)
{
    const struct moment *m = moment(p);
    const double limit = p->t->limit_ms * MS * .96;
    p->now.bulk_rows = 16;
    while (p->prompts && p->now.bulk_rows > 2 &&
           step_ns(m, p->adapt.levels[0].bytes, p->now.bulk_rows) > limit)
        p->now.bulk_rows--;
    const double bulk = p->prompts ? p->now.bulk_rows : 0;
    uint32_t l = 0;
    while (l < ADAPT_LEVELS - 1 && step_ns(m, p->adapt.levels[l].bytes, bulk) > limit)
        l++;
    if (step_ns(m, p->adapt.levels[l].bytes, bulk) > limit * 1.1)
        l = 0; /* out of reach */
    p->now.level = l;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Late: a level coarser, and half of the rows beside; well below: a level finer, and more of them.
 */
static void threshold(struct plant *p)
{
    double gaps[ADAPT_TURNS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->w.n_turns; i++)
        if (p->turns[i].gap_ns)
            gaps[n++] = (double)p->turns[i].gap_ns;
    if (n < ADAPT_GAPS / 2)
        return;
    qsort(gaps, n, sizeof *gaps, by_value);
    const double high = gaps[(uint32_t)(.9 * (n - 1))], limit = p->t->limit_ms * MS;
    if (high > .95 * limit) {
        p->now.level += p->now.level < ADAPT_LEVELS - 1;
        p->now.bulk_rows = p->now.bulk_rows > 4 ? p->now.bulk_rows / 2 : 2;
        p->good = 0;
    } else if (high < .85 * limit && ++p->good >= 3) {
        p->now.level -= p->now.level > 0;
        p->now.bulk_rows += p->now.bulk_rows < 16;
        p->good = 0;
    }
}

static void decide(struct plant *p)
{
    p->w.now_ns = (uint64_t)p->now_ns;
    p->w.turns = p->turns;
    p->w.rtt_ns = (uint64_t)moment(p)->rtt_ns;
    p->w.decoding = moment(p)->sessions;
    p->w.reading = p->prompts;
    if (p->d->who == OURS) {
        adapt_step(&p->adapt, &p->w);
        p->now = *adapt_choice(&p->adapt);
    } else if (p->d->who == THRESHOLD) {
        threshold(p);
    }
    p->w = (struct adapt_window){.n_turns = 0};
    p->window_ns = p->now_ns;
}

static void add_turn(struct plant *p, struct adapt_turn t)
{
    if (p->w.n_turns < ADAPT_TURNS)
        p->turns[p->w.n_turns++] = t;
}

static double noise(double ns, double part)
{
    return ns * exp(part * normal());
}

static void read_prompts(struct plant *p, double bulk)
{
    while (bulk > 0 && p->prompts) {
        const double rows = fmin(bulk, p->prompt_left[0]);
        bulk -= rows;
        if ((p->prompt_left[0] -= rows) > 0)
            return;
        const double took = p->now_ns - p->prompt_from_ns[0];
        p->out.ttft_ns += took;
        p->out.prompts++;
        add_turn(p, (struct adapt_turn){
                        .at_ns = (uint64_t)p->now_ns, .turn_ns = (uint64_t)took, .bytes = PROMPT});
        p->prompts--;
        memmove(p->prompt_left, p->prompt_left + 1, p->prompts * sizeof p->prompt_left[0]);
        memmove(p->prompt_from_ns, p->prompt_from_ns + 1, p->prompts * sizeof p->prompt_from_ns[0]);
    }
}

/* All sessions make a token. */
static void step(struct plant *p)
{
    const struct moment *m = moment(p);

    seeds.n_steps++;
    const struct adapt_level *level = &p->adapt.levels[p->now.level];
    const double from = p->now_ns;
    double left = 0, bulk = 0;
    for (uint32_t i = 0; i < p->prompts; i++)
        left += p->prompt_left[i];
    bulk = fmin(left, p->now.bulk_rows);
    const double rows = m->sessions + bulk;
    const double edge = noise(m->slow * (EDGE_RUN + rows * EDGE_ROW), .05);
    const double cloud = noise(m->slow * (CLOUD_RUN + rows * CLOUD_ROW), .05);
    double wire = fmax(from + edge, p->wire_free_ns), last = 0;
    double arrived[SESSIONS];
    uint32_t bytes[SESSIONS];
    for (uint32_t i = 0; i < m->sessions; i++) {
        bytes[i] = (uint32_t)noise(level->bytes, SIZES);
        wire += (bytes[i] + HEADS) / m->byte_per_s * S;
        arrived[i] = wire - from - edge;
        last = arrived[i];
    }
    p->wire_free_ns = wire + (bulk > 0 ? (bulk * level->bytes + HEADS) / m->byte_per_s * S : 0);
    p->now_ns = from + edge + last + m->rtt_ns + cloud;
    p->w.runs++;
    p->w.compute_ns += (uint64_t)edge;
    p->w.decode_rows += m->sessions;
    p->w.bulk_rows += (uint64_t)bulk;
    uint32_t before = 0;
    for (uint32_t i = 0; i < m->sessions; i++) {
        const bool lost = uniform() < m->loss;
        const double more = lost ? m->rtt_ns + RTO_NS : 0;
        const double gap = p->now_ns - from + more;
        p->w.packets++;
        p->w.lost += lost;
        p->out.tokens++;
        p->out.late += gap > p->t->limit_ms * MS;
        p->out.kl += level->kl;
        add_turn(p, (struct adapt_turn){
                        .at_ns = (uint64_t)(p->now_ns + more),
                        .gap_ns = (uint64_t)gap,
                        .turn_ns = (uint64_t)(arrived[i] + m->rtt_ns + cloud + more),
                        .path_ns = (uint64_t)(arrived[i] + noise(m->rtt_ns, .02) + more),
                        .bytes = bytes[i],
                        .before = before,
                    });
        before += bytes[i] + HEADS;
    }
    read_prompts(p, bulk);
}

static struct outcome play(const struct trace *t, uint32_t k, const struct decider *d)
{
    static struct plant p;
    p = (struct plant){.t = t, .d = d, .next_prompt_ns = INFINITY};
    const struct adapt_params params = {.curve = &curve,
                                        .finest = curve.points[0].parameter,
                                        .max_tpot_ns = (uint64_t)(t->limit_ms * MS),
                                        .chunk_tokens = 64,
                                        .bulk_rows = 16,
                                        .cloud_per_edge = CLOUD_ROW / EDGE_ROW};
    if (adapt_init(&p.adapt, &params))
        abort();
    p.now = *adapt_choice(&p.adapt);
    p.now.level = d->level;
    state = seeds.seed * 7919 + k; /* the same for all */
    if (t->prompts_per_s > 0)
        p.next_prompt_ns = S;
    while (p.now_ns < ticks(t) * TICK_S * S) {
        if (p.now_ns >= p.next_prompt_ns) {
            if (p.prompts < 64) {
                p.prompt_left[p.prompts] = PROMPT;
                p.prompt_from_ns[p.prompts++] = p.now_ns;
            }
            p.next_prompt_ns += S / t->prompts_per_s;
        }
        if (d->who == ORACLE)
            oracle(&p);
        step(&p);
        if (adapt_due(p.w.n_turns, (uint64_t)(p.now_ns - p.window_ns)))
            decide(&p);
    }
    return p.out;
}

/* --- what came of it ----------------------------------------------------------------------------
 */

static double late(const struct outcome *o)
{
    return 100 * (double)o->late / (double)o->tokens;
}

static double kl(const struct outcome *o)
{
    return o->kl / (double)o->tokens;
}

static void print_row(const char *name, const struct outcome *o)
{
    printf("| %s |", name);
    for (uint32_t i = 0; i < DECIDERS; i++)
        printf(" %.1f %%, %.4f |", late(&o[i]), kl(&o[i]));
    printf("\n");
}

static void run(void)
{
    static struct outcome o[TRACES][DECIDERS]; /* more than RECORDED_MAX */
    double mean_late[DECIDERS] = {0}, mean_kl[DECIDERS] = {0};
    bool bad = false;
    const uint32_t n = n_recorded ? n_recorded : TRACES;
    const struct trace *const all = n_recorded ? recorded : traces;
    make_traces();
    printf("| trace |");
    for (uint32_t i = 0; i < DECIDERS; i++)
        printf(" %s |", deciders[i].name);
    printf("\n|---|");
    for (uint32_t i = 0; i < DECIDERS; i++)
        printf("---|");
    printf("\n");
    for (uint32_t k = 0; k < n; k++) {
        for (uint32_t i = 0; i < DECIDERS; i++) {
            o[k][i] = play(&all[k], k, &deciders[i]);
            mean_late[i] += late(&o[k][i]) / n;
            mean_kl[i] += kl(&o[k][i]) / n;
        }
        char name[80];
        snprintf(name, sizeof name, "%.60s; %g ms", all[k].name, all[k].limit_ms);
        print_row(name, o[k]);
    }
    printf("| mean |");
    for (uint32_t i = 0; i < DECIDERS; i++)
        printf(" %.2f %%, %.4f |", mean_late[i], mean_kl[i]);
    printf("\n");
    const uint32_t rule = 5, ours = 6;
    if (mean_late[ours] >= mean_late[rule] || mean_kl[ours] > mean_kl[rule]) {
        fprintf(stderr, "FAILED: not better than the rule (seed %" PRIu64 ")\n", seeds.seed);
        bad = true;
    }
    for (uint32_t i = 0; i < rule; i++)
        if (mean_late[i] <= mean_late[ours] && mean_kl[i] <= mean_kl[ours]) {
            fprintf(stderr, "FAILED: %s is better in both (seed %" PRIu64 ")\n", deciders[i].name,
                    seeds.seed);
            bad = true;
        }
    if (bad)
        seeds_failed();
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        SEEDS_OPTIONS,
        {"limit", required_argument, NULL, 'l'},
        {"sessions", required_argument, NULL, 'n'},
        {"trace", required_argument, NULL, 'f'},
        {"backwards", required_argument, NULL, 'b'},
        {0},
    };
    double limit_ms = 110;
    uint32_t sessions = calm.sessions;

    seeds.argv = argv;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (c == 'l')
            limit_ms = strtod(optarg, NULL);
        else if (c == 'n')
            sessions = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'f' || c == 'b') {
            if (add_recorded(optarg, limit_ms, sessions, c == 'b'))
                return 2;
        } else if (!seeds_option(&seeds, c, optarg))
            return 2;
    }
    while (seeds_next(&seeds))
        run();
    seeds_report(&seeds);
    return 0;
}
