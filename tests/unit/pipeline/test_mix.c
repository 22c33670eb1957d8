/* SPDX-License-Identifier: Apache-2.0 */
/* What goes into a run together, and that nobody waits for ever. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "dataplane/pipeline/mix.h"
#include "tests/unit/pipeline/rig.h"

#define ALL                                                                                        \
    {                                                                                              \
        true, true, true                                                                           \
    }

/* One run in which every rank adds what it may of what it has, at position 0. */
static void run(struct mix *m, const uint32_t have[MIX_RANKS], uint32_t n_decoding,
                uint32_t max_rows, uint32_t took[MIX_RANKS])
{
    bool waiting[MIX_RANKS];

    for (unsigned r = 0; r < MIX_RANKS; r++)
        waiting[r] = have[r] > 0;
    mix_begin(m, waiting, n_decoding, 1, max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++) {
        enum mix_rank r = m->order[i];
        uint32_t room = mix_room(m, r, 0);

        took[r] = have[r] < room ? have[r] : room;
        if (took[r])
            mix_add(m, r, 0, took[r]);
    }
    assert_true(took[0] + took[1] + took[2] <= max_rows);
    mix_end(m);
}

/* Before anything is known of times. */
static void test_together(void **state)
{
    const uint32_t have[MIX_RANKS] = {8, 1000, 0}, alone[MIX_RANKS] = {0, 1000, 1000};
    struct mix m = {0};
    uint32_t took[MIX_RANKS];

    for (int i = 0; i < 10; i++) {
        run(&m, have, 8, 128, took);
        assert_int_equal(took[MIX_DECODE], 8);
        assert_int_equal(took[MIX_PREFILL], MIX_BULK_ROWS);
    }
    run(&m, alone, 0, 128, took); /* nobody decodes: no bound */
    assert_int_equal(took[MIX_PREFILL], 128);
    mix_begin(&m, (bool[MIX_RANKS])ALL, 8, 1, 20);
    m.bulk_alone = false;
    mix_add(&m, MIX_DECODE, 0, 10);
    assert_int_equal(mix_room(&m, MIX_PREFILL, 0), 10);
    assert_int_equal(mix_room(&m, MIX_DECODE, 0), 10);
    mix_add(&m, MIX_PREFILL, 0, 10);
    assert_int_equal(mix_room(&m, MIX_REPLAY, 0), 0);
}

/* Who decodes waits for others once between two of its rows, not twice. */
static void test_turns(void **state)
{
    const uint32_t have[MIX_RANKS] = {8, 1000, 0}, alone[MIX_RANKS] = {0, 1000, 0};
    struct mix m = {0};
    uint32_t took[MIX_RANKS];

    for (int i = 0; i < 3; i++) {
        run(&m, alone, 8, 128, took); /* their rows are still under way */
        assert_int_equal(took[MIX_PREFILL], MIX_BULK_ROWS);
    }
    run(&m, have, 8, 128, took);
    assert_int_equal(took[MIX_DECODE], 8);
    assert_int_equal(took[MIX_PREFILL], 0);
    run(&m, have, 8, 128, took); /* and they don't get all */
    assert_int_equal(took[MIX_PREFILL], MIX_BULK_ROWS);
}

/* Runs of n rows of decode and of others, at a position, at so many ns a row. */
static void teach(struct mix *m, uint32_t n_decode, uint32_t n_bulk, uint32_t position, uint64_t ns)
{
    for (int i = 0; i < 60; i++) {
        mix_begin(m, (bool[MIX_RANKS])ALL, n_decode, 1, 128);
        mix_add(m, MIX_DECODE, 0, n_decode);
        if (n_bulk)
            mix_add(m, MIX_PREFILL, position, n_bulk);
        mix_end(m);
        mix_ran(m, ns);
    }
}

static uint32_t room_beside(struct mix *m, uint32_t n_decode, uint32_t n_decoding,
                            uint32_t position)
{
    mix_begin(m, (bool[MIX_RANKS])ALL, n_decoding, 1, 128);
    if (n_decode)
        mix_add(m, MIX_DECODE, 0, n_decode);
    return mix_room(m, MIX_PREFILL, position);
}

/* The others get half the time of those that decode, or MIX_BULK_NS; what a row takes is learned.
 */
