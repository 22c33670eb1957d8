/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's bounds: loops read what they say, the best counts, and it only grows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "codec/cpu.h"
#include "compute/team.h"
#include "control/bench/bounds.h"
#include "control/bench/memory.h"
#include "control/bench/units.h"

#define BYTES ((size_t)4 << 20)

/* No loop may read beyond the buffer, whatever its length: what follows cannot be read. */
static void loops_stay_inside(void **state)
{
    char *p = memory_map(2 * BYTES);

    assert_non_null(p);
    assert_int_equal((uintptr_t)p % ((size_t)2 << 20), 0);
    assert_int_equal(mprotect(p + BYTES, BYTES, PROT_NONE), 0);
    memset(p, 1, BYTES);
    for (unsigned i = 0; i < memory_loops(); i++) {
        const struct memory_loop *loop = memory_loop(i);
        if ((cpu_detect() & loop->needs) != loop->needs)
            continue;
        for (size_t bytes = 0; bytes < 20000; bytes += 4099)
            loop->read(p + BYTES - bytes, bytes);
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(loop->name, memory_loop(k)->name);
    }
    memory_unmap(p, 2 * BYTES);
}

static void units_loops_run(void **state)
{
    unsigned ran = 0;

    for (unsigned i = 0; i < units_loops(); i++) {
        const struct units_loop *loop = units_loop(i);
        assert_true(loop->ops > 0);
        if ((cpu_detect() & loop->needs) == loop->needs) {
            loop->run();
            ran++;
        }
    }
    assert_true(ran >= 2);
}

static void best_of_all_calls(void **state)
{
    struct bounds *b;
    struct team *team;
    unsigned used;

    for (unsigned threads = 1; threads <= 2; threads++) {
        assert_int_equal(team_open(threads, -1, &team, &used), 0);
        assert_int_equal(bounds_open(team, BOUND(BOUND_KINDS) - 1, 2 * BYTES, &b), 0);
        assert_true(bounds_dram_bytes(b) >= 2 * BYTES);
        assert_true(isnan(bounds_best(b, BOUND_DRAM_READ, BOUND_ANY_ISA).rate)); /* not yet */
        assert_int_equal(bounds_measure(b, .01), 0);
        for (enum bound_kind kind = 0; kind < BOUND_KINDS; kind++) {
            const struct bound best = bounds_best(b, kind, BOUND_ANY_ISA);
            if (kind == BOUND_L3_READ && isnan(best.rate))
                continue; /* there may be none */
            assert_true(best.rate > 0 && best.turns >= 5 && best.kind == kind);
            assert_non_null(best.how);
            for (unsigned isa = 0; isa <= CPU_ALL; isa++)
                assert_false(bounds_best(b, kind, isa).rate > best.rate);
        }
        const double dot = bounds_best(b, BOUND_DOT, BOUND_ANY_ISA).rate;
        assert_int_equal(bounds_measure(b, .01), 0);
        assert_true(bounds_best(b, BOUND_DOT, BOUND_ANY_ISA).rate >= dot);
        bounds_close(b);
        team_close(team);
    }
}

static void only_what_was_asked_for(void **state)
{
    struct bounds *b;
    struct team *team;

    assert_int_equal(team_open(1, -1, &team, NULL), 0);
    assert_int_equal(bounds_open(team, BOUND(BOUND_FMA), BYTES, &b), 0);
    assert_int_equal(bounds_measure(b, .001), 0);
    assert_true(bounds_best(b, BOUND_FMA, BOUND_ANY_ISA).rate > 0);
    assert_true(isnan(bounds_best(b, BOUND_DOT, BOUND_ANY_ISA).rate));
    assert_true(isnan(bounds_best(b, BOUND_DRAM_READ, BOUND_ANY_ISA).rate));
    bounds_close(b);
    team_close(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_stay_inside),
        cmocka_unit_test(units_loops_run),
        cmocka_unit_test(best_of_all_calls),
        cmocka_unit_test(only_what_was_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
