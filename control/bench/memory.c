/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/memory.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "control/bench/turns.h"

#define DRAM_MIN_BYTES ((size_t)64 << 20)
#define DRAM_MAX_BYTES ((size_t)512 << 20)

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

struct buffers {
    char *src, *dst;
    size_t bytes;
};

static void run_read(void *arg)
{
    const struct buffers *b = arg;

    memory_read(b->src, b->bytes);
}

static void run_copy(void *arg)
{
    const struct buffers *b = arg;

    memcpy(b->dst, b->src, b->bytes); /* at this size it goes past the caches, which is faster */
}

int memory_dram(size_t l3_bytes, double time_s, double *read, double *copy)
{
    struct buffers b = {.bytes = 4 * l3_bytes};

    if (b.bytes < DRAM_MIN_BYTES)
        b.bytes = DRAM_MIN_BYTES;
    if (b.bytes > DRAM_MAX_BYTES)
        b.bytes = DRAM_MAX_BYTES;
    b.src = malloc(b.bytes);
    b.dst = malloc(b.bytes);
    struct turns_job jobs[] = {
        {.run = run_read, .arg = &b, .units = (double)b.bytes},
        {.run = run_copy, .arg = &b, .units = (double)b.bytes},
    };
    int rc = b.src && b.dst ? 0 : -ENOMEM;
    if (rc == 0) {
        memset(b.src, 1, b.bytes); /* pages that were never written all lie in one place */
        rc = turns_take(jobs, 2, time_s);
    }
    if (rc == 0) {
        *read = 1 / jobs[0].best_ns;
        *copy = 1 / jobs[1].best_ns;
    }
    free(b.src);
    free(b.dst);
    return rc;
}
