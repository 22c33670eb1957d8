/* SPDX-License-Identifier: Apache-2.0 */
/* The KV cache: its pages and budget, and that sequences are what they would be alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compute/gguf.h"
#include "compute/kv.h"
#include "compute/stage.h"
#include "compute/team.h"
#include "tiny_model.h"

static const struct kv_shape shape = {.n_layers = 2, .n_kv_heads = 3, .head_dim = 64};

/* --- pages ----------------------------------------------------------------------------------- */

static size_t page(void)
{
    return kv_bytes_for(&shape, KV_F16, 1);
}

static struct kv *open_pages(uint32_t seqs, size_t pages)
{
    struct kv *kv;

    assert_int_equal(kv_open(&shape, seqs, pages * page() + page() / 2, &kv), 0);
    return kv;
}

static void assert_pages(const struct kv *kv, size_t reserved, size_t resident, size_t shared)
{
    const struct kv_account a = kv_account(kv);

    assert_int_equal(a.reserved_bytes, reserved * page());
    assert_int_equal(a.resident_bytes, resident * page());
    assert_int_equal(a.shared_bytes, shared * page());
    assert_true(a.reserved_bytes <= a.budget_bytes);
}

/* What a token's place holds, in every layer and head. */
static void mark(const struct kv *kv, int seq, uint32_t token, uint8_t value)
{
    for (uint32_t layer = 0; layer < shape.n_layers; layer++)
        for (uint32_t head = 0; head < shape.n_kv_heads; head++)
            kv_tiles(kv, seq, token / KV_PAGE, layer, head)[token % KV_PAGE] = value;
}

static void assert_marked(const struct kv *kv, int seq, uint32_t token, uint8_t value)
{
    for (uint32_t layer = 0; layer < shape.n_layers; layer++)
        for (uint32_t head = 0; head < shape.n_kv_heads; head++)
            assert_int_equal(kv_tiles(kv, seq, token / KV_PAGE, layer, head)[token % KV_PAGE],
                             value);
}

static void a_sequence_reserves_and_grows(void **state)
{
    struct kv *kv = open_pages(3, 5);

    assert_int_equal(kv_seq_open(kv, KV_F16, 0), -EINVAL);
    int a = kv_seq_open(kv, KV_F16, 3 * KV_PAGE);
    assert_true(a >= 0);
    assert_pages(kv, 3, 0, 0);
    assert_int_equal(kv_seq_open(kv, KV_F16, 2 * KV_PAGE + 1), -ENOSPC);
    int b = kv_seq_open(kv, KV_F16, 2 * KV_PAGE);
    assert_true(b >= 0);
    assert_int_equal(kv_seq_open(kv, KV_F16, 1), -ENOSPC);
    assert_pages(kv, 5, 0, 0);

    assert_int_equal(kv_seq_append(kv, a, KV_PAGE), 0);
    assert_pages(kv, 5, 1, 0);
    assert_int_equal(kv_seq_append(kv, a, 1), 0);
    assert_pages(kv, 5, 2, 0);
    assert_int_equal(kv_seq_append(kv, a, 2 * KV_PAGE), -EINVAL);
    assert_int_equal(kv_seq_append(kv, a, 2 * KV_PAGE - 1), 0);
    assert_int_equal(kv_tokens(kv, a), 3 * KV_PAGE);
    assert_int_equal(kv_seq_append(kv, b, 2 * KV_PAGE), 0); /* what was admitted fits */
    assert_pages(kv, 5, 5, 0);

    assert_int_equal(kv_seq_truncate(kv, a, 3 * KV_PAGE + 1), -EINVAL);
    assert_int_equal(kv_seq_truncate(kv, a, KV_PAGE + 1), 0);
    assert_pages(kv, 5, 4, 0);
    assert_int_equal(kv_seq_truncate(kv, a, 0), 0);
    assert_pages(kv, 5, 2, 0);
    kv_seq_close(kv, a);
    assert_pages(kv, 2, 2, 0);
    kv_seq_close(kv, a);
    kv_seq_close(kv, 77);
    kv_seq_close(kv, -1);
    assert_int_equal(kv_tokens(kv, a), -EINVAL);
    assert_int_equal(kv_seq_append(kv, a, 1), -EINVAL);
    assert_int_equal(kv_seq_truncate(kv, a, 0), -EINVAL);
    kv_close(kv);
}

