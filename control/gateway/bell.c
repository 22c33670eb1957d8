/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/bell.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int bell_open(struct bell *b)
{
    atomic_init(&b->top, NULL);
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return b->fd < 0 ? -errno : 0;
}

void bell_close(struct bell *b)
{
    if (b->fd >= 0)
        close(b->fd);
    b->fd = -1;
}

void bell_ring(struct bell *b, struct rung *r)
{
    const uint64_t one = 1;
    struct rung *top = atomic_load(&b->top);
    do
        r->next = top;
    while (!atomic_compare_exchange_weak(&b->top, &top, r));
    if (!top && write(b->fd, &one, sizeof one) < 0) {
        /* full: it is readable already */
    }
}

struct rung *bell_take(struct bell *b)
{
    uint64_t n;
    if (read(b->fd, &n, sizeof n) < 0 && errno != EAGAIN)
        return NULL;
    return atomic_exchange(&b->top, NULL);
}
