/* SPDX-License-Identifier: Apache-2.0 */
/* Places found by their number are those that a look at all of them finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/pipeline/find.h"
#include "tests/sim/network.h"

#define PLACES_MAX 300u

/* How many of the candidates have the number; each place comes once. */
static uint32_t found(const struct find *f, const uint32_t *numbers, uint32_t number)
{
    uint32_t n = 0, seen = 0;

    for (uint32_t i = find_first(f, number); i != FIND_NONE; i = f->next[i]) {
        n += numbers[i] == number;
        assert_true(++seen <= PLACES_MAX);
    }
    return n;
}

static uint32_t looked_for(const uint32_t *numbers, uint32_t n_places, uint32_t number)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < n_places; i++)
        n += numbers[i] == number;
    return n;
}

/* Of one number several times, too: 0 is a place that has none. */
static void test_as_looked_for(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 64, PLACES_MAX};
    struct dice d = {7};

    for (unsigned k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        const uint32_t n = counts[k];
        uint32_t numbers[PLACES_MAX] = {0};
        struct find f;

        assert_int_equal(find_open(&f, n), 0);
        for (uint32_t step = 0; step < 20000; step++) {
            const uint32_t place = (uint32_t)dice_below(&d, n);
            const uint32_t number = 1 + (uint32_t)dice_below(&d, 2 * (uint64_t)n);

            if (numbers[place])
                find_drop(&f, numbers[place], place);
            numbers[place] = dice_chance(&d, .7) ? number : 0;
            if (numbers[place])
                find_put(&f, number, place);
            assert_int_equal(found(&f, numbers, number), looked_for(numbers, n, number));
        }
        find_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_looked_for)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
