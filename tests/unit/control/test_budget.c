/* SPDX-License-Identifier: Apache-2.0 */
/* The ladder that keeps a memory budget: up at once, down slowly, each rung when it is due. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "control/budget.h"

#define MB UINT64_C(1000000)

/* Parts of the limits, in percent. */
static struct account account(uint32_t resident, uint32_t history, uint32_t kv)
{
    struct account a = {.budget_bytes = 1000 * MB,
                        .resident_bytes = resident * 10 * MB,
                        .history_busy_bytes = history * MB,
                        .kv_busy_bytes = kv * MB};
    a.limits[ACCOUNT_HISTORY] = a.limits[ACCOUNT_KV] = 100 * MB;
    return a;
}

static enum budget_rung look(struct budget *b, uint32_t resident, uint32_t history, uint32_t kv)
{
    const struct account a = account(resident, history, kv);
    budget_look(b, &a);
    return b->rung;
}

static void up_at_once(void **state)
{
    (void)state;
    struct budget b = {.can_coarsen = true};
    assert_int_equal(look(&b, 50, 10, 10), BUDGET_EASY);
    assert_int_equal(look(&b, 50, 65, 10), BUDGET_COARSER);
    assert_true(b.coarser >= 1);
    const uint32_t some = b.coarser;
    look(&b, 50, 90, 10);
    assert_true(b.coarser > some);
    assert_int_equal(look(&b, 50, 65, 85), BUDGET_SHORTER);
    assert_int_equal(budget_context(&b, 4096), 1024);
    assert_int_equal(look(&b, 50, 65, 99), BUDGET_REFUSE);
    assert_true(b.steps >= 3);

    b = (struct budget){.can_coarsen = true};
    assert_int_equal(look(&b, 100, 0, 0), BUDGET_REFUSE); /* whatever takes it */
    b = (struct budget){.can_coarsen = true};
    assert_int_equal(look(&b, 10, 98, 0), BUDGET_REFUSE);
}

/* A cache with room for all sessions that may come is no reason; all else is. */
static void room_for_all(void **state)
{
    (void)state;
    struct budget b = {.kv_one_bytes = 10 * MB, .sessions = 10};
    struct account a = account(50, 10, 90);
    for (a.busy = 9; a.busy <= 10; a.busy++) {
        budget_look(&b, &a);
        assert_int_equal(b.rung, BUDGET_EASY);
    }
    a.busy = 8; /* some of them take more than a new one does */
    budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_SHORTER);
    b = (struct budget){.kv_one_bytes = 10 * MB, .sessions = 11}; /* one too many */
    a.busy = 10;
    budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_SHORTER);
    b = (struct budget){.sessions = 10, .kv_one_bytes = 10 * MB};
    a = account(50, 10, 100);
    a.busy = 10;
    budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_EASY);
    assert_int_equal(b.kv_steps, 0);
    a.history_busy_bytes = 65 * MB;
    budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_SHORTER);
    a.resident_bytes = a.budget_bytes;
    budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_REFUSE);
}

/* Nobody adapts activations: contexts are next. */
static void without_coarser(void **state)
{
    (void)state;
    struct budget b = {.can_coarsen = false};
    assert_int_equal(look(&b, 50, 65, 10), BUDGET_SHORTER);
    assert_int_equal(b.coarser, 0);
}

static void down_slowly(void **state)
{
    (void)state;
    struct budget b = {.can_coarsen = true};
    assert_int_equal(look(&b, 50, 10, 99), BUDGET_REFUSE);
    for (int i = 0; i < 1000; i++) /* not while it is near */
        assert_int_equal(look(&b, 50, 10, 90), BUDGET_REFUSE);
    uint32_t looks = 0;
    while (look(&b, 50, 10, 10) == BUDGET_REFUSE)
        assert_true(++looks < 100);
    assert_true(looks >= 10);
    assert_int_equal(b.rung, BUDGET_SHORTER); /* one rung at a time */
    for (looks = 0; look(&b, 50, 10, 10) != BUDGET_EASY;)
        assert_true(++looks < 100);
    assert_int_equal(budget_context(&b, 4096), 4096);
    /* One that comes back in between begins anew. */
    look(&b, 50, 10, 99);
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(look(&b, 50, 10, i % 10 ? 10 : 99), BUDGET_REFUSE);
}

