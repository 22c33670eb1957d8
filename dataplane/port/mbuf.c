/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/mbuf.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CACHE 64u
#define FLAGS (RTE_MEMPOOL_F_NO_IOVA_CONTIG | RTE_MEMPOOL_F_NO_SPREAD)

struct mbuf_pool {
    struct pkt_pool pool; /* first */
    struct rte_mempool *mempool;
};

static struct pkt *wrap(struct pkt_pool *pool, struct rte_mbuf *m)
{
    struct pkt *p = rte_mbuf_to_priv(m);
    *p = (struct pkt){.data = rte_pktmbuf_mtod(m, uint8_t *),
                      .len = rte_pktmbuf_data_len(m),
                      .room = pool->room,
                      .refs = 1,
                      .pool = pool};
    pool->n_free--;
    return p;
}

static struct pkt *pool_alloc(struct pkt_pool *pool)
{
    struct rte_mbuf *m = rte_pktmbuf_alloc(mbuf_pool_mempool(pool));
    return m ? wrap(pool, m) : NULL;
}

static void pool_free(struct pkt *p)
{
    p->pool->n_free++;
    rte_pktmbuf_free(mbuf_of_pkt(p));
}

struct pkt *mbuf_received(struct pkt_pool *pool, struct rte_mbuf *m, uint32_t frame_max)
{
    if (m->nb_segs != 1 || m->data_len == 0 || m->data_len > frame_max) {
        rte_pktmbuf_free(m);
        return NULL;
    }
    return wrap(pool, m);
}

struct rte_mempool *mbuf_pool_mempool(struct pkt_pool *pool)
{
    return ((struct mbuf_pool *)pool)->mempool;
}

static uint32_t element_bytes(uint32_t room)
{
    return (uint32_t)(sizeof(struct rte_mbuf) + MBUF_PRIV_BYTES) + room + RTE_PKTMBUF_HEADROOM;
}

uint64_t mbuf_pool_bytes(uint32_t n, uint32_t room)
{
    return (uint64_t)n * rte_mempool_calc_obj_size(element_bytes(room), FLAGS, NULL);
}

static void unmap(struct rte_mempool_memhdr *chunk, void *arg)
{
    (void)arg;
    munmap(chunk->addr, chunk->len);
}

/* In one piece, as the AF_XDP driver wants it; shared, so that no fork() copies what the kernel
 * writes to. */
static int populate_own(struct rte_mempool *mp, size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    int n = rte_mempool_populate_iova(mp, at, RTE_BAD_IOVA, bytes, unmap, NULL);
    if (n < 0)
        munmap(at, bytes);
    return n == (int)mp->size ? 0 : -ENOMEM;
}

/* As rte_pktmbuf_pool_create(), but what was used last is used next, so that few packets are in use
 * and stay in the core's cache: a ring would go through all of them. And objects may cross pages:
 * with 4 KB pages every packet would take one of its own. Only pci: does DMA, and that by virtual
 * addresses, behind an IOMMU (VFIO; `isthmus doctor` looks for it), where pages need not lie
 * together. */
static struct rte_mempool *create(const char *name, uint32_t n, uint32_t room,
                                  enum mbuf_memory memory)
{
    struct rte_pktmbuf_pool_private config = {.mbuf_data_room_size =
                                                  (uint16_t)(room + RTE_PKTMBUF_HEADROOM),
                                              .mbuf_priv_size = (uint16_t)MBUF_PRIV_BYTES};
    struct rte_mempool *mp = rte_mempool_create_empty(name, n, element_bytes(room), CACHE,
                                                      sizeof(config), SOCKET_ID_ANY, FLAGS);
    if (!mp)
        return NULL;
    rte_pktmbuf_pool_init(mp, &config);
    if (rte_mempool_set_ops_byname(mp, "stack", NULL) < 0 ||
        (memory == MBUF_OWN ? populate_own(mp, mbuf_pool_bytes(n, room)) < 0
                            : rte_mempool_populate_default(mp) < 0)) {
        rte_mempool_free(mp);
        return NULL;
    }
    rte_mempool_obj_iter(mp, rte_pktmbuf_init, NULL);
    return mp;
}

int mbuf_pool_open(uint32_t n, uint32_t room, enum mbuf_memory memory, struct pkt_pool **out)
{
    static atomic_uint serial;
    char name[RTE_MEMPOOL_NAMESIZE];
    snprintf(name, sizeof(name), "pkt%u", atomic_fetch_add(&serial, 1));
    struct mbuf_pool *p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    *p = (struct mbuf_pool){
        .pool = {.alloc = pool_alloc, .free = pool_free, .room = room, .n_total = n, .n_free = n},
        .mempool = create(name, n, room, memory)};
    if (!p->mempool) {
        free(p);
        return -ENOMEM;
    }
    *out = &p->pool;
    return 0;
}

void mbuf_pool_settle(struct pkt_pool *pool)
{
    pool->n_total = pool->n_free = rte_mempool_avail_count(mbuf_pool_mempool(pool));
}

void mbuf_pool_close(struct pkt_pool *pool)
{
    if (!pool)
        return;
    assert(pool->n_free == pool->n_total && "packets outlive their pool");
    rte_mempool_free(mbuf_pool_mempool(pool));
    free(pool);
}
