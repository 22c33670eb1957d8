/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The controller of quality (control/adapt) on links that move, under a virtual clock: beside every
 * fixed setting (each level, with some numbers of rows of a prompt beside decode), beside a rule
 * with a threshold, and beside one that knows the future. For each trace the share of tokens that
 * came later than the limit, where first tokens have one theirs, and the mean KL that was paid.
 *
 *   sim_adapt [--seed N] [--runs R | --seconds S] [--figures]
 *   sim_adapt [--seed N] [--runs R | --seconds S] [--figures] [--limit MS] [--sessions N]
 *             --trace FILE | --backwards FILE ...
 *     of recorded links instead (trace.h), with the limit and the sessions that stand before
 *
 * Figures are means of the seeds; what is asked, each seed has to do, and the first that does not
 * ends it. --figures: that is said, and ends nothing.
 *
 * Fails where the controller is not better than the rule (fewer late at no more KL; where first
 * tokens have a limit, fewer late of both; where a session is alone, fewer late in every trace), or
 * where some fixed setting is no worse in all.
 */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/adapt/adapt.h"
#include "adapt_traces.h"
#include "tests/sim/seeds.h"

#define HEADS  106 /* bytes of a packet beside its tile */
#define RTO_NS (20 * MS)

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

/* --- who decides --------------------------------------------------------------------------------
 */

enum who { FIXED, THRESHOLD, OURS, ORACLE };

struct decider {
    enum who who;
    uint32_t level, rows; /* fixed, or at first */
};

static const uint32_t fixed_rows[] = {2, 4, 8, 16};
#define ROWS     (sizeof fixed_rows / sizeof *fixed_rows)
#define FIXED_N  (ADAPT_LEVELS * ROWS)
#define DECIDERS (FIXED_N + 3)
enum { RULE = FIXED_N, OURS_AT, KNOWS };

static struct decider decider(uint32_t i)
{
    static const struct decider others[] = {{THRESHOLD, 0, 16}, {OURS, 0, 16}, {ORACLE, 0, 16}};

    return i < FIXED_N ? (struct decider){FIXED, (uint32_t)(i / ROWS), fixed_rows[i % ROWS]}
                       : others[i - FIXED_N];
}

/* Columns of the table of traces; the other fixed settings have one of their own. */
static const struct {
    const char *name;
    uint32_t of;
} columns[] = {
    {"fixed, the finest", ROWS - 1},       {"fixed, level 2", 3 * ROWS - 1},
    {"fixed, level 4", 5 * ROWS - 1},      {"fixed, level 6", 7 * ROWS - 1},
    {"fixed, the coarsest", 9 * ROWS - 1}, {"threshold rule", RULE},
    {"the controller", OURS_AT},           {"one that knows", KNOWS},
};
#define COLUMNS (sizeof columns / sizeof *columns)

struct outcome {
    uint64_t tokens, late;
    double kl;
    uint64_t prompts, late_prompts;
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
    double prompt_left[64], prompt_from_ns[64];
    uint32_t prompts;
    double next_prompt_ns;
    /* a window */
    struct adapt_turn turns[ADAPT_TURNS];
    struct adapt_window w;
    double window_ns;
    uint32_t good;
    bool slow_prompt; /* a first token nearly passed its limit */
    struct outcome out;
};

static const struct moment *moment(const struct plant *p)
{
    const uint32_t i = (uint32_t)(p->now_ns / S / TICK_S);
    return &p->t->at[i < p->t->n ? i : p->t->n - 1];
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
    const double runs = p->t->first_ms * MS * .9 / limit;
    const double needed = runs > 0 ? fmin(ceil(PROMPT * p->prompts / runs), 16) : 0;
    p->now.bulk_rows = 16;
    while (p->prompts && p->now.bulk_rows > fmax(needed, 2) &&
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

/* Late: a level coarser, and half of the rows beside; a late first token: a level coarser, and
 * twice as many; well below: a level finer, and more of them. */
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
    } else if (p->slow_prompt) {
        p->now.level += p->now.level < ADAPT_LEVELS - 1;
        p->now.bulk_rows = p->now.bulk_rows < 8 ? p->now.bulk_rows * 2 : 16;
        p->good = 0;
    } else if (high < .85 * limit && ++p->good >= 3) {
        p->now.level -= p->now.level > 0;
        p->now.bulk_rows += p->now.bulk_rows < 16;
        p->good = 0;
    }
    p->slow_prompt = false;
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
    return ns * exp(part * random_normal());
}

