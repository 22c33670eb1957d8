/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compute/gguf.h"
#include "compute/stage.h"
#include "compute/team.h"
#include "tiny_model.h"

#define ROWS 48u

static struct team *team;
static uint64_t seed;

/* --- helpers --------------------------------------------------------------------------------- */

static struct gguf *tiny_open(const struct tiny_params *p, char **path)
{
    struct gguf *g;
    char err[GGUF_ERR] = "";

    *path = tiny_write(p);
    if (gguf_open(*path, &g, err))
        fail_msg("%s", err);
    return g;
}

static void tiny_close(struct gguf *g, char *path)
{
    gguf_close(g);
    unlink(path);
    free(path);
}

static struct stage *open_range(const struct gguf *g, uint32_t first, uint32_t end, bool exact)
{
    struct stage_params p = {
        .first_layer = first, .end_layer = end, .max_rows = ROWS, .max_seqs = 4, .exact = exact};
    struct stage *s;
    char err[GGUF_ERR] = "";

    if (stage_open(g, &p, team, &s, err))
        fail_msg("%s", err);
    return s;
}

static void random_ids(int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = rand() % (int)TINY_VOCAB;
}

/* All logits of one sequence run at once. */
static void run_whole(struct stage *s, const int32_t *ids, uint32_t n, float *logits)
{
    int seq = stage_seq_open(s, n);
    struct stage_rows rows = {.seq = seq, .pos = 0, .n = n, .n_logits = n};

    assert_true(seq >= 0);
    assert_int_equal(stage_run(s, &rows, 1, ids, NULL, NULL, logits), 0);
    stage_seq_close(s, seq);
}

static float *new_logits(uint32_t rows)
{
    return malloc((size_t)rows * TINY_VOCAB * sizeof(float));
}

static void assert_same_bits(const float *a, const float *b, uint32_t rows)
{
    assert_memory_equal(a, b, (size_t)rows * TINY_VOCAB * sizeof(float));
}

static const struct tiny_params *const models[] = {
    &(const struct tiny_params){.arch = "llama", .seed = 1, .tied = true},
    &(const struct tiny_params){.arch = "llama", .seed = 2, .rope_factors = true},
    &(const struct tiny_params){.arch = "qwen2", .seed = 3},
};
#define N_MODELS (sizeof(models) / sizeof(models[0]))

/* --- plain arithmetic ------------------------------------------------------------------------ */

static void ref_matmul(const struct gguf *g, const char *prefix, const char *name, const double *x,
                       double *y, uint32_t rows, uint32_t cols, bool add)
{
    char full[64];

    snprintf(full, sizeof(full), "%s%s.weight", prefix, name);
    float *w = tiny_tensor(g, full);
    snprintf(full, sizeof(full), "%s%s.bias", prefix, name);
    float *bias = tiny_tensor(g, full);
    for (uint32_t r = 0; r < rows; r++) {
        double sum = bias ? bias[r] : 0;

        for (uint32_t c = 0; c < cols; c++)
            sum += (double)w[r * cols + c] * x[c];
        y[r] = add ? y[r] + sum : sum;
    }
    free(w);
    free(bias);
}

static void ref_norm(const struct gguf *g, const char *prefix, const char *name, const double *x,
                     double *y)
{
    char full[64];
    double sum = 0;

    snprintf(full, sizeof(full), "%s%s.weight", prefix, name);
    float *w = tiny_tensor(g, full);
    for (uint32_t i = 0; i < TINY_D; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < TINY_D; i++)
        y[i] = x[i] / sqrt(sum / TINY_D + TINY_EPS) * w[i];
    free(w);
}

static void ref_rope(const float *factors, double *head, uint32_t pos, bool neox)
{
    const uint32_t half = TINY_HEAD_DIM / 2;

    for (uint32_t i = 0; i < half; i++) {
        double angle = pos * pow(TINY_BASE, -2.0 * i / TINY_HEAD_DIM) / (factors ? factors[i] : 1);
        double *a = neox ? &head[i] : &head[2 * i], *b = neox ? &head[i + half] : &head[2 * i + 1];
        double x = *a * cos(angle) - *b * sin(angle), y = *a * sin(angle) + *b * cos(angle);

        *a = x;
        *b = y;
    }
}

