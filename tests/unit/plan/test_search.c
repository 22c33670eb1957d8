/* SPDX-License-Identifier: Apache-2.0 */
/* The search against trying everything, limits that fit nothing, and its time. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "control/plan_show.h"
#include "models.h"

struct world {
    struct plan_model m;
    struct plan_host edge, cloud;
    struct plan_link link;
    struct plan_quality q;
    struct plan_speed *edge_speed, *cloud_speed;
    struct plan_wish w;
};

static struct world *world_of(uint32_t n_layers)
{
    struct world *x = calloc(1, sizeof(*x));

    assert_non_null(x);
    made_model(n_layers, &x->m);
    made_host(&x->m, 2e-3, &x->edge);
    made_host(&x->m, 5e-4, &x->cloud);
    x->link = (struct plan_link){
        .up_bits_per_s = 2e7, .down_bits_per_s = 1e8, .rtt_s = .02, .mtu_bytes = 1500};
    made_quality(&x->m, &x->q);
    assert_int_equal(plan_speed_open(&x->m, &x->edge, &x->edge_speed), 0);
    assert_int_equal(plan_speed_open(&x->m, &x->cloud, &x->cloud_speed), 0);
    made_wish(&x->m, x->edge_speed, x->cloud_speed, &x->link, &x->q, &x->w);
    return x;
}

static void end(struct world *x)
{
    plan_speed_close(x->edge_speed);
    plan_speed_close(x->cloud_speed);
    plan_model_free(&x->m);
    free(x);
}

/* Every configuration by plan_evaluate, none left out: what is asked of each is up to `each`. */
static void try_all(const struct plan_wish *w, void (*each)(void *arg, const struct plan *p),
                    void *arg)
{
    struct plan p = {.context = w->contexts[0], .sessions = w->sessions[0]};

    for (p.split = w->split_min; p.split <= w->split_max; p.split++)
        for (unsigned f = 0; f < PLAN_SCHEMES; f++)
            for (unsigned b = 0; b < PLAN_SCHEMES; b++)
                for (unsigned kv = 0; kv < KV_FORMATS; kv++)
                    for (unsigned h = 0; h < PLAN_KV_HOMES; h++)
                        for (p.codec = 0; p.codec < w->quality->n_codecs; p.codec++)
                            for (unsigned c = 0; c < w->n_chunks; c++) {
                                p.front = (enum plan_scheme)f;
                                p.back = (enum plan_scheme)b;
                                p.kv = (enum kv_format)kv;
                                p.home = (enum plan_kv_home)h;
                                p.chunk = w->chunks[c];
                                if (!w->home[h] || !w->codec[p.codec])
                                    continue;
                                const int rc = plan_evaluate(w, &p);
                                if (rc == 0)
                                    each(arg, &p);
                                else
                                    assert_int_equal(rc, -ENOENT);
                            }
}

struct best {
    const struct plan_wish *w;
    bool found;
    struct plan best;
    double least[PLAN_METRICS]; /* of those that keep all other limits */
    uint32_t n, n_fit;
};

static void keep(void *arg, const struct plan *p)
{
    struct best *b = arg;
    unsigned passed = 0, which = 0;

    b->n++;
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (p->metric[m] > b->w->limit[m]) {
            passed++;
            which = m;
        }
    if (passed == 1)
        b->least[which] = fmin(b->least[which], p->metric[which]);
    if (passed)
        return;
    b->n_fit++;
    if (!b->found || plan_better(b->w, p, &b->best))
        b->best = *p;
    b->found = true;
}

static struct best try_for(const struct plan_wish *w)
{
    struct best b = {.w = w};

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        b.least[m] = INFINITY;
    try_all(w, keep, &b);
    return b;
}

static void same(const struct plan *a, const struct plan *b)
{
    assert_int_equal(a->split, b->split);
    assert_int_equal(a->front, b->front);
    assert_int_equal(a->back, b->back);
    assert_int_equal(a->kv, b->kv);
    assert_int_equal(a->home, b->home);
    assert_int_equal(a->codec, b->codec);
    assert_int_equal(a->chunk, b->chunk);
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        assert_true(a->metric[m] == b->metric[m]);
}

