/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of a udp port: addresses, options, what errors mean. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <netdb.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/port/lookup.h"
#include "dataplane/port/netif.h"
#include "dataplane/port/udp.h"

#define SOCKET_BUFFER_BYTES (4 << 20)
#define MTU_DEFAULT         1500u
#define MTU_SURE            1280u /* IPv6 asks that of all links, and those of today have it */
#define IPV6_EXTRA_BYTES    20u /* its header is that much longer than IPv4's */
#define NAMES_MAX           16u
#define IN_USE_WAIT_NS      1000000000u
#define IN_USE_RETRY_NS     20000000

void udp_address_text(const struct sockaddr_in6 *a, char *to, size_t room)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->sin6_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(to, room, "%s:%u", host, ntohs(v4->sin_port));
    } else {
        inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof(host));
        snprintf(to, room, "[%s]:%u", host, ntohs(a->sin6_port));
    }
}

static bool is_loopback(const struct sockaddr_in6 *a)
{
    if (a->sin6_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    if (IN6_IS_ADDR_V4MAPPED(&a->sin6_addr))
        return a->sin6_addr.s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->sin6_addr);
}

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

static void set_options(struct udp *u)
{
    const int big = SOCKET_BUFFER_BYTES, zero = 0;
    /* Beyond the system's limit only with CAP_NET_ADMIN. */
    if (setsockopt(u->fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big)) < 0)
        set_option(u->fd, SOL_SOCKET, SO_RCVBUF, big);
    if (setsockopt(u->fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big)) < 0)
        set_option(u->fd, SOL_SOCKET, SO_SNDBUF, big);
    /* Never fragmented, and what routers say of the path is not believed: the link asks the path. */
    set_option(u->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    if (u->family == AF_INET6)
        set_option(u->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    set_option(u->fd, IPPROTO_IP, IP_RECVERR, 1);
    if (u->family == AF_INET6)
        set_option(u->fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    /* A size of 0 changes nothing: it only asks whether the kernel knows the option. */
    u->segments = setsockopt(u->fd, SOL_UDP, UDP_SEGMENT, &zero, sizeof(zero)) == 0;
    if (u->segments)
        set_option(u->fd, SOL_UDP, UDP_GRO, 1);
}

/* The MTU of the interface by which packets go there; 0: not known. The kernel's own idea of the
 * path (IP_MTU) has what routers said, which anybody may have forged. */
static uint32_t mtu_towards(const struct sockaddr *sa, socklen_t len)
{
    int fd = socket(sa->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage from;
    socklen_t n = sizeof(from);
    uint32_t mtu = 0;
    if (fd < 0)
        return 0;
    if (connect(fd, sa, len) == 0 && getsockname(fd, (struct sockaddr *)&from, &n) == 0)
        mtu = netif_mtu_of((const struct sockaddr *)&from);
    close(fd);
    return mtu;
}

static void choose_mtu(struct udp *u, const struct port_uri *uri, const struct addrinfo *found,
                       const struct addrinfo *ai)
{
    uint32_t mtu = uri->mtu_bytes ? uri->mtu_bytes : MTU_DEFAULT;
    uint32_t way = uri->name[0] ? mtu_towards(ai->ai_addr, ai->ai_addrlen) : 0;
    if (way && way < mtu)
        mtu = way;
    /* Alike for all of a name's addresses: an edge keeps the length of its packets when it goes
     * from one to the other. */
    bool six = u->family == AF_INET6;
    for (const struct addrinfo *a = found; a && u->client; a = a->ai_next)
        six |= a->ai_family == AF_INET6;
    u->port.caps.mtu_bytes = six ? mtu - IPV6_EXTRA_BYTES : mtu;
    if (!u->port.caps.same_host && mtu > MTU_SURE)
        u->port.caps.mtu_sure_bytes = six ? MTU_SURE - IPV6_EXTRA_BYTES : MTU_SURE;
}

static int bind_to(struct udp *u, const struct addrinfo *ai, enum port_role role, bool any)
{
    int rc;
    u->fd = socket(ai->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (u->fd < 0)
        return -errno;
    u->family = ai->ai_family;
    if (u->family == AF_INET6)
        set_option(u->fd, IPPROTO_IPV6, IPV6_V6ONLY, !any);
    if (role == PORT_SERVER) {
        rc = bind(u->fd, ai->ai_addr, ai->ai_addrlen);
    } else {
        struct sockaddr_in6 from = {.sin6_family = (sa_family_t)ai->ai_family}; /* any, port 0 */
        rc = bind(u->fd, (struct sockaddr *)&from, ai->ai_addrlen);
    }
    return rc < 0 ? -errno : 0;
}

static int try_address(struct udp *u, const struct port_uri *uri, const struct addrinfo *found,
                       const struct addrinfo *ai, enum port_role role)
{
    struct sockaddr_in6 own;
    socklen_t len = sizeof(own);
    int rc = bind_to(u, ai, role, !uri->name[0]);
    if (rc < 0 || getsockname(u->fd, (struct sockaddr *)&own, &len) < 0) {
        rc = rc < 0 ? rc : -errno;
        if (u->fd >= 0)
            close(u->fd);
        u->fd = -1;
        return rc;
    }
    u->client = role == PORT_CLIENT;
    u->local_port = ntohs(own.sin6_port); /* at the same place in a sockaddr_in */
    memset(&u->server, 0, sizeof(u->server));
    memcpy(&u->server, ai->ai_addr, ai->ai_addrlen);
    u->port.caps.same_host = is_loopback(&u->server);
    udp_address_text(&u->server, u->text, sizeof(u->text));
    set_options(u);
    choose_mtu(u, uri, found, ai);
    return 0;
}

/*
 * A client can't tell which of a name's addresses its cloud answers at: it can send to any. So
 * after one that nothing was heard from comes the next, each time the port is opened.
 */
static unsigned turn_of(const char *name, bool next)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        char name[URI_NAME_MAX];
        unsigned turn;
    } names[NAMES_MAX];
    static unsigned n_names;
    unsigned i = 0, turn;

    pthread_mutex_lock(&lock);
    while (i < n_names && i < NAMES_MAX && strcmp(names[i].name, name) != 0)
        i++;
    if (i == n_names || i == NAMES_MAX) { /* more than that: the oldest is forgotten */
        i = n_names++ % NAMES_MAX;
        snprintf(names[i].name, sizeof(names[i].name), "%s", name);
        names[i].turn = 0;
    }
    names[i].turn += next;
    turn = names[i].turn;
    pthread_mutex_unlock(&lock);
    return turn;
}

void udp_turn_ends(const struct udp *u)
{
    if (u->client && !u->port.stats.rx_packets)
        turn_of(u->name, true);
}

static int open_client(struct udp *u, const struct port_uri *uri, const struct addrinfo *found)
{
    unsigned n = 0, first;
    int rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *ai = found; ai; ai = ai->ai_next)
        n++;
    snprintf(u->name, sizeof(u->name), "%s", uri->name);
    u->port.caps.addresses = n;
    first = turn_of(uri->name, false);
    for (unsigned i = 0; i < n && rc < 0; i++) {
        const struct addrinfo *ai = found;
        for (unsigned k = (first + i) % n; k > 0; k--)
            ai = ai->ai_next;
        rc = try_address(u, uri, found, ai, PORT_CLIENT);
    }
    snprintf(u->port.caps.peer, sizeof(u->port.caps.peer), "%.63s", u->text);
    return rc;
}

static int try_server(struct udp *u, const struct port_uri *uri, const struct addrinfo *found)
{
    int rc = -EADDRNOTAVAIL;
    /* To listen anywhere, IPv6 first: such a socket takes IPv4, too. */
    for (int pass = 0; pass < 2 && rc < 0 && rc != -EADDRINUSE; pass++)
        for (const struct addrinfo *ai = found; ai && rc < 0; ai = ai->ai_next)
            if (uri->name[0] ? pass == 0 : (ai->ai_family == AF_INET6) == (pass == 0))
                rc = try_address(u, uri, found, ai, PORT_SERVER);
    return rc;
}

/* The kernel takes down the io_uring of a killed process after the process is gone, and with it the
 * socket: who is started again at once finds its own address in use for a moment. */
static int open_server(struct udp *u, const struct port_uri *uri, const struct addrinfo *found)
{
    const uint64_t until_ns = port_now_ns() + IN_USE_WAIT_NS;
    int rc = try_server(u, uri, found);

    if (rc == -EADDRINUSE)
        port_tell("port udp:%.80s:%u is in use: waiting a second for it to be let go",
                  uri->name[0] ? uri->name : "*", uri->port);
    while (rc == -EADDRINUSE && port_now_ns() < until_ns) {
        nanosleep(&(struct timespec){.tv_nsec = IN_USE_RETRY_NS}, NULL);
        rc = try_server(u, uri, found);
    }
    return rc;
}

static const char *mend(int error)
{
    switch (-error) {
    case EADDRINUSE:
        return ": another program listens there: choose another port";
    case EADDRNOTAVAIL:
        return ": this host has no such address: *:PORT listens at all it has";
    case EACCES:
        return ": ports below 1024 are for root: choose a higher one";
    case ENETUNREACH:
        return ": there is no route to it";
    default:
        return "";
    }
}

static int look_here(const struct port_uri *uri, struct addrinfo **found)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_DGRAM,
                                   .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    char service[8];

    snprintf(service, sizeof(service), "%u", uri->port);
    return getaddrinfo(uri->name[0] ? uri->name : NULL, service, &hints, found);
}