/* Rows [0, n) of one sequence, in double, without a cache; logits of all. */
static void ref_forward(const struct gguf *g, bool neox, const int32_t *ids, uint32_t n,
                        double *logits)
{
    enum { HD = TINY_HEAD_DIM, Q = TINY_HEADS * HD, KV = TINY_KV_HEADS * HD };
    double(*x)[TINY_D] = calloc(n, sizeof(*x)), (*q)[Q] = calloc(n, sizeof(*q));
    double(*k)[KV] = calloc(n, sizeof(*k)), (*v)[KV] = calloc(n, sizeof(*v));
    float *embd = tiny_tensor(g, "token_embd.weight"),
          *factors = tiny_tensor(g, "rope_freqs.weight");
    double norm[TINY_D], gate[TINY_FF], up[TINY_FF], att[Q];
    char prefix[32];

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < TINY_D; i++)
            x[t][i] = embd[(uint32_t)ids[t] * TINY_D + i];
    for (uint32_t l = 0; l < TINY_LAYERS; l++) {
        snprintf(prefix, sizeof(prefix), "blk.%u.", l);
        for (uint32_t t = 0; t < n; t++) {
            ref_norm(g, prefix, "attn_norm", x[t], norm);
            ref_matmul(g, prefix, "attn_q", norm, q[t], Q, TINY_D, false);
            ref_matmul(g, prefix, "attn_k", norm, k[t], KV, TINY_D, false);
            ref_matmul(g, prefix, "attn_v", norm, v[t], KV, TINY_D, false);
            for (uint32_t h = 0; h < TINY_HEADS; h++)
                ref_rope(factors, q[t] + h * HD, t, neox);
            for (uint32_t h = 0; h < TINY_KV_HEADS; h++)
                ref_rope(factors, k[t] + h * HD, t, neox);
        }
        for (uint32_t t = 0; t < n; t++) {
            memset(att, 0, sizeof(att));
            for (uint32_t h = 0; h < TINY_HEADS; h++) {
                uint32_t kvh = h / (TINY_HEADS / TINY_KV_HEADS) * HD;
                double p[TINY_CTX], sum = 0;

                for (uint32_t j = 0; j <= t; j++) {
                    double dot = 0;
                    for (uint32_t i = 0; i < HD; i++)
                        dot += q[t][h * HD + i] * k[j][kvh + i];
                    sum += p[j] = exp(dot / sqrt(HD));
                }
                for (uint32_t j = 0; j <= t; j++)
                    for (uint32_t i = 0; i < HD; i++)
                        att[h * HD + i] += p[j] / sum * v[j][kvh + i];
            }
            ref_matmul(g, prefix, "attn_output", att, x[t], TINY_D, Q, true);
            ref_norm(g, prefix, "ffn_norm", x[t], norm);
            ref_matmul(g, prefix, "ffn_gate", norm, gate, TINY_FF, TINY_D, false);
            ref_matmul(g, prefix, "ffn_up", norm, up, TINY_FF, TINY_D, false);
            for (uint32_t i = 0; i < TINY_FF; i++)
                gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
            ref_matmul(g, prefix, "ffn_down", gate, x[t], TINY_D, TINY_FF, true);
        }
    }
    const char *head = gguf_find(g, "output.weight") ? "output" : "token_embd";
    for (uint32_t t = 0; t < n; t++) {
        ref_norm(g, "", "output_norm", x[t], norm);
        ref_matmul(g, "", head, norm, logits + t * TINY_VOCAB, TINY_VOCAB, TINY_D, false);
    }
    free(x);
    free(q);
    free(k);
    free(v);
    free(embd);
    free(factors);
}

/* Root mean square of the difference over that of the reference. */
static double rel_error(const float *x, const double *ref, size_t n)
{
    double diff = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        diff += (x[i] - ref[i]) * (x[i] - ref[i]);
        norm += ref[i] * ref[i];
    }
    return sqrt(diff / norm);
}

static void agrees_with_plain_arithmetic(void **state)
{
    enum { N = 24 };

    for (size_t m = 0; m < N_MODELS; m++) {
        char *path;
        struct gguf *g = tiny_open(models[m], &path);
        int32_t ids[N];
        float *logits = new_logits(N);
        double *want = malloc(N * TINY_VOCAB * sizeof(*want));

        random_ids(ids, N);
        ref_forward(g, !strcmp(models[m]->arch, "qwen2"), ids, N, want);
        for (int exact = 0; exact < 2; exact++) {
            struct stage *s = open_range(g, 0, 0, exact);

            run_whole(s, ids, N, logits);
            /* f16 keys and values; int8 activations. */
            double e = rel_error(logits, want, N * TINY_VOCAB);
            if (!(e < (exact ? .002 : .05)))
                fail_msg("%s: %s relative error %g", models[m]->arch, exact ? "f32" : "int8", e);
            stage_close(s);
        }
        free(logits);
        free(want);
        tiny_close(g, path);
    }
}