static void given_back_pages_are_zero(void **state)
{
    struct kv *kv = open_pages(2, 4);

    for (int round = 0; round < 3; round++) {
        int a = kv_seq_open(kv, KV_F16, 4 * KV_PAGE);

        assert_int_equal(kv_seq_append(kv, a, 4 * KV_PAGE), 0);
        for (uint32_t t = 0; t < 4 * KV_PAGE; t++) {
            assert_marked(kv, a, t, 0);
            mark(kv, a, t, 0xff); /* as f16 a NaN */
        }
        kv_seq_close(kv, a);
    }
    kv_close(kv);
}

static void forks_share_full_pages(void **state)
{
    struct kv *kv = open_pages(4, 12);
    int a = kv_seq_open(kv, KV_F16, 4 * KV_PAGE);

    assert_int_equal(kv_seq_append(kv, a, 3 * KV_PAGE), 0);
    for (uint32_t t = 0; t < 3 * KV_PAGE; t++)
        mark(kv, a, t, (uint8_t)(t + 1));
    assert_int_equal(kv_seq_fork(kv, a, 3 * KV_PAGE + 1, 400), -EINVAL);
    assert_int_equal(kv_seq_fork(kv, a, KV_PAGE, KV_PAGE - 1), -EINVAL);
    assert_int_equal(kv_seq_fork(kv, 3, 1, 2), -EINVAL);

    /* Two full pages and a part of the third, which is copied. */
    int b = kv_seq_fork(kv, a, 2 * KV_PAGE + 5, 4 * KV_PAGE);
    assert_true(b >= 0 && b != a);
    assert_int_equal(kv_tokens(kv, b), 2 * KV_PAGE + 5);
    assert_pages(kv, 6, 4, 2);
    const size_t page = kv_account(kv).reserved_bytes / 6;
    assert_int_equal(kv_own_bytes(kv, a), 2 * page); /* one held, one to come */
    assert_int_equal(kv_own_bytes(kv, b), 2 * page);
    assert_int_equal(kv_own_bytes(kv, 3), 0);
    for (uint32_t t = 0; t < 2 * KV_PAGE + 5; t++)
        assert_marked(kv, b, t, (uint8_t)(t + 1));
    assert_ptr_equal(kv_tiles(kv, a, 1, 0, 0), kv_tiles(kv, b, 1, 0, 0));
    assert_ptr_not_equal(kv_tiles(kv, a, 2, 0, 0), kv_tiles(kv, b, 2, 0, 0));
    mark(kv, b, 2 * KV_PAGE + 1, 0);
    assert_marked(kv, a, 2 * KV_PAGE + 1, (uint8_t)(2 * KV_PAGE + 2));

    /* A fork of the fork; then they end in another order. */
    int c = kv_seq_fork(kv, b, KV_PAGE, KV_PAGE);
    assert_true(c >= 0);
    assert_pages(kv, 6, 4, 2);
    kv_seq_close(kv, a);
    assert_pages(kv, 4, 3, 1);
    assert_int_equal(kv_own_bytes(kv, b), 3 * page);
    assert_marked(kv, b, KV_PAGE + 3, (uint8_t)(KV_PAGE + 4));
    kv_seq_close(kv, b);
    assert_pages(kv, 1, 1, 0);
    assert_marked(kv, c, 9, 10);
    kv_seq_close(kv, c);
    assert_pages(kv, 0, 0, 0);
    kv_close(kv);
}

