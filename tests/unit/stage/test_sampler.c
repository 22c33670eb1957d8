/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/philox.h"
#include "compute/sampler.h"

#define N 40u

static struct sampler_params params(float temp)
{
    struct sampler_params p = sampler_params_default();

    p.temp = temp;
    p.seed = 42;
    return p;
}

/* Known answers published with the generator (Random123's kat_vectors). */
static void philox_known_answers(void **state)
{
    static const struct {
        uint32_t ctr[4], key[2], want[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    for (size_t i = 0; i < 3; i++) {
        uint32_t c[4];

        memcpy(c, kat[i].ctr, sizeof(c));
        philox4x32_10(c, kat[i].key[0], kat[i].key[1]);
        assert_memory_equal(c, kat[i].want, sizeof(c));
    }
    /* The first two words of the first vector, as 53 bits. */
    assert_true(sampler_uniform(0, 0) == (double)(0xe169c58d6627e8d5u >> 11) / 0x1p53);
}

static void uniform_is_uniform(void **state)
{
    enum { BINS = 64, DRAWS = 64000 };
    unsigned by_position[BINS] = {0}, by_seed[BINS] = {0};
    double chi_position = 0, chi_seed = 0;

    for (unsigned i = 0; i < DRAWS; i++) {
        double u = sampler_uniform(7, i), v = sampler_uniform(i, 7);

        assert_true(u >= 0 && u < 1 && v >= 0 && v < 1);
        by_position[(int)(u * BINS)]++;
        by_seed[(int)(v * BINS)]++;
    }
    for (int i = 0; i < BINS; i++) {
        chi_position += pow((double)by_position[i] - DRAWS / BINS, 2) / (DRAWS / BINS);
        chi_seed += pow((double)by_seed[i] - DRAWS / BINS, 2) / (DRAWS / BINS);
    }
    /* 63 degrees of freedom: beyond 110 once in ten thousand. The draws never change. */
    assert_true(chi_position < 110 && chi_seed < 110);
}

static void params_are_checked(void **state)
{
    struct sampler_params p = sampler_params_default();

    assert_int_equal(sampler_params_check(&p), 0);
    p.temp = NAN;
    assert_int_equal(sampler_params_check(&p), -EINVAL);
    p = params(-1);
    assert_int_equal(sampler_params_check(&p), -EINVAL);
    p = params(1);
    p.top_p = 0;
    assert_int_equal(sampler_params_check(&p), -EINVAL);
    p.top_p = 1.5f;
    assert_int_equal(sampler_params_check(&p), -EINVAL);
    p = params(1);
    p.min_p = -.1f;
    assert_int_equal(sampler_params_check(&p), -EINVAL);
    p = params(1);
    p.repeat_penalty = 0;
    assert_int_equal(sampler_params_check(&p), -EINVAL);
}

/* Logits whose softmax has probability (i % 8 + 1) / sum for id i. */
static void some_logits(float x[N], double prob[N])
{
    double sum = 0;

    for (unsigned i = 0; i < N; i++)
        sum += i % 8 + 1;
    for (unsigned i = 0; i < N; i++) {
        prob[i] = (i % 8 + 1) / sum;
        x[i] = (float)log(prob[i]) + 3;
    }
}

static void greedy_takes_the_first_best(void **state)
{
    float x[N] = {[3] = 1, [9] = 5, [20] = 5, [30] = -7}, logprob;
    struct sampler_params p = sampler_params_default();
    struct sampler *s;

    assert_int_equal(sampler_open(N, &s), 0);
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0, &logprob), 9);
    double sum = 2 * exp(5) + exp(1) + exp(-7) + (N - 4);
    assert_float_equal(logprob, 5 - log(sum), 1e-5);
    sampler_close(s);
}

static void penalty_counts_an_id_once(void **state)
{
    float x[N] = {[3] = 4, [9] = 5, [20] = 3.9f};
    const int32_t generated[] = {9, 9, 9, 3, -1, 1000};
    struct sampler_params p = sampler_params_default();
    struct sampler *s;

    p.repeat_penalty = 1.2f;
    assert_int_equal(sampler_open(N, &s), 0);
    /* 5 / 1.2 = 4.17 still leads; had it been divided three times it would not. */
    assert_int_equal(sampler_pick(s, &p, x, generated, 6, 0, NULL), 9);
    p.repeat_penalty = 1.3f; /* 3.85 < 3.9, and 4 / 1.3 */
    assert_int_equal(sampler_pick(s, &p, x, generated, 6, 0, NULL), 20);
    /* Nothing is remembered from call to call. */
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0, NULL), 9);

    for (unsigned i = 0; i < N; i++)
        x[i] = -1 - (float)i;
    const int32_t first = 0;
    p.repeat_penalty = 3; /* -1 becomes -3: id 1 at -2 leads */
    assert_int_equal(sampler_pick(s, &p, x, &first, 1, 0, NULL), 1);
    sampler_close(s);
}

