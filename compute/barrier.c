/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/futex.h>
#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compute/barrier.h"

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

void team_barrier_init(struct barrier *b, uint32_t n)
{
    b->n = n;
    atomic_init(&b->arrived, 0);
    atomic_init(&b->phase, 0);
    atomic_init(&b->sleepers, 0);
}

void team_barrier_wait(struct barrier *b, unsigned spins)
{
    uint32_t phase = atomic_load_explicit(&b->phase, memory_order_relaxed);

    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 == b->n) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        /* Both sides sequentially consistent: either we see the sleeper counted, or it sees the new
         * phase in the kernel's comparison and does not sleep. */
        atomic_fetch_add(&b->phase, 1);
        if (atomic_load(&b->sleepers))
            futex(&b->phase, FUTEX_WAKE, INT_MAX);
        return;
    }
    for (unsigned i = 0; i < spins; i++) {
        if (atomic_load_explicit(&b->phase, memory_order_acquire) != phase)
            return;
        pause_cpu();
    }
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(&b->phase) == phase)
        futex(&b->phase, FUTEX_WAIT, phase);
    atomic_fetch_sub_explicit(&b->sleepers, 1, memory_order_relaxed);
}
