/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: figures that are known, and the stage's own account. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../stage/tiny_model.h"
#include "compute/kernels/kernels.h"
#include "compute/quantize/quantize.h"
#include "compute/stage.h"
#include "compute/team.h"
#include "models.h"

/* A Q4_1 panel takes 320 bytes for 16 rows of 32: five bits a weight. */
static void golden(void **state)
{
    struct plan_model m;
    struct plan_memory_case c = {.split = 10,
                                 .kv = KV_F16,
                                 .context = 1024,
                                 .sessions = 2,
                                 .edge_chunk = 64,
                                 .cloud_chunk = 64,
                                 .edge_threads = 1,
                                 .cloud_threads = 1,
                                 .row_bytes = 1000,
                                 .packet_bytes = PLAN_MEMIF_BYTES};
    struct plan_memory edge, cloud;
    const uint64_t layer = 177209344ull * 5 / 8 + 2 * 4096 * 4; /* weights of a layer, norms */

    made_model(32, &m);
    assert_int_equal(plan_layer_bytes(&m.layers[0], PLAN_KEEP), layer);
    plan_memory_edge(&m, &c, &edge);
    plan_memory_cloud(&m, &c, &cloud);
    const uint64_t huge = 2u << 20;
    assert_int_equal(edge.term[PLAN_PANELS], (10 * layer + huge - 1) / huge * huge);
    /* 2 T H_kv d_head 16 bits / 8, of each layer and session: whole pages here */
    assert_int_equal(edge.term[PLAN_KV], 2ull * 10 * 2 * 1024 * 8 * 128 * 2);
    assert_int_equal(cloud.term[PLAN_KV], 2ull * 22 * 2 * 1024 * 8 * 128 * 2);
    assert_int_equal(edge.term[PLAN_KV] % huge, 0); /* and of huge ones, though none is begun */
    assert_int_equal(edge.kv_unit_bytes, huge);
    assert_int_equal(edge.term[PLAN_HISTORY], 2 * 1024 * 1900); /* .6 of it is the rows */
    assert_int_equal(edge.term[PLAN_HEAD] + edge.term[PLAN_LOGITS] + cloud.term[PLAN_HISTORY], 0);
    assert_int_equal(cloud.term[PLAN_HEAD],
                     mat_bytes_for(QTYPE_Q6_K, 32000, 4096) + 4096 * sizeof(float));
    assert_int_equal(cloud.term[PLAN_LOGITS], 32000 * (2 * 4 + 8));
    uint64_t sum = 0;
    for (unsigned t = 0; t < PLAN_MEMORY_TERMS; t++)
        sum += edge.term[t];
    assert_int_equal(edge.bytes, sum);

    assert_int_equal(edge.term[PLAN_PACKETS], c.packet_bytes);
    assert_int_equal(cloud.term[PLAN_PACKETS], c.packet_bytes);

    /* I_kv: all keys and values at the edge. */
    c.home = PLAN_KV_EDGE;
    struct plan_memory edge_all, cloud_none;
    plan_memory_edge(&m, &c, &edge_all);
    plan_memory_cloud(&m, &c, &cloud_none);
    assert_int_equal(cloud_none.term[PLAN_KV], 0);
    assert_int_equal(edge_all.term[PLAN_KV], edge.term[PLAN_KV] + cloud.term[PLAN_KV]);
    plan_model_free(&m);
}

/* More of anything never takes less: what the search's bounds rest on. */
static void monotone(void **state)
{
    struct plan_model m;
    struct plan_memory_case c = {.split = 1,
                                 .kv = KV_Q8,
                                 .context = 100,
                                 .sessions = 1,
                                 .edge_chunk = 32,
                                 .cloud_chunk = 32,
                                 .edge_threads = 2,
                                 .cloud_threads = 2};
    struct plan_memory a, b;

    made_model(32, &m);
    for (unsigned i = 0; i < 400; i++) {
        struct plan_memory_case more = c;
        uint32_t *const fields[] = {&more.split, &more.context, &more.sessions, &more.edge_chunk};
        *fields[i % 4] += 1 + i % 3;
        if (more.split > 31)
            continue;
        plan_memory_edge(&m, &c, &a);
        plan_memory_edge(&m, &more, &b);
        assert_true(b.bytes >= a.bytes);
        if (i % 16 < 4)
            c = more;
    }
    plan_model_free(&m);
}