static void truncation_into_shared_pages(void **state)
{
    struct kv *kv = open_pages(3, 7);
    int a = kv_seq_open(kv, KV_F16, 4 * KV_PAGE);

    assert_int_equal(kv_seq_append(kv, a, 3 * KV_PAGE), 0);
    for (uint32_t t = 0; t < 3 * KV_PAGE; t++)
        mark(kv, a, t, (uint8_t)(t + 1));
    int b = kv_seq_fork(kv, a, 3 * KV_PAGE, 4 * KV_PAGE);
    assert_pages(kv, 5, 3, 3);

    /* Into the second page: a copy of it, and the third may come again: two pages more. */
    assert_int_equal(kv_seq_truncate(kv, b, KV_PAGE + 9), 0);
    assert_pages(kv, 7, 4, 1);
    for (uint32_t t = 0; t < KV_PAGE + 9; t++)
        assert_marked(kv, b, t, (uint8_t)(t + 1));
    mark(kv, b, KV_PAGE + 2, 0);
    assert_marked(kv, a, KV_PAGE + 2, (uint8_t)(KV_PAGE + 3));

    /* No room for a third of its own: nothing changes. */
    assert_int_equal(kv_seq_truncate(kv, b, 3), -ENOSPC);
    assert_int_equal(kv_seq_truncate(kv, a, 3), -ENOSPC);
    assert_int_equal(kv_tokens(kv, b), KV_PAGE + 9);
    assert_pages(kv, 7, 4, 1);
    kv_seq_close(kv, b);
    assert_int_equal(kv_seq_truncate(kv, a, 3), 0);
    assert_pages(kv, 4, 1, 0);
    kv_close(kv);
}

/* Sequences of all formats, each with pages of its own size, under one budget. */
static void formats_share_the_budget(void **state)
{
    const size_t q8 = kv_bytes_for(&shape, KV_Q8, 1), q4 = kv_bytes_for(&shape, KV_Q4, 1);
    struct kv *kv;

    assert_true(q8 < page() && q4 < q8);
    assert_int_equal(kv_open(&shape, 8, 2 * page() + 2 * q8 + q4, &kv), 0);
    int a = kv_seq_open(kv, KV_F16, 2 * KV_PAGE), b = kv_seq_open(kv, KV_Q8, 2 * KV_PAGE);
    assert_true(a >= 0 && b >= 0);
    assert_int_equal(kv_account(kv).reserved_bytes, 2 * page() + 2 * q8);
    assert_int_equal(kv_seq_open(kv, KV_Q8, 1), -ENOSPC); /* but q4 fits */
    assert_int_equal(kv_seq_open(kv, KV_Q4, KV_PAGE + 1), -ENOSPC);
    int c = kv_seq_open(kv, KV_Q4, KV_PAGE);
    assert_true(c >= 0);
    assert_int_equal(kv_account(kv).reserved_bytes, kv_account(kv).budget_bytes);
    assert_int_equal(kv_seq_format(kv, a), KV_F16);
    assert_int_equal(kv_seq_format(kv, b), KV_Q8);
    assert_int_equal(kv_seq_format(kv, c), KV_Q4);
    assert_int_equal(kv_seq_open(kv, KV_FORMATS, 1), -EINVAL);

    assert_int_equal(kv_seq_append(kv, a, 2 * KV_PAGE), 0);
    assert_int_equal(kv_seq_append(kv, b, 2 * KV_PAGE), 0);
    assert_int_equal(kv_seq_append(kv, c, KV_PAGE), 0);
    assert_int_equal(kv_account(kv).resident_bytes, kv_account(kv).budget_bytes);
    assert_int_equal(kv_own_bytes(kv, b), 2 * q8);

    /* A fork has its parent's format; what one format gives back another takes. */
    kv_seq_close(kv, a);
    int d = kv_seq_fork(kv, b, KV_PAGE + 3, 2 * KV_PAGE);
    assert_true(d >= 0);
    assert_int_equal(kv_seq_format(kv, d), KV_Q8);
    assert_int_equal(kv_account(kv).reserved_bytes, 3 * q8 + q4);
    assert_int_equal(kv_account(kv).shared_bytes, q8);
    assert_int_equal(kv_seq_truncate(kv, d, 5), 0); /* a page of its own, as in f16 */
    assert_int_equal(kv_account(kv).shared_bytes, 0);
    assert_int_equal(kv_account(kv).reserved_bytes, 4 * q8 + q4);
    kv_seq_close(kv, b);
    kv_seq_close(kv, c);
    kv_seq_close(kv, d);
    assert_pages(kv, 0, 0, 0);
    kv_close(kv);
}

