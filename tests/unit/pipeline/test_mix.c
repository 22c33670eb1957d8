/* SPDX-License-Identifier: Apache-2.0 */
/* What goes into a run together, and that nobody waits for ever. */
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

/* One run in which every rank adds what it may of what it has, whole pieces of `piece` rows. */
static void run(struct mix *m, const uint32_t have[MIX_RANKS], uint32_t piece, bool decoding,
                uint32_t max_rows, uint32_t took[MIX_RANKS])
{
    bool waiting[MIX_RANKS];

    for (unsigned r = 0; r < MIX_RANKS; r++) {
        waiting[r] = have[r] > 0;
        took[r] = 0;
    }
    mix_begin(m, waiting, decoding, max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++) {
        enum mix_rank r = m->order[i];
        uint32_t n = r == MIX_DECODE ? 1 : piece;

        while (took[r] + n <= have[r] && mix_fits(m, r, n)) {
            mix_add(m, r, n);
            took[r] += n;
        }
    }
    assert_true(took[0] + took[1] + took[2] <= max_rows);
    mix_end(m);
}

static void test_together(void **state)
{
    const uint32_t have[MIX_RANKS] = {8, 1000, 0}, alone[MIX_RANKS] = {0, 1000, 1000};
    struct mix m = {0};
    uint32_t took[MIX_RANKS];

    for (int i = 0; i < 10; i++) {
        run(&m, have, 4, true, 128, took);
        assert_int_equal(took[MIX_DECODE], 8);
        assert_int_equal(took[MIX_PREFILL], MIX_BULK_ROWS);
    }
    run(&m, have, 64, true, 128, took); /* too large a piece goes, but one alone */
    assert_int_equal(took[MIX_DECODE], 8);
    assert_int_equal(took[MIX_PREFILL], 64);
    run(&m, alone, 4, false, 128, took); /* nobody decodes: no bound */
    assert_int_equal(took[MIX_PREFILL], 128);
    mix_begin(&m, (bool[MIX_RANKS])ALL, true, 20);
    mix_add(&m, MIX_DECODE, 10);
    assert_int_equal(mix_room(&m, MIX_PREFILL), 10);
    assert_int_equal(mix_room(&m, MIX_DECODE), 10);
    mix_add(&m, MIX_PREFILL, 10);
    assert_int_equal(mix_room(&m, MIX_REPLAY), 0);
}

/* However little goes into a run, and whatever else waits, each rank has its turn. */
static void test_nobody_starves(void **state)
{
    const uint32_t have[MIX_RANKS] = {200, 1000, 1000};

    for (uint32_t max_rows = 1; max_rows < 64; max_rows++) {
        uint32_t gap[MIX_RANKS] = {0}, took[MIX_RANKS];
        struct mix m = {0};

        for (int i = 0; i < 200; i++) {
            run(&m, have, max_rows < 8 ? max_rows : 8, true, max_rows, took);
            for (unsigned r = 0; r < MIX_RANKS; r++) {
                gap[r] = took[r] ? 0 : gap[r] + 1;
                assert_in_range(gap[r], 0, MIX_PATIENCE + MIX_RANKS - 1);
            }
        }
    }
}

/* A prompt of 600 tokens while others decode: the ids between it stay as close as the bound says,
 * where rows take their time. */
static void test_prompt_beside_decode(void **state)
{
    const uint64_t row_ns = RIG_MS, run_ns = RIG_MS / 2;
    struct rig_params p = {
        .network = {.delay_min_ns = 10000, .delay_max_ns = 10000},
        .edge_stage = {.run_ns = run_ns, .row_ns = row_ns},
        .cloud_stage = {.run_ns = run_ns, .row_ns = row_ns},
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
        rig_request(&q[i], i, 5, 120);
        assert_true(rig_submit(&r, &q[i]) > 0);
    }
    while (!q[0].n_ids || !q[1].n_ids || !q[2].n_ids)
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
        assert_true(n[i] > 600 / MIX_BULK_ROWS / 3); /* they went on */
    /* In one thread the two stages take turns, and a packet misses the run that begins as it is
     * sent: three runs of each between an id and the next. */
    assert_true(largest < 6 * (run_ns + (MIX_BULK_ROWS + 3) * row_ns) + RIG_MS);
    while (!q[0].done || !q[1].done || !q[2].done || !q[3].done)
        rig_step(&r);
    for (uint32_t i = 0; i < 4; i++) {
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
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_nobody_starves),
        cmocka_unit_test(test_prompt_beside_decode),
        cmocka_unit_test(test_lingering_binds_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
