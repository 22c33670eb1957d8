/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-512 files run here twice: on CPUs that have it, and emulated by SIMDe everywhere. */
#if defined(__x86_64__)
extern const struct kernels_isa kernels_isa_avx512_emulated, kernels_isa_vnni_emulated;
#endif

static const struct test_isa isas[] = {
    {"c", &kernels_isa_c, 0},
#if defined(__x86_64__)
    {"avx2", &kernels_isa_avx2, CPU_AVX2},
    {"avx512", &kernels_isa_avx512, CPU_AVX512},
    {"vnni", &kernels_isa_vnni, CPU_VNNI},
    {"avx512 emulated", &kernels_isa_avx512_emulated, CPU_AVX2},
    {"vnni emulated", &kernels_isa_vnni_emulated, CPU_AVX2},
#endif
};
#define N_ISAS (sizeof(isas) / sizeof(isas[0]))
