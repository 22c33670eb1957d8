/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/udp.h"
#include "dataplane/port/wait_any.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_PACKETS 8191u
#define POOL_LEAST   128u /* with which a pipeline works */
#define MALLOC_BYTES 16u
#define BURST        32
#define GROUPS       BURST
#define SEEN_MAX     8 /* datagrams looked at, for each packet asked for */

/* --- addresses in the outer headers ------------------------------------------------------------
 */

/* A link-local address is one of its interface's. Which, stands where such an address has zeros
 * (fe80::/64, RFC 4291, 2.5.6). */
#define SCOPE_AT 4

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static void address_of(const struct sockaddr_in6 *sa, uint8_t a[16], uint16_t *port)
{
    if (sa->sin6_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)sa;
        memcpy(a, v4_mapped, 12);
        memcpy(a + 12, &v4->sin_addr, 4);
        *port = ntohs(v4->sin_port);
    } else {
        memcpy(a, &sa->sin6_addr, 16);
        *port = ntohs(sa->sin6_port);
        if (IN6_IS_ADDR_LINKLOCAL(&sa->sin6_addr))
            memcpy(a + SCOPE_AT, &sa->sin6_scope_id, sizeof(sa->sin6_scope_id));
    }
}

static uint32_t last_four(const uint8_t a[16])
{
    return (uint32_t)a[12] << 24 | (uint32_t)a[13] << 16 | (uint32_t)a[14] << 8 | a[15];
}

/* As the link is to write it: the way to the peer. */
static void path_to(const struct udp *u, const struct sockaddr_in6 *peer, struct wire_path *path)
{
    uint8_t a[16];
    *path = (struct wire_path){.src_port = u->local_port};
    address_of(peer, a, &path->dst_port);
    memcpy(path->dst_mac, a, 6);
    memcpy(path->src_mac, a + 6, 6);
    path->dst_ip = last_four(a);
}

/* As it stands in a frame that came: the way from the peer. */
static void path_from(const struct udp *u, const struct sockaddr_in6 *peer, struct wire_path *path)
{
    uint8_t a[16];
    *path = (struct wire_path){.dst_port = u->local_port};
    address_of(peer, a, &path->src_port);
    memcpy(path->src_mac, a, 6);
    memcpy(path->dst_mac, a + 6, 6);
    path->src_ip = last_four(a);
}

/* Where a frame is to go; false: nowhere that this socket reaches. */
static bool destination(const struct udp *u, const struct pkt *p, struct udp_group *g)
{
    struct wire_path back;
    uint8_t a[16];

    outer_way_back(p->data, &back); /* its source is the frame's destination */
    memcpy(a, back.src_mac, 6);
    memcpy(a + 6, back.dst_mac, 6);
    for (int i = 0; i < 4; i++)
        a[12 + i] = (uint8_t)(back.src_ip >> (24 - 8 * i));
    if (!back.src_port)
        return false;
    if (u->family == AF_INET) {
        struct sockaddr_in *v4 = (void *)&g->to;
        if (memcmp(a, v4_mapped, 12) != 0)
            return false;
        *v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(back.src_port)};
        memcpy(&v4->sin_addr, a + 12, 4);
        g->to_len = sizeof(*v4);
        return true;
    }
    g->to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(back.src_port)};
    memcpy(&g->to.sin6_addr, a, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&g->to.sin6_addr)) {
        memcpy(&g->to.sin6_scope_id, a + SCOPE_AT, sizeof(g->to.sin6_scope_id));
        memset(g->to.sin6_addr.s6_addr + SCOPE_AT, 0, sizeof(g->to.sin6_scope_id));
    }
    g->to_len = sizeof(g->to);
    return true;
}

/* --- messages, for the engines -----------------------------------------------------------------
 */

void udp_message(struct udp_message *m, const struct udp_group *g)
{
    m->to = g->to;
    m->msg = (struct msghdr){
        .msg_name = &m->to, .msg_namelen = g->to_len, .msg_iov = m->iov, .msg_iovlen = g->n};
    for (unsigned i = 0; i < g->n; i++)
        m->iov[i] = (struct iovec){.iov_base = g->pkts[i]->data + OUTER_BYTES,
                                   .iov_len = g->pkts[i]->len - OUTER_BYTES};
    if (g->n == 1)
        return;
    m->msg.msg_control = m->control;
    m->msg.msg_controllen = sizeof(m->control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m->msg);
    c->cmsg_level = SOL_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    memcpy(CMSG_DATA(c), &g->segment_bytes, sizeof(uint16_t));
}

size_t udp_joined_bytes(struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        int size;
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO &&
            c->cmsg_len >= CMSG_LEN(sizeof(size))) {
            memcpy(&size, CMSG_DATA(c), sizeof(size));
            return size > 0 ? (size_t)size : 0;
        }
    }
    return 0;
}

/* --- the port ----------------------------------------------------------------------------------
 */