static void draws_follow_the_distribution(void **state)
{
    enum { DRAWS = 40000 };
    const struct {
        float temp, top_p, min_p;
        uint32_t top_k;
    } cases[] = {{1, 1, 0, 0},   {.5f, 1, 0, 0},      {1, 1, 0, 7},     {1, .6f, 0, 0},
                 {1, 1, .6f, 0}, {1, .999999f, 0, N}, {2, .8f, .3f, 20}};
    double prob[N];
    float x[N];
    struct sampler *s;

    some_logits(x, prob);
    assert_int_equal(sampler_open(N, &s), 0);
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct sampler_params p = params(cases[c].temp);
        unsigned count[N] = {0};
        double want[N], mass = 0, chi = 0;
        unsigned order[N], kept = N;

        p.top_k = cases[c].top_k;
        p.top_p = cases[c].top_p;
        p.min_p = cases[c].min_p;

        /* By the definition: order, cut, renormalize. */
        for (unsigned i = 0; i < N; i++) {
            want[i] = pow(prob[i], 1 / p.temp);
            order[i] = i;
        }
        for (unsigned i = 1; i < N; i++)
            for (unsigned j = i; j && want[order[j]] > want[order[j - 1]]; j--) {
                unsigned t = order[j];
                order[j] = order[j - 1];
                order[j - 1] = t;
            }
        if (p.top_k)
            kept = p.top_k;
        double total = 0, so_far = 0;
        for (unsigned i = 0; i < kept; i++)
            total += want[order[i]];
        for (unsigned i = 0; i < kept; i++) {
            so_far += want[order[i]];
            if (p.top_p < 1 && so_far >= p.top_p * total * (1 - 1e-9))
                kept = i + 1;
        }
        while (kept && want[order[kept - 1]] < p.min_p * want[order[0]] * (1 - 1e-6))
            kept--;
        for (unsigned i = 0; i < kept; i++)
            mass += want[order[i]];

        for (unsigned i = 0; i < DRAWS; i++)
            count[sampler_pick(s, &p, x, NULL, 0, i, NULL)]++;
        for (unsigned i = 0; i < N; i++) {
            if (i >= kept) {
                assert_int_equal(count[order[i]], 0);
                continue;
            }
            double expected = want[order[i]] / mass * DRAWS;
            chi += pow(count[order[i]] - expected, 2) / expected;
        }
        /* Mean kept - 1, deviation sqrt(2 (kept - 1)): five deviations. */
        assert_true(chi < kept - 1 + 5 * sqrt(2.0 * kept));
    }
    sampler_close(s);
}

static void same_seed_and_position_same_id(void **state)
{
    double prob[N];
    float x[N];
    struct sampler_params p = params(1);
    struct sampler *a, *b;
    unsigned differ = 0;

    some_logits(x, prob);
    assert_int_equal(sampler_open(N, &a), 0);
    assert_int_equal(sampler_open(N, &b), 0);
    for (unsigned i = 0; i < 200; i++) {
        int32_t id = sampler_pick(a, &p, x, NULL, 0, i, NULL);

        /* Whatever was drawn before, and by whom. */
        assert_int_equal(sampler_pick(b, &p, x, NULL, 0, i, NULL), id);
        struct sampler_params other = p;
        other.seed++;
        differ += sampler_pick(b, &other, x, NULL, 0, i, NULL) != id;
    }
    assert_true(differ > 150);
    sampler_close(a);
    sampler_close(b);
}

/* A vocabulary wide enough that top-p has to look past its first selection. */
static void wide_top_p(void **state)
{
    enum { WIDE = 5000 };
    float *x = malloc(WIDE * sizeof(*x));
    struct sampler_params p = params(1);
    struct sampler *s;
    int32_t last = -1;

    for (unsigned i = 0; i < WIDE; i++)
        x[i] = -(float)i * 1e-6f; /* nearly flat: .5 of the mass is half of the ids */
    p.top_p = .5f;
    assert_int_equal(sampler_open(WIDE, &s), 0);
    for (unsigned i = 0; i < 2000; i++) {
        int32_t id = sampler_pick(s, &p, x, NULL, 0, i, NULL);

        assert_in_range(id, 0, WIDE / 2);
        last = id > last ? id : last;
    }
    assert_true(last > WIDE / 2 - 50);
    sampler_close(s);
    free(x);
}

