/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Philox4x32-10: a counter-based random number generator (Salmon, Moraes, Dror, Shaw: "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011). Its output is a function of counter and key alone,
 * so nothing needs to be remembered between draws.
 */
#ifndef ISTHMUS_COMPUTE_PHILOX_H
#define ISTHMUS_COMPUTE_PHILOX_H

#include <stdint.h>

static inline void philox4x32_10(uint32_t ctr[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * ctr[0];
        uint64_t b = (uint64_t)0xCD9E8D57u * ctr[2];

        ctr[0] = (uint32_t)(b >> 32) ^ ctr[1] ^ key0;
        ctr[1] = (uint32_t)b;
        ctr[2] = (uint32_t)(a >> 32) ^ ctr[3] ^ key1;
        ctr[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

#endif
