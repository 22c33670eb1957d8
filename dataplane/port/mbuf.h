/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that are mbufs: the struct pkt lies in the mbuf's private area. */
#ifndef ISTHMUS_DATAPLANE_PORT_MBUF_H
#define ISTHMUS_DATAPLANE_PORT_MBUF_H

#include <assert.h>

#include <rte_mbuf.h>

#include "dataplane/pkt.h"

/* Of an mbuf's private area: where the struct pkt lies. */
#define MBUF_PRIV_BYTES RTE_ALIGN(sizeof(struct pkt), RTE_MBUF_PRIV_ALIGN)

/* Of EAL's memory, which drivers share with another process or a card, and which is no more than
 * there was at its start; or the pool's own, of any size. */
enum mbuf_memory { MBUF_OF_EAL, MBUF_OWN };

/* A pool of n packets of `room` bytes; EAL must run. 0, -ENOMEM. */
int mbuf_pool_open(uint32_t n, uint32_t room, enum mbuf_memory memory, struct pkt_pool **out);
/* Bytes that such a pool takes; EAL need not run. */
uint64_t mbuf_pool_bytes(uint32_t n, uint32_t room);
/* A driver has taken packets for itself: count without them from now on. All others must be in. */
void mbuf_pool_settle(struct pkt_pool *pool);
void mbuf_pool_close(struct pkt_pool *pool); /* every packet must be back */
struct rte_mempool *mbuf_pool_mempool(struct pkt_pool *pool);

static inline struct rte_mbuf *mbuf_of_pkt(struct pkt *p)
{
    return (struct rte_mbuf *)((char *)p - sizeof(struct rte_mbuf));
}

/* The packet's mbuf, for a driver to send: the very memory that the payload was written into. */
static inline struct rte_mbuf *mbuf_to_send(struct pkt *p)
{
    struct rte_mbuf *m = mbuf_of_pkt(p);

    m->data_off = (uint16_t)(p->data - (uint8_t *)m->buf_addr);
    m->data_len = (uint16_t)p->len;
    m->pkt_len = p->len;
    assert(rte_pktmbuf_mtod(m, uint8_t *) == p->data &&
           (!p->made || (p->made > p->data && p->made < p->data + m->data_len)) &&
           "sent from where it was written");
    return m;
}

/* A received mbuf becomes a packet with one reference; NULL (and it is freed) if it is chained,
 * empty or longer than frame_max. */
struct pkt *mbuf_received(struct pkt_pool *pool, struct rte_mbuf *m, uint32_t frame_max);

#endif
