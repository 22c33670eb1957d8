/* SPDX-License-Identifier: Apache-2.0 */
/* Times that can be added up by hand. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models.h"

struct world {
    struct plan_model m;
    struct plan_host host;
    struct plan_link link;
    struct plan_speed *speed;
    struct plan_latency_case c;
};

static int begin(void **state)
{
    struct world *x = calloc(1, sizeof(*x));

    made_model(8, &x->m);
    made_host(&x->m, 1e-3, &x->host);
    x->link = (struct plan_link){
        .up_bits_per_s = 1e7, .down_bits_per_s = 1e9, .rtt_s = .01, .mtu_bytes = 1500};
    assert_int_equal(plan_speed_open(&x->m, &x->host, &x->speed), 0);
    x->c = (struct plan_latency_case){.edge = x->speed,
                                      .cloud = x->speed,
                                      .link = &x->link,
                                      .split = 2,
                                      .kv = KV_F16,
                                      .sessions = 1,
                                      .chunk = 64,
                                      .prompt = 300,
                                      .depth = 0,
                                      .decode_bytes = 1000,
                                      .prefill_bytes = 1000};
    *state = x;
    return 0;
}

static int finish(void **state)
{
    struct world *x = *state;

    plan_speed_close(x->speed);
    plan_model_free(&x->m);
    free(x);
    return 0;
}

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-9 + 1e-6 * fabs(1.0 * (b)))

static void token(void **state)
{
    struct world *x = *state;
    struct plan_latency t;

    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    /* A stage of 2 of 4 measured layers has half of their time, of 6 halfway from 4 to 8. */
    NEAR(t.edge_s, 2e-3 + .5e-4);
    NEAR(t.cloud_s, 6e-3 + 1e-4);
    NEAR(t.head_s, 5e-3);
    NEAR(t.wire_bytes, 1000 + 82 + 9 + 12);
    NEAR(t.up_s, 1103 * 8 / 1e7);
    NEAR(t.rtt_s, .01 + 114 * 8 / 1e9);
    NEAR(t.tpot_s, t.edge_s + t.cloud_s + t.head_s + t.up_s + t.rtt_s + 1e-4);
    /* Attention to 1,000 tokens before, in 8 layers. */
    x->c.depth = 1000;
    struct plan_latency deep;
    assert_int_equal(plan_latency(&x->m, &x->c, &deep), 0);
    NEAR(deep.tpot_s - t.tpot_s, 8 * 1000 * 1e-3 * 1e-4);
}

/* A prompt of one chunk: nothing overlaps, so its time is a sum. */
static void one_chunk(void **state)
{
    struct world *x = *state;
    struct plan_latency t;

    x->c.prompt = 64;
    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    const double rows = 1 + 63 / 16.0, wire = 64 * 1000 + 64 * 91 + 12;
    NEAR(t.ttft_s, fmax(2e-3 * rows, .01) + 1.5 * .01 + wire * 8 / 1e7 + 6e-3 * rows + 5e-3 + .01 +
                       114 * 8 / 1e9 + 1e-4);
    /* Of hardly more than the link sends at once, a part of a doubling is waited for. */
    x->c.prefill_bytes = 100;
    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    NEAR(t.ttft_s, fmax(2e-3 * rows, .01) + log2(6400 / 6e3) * .01 +
                       plan_wire_bytes(&x->link, 64, 100) * 8 / 1e7 + 6e-3 * rows + 5e-3 + .01 +
                       114 * 8 / 1e9 + 1e-4);
    x->c.prefill_bytes = 93;
    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    NEAR(t.ttft_s, fmax(2e-3 * rows, .01) + plan_wire_bytes(&x->link, 64, 93) * 8 / 1e7 +
                       6e-3 * rows + 5e-3 + .01 + 114 * 8 / 1e9 + 1e-4);
}

/* Of many chunks the slowest of edge, link and cloud sets the pace. */
static void many_chunks(void **state)
{
    struct world *x = *state;
    struct plan_latency t;

    x->c.prompt = 32 + 100 * 64;
    x->link.up_bits_per_s = 1e6;
    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    const double of_link = (6432.0 * 1091) * 8 / 1e6;
    assert_true(t.ttft_s > of_link && t.ttft_s < of_link * 1.02);
    x->link.up_bits_per_s = 1e10;
    assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
    const double of_cloud = 100 * 6e-3 * (1 + 63 / 16.0) +
                            6 * 5e-8 * 64 * 64 * (100 * 99 / 2.0 + 50); /* and attention */
    assert_true(t.ttft_s > of_cloud && t.ttft_s < of_cloud * 1.05);
}