/* Random opening, forking, growing, cutting and closing against a plain copy of each sequence, of
 * all formats. */
static void any_order(void **state)
{
    enum { SEQS = 6, MAX = 5 * KV_PAGE };
    static uint8_t plain[SEQS][MAX];
    uint32_t tokens[SEQS] = {0}, max[SEQS] = {0};
    bool open[SEQS] = {false};
    struct kv *kv = open_pages(SEQS, 9);
    unsigned full = 0, forks = 0;

    for (int step = 0; step < 20000; step++) {
        int i = rand() % SEQS, what = rand() % 8;
        const enum kv_format f = (enum kv_format)(rand() % KV_FORMATS);

        if (!open[i] || what == 0) { /* a new one, or a fork of i */
            uint32_t n = open[i] ? (uint32_t)rand() % (tokens[i] + 1) : 0;
            uint32_t most = n + 1 + (uint32_t)rand() % (MAX - n);
            if (most > MAX)
                most = MAX;
            int id = open[i] ? kv_seq_fork(kv, i, n, most) : kv_seq_open(kv, f, most);
            full += id == -ENOSPC;
            if (id < 0) {
                assert_int_equal(id, -ENOSPC);
                continue;
            }
            assert_int_equal(kv_seq_format(kv, id), open[i] ? kv_seq_format(kv, i) : f);
            assert_false(open[id]);
            forks += open[i];
            if (open[i])
                memcpy(plain[id], plain[i], n);
            open[id] = true;
            tokens[id] = n;
            max[id] = most;
        } else if (what == 1) {
            kv_seq_close(kv, i);
            open[i] = false;
        } else if (what == 2) {
            uint32_t n = (uint32_t)rand() % (tokens[i] + 1);
            int rc = kv_seq_truncate(kv, i, n);
            assert_true(rc == 0 || rc == -ENOSPC);
            if (rc == 0)
                tokens[i] = n;
        } else { /* what was admitted never fails */
            uint32_t n = (uint32_t)rand() % (max[i] - tokens[i] + 1);
            assert_int_equal(kv_seq_append(kv, i, n), 0);
            for (; n; n--) {
                plain[i][tokens[i]] = (uint8_t)rand();
                mark(kv, i, tokens[i], plain[i][tokens[i]]);
                tokens[i]++;
            }
        }
        const struct kv_account a = kv_account(kv);
        assert_true(a.resident_bytes <= a.reserved_bytes && a.reserved_bytes <= a.budget_bytes &&
                    a.shared_bytes <= a.resident_bytes);
        i = rand() % SEQS;
        for (uint32_t t = 0; open[i] && t < tokens[i]; t++)
            assert_marked(kv, i, t, plain[i][t]);
    }
    assert_true(full > 50 && forks > 50);
    for (int i = 0; i < SEQS; i++)
        kv_seq_close(kv, i);
    assert_pages(kv, 0, 0, 0);
    kv_close(kv);
}

/* --- a model's sequences --------------------------------------------------------------------- */

enum { N = 300, ROWS = 96 };

static const struct tiny_params model = {.arch = "qwen2", .seed = 3, .head_dim = 32, .n_ctx = N};

struct rig {
    char *path;
    struct gguf *g;
    struct team *team;
    struct stage *s;
};

static void rig_open(struct rig *r, enum kv_format f, unsigned threads, size_t budget)
{
    struct stage_params p = {
        .max_rows = ROWS, .max_seqs = 8, .kv_format = f, .kv_budget_bytes = budget};
    char err[GGUF_ERR] = "";
    unsigned used;

    r->path = tiny_write(&model);
    assert_int_equal(team_open(threads, -1, &r->team, &used), 0);
    if (gguf_open(r->path, &r->g, err) || stage_open(r->g, &p, r->team, &r->s, err))
        fail_msg("%s", err);
}

static void rig_close(struct rig *r)
{
    stage_close(r->s);
    team_close(r->team);
    gguf_close(r->g);
    unlink(r->path);
    free(r->path);
}

