/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pkt: a reference-counted view of one packet buffer, which hides rte_mbuf.
 *
 * In a DPDK pool the struct lies in the mbuf's private area, so a pkt is the mbuf and nothing is
 * allocated or copied beside it; in a heap pool (tests, loop) it lies before a malloc'd buffer.
 * One packet = one buffer, never chained. Not thread safe: a pool and its packets belong to the
 * thread that polls the port.
 */
#ifndef ISTHMUS_DATAPLANE_PKT_H
#define ISTHMUS_DATAPLANE_PKT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

struct pkt_pool;

struct pkt {
    uint8_t *data;         /* first byte of the frame */
    uint32_t len;          /* bytes of the frame */
    uint32_t room;         /* bytes usable from data on */
    uint32_t refs;
    const uint8_t *made;   /* where the payload that is to be sent was written, if it was not copied
                            * here from elsewhere: pkt_made; else NULL */
    struct pkt_pool *pool;
};

struct pkt_pool {
    struct pkt *(*alloc)(struct pkt_pool *pool); /* refs 1, len 0; NULL when empty */
    void (*free)(struct pkt *p);                 /* the last reference is gone */
    uint32_t room;                               /* of a fresh packet */
    uint32_t n_total, n_free;                    /* n_free is a hint for back-pressure */
    uint32_t n_touched;                          /* of a heap's: that were ever in use at once, which
                                                  * malloc keeps; the others take no memory */
};

static inline struct pkt *pkt_alloc(struct pkt_pool *pool)
{
    return pool->alloc(pool);
}

static inline struct pkt *pkt_ref(struct pkt *p)
{
    p->refs++;
    return p;
}

/*
 * The payload at `at` was made in this packet, by a codec, say. The link counts what was not, and
 * asserts where it seals and a port where it sends that it is this memory: the payload is never
 * copied between.
 */
static inline void pkt_made(struct pkt *p, const uint8_t *at)
{
    assert(at > p->data && at < p->data + p->room && "written into this very packet");
    p->made = at;
}

static inline void pkt_unref(struct pkt *p)
{
    if (--p->refs == 0)
        p->pool->free(p);
}

/* A pool of malloc'd packets, without DPDK: n packets of `room` bytes. NULL: out of memory.
 * pkt_pool_heap_close aborts in debug builds when packets are still out. */
struct pkt_pool *pkt_pool_heap(uint32_t n, uint32_t room);
void pkt_pool_heap_close(struct pkt_pool *pool);

/* A packet of its own, of no pool that it would have to outlive, and no port's: the link sends it in
 * pieces, and makes one of those that come. NULL: out of memory. */
struct pkt *pkt_lone(uint32_t room);
static inline bool pkt_is_lone(const struct pkt *p)
{
    return !p->pool->alloc;
}

#endif
