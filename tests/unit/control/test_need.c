/* SPDX-License-Identifier: Apache-2.0 */
/* What a process needs: the plan's figures of it, what fits in so much memory and in a budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/budget.h"
#include "control/need.h"
#include "control/plan/search.h"
#include "tests/unit/stage/tiny_model.h"

#define MB UINT64_C(1000000)

static struct gguf *model;
static char *path;
static const struct codec_params f16 = {.mode = CODEC_F16};
static const struct need_process alone = {.faces_users = true};
/* Of kernel UDP, memif and an AF_XDP port of one queue. */
static const uint64_t port_bytes[] = {PLAN_UDP_BYTES, PLAN_MEMIF_BYTES, 21200000};

static int open_model(void **state)
{
    char err[GGUF_ERR];

    path = tiny_write(&(struct tiny_params){.arch = "llama"});
    return gguf_open(path, &model, err);
}

static int close_model(void **state)
{
    gguf_close(model);
    unlink(path);
    free(path);
    return 0;
}

static struct plan_memory terms(struct stage_params p, const struct need_process *with)
{
    struct plan_memory need;

    assert_int_equal(need_of(model, &p, with, &need), 0);
    return need;
}

static uint64_t need(struct stage_params p)
{
    return terms(p, &alone).bytes;
}

static size_t kv_one(const struct stage_params *p)
{
    char err[GGUF_ERR];
    size_t weights, kv;

    assert_int_equal(stage_footprint(model, p, 0, &weights, &kv, err), 0);
    return kv;
}

/* --- one account ----------------------------------------------------------------------------- */

/* The halves that `plan -o` describes, as they start: term by term what was planned. */
static void test_as_planned(void **state)
{
    const uint32_t context = 80, chunk = 16, threads = 2;
    const double row_bytes = 100;
    struct plan_model m;
    char err[GGUF_ERR];

    assert_int_equal(plan_model_read(model, &m, err), 0);
    for (uint32_t i = 0; i < 24; i++) {
        const uint32_t split = 1 + i % 2, sessions = 1 + i / 12 * 3;
        const enum kv_format kv = i / 2 % 2 ? KV_Q8 : KV_F16;
        const struct plan_memory_case c = {.split = split,
                                           .kv = kv,
                                           .context = context,
                                           .sessions = sessions,
                                           .edge_chunk = chunk,
                                           .cloud_chunk = chunk,
                                           .edge_threads = threads,
                                           .cloud_threads = threads,
                                           .row_bytes = row_bytes,
                                           .serves = i % 3 == 0,
                                           .packet_bytes = port_bytes[i / 4 % 3]};
        const struct stage_params edge = {.end_layer = split,
                                          .n_ctx = context,
                                          .max_rows = chunk + sessions,
                                          .kv_format = kv,
                                          .max_seqs = sessions + 4},
                                  cloud = {.first_layer = split,
                                           .n_ctx = context,
                                           .max_rows = chunk + sessions,
                                           .kv_format = kv};
        const struct need_process edge_with =
            {.faces_users = true,
             .serves = c.serves,
             .threads = threads,
             .codec = &f16,
             .packet_bytes = c.packet_bytes,
             .history_bytes = plan_history_bytes(row_bytes, context, sessions),
             .full = true},
                                  cloud_with = {.threads = threads,
                                                .logit_rows = sessions,
                                                .codec = &f16,
                                                .packet_bytes = c.packet_bytes};
        struct plan_memory planned, is = terms(edge, &edge_with);
        plan_memory_edge(&m, &c, &planned);
        planned.term[PLAN_KV] /= sessions; /* the least is that of one */
        planned.bytes -= (sessions - 1) * planned.term[PLAN_KV];
        assert_memory_equal(&is, &planned, sizeof is);

        is = terms(cloud, &cloud_with);
        plan_memory_cloud(&m, &c, &planned);
        planned.term[PLAN_PANELS] += planned.term[PLAN_HEAD]; /* a stage's weights are both */
        planned.term[PLAN_HEAD] = 0;
        planned.term[PLAN_KV] /= sessions;
        planned.bytes -= (sessions - 1) * planned.term[PLAN_KV];
        assert_memory_equal(&is, &planned, sizeof is);
    }
    plan_model_free(&m);
}