static void run(struct rig *r, int seq, uint32_t pos, uint32_t n, const int32_t *ids, float *logits)
{
    const struct stage_rows rows = {.seq = seq, .pos = pos, .n = n, .n_logits = n};

    assert_int_equal(stage_run(r->s, &rows, 1, ids + pos, NULL, NULL, logits + pos * TINY_VOCAB),
                     0);
}

/* In chunks of at most `most` rows, drawn when it is negative. */
static void run_range(struct rig *r, int seq, uint32_t from, uint32_t to, int most,
                      const int32_t *ids, float *logits)
{
    for (uint32_t n; from < to; from += n) {
        n = most > 0 ? (uint32_t)most : 1 + (uint32_t)rand() % ROWS;
        n = n < to - from ? n : to - from;
        run(r, seq, from, n, ids, logits);
    }
}

static void assert_same(const float *got, const float *want, uint32_t from, uint32_t to)
{
    assert_memory_equal(got + from * TINY_VOCAB, want + from * TINY_VOCAB,
                        (to - from) * TINY_VOCAB * sizeof(float));
}

static int32_t ids[N];
static float want[N * TINY_VOCAB], got[N * TINY_VOCAB];

static void draw_ids(void)
{
    for (uint32_t i = 0; i < N; i++)
        ids[i] = rand() % (int)TINY_VOCAB;
}

/* Over pages and spans, in every format. */
static void chunks_and_threads_do_not_matter(void **state)
{
    static const int chunks[] = {ROWS, 1, 7, 64, -1, -1, -1};

    for (int f = 0; f < KV_FORMATS; f++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct rig r;

            if (threads == 1)
                draw_ids();
            rig_open(&r, (enum kv_format)f, threads, 0);
            for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
                int seq = stage_seq_open(r.s, N);

                run_range(&r, seq, 0, N, chunks[c], ids, threads == 1 && c == 0 ? want : got);
                if (threads > 1 || c)
                    assert_same(got, want, 0, N);
                stage_seq_close(r.s, seq);
            }
            rig_close(&r);
        }
}

/* A prompt and rows of other sequences in one step. */
static void batches_do_not_matter(void **state)
{
    enum { SEQS = 5 };

    for (int f = 0; f < KV_FORMATS; f++) {
        uint32_t pos[SEQS] = {0}, most = ROWS / SEQS;
        static float batch_logits[ROWS * TINY_VOCAB];
        struct rig r;
        int seqs[SEQS];

        draw_ids();
        rig_open(&r, (enum kv_format)f, 2, 0);
        int alone = stage_seq_open(r.s, N);
        run_range(&r, alone, 0, N, ROWS, ids, want);
        for (int i = 0; i < SEQS; i++)
            seqs[i] = stage_seq_open(r.s, N);
        for (int step = 0; step < 60; step++) {
            struct stage_rows batch[SEQS];
            int32_t batch_ids[ROWS];
            uint32_t n = 0, rows = 0;

            for (int i = 0; i < SEQS; i++) {
                uint32_t left = N - pos[i], take = i % 2 ? 1 : 1 + (uint32_t)rand() % most;

                take = take < left ? take : left;
                if (take == 0)
                    continue;
                batch[n++] = (struct stage_rows){seqs[i], pos[i], take, take};
                memcpy(batch_ids + rows, ids + pos[i], take * sizeof(*ids));
                rows += take;
            }
            if (n == 0)
                break;
            assert_int_equal(stage_run(r.s, batch, n, batch_ids, NULL, NULL, batch_logits), 0);
            const float *at = batch_logits;
            for (uint32_t b = 0; b < n; b++) {
                assert_memory_equal(at, want + batch[b].pos * TINY_VOCAB,
                                    batch[b].n * TINY_VOCAB * sizeof(float));
                at += batch[b].n * TINY_VOCAB;
                for (int i = 0; i < SEQS; i++)
                    if (seqs[i] == batch[b].seq)
                        pos[i] += batch[b].n;
            }
        }
        rig_close(&r);
    }
}

/* Sequences of all formats in one step, beside one another in every order: each is what it is in a
 * stage of its format alone. */
