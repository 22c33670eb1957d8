/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/cpu.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* clang 14's builtin does not know the name. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

#define UNKNOWN      UINT_MAX
#define FAMILY_ZEN_3 0x19u

/* Found beside the CPU_ flags, and not narrowed by a mask. */
#define HAS_VBMI2 (CPU_ALL + 1)
#define FAST_PEXT (HAS_VBMI2 << 1)

static _Atomic unsigned cpu_mask = CPU_ALL;

/* A level without its base is unusable: kernels of a level assume all those below it. */
static unsigned with_bases(unsigned flags)
{
    if (!(flags & CPU_AVX2))
        flags &= ~(CPU_AVX512 | CPU_VNNI);
    if (!(flags & CPU_AVX512))
        flags &= ~CPU_VNNI;
    return flags & CPU_ALL;
}

static bool pext_is_fast(void)
{
#if defined(__x86_64__)
    unsigned a, b, intel, c, d;

    if (__get_cpuid(0, &a, &intel, &c, &d) && __get_cpuid(1, &a, &b, &c, &d))
        return intel == signature_INTEL_ebx || (a >> 8 & 0xf) + (a >> 20 & 0xff) >= FAMILY_ZEN_3;
#endif
    return false;
}

static unsigned detect(void)
{
    unsigned flags = 0, more = pext_is_fast() ? FAST_PEXT : 0;
#if defined(__x86_64__)
    /* The builtins also ask XGETBV whether the kernel saves the wide registers. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_f16c())
        flags |= CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        flags |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        flags |= CPU_VNNI;
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2"))
        more |= HAS_VBMI2;
#endif
    return with_bases(flags) | more;
}

/* CPUID traps in a virtual machine, microseconds each, and kernels ask often: ask it once. Threads
 * that race here find the same. */
static unsigned found_once(void)
{
    static _Atomic unsigned found = UNKNOWN;
    unsigned flags = atomic_load_explicit(&found, memory_order_relaxed);

    if (flags == UNKNOWN) {
        flags = detect();
        atomic_store_explicit(&found, flags, memory_order_relaxed);
    }
    return flags;
}

unsigned cpu_detect(void)
{
    return found_once() & CPU_ALL;
}

bool cpu_has_vbmi2(void)
{
    return cpu_detect() & CPU_AVX512 && found_once() & HAS_VBMI2;
}

bool cpu_pext_is_fast(void)
{
    return found_once() & FAST_PEXT;
}

unsigned cpu_flags(void)
{
    return with_bases(cpu_detect() & atomic_load_explicit(&cpu_mask, memory_order_relaxed));
}

void cpu_set_mask(unsigned mask)
{
    atomic_store_explicit(&cpu_mask, mask, memory_order_relaxed);
}

int cpu_parse_mask(const char *text, unsigned *mask)
{
    static const struct {
        const char *name;
        unsigned mask;
    } levels[] = {
        {"c", 0},
        {"avx2", CPU_AVX2},
        {"avx512", CPU_AVX2 | CPU_AVX512},
        {"vnni", CPU_AVX2 | CPU_AVX512 | CPU_VNNI},
        {"all", CPU_ALL},
    };
    char *end;
    unsigned long value;

    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (strcmp(text, levels[i].name) == 0) {
            *mask = levels[i].mask;
            return 0;
        }
    }
    if (text[0] < '0' || text[0] > '9') /* strtoul would take blanks and signs */
        return -EINVAL;
    errno = 0;
    value = strtoul(text, &end, 0);
    if (errno || *end || value > CPU_ALL)
        return -EINVAL;
    *mask = (unsigned)value;
    return 0;
}

const char *cpu_level_name(unsigned flags)
{
    flags = with_bases(flags);
    if (flags & CPU_VNNI)
        return "vnni";
    if (flags & CPU_AVX512)
        return "avx512";
    return flags & CPU_AVX2 ? "avx2" : "c";
}