/* --- what a row gives depends on its sequence's rows alone ----------------------------------- */

static void split_equals_whole(void **state)
{
    enum { N = 20 };

    for (size_t m = 0; m < N_MODELS; m++) {
        char *path;
        struct gguf *g = tiny_open(models[m], &path);
        struct stage *whole = open_range(g, 0, 0, false);
        float *want = new_logits(N), *got = new_logits(N), hidden[N * TINY_D];
        int32_t ids[N];

        random_ids(ids, N);
        run_whole(whole, ids, N, want);
        for (uint32_t cut = 1; cut < TINY_LAYERS; cut++) {
            struct stage *front = open_range(g, 0, cut, false),
                         *back = open_range(g, cut, 0, false);
            int a = stage_seq_open(front, N), b = stage_seq_open(back, N);
            struct stage_rows up = {.seq = a, .n = N}, down = {.seq = b, .n = N, .n_logits = N};

            assert_int_equal(stage_run(front, &up, 1, ids, NULL, hidden, NULL), 0);
            assert_int_equal(stage_run(back, &down, 1, NULL, hidden, NULL, got), 0);
            assert_same_bits(got, want, N);
            size_t shared = models[m]->rope_factors ? TINY_HEAD_DIM / 2 * sizeof(float) : 0;
            assert_int_equal(stage_info(front)->weights_bytes + stage_info(back)->weights_bytes,
                             stage_info(whole)->weights_bytes + shared);
            stage_close(front);
            stage_close(back);
        }
        stage_close(whole);
        free(want);
        free(got);
        tiny_close(g, path);
    }
}

static struct stage *open_headed(const struct gguf *g, uint32_t first, uint32_t end,
                                 enum stage_head head)
{
    struct stage_params p = {
        .first_layer = first, .end_layer = end, .max_rows = ROWS, .max_seqs = 4, .head = head};
    size_t weights, kv;
    struct stage *s;
    char err[GGUF_ERR] = "";

    if (stage_open(g, &p, team, &s, err) || stage_footprint(g, &p, 1, &weights, &kv, err))
        fail_msg("%s", err);
    assert_int_equal(stage_info(s)->weights_bytes, weights);
    return s;
}

/* The head may be at the front stage: of hidden states of the back one it makes the very logits, be
 * there some of each in a batch, and whatever rows it has at once. */