int udp_socket(struct udp *u, const struct port_uri *uri, enum port_role role, char *err)
{
    struct addrinfo *found = NULL;
    if (!uri->name[0] && role == PORT_CLIENT) {
        snprintf(err, PORT_ERR, "port udp:*:%u: the edge needs the cloud's host: udp:HOST:PORT",
                 uri->port);
        return -EINVAL;
    }
    int rc = role == PORT_CLIENT ? lookup_take(uri, &found) : look_here(uri, &found);
    if (rc) {
        snprintf(err, PORT_ERR, "port udp: host '%.80s' is not known: %s", uri->name,
                 rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
        return rc == EAI_NONAME || rc == EAI_FAMILY ? -EINVAL : -EIO;
    }
    rc = role == PORT_CLIENT ? open_client(u, uri, found) : open_server(u, uri, found);
    freeaddrinfo(found);
    if (rc < 0)
        snprintf(err, PORT_ERR, "port udp:%.80s:%u: %s%s", uri->name[0] ? uri->name : "*",
                 uri->port, strerror(-rc), mend(rc));
    return rc;
}

/* Longer than the interface's MTU: the link finds out. The kernel calls it EINVAL where packets were
 * to be cut, too. */
static bool is_too_long(const struct udp *u, int error, const struct msghdr *msg)
{
    const uint32_t sure = u->port.caps.mtu_sure_bytes;

    return error == EMSGSIZE ||
           (error == EINVAL && sure &&
            msg->msg_iov[0].iov_len + OUTER_BYTES > sure + OUTER_ETHERNET_BYTES);
}

void udp_send_failed(struct udp *u, int error, const struct msghdr *msg)
{
    const bool segmented = msg->msg_controllen > 0;

    u->port.stats.tx_failed++;
    if ((error == EIO || error == EINVAL) && segmented && u->segments &&
        !is_too_long(u, error, msg)) {
        u->segments = false;
        port_tell("port udp: this interface cannot send by UDP_SEGMENT: packets go one by one");
    }
    udp_read_errors(u);
}

static bool same_address(const struct sockaddr_in6 *a, const struct sockaddr_in6 *b)
{
    size_t n = a->sin6_family == AF_INET ? offsetof(struct sockaddr_in, sin_zero)
                                         : offsetof(struct sockaddr_in6, sin6_scope_id);
    return a->sin6_family == b->sin6_family && a->sin6_port == b->sin6_port &&
           memcmp((const char *)a + 4, (const char *)b + 4, n - 4) == 0;
}

void udp_read_errors(struct udp *u)
{
    char control[512];
    struct sockaddr_in6 to;
    for (int i = 0; i < 64; i++) {
        struct msghdr msg = {.msg_name = &to,
                             .msg_namelen = sizeof(to),
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
        memset(&to, 0, sizeof(to));
        if (recvmsg(u->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            struct sock_extended_err e;
            bool ip = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
            bool ip6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
            if ((!ip && !ip6) || c->cmsg_len < CMSG_LEN(sizeof(e)))
                continue;
            memcpy(&e, CMSG_DATA(c), sizeof(e));
            /* A client's alone, and only of the address it was opened for: a server answers
             * whoever knocks, and who then goes away must end nobody's connection. Of one that
             * was heard, so that a cloud not yet started is no loss; and on this host only:
             * elsewhere anyone can say so, and a NAT does when it forgets. */
            if (e.ee_errno == ECONNREFUSED && u->client && u->port.stats.rx_packets &&
                u->port.caps.same_host && same_address(&to, &u->server))
                u->lost = true;
        }
    }
}
