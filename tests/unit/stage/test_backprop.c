/* SPDX-License-Identifier: Apache-2.0 */
/* The backward pass against the stage that really runs: the same logits, and gradients that
 * foretell what they do when the rows move. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compute/backprop/impl.h"
#include "compute/gguf.h"
#include "compute/stage.h"
#include "compute/team.h"
#include "tiny_model.h"

#define ROWS    70u /* more than are held at once */
#define SAMPLES 3u
#define SPLIT   1u

static struct team *team;
static uint64_t seed;

static const struct tiny_params models[] = {
    {.arch = "llama"},
    {.arch = "llama", .tied = true, .rope_factors = true},
    {.arch = "qwen2"},
    {.arch = "qwen2", .tied = true},
};

#define MODELS (sizeof(models) / sizeof(models[0]))

struct rig {
    struct gguf *gguf;
    char *path;
    struct stage *stage; /* the same layers, exact */
    struct backprop *back;
    struct backprop_work *work;
    float x[ROWS * TINY_D];
};

static float random_unit(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static void open_rig(struct rig *r, unsigned model)
{
    const struct stage_params sp = {
        .first_layer = SPLIT, .max_rows = ROWS, .max_seqs = 1, .exact = true};
    struct tiny_params p = models[model];
    char err[GGUF_ERR] = "";

    p.seed = seed;
    r->path = tiny_write(&p);
    if (gguf_open(r->path, &r->gguf, err) || stage_open(r->gguf, &sp, team, &r->stage, err) ||
        backprop_open(r->gguf, SPLIT, &r->back, err))
        fail_msg("%s", err);
    size_t weights, work;
    assert_int_equal(backprop_footprint(r->gguf, SPLIT, ROWS, SAMPLES, &weights, &work, err), 0);
    assert_int_equal(weights, backprop_bytes(r->back));
    assert_int_equal(backprop_work_open(r->back, ROWS, SAMPLES, &r->work), 0);
    assert_in_range(malloc_usable_size(r->work->block), work, work + 8192);
    for (size_t i = 0; i < ROWS * TINY_D; i++)
        r->x[i] = random_unit();
}

static void close_rig(struct rig *r)
{
    backprop_work_close(r->work);
    backprop_close(r->back);
    stage_close(r->stage);
    gguf_close(r->gguf);
    unlink(r->path);
    free(r->path);
}

static void run_stage(struct stage *s, const float *x, float *logits)
{
    const int seq = stage_seq_open(s, ROWS);
    const struct stage_rows rows = {.seq = seq, .n = ROWS, .n_logits = ROWS};

    assert_true(seq >= 0);
    assert_int_equal(stage_run(s, &rows, 1, NULL, x, NULL, logits), 0);
    stage_seq_close(s, seq);
}

static void keep(void *arg, uint32_t first, uint32_t count, const float *logits)
{
    memcpy((float *)arg + first * TINY_VOCAB, logits, count * TINY_VOCAB * sizeof(*logits));
}

static void test_logits(void **state)
{
    static float got[ROWS * TINY_VOCAB], want[ROWS * TINY_VOCAB];
    struct rig r;

    for (unsigned m = 0; m < MODELS; m++) {
        double error = 0, norm = 0;

        open_rig(&r, m);
        run_stage(r.stage, r.x, want);
        backprop_forward(r.work, r.x, ROWS, keep, got);
        for (size_t i = 0; i < ROWS * TINY_VOCAB; i++) {
            error += pow(got[i] - want[i], 2);
            norm += pow(want[i], 2);
        }
        /* The stage keeps keys and values in f16. */
        if (sqrt(error / norm) > 1e-3)
            fail_msg("model %u: logits are off by %g", m, sqrt(error / norm));
        close_rig(&r);
    }
}

/* sum_t -log p(ids[t]) */
static double loss_of(const float *logits, const int32_t *ids)
{
    double loss = 0;

    for (uint32_t t = 0; t < ROWS; t++) {
        const float *row = logits + t * TINY_VOCAB;
        double sum = 0;

        for (uint32_t i = 0; i < TINY_VOCAB; i++)
            sum += exp((double)row[i]);
        loss += log(sum) - (double)row[ids[t]];
    }
    return loss;
}

static double stage_loss(struct rig *r, const float *x, const int32_t *ids)
{
    static float logits[ROWS * TINY_VOCAB];

    run_stage(r->stage, x, logits);
    return loss_of(logits, ids);
}

static double forward_loss(struct rig *r, const float *x, const int32_t *ids)
{
    static float logits[ROWS * TINY_VOCAB];

    backprop_forward(r->work, x, ROWS, keep, logits);
    return loss_of(logits, ids);
}

/* d loss / d step along a direction, by both ways. */
static void compare_slopes(double (*loss)(struct rig *, const float *, const int32_t *), float step,
                           double tolerance)
{
    static float grads[SAMPLES * ROWS * TINY_D], moved[2][ROWS * TINY_D];
    int32_t ids[SAMPLES * ROWS];
    struct rig r;

    for (unsigned m = 0; m < MODELS; m++) {
        open_rig(&r, m);
        for (size_t i = 0; i < SAMPLES * ROWS; i++)
            ids[i] = rand() % (int)TINY_VOCAB;
        backprop_grads(r.work, r.x, ROWS, SAMPLES, NULL, 0, ids, grads);
        for (uint32_t s = 0; s < SAMPLES; s++) {
            const float *g = grads + (size_t)s * ROWS * TINY_D;
            double told = 0, norm = 0;

            for (size_t i = 0; i < ROWS * TINY_D; i++) {
                /* Half along the gradient, so that the slope is not lost in noise. */
                const float direction = random_unit() * fabsf(g[i]) + g[i];
                moved[0][i] = r.x[i] - step * direction;
                moved[1][i] = r.x[i] + step * direction;
                told += (double)g[i] * (double)(moved[1][i] - moved[0][i]);
                norm += fabs((double)g[i] * (double)(moved[1][i] - moved[0][i]));
            }
            const double seen =
                loss(&r, moved[1], ids + s * ROWS) - loss(&r, moved[0], ids + s * ROWS);
            assert_true(norm > 0);
            if (fabs(seen - told) > tolerance * fabs(seen))
                fail_msg("model %u, sample %u: the loss moved by %g, foretold %g", m, s, seen,
                         told);
        }
        close_rig(&r);
    }
}

static void test_gradient_of_itself(void **state)
{
    compare_slopes(forward_loss, 1e-3f, .01);
}

static void test_gradient_of_the_stage(void **state)
{
    compare_slopes(stage_loss, 1e-2f, .05);
}

/* A row on its own: later losses reach it, earlier ones don't. */
static void test_causal(void **state)
{
    static float grads[ROWS * TINY_D], logits[2][ROWS * TINY_VOCAB];
    const uint32_t at = ROWS / 2;
    int32_t ids[ROWS];
    struct rig r;

    for (unsigned m = 0; m < MODELS; m++) {
        double reached = 0;

        open_rig(&r, m);
        for (size_t i = 0; i < ROWS; i++)
            ids[i] = rand() % (int)TINY_VOCAB;
        backprop_grads(r.work, r.x, ROWS, 1, NULL, 0, ids, grads);
        backprop_forward(r.work, r.x, ROWS, keep, logits[0]);
        for (uint32_t i = 0; i < TINY_D; i++)
            r.x[at * TINY_D + i] += 1e-2f * grads[at * TINY_D + i];
        backprop_forward(r.work, r.x, ROWS, keep, logits[1]);
        assert_memory_equal(logits[0], logits[1], at * TINY_VOCAB * sizeof(float));
        for (uint32_t t = (at + 1) * TINY_VOCAB; t < ROWS * TINY_VOCAB; t++)
            reached += fabs((double)(logits[0][t] - logits[1][t]));
        assert_true(reached > 0);
        close_rig(&r);
    }
}

static void test_draws(void **state)
{
    static float first[SAMPLES * ROWS * TINY_D], again[SAMPLES * ROWS * TINY_D];
    int32_t ids[2][SAMPLES * ROWS];
    const uint64_t draws = seed;
    struct backprop_work *alone;
    struct rig r;

    open_rig(&r, 0);
    backprop_grads(r.work, r.x, ROWS, SAMPLES, &draws, 5, ids[0], first);
    for (size_t i = 0; i < SAMPLES * ROWS; i++)
        assert_in_range(ids[0][i], 0, TINY_VOCAB - 1);
    assert_memory_not_equal(ids[0], ids[0] + ROWS, ROWS * sizeof(ids[0][0]));

    /* Scratch of another size gives the same; so do the same ids given. */
    assert_int_equal(backprop_work_open(r.back, ROWS + 9, SAMPLES + 1, &alone), 0);
    backprop_grads(alone, r.x, ROWS, SAMPLES, &draws, 5, ids[1], again);
    assert_memory_equal(ids[0], ids[1], sizeof(ids[0]));
    assert_memory_equal(first, again, sizeof(first));
    backprop_grads(alone, r.x, ROWS, SAMPLES, NULL, 0, ids[0], again);
    assert_memory_equal(first, again, sizeof(first));

    backprop_grads(r.work, r.x, ROWS, SAMPLES, &draws, 6, ids[1], again);
    assert_memory_not_equal(ids[0], ids[1], sizeof(ids[0]));
    backprop_work_close(alone);
    close_rig(&r);
}

/* Many draws at one place follow its distribution. */
static void test_draws_follow_p(void **state)
{
    enum { TRIES = 4000 };
    static float grads[TINY_D], logits[TINY_VOCAB];
    unsigned count[TINY_VOCAB] = {0};
    double sum = 0, off = 0;
    struct rig r;

    open_rig(&r, 0);
    backprop_forward(r.work, r.x, 1, keep, logits);
    for (uint32_t i = 0; i < TRIES; i++) {
        int32_t id;
        backprop_grads(r.work, r.x, 1, 1, &seed, i, &id, grads);
        count[id]++;
    }
    for (uint32_t i = 0; i < TINY_VOCAB; i++)
        sum += exp((double)logits[i]);
    for (uint32_t i = 0; i < TINY_VOCAB; i++) {
        const double p = exp((double)logits[i]) / sum;
        off += pow(count[i] - TRIES * p, 2) / (TRIES * p); /* chi squared of 79 */
    }
    assert_true(off < 79 + 6 * sqrt(2 * 79));
    close_rig(&r);
}

static void test_refuses(void **state)
{
    struct tiny_params p = {.arch = "llama", .seed = seed, .missing = "blk.2.ffn_up.weight"};
    char err[GGUF_ERR], *path = tiny_write(&p);
    struct backprop *b;
    struct gguf *g;

    assert_int_equal(gguf_open(path, &g, err), 0);
    assert_int_equal(backprop_open(g, 1, &b, err), -EBADMSG);
    assert_non_null(strstr(err, "ffn_up"));
    assert_int_equal(backprop_open(g, TINY_LAYERS, &b, err), -ERANGE);
    assert_null(b);
    gguf_close(g);
    unlink(path);
    free(path);

    /* Its names and shapes are proved, but there is nothing to multiply by. */
    size_t bytes, work_bytes;
    p = (struct tiny_params){.arch = "llama", .seed = seed, .scheme = "sq3"};
    path = tiny_write(&p);
    assert_int_equal(gguf_open(path, &g, err), 0);
    assert_int_equal(backprop_open(g, 1, &b, err), -ENOTSUP);
    assert_null(b);
    assert_non_null(strstr(err, "is stored as sq3: calibrate the model it was made from"));
    assert_int_equal(backprop_footprint(g, 1, ROWS, SAMPLES, &bytes, &work_bytes, err), -ENOTSUP);
    gguf_close(g);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_gradient_of_itself),
        cmocka_unit_test(test_gradient_of_the_stage),
        cmocka_unit_test(test_causal),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_draws_follow_p),
        cmocka_unit_test(test_refuses),
    };
    const char *given = getenv("ISTHMUS_TEST_SEED");
    unsigned used;

    /* The same each time: with one seed in some thirty the stage's loss bends too much over the
     * step that its f16 keys and values need to be told from noise. */
    seed = given ? strtoull(given, NULL, 0) : 1;
    srand((unsigned)seed);
    printf("seed: ISTHMUS_TEST_SEED=%llu\n", (unsigned long long)seed);
    if (team_open(1, -1, &team, &used))
        return 1;
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    team_close(team);
    return rc;
}
