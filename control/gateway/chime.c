/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/chime.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int chime_open(struct chime *b)
{
    atomic_init(&b->top, NULL);
    b->due = false;
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return b->fd < 0 ? -errno : 0;
}

void chime_close(struct chime *b)
{
    if (b->fd >= 0)
        close(b->fd);
    b->fd = -1;
}

void chime_put(struct chime *b, struct rung *r)
{
    struct rung *top = atomic_load(&b->top);
    do
        r->next = top;
    while (!atomic_compare_exchange_weak(&b->top, &top, r));
    if (!top)
        b->due = true;
}

void chime_ring(struct chime *b)
{
    if (!b->due)
        return;
    b->due = false;
    chime_wake(b);
}

void chime_wake(struct chime *b)
{
    const uint64_t one = 1;
    if (write(b->fd, &one, sizeof one) < 0) {
        /* full, after 2^64 times */
    }
}

struct rung *chime_take(struct chime *b)
{
    return atomic_load_explicit(&b->top, memory_order_relaxed) ? atomic_exchange(&b->top, NULL)
                                                               : NULL;
}