static void head_elsewhere_equals_own(void **state)
{
    enum { N = 20, CUT = 1 };

    for (size_t m = 0; m < N_MODELS; m++) {
        char *path;
        struct gguf *g = tiny_open(models[m], &path);
        struct stage *own = open_range(g, CUT, 0, false), *plain = open_range(g, 0, CUT, false),
                     *front = open_headed(g, 0, CUT, STAGE_HEAD_WITH),
                     *back = open_headed(g, CUT, 0, STAGE_HEAD_WITHOUT);
        float *want = new_logits(N), *got = new_logits(N), in[N * TINY_D], out[N * TINY_D];
        const size_t head_bytes = stage_info(own)->weights_bytes - stage_info(back)->weights_bytes;
        int32_t ids[N];

        assert_true(head_bytes > TINY_D * sizeof(float) + TINY_D * TINY_VOCAB);
        assert_int_equal(stage_info(front)->weights_bytes,
                         stage_info(plain)->weights_bytes + head_bytes);
        assert_true(stage_info(front)->has_head && stage_info(own)->has_head);
        assert_false(stage_info(back)->has_head || stage_info(plain)->has_head);
        random_ids(ids, N);
        int a = stage_seq_open(front, N), b = stage_seq_open(back, N), c = stage_seq_open(own, N),
            d = stage_seq_open(own, N);
        struct stage_rows up = {.seq = a, .n = N}, down = {.seq = c, .n = N, .n_logits = N};

        assert_int_equal(stage_run(front, &up, 1, ids, NULL, in, NULL), 0);
        assert_int_equal(stage_run(own, &down, 1, NULL, in, NULL, want), 0);

        /* All of it, in place; then chunks, of which the last rows are wanted. */
        memcpy(out, in, sizeof in);
        down = (struct stage_rows){.seq = b, .n = N, .n_hidden = N};
        assert_int_equal(stage_run(back, &down, 1, NULL, out, out, NULL), 0);
        assert_int_equal(stage_head(front, N, out, got), 0);
        assert_same_bits(got, want, N);
        assert_int_equal(stage_head(front, 0, out, got), 0);
        assert_int_equal(stage_seq_truncate(back, b, 0), 0);
        for (uint32_t pos = 0; pos < N;) {
            const uint32_t n = 1 + (uint32_t)rand() % (N - pos), some = (uint32_t)rand() % (n + 1);

            down = (struct stage_rows){.seq = b, .pos = pos, .n = n, .n_hidden = some};
            assert_int_equal(
                stage_run(back, &down, 1, NULL, in + (size_t)pos * TINY_D, some ? out : NULL, NULL),
                0);
            pos += n;
            for (uint32_t i = 0; i < some; i++)
                assert_int_equal(
                    stage_head(own, 1, out + (size_t)i * TINY_D, got + (size_t)i * TINY_VOCAB), 0);
            assert_same_bits(got, want + (size_t)(pos - some) * TINY_VOCAB, some);
        }

        /* Logits of one sequence, hidden states of another. */
        float both[2 * N * TINY_D];
        struct stage_rows mixed[] = {{.seq = d, .n = N, .n_hidden = 3},
                                     {.seq = c, .n = N, .n_logits = 5}};
        memcpy(both, in, sizeof in);
        memcpy(both + N * TINY_D, in, sizeof in);
        assert_int_equal(stage_seq_truncate(own, c, 0), 0);
        assert_int_equal(stage_run(own, mixed, 2, NULL, both, out, got), 0);
        assert_same_bits(got, want + (N - 5) * TINY_VOCAB, 5);
        assert_int_equal(stage_head(front, 3, out, got), 0);
        assert_same_bits(got, want + (N - 3) * TINY_VOCAB, 3);

        /* What does not go. */
        assert_int_equal(stage_seq_truncate(back, b, 0), 0);
        assert_int_equal(stage_seq_truncate(own, c, 0), 0);
        down = (struct stage_rows){.seq = b, .n = N, .n_logits = 1};
        assert_int_equal(stage_run(back, &down, 1, NULL, in, NULL, got), -EINVAL);
        down = (struct stage_rows){.seq = c, .n = N, .n_logits = 1, .n_hidden = 1};
        assert_int_equal(stage_run(own, &down, 1, NULL, in, out, got), -EINVAL);
        down = (struct stage_rows){.seq = b, .n = N, .n_hidden = N + 1};
        assert_int_equal(stage_run(back, &down, 1, NULL, in, out, NULL), -EINVAL);
        down = (struct stage_rows){.seq = b, .n = N, .n_hidden = 1};
        assert_int_equal(stage_run(back, &down, 1, NULL, in, NULL, NULL), -EINVAL);
        assert_int_equal(stage_seq_truncate(front, a, 0), 0);
        up.n_hidden = 1;
        assert_int_equal(stage_run(front, &up, 1, ids, NULL, out, NULL), -EINVAL);
        assert_int_equal(stage_head(back, 1, out, got), -EINVAL);
        assert_int_equal(stage_head(front, ROWS + 1, out, got), -EINVAL);
        stage_close(own);
        stage_close(plain);
        stage_close(front);
        stage_close(back);
        free(want);
        free(got);
        tiny_close(g, path);
    }
}

static void chunks_do_not_matter(void **state)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        char *path;
        struct gguf *g = tiny_open(models[m], &path);
        struct stage *s = open_range(g, 0, 0, false);
        float *want = new_logits(ROWS), *got = new_logits(ROWS);
        int32_t ids[ROWS];

        random_ids(ids, ROWS);
        run_whole(s, ids, ROWS, want);
        for (int round = 0; round < 8; round++) {
            int seq = stage_seq_open(s, ROWS);

            for (uint32_t pos = 0; pos < ROWS;) {
                uint32_t n = round == 0 ? 1 : 1 + (uint32_t)rand() % (ROWS - pos);
                struct stage_rows r = {.seq = seq, .pos = pos, .n = n, .n_logits = n};

                assert_int_equal(stage_run(s, &r, 1, ids + pos, NULL, NULL, got + pos * TINY_VOCAB),
                                 0);
                pos += n;
            }
            assert_same_bits(got, want, ROWS);
            stage_seq_close(s, seq);
        }
        stage_close(s);
        free(want);
        free(got);
        tiny_close(g, path);
    }
}