/* Each objective under limits from loose to hard, drawn by a generator with a fixed seed. */
static void as_trying_all(void **state)
{
    struct world *x = world_of(6);
    static struct plan_answer a;
    unsigned n_found = 0, n_none = 0;

    x->w.n_chunks = 2;
    srand(7);
    for (unsigned i = 0; i < 40; i++) {
        x->link.loss = i % 4 == 3 ? .01 : 0;
        x->w.beside = i % 3 == 2;
        x->w.prompt = i < 24 ? 500 : 0;
        x->w.least = (enum plan_metric)(i % PLAN_METRICS);
        x->w.limit[PLAN_EDGE_BYTES] = 2.0e8 + 1.4e8 * (rand() % 6);
        x->w.limit[PLAN_CLOUD_BYTES] = 3.5e8 + 2.0e8 * (rand() % 6);
        x->w.limit[PLAN_KL] = .002 * (1 + rand() % 9);
        x->w.limit[PLAN_TTFT] = (i < 24 ? 1 : 2) * (.15 + .1 * (rand() % 8));
        x->w.limit[PLAN_TPOT] = .026 + .003 * (rand() % 6);
        const struct best b = try_for(&x->w);
        assert_int_equal(plan_search(&x->w, &a), 0);
        assert_int_equal(a.found, b.found);
        if (a.found) {
            n_found++;
            same(&a.best, &b.best);
            continue;
        }
        n_none++;
        for (unsigned m = 0; m < PLAN_METRICS; m++) {
            assert_int_equal(a.has_change[m], isfinite(b.least[m]));
            if (a.has_change[m])
                assert_true(a.change[m].metric[m] == b.least[m]);
        }
    }
    print_message("%u found, %u not\n", n_found, n_none);
    assert_true(n_found >= 4 && n_none >= 4);
    end(x);
}

static struct plan_answer next_a;

/* None that fits and needs less of a metric is better than its neighbour. */
static void check_next(void *arg, const struct plan *p)
{
    const struct plan_wish *w = arg;

    if (!plan_fits(w, p))
        return;
    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        if (p->metric[m] >= next_a.best.metric[m])
            continue;
        assert_true(next_a.has_next[m]);
        assert_false(plan_better(w, p, &next_a.next[m]));
    }
}

static void neighbours(void **state)
{
    struct world *x = world_of(5);

    x->w.limit[PLAN_EDGE_BYTES] = 6e8;
    assert_int_equal(plan_search(&x->w, &next_a), 0);
    assert_true(next_a.found && next_a.has_next[PLAN_KL] && next_a.has_next[PLAN_EDGE_BYTES]);
    try_all(&x->w, check_next, &x->w);
    end(x);
}

/* The relaxed limit is the least: with it the plan is found, with a hair less it is not. */
static void least_change(void **state)
{
    struct world *x = world_of(6);
    static struct plan_answer a, again;

    x->w.home[PLAN_KV_EDGE] = false;
    x->w.limit[PLAN_TPOT] = .0245;
    x->w.limit[PLAN_KL] = .004;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_false(a.found);
    assert_int_equal(a.ruled_out, PLAN_TPOT);
    assert_true(a.has_change[PLAN_TPOT]);
    const double need = a.change[PLAN_TPOT].metric[PLAN_TPOT];
    x->w.limit[PLAN_TPOT] = need;
    assert_int_equal(plan_search(&x->w, &again), 0);
    assert_true(again.found);
    x->w.limit[PLAN_TPOT] = need * (1 - 1e-9);
    assert_int_equal(plan_search(&x->w, &again), 0);
    assert_false(again.found);
    end(x);
}