static void test_history(void **state)
{
    const struct stage_params edge = {.end_layer = 1, .n_ctx = 64};
    const uint64_t one = codec_bound(&f16, 1, TINY_D) * UINT64_C(64);
    struct need_process with = {.codec = &f16, .history_bytes = 64 * MB};

    assert_true(one > 0);
    assert_int_equal(terms(edge, &with).term[PLAN_HISTORY], one);
    with.history_bytes = 1000;
    assert_int_equal(terms(edge, &with).term[PLAN_HISTORY], 1000);
    with = (struct need_process){.codec = &f16, .history_bytes = 64 * MB, .full = true};
    assert_int_equal(terms(edge, &with).term[PLAN_HISTORY], 64 * MB);
}

/* Pools of other formats have huge pages of their own. */
static void test_formats(void **state)
{
    const struct stage_params edge = {.end_layer = 1};
    const struct need_process two = {.other_formats = 2};

    assert_int_equal(terms(edge, &two).term[PLAN_KV],
                     terms(edge, &alone).term[PLAN_KV] + 2 * (UINT64_C(2) << 20));
}

/* Who has the head has logits; an edge, hidden states that come back, too. */
static void test_head(void **state)
{
    const struct need_process with = {.faces_users = true, .logit_rows = 3};
    const struct stage_params whole = {0}, front = {.end_layer = 2},
                              edge = {.end_layer = 2, .head = STAGE_HEAD_WITH},
                              cloud = {.first_layer = 2},
                              headless = {.first_layer = 2, .head = STAGE_HEAD_WITHOUT};
    const uint64_t logits = TINY_VOCAB * (3 * sizeof(float) + 8);

    assert_int_equal(terms(front, &with).term[PLAN_LOGITS], 0);
    assert_int_equal(terms(headless, &with).term[PLAN_LOGITS], 0);
    assert_int_equal(terms(cloud, &with).term[PLAN_LOGITS],
                     logits + TINY_D * 3 * sizeof(float)); /* it faces users, here */
    assert_int_equal(terms(whole, &with).term[PLAN_LOGITS], logits);
    assert_int_equal(terms(edge, &with).term[PLAN_LOGITS], logits + TINY_D * 3 * sizeof(float));
    assert_int_equal(terms(edge, &(struct need_process){0}).term[PLAN_LOGITS],
                     TINY_VOCAB * (sizeof(float) + 8));
}

/* --- what fits ------------------------------------------------------------------------------- */

static void test_fits(void **state)
{
    const struct stage_params whole = {0};
    char line[NEED_LINE] = "";

    assert_int_equal(need_fits(model, &whole, &alone, need(whole), line), 0);
    assert_string_equal(line, "");
    assert_int_equal(need_fits(model, &whole, &alone, need(whole) - 1, line), -ENOMEM);
    assert_non_null(strstr(line, path));
    assert_non_null(strstr(line, "layers 0 to 2 need 22."));
    assert_non_null(strstr(line, "(program 20.0, weights 2.1"));
    assert_non_null(strstr(line, " MB are there: "));
}

static void test_split_that_fits(void **state)
{
    const struct need_process split_one = {.faces_users = true, .codec = &f16};
    char line[NEED_LINE], want[32];

    for (uint32_t split = 1; split < TINY_LAYERS; split++) {
        const struct stage_params edge = {.end_layer = split}, cloud = {.first_layer = split},
                                  more = {.first_layer = split - 1};
        snprintf(want, sizeof(want), "--split %u is the most", split);
        assert_int_equal(
            need_fits(model, &(struct stage_params){0}, &split_one, need(edge), line), -ENOMEM);
        assert_non_null(strstr(line, want));
        if (split == 1)
            continue;
        snprintf(want, sizeof(want), "--split %u is the least", split);
        assert_int_equal(need_fits(model, &more, &split_one, need(cloud), line), -ENOMEM);
        assert_non_null(strstr(line, want));
    }
    assert_int_equal(need_fits(model, &(struct stage_params){0}, &alone, 1000, line), -ENOMEM);
    assert_non_null(strstr(line, "no part of it fits"));
    assert_null(strstr(line, "--"));
}