/* Three sequences that grow by random steps in common batches, in any order. */
static void batches_do_not_matter(void **state)
{
    enum { SEQS = 3, N = 30 };
    char *path;
    struct gguf *g = tiny_open(models[2], &path);
    struct stage *s = open_range(g, 0, 0, false);
    float *want[SEQS], *batch_logits = new_logits(ROWS);
    int32_t ids[SEQS][N];
    uint32_t pos[SEQS] = {0};
    int seqs[SEQS];

    for (int i = 0; i < SEQS; i++) {
        random_ids(ids[i], N);
        want[i] = new_logits(N);
        run_whole(s, ids[i], N, want[i]);
    }
    for (int i = 0; i < SEQS; i++)
        seqs[i] = stage_seq_open(s, N);
    while (pos[0] < N || pos[1] < N || pos[2] < N) {
        struct stage_rows batch[SEQS];
        int32_t batch_ids[ROWS];
        uint32_t n_batch = 0, rows = 0, logits = 0, who[SEQS];

        for (int k = 0, first = rand() % SEQS; k < SEQS; k++) {
            uint32_t i = (uint32_t)(first + k) % SEQS, left = N - pos[i];
            uint32_t n = left ? (uint32_t)rand() % (left < 12 ? left + 1 : 12) : 0;

            if (n == 0)
                continue;
            uint32_t n_logits = (uint32_t)rand() % (n + 1);
            memcpy(batch_ids + rows, ids[i] + pos[i], n * sizeof(*batch_ids));
            who[n_batch] = i;
            batch[n_batch++] = (struct stage_rows){seqs[i], pos[i], n, n_logits};
            rows += n;
        }
        if (n_batch == 0)
            continue;
        assert_int_equal(stage_run(s, batch, n_batch, batch_ids, NULL, NULL, batch_logits), 0);
        for (uint32_t b = 0; b < n_batch; b++) {
            const struct stage_rows *r = &batch[b];
            uint32_t first = r->pos + r->n - r->n_logits;

            assert_same_bits(batch_logits + logits * TINY_VOCAB, want[who[b]] + first * TINY_VOCAB,
                             r->n_logits);
            logits += r->n_logits;
            pos[who[b]] += r->n;
        }
    }
    stage_close(s);
    for (int i = 0; i < SEQS; i++)
        free(want[i]);
    free(batch_logits);
    tiny_close(g, path);
}

static void threads_do_not_matter(void **state)
{
    float *want = new_logits(ROWS), *got = new_logits(ROWS);
    struct team *main_team = team;
    int32_t ids[ROWS];

    random_ids(ids, ROWS);
    for (size_t m = 0; m < N_MODELS; m++) {
        char *path;
        struct gguf *g = tiny_open(models[m], &path);

        for (unsigned threads = 1; threads <= 3; threads++) {
            unsigned used;

            assert_int_equal(team_open(threads, -1, &team, &used), 0);
            struct stage *s = open_range(g, 0, 0, false);
            run_whole(s, ids, ROWS, threads == 1 ? want : got);
            if (threads > 1)
                assert_same_bits(got, want, ROWS);
            stage_close(s);
            team_close(team);
        }
        tiny_close(g, path);
    }
    team = main_team;
    free(want);
    free(got);
}

static void truncated_rows_are_forgotten(void **state)
{
    enum { N = 30, KEPT = 11 };
    char *path;
    struct gguf *g = tiny_open(models[0], &path);
    struct stage *s = open_range(g, 0, 0, false);
    float *want = new_logits(N), *got = new_logits(N);
    int32_t ids[N], other[N];

    random_ids(ids, N);
    random_ids(other, N);
    run_whole(s, ids, N, want);

    int seq = stage_seq_open(s, N);
    struct stage_rows first = {.seq = seq, .n = KEPT},
                      astray = {.seq = seq, .pos = KEPT, .n = N - KEPT};
    assert_int_equal(stage_run(s, &first, 1, ids, NULL, NULL, NULL), 0);
    assert_int_equal(stage_run(s, &astray, 1, other, NULL, NULL, NULL), 0);
    assert_int_equal(stage_seq_truncate(s, seq, N + 1), -EINVAL);
    assert_int_equal(stage_seq_truncate(s, seq, KEPT), 0);
    struct stage_rows rest = {.seq = seq, .pos = KEPT, .n = N - KEPT, .n_logits = N - KEPT};
    assert_int_equal(stage_run(s, &rest, 1, ids + KEPT, NULL, NULL, got), 0);
    assert_same_bits(got, want + KEPT * TINY_VOCAB, N - KEPT);
    stage_close(s);
    free(want);
    free(got);
    tiny_close(g, path);
}

/* --- limits ---------------------------------------------------------------------------------- */