static void test_time(void **state)
{
    const uint32_t ms = 1000000, floor_rows = MIX_BULK_NS / ms;
    struct mix m = {0};

    teach(&m, 20, 0, 0, 40 * ms);
    teach(&m, 20, 8, 0, 48 * ms + ms / 100); /* 1 ms a row, and a little */
    assert_int_equal(room_beside(&m, 20, 20, 0), 19);
    assert_in_range(room_beside(&m, 20, 20, MIX_DEEP), 9, 11);  /* deep ones take longer */
    assert_int_equal(room_beside(&m, 10, 20, 0), 9);            /* half of them here: their share */
    assert_int_equal(room_beside(&m, 1, 1, 0), floor_rows - 1); /* one alone: the least time */
    assert_int_equal(room_beside(&m, 0, 0, 0), 128);            /* nobody decodes */
    mix_begin(&m, (bool[MIX_RANKS])ALL, 2, 10, 128);            /* more are read: twice theirs */
    assert_in_range(mix_room(&m, MIX_PREFILL, 0), 38, 42);
    mix_add(&m, MIX_PREFILL, 0, 64);
    assert_int_equal(room_beside(&m, 20, 20, 0), 19);
    mix_add(&m, MIX_PREFILL, 0, 19);
    assert_int_equal(mix_room(&m, MIX_REPLAY, 0), 0); /* all others together */

    /* What it learned at depth holds for the beginning, and vice versa. */
    teach(&m, 20, 8, MIX_DEEP, 56 * ms + ms / 50);
    assert_int_equal(room_beside(&m, 20, 20, 0), 19);

    /* Where one takes longer than all its time, one goes all the same. */
    m = (struct mix){0};
    teach(&m, 20, 0, 0, 40 * ms);
    teach(&m, 20, 1, 0, 1000 * ms);
    assert_int_equal(room_beside(&m, 20, 20, 0), 1);
    mix_add(&m, MIX_PREFILL, 0, 1);
    assert_int_equal(mix_room(&m, MIX_PREFILL, 0), 0);
}

/* Runs of all sizes, where starting one takes as long as several rows, and depth counts as given:
 * after them it foresees what any takes. */
static void test_parts(void **state)
{
    const double start_ns = 3e6, decode_ns = 1.2e6, bulk_ns = .5e6, depth_ns = .8e6;
    struct dice d = {5};
    struct mix m = {0};

    for (int i = 0; i < 600; i++) {
        const uint32_t n_decode = i % 3 == 0 ? 0 : (uint32_t)dice_between(&d, 1, 8);
        const uint32_t n_bulk = i % 3 == 1 ? 0 : (uint32_t)dice_between(&d, 1, 16);
        const uint32_t position = (uint32_t)dice_below(&d, 2 * MIX_DEEP);
        const double deep = position / (double)MIX_DEEP;

        mix_begin(&m, (bool[MIX_RANKS])ALL, 8, 1, 128);
        mix_add(&m, MIX_DECODE, 0, n_decode);
        mix_add(&m, MIX_PREFILL, position, n_bulk);
        mix_end(&m);
        mix_ran(&m,
                (uint64_t)(start_ns + n_decode * decode_ns + n_bulk * (bulk_ns + deep * depth_ns)));
    }
    assert_true(fabs(m.ns[MIX_START] - start_ns) < .05 * start_ns);
    assert_true(fabs(m.ns[MIX_DECODE_ROW] - decode_ns) < .05 * decode_ns);
    assert_true(fabs(m.ns[MIX_BULK_ROW] - bulk_ns) < .05 * bulk_ns);
    assert_true(fabs(m.ns[MIX_BULK_DEPTH] - depth_ns) < .05 * depth_ns);
}

/* By turns the oldest and the shortest, a run each; where more are read than decode, who is next.
 */
static void test_order(void **state)
{
    const struct mix_prompt old = {.left = 900, .number = 1, .turn = 2},
                            shorter = {.left = 30, .number = 2, .turn = 1},
                            alike = {.left = 30, .number = 3, .turn = 0};
    struct mix m = {0};
    bool oldest = false;

    for (int i = 0; i < 6; i++) {
        mix_begin(&m, (bool[MIX_RANKS])ALL, 3, 3, 128);
        assert_true(mix_before(&m, shorter, alike));
        assert_false(mix_before(&m, alike, shorter) || mix_before(&m, old, old));
        assert_true(mix_before(&m, old, shorter) != mix_before(&m, shorter, old));
        if (i)
            assert_true(mix_before(&m, old, shorter) != oldest);
        oldest = mix_before(&m, old, shorter);
        mix_add(&m, MIX_PREFILL, 0, 1);
        mix_end(&m);
    }
    mix_begin(&m, (bool[MIX_RANKS])ALL, 2, 3, 128);
    assert_true(mix_before(&m, alike, shorter) && mix_before(&m, shorter, old));
}

/* One run that was held up, however long, is not taken for the rule. */
static void test_held_up(void **state)
{
    const uint32_t ms = 1000000;
    struct mix m = {0};

    teach(&m, 20, 0, 0, 40 * ms);
    teach(&m, 20, 8, 0, 48 * ms + ms / 100);
    mix_begin(&m, (bool[MIX_RANKS])ALL, 20, 1, 128);
    mix_add(&m, MIX_DECODE, 0, 20);
    mix_add(&m, MIX_PREFILL, 0, 8);
    mix_end(&m);
    mix_ran(&m, 5000ull * ms);
    assert_in_range(room_beside(&m, 20, 20, 0), 14, 24);
    mix_ran(&m, 0); /* a clock that stands still teaches nothing */
    assert_in_range(room_beside(&m, 20, 20, 0), 14, 24);
}