/* Longer prompts, slower links and losses never take less. */
static void monotone(void **state)
{
    struct world *x = *state;

    for (uint32_t n = 65; n < 1500; n++) { /* the same last chunk, one more before it */
        struct plan_latency t, more;
        x->c.prompt = n;
        assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
        x->c.prompt = n + 64;
        assert_int_equal(plan_latency(&x->m, &x->c, &more), 0);
        assert_true(more.ttft_s > t.ttft_s);
    }
    struct plan_latency clean, lossy;
    assert_int_equal(plan_latency(&x->m, &x->c, &clean), 0);
    x->link.loss = .05;
    assert_int_equal(plan_latency(&x->m, &x->c, &lossy), 0);
    assert_true(lossy.tpot_s > clean.tpot_s && lossy.ttft_s > clean.ttft_s);
}

/* The bound is never above what it bounds, and near it: over links, prompts and chunks of all
 * kinds. */
static void at_least(void **state)
{
    static const double rates[] = {3e5, 4e6, 1e8}, rtts[] = {1e-3, .02, .3}, losses[] = {0, .02};
    static const uint32_t chunks[] = {1, 16, 64, 100}, prompts[] = {1, 2, 63, 64, 300, 1000, 4097};
    struct world *x = *state;
    double worst = 1, sum = 0;
    uint32_t n = 0;

    x->host.beside = 1.3;
    for (uint32_t i = 0; i < 3 * 3 * 2 * 4 * 7 * 2 * 2 * 7; i++) {
        uint32_t of = i;
        struct plan_latency t;
        struct plan_chunks k;
        struct plan_part edge, link, cloud;
#define ONE_OF(list)                                                                               \
    (list)[of % (sizeof(list) / sizeof *(list))], of /= sizeof(list) / sizeof *(list)
        x->link.up_bits_per_s = ONE_OF(rates);
        x->link.rtt_s = ONE_OF(rtts);
        x->link.loss = ONE_OF(losses);
        x->c.chunk = ONE_OF(chunks);
        x->c.prompt = ONE_OF(prompts);
        x->c.beside = of % 2;
        x->c.home = of / 2 % 2 ? PLAN_KV_EDGE : PLAN_KV_CLOUD;
        x->c.split = 1 + of / 4;
        assert_int_equal(plan_latency(&x->m, &x->c, &t), 0);
        plan_chunks_of(&x->c, &k);
        assert_int_equal(plan_part_edge(&x->m, &x->c, &k, &edge), 0);
        assert_int_equal(plan_part_cloud(&x->m, &x->c, &k, &cloud), 0);
        plan_part_link(&x->m, &x->c, &k, &link);
        const double least = plan_latency_least_prompt(&x->c, &edge, &link, &cloud);
        assert_true(least <= t.ttft_s);
        worst = fmin(worst, least / t.ttft_s);
        sum += least / t.ttft_s;
        n++;
    }
    print_message("bound over time: %.3f at worst, %.3f on the average\n", worst, sum / n);
    assert_true(worst > .5 && sum / n > .9);
}

/* Keys and values that travel: all of the cloud's layers' for every row. */
static void kv_at_the_edge(void **state)
{
    struct world *x = *state;
    struct plan_latency here, there;

    x->c.depth = 512;
    assert_int_equal(plan_latency(&x->m, &x->c, &here), 0);
    x->c.home = PLAN_KV_EDGE;
    assert_int_equal(plan_latency(&x->m, &x->c, &there), 0);
    const double row = 2 * 6 * 8 * 128 * 2;
    NEAR(there.tpot_s - here.tpot_s, 512 * row * 8 / 1e7 + row * 8 / 1e9);
}

/* Storage that is slower by its bytes; what was not measured is not guessed. */
static void storage(void **state)
{
    struct world *x = *state;
    struct plan_latency keep, wide;

    assert_int_equal(plan_latency(&x->m, &x->c, &keep), 0);
    x->c.front = PLAN_Q8_0;
    assert_int_equal(plan_latency(&x->m, &x->c, &wide), 0);
    NEAR(wide.edge_s - keep.edge_s, 2 * 1e-3 * .9 * (1.0625 - .625) / .625);
    x->c.front = PLAN_SQ3;
    assert_int_equal(plan_latency(&x->m, &x->c, &wide), 0);
    NEAR(wide.edge_s - keep.edge_s, 2 * 1e-3 * (.8 - .9));
    x->c.front = PLAN_SQ2;
    assert_int_equal(plan_latency(&x->m, &x->c, &wide), -ENOENT);
    x->c.front = PLAN_KEEP;
    x->host.attend[KV_Q4].one_s = 0;
    x->c.kv = KV_Q4;
    assert_int_equal(plan_latency(&x->m, &x->c, &wide), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(token, begin, finish),
        cmocka_unit_test_setup_teardown(one_chunk, begin, finish),
        cmocka_unit_test_setup_teardown(many_chunks, begin, finish),
        cmocka_unit_test_setup_teardown(monotone, begin, finish),
        cmocka_unit_test_setup_teardown(at_least, begin, finish),
        cmocka_unit_test_setup_teardown(kv_at_the_edge, begin, finish),
        cmocka_unit_test_setup_teardown(storage, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
