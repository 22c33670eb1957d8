/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memif: two processes of one host, packets through shared memory, by DPDK's memif driver.
 *
 * The processes meet on a socket of ours (rendezvous.h) at the name the user gave. Over it the
 * server tells the client the doorbell and the name of the driver's own socket: an abstract one,
 * random, so that nothing of the driver's stays in the file system. When that socket closes the
 * peer is gone; the rings stay mapped until the packets in them have been received.
 *
 *   ALONE --peer came--> JOINING --rings up on both sides--> UP --peer gone--> LOST --> ALONE
 *
 * All of it happens in the thread that calls: housekeeping in alive, wait and, when not UP, rx.
 */
#include "dataplane/port/memif.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_ethdev.h>

#include "dataplane/port/doorbell.h"
#include "dataplane/port/eal.h"
#include "dataplane/port/intr.h"
#include "dataplane/port/mbuf.h"
#include "dataplane/port/rendezvous.h"
#include "dataplane/port/rhythm.h"
#include "dataplane/port/wait_any.h"

#define MTU          1500u
#define FRAME_MAX    (MTU + 14u)
#define ROOM         1600u
#define POOL_PACKETS 2047u
#define BURST        32
/* What one side seals in a burst the other opens while the next is sealed: the shorter they are, the
 * sooner a long message is there; a call costs as much as a few packets. */
#define BEST_BURST   16
/* So many that a buffer has left the cache of the core that used it last, which is slower to take
 * it from than the one that cores share, when it comes round. With twice as many single packets
 * are slower. */
#define RING_LOG2 10
/* The driver checks no length it finds in shared memory against the mbuf, unless its buffers are
 * larger than ours: then it splits. */
#define RING_BUFFER_BYTES 1664u

#define MS             1000000ull
#define CHECK_EVERY_NS 200000ull   /* UP: look at the socket */
#define RETRY_NS       (5 * MS)    /* ALONE: look for the server */
#define JOIN_NS        (3000 * MS) /* JOINING longer than this: start over */
#define LINGER_NS      (1000 * MS) /* LOST: then a new peer may come even if nobody asked */
#define SLEEP_MAX_NS   (1000 * MS) /* a wrong doorbell page costs this much at most */

enum state { ALONE, JOINING, UP, LOST };

struct memif {
    struct port port; /* first */
    enum port_role role;
    enum state state;
    struct rdv_name name;
    int listen_fd; /* server */
    int peer_fd;
    struct bell bell;
    struct intr intr;
    char ring_name[RDV_RING_NAME];
    char vdev[32];
    bool have_dev;
    bool have_bell;
    uint16_t dev;
    struct rhythm rhythm;
    uint64_t next_ns; /* ALONE: try again, JOINING: give up, UP: look again, LOST: give up */
    bool loss_told;   /* LOST: port_alive said so */
    bool loss_woke;   /* LOST: port_wait ended for it */
    bool drained;     /* LOST: the rings are empty */
    bool kept;                /* port_wait has done the housekeeping since port_alive was asked */
    struct pkt *stash[BURST]; /* received by port_wait while it looked for packets, */
    uint64_t stash_ns;        /* about then; 0: not known */
    int n_stash, stash_at;
};

/* --- the DPDK device -------------------------------------------------------------------------- */

static void dev_close(struct memif *m)
{
    intr_enter(&m->intr);
    if (m->have_dev)
        rte_eth_dev_stop(m->dev);
    rte_vdev_uninit(m->vdev);
    intr_leave();
    intr_close(&m->intr);
    m->have_dev = false;
}