static void read_prompts(struct plant *p, double bulk)
{
    while (bulk > 0 && p->prompts) {
        const double rows = fmin(bulk, p->prompt_left[0]);
        bulk -= rows;
        if ((p->prompt_left[0] -= rows) > 0)
            return;
        const double took = p->now_ns - p->prompt_from_ns[0];
        p->out.prompts++;
        p->out.late_prompts += p->t->first_ms > 0 && took > p->t->first_ms * MS;
        p->slow_prompt |= p->t->first_ms > 0 && took > .95 * p->t->first_ms * MS;
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
    const struct adapt_level *level = &p->adapt.levels[p->now.level];
    const double from = p->now_ns;

    seeds.n_steps++;
    double left = 0, bulk = 0;
    for (uint32_t i = 0; i < p->prompts; i++)
        left += p->prompt_left[i];
    bulk = fmin(left, p->now.bulk_rows);
    const double rows = m->sessions + bulk;
    const double edge = noise(m->slow * (EDGE_RUN + rows * EDGE_ROW), .05);
    const double cloud = noise(m->slow * (CLOUD_RUN + rows * CLOUD_ROW), .05);
    double wire = fmax(from + edge, p->wire_free_ns), last = 0;
    double arrived[TRACE_SESSIONS_MAX];
    uint32_t bytes[TRACE_SESSIONS_MAX];
    for (uint32_t i = 0; i < m->sessions; i++) {
        bytes[i] = (uint32_t)noise(level->bytes, p->t->sizes);
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
        const bool lost = random_uniform() < m->loss;
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
                                        .max_ttft_ns = (uint64_t)(t->first_ms * MS),
                                        .chunk_tokens = 64,
                                        .bulk_rows = 16,
                                        .cloud_per_edge = CLOUD_ROW / EDGE_ROW};
    if (adapt_init(&p.adapt, &params))
        abort();
    p.now = *adapt_choice(&p.adapt);
    p.now.level = d->level;
    p.now.bulk_rows = d->rows;
    random_from(seeds.seed * 7919 + k); /* the same for all */
    if (t->prompts_per_s > 0)
        p.next_prompt_ns = S;
    while (p.now_ns < t->n * TICK_S * S) {
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

#define RECORDED_MAX 8u

/* --- what came of it ----------------------------------------------------------------------------
 */

struct mean {
    double late, first, kl; /* percent, percent, nats */
};

static struct mean mean_of(const struct outcome *o)
{
    return (struct mean){
        100 * (double)o->late / (double)o->tokens,
        o->prompts ? 100 * (double)o->late_prompts / (double)o->prompts : 0,
        o->kl / (double)o->tokens,
    };
}

static void print_mean(const struct mean *m, bool first, int digits)
{
    if (first)
        printf(" %.*f %%, %.1f %%, %.4f |", digits, m->late, m->first, m->kl);
    else
        printf(" %.*f %%, %.4f |", digits, m->late, m->kl);
}

static void print_head(const char *what)
{
    printf("\n| %s |", what);
    for (uint32_t i = 0; i < COLUMNS; i++)
        printf(" %s |", columns[i].name);
    printf("\n|---|");
    for (uint32_t i = 0; i < COLUMNS; i++)
        printf("---|");
    printf("\n");
}

/* Where prompts are read, every number of rows; else they make no difference. */
static void print_fixed(const struct mean *m, bool first, bool reads)
{
    const uint32_t from = reads ? 0 : ROWS - 1;

    printf("\n| fixed, in the mean |");
    for (uint32_t r = from; r < ROWS; r++)
        printf(reads ? " %u rows beside |" : " |", fixed_rows[r]);
    printf("\n|---|");
    for (uint32_t r = from; r < ROWS; r++)
        printf("---|");
    for (uint32_t l = 0; l < ADAPT_LEVELS; l++) {
        printf("\n| level %u |", l);
        for (uint32_t r = from; r < ROWS; r++)
            print_mean(&m[l * ROWS + r], first, 2);
    }
    printf("\n");
}

static bool no_worse(const struct mean *a, const struct mean *b)
{
    return a->late <= b->late && a->first <= b->first && a->kl <= b->kl;
}

/* 0, or 1, said. Where first tokens have a limit the rule, which knows nothing of what they need,
 * lets many pass it, and so pays less. A session alone may pay more: what it sees of a price is
 * little. */
static int judge(const struct mean *m, bool first, bool alone)
{
    const struct mean *ours = &m[OURS_AT], *rule = &m[RULE];
    const bool worse = first ? ours->first >= rule->first : !alone && ours->kl > rule->kl;
    int bad = 0;

    if (ours->late >= rule->late || worse) {
        fprintf(stderr, "FAILED: not better than the rule (seed %" PRIu64 ")\n", seeds.seed);
        bad = 1;
    }
    for (uint32_t i = 0; i < FIXED_N; i++) {
        if (!no_worse(&m[i], ours))
            continue;
        fprintf(stderr, "FAILED: fixed level %u with %u rows is better in all (seed %" PRIu64 ")\n",
                decider(i).level, decider(i).rows, seeds.seed);
        bad = 1;
    }
    return bad;
}

/* Sums over the seeds so far. */
static struct mean sums[TRACES_MADE][DECIDERS];

static void add(struct mean *to, const struct mean *m, double share)
{
    to->late += m->late * share;
    to->first += m->first * share;
    to->kl += m->kl * share;
}

/* Everybody on each of the traces, with this seed. 0, or 1, said. */
static int play_all(const struct trace *list, uint32_t n, uint32_t first_k, bool alone)
{
    struct mean m[DECIDERS] = {{0}};
    int bad = 0;

    for (uint32_t k = 0; k < n; k++) {
        struct mean row[DECIDERS];
        for (uint32_t i = 0; i < DECIDERS; i++) {
            const struct decider d = decider(i);
            const struct outcome o = play(&list[k], first_k + k, &d);
            row[i] = mean_of(&o);
            add(&m[i], &row[i], 1. / n);
            add(&sums[first_k + k][i], &row[i], 1);
        }
        if (alone && row[OURS_AT].late >= row[RULE].late && row[RULE].late > 0) {
            fprintf(stderr, "FAILED: not better than the rule in %s (seed %" PRIu64 ")\n",
                    list[k].name, seeds.seed);
            bad = 1;
        }
    }
    return bad | judge(m, list[0].first_ms > 0, alone);
}

/* What all played so far, in the mean of the seeds. */
static void print_all(const struct trace *list, uint32_t n, uint32_t first_k)
{
    const double share = 1. / (double)seeds.n_runs;
    const bool first = list[0].first_ms > 0;
    struct mean m[DECIDERS] = {{0}};
    char what[64] = "trace";
    bool reads = false;

    if (seeds.n_runs > 1)
        snprintf(what, sizeof what, "trace, mean of %" PRIu64 " seeds", seeds.n_runs);
    print_head(what);
    for (uint32_t k = 0; k < n; k++) {
        char limits[48] = "";
        reads |= list[k].prompts_per_s > 0;
        if (first)
            snprintf(limits, sizeof limits, ", %g s to the first", list[k].first_ms * 1e-3);
        printf("| %.60s; %g ms%s |", list[k].name, list[k].limit_ms, limits);
        for (uint32_t i = 0; i < DECIDERS; i++)
            add(&m[i], &sums[first_k + k][i], share / n);
        for (uint32_t i = 0; i < COLUMNS; i++) {
            struct mean of_seeds = {0};
            add(&of_seeds, &sums[first_k + k][columns[i].of], share);
            print_mean(&of_seeds, first, 1);
        }
        printf("\n");
    }
    printf("| mean |");
    for (uint32_t i = 0; i < COLUMNS; i++)
        print_mean(&m[columns[i].of], first, 2);
    printf("\n");
    print_fixed(m, first, reads);
}

/* The groups of traces_made. */
static const struct group {
    uint32_t n, first_k;
    bool alone;
} groups[] = {{TRACES, 0, false},
              {TRACES_PROMPTED, TRACES, false},
              {TRACES_ALONE, TRACES + TRACES_PROMPTED, true}};
#define GROUPS (sizeof groups / sizeof *groups)

static int play_made(void)
{
    const struct trace *all = traces_made(seeds.seed);
    int bad = 0;

    for (uint32_t g = 0; g < GROUPS; g++)
        bad |= play_all(all + groups[g].first_k, groups[g].n, groups[g].first_k, groups[g].alone);
    return bad;
}

static void print_made(void)
{
    const struct trace *all = traces_made(seeds.seed);

    for (uint32_t g = 0; g < GROUPS; g++)
        print_all(all + groups[g].first_k, groups[g].n, groups[g].first_k);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        SEEDS_OPTIONS,
        {"limit", required_argument, NULL, 'l'},
        {"sessions", required_argument, NULL, 'n'},
        {"trace", required_argument, NULL, 'f'},
        {"backwards", required_argument, NULL, 'b'},
        {"figures", no_argument, NULL, 'F'},
        {0},
    };
    static struct trace recorded[RECORDED_MAX];
    double limit_ms = 110;
    uint32_t sessions = TRACE_SESSIONS, n_recorded = 0;
    bool figures = false;
    int bad = 0;

    seeds.argv = argv;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (c == 'l')
            limit_ms = strtod(optarg, NULL);
        else if (c == 'F')
            figures = true;
        else if (c == 'n')
            sessions = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'f' || c == 'b') {
            if (n_recorded == RECORDED_MAX ||
                trace_recorded(optarg, limit_ms, sessions, c == 'b', &recorded[n_recorded++]))
                return 2;
        } else if (!seeds_option(&seeds, c, optarg))
            return 2;
    }
    while ((figures || !bad) && seeds_next(&seeds))
        bad = n_recorded ? play_all(recorded, n_recorded, 0, false) : play_made();
    if (n_recorded && seeds.n_runs)
        print_all(recorded, n_recorded, 0);
    else if (seeds.n_runs)
        print_made();
    if (bad && !figures)
        seeds_failed();
    seeds_report(&seeds);
    return 0;
}