/* What is not split now has packets and a history when it is. */
static void test_split_of_a_whole(void **state)
{
    const struct tiny_params long_ctx = {.arch = "llama", .key = "context_length", .value = 16384};
    const struct need_process edge_with = {.faces_users = true,
                                           .codec = &f16,
                                           .packet_bytes = PLAN_UDP_BYTES,
                                           .history_bytes = UINT64_MAX};
    const struct stage_params whole = {.n_ctx = 8192}, edge = {.end_layer = 1, .n_ctx = 8192};
    char line[NEED_LINE], err[GGUF_ERR], *tiny_path = path;
    struct gguf *tiny = model;

    path = tiny_write(&long_ctx);
    assert_int_equal(gguf_open(path, &model, err), 0);
    const uint64_t least = terms(edge, &edge_with).bytes;
    assert_true(need(whole) > least && least > need(edge) + MB);
    assert_int_equal(need_fits(model, &whole, &alone, least, line), -ENOMEM);
    assert_non_null(strstr(line, "--split 1 is the most"));
    assert_int_equal(need_fits(model, &whole, &alone, least - 1, line), -ENOMEM);
    assert_null(strstr(line, "--split"));
    close_model(state);
    path = tiny_path;
    model = tiny;
}

/* The longest sequence is what does not fit: a shorter one would. */
static void test_ctx_that_fits(void **state)
{
    const struct tiny_params long_ctx = {.arch = "llama", .key = "context_length", .value = 16384};
    const struct stage_params full = {.n_ctx = 0}, shorter = {.n_ctx = 2048};
    char line[NEED_LINE], err[GGUF_ERR], *tiny_path = path;
    struct gguf *tiny = model;

    path = tiny_write(&long_ctx);
    assert_int_equal(gguf_open(path, &model, err), 0);
    assert_true(need(shorter) < need(full));
    assert_int_equal(need_fits(model, &full, &alone, need(shorter), line), -ENOMEM);
    assert_non_null(strstr(line, "--ctx 2048 would fit"));
    close_model(state);
    path = tiny_path;
    model = tiny;
}

/* Keys and values never take more than their budget. */
static void test_cache_that_fits(void **state)
{
    const struct stage_params whole = {0};
    const size_t kv = kv_one(&whole);
    char line[NEED_LINE];

    for (size_t budget = kv - 1; budget <= kv + 1; budget++) {
        const struct stage_params p = {.kv_budget_bytes = budget};
        const uint64_t least = need(whole) - (budget < kv ? kv - budget : 0);
        assert_int_equal(need_fits(model, &p, &alone, least, line), 0);
        assert_int_equal(need_fits(model, &p, &alone, least - 1, line), -ENOMEM);
    }
}

/* A cache without a budget gets what is there, if that is not enough for all. */
static void test_cache_without_budget(void **state)
{
    const struct stage_params p = {.max_seqs = 5};
    const uint64_t one = need(p);
    const size_t kv = kv_one(&p);

    assert_int_equal(need_cache(model, &p, &alone, one + 4 * kv), 0);
    assert_int_equal(need_cache(model, &p, &alone, one + 4 * kv - 1), 5 * kv - 1);
    assert_int_equal(need_cache(model, &p, &alone, one + 1), kv + 1);
    assert_int_equal(need_cache(model, &p, &alone, one - 1), kv); /* --no-memory-check */
    assert_int_equal(need_cache(model, &p, &alone, 1), kv);
}

/* What is wrong with the model itself is for stage_open to say. */
static void test_model_errors_pass(void **state)
{
    char line[NEED_LINE] = "";
    const struct stage_params beyond = {.end_layer = 99};

    assert_int_equal(need_fits(model, &beyond, &alone, 1, line), -ERANGE);
    assert_string_equal(line, "");
}

/* --- --memory-budget ------------------------------------------------------------------------- */

