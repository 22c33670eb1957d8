/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker takes a session, and which workers an edge joins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "control/fleet/placement.h"

#define MS UINT64_C(1000000)

static void test_fits(void **state)
{
    const struct fleet_need need = {.model = "aa", .split = 10, .codec_id = 2, .numerics_id = 3};
    const struct fleet_need any = {.split = 0};
    struct worker w = {.name = "w"};
    (void)state;
    assert_true(fleet_fits(&w, &need));
    assert_true(fleet_fits(&w, &any));
    strcpy(w.model, "aa");
    w.split = 10;
    w.codec_id = 2;
    w.numerics_id = 3;
    assert_true(fleet_fits(&w, &need));
    assert_true(fleet_fits(&w, &any));
    w.numerics_id = 0x20003; /* but for the format of the cache, which is a session's own */
    char why[80] = "";
    assert_true(fleet_fits(&w, &need));
    fleet_misfit(&w, &need, why, sizeof why);
    assert_string_equal(why, "");
    w.numerics_id = 4;
    assert_false(fleet_fits(&w, &need));
    fleet_misfit(&w, &need, why, sizeof why);
    assert_string_equal(why, "numerics 4, not 3");
    w.numerics_id = 3;
    w.split = 11;
    assert_false(fleet_fits(&w, &need));
    w.split = 10;
    w.codec_id = 1;
    assert_false(fleet_fits(&w, &need));
    w.codec_id = 2;
    strcpy(w.model, "ab");
    assert_false(fleet_fits(&w, &need));
}

static void test_room(void **state)
{
    struct fleet_view v[3] = {{.full = true},
                              {.has_status = true, .free_sessions = 0, .free_tokens = 1000},
                              {.has_status = true, .free_sessions = 3, .free_tokens = 1000}};
    (void)state;
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(fleet_choose(v, 3, 1000, 1, i), 2);
    assert_int_equal(fleet_choose(v, 3, 1001, 1, 0), -1);
    assert_int_equal(fleet_choose(v, 2, 0, 1, 0), -1);
    assert_int_equal(fleet_choose(v, 0, 0, 1, 0), -1);
    v[0].full = false; /* no status: believed */
    assert_int_equal(fleet_choose(v, 2, 0, 1, 0), 0);
}

/* How often each is chosen of 10,000. */
static void draw(const struct fleet_view *v, uint32_t n, unsigned *counts)
{
    memset(counts, 0, n * sizeof *counts);
    for (uint64_t i = 0; i < 10000; i++) {
        const int at = fleet_choose(v, n, 0, 7, i);
        assert_in_range(at, 0, n - 1);
        assert_int_equal(at, fleet_choose(v, n, 0, 7, i));
        counts[at]++;
    }
}

static void test_better_of_two(void **state)
{
    unsigned counts[10];
    struct fleet_view v[10];
    (void)state;
    for (unsigned i = 0; i < 10; i++)
        v[i] = (struct fleet_view){.rtt_ns = (i + 1) * MS};
    draw(v, 10, counts); /* the i-th best of 10 wins 2 (9 - i) / 90 of the draws */
    for (unsigned i = 0; i < 10; i++)
        assert_in_range(counts[i], 10000u * 2 * (9 - i) / 90 - (i == 9 ? 0 : 150),
                        10000u * 2 * (9 - i) / 90 + 150);
    for (unsigned i = 0; i < 10; i++)
        v[i].rtt_ns = MS;
    draw(v, 10, counts); /* alike: evenly */
    for (unsigned i = 0; i < 10; i++)
        assert_in_range(counts[i], 850, 1150);
    /* Of two: sessions of ours and places left tell. */
    v[0].sessions = 1;
    draw(v, 2, counts);
    assert_int_equal(counts[1], 10000);
    v[1].has_status = true;
    v[1].free_sessions = 1;
    v[1].free_tokens = 1;
    draw(v, 2, counts);
    assert_int_equal(counts[0], 10000);
}

static void test_beginnings(void **state)
{
    unsigned counts[4];
    struct fleet_view v[4] = {{.rtt_ns = MS}, {.rtt_ns = MS}, {.rtt_ns = 3 * MS}, {.rtt_ns = MS}};
    (void)state;
    v[2].shared_tokens = FLEET_SHARED;
    draw(v, 4, counts);
    assert_int_equal(counts[2], 10000);
    v[2].shared_tokens--;
    draw(v, 4, counts);
    assert_int_equal(counts[2], 0);
    v[2].shared_tokens = 500;
    v[2].sessions = FLEET_LEAN + 1; /* it has its share */
    draw(v, 4, counts);
    assert_int_equal(counts[2], 0);
}

/* --- which are joined
 * ----------------------------------------------------------------------------- */

static bool among(const uint32_t *chosen, size_t n, uint32_t i)
{
    for (size_t k = 0; k < n; k++)
        if (chosen[k] == i)
            return true;
    return false;
}

static void test_join(void **state)
{
    const struct fleet_need need = {.split = 10};
    uint32_t chosen[8], other[8], counts[100] = {0};
    struct workers w = {.n = 0};
    (void)state;
    assert_int_equal(fleet_select(&w, &need, 1, 8, chosen), 0);
    for (unsigned i = 0; i < 100; i++)
        sprintf(workers_add(&w)->name, "w%03u", i);
    assert_int_equal(fleet_select(&w, &need, 1, 0, chosen), 0);

    for (uint64_t seed = 0; seed < 1000; seed++) {
        assert_int_equal(fleet_select(&w, &need, seed, 8, chosen), 8);
        for (size_t k = 0; k < 8; k++) {
            assert_true(k == 0 || chosen[k - 1] < chosen[k]);
            counts[chosen[k]]++;
        }
    }
    for (unsigned i = 0; i < 100; i++)
        assert_in_range(counts[i], 45, 120); /* 80 each, but for chance */

    /* One that leaves changes one choice, and that only where it was chosen. */
    fleet_select(&w, &need, 5, 8, chosen);
    for (uint32_t gone = 0; gone < 100; gone++) {
        w.list[gone].draining = true;
        assert_int_equal(fleet_select(&w, &need, 5, 8, other), 8);
        assert_false(among(other, 8, gone));
        unsigned kept = 0;
        for (size_t k = 0; k < 8; k++)
            kept += among(other, 8, chosen[k]);
        assert_int_equal(kept, among(chosen, 8, gone) ? 7 : 8);
        w.list[gone].draining = false;
    }
    for (unsigned i = 0; i < 100; i++)
        w.list[i].split = i < 3 ? 10 : 11;
    assert_int_equal(fleet_select(&w, &need, 5, 8, chosen), 3);
    workers_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),          cmocka_unit_test(test_room),
        cmocka_unit_test(test_better_of_two), cmocka_unit_test(test_beginnings),
        cmocka_unit_test(test_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