/* The longest context: it fits, one more page does not. */
static void longest_context(void **state)
{
    struct world *x = world_of(6);
    static struct plan_answer a, again;

    x->w.home[PLAN_KV_EDGE] = false;
    x->w.least = PLAN_EDGE_BYTES; /* the least for 2,048, which is not enough for 8,192 */
    x->w.contexts[0] = 2048;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_true(a.found);
    x->w.limit[PLAN_EDGE_BYTES] = a.best.metric[PLAN_EDGE_BYTES];
    x->w.contexts[0] = 8192;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_false(a.found);
    assert_int_equal(a.ruled_out, PLAN_EDGE_BYTES);
    assert_in_range(a.longest, 2048, 8191);
    x->w.contexts[0] = a.longest;
    assert_int_equal(plan_search(&x->w, &again), 0);
    assert_true(again.found);
    x->w.contexts[0] = a.longest + KV_PAGE;
    assert_int_equal(plan_search(&x->w, &again), 0);
    assert_false(again.found);
    end(x);
}

/* Of several contexts and numbers of sessions the greatest product that fits. */
static void most_load(void **state)
{
    struct world *x = world_of(6);
    static struct plan_answer a;
    const uint32_t contexts[] = {512, 1024, 4096}, sessions[] = {1, 4, 16};

    memcpy(x->w.contexts, contexts, sizeof contexts);
    memcpy(x->w.sessions, sessions, sizeof sessions);
    x->w.n_contexts = x->w.n_sessions = 3;
    x->w.limit[PLAN_EDGE_BYTES] = 3e8;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_true(a.found);
    const uint64_t size = (uint64_t)a.best.context * a.best.sessions;
    for (unsigned c = 0; c < 3; c++)
        for (unsigned s = 0; s < 3; s++) {
            if ((uint64_t)contexts[c] * sessions[s] <= size)
                continue;
            struct plan_wish one = x->w;
            static struct plan_answer b;
            one.n_contexts = one.n_sessions = 1;
            one.contexts[0] = contexts[c];
            one.sessions[0] = sessions[s];
            assert_int_equal(plan_search(&one, &b), 0);
            assert_false(b.found);
        }
    end(x);
}

/* Many layers at an edge that has no room for them as they are: in three bits, whose cost was
 * allowed, and the back as it is. With room, or without leave, not. */
static void tight_edge(void **state)
{
    struct world *x = world_of(12);
    static struct plan_answer a;

    x->w.split_min = x->w.split_max = 6;
    x->w.limit[PLAN_KL] = .08;
    x->w.least = PLAN_KL;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_true(a.found && a.best.front == PLAN_KEEP);
    const double kept = (double)a.best.edge.term[PLAN_PANELS];
    x->w.limit[PLAN_EDGE_BYTES] = a.best.metric[PLAN_EDGE_BYTES] - .3 * kept;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_true(a.found);
    assert_int_equal(a.best.front, PLAN_SQ3);
    assert_int_equal(a.best.back, PLAN_KEEP);
    assert_true(a.best.front_kl > 0 && a.best.back_kl == 0);
    assert_true((double)a.best.edge.term[PLAN_PANELS] < .66 * kept);
    x->w.front[PLAN_SQ3] = false;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_false(a.found);
    assert_int_equal(a.ruled_out, PLAN_EDGE_BYTES);
    end(x);
}

/* A plan whose figures are known; the model's tests have the sums by hand. */
static void golden_plan(void **state)
{
    struct world *x = world_of(12);
    static struct plan_answer a;

    x->w.limit[PLAN_EDGE_BYTES] = 6.01e8;
    x->w.limit[PLAN_TTFT] = 1;
    x->w.limit[PLAN_KL] = .012;
    x->w.least = PLAN_CLOUD_BYTES;
    assert_int_equal(plan_search(&x->w, &a), 0);
    assert_true(a.found);
    const struct plan *b = &a.best;
    print_message("%u %s %s %s %u codec %u chunk %u: %.0f %.0f %.6f %.6f %.6f\n", b->split,
                  plan_scheme_name(b->front), plan_scheme_name(b->back), kv_format_name(b->kv),
                  b->home, b->codec, b->chunk, b->metric[PLAN_EDGE_BYTES],
                  b->metric[PLAN_CLOUD_BYTES], b->metric[PLAN_KL], b->metric[PLAN_TTFT],
                  b->metric[PLAN_TPOT]);
    assert_int_equal(b->split, 5);
    assert_int_equal(b->front, PLAN_KEEP);
    assert_int_equal(b->back, PLAN_KEEP);
    assert_int_equal(b->kv, KV_Q4);
    assert_int_equal(b->codec, 1);
    assert_int_equal(b->chunk, 32);
    assert_int_equal(b->edge.bytes, 600906464);
    assert_int_equal(b->cloud.bytes, 923961920);
    assert_true(fabs(b->metric[PLAN_KL] - .010040) < 1e-6);
    assert_true(fabs(b->metric[PLAN_TTFT] - .959926) < 1e-6);
    assert_true(fabs(b->metric[PLAN_TPOT] - .039846) < 1e-6);
    end(x);
}

