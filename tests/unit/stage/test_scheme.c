/* SPDX-License-Identifier: Apache-2.0 */
/* Stages of models whose weights are in schemes, and of halves in files of their own. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "compute/stage.h"
#include "compute/team.h"
#include "tiny_model.h"

#define N 23u

static struct team *team;
static const char *const schemes[] = {"sq2", "sq3", "sq4", "g2:32", "g3:64", "g4:96"};
#define N_SCHEMES (sizeof(schemes) / sizeof(schemes[0]))

struct tiny {
    char *path;
    struct gguf *g;
};

static struct tiny tiny_open(const struct tiny_params *p)
{
    struct tiny t = {.path = tiny_write(p)};
    char err[GGUF_ERR] = "";

    if (gguf_open(t.path, &t.g, err))
        fail_msg("%s", err);
    return t;
}

static void tiny_close(struct tiny *t)
{
    gguf_close(t->g);
    unlink(t->path);
    free(t->path);
}

static struct stage *open_range(const struct gguf *g, uint32_t first, uint32_t end)
{
    const struct stage_params p = {.first_layer = first, .end_layer = end, .max_rows = N};
    char err[GGUF_ERR] = "";
    size_t weights, kv;
    struct stage *s;

    if (stage_open(g, &p, team, &s, err))
        fail_msg("%s", err);
    /* The metadata alone tells what it takes. */
    assert_int_equal(stage_footprint(g, &p, N, &weights, &kv, err), 0);
    assert_int_equal(weights, stage_info(s)->weights_bytes);
    return s;
}

static void run(struct stage *s, const int32_t *ids, const float *in, float *out, float *logits)
{
    int seq = stage_seq_open(s, N);
    const struct stage_rows rows = {.seq = seq, .n = N, .n_logits = logits ? N : 0};

    assert_true(seq >= 0);
    assert_int_equal(stage_run(s, &rows, 1, ids, in, out, logits), 0);
    stage_seq_close(s, seq);
}

static void ids_of(int32_t ids[N])
{
    for (uint32_t i = 0; i < N; i++)
        ids[i] = (int32_t)(i * 37 % TINY_VOCAB);
}

/* Whole, cut in one file, and as two files: the same bits. */
static void halves_equal_the_whole(void **state)
{
    static float whole[N * TINY_VOCAB], cut[N * TINY_VOCAB], rows[N * TINY_D];
    int32_t ids[N];

    ids_of(ids);
    for (size_t i = 0; i < 2 * N_SCHEMES; i++) {
        struct tiny_params p = {.arch = "llama",
                                .seed = i,
                                .scheme = i < N_SCHEMES ? schemes[i] : NULL,
                                .tied = i % 2,
                                .split = 1 + i % 2};
        struct tiny one = tiny_open(&p);
        p.half = "edge";
        struct tiny front = tiny_open(&p);
        p.half = "cloud";
        struct tiny back = tiny_open(&p);
        struct stage *s = open_range(one.g, 0, 0);

        run(s, ids, NULL, NULL, whole);
        assert_false(stage_info(s)->is_half);
        stage_close(s);
        for (int files = 0; files < 2; files++) {
            struct stage *a = open_range(files ? front.g : one.g, 0, p.split);
            struct stage *b = open_range(files ? back.g : one.g, p.split, 0);
            const struct stage_info *x = stage_info(a), *y = stage_info(b);

            run(a, ids, NULL, rows, NULL);
            run(b, NULL, rows, NULL, cut);
            assert_memory_equal(whole, cut, sizeof whole);
            assert_memory_equal(x->fingerprint, y->fingerprint, 16);
            assert_int_equal(x->is_half, files);
            if (files) {
                assert_int_equal(x->fingerprint[0], 0xfe);
                assert_int_equal(x->parent[1], 0x23);
                assert_memory_equal(x->parent, y->parent, 16);
            }
            stage_close(a);
            stage_close(b);
        }
        tiny_close(&one);
        tiny_close(&front);
        tiny_close(&back);
    }
}

