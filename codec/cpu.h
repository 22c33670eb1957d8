/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instruction sets the kernels may use. Detected once, narrowed by `--cpu-mask`.
 *
 * codec and compute pick their kernel tables from cpu_flags(); every table gives the same bits, so
 * the mask changes speed only.
 */
#ifndef ISTHMUS_CODEC_CPU_H
#define ISTHMUS_CODEC_CPU_H

#include <stdbool.h>

#define CPU_AVX2   1u /* AVX2 + FMA + F16C + BMI + BMI2 */
#define CPU_AVX512 2u /* AVX-512 F + BW + DQ + VL (implies CPU_AVX2) */
#define CPU_VNNI   4u /* AVX-512 VNNI (implies CPU_AVX512) */
#define CPU_ALL    (CPU_AVX2 | CPU_AVX512 | CPU_VNNI)

/* What this machine has, before any mask. */
unsigned cpu_detect(void);

/* Whether AVX-512 comes with VBMI and VBMI2. */
bool cpu_has_vbmi2(void);

/* Whether PEXT is an instruction like others: AMD's before Zen 3 take some 20 cycles and more. */
bool cpu_pext_is_fast(void);

/* What kernels may use now: cpu_detect() & mask, with implied bits cleared when their base is.
 * Thread safe. */
unsigned cpu_flags(void);

/* Narrow what cpu_flags() reports. Call before any codec or compute object is opened (objects keep
 * the table they were opened with). The mask cannot add what the machine lacks. */
void cpu_set_mask(unsigned mask);

/* "c", "avx2", "avx512", "vnni" (each includes those before it), "all", or a number (0x3).
 * Returns 0 and the mask, or -EINVAL. */
int cpu_parse_mask(const char *text, unsigned *mask);

/* "c", "avx2", "avx512" or "vnni": the best level in flags. Static string. */
const char *cpu_level_name(unsigned flags);

#endif
