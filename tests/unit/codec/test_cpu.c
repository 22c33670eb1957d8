/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>

#include "codec/cpu.h"

static void parses_levels_and_numbers(void **state)
{
    static const struct {
        const char *text;
        int rc;
        unsigned mask;
    } cases[] = {
        {"c", 0, 0},
        {"avx2", 0, 1},
        {"avx512", 0, 3},
        {"vnni", 0, 7},
        {"all", 0, 7},
        {"0", 0, 0},
        {"0x3", 0, 3},
        {"7", 0, 7},
        {"8", -EINVAL, 0},
        {"", -EINVAL, 0},
        {"AVX2", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"0x", -EINVAL, 0},
        {"avx", -EINVAL, 0},
        {"99999999999999999999", -EINVAL, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned mask = 0;
        assert_int_equal(cpu_parse_mask(cases[i].text, &mask), cases[i].rc);
        assert_int_equal(mask, cases[i].mask);
    }
}

static void mask_narrows_and_never_adds(void **state)
{
    for (unsigned mask = 0; mask < 16; mask++) {
        cpu_set_mask(mask);
        assert_int_equal(cpu_flags() & ~(cpu_detect() & mask), 0);
        if (cpu_flags() & CPU_VNNI)
            assert_true(cpu_flags() & CPU_AVX512);
        if (cpu_flags() & CPU_AVX512)
            assert_true(cpu_flags() & CPU_AVX2);
    }
    cpu_set_mask(CPU_AVX512 | CPU_VNNI); /* without their base */
    assert_int_equal(cpu_flags(), 0);
    cpu_set_mask(CPU_ALL);
    assert_int_equal(cpu_flags(), cpu_detect());
}

static void names_the_best_level(void **state)
{
    assert_string_equal(cpu_level_name(0), "c");
    assert_string_equal(cpu_level_name(CPU_AVX2), "avx2");
    assert_string_equal(cpu_level_name(CPU_AVX2 | CPU_AVX512), "avx512");
    assert_string_equal(cpu_level_name(CPU_ALL), "vnni");
    assert_string_equal(cpu_level_name(CPU_VNNI), "c");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_levels_and_numbers),
        cmocka_unit_test(mask_narrows_and_never_adds),
        cmocka_unit_test(names_the_best_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
