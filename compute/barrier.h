/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The team's barrier: members spin for a while, then sleep in the kernel.
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
/* What any member wrote before is seen by all after. Spins for so many pauses of the CPU (10 to 45
 * ns each), then sleeps. */
void team_barrier_wait(struct barrier *b, unsigned spins);

#endif