static void admission(void **state)
{
    char *path, err[GGUF_ERR];
    struct gguf *g = tiny_open(models[0], &path);
    size_t weights, kv;
    struct stage_params p = {.max_rows = ROWS, .max_seqs = 3};
    struct stage *s;

    assert_int_equal(stage_footprint(g, &p, 40, &weights, &kv, err), 0);
    p.kv_budget_bytes = 2 * kv + kv / 2;
    assert_int_equal(stage_open(g, &p, team, &s, err), 0);
    assert_int_equal(stage_info(s)->weights_bytes, weights);
    assert_int_equal(stage_info(s)->kv_bytes, 0);
    assert_int_equal(stage_info(s)->n_ctx, TINY_CTX);

    assert_int_equal(stage_seq_open(s, TINY_CTX + 1), -ERANGE);
    assert_int_equal(stage_seq_open(s, 0), -ERANGE);
    int a = stage_seq_open(s, 40), b = stage_seq_open(s, 40);
    assert_true(a >= 0 && b >= 0 && a != b);
    assert_int_equal(stage_seq_open(s, 40), -ENOSPC); /* the budget */

    int32_t ids[40] = {0};
    struct stage_rows r = {.seq = a, .n = 40};
    assert_int_equal(stage_run(s, &r, 1, ids, NULL, NULL, NULL), 0);
    assert_int_equal(stage_info(s)->kv_bytes, kv);
    stage_seq_close(s, a);
    assert_int_equal(stage_info(s)->kv_bytes, 0);
    stage_seq_close(s, a); /* twice does nothing */
    stage_seq_close(s, 77);
    assert_true(stage_seq_open(s, 40) >= 0);
    stage_close(s);

    p.kv_budget_bytes = 0; /* room for all, but three ids */
    assert_int_equal(stage_open(g, &p, team, &s, err), 0);
    for (int i = 0; i < 3; i++)
        assert_true(stage_seq_open(s, TINY_CTX) >= 0);
    assert_int_equal(stage_seq_open(s, 1), -ENOSPC);
    stage_close(s);
    tiny_close(g, path);
}