/* One datagram into a packet of its own, behind outer headers that say where it came from. */
static struct pkt *packet(struct udp *u, const uint8_t *bytes, size_t n)
{
    struct pkt *p = pkt_alloc(u->port.pool);
    struct wire_path path;

    if (!p)
        return NULL;
    path_from(u, &u->current.from, &path);
    memcpy(p->data + OUTER_BYTES, bytes, n);
    outer_write(p->data, &path, (uint16_t)(8 + n));
    p->len = (uint32_t)(OUTER_BYTES + n);
    u->port.stats.rx_packets++;
    u->port.stats.rx_bytes += p->len;
    u->port.stats.copied_bytes += n;
    return p;
}

static bool next_received(struct udp *u)
{
    if (u->have_current)
        return true;
    u->have_current = u->engine->fetch(u, &u->current);
    u->at = 0;
    return u->have_current;
}

static int udp_rx(struct port *port, struct pkt **pkts, int n)
{
    struct udp *u = (struct udp *)port;
    int got = 0;
    /* What makes no packet counts, too: a flood of it must not keep the caller here. */
    for (int seen = 0; got < n && seen < SEEN_MAX * n && next_received(u); seen++) {
        const struct udp_received *r = &u->current;
        size_t left = r->n - u->at;
        size_t bytes = r->segment_bytes && r->segment_bytes < left ? r->segment_bytes : left;
        if (bytes > 0 && bytes <= port->pool->room - OUTER_BYTES) {
            struct pkt *p = packet(u, r->bytes + u->at, bytes);
            if (!p)
                break; /* the rest waits until packets are given back */
            pkts[got++] = p;
        } else {
            port->stats.foreign++;
        }
        u->at += bytes;
        if (u->at >= r->n) {
            u->engine->recycle(u, r);
            u->have_current = false;
        }
    }
    if (got > 0 && u->rhythm.sent_ns)
        rhythm_received(&u->rhythm, port_now_ns());
    return got;
}

static bool joins(const struct udp *u, const struct udp_group *g, const struct udp_group *one,
                  size_t bytes, size_t total)
{
    return u->segments && g->n < UDP_GROUP_MAX && total + bytes <= UDP_GROUP_BYTES &&
           bytes <= g->segment_bytes && g->to_len == one->to_len &&
           memcmp(&g->to, &one->to, one->to_len) == 0 &&
           g->pkts[g->n - 1]->len - OUTER_BYTES == g->segment_bytes; /* the last was not shorter */
}

/* Group pkts; *used: how many of them that took. What can't be sent is left out: taken and lost, as
 * a wire would. */
static int group(struct udp *u, struct pkt **pkts, int n, struct udp_group *groups, int *used)
{
    int k = 0, i = 0;
    size_t total = 0;
    bool gap = true; /* the packet before this one is in no group */
    for (; i < n; i++) {
        struct udp_group one = {.pkts = pkts + i, .n = 1};
        size_t bytes = pkts[i]->len > OUTER_BYTES ? pkts[i]->len - OUTER_BYTES : 0;
        if (!bytes || pkts[i]->len > u->port.caps.mtu_bytes + OUTER_ETHERNET_BYTES ||
            !destination(u, pkts[i], &one)) {
            gap = true;
            continue;
        }
        if (!gap && joins(u, &groups[k - 1], &one, bytes, total)) {
            groups[k - 1].n++;
            total += bytes;
            continue;
        }
        if (k == GROUPS)
            break;
        one.segment_bytes = (uint16_t)bytes;
        groups[k++] = one;
        total = bytes;
        gap = false;
    }
    *used = i;
    return k;
}

static int udp_tx(struct port *port, struct pkt **pkts, int n)
{
    struct udp *u = (struct udp *)port;
    struct udp_group groups[GROUPS];
    int done = 0;
    while (done < n) {
        int used, k = group(u, pkts + done, n - done, groups, &used);
        int sent = k ? u->engine->send(u, groups, k) : 0;
        for (int i = 0; i < sent; i++)
            for (unsigned j = 0; j < groups[i].n; j++) {
                port->stats.tx_packets++;
                port->stats.tx_bytes += groups[i].pkts[j]->len;
            }
        if (sent < k) {
            done = (int)(groups[sent].pkts - pkts);
            break;
        }
        done += used;
    }
    if (done > 0)
        rhythm_sent(&u->rhythm, port_now_ns());
    port->stats.tx_refused += (uint64_t)(n - done);
    return done;
}

static bool look(void *arg)
{
    return next_received(arg);
}

static int nap(void *arg, uint64_t now, uint64_t until)
{
    struct udp *u = arg;
    if (next_received(u))
        return 0;
    u->port.stats.sleeps++;
    int rc = u->engine->sleep(u, now, until);
    if (rc == 0 && next_received(u))
        u->port.stats.wakeups++;
    return rc;
}

static const struct rhythm_ops rhythm_ops = {look, NULL, nap};

