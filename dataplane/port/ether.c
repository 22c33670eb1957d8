/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/ether.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <rte_ethdev.h>

#include "dataplane/port/arp.h"
#include "dataplane/port/eal.h"
#include "dataplane/port/echo.h"
#include "dataplane/port/mbuf.h"
#include "dataplane/port/nowait.h"
#include "dataplane/port/rhythm.h"
#include "dataplane/port/wait_any.h"

#define POOL_PACKETS      4095u
#define POOL_PACKETS_LONG 2047u /* longer than usual ones */
#define MTU_USUAL         1500u
#define MTU_SURE          1280u /* behind whatever routers and tunnels */
#define BURST             32
#define MS                1000000ull
#define SLEEP_MAX_NS      (1000 * MS)
#define STEP_NS           200000ull /* a driver without a socket to sleep on: look this often */
#define EAL_BYTES         UINT64_C(4000000) /* what of DPDK is touched without ports, at most */
#define DOWN_NS           (10 * MS) /* the interface is down: look this often */

struct ether {
    struct port port; /* first */
    struct ether_dev dev;
    struct arp arp;
    uint32_t peer, next_hop, gateway; /* peer and its next hop: 0 if any may come */
    uint32_t frame_max;
    unsigned turn;          /* the receive queue that is read next */
    bool found;             /* the next hop was resolved once */
    bool down;              /* the interface was found so, and it was said */
    uint64_t down_until_ns; /* its sockets are not slept on before */
    uint64_t arp_due_ns;    /* 0: now */
    struct wire_path path;
    struct rhythm rhythm;
    struct pkt *stash[BURST]; /* received by port_wait while it looked for packets */
    int n_stash, stash_at;
};

/* --- out ---------------------------------------------------------------------------------------
 */

/*
 * The driver frees what it has sent: each packet gets a reference for that, and the sender's stays.
 * af_packet also frees what it could not send, though it does not count it: those are lost, never
 * sent again. Which of the uncounted were freed their reference counts tell: it keeps none of a
 * call before. The others do, and may free an earlier copy of the same packet meanwhile; but what
 * they did not count they never touched.
 */
static void hand_over(struct ether *e, struct pkt **pkts, int n)
{
    struct rte_mbuf *mbufs[BURST];
    uint16_t refs[BURST];
    for (int i = 0; i < n; i++) {
        struct rte_mbuf *b = mbuf_to_send(pkts[i]);
        refs[i] = rte_mbuf_refcnt_update(b, 1);
        mbufs[i] = b;
    }
    int sent = rte_eth_tx_burst(e->dev.queues[0].id, 0, mbufs, (uint16_t)n);
    for (int i = 0; i < sent; i++) {
        e->port.stats.tx_packets++;
        e->port.stats.tx_bytes += pkts[i]->len;
    }
    for (int i = sent; i < n; i++) {
        e->port.stats.tx_failed++;
        if (e->dev.kind != URI_PACKET || rte_mbuf_refcnt_read(mbuf_of_pkt(pkts[i])) == refs[i])
            rte_mbuf_refcnt_update(mbuf_of_pkt(pkts[i]), -1);
    }
}

static void send_bytes(struct ether *e, const uint8_t *bytes, size_t n)
{
    struct pkt *p = pkt_alloc(e->port.pool);
    if (!p)
        return;
    memcpy(p->data, bytes, n);
    p->len = (uint32_t)n;
    hand_over(e, &p, 1);
    pkt_unref(p);
}

/* Questions that are due. */
static void arp_work(struct ether *e, uint64_t now)
{
    uint8_t frame[ARP_FRAME_BYTES];
    size_t n;
    if (now < e->arp_due_ns)
        return;
    while ((n = arp_poll(&e->arp, now, frame, &e->arp_due_ns)) > 0)
        send_bytes(e, frame, n);
}

static uint32_t hop_to(const struct ether *e, uint32_t ip)
{
    return (ip ^ e->arp.ip) & e->arp.netmask ? e->gateway : ip;
}

/* Write the Ethernet addresses of the next hop; false: it is not known. */
static bool address(struct ether *e, struct pkt *p, uint64_t now)
{
    static const uint8_t nobody[6];
    struct wire_path back;
    uint8_t mac[6];
    outer_way_back(p->data, &back); /* its source is the frame's destination */
    uint32_t hop = hop_to(e, back.src_ip);
    if (!hop || !back.src_ip)
        return false;
    if (arp_find(&e->arp, hop, now, mac)) {
        memcpy(p->data, mac, 6);
    } else {
        e->arp_due_ns = 0;
        if (memcmp(p->data, nobody, 6) == 0) /* not known from its own frames either */
            return false;
    }
    memcpy(p->data + 6, e->dev.mac, 6);
    return true;
}

