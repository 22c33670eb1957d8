/* SPDX-License-Identifier: Apache-2.0 */
/* Edge and cloud over the loop port with netem: the ports that ship, rather than the simulation's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/pipeline.h"
#include "tests/unit/pipeline/fake_stage.h"

#define MS        1000000ull
#define N_PROMPT  100u
#define N_PREDICT 40u

struct heard {
    int32_t ids[N_PREDICT];
    uint32_t n;
    bool done;
    struct edge_result result;
};

static void on_token(void *arg, const struct token_sample *t)
{
    struct heard *h = arg;

    assert_true(h->n < N_PREDICT);
    h->ids[h->n++] = t->id;
}

static void on_done(void *arg, const struct edge_result *result)
{
    struct heard *h = arg;

    h->done = true;
    h->result = *result;
}

static void impair(struct port **port, double drop, uint64_t seed)
{
    struct netem_params n = {.drop = drop, .duplicate = drop, .reorder = drop, .seed = seed};

    if (drop > 0)
        assert_int_equal(port_netem(*port, &n, port), 0);
}

/* lose_cloud_at: the cloud's end is closed after so many tokens; 0: never. */
static void run(double drop, uint64_t seed, uint32_t lose_cloud_at)
{
    struct fake_params fp = {0};
    struct sampler_params greedy = sampler_params_default();
    struct edge_params ep = {.stage = fake_open(false, &fp, NULL), .chunk_tokens = 16};
    struct cloud_params cp = {.stage = fake_open(true, &fp, NULL)};
    int32_t prompt[N_PROMPT], right[N_PREDICT];
    struct heard heard = {0};
    struct edge_request r = {.prompt_ids = prompt,
                             .n_prompt = N_PROMPT,
                             .n_predict = N_PREDICT,
                             .sampler = greedy,
                             .on_token = on_token,
                             .on_done = on_done,
                             .arg = &heard};
    char err[PIPELINE_ERR];
    struct edge *e;
    struct cloud *c;
    uint64_t deadline;

    for (uint32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (int32_t)(i * 7 + seed) % (int32_t)FAKE_VOCAB;
    assert_int_equal(port_loop_pair(1024, 256, 1500, &ep.port, &cp.port), 0);
    impair(&ep.port, drop, seed);
    impair(&cp.port, drop, seed + 1);
    ep.codec = cp.codec = codec_params_default(CODEC_F32);
    assert_int_equal(edge_open(&ep, 0, &e, err), 0);
    assert_int_equal(cloud_open(&cp, 0, &c, err), 0);
    assert_true(edge_submit(e, &r, 0) > 0);
    for (uint64_t now = 0; !heard.done; now += MS / 5) {
        assert_true(now < 300000 * MS);
        (void)edge_poll(e, now, &deadline);
        if (c && lose_cloud_at && heard.n >= lose_cloud_at) {
            cloud_close(c); /* says CLOSE */
            c = NULL;
        }
        if (c)
            (void)cloud_poll(c, now, &deadline);
    }
    if (lose_cloud_at) {
        assert_int_equal(heard.result.finish, EDGE_LOST);
        assert_non_null(strstr(edge_error(e), "the cloud is lost"));
    } else {
        assert_int_equal(heard.result.finish, EDGE_LENGTH);
        assert_int_equal(
            fake_reference(prompt, N_PROMPT, N_PREDICT, &greedy, -1, 64, right, NULL, 0),
            N_PREDICT);
        assert_memory_equal(heard.ids, right, sizeof right);
    }
    edge_close(e);
    cloud_close(c);
    port_close(ep.port);
    port_close(cp.port);
    stage_close(ep.stage);
    stage_close(cp.stage);
}

static void test_same_tokens_whatever_is_lost(void **state)
{
    run(0, 1, 0);
    run(.2, 2, 0);
    run(.5, 3, 0);
}

static void test_cloud_leaves(void **state)
{
    run(0, 1, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_tokens_whatever_is_lost),
        cmocka_unit_test(test_cloud_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
