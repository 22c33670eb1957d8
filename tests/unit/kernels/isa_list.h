/* SPDX-License-Identifier: Apache-2.0 */
static const struct test_isa isas[] = {
    {"c", &kernels_isa_c, 0},
    {"avx2", &kernels_isa_avx2, CPU_AVX2},
};
#define N_ISAS (sizeof(isas) / sizeof(isas[0]))