/* All are taken: what can't be sent is lost, as on a wire, and the link sends it again. */
static int ether_tx(struct port *port, struct pkt **pkts, int n)
{
    struct ether *e = (struct ether *)port;
    uint64_t now = port_now_ns();
    for (int i = 0; i < n;) {
        struct pkt *burst[BURST];
        int k = 0;
        for (; i < n && k < BURST; i++) {
            bool fits = pkts[i]->len >= OUTER_BYTES && pkts[i]->len <= e->frame_max;
            if (fits && address(e, pkts[i], now))
                burst[k++] = pkts[i];
            else
                port->stats.tx_failed++;
        }
        if (k > 0)
            hand_over(e, burst, k);
    }
    arp_work(e, now);
    rhythm_sent(&e->rhythm, now);
    return n;
}

/* --- in ----------------------------------------------------------------------------------------
 */

/* For the link: IPv4/UDP to our address and port, from the peer if one was named. */
static bool is_ours(const struct ether *e, const struct pkt *p)
{
    struct wire_path back;
    size_t bytes;
    if (!outer_check(p->data, p->len, &bytes))
        return false;
    outer_way_back(p->data, &back);
    return back.src_ip == e->arp.ip && back.src_port == e->path.src_port &&
           memcmp(back.src_mac, e->dev.mac, 6) == 0 && (!e->peer || back.dst_ip == e->peer);
}

/* What came, less what is not for the link, which is answered or dropped. */
static bool sort(struct ether *e, struct pkt *p)
{
    uint8_t reply[ARP_FRAME_BYTES];
    if (is_ours(e, p))
        return true;
    size_t n = arp_input(&e->arp, p->data, p->len, port_now_ns(), reply);
    if (n > 0)
        send_bytes(e, reply, n);
    else if (echo_reply(p->data, p->len, e->arp.ip, e->dev.mac))
        hand_over(e, &p, 1);
    else
        e->port.stats.foreign++;
    return false;
}