/* bits a weight, whatever the packing adds */
static void schemes(void **state)
{
    static const struct {
        enum plan_scheme s;
        double least, most;
    } of[] = {
        {PLAN_KEEP, 5, 5},      {PLAN_Q8_0, 8.5, 8.6},  {PLAN_Q6_K, 6.5, 7.1},
        {PLAN_Q5_0, 5.5, 6.1},  {PLAN_Q4_0, 4.5, 5.1},  {PLAN_SQ4, 4.12, 4.20},
        {PLAN_SQ3, 3.17, 3.20}, {PLAN_SQ2, 2.07, 2.10}, {PLAN_G3, 3.3, 3.4},
    };
    struct plan_model m;
    enum plan_scheme s;

    made_model(1, &m);
    for (unsigned i = 0; i < sizeof of / sizeof *of; i++) {
        const double bits = 8.0 * ((double)plan_layer_bytes(&m.layers[0], of[i].s) - 32768) /
                            plan_layer_macs(&m.layers[0]);
        if (bits < of[i].least || bits > of[i].most)
            print_message("%s: %.3f bits\n", plan_scheme_name(of[i].s), bits);
        assert_true(bits >= of[i].least && bits <= of[i].most);
    }
    for (unsigned i = 0; i < PLAN_SCHEMES; i++) {
        assert_int_equal(plan_scheme_parse(plan_scheme_name((enum plan_scheme)i), &s), 0);
        assert_int_equal(s, i);
    }
    assert_true(plan_scheme_parse("Q9_9", &s) < 0);
    plan_model_free(&m);
}

/* To the byte, as the kernels lay panels out and `isthmus quantize` counts exact weights: a panel
 * of sq3 has 16 rows' levels, a line through each, and units of 64 columns. */
static void golden_schemes(void **state)
{
    const struct plan_matrix square = {4096, 4096, QTYPE_Q4_1}, small = {1536, 576, QTYPE_Q4_1};
    const uint64_t units = 64 * 16 * 3 / 8, head = 16 * 8 + 2 * 16 * 4;
    enum plan_scheme s;

    assert_int_equal(plan_matrix_sparse(&square, PLAN_SQ3), 4096 * 4096 / 200);
    assert_int_equal(plan_matrix_bytes(&square, PLAN_SQ3),
                     256 * (head + 64 * units) +
                         (4096 + 1 + 4096 * 4096 / 200 + 8) * 4); /* 8: read past the last */
    assert_int_equal(plan_matrix_sparse(&small, PLAN_SQ4), 3361); /* .38 % */
    assert_int_equal(plan_matrix_sparse(&small, PLAN_SQ2), 1592); /* .18 % */
    assert_int_equal(plan_matrix_sparse(&small, PLAN_G3), 0);
    /* six groups of 96, f16 scale and minimum of each; nothing exact */
    assert_int_equal(plan_matrix_bytes(&small, PLAN_G3), 96 * (9 * units + 6 * 2 * 16 * 2));
    for (unsigned i = 0; i < PLAN_SCHEMES; i++) {
        const struct scheme stored = plan_scheme_storage((enum plan_scheme)i);
        struct quantize_scheme q;
        assert_int_equal(quantize_scheme_parse(plan_scheme_name((enum plan_scheme)i), &q), 0);
        assert_true((stored.kind == SCHEME_NONE) == plan_scheme_is_standard((enum plan_scheme)i));
        assert_true(plan_matrix_takes(&square, (enum plan_scheme)i));
    }
    /* Q6_K has blocks of 256 columns, of which 576 is no multiple. */
    assert_int_equal(plan_matrix_type(&small, PLAN_Q6_K), QTYPE_Q8_0);
    assert_int_equal(plan_matrix_type(&square, PLAN_Q6_K), QTYPE_Q6_K);
    const struct plan_matrix odd = {64, 100, QTYPE_F32};
    assert_true(plan_matrix_takes(&odd, PLAN_KEEP) && !plan_matrix_takes(&odd, PLAN_SQ3) &&
                !plan_matrix_takes(&odd, PLAN_Q4_0));
    assert_int_equal(plan_scheme_parse("sq5", &s), -EINVAL);
}