static void formats_do_not_matter_to_one_another(void **state)
{
    enum { EACH = 2, SEQS = EACH * KV_FORMATS };
    static float alone[KV_FORMATS][N * TINY_VOCAB], batch_logits[ROWS * TINY_VOCAB];

    draw_ids();
    for (int f = 0; f < KV_FORMATS; f++) {
        struct rig r;

        rig_open(&r, (enum kv_format)f, 1, 0);
        run_range(&r, stage_seq_open(r.s, N), 0, N, ROWS, ids, alone[f]);
        rig_close(&r);
        assert_true(f == 0 || memcmp(alone[f], alone[f - 1], sizeof(alone[f])) != 0);
    }
    for (unsigned threads = 1; threads <= 2; threads++) {
        uint32_t pos[SEQS] = {0};
        struct rig r;
        int seqs[SEQS];

        rig_open(&r, threads == 1 ? KV_F16 : KV_Q8, threads, 0);
        assert_int_equal(stage_info(r.s)->kv_formats, (1u << KV_FORMATS) - 1);
        for (int i = 0; i < SEQS; i++) {
            seqs[i] = stage_seq_open_as(r.s, (enum kv_format)(i % KV_FORMATS), N);
            assert_true(seqs[i] >= 0);
        }
        for (uint32_t done = 0; done < SEQS * N;) {
            const uint32_t most =
                rand() % 2 ? 1 : ROWS / SEQS; /* a decoding step is split by spans */
            struct stage_rows batch[SEQS];
            int of[SEQS], first = rand() % SEQS;
            int32_t batch_ids[ROWS];
            uint32_t n = 0, rows = 0;

            for (int j = 0; j < SEQS; j++) {
                const int i = (first + j) % SEQS;
                uint32_t left = N - pos[i], take = (uint32_t)rand() % (most + 1);

                take = take < left ? take : left;
                if (take == 0)
                    continue;
                of[n] = i;
                batch[n++] = (struct stage_rows){seqs[i], pos[i], take, take};
                memcpy(batch_ids + rows, ids + pos[i], take * sizeof(*ids));
                rows += take;
            }
            assert_int_equal(stage_run(r.s, batch, n, batch_ids, NULL, NULL, batch_logits), 0);
            const float *at = batch_logits;
            for (uint32_t b = 0; b < n; b++) {
                assert_memory_equal(at, alone[of[b] % KV_FORMATS] + batch[b].pos * TINY_VOCAB,
                                    batch[b].n * TINY_VOCAB * sizeof(float));
                at += batch[b].n * TINY_VOCAB;
                pos[of[b]] += batch[b].n;
            }
            done += rows;
        }
        rig_close(&r);
    }
}

/* A fork goes on as if its rows had been run in it, and so does what it was forked from. */
static void a_fork_is_as_if_run(void **state)
{
    static const uint32_t prefixes[] = {1, 63, 64, 65, 128, 200, 256};
    static float other_want[N * TINY_VOCAB];
    int32_t other[N];

    for (int f = 0; f < KV_FORMATS; f++) {
        struct rig r;

        rig_open(&r, (enum kv_format)f, 2, 0);
        for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
            uint32_t p = prefixes[i];

            draw_ids();
            memcpy(other, ids, sizeof(ids));
            for (uint32_t t = p; t < N; t++)
                other[t] = rand() % (int)TINY_VOCAB;
            int a = stage_seq_open(r.s, N), b = stage_seq_open(r.s, N);
            run_range(&r, a, 0, N, ROWS, ids, want);
            run_range(&r, b, 0, N, ROWS, other, other_want);
            stage_seq_close(r.s, b);

            int fork = stage_seq_fork(r.s, a, p, N);
            assert_true(fork >= 0);
            run_range(&r, fork, p, N, -1, other, got);
            assert_same(got, other_want, p, N);

            /* Cut into what they share, either of them. */
            uint32_t cut = (uint32_t)rand() % p;
            assert_int_equal(stage_seq_truncate(r.s, a, cut), 0);
            run_range(&r, a, cut, N, -1, ids, got);
            assert_same(got, want, cut, N);
            assert_int_equal(stage_seq_truncate(r.s, fork, cut), 0);
            run_range(&r, fork, cut, N, -1, other, got);
            assert_same(got, other_want, cut, N);
            stage_seq_close(r.s, a);
            stage_seq_close(r.s, fork);
            assert_int_equal(stage_info(r.s)->kv_reserved_bytes, 0);
        }
        rig_close(&r);
    }
}

