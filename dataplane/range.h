/* SPDX-License-Identifier: Apache-2.0 */
/* The lesser, the greater, and within bounds: of times, mostly. */
#ifndef ISTHMUS_DATAPLANE_RANGE_H
#define ISTHMUS_DATAPLANE_RANGE_H

#include <stdint.h>

static inline uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* v, but not below low nor above high. */
static inline uint64_t clamp(uint64_t v, uint64_t low, uint64_t high)
{
    return v < low ? low : v > high ? high : v;
}

#endif