/* A real stage: weights and cache as it says, scratch within a hundredth. */
static void as_the_stage_says(void **state)
{
    const struct tiny_params tiny = {.arch = "llama", .seed = 3};
    char *path = tiny_write(&tiny), err[GGUF_ERR];
    struct gguf *g;
    struct plan_model m;
    struct team *team;
    unsigned threads;

    assert_int_equal(gguf_open(path, &g, err), 0);
    assert_int_equal(plan_model_read(g, &m, err), 0);
    assert_int_equal(m.n_layers, TINY_LAYERS);
    assert_int_equal(m.d_model, TINY_D);
    assert_int_equal(strlen(m.fingerprint), 32);
    assert_int_equal(team_open(1, -1, &team, &threads), 0);
    for (unsigned i = 0; i < 12; i++) {
        struct stage *stage;
        const struct stage_params p = {.first_layer = i % 3,
                                       .end_layer = 3,
                                       .max_rows = 1 + 37 * (i / 3),
                                       .n_ctx = 96,
                                       .kv_format = i % 2 ? KV_Q8 : KV_F16};
        assert_int_equal(stage_open(g, &p, team, &stage, err), 0);
        const struct stage_info *info = stage_info(stage);
        const uint32_t layers = 3 - p.first_layer;
        size_t bytes = plan_matrix_bytes(&m.head, PLAN_KEEP) + m.d_model * 4 + m.rope_bytes;
        for (uint32_t l = p.first_layer; l < 3; l++)
            bytes += plan_layer_bytes(&m.layers[l], PLAN_KEEP);
        assert_int_equal(bytes, info->weights_bytes);
        assert_int_equal(plan_kv_bytes(&m, layers, p.kv_format, 50), stage_seq_bytes(stage, 50));
        const double scratch = (double)plan_scratch_bytes(&m, layers, p.max_rows, 96, 1);
        const double is = (double)info->scratch_bytes;
        /* Each of its twenty areas begins at a cache line. */
        assert_true(scratch > is * .97 - 21 * 64 && scratch < is * 1.03);
        stage_close(stage);
    }
    team_close(team);
    plan_model_free(&m);
    gguf_close(g);
    unlink(path);
    free(path);
}

static void no_model(void **state)
{
    static const struct {
        struct tiny_params p;
        int rc;
        const char *says;
    } bad[] = {
        {{.arch = "llama", .missing = "blk.1.attn_q.weight"},
         -EBADMSG,
         "blk.1.attn_q.weight: missing"},
        {{.arch = "llama", .missing = "token_embd.weight"}, -EBADMSG, "token_embd.weight: missing"},
        {{.arch = "llama", .misshapen = "blk.2.ffn_up.weight"},
         -EBADMSG,
         "blk.2.ffn_up.weight: shape"},
        {{.arch = "llama", .extra = "blk.0.rot.weight"}, -ENOTSUP, "blk.0.rot.weight"},
        {{.arch = "llama", .scheme = "sq3"}, -ENOTSUP, "isthmus.scheme."},
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *path = tiny_write(&bad[i].p), err[GGUF_ERR] = "";
        struct plan_model m;
        struct gguf *g;

        assert_int_equal(gguf_open(path, &g, err), 0);
        assert_int_equal(plan_model_read(g, &m, err), bad[i].rc);
        if (!strstr(err, bad[i].says))
            fail_msg("\"%s\" does not say %s", err, bad[i].says);
        assert_null(m.layers);
        gguf_close(g);
        unlink(path);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(monotone),
        cmocka_unit_test(schemes),
        cmocka_unit_test(golden_schemes),
        cmocka_unit_test(as_the_stage_says),
        cmocka_unit_test(no_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
