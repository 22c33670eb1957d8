/* SPDX-License-Identifier: Apache-2.0 */
/* What the codec's tests share: a printed seed, rows of every temper, buffers that end at a page
 * nobody may touch. */
#ifndef ISTHMUS_TESTS_CODEC_UTIL_H
#define ISTHMUS_TESTS_CODEC_UTIL_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t rng_state;

/* ISTHMUS_TEST_SEED repeats a run. */
static inline void rng_seed(void)
{
    const char *text = getenv("ISTHMUS_TEST_SEED");

    if (text)
        rng_state = strtoull(text, NULL, 0);
    else if (getrandom(&rng_state, sizeof(rng_state), 0) != sizeof(rng_state))
        abort();
    printf("seed: ISTHMUS_TEST_SEED=%#llx\n", (unsigned long long)rng_state);
}

static inline uint64_t rng(void) /* splitmix64 */
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t rng_below(uint32_t n)
{
    return (uint32_t)(rng() % n);
}

static inline float rng_unit(void) /* -1..1 */
{
    return (float)((double)(int64_t)rng() * 0x1p-63);
}

static inline float rng_normal(void)
{
    float sum = 0.0f;
    for (unsigned i = 0; i < 8; i++)
        sum += rng_unit();
    return sum;
}

enum row_kind {
    ROW_ZERO,
    ROW_NORMAL,
    ROW_GIANTS,  /* small values, a few up to 27,000 */
    ROW_MASSIVE, /* one channel above all, as in SmolLM2's first token */
    ROW_CONSTANT,
    ROW_POSITIVE,
    ROW_SPARSE,
    ROW_TINY, /* beneath f16 */
    ROW_SUBNORMAL,
    ROW_HUGE, /* up to FLT_MAX */
    ROW_BITS, /* any finite bit pattern */
    ROW_KINDS,
};

static inline void fill_row(float *x, uint32_t n, enum row_kind kind)
{
    const float level = rng_unit() * 100.0f;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        switch (kind) {
        case ROW_ZERO:
            x[i] = rng() & 1 ? 0.0f : -0.0f;
            break;
        case ROW_NORMAL:
            x[i] = rng_normal() * level;
            break;
        case ROW_GIANTS:
            x[i] = rng_below(64) ? rng_normal() : rng_unit() * 27000.0f;
            break;
        case ROW_MASSIVE:
            x[i] = i == n / 3 ? 20000.0f : 20.0f * rng_normal();
            break;
        case ROW_CONSTANT:
            x[i] = level;
            break;
        case ROW_POSITIVE:
            x[i] = 100.0f + fabsf(rng_normal());
            break;
        case ROW_SPARSE:
            x[i] = rng_below(20) ? 0.0f : rng_normal() * level;
            break;
        case ROW_TINY:
            x[i] = rng_normal() * 1e-7f;
            break;
        case ROW_SUBNORMAL:
            x[i] = rng_normal() * 0x1p-130f;
            break;
        case ROW_HUGE:
            x[i] = rng_below(3) ? rng_unit() * 0x1.fffffep127f : rng_normal();
            break;
        default:
            do {
                bits = (uint32_t)rng();
                memcpy(&x[i], &bits, sizeof(bits));
            } while (!isfinite(x[i]));
        }
    }
}

static inline void fill_any_row(float *x, uint32_t n)
{
    fill_row(x, n, (enum row_kind)rng_below(ROW_KINDS));
}

/* `bytes` bytes that end where no access is allowed. Free with fenced_free. */
static inline void *fenced_alloc(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = (bytes + page - 1) / page * page;
    uint8_t *map =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + room, page, PROT_NONE), 0);
    return map + room - bytes;
}

static inline void fenced_free(void *p, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = (bytes + page - 1) / page * page;

    munmap((uint8_t *)p + bytes - room, room + page);
}

#endif