static void accounts(void **state)
{
    size_t before = SIZE_MAX;

    for (int f = 0; f < KV_FORMATS; f++) {
        const struct stage_params p = {.kv_format = (enum kv_format)f};
        size_t weights, kv;
        char err[GGUF_ERR];
        struct rig r;

        rig_open(&r, (enum kv_format)f, 1, 0);
        assert_int_equal(stage_footprint(r.g, &p, N, &weights, &kv, err), 0);
        assert_true(kv < before);
        before = kv;
        rig_close(&r);

        rig_open(&r, (enum kv_format)f, 1, kv + kv / 2);
        const struct stage_info *info = stage_info(r.s);
        assert_int_equal(info->kv_format, f);
        assert_int_equal(stage_numerics_kv(info->numerics_id), f);
        assert_int_equal(info->kv_budget_bytes, kv + kv / 2);
        int a = stage_seq_open(r.s, N);
        assert_int_equal(info->kv_reserved_bytes, kv);
        assert_int_equal(stage_seq_open(r.s, N), -ENOSPC);
        draw_ids();
        run_range(&r, a, 0, 2 * KV_PAGE, ROWS, ids, got);
        assert_int_equal(stage_seq_fork(r.s, a, 1, N), -ENOSPC);
        int fork = stage_seq_fork(r.s, a, 2 * KV_PAGE, 3 * KV_PAGE); /* one page more */
        assert_true(fork >= 0);
        assert_true(info->kv_reserved_bytes > kv && info->kv_shared_bytes == info->kv_bytes);
        rig_close(&r);
    }
}

static void q4_wants_heads_of_32(void **state)
{
    const struct tiny_params narrow = {.arch = "llama", .seed = 1};
    const struct stage_params p = {.kv_format = KV_Q4};
    char *path = tiny_write(&narrow), err[GGUF_ERR] = "";
    struct gguf *g;
    struct team *team;
    struct stage *s;
    unsigned used;

    assert_int_equal(team_open(1, -1, &team, &used), 0);
    assert_int_equal(gguf_open(path, &g, err), 0);
    assert_int_equal(stage_open(g, &p, team, &s, err), -ERANGE);
    assert_non_null(strstr(err, "heads of 16 dims"));

    const struct stage_params p8 = {.kv_format = KV_Q8};
    assert_int_equal(stage_open(g, &p8, team, &s, err), 0);
    assert_int_equal(stage_info(s)->kv_formats, 1u << KV_F16 | 1u << KV_Q8);
    assert_int_equal(stage_seq_open_as(s, KV_K8V4, 9), -ENOTSUP);
    assert_int_equal(stage_seq_open_as(s, KV_Q4, 9), -ENOTSUP);
    assert_int_equal(stage_seq_open_as(s, KV_FORMATS, 9), -ENOTSUP);
    assert_true(stage_seq_open_as(s, KV_F16, 9) >= 0);
    stage_close(s);
    gguf_close(g);
    team_close(team);
    unlink(path);
    free(path);
}

static int seed(void **state)
{
    const char *given = getenv("ISTHMUS_TEST_SEED");
    unsigned s = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);

    srand(s);
    print_message("ISTHMUS_TEST_SEED=%u\n", s);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_reserves_and_grows),
        cmocka_unit_test(given_back_pages_are_zero),
        cmocka_unit_test(forks_share_full_pages),
        cmocka_unit_test(truncation_into_shared_pages),
        cmocka_unit_test(formats_share_the_budget),
        cmocka_unit_test(any_order),
        cmocka_unit_test(chunks_and_threads_do_not_matter),
        cmocka_unit_test(batches_do_not_matter),
        cmocka_unit_test(formats_do_not_matter_to_one_another),
        cmocka_unit_test(a_fork_is_as_if_run),
        cmocka_unit_test(accounts),
        cmocka_unit_test(q4_wants_heads_of_32),
    };

    return cmocka_run_group_tests(tests, seed, NULL);
}
