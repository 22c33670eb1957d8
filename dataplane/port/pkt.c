/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pkt.h"

#include <assert.h>
#include <stdlib.h>

/* Each packet is its own malloc, so that a sanitizer sees a byte written past a frame and a packet
 * used after its last reference. */
static struct pkt *heap_alloc(struct pkt_pool *pool)
{
    if (pool->n_free == 0)
        return NULL;
    struct pkt *p = malloc(sizeof(*p) + pool->room);
    if (!p)
        return NULL;
    pool->n_free--;
    if (pool->n_total - pool->n_free > pool->n_touched)
        pool->n_touched = pool->n_total - pool->n_free;
    *p = (struct pkt){.data = (uint8_t *)(p + 1), .room = pool->room, .refs = 1, .pool = pool};
    return p;
}

static void heap_free(struct pkt *p)
{
    p->pool->n_free++;
    free(p);
}

struct pkt_pool *pkt_pool_heap(uint32_t n, uint32_t room)
{
    struct pkt_pool *pool = malloc(sizeof(*pool));
    if (pool)
        *pool = (struct pkt_pool){
            .alloc = heap_alloc, .free = heap_free, .room = room, .n_total = n, .n_free = n};
    return pool;
}

struct lone {
    struct pkt_pool pool; /* first: all that it has is the packet */
    struct pkt pkt;
    uint8_t bytes[];
};

static void lone_free(struct pkt *p)
{
    free(p->pool);
}

struct pkt *pkt_lone(uint32_t room)
{
    struct lone *a = malloc(sizeof(*a) + room);
    if (!a)
        return NULL;
    a->pool = (struct pkt_pool){.free = lone_free, .room = room, .n_total = 1};
    a->pkt = (struct pkt){.data = a->bytes, .room = room, .refs = 1, .pool = &a->pool};
    return &a->pkt;
}

void pkt_pool_heap_close(struct pkt_pool *pool)
{
    if (!pool)
        return;
    assert(pool->n_free == pool->n_total && "packets outlive their pool");
    free(pool);
}