static int dev_setup(struct memif *m)
{
    const struct rte_eth_conf conf = {0};
    int rc = rte_eth_dev_get_port_by_name(m->vdev, &m->dev);
    if (rc == 0)
        rc = rte_eth_dev_configure(m->dev, 1, 1, &conf);
    if (rc == 0)
        rc = rte_eth_rx_queue_setup(m->dev, 0, 1 << RING_LOG2, (unsigned)SOCKET_ID_ANY, NULL,
                                    mbuf_pool_mempool(m->port.pool));
    if (rc == 0)
        rc = rte_eth_tx_queue_setup(m->dev, 0, 1 << RING_LOG2, (unsigned)SOCKET_ID_ANY, NULL);
    return rc == 0 ? rte_eth_dev_start(m->dev) : rc;
}

/* Add the device and start it: a server listens, a client connects. */
static int dev_open(struct memif *m)
{
    static atomic_uint serial;
    char args[160];
    snprintf(m->vdev, sizeof(m->vdev), "net_memif%u", atomic_fetch_add(&serial, 1));
    snprintf(args, sizeof(args),
             "role=%s,id=0,socket=%s,socket-abstract=yes,rsize=%d,bsize=%u,zero-copy=no",
             m->role == PORT_SERVER ? "server" : "client", m->ring_name, RING_LOG2,
             RING_BUFFER_BYTES);
    intr_enter(&m->intr);
    int rc = rte_vdev_init(m->vdev, args);
    if (rc == 0)
        rc = dev_setup(m);
    intr_leave();
    m->have_dev = rc == 0;
    if (rc < 0)
        dev_close(m);
    return rc;
}