/* As the device has found. */
static bool is_broken(const struct ether_queue *q, const struct rte_mbuf *m)
{
    return q->checks_ip &&
           (m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD;
}

static int queue_in(struct ether *e, const struct ether_queue *q, struct pkt **pkts, int n)
{
    struct rte_mbuf *mbufs[BURST];
    int got = 0;
    nowait_enter();
    int k = rte_eth_rx_burst(q->id, 0, mbufs, (uint16_t)n);
    nowait_leave();
    for (int i = 0; i < k; i++) {
        struct pkt *p = mbuf_received(e->port.pool, mbufs[i], e->frame_max + 4);
        if (!p)
            continue;
        if (is_broken(q, mbufs[i])) {
            e->port.stats.foreign++;
            pkt_unref(p);
            continue;
        }
        if (!sort(e, p)) {
            pkt_unref(p);
            continue;
        }
        e->port.stats.rx_packets++;
        e->port.stats.rx_bytes += p->len;
        pkts[got++] = p;
    }
    return got;
}

/* From all queues, in turns: a full one does not keep the others waiting. */
static int burst_in(struct ether *e, struct pkt **pkts, int n)
{
    int got = 0;
    if (n > BURST)
        n = BURST;
    for (unsigned i = 0; i < e->dev.n_queues && got < n; i++) {
        got += queue_in(e, &e->dev.queues[e->turn], pkts + got, n - got);
        e->turn = e->turn + 1 < e->dev.n_queues ? e->turn + 1 : 0;
    }
    return got;
}

static int ether_rx(struct port *port, struct pkt **pkts, int n)
{
    struct ether *e = (struct ether *)port;
    int got = 0;
    while (got < n && e->stash_at < e->n_stash)
        pkts[got++] = e->stash[e->stash_at++];
    if (got < n)
        got += burst_in(e, pkts + got, n - got);
    if (got > 0 && e->rhythm.sent_ns)
        rhythm_received(&e->rhythm, port_now_ns());
    return got;
}

/* --- waiting -----------------------------------------------------------------------------------
 */

static bool look(void *arg)
{
    struct ether *e = arg;
    if (e->stash_at == e->n_stash) {
        e->stash_at = 0;
        e->n_stash = burst_in(e, e->stash, BURST);
    }
    return e->stash_at < e->n_stash;
}

static int sleep_for(struct pollfd *fds, unsigned n, uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    int k = ppoll(fds, n, &t, NULL);
    return k < 0 && errno == EINTR ? -EINTR : k;
}

/* What to sleep on, and for how long at most. */
static unsigned pollfds(const struct ether *e, struct pollfd *fds, uint64_t now, uint64_t *until)
{
    uint64_t most = e->dev.n_fds ? SLEEP_MAX_NS : STEP_NS;
    unsigned n = now < e->down_until_ns ? 0 : e->dev.n_fds;
    if (now < e->down_until_ns)
        most = e->down_until_ns - now;
    if (e->arp_due_ns < *until)
        *until = e->arp_due_ns;
    if (*until > now + most)
        *until = now + most;
    for (unsigned i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = e->dev.fds[i], .events = POLLIN};
    return n;
}

/* fds: as polled. A socket may say that something is wrong: the interface went down, mostly. Don't
 * spin on that. */
static void stirred(struct ether *e, const struct pollfd *fds, unsigned n)
{
    bool came = false, wrong = false;
    int error = 0;
    e->port.stats.sleeps++;
    for (unsigned i = 0; i < n; i++) {
        socklen_t len = sizeof(error);
        came = came || fds[i].revents & POLLIN;
        wrong = wrong || fds[i].revents & (POLLERR | POLLNVAL);
        if (fds[i].revents & (POLLERR | POLLNVAL) && !(fds[i].revents & POLLIN))
            (void)getsockopt(fds[i].fd, SOL_SOCKET, SO_ERROR, &error, &len);
    }
    e->port.stats.wakeups += came;
    e->down = e->down && !came;
    if (came || !wrong)
        return;
    if (!e->down && error)
        port_tell("port %s: %s: waiting for it to come back", e->port.caps.name, strerror(error));
    e->down = e->down || error;
    e->down_until_ns = port_now_ns() + DOWN_NS;
}

static int nap(void *arg, uint64_t now, uint64_t until)
{
    struct ether *e = arg;
    struct pollfd fds[ETHER_QUEUES_MAX + 1];
    unsigned n = pollfds(e, fds, now, &until);
    fds[n] = (struct pollfd){.fd = port_wake_fd(), .events = POLLIN};
    int k = sleep_for(fds, n + 1, until > now ? until - now : 0);
    if (k >= 0)
        stirred(e, fds, n);
    return k < 0 ? k : 0;
}

static const struct rhythm_ops rhythm_ops = {look, NULL, nap};

static int ether_wait(struct port *port, uint64_t deadline_ns)
{
    struct ether *e = (struct ether *)port;
    uint64_t now = port_now_ns();
    arp_work(e, now);
    if (deadline_ns <= now || look(e))
        return 0;
    return rhythm_wait(&e->rhythm, &rhythm_ops, e, &now, deadline_ns);
}

static bool ether_begin(struct port *port, uint64_t now)
{
    arp_work((struct ether *)port, now);
    return look(port);
}

static bool ether_look(struct port *port)
{
    return look(port);
}

static const struct rhythm *ether_rhythm(struct port *port)
{
    return &((struct ether *)port)->rhythm;
}

static unsigned ether_doze(struct port *port, struct pollfd *fds, uint64_t now, uint64_t *until)
{
    return pollfds((struct ether *)port, fds, now, until);
}

static void ether_woken(struct port *port, const struct pollfd *fds, unsigned n)
{
    stirred((struct ether *)port, fds, n);
}

_Static_assert(ETHER_QUEUES_MAX <= PORT_DOZE_FDS, "port_wait_any has no room");
static const struct port_waiter ether_waiter = {ether_begin,  ether_look, NULL,
                                                ether_rhythm, ether_doze, ether_woken};

static void drop_stash(struct ether *e)
{
    while (e->stash_at < e->n_stash)
        pkt_unref(e->stash[e->stash_at++]);
}

/* Once its next hop answered, silence alone tells that a peer is gone. What comes for the link
 * before that is of an earlier connection, and nobody may take it yet: kept, it would hide the
 * answer. */
static int ether_alive(struct port *port)
{
    struct ether *e = (struct ether *)port;
    uint64_t now = port_now_ns();
    uint8_t mac[6];
    if (e->found || !e->next_hop)
        return 1;
    drop_stash(e);
    look(e);
    e->found = arp_find(&e->arp, e->next_hop, now, mac);
    arp_work(e, now);
    return e->found;
}

/* --- life --------------------------------------------------------------------------------------
 */

static void ether_close(struct port *port)
{
    struct ether *e = (struct ether *)port;
    uint64_t rss = eal_rss_now();
    drop_stash(e);
    ether_dev_close(&e->dev);
    mbuf_pool_close(port->pool);
    eal_rss_release(rss);
    free(e);
}

static const struct port_ops ether_ops = {ether_rx, ether_tx, ether_wait, ether_alive, ether_close};

static void describe(struct ether *e, const struct port_uri *uri)
{
    static const char *const names[] = {
        [URI_PACKET] = "packet", [URI_XDP] = "xdp", [URI_PCI] = "pci"};
    static const char *const drivers[] = {[URI_PACKET] = "AF_PACKET sockets",
                                          [URI_XDP] = "AF_XDP sockets",
                                          [URI_PCI] = "DPDK's PCI driver"};
    char ip[URI_IP_TEXT], queues[32] = "";
    if (uri->kind == URI_XDP)
        snprintf(queues, sizeof(queues), ", %u receive queue%s", e->dev.n_queues,
                 e->dev.n_queues > 1 ? "s" : "");
    e->port.caps.name = names[uri->kind];
    e->port.caps.driver_copies = uri->kind == URI_PACKET; /* into and out of its ring */
    snprintf(e->port.caps.how, sizeof(e->port.caps.how), "%s:%u on %.15s by %s%s, %s",
             port_uri_ip(uri->ip, ip), uri->port, uri->name, drivers[uri->kind], queues,
             e->dev.n_fds ? "sleeping until packets come" : "looking for packets all the time");
}

static void describe_checksums(struct ether *e)
{
    const size_t n = strlen(e->port.caps.how);
    snprintf(e->port.caps.how + n, sizeof(e->port.caps.how) - n, "; IPv4 checksums %s",
             e->dev.queues[0].checks_ip ? "checked by the card, written in software"
                                        : "in software");
}

static uint32_t pool_packets(enum uri_kind kind, const struct ether_shape *shape)
{
    return (shape->mtu_bytes > MTU_USUAL ? POOL_PACKETS_LONG : POOL_PACKETS) +
           ether_dev_reserve(kind, shape->rx_queues);
}

uint64_t ether_memory_bytes(const struct port_uri *uri)
{
    const struct ether_shape shape = ether_dev_shape(uri);
    return mbuf_pool_bytes(pool_packets(uri->kind, &shape),
                           ether_dev_room(uri->kind, shape.mtu_bytes)) +
           ether_dev_bytes(uri->kind, &shape) + EAL_BYTES;
}

int ether_open(const struct port_uri *uri, enum port_role role, struct port **out, char *err)
{
    struct ether_shape shape;
    if (role == PORT_CLIENT && !uri->peer) {
        snprintf(err, PORT_ERR, "port on %.15s: the edge needs the cloud's address: peer=ADDR",
                 uri->name);
        return -EINVAL;
    }
    int rc = ether_dev_check(uri, &shape, err);
    if (rc < 0)
        return rc;
    struct ether *e = calloc(1, sizeof(*e));
    if (!e) {
        snprintf(err, PORT_ERR, "port on %.15s: out of memory", uri->name);
        return -ENOMEM;
    }
    e->port.ops = &ether_ops;
    e->port.waiter = &ether_waiter;
    e->frame_max = shape.mtu_bytes + OUTER_ETHERNET_BYTES;
    e->port.caps = (struct port_caps){
        .mtu_bytes = shape.mtu_bytes,
        .mtu_sure_bytes = shape.mtu_bytes > MTU_SURE ? MTU_SURE : 0,
        .burst = BURST};
    rc = eal_start(uri->kind == URI_PCI ? uri->name : NULL, err);
    uint64_t rss = eal_rss_now();
    if (rc == 0) {
        rc = mbuf_pool_open(pool_packets(uri->kind, &shape),
                            ether_dev_room(uri->kind, shape.mtu_bytes),
                            uri->kind == URI_PCI ? MBUF_OF_EAL : MBUF_OWN, &e->port.pool);
        if (rc < 0)
            snprintf(err, PORT_ERR, "port on %.15s: no memory for %u packets of %u bytes",
                     uri->name, pool_packets(uri->kind, &shape), shape.mtu_bytes);
    }
    if (rc == 0)
        rc = ether_dev_open(&e->dev, uri, &shape, e->port.pool, err);
    if (rc < 0) {
        mbuf_pool_close(e->port.pool);
        free(e);
        return rc;
    }
    mbuf_pool_settle(e->port.pool);
    eal_rss_account(rss);
    arp_init(&e->arp, e->dev.mac, uri->ip, uri->netmask);
    e->peer = uri->peer;
    e->gateway = uri->gateway;
    e->next_hop = uri->peer ? hop_to(e, uri->peer) : 0;
    e->path = (struct wire_path){
        .src_ip = uri->ip, .dst_ip = uri->peer, .src_port = uri->port, .dst_port = uri->port};
    memcpy(e->path.src_mac, e->dev.mac, 6);
    e->port.path = &e->path;
    describe(e, uri);
    describe_checksums(e);
    *out = &e->port;
    return 0;
}
