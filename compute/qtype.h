/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storage types of weights: the ggml type ids we accept, their block shapes, and the C
 * dequantization that defines their values.
 */
#ifndef ISTHMUS_COMPUTE_QTYPE_H
#define ISTHMUS_COMPUTE_QTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are ggml's type ids, as GGUF stores them. */
enum qtype {
    QTYPE_F32 = 0,
    QTYPE_F16 = 1,
    QTYPE_Q4_0 = 2,
    QTYPE_Q4_1 = 3,
    QTYPE_Q5_0 = 6,
    QTYPE_Q5_1 = 7,
    QTYPE_Q8_0 = 8,
    QTYPE_Q4_K = 12,
    QTYPE_Q5_K = 13,
    QTYPE_Q6_K = 14,
    QTYPE_I8 = 24, /* integers: data of other tensors (scheme.h), no weights by themselves */
    QTYPE_I16 = 25,
    QTYPE_I32 = 26,
    QTYPE_BF16 = 30,
};

struct qtype_info {
    const char *name;        /* "Q4_1" */
    uint32_t block_values;   /* values in a block: 1, 32 or 256 */
    uint32_t block_bytes;
};

/* NULL when the id is not one we read. */
const struct qtype_info *qtype_info(uint32_t ggml_type);

static inline bool qtype_is_integer(enum qtype t)
{
    return t >= QTYPE_I8 && t <= QTYPE_I32;
}

/* "F32 F16 Q4_0 ...": for errors. */
const char *qtype_supported(void);

/* n values (a multiple of block_values) of type t from src to dst f32[n]: the definition of what
 * the stored bytes mean. src may be unaligned. */
void qtype_dequantize(enum qtype t, const void *src, float *dst, size_t n);

/* Whether all of n values (a multiple of block_values) are finite: a file's damaged scale must not
 * become tokens. src may be unaligned. */
bool qtype_finite(enum qtype t, const void *src, size_t n);

#endif