static bool dev_link_up(const struct memif *m)
{
    struct rte_eth_link link;
    return rte_eth_link_get_nowait(m->dev, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

/* A name that nobody else has, and letters only, as it goes into the driver's argument string. */
static int invent_ring_name(struct memif *m)
{
    uint64_t r[2];
    if (getrandom(r, sizeof(r), 0) != sizeof(r))
        return -EIO;
    snprintf(m->ring_name, sizeof(m->ring_name), "isthmus%016llx%016llx", (unsigned long long)r[0],
             (unsigned long long)r[1]);
    return 0;
}

/* What a server told us must not add arguments of its own. */
static bool is_ring_name(const char *s)
{
    return strncmp(s, "isthmus", 7) == 0 && strspn(s + 7, "0123456789abcdef") == strlen(s + 7);
}

static int burst_in(struct memif *m, struct pkt **pkts, int n)
{
    struct rte_mbuf *mbufs[BURST];
    int got = 0;
    int k = rte_eth_rx_burst(m->dev, 0, mbufs, (uint16_t)(n < BURST ? n : BURST));
    m->drained = k == 0;
    for (int i = 0; i < k; i++) {
        struct pkt *p = mbuf_received(m->port.pool, mbufs[i], FRAME_MAX);
        if (!p)
            continue;
        m->port.stats.rx_packets++;
        m->port.stats.rx_bytes += p->len;
        pkts[got++] = p;
    }
    return got;
}

/* --- meeting and parting ---------------------------------------------------------------------- */

static void part(struct memif *m, uint64_t now)
{
    if (m->role == PORT_CLIENT && m->have_dev) {
        dev_close(m);
    } else if (m->have_dev) { /* drops the connection and listens on */
        intr_enter(&m->intr);
        rte_eth_dev_stop(m->dev);
        rte_eth_dev_start(m->dev);
        intr_leave();
    }
    if (m->have_bell)
        bell_close(&m->bell);
    bool peer_gone = m->peer_fd < 0 || rdv_hung_up(m->peer_fd);
    if (m->peer_fd >= 0)
        close(m->peer_fd);
    if (m->role == PORT_CLIENT && peer_gone)
        rdv_sweep(&m->name); /* a killed server cannot do it */
    m->have_bell = false;
    m->peer_fd = -1;
    m->intr.only_pid = 0;
    m->state = ALONE;
    m->next_ns = now + RETRY_NS;
}

static void alone(struct memif *m, uint64_t now)
{
    pid_t pid;
    if (m->role == PORT_CLIENT) {
        if (now < m->next_ns)
            return;
        m->next_ns = now + RETRY_NS;
        m->peer_fd = rdv_connect(&m->name, &pid);
        if (m->peer_fd == -ECONNREFUSED)
            rdv_sweep(&m->name);
    } else {
        intr_dispatch(&m->intr); /* turn strangers away */
        m->peer_fd = rdv_accept(m->listen_fd, &pid);
    }
    if (m->peer_fd < 0)
        return;
    m->intr.only_pid = pid;
    m->state = JOINING;
    m->next_ns = now + JOIN_NS;
    if (m->role == PORT_CLIENT)
        return;

    struct rdv_hello hello = {0};
    int fds[BELL_FDS];
    memcpy(hello.ring_name, m->ring_name, sizeof(hello.ring_name));
    if (bell_create(&m->bell, PORT_SERVER) < 0) {
        part(m, now);
        return;
    }
    m->have_bell = true;
    bell_fds(&m->bell, fds);
    if (rdv_send_hello(m->peer_fd, &hello, fds) < 0)
        part(m, now);
}

/* 0: joined; -EAGAIN: not yet; else it failed. */
static int join_as_client(struct memif *m)
{
    if (!m->have_bell) {
        struct rdv_hello hello;
        int fds[BELL_FDS];
        int rc = rdv_recv_hello(m->peer_fd, &hello, fds);
        if (rc < 0)
            return rc;
        rc = bell_adopt(&m->bell, PORT_CLIENT, fds);
        if (rc < 0)
            return rc;
        m->have_bell = true;
        if (!is_ring_name(hello.ring_name))
            return -EPROTO;
        memcpy(m->ring_name, hello.ring_name, sizeof(m->ring_name));
        rc = dev_open(m);
        if (rc < 0)
            return -EIO;
    }
    intr_dispatch(&m->intr);
    if (dev_link_up(m)) {
        struct pkt *none[1];
        if (burst_in(m, none, 1) > 0) /* posts the buffers the server sends into */
            pkt_unref(none[0]);
        return rdv_send_ready(m->peer_fd);
    }
    return rdv_hung_up(m->peer_fd) ? -EPIPE : -EAGAIN;
}

/*
 * The driver's server side is up a moment before the client's, and what it sends in between is
 * lost: so wait for the client's word. It is looked for before the driver's events: a client that
 * came, spoke and left is still one that was there, and its packets are in the rings.
 */
static int join_as_server(struct memif *m)
{
    int rc = rdv_recv_ready(m->peer_fd);
    if (rc == 0 && !dev_link_up(m))
        rc = -EPROTO;
    if (rc == -EAGAIN)
        intr_dispatch(&m->intr);
    return rc;
}

static void joining(struct memif *m, uint64_t now)
{
    int rc = m->role == PORT_CLIENT ? join_as_client(m) : join_as_server(m);
    if (rc == 0) {
        m->state = UP;
        m->next_ns = now + CHECK_EVERY_NS;
    } else if (rc != -EAGAIN || now > m->next_ns) {
        part(m, now);
    }
}

static void up(struct memif *m, uint64_t now)
{
    pid_t pid;
    int stranger = m->role == PORT_SERVER ? rdv_accept(m->listen_fd, &pid) : -1;
    if (stranger >= 0)
        close(stranger); /* one peer a port */
    m->next_ns = now + CHECK_EVERY_NS;
    if (!rdv_hung_up(m->peer_fd))
        return;
    m->state = LOST;
    m->next_ns = now + LINGER_NS;
    m->loss_told = m->loss_woke = m->drained = false;
    m->port.stats.peers_lost++;
}

static void housekeeping(struct memif *m, uint64_t now)
{
    switch (m->state) {
    case ALONE:
        alone(m, now);
        break;
    case JOINING:
        joining(m, now);
        break;
    case UP:
        if (now >= m->next_ns)
            up(m, now);
        break;
    case LOST:
        if ((m->loss_told && m->drained) || now >= m->next_ns)
            part(m, now);
        break;
    }
}

/* --- the port --------------------------------------------------------------------------------- */

static int memif_rx(struct port *port, struct pkt **pkts, int n)
{
    struct memif *m = (struct memif *)port;
    int got = 0;
    while (got < n && m->stash_at < m->n_stash)
        pkts[got++] = m->stash[m->stash_at++];
    const uint64_t came_ns = got > 0 ? m->stash_ns : 0;
    if (m->state == UP || m->state == LOST) {
        if (got < n)
            got += burst_in(m, pkts + got, n - got);
    } else {
        housekeeping(m, port_now_ns());
    }
    if (got > 0 && m->rhythm.sent_ns)
        rhythm_received(&m->rhythm, came_ns ? came_ns : port_now_ns());
    return got;
}

/* The driver frees what it has copied into the ring: each packet gets a reference for that, and the
 * sender's stays. */
static int burst_out(struct memif *m, struct pkt **pkts, int n)
{
    struct rte_mbuf *mbufs[BURST];
    int at[BURST];
    int k = 0, taken = 0;
    for (; taken < n && k < BURST; taken++) {
        struct pkt *p = pkts[taken];
        if (p->len == 0 || p->len > FRAME_MAX)
            continue; /* taken and lost, as a wire would */
        struct rte_mbuf *b = mbuf_to_send(p);
        rte_mbuf_refcnt_update(b, 1);
        at[k] = taken;
        mbufs[k++] = b;
    }
    int sent = k > 0 ? rte_eth_tx_burst(m->dev, 0, mbufs, (uint16_t)k) : 0;
    for (int i = 0; i < sent; i++) {
        m->port.stats.tx_packets++;
        m->port.stats.tx_bytes += pkts[at[i]]->len;
    }
    for (int i = sent; i < k; i++)
        rte_mbuf_refcnt_update(mbufs[i], -1);
    return sent < k ? at[sent] : taken;
}

static int memif_tx(struct port *port, struct pkt **pkts, int n)
{
    struct memif *m = (struct memif *)port;
    int taken = 0, more = 1;
    while (m->state == UP && taken < n && more > 0) {
        more = burst_out(m, pkts + taken, n - taken);
        taken += more;
    }
    if (taken > 0) {
        bell_ring(&m->bell);
        rhythm_sent(&m->rhythm, port_now_ns());
    }
    port->stats.tx_refused += (uint64_t)(n - taken);
    return taken;
}

static bool packets_wait(struct memif *m)
{
    if (m->stash_at == m->n_stash && (m->state == UP || m->state == LOST)) {
        m->stash_at = 0;
        m->n_stash = burst_in(m, m->stash, BURST);
        m->stash_ns = 0;
    }
    return m->stash_at < m->n_stash;
}

/* What can stir while it sleeps; the bell first. *until: no later than there is work. */
static unsigned pollfds(const struct memif *m, struct pollfd *fds, uint64_t now, uint64_t *until)
{
    unsigned n = 0;
    if (m->state == UP)
        fds[n++] = (struct pollfd){.fd = bell_fd(&m->bell), .events = POLLIN};
    else if (m->state != LOST)
        n = intr_pollfds(&m->intr, fds);
    if (m->peer_fd >= 0 && m->state != LOST)
        fds[n++] = (struct pollfd){.fd = m->peer_fd, .events = POLLIN | POLLRDHUP};
    if (m->listen_fd >= 0 && (m->state == ALONE || m->state == UP))
        fds[n++] = (struct pollfd){.fd = m->listen_fd, .events = POLLIN};

    if (m->state != UP && m->next_ns > now && m->next_ns < *until)
        *until = m->next_ns;
    if (*until > now + SLEEP_MAX_NS)
        *until = now + SLEEP_MAX_NS;
    return n;
}

/* fds: as polled. */
static void stirred(struct memif *m, const struct pollfd *fds, unsigned n)
{
    if (m->state != UP)
        return;
    m->port.stats.sleeps++;
    m->port.stats.wakeups += fds[0].revents != 0;
    for (unsigned i = 1; i < n; i++)
        if (fds[i].revents && !fds[0].revents)
            m->next_ns = 0; /* a socket: see what it is */
}

/* Sleep until a descriptor stirs or `until`. 0 or -EINTR. */
static int sleep_until(struct memif *m, uint64_t now, uint64_t until)
{
    struct pollfd fds[PORT_DOZE_FDS + 1];
    unsigned n = pollfds(m, fds, now, &until);
    fds[n] = (struct pollfd){.fd = port_wake_fd(), .events = POLLIN};
    uint64_t ns = until > now ? until - now : 0;
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    int rc = ppoll(fds, n + 1, &t, NULL) < 0 && errno == EINTR ? -EINTR : 0;
    stirred(m, fds, n);
    return rc;
}

/* Sleep until a packet, a stir, or `until`, unless a packet is there already. */
static int nap(void *arg, uint64_t now, uint64_t until)
{
    struct memif *m = arg;
    int rc = 0;
    bell_before_sleep(&m->bell);
    if (!packets_wait(m))
        rc = sleep_until(m, now, until);
    bell_after_sleep(&m->bell);
    return rc;
}

static bool look(void *arg)
{
    return packets_wait(arg);
}

static bool may_spin(void *arg)
{
    return !bell_shares_cpu(&((struct memif *)arg)->bell);
}

static const struct rhythm_ops rhythm_ops = {look, may_spin, nap};

static bool memif_begin(struct port *port, uint64_t now)
{
    struct memif *m = (struct memif *)port;
    housekeeping(m, now);
    m->kept = true;
    if (packets_wait(m))
        return true;
    if (m->state != LOST || m->loss_woke)
        return false;
    m->loss_woke = true;
    return true;
}

static int memif_wait(struct port *port, uint64_t deadline_ns)
{
    struct memif *m = (struct memif *)port;
    const uint64_t sleeps = port->stats.sleeps;
    uint64_t now = port_now_ns();
    int rc = 0;
    if (!memif_begin(port, now) && deadline_ns > now) {
        const bool spins = m->state == UP;
        rc = spins ? rhythm_wait(&m->rhythm, &rhythm_ops, m, &now, deadline_ns)
                   : sleep_until(m, now, deadline_ns);
        if (!spins || port->stats.sleeps != sleeps)
            housekeeping(m, now = port_now_ns());
    }
    m->stash_ns = now;
    return rc;
}

static bool memif_look(struct port *port)
{
    return packets_wait((struct memif *)port);
}

static bool memif_may_spin(struct port *port)
{
    struct memif *m = (struct memif *)port;
    return m->state != UP || may_spin(m);
}

static const struct rhythm *memif_rhythm(struct port *port)
{
    return &((struct memif *)port)->rhythm;
}

static unsigned memif_doze(struct port *port, struct pollfd *fds, uint64_t now, uint64_t *until)
{
    struct memif *m = (struct memif *)port;
    if (m->state == UP)
        bell_before_sleep(&m->bell);
    return pollfds(m, fds, now, until);
}

static void memif_woken(struct port *port, const struct pollfd *fds, unsigned n)
{
    struct memif *m = (struct memif *)port;
    stirred(m, fds, n);
    if (m->state == UP)
        bell_after_sleep(&m->bell);
    housekeeping(m, port_now_ns());
}

static const struct port_waiter memif_waiter = {memif_begin,  memif_look, memif_may_spin,
                                                memif_rhythm, memif_doze, memif_woken};

static int memif_alive(struct port *port)
{
    struct memif *m = (struct memif *)port;
    /* Where port_wait looked just now another look at the clock would tell nothing. What is lost is
     * said first, however late, then forgotten. */
    if ((m->state != UP || !m->kept) && (m->state != LOST || m->loss_told))
        housekeeping(m, port_now_ns());
    m->kept = false;
    if (m->state == LOST)
        m->loss_told = true;
    return m->state == UP ? 1 : m->state == LOST ? -EPIPE : 0;
}

static void memif_close(struct port *port)
{
    struct memif *m = (struct memif *)port;
    while (m->stash_at < m->n_stash)
        pkt_unref(m->stash[m->stash_at++]);
    if (m->state != ALONE)
        part(m, 0);
    if (m->have_dev)
        dev_close(m);
    if (m->listen_fd >= 0)
        rdv_unlisten(&m->name, m->listen_fd);
    mbuf_pool_close(port->pool);
    free(m);
}

static const struct port_ops memif_ops = {memif_rx, memif_tx, memif_wait, memif_alive, memif_close};

/* A client's first look: a name it may not use is an error now, an absent server is not. */
static int probe_server(struct memif *m, const char *text, char *err)
{
    pid_t pid;
    int fd = rdv_connect(&m->name, &pid);
    if (fd == -EACCES || fd == -EPERM) {
        snprintf(err, PORT_ERR, "memif:%s: it belongs to another user: run both sides as one user",
                 text);
        return -EACCES;
    }
    if (fd >= 0) {
        m->peer_fd = fd;
        m->intr.only_pid = pid;
        m->state = JOINING;
        m->next_ns = port_now_ns() + JOIN_NS;
    }
    return 0;
}

int memif_open(const char *text, enum port_role role, struct port **out, char *err)
{
    struct memif *m = calloc(1, sizeof(*m));
    if (!m) {
        snprintf(err, PORT_ERR, "memif:%s: out of memory", text);
        return -ENOMEM;
    }
    m->port.ops = &memif_ops;
    m->port.waiter = &memif_waiter;
    m->port.caps = (struct port_caps){
        .name = "memif",
        .mtu_bytes = MTU,
        .burst = BEST_BURST,
        .tells_loss = true,
        .unqueued = true,
        .same_host = true,
        .driver_copies = true, /* zero-copy=no */
    };
    m->role = role;
    m->listen_fd = m->peer_fd = -1;
    intr_init(&m->intr);

    uint64_t rss = 0;
    int rc = rdv_parse(text, &m->name, err);
    if (rc == 0 && role == PORT_SERVER)
        rc = rdv_listen(&m->name, &m->listen_fd, err);
    if (rc == 0)
        rc = eal_start(NULL, err);
    if (rc == 0) {
        rss = eal_rss_now();
        rc = mbuf_pool_open(POOL_PACKETS, ROOM, MBUF_OF_EAL, &m->port.pool);
        if (rc < 0)
            snprintf(err, PORT_ERR, "memif:%s: no memory for %u packets", text, POOL_PACKETS);
    }
    if (rc == 0 && role == PORT_SERVER) {
        rc = invent_ring_name(m) < 0 || dev_open(m) < 0 ? -EIO : 0;
        if (rc < 0)
            snprintf(err, PORT_ERR, "memif:%s: the driver failed: %.100s", text, eal_last_words());
    }
    if (rc == 0 && role == PORT_CLIENT)
        rc = probe_server(m, text, err);
    if (rc < 0) {
        if (m->listen_fd >= 0)
            rdv_unlisten(&m->name, m->listen_fd);
        mbuf_pool_close(m->port.pool);
        free(m);
        return rc;
    }
    eal_rss_account(rss);
    snprintf(m->port.caps.how, sizeof(m->port.caps.how),
             "memif:%.90s by shared memory, a ring of %u buffers of %u bytes each way, to and from "
             "which the driver copies (no zero-copy)",
             text, 1u << RING_LOG2, RING_BUFFER_BYTES);
    *out = &m->port;
    return 0;
}