static const struct stage_info all_formats = {.kv_formats = (1u << KV_FORMATS) - 1};

/* Keys and values of new sessions get coarser before contexts get shorter, a step at a time, and
 * finer again as slowly as anything. */
static void keys_and_values(void **state)
{
    (void)state;
    struct budget b = {.can_coarsen = true};
    budget_formats(&b, &all_formats, KV_F16, KV_K8V4);
    assert_int_equal(budget_kv(&b), KV_F16);
    assert_int_equal(look(&b, 50, 10, 59), BUDGET_EASY);
    assert_int_equal(budget_kv(&b), KV_F16);
    assert_int_equal(look(&b, 50, 65, 59), BUDGET_COARSER);
    assert_int_equal(look(&b, 50, 65, 61), BUDGET_KV);
    assert_int_equal(budget_kv(&b), KV_Q8);
    assert_int_equal(budget_kv_asked(&b), KV_Q8);
    assert_true(b.coarser >= 1); /* a rung has those before it */
    assert_int_equal(budget_context(&b, 4096), 4096);
    const uint64_t steps = b.steps;
    assert_int_equal(look(&b, 50, 10, 71), BUDGET_KV);
    assert_int_equal(budget_kv(&b), KV_K8V4);
    assert_int_equal(b.steps, steps + 1);
    assert_int_equal(look(&b, 50, 10, 81), BUDGET_SHORTER);
    assert_int_equal(budget_kv(&b), KV_K8V4);

    /* Down: contexts are whole again, then q8, then f16. */
    uint32_t looks = 0;
    while (look(&b, 50, 10, 65) == BUDGET_SHORTER)
        assert_true(++looks < 100);
    assert_true(looks >= 10);
    assert_int_equal(b.rung, BUDGET_KV);
    for (int i = 0; i < 1000; i++) /* .65 is too near to where k8v4 was entered */
        assert_int_equal(look(&b, 50, 10, 65), BUDGET_KV);
    assert_int_equal(budget_kv(&b), KV_K8V4);
    for (looks = 0; budget_kv(&b) == KV_K8V4; looks++)
        assert_int_equal(look(&b, 50, 10, 55), BUDGET_KV);
    assert_true(looks >= 10 && looks < 100);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(look(&b, 50, 10, 55), BUDGET_KV);
    assert_int_equal(budget_kv(&b), KV_Q8);
    for (looks = 0; look(&b, 50, 10, 45) == BUDGET_KV;)
        assert_true(++looks < 100);
    assert_true(looks >= 10);
    assert_int_equal(budget_kv(&b), KV_F16);
    for (looks = 0; b.rung != BUDGET_EASY; looks++)
        look(&b, 50, 10, 45);
    assert_true(looks <= 20);
    look(&b, 50, 10, 99); /* all at once */
    assert_int_equal(b.rung, BUDGET_REFUSE);
    assert_int_equal(budget_kv(&b), KV_K8V4);

    /* Histories are short, not the cache: nothing would be won. */
    b = (struct budget){.can_coarsen = true};
    budget_formats(&b, &all_formats, KV_F16, KV_K8V4);
    assert_int_equal(look(&b, 50, 85, 20), BUDGET_SHORTER);
    assert_int_equal(budget_kv(&b), KV_F16);
    while (b.rung == BUDGET_SHORTER)
        look(&b, 50, 65, 20);
    assert_int_equal(b.rung, BUDGET_COARSER);
}