static void top_logprobs_are_ordered(void **state)
{
    double prob[N];
    float x[N];
    struct sampler_top top[N + 5];
    struct sampler *s;

    some_logits(x, prob);
    assert_int_equal(sampler_open(N, &s), 0);
    assert_int_equal(sampler_top_logprobs(s, x, top, 12), 12);
    for (int i = 0; i < 12; i++) {
        assert_float_equal(top[i].logprob, log(prob[top[i].id]), 1e-5);
        /* 7, 15, ... hold the largest, then 6, 14, ... */
        assert_int_equal(top[i].id, i < 5    ? 8 * i + 7
                                    : i < 10 ? 8 * (i - 5) + 6
                                             : 8 * (i - 10) + 5);
    }
    assert_int_equal(sampler_top_logprobs(s, x, top, N + 5), N);
    sampler_close(s);
}

struct ranked {
    float x;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;

    return p->x != q->x ? (p->x < q->x ? 1 : -1) : p->id - q->id;
}

/* Against a sort of all, in a vocabulary as large as models have, with many logits alike; and the
 * same float as the one that is told of an id when it is picked. */
static void top_logprobs_are_a_sorts(void **state)
{
    enum { n = 50001 };
    static float x[n];
    static struct ranked all[n];
    struct sampler_top top[SAMPLER_TOP_MAX];
    struct sampler *s;

    assert_int_equal(sampler_open(n, &s), 0);
    for (unsigned round = 0; round < 12; round++) {
        const struct sampler_params greedy = sampler_params_default();
        float logprob;

        for (int32_t i = 0; i < n; i++) { /* at random, alike, rising, falling */
            const double u = sampler_uniform(round, (uint64_t)i);

            x[i] = round % 4 == 0   ? (float)(u * 20)
                   : round % 4 == 1 ? floorf((float)(u * 9))
                   : round % 4 == 2 ? (float)i
                                    : (float)-i;
            all[i] = (struct ranked){x[i], i};
        }
        qsort(all, n, sizeof *all, by_logit);
        for (size_t k = 0; k <= SAMPLER_TOP_MAX; k += 5 - k / 5) {
            memset(top, 0, sizeof top);
            assert_int_equal(sampler_top_logprobs(s, x, top, k), k);
            for (size_t i = 0; i < k; i++)
                assert_int_equal(top[i].id, all[i].id);
        }
        assert_int_equal(sampler_pick(s, &greedy, x, NULL, 0, 0, &logprob), all[0].id);
        assert_true(sampler_top_logprobs(s, x, top, 1) == 1 && top[0].logprob == logprob);
    }
    sampler_close(s);
}

/* Logits over the least temperature are past any float: the best must still win. */
static void no_token_of_a_nan(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct sampler *s;
    float logits[N] = {0};

    assert_int_equal(sampler_open(N, &s), 0);
    for (size_t i = 0; i < 6; i++) {
        struct sampler_params p = params(i < 3 ? 0 : 1);

        logits[N - 1] = bad[i % 3];
        assert_int_equal(sampler_pick(s, &p, logits, NULL, 0, 7, NULL), -EDOM);
    }
    sampler_close(s);
}

static void tiny_temperature_is_greedy(void **state)
{
    float x[N] = {[3] = 20, [9] = 25, [20] = 24};
    struct sampler_params p = params(1e-44f);
    struct sampler *s;

    assert_int_equal(sampler_params_check(&p), 0);
    assert_int_equal(sampler_open(N, &s), 0);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(sampler_pick(s, &p, x, NULL, 0, i, NULL), 9);
    p.top_p = .9f;
    p.min_p = .1f;
    p.top_k = 5;
    assert_int_equal(sampler_pick(s, &p, x, NULL, 0, 0, NULL), 9);
    sampler_close(s);
}

static void a_nan_shows_in_all_logprobs(void **state)
{
    float x[N] = {[7] = 2, [11] = NAN};
    struct sampler_top top[3];
    struct sampler *s;

    assert_int_equal(sampler_open(N, &s), 0);
    sampler_top_logprobs(s, x, top, 3);
    for (int i = 0; i < 3; i++)
        assert_true(isnan(top[i].logprob));
    x[11] = INFINITY;
    sampler_top_logprobs(s, x, top, 3);
    for (int i = 0; i < 3; i++)
        assert_true(isnan(top[i].logprob));
    sampler_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(uniform_is_uniform),
        cmocka_unit_test(params_are_checked),
        cmocka_unit_test(greedy_takes_the_first_best),
        cmocka_unit_test(penalty_counts_an_id_once),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(same_seed_and_position_same_id),
        cmocka_unit_test(wide_top_p),
        cmocka_unit_test(top_logprobs_are_ordered),
        cmocka_unit_test(top_logprobs_are_a_sorts),
        cmocka_unit_test(no_token_of_a_nan),
        cmocka_unit_test(tiny_temperature_is_greedy),
        cmocka_unit_test(a_nan_shows_in_all_logprobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
