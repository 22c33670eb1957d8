/* SPDX-License-Identifier: Apache-2.0 */
static const struct test_isa isas[] = {
    {"c", &kernels_isa_c, 0},
};
#define N_ISAS (sizeof(isas) / sizeof(isas[0]))