static void formats_there_are(void **state)
{
    (void)state;
    const struct stage_info narrow = {.kv_formats = 1u << KV_F16 | 1u << KV_Q8};
    struct budget b = {.can_coarsen = false};
    budget_formats(&b, &all_formats, KV_F16, KV_Q4);
    assert_int_equal(b.kv_most, 3);
    look(&b, 50, 10, 65);
    assert_int_equal(budget_kv(&b), KV_Q8);
    look(&b, 50, 10, 68);
    assert_int_equal(budget_kv(&b), KV_K8V4);
    look(&b, 50, 10, 74);
    assert_int_equal(budget_kv(&b), KV_Q4);
    budget_formats(&b, &narrow, KV_F16, KV_Q4);
    assert_int_equal(b.kv_most, 1);
    b = (struct budget){.can_coarsen = false};
    budget_formats(&b, &all_formats, KV_K8V4, KV_K8V4); /* as coarse as is allowed from the start */
    assert_int_equal(look(&b, 50, 10, 79), BUDGET_EASY);
    assert_int_equal(budget_kv(&b), KV_K8V4);
    assert_int_equal(budget_kv_asked(&b), KV_F16);
    assert_int_equal(look(&b, 50, 10, 85), BUDGET_SHORTER);
    while (b.rung != BUDGET_EASY) {
        assert_true(b.rung == BUDGET_SHORTER); /* no rung on the way that does nothing */
        look(&b, 50, 10, 10);
    }
}

/* All that was given away is resident, up to the reserve: a spike is climbed for, and left behind.
 */
static void a_spike_beside_weights(void **state)
{
    (void)state;
    struct budget b = {.can_coarsen = false};
    assert_int_equal(look(&b, 98, 0, 0), BUDGET_EASY);
    const struct account spike = account(100, 0, 0), usual = account(98, 0, 0);
    assert_true(budget_is_full(&b, &spike) && !budget_is_full(&b, &usual));
    assert_int_equal(look(&b, 100, 0, 0), BUDGET_REFUSE);
    struct account a = account(99, 0, 0);
    a.resident_bytes -= MB; /* just below is too near */
    assert_true(budget_is_full(&b, &a));
    for (uint32_t i = 0; i < 1000; i++)
        budget_look(&b, &a);
    assert_int_equal(b.rung, BUDGET_REFUSE);
    for (uint32_t looks = 0; look(&b, 98, 0, 0) != BUDGET_EASY;)
        assert_true(++looks < 100);
}

static void sums(void **state)
{
    (void)state;
    struct account a = account(50, 10, 10);
    a.bytes[ACCOUNT_WEIGHTS] = 20 * MB;
    a.bytes[ACCOUNT_KV] = 5 * MB;
    a.bytes[ACCOUNT_REST] = 3 * MB;
    assert_int_equal(account_known(&a), 25 * MB);
    assert_int_equal(account_most(&a), (20 + 100 + 100 + 3) * MB);
    json_t *o = account_json(&a);
    json_t *items = json_object_get(o, "items");
    assert_int_equal(json_array_size(items), ACCOUNT_TERMS);
    assert_string_equal(json_string_value(json_object_get(json_array_get(items, 0), "what")),
                        "weights");
    assert_true(json_is_null(json_object_get(json_array_get(items, 0), "limit_bytes")));
    assert_int_equal(json_integer_value(json_object_get(o, "budget_bytes")), 1000 * MB);
    json_decref(o);
}

/* What this process takes is nearly all known, once it is called the program. */
static void of_this_process(void **state)
{
    (void)state;
    const struct account_source none = {.budget_bytes = 0};
    struct account a;
    account_begin();
    account_take(&none, &a);
    assert_true(a.resident_bytes > MB && a.peak_bytes >= a.resident_bytes);
    assert_true(a.bytes[ACCOUNT_PROGRAM] > MB);
    assert_true(a.bytes[ACCOUNT_REST] < a.resident_bytes / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(up_at_once),
        cmocka_unit_test(room_for_all),
        cmocka_unit_test(without_coarser),
        cmocka_unit_test(down_slowly),
        cmocka_unit_test(keys_and_values),
        cmocka_unit_test(formats_there_are),
        cmocka_unit_test(a_spike_beside_weights),
        cmocka_unit_test(sums),
        cmocka_unit_test(of_this_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