/* Every scheme has times, and costs at both ends of the model. */
static void measure_all(struct world *x)
{
    const uint32_t n_layers = x->m.n_layers;

    for (unsigned s = PLAN_KEEP + 1; s < PLAN_SCHEMES; s++) {
        for (unsigned stage = 0; stage < PLAN_STAGE_KINDS; stage++) {
            x->q.schemes[stage][s].n = 2;
            for (unsigned k = 0; k < 2; k++)
                x->q.schemes[stage][s].points[k] = (struct plan_scheme_point){
                    .split = k ? n_layers - 1 : 1, .kl = .0008 * s * (k == stage ? .1 : 1)};
        }
        for (uint32_t k = 0; k < x->edge.n_rows && !plan_scheme_is_standard((enum plan_scheme)s);
             k++)
            x->edge.scheme_s[s][k] = x->edge.types[0].s[k] * (1.2 - .04 * s);
        memcpy(x->cloud.scheme_s[s], x->edge.scheme_s[s], sizeof x->cloud.scheme_s[s]);
    }
}

struct hard {
    const char *name;
    bool lists; /* of four contexts and four numbers of sessions */
    bool found;
    enum plan_metric limited;
    double limit; /* 0: by `part` of what would do */
    double part;
};

/* 80 layers, everything measured and allowed: one load or several, found or not, for each limit far
 * beyond reach or nearly kept: under two seconds of CPU. */
static void in_time(void **state)
{
    static const struct hard cases[] = {
        {"found", false, true, PLAN_KL, .05, 0},
        {"no TPOT", false, false, PLAN_TPOT, .021, 0},
        {"nearly TPOT", false, false, PLAN_TPOT, 0, .9999},
        {"no TTFT", false, false, PLAN_TTFT, .5, 0},
        {"nearly TTFT", false, false, PLAN_TTFT, 0, .9999},
        {"just TTFT", false, true, PLAN_TTFT, 0, 1.02},
        {"no edge memory", false, false, PLAN_EDGE_BYTES, 6e7, 0},
        {"nearly edge memory", false, false, PLAN_EDGE_BYTES, 0, .9999},
        {"no cloud memory", false, false, PLAN_CLOUD_BYTES, 6e7, 0},
        {"nearly cloud memory", false, false, PLAN_CLOUD_BYTES, 0, .9999},
        {"no KL", false, false, PLAN_KL, -1, 0},
        {"lists, found", true, true, PLAN_KL, .05, 0},
        {"lists, no TPOT", true, false, PLAN_TPOT, .021, 0},
        {"lists, nearly TPOT", true, false, PLAN_TPOT, 0, .9999},
        {"lists, no TTFT", true, false, PLAN_TTFT, .1, 0},
        {"lists, nearly TTFT", true, false, PLAN_TTFT, 0, .9999},
        {"lists, just TTFT", true, true, PLAN_TTFT, 0, 1.02},
        {"lists, nearly edge memory", true, false, PLAN_EDGE_BYTES, 0, .9999},
        {"lists, nearly cloud memory", true, false, PLAN_CLOUD_BYTES, 0, .9999},
        {"lists, no KL", true, false, PLAN_KL, -1, 0},
    };
    static const uint32_t contexts[] = {1024, 2048, 4096, 8192}, sessions[] = {1, 2, 4, 8};
    struct world *x = world_of(80);
    const struct plan_wish usual = x->w;
    static struct plan_answer a;

    measure_all(x);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct hard *h = &cases[i];
        x->w = usual;
        x->w.prompt = 0; /* all of the context */
        x->w.contexts[0] = 8192;
        if (h->lists) {
            memcpy(x->w.contexts, contexts, sizeof contexts);
            memcpy(x->w.sessions, sessions, sizeof sessions);
            x->w.n_contexts = x->w.n_sessions = 4;
        }
        x->w.limit[h->limited] = h->limit;
        if (h->part > 0) { /* what the least load's change would be */
            assert_int_equal(plan_search(&x->w, &a), 0);
            assert_true(a.has_change[h->limited]);
            x->w.limit[h->limited] = a.change[h->limited].metric[h->limited] * h->part;
        }
        const clock_t start = clock();
        assert_int_equal(plan_search(&x->w, &a), 0);
        const double s = (double)(clock() - start) / CLOCKS_PER_SEC;
        print_message("%s: %llu configurations, %llu computed to the end, %.3f s\n", h->name,
                      (unsigned long long)a.n_all, (unsigned long long)a.n_timed, s);
        assert_int_equal(a.found, h->found);
        assert_true(h->found || h->limited == PLAN_KL || a.has_change[h->limited]);
        /* Sanitizers and unoptimized builds are slower. */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
        assert_true(s < 2);
#endif
    }
    end(x);
}

