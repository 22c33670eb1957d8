/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The team's barrier, apart from OpenMP so that ThreadSanitizer can prove it (its runtime knows
 * pthreads and C11 atomics, but nothing of libgomp).
 */
#ifndef ISTHMUS_COMPUTE_BARRIER_H
#define ISTHMUS_COMPUTE_BARRIER_H

#include <stdatomic.h>
#include <stdint.h>

struct barrier {
    uint32_t n;
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t phase; /* the futex */
    _Atomic uint32_t sleepers;
};

void team_barrier_init(struct barrier *b, uint32_t n);
/* What any member wrote before is seen by all after. Spins some 20 us, then sleeps. */
void team_barrier_wait(struct barrier *b);

#endif