static int udp_wait(struct port *port, uint64_t deadline_ns)
{
    struct udp *u = (struct udp *)port;
    uint64_t now = port_now_ns();
    if (deadline_ns <= now || next_received(u) || u->lost)
        return 0;
    return rhythm_wait(&u->rhythm, &rhythm_ops, u, &now, deadline_ns);
}

static bool udp_begin(struct port *port, uint64_t now)
{
    struct udp *u = (struct udp *)port;
    (void)now;
    return next_received(u) || u->lost;
}

static bool udp_look(struct port *port)
{
    return next_received((struct udp *)port);
}

static const struct rhythm *udp_rhythm(struct port *port)
{
    return &((struct udp *)port)->rhythm;
}

static unsigned udp_doze(struct port *port, struct pollfd *fds, uint64_t now, uint64_t *until)
{
    struct udp *u = (struct udp *)port;
    (void)now;
    (void)until;
    fds[0] = (struct pollfd){.fd = u->engine->pollable(u), .events = POLLIN};
    return 1;
}

static void udp_woken(struct port *port, const struct pollfd *fds, unsigned n)
{
    struct udp *u = (struct udp *)port;
    (void)n;
    port->stats.sleeps++;
    if (fds[0].revents & POLLERR && fds[0].fd == u->fd)
        udp_read_errors(u);
    if (fds[0].revents && next_received(u))
        port->stats.wakeups++;
}

static const struct port_waiter udp_waiter = {udp_begin,  udp_look, NULL,
                                              udp_rhythm, udp_doze, udp_woken};

static int udp_alive(struct port *port)
{
    struct udp *u = (struct udp *)port;
    bool lost = u->lost;
    u->lost = false;
    port->stats.peers_lost += lost;
    return lost ? -EPIPE : 1;
}

static void udp_close(struct port *port)
{
    struct udp *u = (struct udp *)port;
    udp_turn_ends(u);
    if (u->engine)
        u->engine->close(u);
    if (u->fd >= 0)
        close(u->fd);
    pkt_pool_heap_close(port->pool);
    free(u);
}

static const struct port_ops udp_ops = {udp_rx, udp_tx, udp_wait, udp_alive, udp_close};

static int open_engine(struct udp *u, enum uri_io io, char *err)
{
    char why[PORT_ERR] = "as asked for by io=syscalls";
    int rc = io == URI_IO_SYSCALLS ? -EOPNOTSUPP : udp_uring_open(u, why);
    if (rc < 0 && io == URI_IO_URING) {
        snprintf(err, PORT_ERR, "port udp:%.90s: no io_uring: %.100s", u->text, why);
        return rc;
    }
    const char *how = rc == 0 ? "io_uring" : "sendmmsg and recvmmsg";
    if (rc < 0) {
        rc = udp_mmsg_open(u);
        if (rc < 0) {
            snprintf(err, PORT_ERR, "port udp:%.90s: %s", u->text, strerror(-rc));
            return rc;
        }
    } else {
        why[0] = '\0';
    }
    snprintf(u->port.caps.how, sizeof(u->port.caps.how), "kernel UDP at %.60s by %s%s%.70s%s, %s",
             u->text, how, why[0] ? " (" : "", why, why[0] ? ")" : "",
             u->segments ? "UDP_SEGMENT and UDP_GRO" : "no UDP_SEGMENT");
    return 0;
}

static uint64_t packets_limit_bytes;

void port_packets_limit(uint64_t bytes)
{
    packets_limit_bytes = bytes;
}

static uint32_t pool_packets(uint32_t room)
{
    const uint64_t n = packets_limit_bytes / (room + sizeof(struct pkt) + MALLOC_BYTES);

    if (packets_limit_bytes == 0 || n > POOL_PACKETS)
        return POOL_PACKETS;
    return n < POOL_LEAST ? POOL_LEAST : (uint32_t)n;
}

int udp_open(const struct port_uri *uri, enum port_role role, struct port **out, char *err)
{
    struct udp *u = calloc(1, sizeof(*u));
    if (!u) {
        snprintf(err, PORT_ERR, "port udp: out of memory");
        return -ENOMEM;
    }
    u->port.ops = &udp_ops;
    u->port.waiter = &udp_waiter;
    u->port.caps = (struct port_caps){.name = "udp", .burst = BURST};
    u->fd = -1;
    int rc = udp_socket(u, uri, role, err);
    if (rc == 0) {
        const uint32_t room = u->port.caps.mtu_bytes + 100;
        u->port.pool = pkt_pool_heap(pool_packets(room), room);
        rc = u->port.pool ? open_engine(u, uri->io, err) : -ENOMEM;
        if (!u->port.pool)
            snprintf(err, PORT_ERR, "port udp:%.90s: out of memory", u->text);
    }
    if (rc < 0) {
        udp_close(&u->port);
        return rc;
    }
    if (role == PORT_CLIENT) {
        path_to(u, &u->server, &u->path);
    } else {
        u->path = (struct wire_path){.src_port = u->local_port};
    }
    u->port.path = &u->path;
    *out = &u->port;
    return 0;
}