static struct budget_plan budget(uint64_t bytes, uint64_t of_a_port)
{
    return (struct budget_plan){
        .budget_bytes = bytes,
        .ports = 1,
        .port_bytes = of_a_port,
        .sessions = 2,
        .with = {.faces_users = true, .codec = &f16, .history_bytes = 3 * MB},
    };
}

/* The budget for so much, with its reserve. */
static uint64_t for_all(uint64_t bytes)
{
    return (uint64_t)plan_limit_for(PLAN_EDGE_BYTES, (double)bytes) + 1;
}

/* What everything has at least: packets of which few are touched, whole histories, one session. */
static uint64_t least_of(const struct budget_plan *b, const struct stage_params *p)
{
    struct need_process with = b->with;

    with.full = true;
    with.packet_bytes = b->ports * b->port_bytes;
    return terms(*p, &with).bytes;
}

static void test_budget(void **state)
{
    const struct stage_params edge = {.end_layer = 2, .max_seqs = 6, .max_rows = 16};
    const size_t kv = kv_one(&edge);
    struct stage_params p = edge;
    char line[BUDGET_LINE] = "", want[64];

    for (unsigned port = 0; port < 3; port++) {
        struct budget_plan b = budget(0, port_bytes[port]);
        const uint64_t least = least_of(&b, &edge);
        b.budget_bytes = for_all(least);
        p = edge;
        assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
        assert_int_equal(p.kv_budget_bytes, kv);
        assert_int_equal(b.packet_bytes, b.port_bytes);

        b.budget_bytes = for_all(least) - 2;
        p = edge;
        assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), -ENOMEM);
        snprintf(want, sizeof want, "needed are at least %.1f, ",
                 (double)for_all(least) * 1e-6);
        assert_non_null(strstr(line, want));
        assert_non_null(strstr(line, "program 20.0, weights 2.1"));
        assert_non_null(strstr(line, "history 3.0, packets "));
        assert_non_null(strstr(line, "--history 2999kB would fit"));
        assert_non_null(strstr(line, "--split 1 would fit"));

        /* All that a budget gives away is no more than it. */
        for (uint64_t more = 0; more < 30 * MB; more += 700001) {
            b.budget_bytes = for_all(least + more);
            p = edge;
            assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
            const uint64_t given = p.kv_budget_bytes - kv,
                           packets = b.packet_bytes - b.port_bytes;
            assert_true(given + packets <= more + 1);
            assert_true(p.kv_budget_bytes <= 6 * kv && b.packet_bytes <= 21200000);
            assert_true(port == 0 ? more < 9 || packets >= more / 9 || more > 14 * MB
                                              : packets == 0);
        }
        assert_int_equal(p.kv_budget_bytes, 6 * kv);
        if (port == 0)
            assert_int_equal(b.packet_bytes, BUDGET_PORT_BYTES);
    }

    /* A cache that is to have little leaves the rest to packets, and needs no more itself. */
    struct budget_plan b = budget(0, PLAN_UDP_BYTES);
    p = edge;
    p.kv_budget_bytes = kv / 2;
    b.budget_bytes = for_all(least_of(&b, &p) + MB);
    assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
    assert_int_equal(p.kv_budget_bytes, kv / 2);
    assert_int_equal(b.packet_bytes, PLAN_UDP_BYTES + MB);
    /* Several ports share. */
    b.ports = 4;
    b.budget_bytes = for_all(least_of(&b, &p) + 2 * MB);
    assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
    assert_int_equal(b.packet_bytes, PLAN_UDP_BYTES + MB / 2);
    /* None, no packets. */
    b.ports = 0;
    assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
    assert_int_equal(b.packet_bytes, 0);
}

