/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "codec/cpu.h"

#define HUGE_BYTES ((size_t)2 << 20)

/* What reading adds up to has to go somewhere, or the compiler would leave it out. */
static volatile uint64_t sink;

/* Eight registers of `width` bytes a step, so that loads and stores, not additions, are the limit.
 * memcpy is no bound: at some alignments glibc's is ten times slower than this on Zen 3. */
#define READER_AND_COPIER(width, target)                                                           \
    target static void read_##width(const char *src, size_t bytes)                                 \
    {                                                                                              \
        typedef uint64_t vec __attribute__((vector_size(width), aligned(1), may_alias));           \
        vec sum[8] = {{0}};                                                                        \
        for (size_t i = 0; i + sizeof(sum) <= bytes; i += sizeof(sum))                             \
            for (unsigned k = 0; k < 8; k++)                                                       \
                sum[k] += *(const vec *)(const void *)(src + i + k * sizeof(vec));                 \
        for (unsigned k = 1; k < 8; k++)                                                           \
            sum[0] += sum[k];                                                                      \
        sink += sum[0][0] + sum[0][1];                                                             \
    }                                                                                              \
                                                                                                   \
    target static void copy_##width(char *dst, const char *src, size_t bytes)                      \
    {                                                                                              \
        typedef uint64_t vec __attribute__((vector_size(width), aligned(1), may_alias));           \
        vec v[8];                                                                                  \
        for (size_t i = 0; i + sizeof(v) <= bytes; i += sizeof(v)) {                               \
            for (unsigned k = 0; k < 8; k++)                                                       \
                v[k] = *(const vec *)(const void *)(src + i + k * sizeof(vec));                    \
            for (unsigned k = 0; k < 8; k++)                                                       \
                *(vec *)(void *)(dst + i + k * sizeof(vec)) = v[k];                                \
        }                                                                                          \
    }

READER_AND_COPIER(16, )
#if defined(__x86_64__)
READER_AND_COPIER(32, __attribute__((target("avx2"))))
READER_AND_COPIER(64, __attribute__((target("avx512f"))))

static unsigned width(void)
{
    const unsigned has = cpu_detect();

    return has & CPU_AVX512 ? 64 : has & CPU_AVX2 ? 32 : 16;
}
#endif

void memory_read(const void *src, size_t bytes)
{
#if defined(__x86_64__)
    if (width() == 64)
        return read_64(src, bytes);
    if (width() == 32)
        return read_32(src, bytes);
#endif
    read_16(src, bytes);
}

void memory_copy(void *dst, const void *src, size_t bytes)
{
#if defined(__x86_64__)
    if (width() == 64)
        return copy_64(dst, src, bytes);
    if (width() == 32)
        return copy_32(dst, src, bytes);
#endif
    copy_16(dst, src, bytes);
}

/* --- loops to choose from -----------------------------------------------------------------------
 */

/* `streams` places read side by side, eight registers at each, and `ahead` bytes before them asked
 * for by prefetch with `locality` (3: into all caches, 0: past them). */
#define LOOP(name, width, target, streams, ahead, locality)                                        \
    target static void name(const char *src, size_t bytes)                                         \
    {                                                                                              \
        typedef uint64_t vec __attribute__((vector_size(width), aligned(1), may_alias));           \
        vec sum[8] = {{0}};                                                                        \
        const size_t stream = bytes / (streams) / sizeof(sum) * sizeof(sum);                       \
        for (size_t i = 0; i < stream; i += sizeof(sum))                                           \
            for (const char *p = src + i, *end = p + (streams)*stream; p < end; p += stream) {     \
                for (size_t line = 0; (ahead) && line < sizeof(sum); line += 64)                   \
                    __builtin_prefetch(p + (ahead) + line, 0, locality);                           \
                for (unsigned k = 0; k < 8; k++)                                                   \
                    sum[k] += *(const vec *)(const void *)(p + k * sizeof(vec));                   \
            }                                                                                      \
        for (unsigned k = 1; k < 8; k++)                                                           \
            sum[0] += sum[k];                                                                      \
        sink += sum[0][0] + sum[0][1];                                                             \
    }

#define LOOPS(width, target)                                                                       \
    LOOP(plain_##width, width, target, 1, 0, 0)                                                    \
    LOOP(streams2_##width, width, target, 2, 0, 0)                                                 \
    LOOP(streams4_##width, width, target, 4, 0, 0)                                                 \
    LOOP(streams8_##width, width, target, 8, 0, 0)                                                 \
    LOOP(ahead_##width, width, target, 1, 1024, 3)                                                 \
    LOOP(far_ahead_##width, width, target, 1, 4096, 3)                                             \
    LOOP(past_caches_##width, width, target, 1, 2048, 0)                                           \
    LOOP(streams4_ahead_##width, width, target, 4, 1024, 3)

#define LOOP_LIST(width, isa)                                                                      \
    {#width "-byte loads", isa, plain_##width},                                                    \
        {#width "-byte loads, 2 streams", isa, streams2_##width},                                  \
        {#width "-byte loads, 4 streams", isa, streams4_##width},                                  \
        {#width "-byte loads, 8 streams", isa, streams8_##width},                                  \
        {#width "-byte loads, prefetch 1 KiB ahead", isa, ahead_##width},                          \
        {#width "-byte loads, prefetch 4 KiB ahead", isa, far_ahead_##width},                      \
        {#width "-byte loads, prefetch past the caches", isa, past_caches_##width},                \
    {                                                                                              \
#width "-byte loads, 4 streams, prefetch 1 KiB ahead", isa, streams4_ahead_##width         \
    }

LOOPS(16, )
#if defined(__x86_64__)
LOOPS(32, __attribute__((target("avx2"))))
LOOPS(64, __attribute__((target("avx512f"))))
#endif

static const struct memory_loop loops[] = {
    LOOP_LIST(16, 0),
#if defined(__x86_64__)
    LOOP_LIST(32, CPU_AVX2),
    LOOP_LIST(64, CPU_AVX2 | CPU_AVX512),
#endif
};

unsigned memory_loops(void)
{
    return sizeof(loops) / sizeof(loops[0]);
}

const struct memory_loop *memory_loop(unsigned nth)
{
    return &loops[nth];
}

/* --- pages --------------------------------------------------------------------------------------
 */

static size_t whole_pages(size_t bytes)
{
    return (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

void *memory_map(size_t bytes)
{
    bytes = whole_pages(bytes);
    char *p = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    const size_t before = -(uintptr_t)p % HUGE_BYTES;
    if (before)
        munmap(p, before);
    if (before < HUGE_BYTES)
        munmap(p + before + bytes, HUGE_BYTES - before);
    madvise(p + before, bytes, MADV_HUGEPAGE); /* whether it helped memory_huge_bytes() tells */
    return p + before;
}

void memory_unmap(void *p, size_t bytes)
{
    if (p)
        munmap(p, whole_pages(bytes));
}

size_t memory_huge_bytes(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    unsigned long kib = 0;
    char line[256];

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}