static void bad_runs_change_nothing(void **state)
{
    char *path;
    struct gguf *g = tiny_open(models[0], &path);
    struct stage *s = open_range(g, 0, 0, false), *front = open_range(g, 0, 1, false),
                 *back = open_range(g, 1, 0, false);
    float *want = new_logits(4), *got = new_logits(ROWS + 1), hidden[4 * TINY_D] = {0};
    int32_t ids[ROWS + 1] = {1, 2, 3, 4};

    run_whole(s, ids, 4, want);
    int seq = stage_seq_open(s, 10), up = stage_seq_open(front, 4), down = stage_seq_open(back, 4);
    const struct stage_rows bad[] = {
        {seq, 1, 1, 0}, /* not its length */
        {seq, 0, 0, 0},        {seq, 0, 11, 0},         {seq, 0, 4, 5},
        {seq + 1, 0, 4, 0},    {-1, 0, 4, 0},           {99, 0, 4, 0},
        {seq, 0, ROWS + 1, 0}, {seq, UINT32_MAX, 1, 0}, {seq, 0, UINT32_MAX, 0},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(stage_run(s, &bad[i], 1, ids, NULL, NULL, got), -EINVAL);

    struct stage_rows ok = {seq, 0, 4, 4}, twice[] = {{seq, 0, 2, 0}, {seq, 2, 2, 0}};
    assert_int_equal(stage_run(s, twice, 2, ids, NULL, NULL, got), -EINVAL);
    assert_int_equal(stage_run(s, &ok, 1, ids, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(stage_run(s, &ok, 1, NULL, NULL, NULL, got), -EINVAL);
    assert_int_equal(stage_run(s, &ok, 1, NULL, hidden, NULL, got), -EINVAL);
    assert_int_equal(stage_run(s, &ok, 1, ids, NULL, hidden, got), -EINVAL);
    ids[2] = TINY_VOCAB;
    assert_int_equal(stage_run(s, &ok, 1, ids, NULL, NULL, got), -EINVAL);
    ids[2] = -1;
    assert_int_equal(stage_run(s, &ok, 1, ids, NULL, NULL, got), -EINVAL);
    ids[2] = 3;

    struct stage_rows no_head = {up, 0, 4, 1}, no_ids = {down, 0, 4, 1};
    assert_int_equal(stage_run(front, &no_head, 1, ids, NULL, hidden, got), -EINVAL);
    assert_int_equal(stage_run(back, &no_ids, 1, ids, NULL, NULL, got), -EINVAL);

    assert_int_equal(stage_run(s, NULL, 0, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(stage_run(s, &ok, 1, ids, NULL, NULL, got), 0);
    assert_same_bits(got, want, 4);
    stage_close(s);
    stage_close(front);
    stage_close(back);
    free(want);
    free(got);
    tiny_close(g, path);
}

static unsigned polls;

static void count_poll(void *arg)
{
    assert_ptr_equal(arg, &polls);
    polls++;
}

static void leader_polls(void **state)
{
    char *path;
    struct gguf *g = tiny_open(models[0], &path);
    struct stage *s = open_range(g, 0, 0, false);
    float *logits = new_logits(ROWS);
    int32_t ids[ROWS] = {0};

    stage_set_poll(s, count_poll, &polls);
    for (int i = 0; i < 20; i++)
        run_whole(s, ids, ROWS, logits);
    assert_true(polls > 0);
    stage_set_poll(s, NULL, NULL);
    run_whole(s, ids, ROWS, logits);
    stage_close(s);
    free(logits);
    tiny_close(g, path);
}

/* --- bad models ------------------------------------------------------------------------------ */

static void refused(struct tiny_params p, int rc, const char *named)
{
    char *path, err[GGUF_ERR] = "", err_foot[GGUF_ERR] = "";
    struct stage_params sp = {.max_rows = ROWS};
    struct gguf *g = tiny_open(&p, &path);
    struct stage *s;
    size_t weights, kv;

    assert_int_equal(stage_open(g, &sp, team, &s, err), rc);
    assert_null(s);
    if (!strstr(err, named) || !strstr(err, path))
        fail_msg("\"%s\" does not name %s", err, named);
    /* The metadata alone shows it too. */
    assert_int_equal(stage_footprint(g, &sp, 1, &weights, &kv, err_foot), rc);
    assert_string_equal(err, err_foot);
    tiny_close(g, path);
}

static void weights_that_are_no_numbers(void **state)
{
    static const char *const names[] = {"output_norm.weight", "blk.1.attn_q.bias",
                                        "blk.2.ffn_down.weight", "blk.0.attn_q.weight"};
    static const uint8_t nan[4] = {0xff, 0xff, 0xff, 0xff}; /* as f32, f16 or bf16 */

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct tiny_params p = {.arch = "qwen2"};
        struct stage_params sp = {.max_rows = ROWS};
        char *path, err[GGUF_ERR] = "";
        struct gguf *g = tiny_open(&p, &path);
        struct stage *s;
        int fd = open(path, O_WRONLY);

        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, nan, sizeof(nan), (off_t)gguf_find(g, names[i])->offset), 4);
        close(fd);
        assert_int_equal(stage_open(g, &sp, team, &s, err), -EBADMSG);
        if (!strstr(err, names[i]) || !strstr(err, "NaN"))
            fail_msg("\"%s\" does not say what is wrong with %s", err, names[i]);
        tiny_close(g, path);
    }
}

static void bad_tensors_are_named(void **state)
{
    static const char *const names[] = {
        "token_embd.weight",        "output_norm.weight",    "blk.0.attn_norm.weight",
        "blk.1.attn_q.weight",      "blk.0.attn_k.weight",   "blk.2.attn_v.weight",
        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight",
        "blk.2.ffn_up.weight",      "blk.0.ffn_down.weight", "blk.1.attn_q.bias",
        "blk.0.attn_k.bias",        "blk.2.attn_v.bias",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        refused((struct tiny_params){.arch = "qwen2", .missing = names[i]}, -EBADMSG, names[i]);
        refused((struct tiny_params){.arch = "qwen2", .misshapen = names[i]}, -EBADMSG, names[i]);
    }
    refused((struct tiny_params){.arch = "llama", .misshapen = "output.weight"}, -EBADMSG,
            "output.weight");
    refused((struct tiny_params){.arch = "llama",
                                 .rope_factors = true,
                                 .misshapen = "rope_freqs.weight"},
            -EBADMSG, "rope_freqs.weight");
    refused((struct tiny_params){.arch = "llama", .extra = "blk.0.attn_q_norm.weight"}, -ENOTSUP,
            "blk.0.attn_q_norm.weight");
    refused((struct tiny_params){.arch = "llama", .extra = "blk.3.attn_norm.weight"}, -ENOTSUP,
            "blk.3.attn_norm.weight");
    refused((struct tiny_params){.arch = "llama", .extra = "blk.00.attn_norm.weight"}, -ENOTSUP,
            "blk.00.attn_norm.weight");
    refused((struct tiny_params){.arch = "llama", .extra = "position_embd.weight"}, -ENOTSUP,
            "position_embd.weight");
}

static void bad_hyper_parameters_are_named(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int rc;
    } cases[] = {
        {"block_count", 0, -EBADMSG},
        {"block_count", 4000000000u, -EBADMSG},
        {"embedding_length", 0, -EBADMSG},
        {"embedding_length", 48, -EBADMSG},
        {"embedding_length", 4000000000u, -EBADMSG},
        {"feed_forward_length", 33, -EBADMSG},
        {"context_length", 0, -EBADMSG},
        {"attention.head_count", 0, -EBADMSG},
        {"attention.head_count", 4000000000u, -EBADMSG},
        {"attention.head_count_kv", 3, -EBADMSG},
        {"attention.head_count_kv", 0, -EBADMSG},
        {"attention.key_length", 15, -EBADMSG},
        {"attention.value_length", 32, -ENOTSUP},
        {"rope.dimension_count", 3, -EBADMSG},
        {"rope.dimension_count", 32, -EBADMSG},
        {"rope.scaling.type", 1, -EBADMSG},
        {"expert_count", 8, -ENOTSUP},
        {"attention.sliding_window", 16, -ENOTSUP},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        refused((struct tiny_params){.arch = "llama", .key = cases[i].key, .value = cases[i].value},
                cases[i].rc, cases[i].key);
    refused((struct tiny_params){.arch = "llama",
                                 .string_key = "rope.scaling.type",
                                 .string_value = "yarn"},
            -ENOTSUP, "yarn");
    refused((struct tiny_params){.arch = "llama", .n_tokens = TINY_VOCAB + 1}, -EBADMSG,
            "tokenizer.ggml.tokens: 81 tokens");
    refused((struct tiny_params){.arch = "mamba"}, -ENOTSUP, "mamba");
    refused((struct tiny_params){.arch = "mamba"}, -ENOTSUP, "llama qwen2");
    /* With the default of 16 dims of 64: the tensors don't fit these, and are named. */
    refused((struct tiny_params){.arch = "llama", .key = "attention.head_count", .value = 2},
            -EBADMSG, "blk.0.attn_k.weight");
}

static void bad_ranges(void **state)
{
    static const struct stage_params bad[] = {
        {.first_layer = 3},
        {.end_layer = 4},
        {.first_layer = 2, .end_layer = 2},
        {.first_layer = 2, .end_layer = 1},
        {.n_ctx = TINY_CTX + 1},
        {.max_rows = 1u << 20},
        {.max_seqs = 1u << 20},
    };
    char *path, err[GGUF_ERR];
    struct gguf *g = tiny_open(models[0], &path);
    struct stage *s;

    assert_int_equal(stage_count_layers(g, err), TINY_LAYERS);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err[0] = 0;
        assert_int_equal(stage_open(g, &bad[i], team, &s, err), -ERANGE);
        assert_non_null(strstr(err, path));
    }
    tiny_close(g, path);
}

/* The embedding's rows come from the file while the stage runs. */
static void embedding_lost(void **state)
{
    char *path;
    struct gguf *g = tiny_open(models[0], &path);
    struct stage *s = open_range(g, 0, 0, false);
    float *logits = new_logits(1);
    int32_t id = TINY_VOCAB - 1;
    int seq = stage_seq_open(s, 4);
    struct stage_rows r = {seq, 0, 1, 1};

    assert_int_equal(truncate(path, 64), 0);
    assert_int_equal(stage_run(s, &r, 1, &id, NULL, NULL, logits), -EIO);
    stage_close(s);
    free(logits);
    tiny_close(g, path);
}

static int open_team(void **state)
{
    unsigned used;
    const char *given = getenv("ISTHMUS_TEST_SEED");

    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    srand((unsigned)seed);
    print_message("ISTHMUS_TEST_SEED=%llu\n", (unsigned long long)seed);
    return team_open(2, -1, &team, &used);
}

static int close_team(void **state)
{
    team_close(team);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_plain_arithmetic),
        cmocka_unit_test(split_equals_whole),
        cmocka_unit_test(head_elsewhere_equals_own),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(batches_do_not_matter),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(truncated_rows_are_forgotten),
        cmocka_unit_test(admission),
        cmocka_unit_test(bad_runs_change_nothing),
        cmocka_unit_test(leader_polls),
        cmocka_unit_test(bad_tensors_are_named),
        cmocka_unit_test(weights_that_are_no_numbers),
        cmocka_unit_test(bad_hyper_parameters_are_named),
        cmocka_unit_test(bad_ranges),
        cmocka_unit_test(embedding_lost),
    };

    return cmocka_run_group_tests(tests, open_team, close_team);
}