/* What is planned for a limit starts under it as a budget, all sessions in the cache; no less does. */
static void test_budget_as_planned(void **state)
{
    const uint32_t context = 96, chunk = 16, threads = 2;
    const double row_bytes = 100;
    char err[GGUF_ERR], line[BUDGET_LINE];
    struct plan_model m;

    assert_int_equal(plan_model_read(model, &m, err), 0);
    for (uint32_t i = 0; i < 24; i++) {
        const uint32_t split = 1 + i % 2, sessions = 1 + i / 8 * 10;
        const enum kv_format kv = i / 2 % 2 ? KV_Q8 : KV_F16;
        const bool is_edge = i / 4 % 2;
        const uint32_t layers = is_edge ? split : TINY_LAYERS - split;
        const uint64_t one = plan_kv_bytes(&m, layers, kv, context);
        struct plan_memory_case c = {.split = split,
                                     .kv = kv,
                                     .context = context,
                                     .sessions = sessions,
                                     .edge_chunk = chunk,
                                     .cloud_chunk = chunk,
                                     .edge_threads = threads,
                                     .cloud_threads = threads,
                                     .row_bytes = row_bytes,
                                     .serves = true,
                                     .cloud_held = true,
                                     .packet_bytes = port_bytes[i % 3]};
        struct plan_memory planned, unheld;
        (is_edge ? plan_memory_edge : plan_memory_cloud)(&m, &c, &planned);
        c.cloud_held = false;
        (is_edge ? plan_memory_edge : plan_memory_cloud)(&m, &c, &unheld);
        /* sixteen rows of logits at least, and pages for two other formats */
        const uint64_t rows = sessions < 16 ? 16 - sessions : 0;
        assert_int_equal(planned.bytes - unheld.bytes,
                         is_edge ? 0 : rows * TINY_VOCAB * sizeof(float) + 2 * (2u << 20));

        const struct stage_params half = {.first_layer = is_edge ? 0 : split,
                                          .end_layer = is_edge ? split : 0,
                                          .n_ctx = context,
                                          .max_rows = chunk + sessions,
                                          .kv_format = kv,
                                          .kv_budget_bytes = sessions * one,
                                          .max_seqs = sessions + 4};
        struct budget_plan b = {
            .budget_bytes = for_all(planned.bytes),
            .ports = 1,
            .port_bytes = c.packet_bytes,
            .sessions = sessions,
            .with = {.faces_users = is_edge,
                     .serves = is_edge,
                     .threads = threads,
                     .logit_rows = sessions,
                     .other_formats = is_edge ? 0 : PLAN_KV_LEAST,
                     .codec = &f16,
                     .history_bytes =
                         is_edge ? plan_history_bytes(row_bytes, context, sessions) : 0}};
        struct stage_params p = half;
        assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), 0);
        assert_int_equal(p.kv_budget_bytes, sessions * one);
        assert_in_range(b.packet_bytes, c.packet_bytes, c.packet_bytes + 1);
        p = half;
        b.budget_bytes = for_all(planned.bytes - (sessions - 1) * one) - 2;
        assert_int_equal(budget_start(model, &p, TINY_LAYERS, &b, line), -ENOMEM);
    }
    plan_model_free(&m);
}

/* Last: from then on nothing is refused. */
static void test_skip(void **state)
{
    const struct stage_params whole = {0};
    const struct need_half half = {model, &whole, &alone};
    const struct need_process too_much = {.packet_bytes = UINT64_C(1) << 50};
    const struct need_half large = {model, &whole, &too_much};
    char line[NEED_LINE];
    uint64_t there;

    assert_int_equal(need_check(model, &whole, &alone, &there, line), 0);
    assert_true(there > 0);
    assert_int_equal(need_check_pair(&half, &half, line), 0);
    assert_int_equal(need_check(model, &whole, &too_much, &there, line), -ENOMEM);
    assert_int_equal(need_check_pair(&half, &large, line), -ENOMEM);
    assert_non_null(strstr(line, "both halves need"));
    assert_non_null(strstr(line, "the edge: program 20.0"));
    assert_non_null(strstr(line, "the cloud: program 20.3"));
    need_check_skip();
    assert_int_equal(need_check(model, &whole, &too_much, &there, line), 0);
    assert_int_equal(need_check_pair(&half, &large, line), 0);
    assert_true(there > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_planned),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_split_that_fits),
        cmocka_unit_test(test_split_of_a_whole),
        cmocka_unit_test(test_ctx_that_fits),
        cmocka_unit_test(test_cache_that_fits),
        cmocka_unit_test(test_cache_without_budget),
        cmocka_unit_test(test_model_errors_pass),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_budget_as_planned),
        cmocka_unit_test(test_skip),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