/* Of a limit of memory a fiftieth is not planned for; of others nothing. */
static void reserve(void **state)
{
    assert_true(fabs(plan_within(PLAN_EDGE_BYTES, 50e6) - 49e6) < 1);
    assert_true(fabs(plan_limit_for(PLAN_CLOUD_BYTES, 49e6) - 50e6) < 1);
    assert_true(plan_within(PLAN_EDGE_BYTES, INFINITY) == INFINITY);
    for (unsigned m = PLAN_KL; m < PLAN_METRICS; m++) {
        assert_true(plan_within((enum plan_metric)m, .25) == .25);
        assert_true(plan_limit_for((enum plan_metric)m, .25) == .25);
    }
}

struct cheapest {
    const struct plan_wish *w;
    double most; /* of what is to be least */
    double kl;
};

static void look_beyond(void *arg, const struct plan *p)
{
    struct cheapest *c = arg;

    if (p->front == PLAN_KEEP || p->metric[c->w->least] > c->most)
        return;
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (m != PLAN_KL && p->metric[m] > c->w->limit[m])
            return;
    c->kl = fmin(c->kl, p->metric[PLAN_KL]);
}

/* What a greater limit of KL would allow: the least of all that are a twentieth better. */
static void more_kl(void **state)
{
    struct world *x = world_of(6);
    static struct plan_answer a;
    unsigned n_more = 0, n_none = 0;
    struct plan more;
    bool found;

    for (unsigned i = 0; i < 12; i++) {
        x->w.least = (enum plan_metric)(i % PLAN_METRICS);
        x->w.limit[PLAN_KL] = .0004;
        x->w.limit[PLAN_EDGE_BYTES] = i < PLAN_METRICS ? INFINITY : 5e8 + 1e8 * i;
        assert_int_equal(plan_search(&x->w, &a), 0);
        assert_int_equal(plan_with_more_kl(&x->w, &a, &found, &more), 0);
        struct cheapest c = {&x->w, .95 * a.best.metric[x->w.least], INFINITY};
        if (a.found && a.best.front == PLAN_KEEP && x->w.least != PLAN_KL)
            try_all(&x->w, look_beyond, &c);
        assert_int_equal(found, c.kl < INFINITY);
        if (found)
            assert_true(more.metric[PLAN_KL] == c.kl && c.kl > .0004);
        n_more += found;
        n_none += !found;
    }
    assert_true(n_more >= 4 && n_none >= 2);
    end(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_trying_all), cmocka_unit_test(neighbours),
        cmocka_unit_test(least_change),  cmocka_unit_test(longest_context),
        cmocka_unit_test(most_load),     cmocka_unit_test(in_time),
        cmocka_unit_test(golden_plan),   cmocka_unit_test(reserve),
        cmocka_unit_test(tight_edge),    cmocka_unit_test(more_kl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