static void refused(const struct tiny *t, uint32_t first, uint32_t end, int rc, const char *named)
{
    const struct stage_params p = {.first_layer = first, .end_layer = end, .max_rows = N};
    char err[GGUF_ERR] = "";
    struct stage *s;

    assert_int_equal(stage_open(t->g, &p, team, &s, err), rc);
    assert_null(s);
    if (!strstr(err, named) || !strstr(err, t->path))
        fail_msg("\"%s\" does not name %s", err, named);
}

static void halves_have_only_their_layers(void **state)
{
    struct tiny_params p = {.arch = "llama", .half = "edge", .split = 2};
    struct tiny front = tiny_open(&p);

    refused(&front, 0, 0, -ERANGE, "edge half of a model, layers 0 to 1 of 3");
    refused(&front, 0, 1, -ERANGE, "edge half");
    refused(&front, 2, 0, -ERANGE, "edge half");
    tiny_close(&front);
    p.half = "cloud";
    struct tiny back = tiny_open(&p);
    refused(&back, 0, 0, -ERANGE, "cloud half of a model, layers 2 to 2 of 3");
    refused(&back, 1, 0, -ERANGE, "cloud half");
    tiny_close(&back);
    /* Another depth than the model's own. */
    p.key = "block_count";
    p.value = 4;
    back = tiny_open(&p);
    refused(&back, 2, 0, -EBADMSG, "isthmus.layers");
    tiny_close(&back);
}

static void overwrite(const struct tiny *t, const char *tensor, size_t at, uint32_t v, size_t n)
{
    int fd = open(t->path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(
        pwrite(fd, &v, n, (off_t)(gguf_find(t->g, tensor)->offset + at)), (ssize_t)n);
    close(fd);
}

/* What the sparse part's tensors hold are places in memory. */
static void sparse_parts_are_proved(void **state)
{
    const struct {
        const char *tensor;
        size_t at;
        uint32_t v;
        size_t bytes;
    } cases[] = {
        {"blk.1.ffn_up.weight.sp_rows", 0, 1, 4},
        {"blk.1.ffn_up.weight.sp_rows", 4 * 5, 0x7fffffff, 4},
        {"blk.1.ffn_up.weight.sp_rows", 4 * 5, 0, 4},
        {"blk.1.ffn_up.weight.sp_rows", 4 * TINY_FF, 1000, 4},
        {"blk.2.ffn_down.weight.sp_cols", 0, TINY_FF, 2},
        {"blk.2.ffn_down.weight.sp_cols", 6, 0xffff, 2},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tiny t = tiny_open(
            &(const struct tiny_params){.arch = "llama", .scheme = i % 2 ? "sq3" : "g4:32"});

        overwrite(&t, cases[i].tensor, cases[i].at, cases[i].v, cases[i].bytes);
        refused(&t, 0, 0, -EBADMSG, cases[i].tensor);
        tiny_close(&t);
    }
}

static void values_are_finite(void **state)
{
    static const char *const parts[] = {"lut", "scale", "min", "sp_values"};

    for (size_t i = 0; i < 4; i++) {
        struct tiny t =
            tiny_open(&(const struct tiny_params){.arch = "llama", .scheme = i ? "g2:64" : "sq4"});
        char name[64];

        snprintf(name, sizeof name, "blk.0.attn_k.weight.%s", parts[i]);
        overwrite(&t, name, 8, 0x7c00, 2);
        refused(&t, 0, 0, -EBADMSG, name);
        tiny_close(&t);
    }
}

/* A part of what is plain, or of another scheme, would be left out silently. */
static void parts_without_use(void **state)
{
    struct tiny_params p = {.arch = "llama", .extra = "blk.0.attn_q.weight.lut"};
    struct tiny t = tiny_open(&p);

    refused(&t, 0, 0, -ENOTSUP, p.extra);
    tiny_close(&t);
    p.scheme = "g3:32";
    t = tiny_open(&p);
    refused(&t, 0, 0, -EBADMSG, p.extra);
    tiny_close(&t);
}

static int open_team(void **state)
{
    unsigned used;

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
        cmocka_unit_test(halves_equal_the_whole),    cmocka_unit_test(halves_have_only_their_layers),
        cmocka_unit_test(sparse_parts_are_proved),   cmocka_unit_test(values_are_finite),
        cmocka_unit_test(parts_without_use),
    };

    return cmocka_run_group_tests(tests, open_team, close_team);
}