/* However little goes into a run, and whatever else waits, each rank has its turn. */
static void test_nobody_starves(void **state)
{
    const uint32_t have[MIX_RANKS] = {200, 1000, 1000};

    for (uint32_t max_rows = 1; max_rows < 64; max_rows++) {
        uint32_t gap[MIX_RANKS] = {0}, took[MIX_RANKS];
        struct mix m = {0};

        for (int i = 0; i < 200; i++) {
            run(&m, have, 200, max_rows, took);
            for (unsigned r = 0; r < MIX_RANKS; r++) {
                gap[r] = took[r] ? 0 : gap[r] + 1;
                assert_in_range(gap[r], 0, MIX_PATIENCE + MIX_RANKS - 1);
            }
        }
    }
}

/* A prompt of 600 tokens while three others decode: the largest gap between their ids, where rows
 * take their time. */
static uint64_t largest_gap(uint64_t edge_row_ns, uint64_t cloud_row_ns, uint64_t run_ns)
{
    struct rig_params p = {
        .network = {.delay_min_ns = 10000, .delay_max_ns = 10000},
        .edge_stage = {.run_ns = run_ns, .row_ns = edge_row_ns},
        .cloud_stage = {.run_ns = run_ns, .row_ns = cloud_row_ns},
        .sessions = 4,
        .chunk_tokens = 64,
        .hook = true,
    };
    struct rig_request q[4];
    uint64_t last[3] = {0}, largest = 0;
    uint32_t n[3] = {0};
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < 3; i++) {
        rig_request(&q[i], i, 5, 400);
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
    while (q[0].n_ids < 5 || q[1].n_ids < 5 || q[2].n_ids < 5)
        rig_step(&r);
    rig_request(&q[3], 3, 600, 2);
    assert_true(rig_submit(&r, &q[3]) > 0);
    for (uint32_t i = 0; i < 3; i++) {
        last[i] = r.now_ns;
        n[i] = q[i].n_ids;
    }
    while (!q[3].n_ids) {
        rig_step(&r);
        for (uint32_t i = 0; i < 3; i++) {
            if (q[i].n_ids == n[i])
                continue;
            if (r.now_ns - last[i] > largest)
                largest = r.now_ns - last[i];
            last[i] = r.now_ns;
            n[i] = q[i].n_ids;
        }
    }
    for (uint32_t i = 0; i < 3; i++)
        assert_false(q[i].done); /* they were there all the time */
    while (!q[0].done || !q[1].done || !q[2].done || !q[3].done)
        rig_step(&r);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
    return largest;
}

/* In one thread the two stages take turns, and a packet misses the run that begins as it is sent:
 * three runs of each between an id and the next. What a run's start takes is learned as the rows'.
 */
static uint64_t most(uint64_t edge_row_ns, uint64_t cloud_row_ns, uint64_t run_ns)
{
    return 3 * (2 * (run_ns + MIX_BULK_NS) + 3 * (edge_row_ns + cloud_row_ns)) + RIG_MS;
}

static void test_prompt_beside_decode(void **state)
{
    assert_true(largest_gap(RIG_MS, RIG_MS, RIG_MS / 2) < most(RIG_MS, RIG_MS, RIG_MS / 2));
}

/* The edge computes a whole chunk in the time it has, which the cloud then takes in parts. */
static void test_cloud_cuts(void **state)
{
    const uint64_t edge_row_ns = RIG_MS / 20, cloud_row_ns = 4 * RIG_MS / 2;

    assert_true(edge_row_ns * 64 < MIX_BULK_NS && cloud_row_ns * 64 > 10 * MIX_BULK_NS);
    assert_true(largest_gap(edge_row_ns, cloud_row_ns, 0) < most(edge_row_ns, cloud_row_ns, 0));
}

/* Two long prompts and then a short one while five others decode: the first is through when the
 * second is not half read, and the short one waits for neither. */
