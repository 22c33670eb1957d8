/* SPDX-License-Identifier: Apache-2.0 */
/* Random data for the kernel tests, and the list of kernel tables to hold against the reference. */
#ifndef TEST_KERNELS_COMMON_H
#define TEST_KERNELS_COMMON_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <math.h>
#include <cmocka.h>

#include "codec/cpu.h"
#include "compute/kernels/internal.h"

static uint64_t rng_state;

static inline uint32_t rng(void) /* splitmix64 */
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 16);
}

static inline void rng_seed(void)
{
    const char *s = getenv("ISTHMUS_TEST_SEED");
    rng_state = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL);
    printf("ISTHMUS_TEST_SEED=%llu\n", (unsigned long long)rng_state);
}

static inline float rng_uniform(void) /* [-1, 1) */
{
    return (float)(int32_t)rng() * 0x1p-31f;
}

/* Roughly what activations look like: small, with rare giants. */
static inline void random_floats(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (rng_uniform() + rng_uniform() + rng_uniform()) * (rng() % 97 ? 1.f : 300.f);
}

/* n values of a type in its file format, every code possible, scales of sane size. */
static inline void random_blocks(enum qtype type, uint8_t *dst, size_t n)
{
    const struct qtype_info *q = qtype_info(type);

    for (size_t i = 0; i < n / q->block_values; i++, dst += q->block_bytes) {
        uint16_t d = f16_from_f32(rng_uniform() * .01f), m = f16_from_f32(rng_uniform() * .1f);

        for (size_t j = 0; j < q->block_bytes; j++)
            dst[j] = (uint8_t)rng();
        float f = rng_uniform();
        switch (type) {
        case QTYPE_F32:
            memcpy(dst, &f, 4);
            break;
        case QTYPE_F16:
            d = f16_from_f32(f);
            memcpy(dst, &d, 2);
            break;
        case QTYPE_BF16:
            memcpy(dst, (uint8_t *)&f + 2, 2);
            break;
        case QTYPE_Q6_K:
            memcpy(dst + 208, &d, 2);
            break;
        default:
            memcpy(dst, &d, 2);
            if (type != QTYPE_Q4_0 && type != QTYPE_Q5_0 && type != QTYPE_Q8_0)
                memcpy(dst + 2, &m, 2);
        }
    }
}

struct test_isa {
    const char *name;
    const struct kernels_isa *isa;
    unsigned needs; /* CPU_* */
};

#include "isa_list.h"

static const enum qtype all_types[] = {QTYPE_F32,  QTYPE_F16,  QTYPE_BF16, QTYPE_Q4_0,
                                       QTYPE_Q4_1, QTYPE_Q5_0, QTYPE_Q5_1, QTYPE_Q8_0,
                                       QTYPE_Q4_K, QTYPE_Q5_K, QTYPE_Q6_K};
#define N_TYPES (sizeof(all_types) / sizeof(all_types[0]))

#endif
