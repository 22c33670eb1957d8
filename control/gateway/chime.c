/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/chime.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int chime_open(struct chime *b)
{
    atomic_init(&b->top, NULL);
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return b->fd < 0 ? -errno : 0;
}

void chime_close(struct chime *b)
{
    if (b->fd >= 0)
        close(b->fd);
    b->fd = -1;
}

void chime_ring(struct chime *b, struct rung *r)
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

struct rung *chime_take(struct chime *b)
{
    uint64_t n;
    if (read(b->fd, &n, sizeof n) < 0 && errno != EAGAIN)
        return NULL;
    return atomic_exchange(&b->top, NULL);
}