static void test_prompts_in_order(void **state)
{
    enum { DECODING = 5, ALL_OF_THEM = 8 };
    const uint32_t long_tokens = 300;
    struct rig_params p = {.network = {.delay_min_ns = 10000, .delay_max_ns = 10000},
                           .edge_stage = {.run_ns = RIG_MS / 10, .row_ns = RIG_MS / 20},
                           .cloud_stage = {.run_ns = RIG_MS, .row_ns = RIG_MS / 2},
                           .sessions = ALL_OF_THEM,
                           .chunk_tokens = 64,
                           .hook = true};
    struct rig_request q[ALL_OF_THEM];
    uint64_t first_ns[ALL_OF_THEM] = {0}, from_ns;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < ALL_OF_THEM; i++)
        rig_request(&q[i], i,
                    i < DECODING       ? 5
                    : i < DECODING + 2 ? long_tokens
                                       : 10,
                    i < DECODING ? 180 : 1);
    for (uint32_t i = 0; i < DECODING; i++)
        assert_true(rig_submit(&r, &q[i]) > 0);
    while (!q[0].n_ids || !q[DECODING - 1].n_ids)
        rig_step(&r);
    from_ns = r.now_ns;
    for (uint32_t i = DECODING; i < ALL_OF_THEM; i++) {
        assert_true(rig_submit(&r, &q[i]) > 0);
        for (uint32_t k = 0; k < 10; k++)
            rig_step(&r);
    }
    while (!first_ns[DECODING] || !first_ns[DECODING + 1] || !first_ns[DECODING + 2]) {
        rig_step(&r);
        for (uint32_t i = DECODING; i < ALL_OF_THEM; i++) {
            if (q[i].n_ids && !first_ns[i])
                first_ns[i] = r.now_ns - from_ns;
        }
    }
    for (uint32_t i = 0; i < DECODING; i++)
        assert_false(q[i].done); /* they were there all the time */
    assert_true(first_ns[DECODING + 2] * 3 < first_ns[DECODING]);
    assert_true(first_ns[DECODING] * 4 < first_ns[DECODING + 1] * 3);
    for (uint32_t i = 0; i < ALL_OF_THEM; i++) {
        while (!q[i].done)
            rig_step(&r);
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

/* So many that decode go on in two groups, none of them larger than half, and none falls behind. */
static void test_halves(void **state)
{
    const uint32_t n = MIX_HALVES;
    struct rig_params p = {.network = {.delay_min_ns = 10000, .delay_max_ns = 10000},
                           .edge_stage = {.run_ns = RIG_MS, .row_ns = RIG_MS / 10},
                           .cloud_stage = {.run_ns = RIG_MS, .row_ns = RIG_MS / 10},
                           .sessions = n,
                           .hook = true};
    struct rig_request q[MIX_HALVES];
    struct fake_counts before, after;
    struct rig r;
    uint32_t least = 0, largest = 0;

    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < n; i++) {
        rig_request(&q[i], i, 5, 100);
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
    while (least < 5) {
        rig_step(&r);
        least = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++)
            least = q[i].n_ids < least ? q[i].n_ids : least;
    }
    before = *fake_counts(r.edge_stage);
    while (q[0].n_ids < 80)
        rig_step(&r);
    after = *fake_counts(r.edge_stage);
    assert_true(after.rows - before.rows <= n / 2 * (after.runs - before.runs));
    least = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        least = q[i].n_ids < least ? q[i].n_ids : least;
        largest = q[i].n_ids > largest ? q[i].n_ids : largest;
    }
    assert_in_range(largest - least, 0, 2);
    for (uint32_t i = 0; i < n; i++) {
        while (!q[i].done)
            rig_step(&r);
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

/* A session that has ended and lingers decodes no more: prompts need not wait for it. */
static void test_lingering_binds_nobody(void **state)
{
    struct rig_params p = {.network = {.delay_min_ns = 10000, .delay_max_ns = 10000},
                           .sessions = 2,
                           .lingering = 1,
                           .chunk_tokens = 64,
                           .hook = true};
    struct rig_request q[3];
    struct cloud_stats cs;
    struct rig r;

    rig_open(&r, &p);
    rig_start(&r);
    for (uint32_t i = 0; i < 3; i++)
        rig_request(&q[i], i, i ? 40 : 20, i ? 1 : 3);
    assert_true(rig_run(&r, q, 1, 1000 * RIG_MS));
    for (unsigned i = 0; i < 50; i++)
        rig_step(&r);
    cloud_stats(r.cloud, &cs);
    assert_int_equal(cs.lingering, 1);
    assert_true(rig_run(&r, q + 1, 2, 1000 * RIG_MS));
    assert_int_equal(fake_counts(r.cloud_stage)->largest_batch, 2); /* both in one run */
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(rig_right(&r, &q[i]));
        rig_request_free(&q[i]);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together),       cmocka_unit_test(test_turns),
        cmocka_unit_test(test_time),           cmocka_unit_test(test_held_up),
        cmocka_unit_test(test_nobody_starves), cmocka_unit_test(test_prompt_beside_decode),
        cmocka_unit_test(test_cloud_cuts),     cmocka_unit_test(test_lingering_binds_nobody),
        cmocka_unit_test(test_halves),         cmocka_unit_test(test_parts),
        cmocka_unit_test(test_order),          cmocka_unit_test(test_prompts_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
